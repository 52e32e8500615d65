"""The Embedding layer: a vector for each token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .._kernels import elements
from ..checks import dtype_of, expect_shape, flag, float_array, int_array, int_within, positive_int
from .base import Gradients, Layer, Stage

if TYPE_CHECKING:
    from ..typing import Array, ArrayLike, Bools, DTypeLike, Seed
    from .base import Tape


class Embedding(Layer):
    """A vector for each token.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        The number of tokens, and the size of their vectors.
    mask_zero : bool
        Token 0 is padding: in a Sequential the later layers get a mask that is False there.
    padding_idx : int, optional
        The vector of this token starts at zero and gets no gradient; negative numbers count from the last token. Unlike
        `mask_zero` it makes no mask. A Linear that is tied to the layer gives it one, as in PyTorch.
    frozen : bool
        The vectors are not trained: `backward` computes no gradient of them, and optimizers leave them as they are.
    dtype : {"float32", "float64"}
    seed : None, int or numpy.random.Generator
        Seed or source of the initial vectors, N(0, 1).

    Notes
    -----
    Parameter: ``weight`` (num_embeddings, embedding_dim).

    Examples
    --------
    >>> from lstm_cy import Embedding
    >>> Embedding(10, 3, seed=0)([[1, 2], [0, 9]]).shape
    (2, 2, 3)
    """

    dtype: np.dtype[Any]
    _read_only = (*Layer._read_only, "frozen_parameters")

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        mask_zero: bool = False,
        padding_idx: int | None = None,
        frozen: bool = False,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ) -> None:
        self.num_embeddings = positive_int("num_embeddings", num_embeddings)
        self.embedding_dim = positive_int("embedding_dim", embedding_dim)
        self.masks = self.mask_zero = flag("mask_zero", mask_zero)
        self.padding_idx = self._checked_padding(padding_idx)
        self.frozen = flag("frozen", frozen)
        self.frozen_parameters = ("weight",) if frozen else ()
        self.dtype = dtype_of(dtype)
        self.config = {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "mask_zero": self.mask_zero,
            "padding_idx": self.padding_idx,
            "frozen": self.frozen,
            "dtype": self.dtype.name,
        }
        shape = self.num_embeddings, self.embedding_dim
        rng = self._generator(seed)
        self._initialize({"weight": shape}, lambda: {"weight": self._drawn(rng, shape)})

    def _checked_padding(self, index: int | None) -> int | None:
        """Return `padding_idx` as a token."""
        if index is None:
            return None
        tokens: int = self.num_embeddings
        return int_within("padding_idx", index, -tokens, tokens - 1) % tokens

    def _drawn(self, rng: Any, shape: tuple[int, int]) -> Array:
        """Return the initial vectors."""
        weight: Array = rng.standard_normal(shape).astype(self.dtype)
        if self.padding_idx is not None:
            weight[self.padding_idx] = 0
        return weight

    def __call__(self, tokens: ArrayLike) -> Array:
        """Return the vectors of tokens.

        Parameters
        ----------
        tokens : array_like of int, any shape
            0 to num_embeddings - 1.

        Returns
        -------
        ndarray (..., embedding_dim)
            The leading axes are those of the tokens.
        """
        return self.forward(tokens)[0]

    @classmethod
    def least_size(cls, arguments: dict[str, Any]) -> int:
        """Return the least number of weights of a layer with these arguments, from a file, without making it."""
        sizes = ("num_embeddings", "embedding_dim")
        return math.prod(positive_int(f"Embedding: {name}", arguments.get(name)) for name in sizes)

    @property
    def vocabulary_size(self) -> int:  # type: ignore[override]  # its own
        """The number of tokens."""
        return self.num_embeddings

    def stage(self) -> Stage:
        """Return how one step is run; a ValueError says why the layer cannot run step by step."""
        if self.masks:
            return super().stage()
        return Stage(self.num_embeddings, self.embedding_dim, np.ascontiguousarray(self._parameters["weight"]))

    def stages_for(self, features: int | None, masked: bool) -> list[Stage]:
        """Return how one step is run; raise ValueError where it cannot be."""
        return [Stage(self.num_embeddings, self.embedding_dim, np.ascontiguousarray(self._parameters["weight"]))]

    def valid(self, tokens: ArrayLike) -> Bools:
        """Return True where tokens are not 0: the mask that `mask_zero` makes.

        Parameters
        ----------
        tokens : array_like of int, any shape

        Returns
        -------
        ndarray of bool, in the tokens' shape
        """
        result: Bools = int_array("tokens", tokens) != 0
        return result

    def forward(self, tokens: ArrayLike, rng: Seed = None) -> tuple[Array, Tape]:
        """Return the vectors of tokens, for training.

        Parameters
        ----------
        tokens : array_like of int, any shape
        rng : None, int or numpy.random.Generator
            Not used.

        Returns
        -------
        y : ndarray
            As from a call.
        tape :
            For `backward`, until the parameters change; it keeps a copy of the tokens.
        """
        tokens = int_array("tokens", tokens)
        if tokens.size and (tokens.min() < 0 or tokens.max() >= self.num_embeddings):
            wrong = tokens[(tokens < 0) | (tokens >= self.num_embeddings)][0]
            raise ValueError(f"tokens: expected 0 to num_embeddings - 1 = {self.num_embeddings - 1}, got {wrong}")
        parameters = self._parameters
        return parameters["weight"][tokens], self._tape(tokens, made_with=parameters)

    def output_features(self, features: int | None) -> int:
        return self.embedding_dim

    def backward(self, tape: Tape, dy: ArrayLike) -> Gradients:
        """Propagate a gradient back through the forward pass that made `tape`.

        Parameters
        ----------
        tape :
            From `forward`.
        dy : array_like in y's shape

        Returns
        -------
        Gradients
            `parameters`, none if the layer is frozen; tokens have no gradient.
        """
        parameters = self._parameters
        (tokens,) = self._content_of(tape, parameters)
        dy = float_array("dy", dy, self.dtype)
        expect_shape("dy", dy, (*tokens.shape, self.embedding_dim), "the shape of y")
        if self.frozen:
            return Gradients(None, None, {})
        gradient = np.zeros_like(parameters["weight"])
        if tokens.size:
            # Sorting the rows by token and summing the runs is much faster than adding one row at a time.
            order = np.argsort(tokens, axis=None, kind="stable")
            found, first = np.unique(tokens.ravel()[order], return_index=True)
            sums = np.empty((len(found), self.embedding_dim), self.dtype)
            rows = np.ascontiguousarray(dy.reshape(-1, self.embedding_dim))
            elements.sums_of_rows(rows, order, np.append(first[1:], len(order)), sums)
            gradient[found] = sums
        if self.padding_idx is not None:
            gradient[self.padding_idx] = 0
        return Gradients(None, None, {"weight": gradient})
