"""ONNX graphs as models that run with NumPy and this library's LSTM."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...checks import one_of, real_array, shown
from ..budget import LimitExceeded
from ..faults import check_finite, counted
from .fold import Graph
from .lstm_nodes import WEIGHTS, Layers, LstmNode, input_name, layer_bytes
from .node import owned_bytes, owner
from .proto import DTYPES, LARGEST_RESULT, STRING, STRINGS, Source, naming, quoted, type_name

if TYPE_CHECKING:
    from ...layers.lstm import LSTM
    from ...typing import Array, ArrayLike
    from .node import Node

#: most unsupported operators in an error
LARGEST_LIST = 20
#: most bytes of all live results of a run, or this many times the bytes of its inputs and constants
LARGEST_RUN, RUN_FACTOR = 2 * LARGEST_RESULT, 16
#: a layer may take this many times the bytes of its weights
LAYER_FACTOR = 6
# Names that exporters write for a size without a name.
_UNNAMED = {"", "?", "-1", "None"}


class Value(NamedTuple):
    """An input or output of a graph.

    Attributes
    ----------
    name : str
    shape : tuple of int, str or None; or None
        A fixed size, the name of a variable size, or None for a variable size without a name (exporters write
        nothing, -1, "?" or "None"). None instead of a tuple: any shape.
    dtype : numpy.dtype
        object for strings.
    """

    name: str
    shape: tuple[int | str | None, ...] | None
    dtype: np.dtype[Any]


def from_onnx(model: Any, strict: bool = False) -> OnnxModel:
    """Make a model from an ONNX graph of LSTMs and the operators that exporters add to them.

    Parameters
    ----------
    model : str, os.PathLike, bytes or onnx.ModelProto
        A file, its content, or its parsed protobuf.
    strict : bool
        If True, NaN or infinity among the weights is an error instead of a warning.

    Returns
    -------
    OnnxModel

    Raises
    ------
    ValueError
        The file is truncated or damaged, or there are unsupported nodes; all of them are listed.
    ImportError
        `onnx` is not installed.
    OSError
        The file cannot be read.

    Warns
    -----
    UserWarning
        NaN or infinity among the weights.

    Examples
    --------
    >>> import numpy as np, onnx
    >>> from lstm_cy import from_onnx
    >>> text = '''<ir_version: 8, opset_import: ["": 17]> g (float[T, B, 3] x) => (float[B, T, 3] y) {
    ...     turned = Transpose <perm = [1, 0, 2]> (x)
    ...     y = Relu(turned)
    ... }'''
    >>> model = from_onnx(onnx.parser.parse_model(text))
    >>> model.inputs
    (Value(name='x', shape=('T', 'B', 3), dtype=dtype('float32')),)
    >>> (y,) = model.run({"x": np.ones((7, 2, 3))})
    >>> y.shape
    (2, 7, 3)
    """
    source = Source(model)
    with naming(source.name):
        graph = Graph(source, source.proto.graph)
        count, kinds = graph.count_unsupported(), graph.unsupported
        if count:
            texts = [f"{kind}: {nodes}" for kind, nodes in kinds[:LARGEST_LIST]]
            if len(kinds) > LARGEST_LIST:
                texts.append(f"and {counted(len(kinds) - LARGEST_LIST, 'other operator')}")
            verb = "is" if count == 1 else "are"
            raise ValueError(f"{counted(count, 'node')} {verb} not supported: {'; '.join(texts)}")
        floats = {name: array for name, array in graph.constants.items() if array.dtype.kind == "f" and array.ndim}
        first = {id(owner(array)): name for name, array in reversed(floats.items())}  # views are not checked again
        weights = {name: array for name, array in floats.items() if first[id(owner(array))] == name}
        made = OnnxModel(graph, Layers(source.budget))
        made.properties = {entry.key: entry.value for entry in source.proto.metadata_props}
    check_finite(source.name, weights, strict)
    return made


class OnnxModel:
    """A model that runs an ONNX graph; made by `from_onnx`.

    Several threads may call `run` at the same time.

    Attributes
    ----------
    inputs, outputs : tuple of Value
        The inputs and outputs of `run`, in the graph's order.
    properties : dict of str to str
        The file's metadata_props.
    """

    properties: dict[str, str]
    metadata: dict[str, Any]

    def __init__(self, graph: Graph, layers: Layers) -> None:
        self.inputs = tuple(_value(value) for value in graph.inputs)
        self.outputs = tuple(_value(value) for value in graph.outputs)
        self._steps = [
            _lstm_step(node, graph.constants, layers) if node.op_type == "LSTM" else node for node in graph.nodes
        ]
        used = {name for step in self._steps for name in step.inputs} | {value.name for value in self.outputs}
        self._constants = {name: array for name, array in graph.constants.items() if name in used}
        self._constant_bytes = owned_bytes(self._constants.values())
        self._everything = self._plan([value.name for value in self.outputs])

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(value.name for value in values) for values in (self.inputs, self.outputs))
        return f"OnnxModel({inputs} -> {outputs})"

    def run(self, inputs: Mapping[str, ArrayLike], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run the graph.

        Parameters
        ----------
        inputs : mapping of str to array_like
            One array for each of `self.inputs`, of its shape; it is converted to its dtype if NumPy's ``same_kind``
            rule allows it. Sizes with the same name must be equal. The arrays are not changed.
        outputs : None or sequence of str
            The names of the outputs to compute; None for all. Nodes that they do not need are not run.

        Returns
        -------
        list of ndarray
            New arrays, in the order of `outputs` or of the graph.

        Raises
        ------
        TypeError, ValueError
            Inputs are missing, unknown or of another shape or dtype; a node's inputs do not match, or its result is
            larger than its inputs and takes more than 2 GiB. The message names the input or node.
        """
        names = self._output_names(outputs)
        values = self._given(inputs)
        arrays_given = [*values.values()]  # kept, so that no result gets the id of an input
        returned_ids = {id(array) for array in arrays_given}
        live_bytes = sum(array.nbytes for array in arrays_given)
        limit = max(LARGEST_RUN, RUN_FACTOR * (live_bytes + self._constant_bytes))
        with np.errstate(all="ignore"):  # infinity and NaN are valid results in ONNX
            for step, unused in self._everything if outputs is None else self._plan(names):
                arrays = [self._constants.get(name, values.get(name)) for name in step.inputs]
                results = step.run(arrays)
                made = {name: array for name, array in zip(step.outputs, results, strict=False) if name}
                values |= made
                live_bytes += sum(array.nbytes for array in made.values())
                # the sum first: it also counts views, but is fast
                if live_bytes > limit < owned_bytes(values.values()):
                    raise ValueError(
                        f"{step}: its results and the others that are still needed take more than {limit} bytes"
                    )
                for name in unused & values.keys():
                    live_bytes -= values.pop(name).nbytes
        return [_exclusive(self._constants.get(name, values.get(name)), returned_ids) for name in names]

    def _output_names(self, outputs: Sequence[str] | None) -> list[str]:
        known = [value.name for value in self.outputs]
        if outputs is None:
            return known
        if isinstance(outputs, str) or not isinstance(outputs, Sequence):
            raise TypeError(f"outputs: expected a list of names, got {shown(outputs)} ({type(outputs).__name__})")
        return [one_of("outputs", name, known) for name in outputs]

    def _given(self, inputs: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """Check the inputs and return {name: array}."""
        if not isinstance(inputs, Mapping):
            raise TypeError(f"inputs: expected a mapping of names to arrays, got {type(inputs).__name__}")
        known = [value.name for value in self.inputs]
        missing, unknown = [n for n in known if n not in inputs], [n for n in inputs if n not in known]
        if missing or unknown:
            raise ValueError(f"inputs: expected {known}; missing: {missing}, unknown: {unknown}")
        sizes: dict[str, int] = {}
        values: dict[str, Array] = {}
        for value in self.inputs:
            array = _array(value, inputs[value.name])
            if value.shape is not None:
                _check_shape(value, array.shape, sizes)
            values[value.name] = np.asarray(array, value.dtype)
        return values

    def _plan(self, names: list[str]) -> list[tuple[Node | _LstmStep, set[str]]]:
        """Return the steps that these outputs need, each with the values that no later step needs."""
        needed, plan = set(names), []
        for step in reversed(self._steps):
            if needed.isdisjoint(step.outputs):
                continue
            unused = {name for name in (*step.inputs, *step.outputs) if name not in needed}
            needed.update(step.inputs)
            plan.append((step, unused))
        return plan[::-1]


class _LstmStep:
    """An LSTM node, with its layer if the weights are constant and the layer is within the budget."""

    def __init__(self, node: Node, constants: dict[str, Any], layers: Layers) -> None:
        self._node = node
        self._lstm = LstmNode(node)
        self._layer: LSTM | None = None
        self.inputs, self.outputs = node.inputs, node.outputs
        names = [input_name(node.inputs, index) for index in WEIGHTS]
        if all(name in constants for name in names if name):
            with contextlib.suppress(LimitExceeded):
                self._layer = layers.get(self._lstm, [constants.get(name) for name in names])
        if self._layer is not None:
            self.inputs = tuple("" if index in WEIGHTS else name for index, name in enumerate(node.inputs))

    def __str__(self) -> str:
        return str(self._node)

    def _packed(self, *weights: Array | None) -> LSTM:
        size = layer_bytes(weights)
        if size > max(LARGEST_RESULT, LAYER_FACTOR * owned_bytes(weights)):
            raise ValueError(f"its layer takes {size} bytes; at most {LARGEST_RESULT} are allowed")
        return self._lstm.layer(*weights)

    def run(self, inputs: Sequence[Any]) -> tuple[Array, ...]:
        with naming(self._node):
            filled: list[Any] = [*inputs, *[None] * (8 - len(inputs))]
            X, W, R, B, lengths, initial_h, initial_c, P = filled
            layer = self._layer or self._packed(W, R, B, P)
            if X.ndim == 3:
                rows = [max(size, 1) for size in X.shape[:2]]  # T = 0 still gives states, B = 0 still takes time
                self._node.room((*rows, layer.output_size), X.dtype, X)
            return self._lstm.run(layer, X, lengths, initial_h, initial_c)


def _lstm_step(node: Node, constants: dict[str, Array], layers: Layers) -> _LstmStep:
    with naming(node):
        return _LstmStep(node, constants, layers)


def _value(proto: Any) -> Value:
    """Return the Value of a ValueInfoProto."""
    tensor = proto.type.tensor_type
    dtypes = {**DTYPES, STRING: STRINGS}
    if not proto.type.HasField("tensor_type") or tensor.elem_type not in dtypes:
        kind = type_name(tensor.elem_type) if proto.type.HasField("tensor_type") else proto.type.WhichOneof("value")
        raise ValueError(f"value {quoted(proto.name)}: expected an array of numbers or strings, got {kind}")
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(_size(size) for size in tensor.shape.dim)
    return Value(proto.name, shape, dtypes[tensor.elem_type])


def _size(proto: Any) -> int | str | None:
    """Return a fixed size, the name of a variable size, or None, for which some exporters write -1."""
    if proto.HasField("dim_value"):
        return proto.dim_value if proto.dim_value >= 0 else None
    return None if proto.dim_param.strip() in _UNNAMED else proto.dim_param


def _array(value: Value, given: ArrayLike) -> Array:
    """Return the array given for an input; raise if its kind is wrong."""
    if value.dtype != STRINGS:
        array = real_array(value.name, given)
        if not np.can_cast(array.dtype, value.dtype, "same_kind"):
            raise TypeError(f"{value.name}: expected {value.dtype}, got {array.dtype}")
        return array
    array = np.asarray(given)
    if array.dtype.kind not in "UO" or not all(isinstance(text, str) for text in array.flat):
        raise TypeError(f"{value.name}: expected strings, got {array.dtype}")
    return array


def _check_shape(value: Any, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Raise unless a shape is as declared; `sizes` holds the named sizes of previous inputs."""
    fits = len(shape) == len(value.shape)
    for expected, found in zip(value.shape, shape, strict=False):
        fits &= (
            found == (sizes.setdefault(expected, found) if isinstance(expected, str) else expected) or expected is None
        )
    if not fits:
        where = f" where {sizes}" if sizes else ""
        raise ValueError(f"{value.name}: expected shape {value.shape}{where}, got {shape}")


def _exclusive(array: Any, returned_ids: set[int]) -> Any:
    """Return an array that no other object uses: the array itself or a copy."""
    if id(array) in returned_ids or not array.flags.owndata or not array.flags.writeable:
        return array.copy()
    returned_ids.add(id(array))
    return array
