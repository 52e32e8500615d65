"""From what a model says of the next token to tokens and text."""

import numpy as np

from .checks import generator, non_negative_int, number
from .layers import Sequential


def sample(logits, *, temperature=1.0, rng=None):
    """Draw a token from the distribution softmax(logits / temperature).

    Parameters
    ----------
    logits : array_like, shape (..., n)
        Scores; their last axis is the vocabulary. An entry of -inf is never drawn. Not changed.
    temperature : float
        At least 0. Below 1 likely tokens become likelier; 0 takes the likeliest, the first of equals.
    rng : numpy.random.Generator, int or None
        Where the chance comes from: a generator, the seed of one, or None for a fresh one.

    Returns
    -------
    int, or ndarray of intp, shape (...)
        An int for logits of one axis.

    Raises
    ------
    ValueError
        NaN or infinity among the logits, no token to draw, or a temperature that is negative or not finite.

    Examples
    --------
    >>> sample([0.0, 3.0, 1.0], temperature=0)
    1
    >>> sample([[0.0, -np.inf], [-np.inf, 0.0]], rng=1)
    array([0, 1])
    """
    logits = np.asarray(logits, dtype=np.float64)
    temperature = number("temperature", temperature, 0, open_high=True)
    rng = generator("rng", rng)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected shape (..., n) with n of at least 1, got {logits.shape}")
    highest = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(highest).all():
        raise ValueError("logits: expected numbers or -inf with a finite largest one, got NaN or infinity")
    tokens = _draw(logits - highest, temperature, rng) if temperature else logits.argmax(axis=-1)
    return int(tokens) if logits.ndim == 1 else tokens


def _draw(logits, temperature, rng):
    """Tokens from softmax(logits / temperature), where the highest logit is 0."""
    with np.errstate(over="ignore"):  # a tiny temperature makes -inf of all but the highest, as it should
        cumulative = np.exp(logits / temperature).cumsum(axis=-1)
    # In (0, total]: the first entry to reach it exists, whatever is rounded, and has a weight above 0.
    reached = cumulative[..., -1:] * (1 - rng.random((*logits.shape[:-1], 1)))
    return (cumulative >= reached).argmax(axis=-1)


def generate(model, vocabulary, prompt="", *, length=200, temperature=1.0, seed=None):
    """Let a character model go on with a text.

    Parameters
    ----------
    model : Sequential
        Tokens (T,) in, logits (T, n) out, as Sequential(Embedding(n, d), LSTM(d, h), Linear(h, n)).
    vocabulary : Vocabulary
        Of n tokens; the unknown symbol is never written.
    prompt : str
        The text to go on with, which passes through the model in one call. Empty: the beginning of a line.
    length : int
        How many characters to write.
    temperature : float
        See `sample`.
    seed : int, numpy.random.Generator or None
        The same seed gives the same text; None a new one each time.

    Returns
    -------
    iterator of str
        The characters that follow the prompt, each as soon as it is drawn; the state is carried from one to
        the next. Arguments are checked and the prompt is read before it is handed out.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, or the model's logits are not as many as the vocabulary's tokens.

    Examples
    --------
    >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
    >>> from lstm_cy.text import Vocabulary
    >>> vocabulary = Vocabulary("abc")
    >>> model = Sequential(Embedding(4, 3, seed=0), LSTM(3, 5, seed=0), Linear(5, 4, seed=0))
    >>> text = "".join(generate(model, vocabulary, "ab", length=10, seed=0))
    >>> len(text), set(text) <= set("abc")
    (10, True)
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential, got {type(model).__name__}")
    length = non_negative_int("length", length)
    temperature = number("temperature", temperature, 0, open_high=True)
    rng = generator("seed", seed)
    logits, states = model(vocabulary.encode(prompt or "\n"))
    if logits.shape[-1] != len(vocabulary):
        raise ValueError(
            f"vocabulary: expected {logits.shape[-1]} tokens as the model has logits, got {len(vocabulary)}"
        )
    stepper = model.stepper()
    stepper.state = [(h[:, np.newaxis], c[:, np.newaxis]) for h, c in states]
    return _continue(stepper, vocabulary, logits[-1], length, temperature, rng)


def _continue(stepper, vocabulary, logits, length, temperature, rng):
    for _ in range(length):
        logits[vocabulary.unknown] = -np.inf
        token = sample(logits, temperature=temperature, rng=rng)
        yield vocabulary.decode([token])
        logits = stepper.step(token)
