"""Attention: for each query the weights of the steps of a memory, and the weighted mean of the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import config
from .._kernels import products
from ..checks import check_lengths, dtype_of, expect_shape, flag, float_array, one_of, positive_int, shown
from .activations import softmax, softmax_backward, tanh
from .base import Layer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ..typing import Array, ArrayLike, Bools, DTypeLike, Parameters, Seed
    from .base import Tape

SCORES = ("general", "dot", "additive")


class AttentionGradients(NamedTuple):
    """The result of `Attention.backward`.

    Attributes
    ----------
    queries, memory : ndarray
        Gradients with respect to the inputs, in their shapes; the memory's is zero from a row's length on.
    parameters : dict
        One array for each parameter, under its name.
    """

    queries: Array
    memory: Array
    parameters: Parameters


class Attention(Layer):
    """Luong's and Bahdanau's attention over a padded memory.

    ::

        score(q, m) = q^T m                          "dot"
                      q^T W m                        "general"
                      v^T tanh(W_q q + W_m m)        "additive"
        weights[t]  = softmax over s of score(queries[t], memory[s])
        context[t]  = sum over s of weights[t, s] * memory[s]

    Parameters
    ----------
    query_size, memory_size : int
        Hq and Hm; equal for "dot".
    score : {"general", "dot", "additive"}
        The first two are of Luong, Pham and Manning, Effective approaches to attention-based neural machine
        translation, 2015; the third of Bahdanau, Cho and Bengio, Neural machine translation by jointly learning to
        align and translate, 2015 (Luong's "concat" is the same function).
    units : None or int
        A, the size of the tanh's argument in "additive"; None for memory_size. None for the other scores.
    batch_first : bool
        All arrays are (B, T, ...) rather than (T, B, ...).
    dtype : {"float32", "float64"}
    seed : None, int or numpy.random.Generator
        Seed or source of the initial parameters, U(-1/sqrt(n), 1/sqrt(n)), where n is the size of their last axis.

    Notes
    -----
    Parameters: ``weight`` (Hq, Hm) of "general"; ``weight_query`` (A, Hq), ``weight_memory`` (A, Hm) and ``vector``
    (A,) of "additive"; "dot" has none.

    Time and memory grow with T * S * B, for "additive" with A times that.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import Attention
    >>> attention = Attention(8, 6, seed=0)
    >>> rng = np.random.default_rng(0)
    >>> queries, memory = rng.standard_normal((5, 2, 8)), rng.standard_normal((7, 2, 6))
    >>> context, weights = attention(queries, memory, memory_lengths=[7, 3])
    >>> context.shape, weights.shape
    ((5, 2, 6), (5, 2, 7))
    >>> bool(weights[:, 1, 3:].any())  # the weight of padding is 0
    False
    """

    dtype: np.dtype[Any]
    in_chains = False

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        *,
        score: str = "general",
        units: int | None = None,
        batch_first: bool = False,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ) -> None:
        self.query_size = positive_int("query_size", query_size)
        self.memory_size = positive_int("memory_size", memory_size)
        self.score = one_of("score", score, SCORES)
        if score == "dot" and self.query_size != self.memory_size:
            raise ValueError(
                f"query_size, memory_size: expected equal ones with score='dot', got {query_size} and {memory_size}"
            )
        if score != "additive" and units is not None:
            raise ValueError(f"units: expected None with score={score!r}, got {shown(units)}")
        self.units = self.memory_size if units is None and score == "additive" else units
        if self.units is not None:
            self.units = positive_int("units", self.units)
        self.batch_first = flag("batch_first", batch_first)
        self.dtype = dtype_of(dtype)
        self.config = {
            "query_size": self.query_size,
            "memory_size": self.memory_size,
            "score": self.score,
            "units": self.units,
            "batch_first": self.batch_first,
            "dtype": self.dtype.name,
        }
        rng, shapes = self._generator(seed), self._shapes()
        self._initialize(
            shapes,
            lambda: {
                name: rng.uniform(-(shape[-1] ** -0.5), shape[-1] ** -0.5, shape).astype(self.dtype)
                for name, shape in shapes.items()
            },
        )

    @classmethod
    def least_size(cls, arguments: dict[str, Any]) -> int:
        """Return the least number of weights of a layer with these arguments, from a file, without making it."""

        def size(name: str) -> int:
            return positive_int(f"Attention: {name}", arguments.get(name))

        queries, memory = size("query_size"), size("memory_size")
        units = arguments.get("units") and size("units")
        sizes = {"general": queries * memory, "additive": (units or memory) * (queries + memory)}
        return sizes.get(arguments.get("score", "general"), 0)

    def __call__(
        self, queries: ArrayLike, memory: ArrayLike, *, memory_lengths: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        """Return the context and the weights of each query, for inference.

        Parameters
        ----------
        queries : array_like (T, B, Hq), (B, T, Hq) with batch_first, or (T, Hq)
            For example the outputs of a decoder.
        memory : array_like (S, B, Hm), (B, S, Hm) with batch_first, or (S, Hm)
            For example the outputs of an encoder.
        memory_lengths : None or array_like of int (B,), or an integer for one sequence
            Number of valid steps of each row of the memory, 0 to S. The other steps are not read and have weight zero;
            a row of length 0 has a context of zeros.

        Returns
        -------
        context : ndarray, in the layout of queries with Hm in place of Hq
        weights : ndarray (T, B, S), (B, T, S) with batch_first, or (T, S)
            Their sum over S is 1.

        Raises
        ------
        TypeError, ValueError
            An argument is wrong; the message names it.
        """
        return self.forward(queries, memory, memory_lengths=memory_lengths)[0]

    def forward(
        self, queries: ArrayLike, memory: ArrayLike, *, memory_lengths: ArrayLike | None = None, rng: Seed = None
    ) -> tuple[tuple[Array, Array], Tape]:
        """Return the context and the weights of each query, for training.

        Parameters
        ----------
        queries, memory, memory_lengths :
            As in a call.
        rng : None, int or numpy.random.Generator
            Not used.

        Returns
        -------
        (context, weights) :
            As from a call.
        tape :
            For `backward`, until the parameters change.
        """
        # Copies, because the caller may change its arrays before `backward`.
        queries = self._rows("queries", queries, "T", self.query_size).copy()
        memory = self._rows("memory", memory, "S", self.memory_size).copy()
        batched = queries.ndim == 3
        if memory.ndim != queries.ndim or (batched and memory.shape[self._axis] != queries.shape[self._axis]):
            raise ValueError(f"memory: expected as many rows as queries {queries.shape}, got {memory.shape}")
        if not batched:
            queries, memory = (np.expand_dims(array, self._axis) for array in (queries, memory))
        queries, memory = self._inner(queries), self._inner(memory)
        padding = self._padding(memory_lengths, memory, batched)
        if padding is not None:
            memory[padding] = 0
        parameters = self._parameters
        with _without_warnings():
            scores, kept = self._scores(parameters, queries, memory)
            weights = _masked_softmax(scores, padding)
            context = _product(weights, memory)
        tape = self._tape(queries, memory, padding, kept, weights, batched, made_with=parameters)
        return (self._outer(context, batched), self._outer(weights, batched)), tape

    def backward(
        self, tape: Tape, dcontext: ArrayLike | None = None, dweights: ArrayLike | None = None
    ) -> AttentionGradients:
        """Propagate gradients back through the forward pass that made `tape`.

        Parameters
        ----------
        tape :
            From `forward`.
        dcontext, dweights : array_like in the shapes of context and weights, or None
            Gradients of the loss; they may not both be None. `dweights` is not read from a row's length on.

        Returns
        -------
        AttentionGradients
            `queries`, `memory` and `parameters`.

        Raises
        ------
        RuntimeError
            The parameters have changed since the tape was made.
        TypeError, ValueError
            An argument is wrong; the message names it.
        """
        parameters = self._parameters
        queries, memory, padding, kept, weights, batched = self._content_of(tape, parameters)
        if dcontext is None and dweights is None:
            raise ValueError("dcontext, dweights: expected at least one of them, got None for both")
        shape = (*queries.shape[:2], self.memory_size)
        dcontext = self._gradient("dcontext", dcontext, shape, "the shape of context", batched)
        dweights = self._gradient("dweights", dweights, weights.shape, "the shape of weights", batched)
        with _without_warnings():
            dmemory = _product(weights.swapaxes(1, 2), dcontext)
            # through the context, too
            dtotal = dweights + _product(dcontext, memory.swapaxes(1, 2))
            if padding is not None:
                dtotal[np.broadcast_to(padding[:, np.newaxis], dtotal.shape)] = 0
            dscores = softmax_backward(dtotal, weights)
            dqueries, through_scores, gradients = self._scores_backward(parameters, queries, memory, kept, dscores)
            dmemory += through_scores
        if padding is not None:
            dmemory[padding] = 0
        return AttentionGradients(self._outer(dqueries, batched), self._outer(dmemory, batched), gradients)

    # The methods below take and return arrays (B, T, ...): each row is a matrix.

    def _scores(self, parameters: Parameters, queries: Array, memory: Array) -> tuple[Array, Array]:
        """Return score(q, m) for all pairs, (B, T, S), and an array that `_scores_backward` needs."""
        if self.score == "additive":
            from_queries = _product(queries, parameters["weight_query"].T)
            from_memory = _product(memory, parameters["weight_memory"].T)
            hidden = tanh(from_queries[:, :, np.newaxis] + from_memory[:, np.newaxis])
            flat = hidden.reshape(1, -1, hidden.shape[3])
            return _product(flat, parameters["vector"][:, np.newaxis]).reshape(hidden.shape[:3]), hidden
        projected = _product(queries, parameters["weight"]) if self.score == "general" else queries
        return _product(projected, memory.swapaxes(1, 2)), projected

    def _scores_backward(
        self, parameters: Parameters, queries: Array, memory: Array, kept: Array, dscores: Array
    ) -> tuple[Array, Array, Parameters]:
        """Return the gradients with respect to queries, memory and parameters."""
        if self.score == "additive":
            hidden = kept
            B, T, S, A = hidden.shape
            gradients = {"vector": _product(dscores.reshape(1, 1, -1), hidden.reshape(1, -1, A))[0, 0]}
            slope = hidden * hidden
            np.subtract(1, slope, out=slope)
            slope *= parameters["vector"]
            dqueries = _product(dscores.reshape(B * T, 1, S), slope.reshape(B * T, S, A)).reshape(B, T, A)
            dscores, slope = dscores.swapaxes(1, 2), slope.swapaxes(1, 2)  # for sums over t
            dmemory = _product(dscores.reshape(B * S, 1, T), slope.reshape(B * S, T, A)).reshape(B, S, A)
            gradients["weight_query"] = _sum_of_products(dqueries, queries)
            gradients["weight_memory"] = _sum_of_products(dmemory, memory)
            dqueries = _product(dqueries, parameters["weight_query"])
            dmemory = _product(dmemory, parameters["weight_memory"])
            return dqueries, dmemory, {name: gradients[name] for name in parameters}
        dprojected = _product(dscores, memory)
        dmemory = _product(dscores.swapaxes(1, 2), kept)
        if self.score == "dot":
            return dprojected, dmemory, {}
        return _product(dprojected, parameters["weight"].T), dmemory, {"weight": _sum_of_products(queries, dprojected)}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {name: shape} of all parameters."""
        if self.score == "dot":
            return {}
        if self.score == "general":
            return {"weight": (self.query_size, self.memory_size)}
        units: Any = self.units
        return {
            "weight_query": (units, self.query_size),
            "weight_memory": (units, self.memory_size),
            "vector": (units,),
        }

    @property
    def _axis(self) -> int:
        """The axis of the rows."""
        return 0 if self.batch_first else 1

    def _rows(self, name: str, value: ArrayLike, steps: str, size: int) -> Array:
        array = float_array(name, value, self.dtype)
        if array.ndim not in (2, 3) or array.shape[-1] != size:
            axes = f"(B, {steps}, {size})" if self.batch_first else f"({steps}, B, {size})"
            raise ValueError(f"{name}: expected shape {axes} or ({steps}, {size}), got {array.shape}")
        return array

    def _padding(self, lengths: ArrayLike | None, memory: Array, batched: bool) -> Bools | None:
        """Return True where the memory is not valid, (B, S); None if all of it is valid."""
        if lengths is None:
            return None
        rows, steps = memory.shape[:2]
        try:
            lengths = check_lengths(lengths, rows if batched else None, steps)
        except (TypeError, ValueError) as error:
            raise type(error)(f"memory_{error}") from None
        padding = np.arange(steps) >= lengths.reshape(rows, 1)
        return padding if padding.any() else None

    def _inner(self, array: Array) -> Array:
        return array if self.batch_first else array.swapaxes(0, 1)

    def _outer(self, array: Array, batched: bool) -> Array:
        """Return a copy of an array (B, T, ...) in the caller's layout."""
        array = np.array(self._inner(array), order="C")
        return array if batched else array.squeeze(self._axis)

    def _gradient(
        self, name: str, value: ArrayLike | None, inner_shape: tuple[int, ...], meaning: str, batched: bool
    ) -> Array:
        """Return the caller's gradient as (B, T, ...); zeros for None."""
        if value is None:
            return np.zeros(inner_shape, self.dtype)
        value = float_array(name, value, self.dtype)
        rows, steps, size = inner_shape
        outer = inner_shape if self.batch_first else (steps, rows, size)
        expect_shape(name, value, outer if batched else (steps, size), meaning)
        return self._inner(value if batched else np.expand_dims(value, self._axis))


def _without_warnings() -> AbstractContextManager[object]:
    """Suppress NumPy's warnings of infinity and NaN, which the results show."""
    return np.errstate(over="ignore", invalid="ignore")


def _masked_softmax(scores: Array, padding: Bools | None) -> Array:
    """Return the softmax over S of (B, T, S), exactly zero where `padding` (B, S); `scores` may be overwritten."""
    if padding is not None:
        scores[np.broadcast_to(padding[:, np.newaxis], scores.shape)] = -np.inf
    weights = softmax(scores)
    if padding is not None:
        weights[padding.all(axis=1)] = 0  # there is no step
    return weights


def _sum_of_products(left: Array, right: Array) -> Array:
    """Return the sum over b and t of left[b, t] (outer product) right[b, t]."""
    left, right = left.reshape(1, -1, left.shape[-1]), right.reshape(1, -1, right.shape[-1])
    result: Array = _product(left.swapaxes(1, 2), right)[0]
    return result


def _product(left: Array, right: Array) -> Array:
    """Return the product of each matrix of `left` (n, M, K) with that of `right` (n, K, N), or with one (K, N)."""
    if right.ndim == 2:
        right = np.broadcast_to(right, (len(left), *right.shape))
    result = np.empty((*left.shape[:2], right.shape[2]), left.dtype)
    products.multiply(config.kernels(), left, right, result)
    return result
