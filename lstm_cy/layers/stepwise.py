"""The base of layers that compute on the steps of a sequence and change their number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..checks import float_array, real_array
from .base import Layer, Steps

if TYPE_CHECKING:
    from ..typing import Array, ArrayLike


class Stepwise(Layer):
    """A layer of sequences (T, B, features), (B, T, features) with `batch_first`, or (T, features)."""

    needs_steps = True

    def __call__(self, x: ArrayLike) -> Array:
        """Apply the layer.

        Parameters
        ----------
        x : array_like (T, B, features), (B, T, features) with batch_first, or (T, features)

        Returns
        -------
        ndarray
            In the layout of x; without the axis of the steps if the layer returns one vector for a row.

        Raises
        ------
        ValueError
            x has another shape, or fewer steps than one output is computed from.
        """
        y: Array = self.forward(x)[0]
        return y

    def refuse_masks(self, masked: bool) -> None:
        """Raise if a layer before marks steps as padding."""
        if masked:
            raise ValueError(f"expected no mask before {self!r}, which combines successive steps and knows no padding")

    def _rows_first(self, x: ArrayLike) -> tuple[Array, int]:
        """Return x as (B, T, features) of the layer's dtype, and its number of axes."""
        array = real_array("x", x)
        features = self.input_features
        if array.ndim not in (2, 3) or (features is not None and array.shape[-1] != features):
            text = "features" if features is None else f"{features}"
            layout = f"(B, T, {text})" if self.batch_first else f"(T, B, {text})"
            raise ValueError(f"x: expected shape {layout} or (T, {text}), got {array.shape}")
        dtype = self.dtype or (array.dtype if array.dtype in ("float32", "float64") else "float32")
        array = float_array("x", array, dtype)
        return self._swapped(array[None] if array.ndim == 2 else array, array.ndim), array.ndim

    def _swapped(self, x: Array, axes: int) -> Array:
        """Convert x with three axes from the layer's layout to (B, T, features), or back."""
        return x if self.batch_first or axes == 2 else x.swapaxes(0, 1)

    def _as_given(self, y: Array, axes: int) -> Array:
        """Convert y (B, T, features) to the layout of an x with this number of axes, contiguous."""
        return y[0] if axes == 2 else self._swapped(y, axes).copy() if not self.batch_first else y


class Windowed(Stepwise):
    """A layer whose outputs are computed from windows of steps, so that their number changes.

    Padding at the end of shorter rows would reach their last outputs: such a layer takes no lengths, mask and reset.
    """

    def steps_of(self, x: Any, steps: Steps) -> Steps:
        given = [name for name in ("lengths", "mask", "reset") if getattr(steps, name) is not None]
        if given:
            name, kind = ", ".join(given), type(self).__name__
            raise ValueError(f"{name}: expected None, because {kind} combines successive steps and knows no padding")
        return steps
