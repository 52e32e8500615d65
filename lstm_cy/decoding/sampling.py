"""Draw tokens from the scores of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import float_array, generator, number, positive_int

if TYPE_CHECKING:
    from ..typing import Array, ArrayLike, Ints, Seed


def sample(
    logits: ArrayLike,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: Seed = None,
) -> Any:
    """Draw a token from the distribution softmax(logits / temperature).

    Parameters
    ----------
    logits : array_like, shape (..., n)
        Scores; their last axis is the vocabulary. An entry of -inf is never drawn. Not changed.
    temperature : float
        At least 0. Below 1 likely tokens become likelier; 0 selects the likeliest, the first of equal ones.
    top_k : int, optional
        Draw from the `top_k` likeliest tokens only.
    top_p : float, optional
        In (0, 1]. Draw only from the fewest likeliest tokens whose probabilities add up to `top_p` (A. Holtzman et al.,
        The Curious Case of Neural Text Degeneration, 2020). With both options, `top_p` applies after `top_k`.
    rng : numpy.random.Generator, int or None
        A generator, the seed of one, or None for a new one.

    Returns
    -------
    int, or ndarray of intp, shape (...)
        An int for logits with one axis.

    Raises
    ------
    TypeError
        The logits or another argument are not real numbers.
    ValueError
        The logits contain NaN or infinity, there is no token to draw, the temperature is negative or not finite, or
        top_k or top_p is out of range.

    Examples
    --------
    >>> sample([0.0, 3.0, 1.0], temperature=0)
    1
    >>> sample([[0.0, -np.inf], [-np.inf, 0.0]], rng=1)
    array([0, 1])
    >>> sample([[0.0, 3.0, 2.9]] * 5, top_k=2, rng=0)  # never 0
    array([1, 2, 2, 2, 1])
    """
    logits = float_array("logits", logits, np.float64)
    temperature, top_k, top_p = sampling_options(temperature, top_k, top_p)
    rng = generator("rng", rng)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected shape (..., n) with n of at least 1, got {logits.shape}")
    highest = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(highest).all():
        raise ValueError("logits: expected numbers or -inf with a finite largest one, got NaN or infinity")
    if temperature:
        with np.errstate(over="ignore"):  # a tiny temperature correctly gives -inf for all but the highest
            weights = np.exp((logits - highest) / temperature)
        tokens = _draw(_likeliest(weights, top_k, top_p), rng)
    else:
        tokens = logits.argmax(axis=-1)
    return int(tokens) if logits.ndim == 1 else tokens


def sampling_options(
    temperature: float, top_k: int | None, top_p: float | None
) -> tuple[float, int | None, float | None]:
    """Return these arguments of `sample`, checked."""
    return (
        number("temperature", temperature, 0, open_high=True),
        None if top_k is None else positive_int("top_k", top_k),
        None if top_p is None else number("top_p", top_p, 0, 1, open_low=True),
    )


def _likeliest(weights: Array, top_k: int | None, top_p: float | None) -> Array:
    """Set the `weights` that `top_k` and `top_p` leave out to zero, and return them; of equal ones the first stay."""
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


def _draw(weights: Array, rng: np.random.Generator) -> Ints:
    """Draw tokens with probabilities proportional to their weights."""
    cumulative = weights.cumsum(axis=-1)
    # In (0, total]: even after rounding, an entry reaches the threshold, and the first that does has a weight above 0.
    threshold = cumulative[..., -1:] * (1 - rng.random((*weights.shape[:-1], 1)))
    result: Ints = (cumulative >= threshold).argmax(axis=-1)
    return result
