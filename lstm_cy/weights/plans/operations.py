"""Operations of a program while a plan is made, on arrays of its buffers, and how a program takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._kernels.program import BINARY_FUNCTIONS, KINDS, LIMITS, REDUCTIONS, UNARY_FUNCTIONS, Panels
from .values import NotLowered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...typing import Array
    from .values import Buffers

#: most factors of a part of a product, so that its panel stays in the cache
LARGEST_PART = 1024
_FUNCTIONS = {
    "unary": UNARY_FUNCTIONS,
    "product": UNARY_FUNCTIONS,
    "depthwise": UNARY_FUNCTIONS,
    "binary": BINARY_FUNCTIONS,
    "reduce": REDUCTIONS,
    "pool": REDUCTIONS,
    "softmax": {"softmax": 0, "log_softmax": 1},
}


class Operation:
    """One operation.

    Attributes
    ----------
    kind, function : str
        As in `lstm_cy._kernels.program`.
    arrays : list of ndarray
        Its operands, the result first: parts of buffers, or constants.
    alpha, beta : float
    numbers : tuple of int
    content : object
    steps : list of str
        The steps of the graph that it computes.
    weight : Weight or None
        Of a Weighted operation.
    """

    weight: Weight | None

    def __init__(
        self,
        kind: str,
        arrays: Sequence[Array],
        function: str = "",
        alpha: float = 0.0,
        beta: float = 0.0,
        numbers: tuple[int, ...] = (),
        content: Any = None,
    ) -> None:
        self.kind, self.function, self.arrays = kind, function, list(arrays)
        self.alpha, self.beta, self.numbers, self.content = alpha, beta, numbers, content
        self.weight = None
        self.steps: list[str] = []

    def encoded(self, buffers: Buffers, packs: Packs) -> tuple[Any, ...]:
        """Return what a Program takes."""
        shape, strides = self._axes()
        operands: list[tuple[int, Any, tuple[int, ...]]] = []
        for array, steps in zip(self.arrays, strides, strict=True):
            buffer = buffers.of(array)
            if buffer is None:
                operands.append((-1, array, steps))
            else:
                operands.append((buffer.chunk, buffer.offset + array.ctypes.data - buffer.address, steps))
        function = _FUNCTIONS[self.kind][self.function] if self.function else 0
        kind = KINDS[self.kind]
        return kind, function, operands, shape, self.alpha, self.beta, self.numbers, self._content(packs)

    def check(self) -> None:
        """Raise NotLowered if a program cannot express it."""
        self._axes()

    def _axes(self) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        """Return the axes that the program goes through, and the strides of each operand along them."""
        if self.kind == "reduce":
            y, x = self.arrays
            whole = [stride if y.shape[axis] == x.shape[axis] else 0 for axis, stride in enumerate(elements(y))]
            return collapsed(x.shape, [tuple(whole), elements(x)])
        return collapsed(self.arrays[0].shape, [elements(array) for array in self.arrays])

    def _content(self, packs: Packs) -> Any:
        return self.content


class Flat(Operation):
    """An operation on contiguous memory, which needs no axes."""

    def _axes(self) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        return (), [()] * len(self.arrays)


class Pool(Operation):
    """Pooling of (N, H, W, C): its result and input."""

    def _axes(self) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        return self.arrays[0].shape[:3], [elements(array)[:3] for array in self.arrays]


class Weighted(Operation):
    """An operation with constant weights and a bias, which are made when the plan is finished.

    What follows it may become a part of it: a scale, a bias and a function of each element.

    Parameters
    ----------
    kind : str
    y, x : ndarray
        The results, contiguous rows of `weight.columns` numbers, and the input.
    weight : Weight
    numbers : tuple of int
    """

    weight: Weight

    def __init__(self, kind: str, y: Array, x: Array, weight: Weight, numbers: tuple[int, ...]) -> None:
        super().__init__(kind, [y, x], "linear", numbers=numbers)
        self.weight = weight

    def encoded(self, buffers: Buffers, packs: Packs) -> tuple[Any, ...]:
        self.arrays = [*self.arrays[:2], *self._constants(packs)]
        return super().encoded(buffers, packs)

    def _constants(self, packs: Packs) -> list[Array]:
        return [packs.bias(self.weight)]


class Depthwise(Weighted, Pool):
    """A convolution of each channel of (N, H, W, C) on its own: its result and input."""

    def _constants(self, packs: Packs) -> list[Array]:
        return [packs.matrix(self.weight), packs.bias(self.weight)]


class Product(Weighted, Flat):
    """Products of rows, which may overlap, with a matrix that is packed when the plan is finished.

    Parameters
    ----------
    y, x : ndarray
        The results, contiguous rows of `weight.columns` numbers, and the memory of the left side.
    weight : Weight
    offsets : list of int
        Where each part's left side begins, in elements of x.
    numbers : tuple of int
        As `multiply` of `lstm_cy/_kernels/program.pyx` takes them.
    """

    def __init__(self, y: Array, x: Array, weight: Weight, offsets: list[int], numbers: tuple[int, ...]) -> None:
        super().__init__("product", y, x, weight, numbers)
        self.content = offsets

    def _content(self, packs: Packs) -> Any:
        panels = packs.panels(self.weight)
        offsets = [
            offset + start
            for offset, size in zip(self.content, self.weight.sizes, strict=True)
            for start in range(0, size, LARGEST_PART)
        ]
        return panels, offsets


class Weight:
    """The constant matrix of a product, with a scale and a bias for each column.

    Parameters
    ----------
    sources : list of ndarray
        The arrays that it is made of.
    sizes : list of int
        The factors K of each part.
    columns : int
    parts : callable
        Returns the parts, arrays (K, columns), from `sources`.
    key : hashable
        With the same key and sources the parts are the same.
    exact : bool
        Whether the sums are whole numbers: a scale changes their digits, so that nothing becomes a part of them.
    """

    def __init__(
        self,
        sources: Sequence[Array],
        sizes: list[int],
        columns: int,
        parts: Callable[[], list[Array]],
        key: object,
        exact: bool = False,
    ) -> None:
        self.sources, self.sizes, self.columns, self._parts, self.exact = [*sources], sizes, columns, parts, exact
        self.key: tuple[Any, ...] = (key,)
        self._scale: Array | None = None
        self._shift: Array | None = None

    def change(self, key: str, scale: Array | None, shift: Array | None, sources: Sequence[Array]) -> None:
        """Multiply the result by `scale`, and then add `shift`: numbers or vectors of the columns.

        They are made of `sources`, in a way that `key` names.
        """
        if scale is not None:
            self._scale = np.asarray(scale, np.float32) * (1 if self._scale is None else self._scale)
            self._shift = None if self._shift is None else self._shift * np.asarray(scale, np.float32)
        if shift is not None:
            self._shift = np.asarray(shift, np.float32) + (0 if self._shift is None else self._shift)
        self.sources += sources
        self.key += (key,)

    def parts(self) -> list[Array]:
        """Return the scaled parts, of at most LARGEST_PART factors each."""
        found = self._parts()
        if self._scale is not None:
            found = [part * self._scale for part in found]
        return [part[start : start + LARGEST_PART] for part in found for start in range(0, len(part), LARGEST_PART)]

    def bias(self) -> Array:
        """Return the bias, (columns,)."""
        shift = np.float32(0) if self._shift is None else self._shift
        return np.ascontiguousarray(np.broadcast_to(shift, (self.columns,)), np.float32)


class Packs:
    """The packed weights of a graph, which all of its plans share.

    Attributes
    ----------
    kernels : capsule
    constants : set of int
        The ids of the graph's constants. What is made of other arrays is not shared.
    """

    def __init__(self, kernels: object) -> None:
        self.kernels = kernels
        self.constants: set[int] = set()
        self._made: dict[Any, Any] = {}

    def panels(self, weight: Weight) -> Panels:
        """Return the packed matrix."""
        found: Panels = self._get(("panels", weight.key), weight, lambda: Panels(self.kernels, weight.parts()))
        return found

    def matrix(self, weight: Weight) -> Array:
        """Return the matrix as it is, contiguous."""
        found: Array = self._get(
            ("matrix", weight.key), weight, lambda: np.ascontiguousarray(np.concatenate(weight.parts()))
        )
        return found

    def bias(self, weight: Weight) -> Array:
        """Return the bias."""
        found: Array = self._get(("bias", weight.key), weight, weight.bias)
        return found

    def _get(self, kind: tuple[Any, ...], weight: Weight, make: Callable[[], Any]) -> Any:
        ids = [id(array) for array in weight.sources]
        if not self.constants.issuperset(ids):
            return make()
        key = (kind, *ids)
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def elements(array: Array) -> tuple[int, ...]:
    """Return an array's strides in elements."""
    return tuple(stride // array.itemsize for stride in array.strides)


def collapsed(shape: tuple[int, ...], strides: list[tuple[int, ...]]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Return fewer axes for the same elements: those of size 1 are left out, and axes that follow each other merged."""
    axes = [axis for axis, size in enumerate(shape) if size != 1]
    axes.sort(key=lambda axis: [-abs(steps[axis]) for steps in strides])
    merged: list[tuple[int, list[int]]] = []
    for axis in axes:
        here = [steps[axis] for steps in strides]
        if merged and all(outer == inner * shape[axis] for outer, inner in zip(merged[-1][1], here, strict=True)):
            merged[-1] = merged[-1][0] * shape[axis], here
        else:
            merged.append((shape[axis], here))
    if not merged:
        merged = [(1, [1] * len(strides))]
    if len(merged) > LIMITS["axes"]:
        raise NotLowered
    return tuple(size for size, _ in merged), [
        tuple(steps[index] for _, steps in merged) for index in range(len(strides))
    ]
