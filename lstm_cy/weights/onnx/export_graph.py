"""An ONNX graph under construction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...extras import pip_install

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    from ...layers.base import Layer
    from ...typing import DTypeLike

    _Names = TypeVar("_Names", str, list[str])


def import_onnx() -> Any:
    """Import the `onnx` library, an extra."""
    try:
        import onnx
    except ImportError:
        raise ImportError(f"writing ONNX files needs the library: {pip_install('onnx')}") from None
    return onnx


class ExportGraph:
    """A graph under construction; values are referred to by their names, and all floats in it are float32."""

    def __init__(self, onnx: Any, dtype: np.dtype[Any], opset: int) -> None:
        self.onnx, self.opset = onnx, opset
        self.narrow, self.wide = np.dtype("float32"), dtype
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._first: dict[int, str] = {}
        self._weights: set[str] = set()

    def weight(self, prefix: str, layer: Layer, name: str, array: Any) -> str:
        """Add a constant of a layer; a repeated layer has it once, under the first name."""
        name = self._first.setdefault(id(layer), prefix) + name
        if name in self._weights:
            return name
        self._weights.add(name)
        return self.constant(name, array)

    def input(self, name: str, shape: Sequence[int | str], dtype: DTypeLike | None = None) -> str:
        """Add an input, of the model's dtype or of integers."""
        self.inputs.append(self._described(name, dtype or self.wide, shape))
        return name if dtype else self._cast(name, self.narrow)

    def output(self, value: str, name: str, shape: Sequence[int | str]) -> None:
        """Make `value` an output, under the name `name`."""
        value = self._cast(value, self.wide)
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [name if there == value else there for there in names]
        self.outputs.append(self._described(name, self.wide, shape))

    def constant(self, name: str, array: Any) -> str:
        """Add a constant; floats become float32."""
        array = np.asarray(array, order="C")
        if array.dtype.kind == "f":
            array = array.astype(self.narrow, copy=False)
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(
        self, operator: str, inputs: Sequence[str], outputs: _Names, name: str | None = None, **attributes: Any
    ) -> _Names:
        """Add an operator and return `outputs`, one or a list; its name is `name` or that of its first output."""
        names: list[str] = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, names, name=name or names[0], **attributes))
        return outputs

    def _cast(self, value: str, dtype: np.dtype[Any]) -> str:
        if self.wide == self.narrow:
            return value
        return self.node("Cast", [value], f"{value}.{dtype.name}", to=self._type(dtype))

    def _described(self, name: str, dtype: DTypeLike, shape: Sequence[int | str]) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, self._type(dtype), shape)

    def _type(self, dtype: DTypeLike) -> Any:
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
