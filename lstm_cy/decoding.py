"""From what a model says of the next token to tokens and text."""

import numpy as np

from .checks import generator, int_array, non_negative_int, number, positive_int
from .layers import Sequential
from .losses import cross_entropy
from .training import progress_bar


def sample(logits, *, temperature=1.0, top_k=None, top_p=None, rng=None):
    """Draw a token from the distribution softmax(logits / temperature).

    Parameters
    ----------
    logits : array_like, shape (..., n)
        Scores; their last axis is the vocabulary. An entry of -inf is never drawn. Not changed.
    temperature : float
        At least 0. Below 1 likely tokens become likelier; 0 takes the likeliest, the first of equals.
    top_k : int, optional
        Draw from the `top_k` likeliest tokens only.
    top_p : float, optional
        Draw from the likeliest tokens only, as many as it takes to have `top_p` of the probability, in (0, 1], between
        them (A. Holtzman et al., The Curious Case of Neural Text Degeneration, 2020). Of the probability that `top_k`
        leaves, where both are given.
    rng : numpy.random.Generator, int or None
        Where the chance comes from: a generator, the seed of one, or None for a fresh one.

    Returns
    -------
    int, or ndarray of intp, shape (...)
        An int for logits of one axis.

    Raises
    ------
    ValueError
        NaN or infinity among the logits, no token to draw, a temperature that is negative or not finite, or a top_k or
        top_p out of range.

    Examples
    --------
    >>> sample([0.0, 3.0, 1.0], temperature=0)
    1
    >>> sample([[0.0, -np.inf], [-np.inf, 0.0]], rng=1)
    array([0, 1])
    >>> sample([[0.0, 3.0, 2.9]] * 5, top_k=2, rng=0)  # never 0
    array([1, 2, 2, 2, 1])
    """
    logits = np.asarray(logits, dtype=np.float64)
    temperature, top_k, top_p = _choice(temperature, top_k, top_p)
    rng = generator("rng", rng)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected shape (..., n) with n of at least 1, got {logits.shape}")
    highest = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(highest).all():
        raise ValueError("logits: expected numbers or -inf with a finite largest one, got NaN or infinity")
    if temperature:
        with np.errstate(over="ignore"):  # a tiny temperature makes -inf of all but the highest, as it should
            weights = np.exp((logits - highest) / temperature)
        tokens = _draw(_likeliest(weights, top_k, top_p), rng)
    else:
        tokens = logits.argmax(axis=-1)
    return int(tokens) if logits.ndim == 1 else tokens


def _choice(temperature, top_k, top_p):
    """These arguments, checked."""
    return (
        number("temperature", temperature, 0, open_high=True),
        None if top_k is None else positive_int("top_k", top_k),
        None if top_p is None else number("top_p", top_p, 0, 1, open_low=True),
    )


def _likeliest(weights, top_k, top_p):
    """`weights`, with zeros in the place of those that `top_k` and `top_p` leave out; of equal ones the first stay."""
    if top_k is None and top_p is None:
        return weights
    order = np.argsort(-weights, axis=-1, kind="stable")
    ranked = np.take_along_axis(weights, order, -1)
    if top_k is not None:
        ranked[..., top_k:] = 0
    if top_p is not None:
        cumulative = ranked.cumsum(axis=-1)
        ranked[..., 1:][cumulative[..., :-1] >= top_p * cumulative[..., -1:]] = 0
    np.put_along_axis(weights, order, ranked, -1)
    return weights


def _draw(weights, rng):
    """Tokens with probabilities as their weights are."""
    cumulative = weights.cumsum(axis=-1)
    # In (0, total]: the first entry to reach it exists, whatever is rounded, and has a weight above 0.
    reached = cumulative[..., -1:] * (1 - rng.random((*weights.shape[:-1], 1)))
    return (cumulative >= reached).argmax(axis=-1)


def generate(model, vocabulary, prompt="", *, length=200, temperature=1.0, top_k=None, top_p=None, seed=None):
    """Let a language model go on with a text.

    Parameters
    ----------
    model : Sequential
        Tokens (T,) in, logits (T, n) out, as Sequential(Embedding(n, d), LSTM(d, h), Linear(h, n)).
    vocabulary : Vocabulary, Words or Bytes
        Of n tokens; the unknown symbol is never written.
    prompt : str
        The text to go on with, which passes through the model in one call. Empty: the beginning of a line.
    length : int
        How many characters, words or bytes to write.
    temperature, top_k, top_p :
        See `sample`.
    seed : int, numpy.random.Generator or None
        The same seed gives the same text; None a new one each time.

    Returns
    -------
    iterator of str
        What follows the prompt, each character or word as soon as it is drawn, bytes as soon as they make a character
        (`Bytes` tells what becomes of those that make none); the state is carried from one to the next. Arguments are
        checked and the prompt is read before it is handed out.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, the vocabulary does not cover the prompt, or the model's logits are not as many as the
        vocabulary's tokens.

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
    choice = dict(zip(("temperature", "top_k", "top_p"), _choice(temperature, top_k, top_p), strict=True))
    rng = generator("seed", seed)
    if missing := vocabulary.missing(prompt):
        raise ValueError(f"prompt: not in the model's vocabulary: {', '.join(map(repr, missing[:10]))}")
    logits, states = model(vocabulary.encode(prompt or "\n"))
    if logits.shape[-1] != len(vocabulary):
        raise ValueError(
            f"vocabulary: expected {logits.shape[-1]} tokens as the model has logits, got {len(vocabulary)}"
        )
    stepper = model.stepper()
    stepper.state = [(h[:, np.newaxis], c[:, np.newaxis]) for h, c in states]
    return vocabulary.pieces(_continue(stepper, vocabulary.unknown, logits[-1], length, choice | {"rng": rng}))


def _continue(stepper, unknown, logits, length, choice):
    """`length` tokens, each drawn from what the last one brought about."""
    for _ in range(length):
        if unknown is not None:
            logits[unknown] = -np.inf
        token = sample(logits, **choice)
        yield token
        logits = stepper.step(token)


def surprise(model, tokens, *, chunk=1024, progress=False):
    """How much each token of a text surprises a model that has read all those before it, in the mean.

    This is the mean of -ln p(token | the tokens before it), in nats; divided by ln 2 it is in bits, and its exponential
    is the perplexity. The first token is only read.

    Parameters
    ----------
    model : Sequential
        Tokens (T,) in, logits (T, n) out.
    tokens : array_like of int, shape (N,)
        The text, at least two tokens.
    chunk : int
        So many tokens go through the model in one call, the state carried from call to call: a long text needs no more
        memory than a short one, and the result is the same.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, or a token is none of the model's.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
    >>> model = Sequential(Embedding(4, 3), LSTM(3, 5), Linear(5, 4))
    >>> model.load_state_dict({"2.weight": np.zeros((4, 5)), "2.bias": np.zeros(4)}, strict=False)
    >>> round(float(np.exp(surprise(model, [0, 1, 2, 3, 0]))), 4)  # four tokens, and it knows nothing
    4.0
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential, got {type(model).__name__}")
    tokens, chunk = int_array("tokens", tokens), positive_int("chunk", chunk)
    if tokens.ndim != 1 or len(tokens) < 2:
        raise ValueError(f"tokens: expected shape (N,) with N of at least 2, got {tokens.shape}")
    starts, states, total = range(0, len(tokens) - 1, chunk), None, 0.0
    with progress_bar("reading", len(starts), progress) as bar:
        for start in starts:
            following = tokens[start + 1 : start + 1 + chunk]
            logits, states = model(tokens[start : start + len(following)], states)
            total += cross_entropy(logits, following)[0] * len(following)
            bar.update()
    return total / (len(tokens) - 1)
