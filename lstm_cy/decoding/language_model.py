"""Continue a text with a language model, and measure how well it predicts one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import flag, generator, int_array, non_negative_int, positive_int
from ..layers.base import Layer
from ..progress import progress_bar
from ..training.losses import cross_entropy
from .sampling import sample, sampling_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..layers.sequential import Sequential
    from ..streaming.stepper import Stepper
    from ..text.vocabulary import Bytes, Vocabulary, Words
    from ..typing import Array, ArrayLike, Seed

#: the attributes of a vocabulary that `generate` uses
_VOCABULARY = ("missing", "encode", "pieces", "unknown", "__len__")


def generate(
    model: Sequential,
    vocabulary: Vocabulary | Words | Bytes,
    prompt: str = "",
    *,
    length: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: Seed = None,
) -> Iterator[str]:
    """Continue a text with a language model.

    Parameters
    ----------
    model : Sequential
        Tokens (T,) in, logits (T, n) out, such as Sequential(Embedding(n, d), LSTM(d, h), Linear(h, n)).
    vocabulary : Vocabulary, Words or Bytes
        With n tokens; the unknown symbol is never generated.
    prompt : str
        The text to continue, which passes through the model in one call. Empty: the beginning of a line.
    length : int
        The number of characters, words or bytes to generate.
    temperature, top_k, top_p :
        See `sample`.
    seed : int, numpy.random.Generator or None
        The same seed gives the same text; None gives a new text each time.

    Returns
    -------
    iterator of str
        The text after the prompt: each character or word as soon as it is drawn, bytes as soon as they form a character
        (for bytes that form none see `Bytes`). The state is carried from token to token. Arguments are checked and the
        prompt is read before the iterator is returned.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, the vocabulary does not cover the prompt, or the number of the model's logits differs from
        the vocabulary's number of tokens.

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
    size = _vocabulary_size(model)
    if not all(hasattr(vocabulary, name) for name in _VOCABULARY):
        raise TypeError(f"vocabulary: expected a Vocabulary, Words or Bytes, got {type(vocabulary).__name__}")
    if not isinstance(prompt, str):
        raise TypeError(f"prompt: expected a str, got {type(prompt).__name__}")
    length = non_negative_int("length", length)
    choice = dict(zip(("temperature", "top_k", "top_p"), sampling_options(temperature, top_k, top_p), strict=True))
    rng = generator("seed", seed)
    if missing := vocabulary.missing(prompt):
        raise ValueError(f"prompt: not in the model's vocabulary: {', '.join(map(repr, missing[:10]))}")
    if len(vocabulary) > size:
        raise ValueError(f"vocabulary: expected {size} tokens as in the model's embedding, got {len(vocabulary)}")
    logits, states = model(vocabulary.encode(prompt or "\n"))
    if logits.shape[-1] != len(vocabulary):
        raise ValueError(
            f"vocabulary: expected {logits.shape[-1]} tokens, one for each of the model's logits, got {len(vocabulary)}"
        )
    stepper = model.stepper()
    stepper.state = [(h[:, np.newaxis], c[:, np.newaxis]) for h, c in states]
    return vocabulary.pieces(_continue(stepper, vocabulary.unknown, logits[-1], length, choice | {"rng": rng}))


def _vocabulary_size(model: Sequential) -> int:
    """Return how many tokens a model reads; raise if its input is not tokens."""
    if not isinstance(model, Layer) or model.layers == (model,):
        raise TypeError(f"model: expected a Sequential, got {type(model).__name__}")
    if model.vocabulary_size is None:
        first = type(model.layers[0]).__name__
        raise TypeError(f"model: expected a Sequential with an Embedding as its first layer, got {first}")
    return model.vocabulary_size


def _continue(
    stepper: Stepper, unknown: int | None, logits: Array, length: int, choice: dict[str, Any]
) -> Iterator[int]:
    """Yield `length` tokens, each drawn from the logits after the one before it."""
    for _ in range(length):
        if unknown is not None:
            logits[unknown] = -np.inf
        token = sample(logits, **choice)
        yield token
        logits = stepper.step(token)


def negative_log_likelihood(
    model: Sequential, tokens: ArrayLike, *, chunk: int = 1024, progress: bool = False
) -> float:
    """Return the mean negative log-likelihood of the tokens of a text, in nats.

    This is the mean of -ln p(token | the tokens before it). Divided by ln 2 it is in bits; its exponential is the
    perplexity. The first token is only read. ``surprise`` is the old name of this function.

    Parameters
    ----------
    model : Sequential
        Tokens (T,) in, logits (T, n) out.
    tokens : array_like of int, shape (N,)
        The text, at least two tokens.
    chunk : int
        The number of tokens that pass through the model in one call. The state is carried from call to call: a long
        text needs no more memory than a short one, and the result is the same.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, or a token is not one of the model's.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
    >>> model = Sequential(Embedding(4, 3), LSTM(3, 5), Linear(5, 4))
    >>> model.load_state_dict({"2.weight": np.zeros((4, 5)), "2.bias": np.zeros(4)}, strict=False)
    >>> round(float(np.exp(negative_log_likelihood(model, [0, 1, 2, 3, 0]))), 4)  # four equally likely tokens
    4.0
    """
    _vocabulary_size(model)
    tokens, chunk = int_array("tokens", tokens), positive_int("chunk", chunk)
    progress = flag("progress", progress)
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


#: the old name of `negative_log_likelihood`
surprise = negative_log_likelihood
