"""Conversion of one file into another, and comparison of both with their frameworks on random input."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import file_path
from ..layers.lstm import LSTM
from ..layers.masking import Masking
from ..printable import printable
from . import by_suffix, load, native, save
from .faults import ForeignFile, listed, shortened
from .report import flat, own_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..layers.base import Layer
    from ..layers.sequential import Sequential
    from ..typing import Array, FilePath

#: largest difference of a correct conversion
LIMIT = 1e-4
_STEPS, _ROWS = 9, 3


class Comparison(NamedTuple):
    """A label of the framework that a model is compared with, and a function that compares.

    The function returns the largest difference. It raises ImportError if the framework is not installed, and ValueError
    if the framework cannot run the model.
    """

    label: str
    difference: Callable[[], float]


class Source(NamedTuple):
    """The result of `read`.

    Attributes
    ----------
    model : LSTM, Sequential or Seq2Seq
    comparison : Comparison or None
        Comparison with the framework of the file's format, which reads the file itself; None for files of this library.
    left : list of str
        The other contents of the file: tensors, or nodes by their operators.
    """

    model: Layer
    comparison: Comparison | None
    left: list[str]


def read(path: FilePath, name: str | None = None, *, batch_first: bool = False, partial: bool = False) -> Source:
    """Read the model in a file, or one LSTM by its name.

    Parameters
    ----------
    path : str or os.PathLike
        Any file that `load` reads; for an .onnx file an LSTM node is read.
    name : str, optional
        A prefix of PyTorch's names, with or without the final dot, or the name of an ONNX node. Optional if the file
        holds one LSTM and nothing else, or one LSTM node.
    batch_first : bool
        Option of an LSTM under PyTorch's names, which do not determine it.
    partial : bool
        If True, an LSTM may be extracted from a larger model; otherwise remaining contents are an error.

    Returns
    -------
    Source

    Raises
    ------
    ValueError, ImportError, OSError
        As `load`; or there is no LSTM of this name; or the file holds more and `partial` is False.
    """
    source: Any = by_suffix(path, _SOURCES)(file_path("path", path), name, batch_first)
    if batch_first and not source.model.batch_first:
        raise ValueError(f"{path}: batch_first is only for files with PyTorch's names; other files contain this option")
    if source.left and not partial:
        raise ValueError(
            f"{printable(path)}: holds more than this LSTM, which would be left behind: {listed(source.left)}. With "
            "partial (--partial) only the LSTM is converted"
        )
    return source  # type: ignore[no-any-return]


def write(model: Layer, path: str, *, states: bool = False, lengths: bool = False) -> list[Comparison]:
    """Save `model` with the options of `weights.onnx.to_onnx`; return a list of Comparison with the saved file."""
    path = file_path("path", path)
    is_onnx = path.lower().endswith(".onnx")
    if not is_onnx:
        if states or lengths:
            raise ValueError(f"states and lengths are inputs of .onnx files; {path!r} is not one")
        save(model, path)
        return [Comparison("lstm_cy, reading it again", lambda: _reread_difference(path, model))]
    from .onnx.export import write_model

    write_model(model, path, None, states=states, lengths=lengths)
    return [
        Comparison("ONNX Runtime", lambda: _onnxruntime_difference(path, model)),
        Comparison("lstm_cy, reading it again", lambda: _onnx_reread_difference(path, model)),
    ]


def _from_own_or_pytorch(path: str, name: str | None, batch_first: bool) -> Source:
    model: Layer
    try:
        model, model.metadata = native.read_model(path, strict=False)
    except ForeignFile:
        return _from_pytorch(path, name, batch_first)
    _refuse_name(path, name)
    return Source(model, None, [])


def _from_pytorch(path: str, name: str | None, batch_first: bool) -> Source:
    from . import pytorch

    found = pytorch.read_lstms(path)
    if found.problem:
        raise ValueError(f"{printable(path)}: {found.problem}")
    if name is None and len(found.plans) != 1:
        raise ValueError(
            f"{printable(path)}: expected one LSTM under PyTorch's names and nothing else; its LSTMs: "
            f"{listed(map(repr, found.plans)) or 'none'}; its tensors: {pytorch.shapes_of(found.tensors)}. A name "
            "(--name) takes one LSTM of several"
        )
    prefix = next(iter(found.plans)) if name is None else _chosen(path, found.plans, name)
    (lstm,) = found.layers(False, [prefix], batch_first=batch_first).values()
    left = [f"{name} {found.tensors[name].shape}" for name in found.others(prefix)]
    return Source(lstm, Comparison("PyTorch", lambda: _pytorch_difference(path, prefix, lstm)), left)


def _from_onnx(path: str, name: str | None, batch_first: bool) -> Source:
    from .onnx import lstms

    found = lstms(path)
    if name is None and len(found) == 1:
        (name,) = found
    name = _chosen(path, found, name)
    comparison = Comparison(
        "ONNX Runtime", lambda: _onnxruntime_node_difference(path, list(found).index(name), found[name])
    )
    return Source(found[name], comparison, _other_nodes(path))


# Operators that compute nothing: they change an array's form or select parts of it.
_LAYOUT_OPERATORS = {
    "Cast",
    "CastLike",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Expand",
    "Flatten",
    "Identity",
    "Reshape",
}
_LAYOUT_OPERATORS |= {
    "Equal",
    "ReverseSequence",
    "Shape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
    "Where",
}


def _other_nodes(path: str) -> list[str]:
    """Return the operators of a graph besides one of its LSTM nodes, each with its number of nodes."""
    from .onnx.fold import Graph
    from .onnx.proto import Source as Proto
    from .onnx.proto import naming

    proto = Proto(path)
    with naming(path):
        graph = Graph(proto, proto.proto.graph)
    counts = Counter(node.op_type for node in graph.nodes if not _computes_nothing(node, graph.constants))
    counts["LSTM"] -= 1  # the converted node
    unsupported = [f"{count} {kind}" for kind, count in graph.unsupported]
    return [f"{count} {kind}" for kind, count in counts.items() if count > 0] + unsupported


def _computes_nothing(node: Any, constants: dict[str, Any]) -> bool:
    """Return whether a node computes nothing; Gather from an array of floats is an embedding, which computes."""
    if node.op_type == "Gather":
        table = constants.get(node.inputs[0])
        return table is None or table.dtype.kind != "f"
    return node.op_type in _LAYOUT_OPERATORS


def _from_keras(path: str, name: str | None, batch_first: bool) -> Source:
    _refuse_name(path, name)
    model = load(path)
    return Source(model, Comparison("Keras", lambda: _keras_difference(path, model)), [])


def _chosen(path: str, lstms: Any, name: str | None) -> str:
    """Return the key of `lstms` for a name, or for a prefix with or without the final dot."""
    for candidate in (name, f"{name}."):
        if candidate in lstms:
            return str(candidate)
    names = listed(map(repr, lstms)) or "none"
    raise ValueError(f"{printable(path)}: expected the name of one of its LSTMs: {names}")


def _refuse_name(path: str, name: str | None) -> None:
    if name is not None:
        raise ValueError(f"{printable(path)}: holds a whole model, expected no name, got {name!r}")


_SOURCES = {
    **dict.fromkeys((".npz", ".safetensors"), _from_own_or_pytorch),
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), _from_pytorch),
    **dict.fromkeys((".keras", ".h5", ".hdf5"), _from_keras),
    ".onnx": _from_onnx,
}


# Comparisons


class _Case(NamedTuple):
    """Random input for a model."""

    x: Array
    states: list[Any]
    lengths: Array


def _case(model: Any, steps: int = _STEPS) -> _Case:
    rng = np.random.default_rng(0)
    first = model.layers[0]
    shape = (_ROWS, steps) if model.batch_first else (steps, _ROWS)
    if model.vocabulary_size is not None:
        x = rng.integers(0, model.vocabulary_size, shape)
    else:
        if model.input_features is None:
            raise ValueError("expected a model with an LSTM or a Linear in it")
        x = rng.standard_normal((*shape, model.input_features)).astype(model.dtype)
        if isinstance(first, Masking):
            x[rng.random(shape) < 0.3] = first.mask_value
    lstms = [layer for layer in model.layers if layer.num_states]
    shapes = [[(lstm.num_layers * lstm.num_directions, _ROWS, size) for size in _sizes(lstm)] for lstm in lstms]
    states = [tuple(rng.standard_normal(shape).astype(model.dtype) for shape in pair) for pair in shapes]
    return _Case(x, states, rng.integers(1, steps + 1, _ROWS).astype(np.int32))


def _sizes(lstm: LSTM) -> tuple[int, int]:
    """Return the sizes of h and of c."""
    return lstm.output_size // lstm.num_directions, lstm.hidden_size


def _results(model: Any, case: _Case, states: bool = False, lengths: bool = False) -> list[Array]:
    """Return the results of a call as one list of arrays."""
    given: dict[str, Any] = {"lengths": case.lengths} if lengths else {}
    out, finals = model(case.x, model.states_of(case.states) if states else None, **given)
    outs = out if isinstance(out, tuple) else (out,)
    return [*outs, *(part for final in model.pairs_of("states", finals) for part in final)]


def _largest(got: Sequence[Array], expected: Sequence[Array]) -> float:
    got, expected = list(got), list(expected)
    shapes = [[np.shape(array) for array in arrays] for arrays in (got, expected)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"expected results of shapes {shapes[1]}, got {shapes[0]}")
    return max(float(np.abs(np.subtract(a, b, dtype=np.float64)).max()) for a, b in zip(got, expected, strict=True))


@contextlib.contextmanager
def _running(framework: str) -> Iterator[None]:
    """Turn errors of a framework into a ValueError that names it; ignore its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImportError:
        raise
    except Exception as error:  # frameworks raise many types
        raise ValueError(f"{framework} cannot run it: {shortened(error)}") from error


def _reread_difference(path: str, model: Layer) -> float:
    case = _case(model)
    return _largest(_results(load(path), case, states=True), _results(model, case, states=True))


def _graph_difference(model: Layer, names: list[str], run: Callable[[dict[str, Array]], list[Array]]) -> float:
    """Return the largest difference of a graph that `to_onnx` made, with inputs of these names."""
    case = _case(model)
    states, lengths = any(name.endswith("h0") for name in names), "lengths" in names
    values = [case.x, *(part for pair in case.states for part in pair)] if states else [case.x]
    feeds = dict(zip([name for name in names if name != "lengths"], values, strict=True))
    if lengths:
        feeds["lengths"] = case.lengths
    return _largest(run(feeds), _results(model, case, states, lengths))


def _onnx_reread_difference(path: str, model: Layer) -> float:
    read = load(path)
    return _graph_difference(model, [value.name for value in read.inputs], read.run)


def _onnxruntime_difference(path: str, model: Layer) -> float:
    with _running("ONNX Runtime"):
        session = _session(path)
        return _graph_difference(
            model, [value.name for value in session.get_inputs()], lambda feeds: session.run(None, feeds)
        )


def _session(model: str | bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _onnxruntime_node_difference(path: str, index: int, lstm: LSTM) -> float:
    """Return the largest difference of one LSTM node, extracted with the nodes that its weights depend on."""
    import onnx
    import onnxruntime  # noqa: F401 (raises if it is not installed)

    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.op_type == "LSTM"]
    if index >= len(nodes):
        raise ValueError("ONNX Runtime cannot run it: a node of an inner graph cannot be extracted")
    case = _case(lstm)
    x = case.x.swapaxes(0, 1) if lstm.batch_first else case.x
    arrays = x, *case.states[0]
    feeds = dict(zip(("lstm_cy.X", "lstm_cy.initial_h", "lstm_cy.initial_c"), arrays, strict=True))
    _cut_out(onnx, model, nodes[index], feeds)
    with _running("ONNX Runtime"):
        Y, h_n, c_n = _session(model.SerializeToString()).run(None, feeds)
    y = Y.swapaxes(1, 2).reshape(*x.shape[:2], -1)
    return _largest([y.swapaxes(0, 1) if lstm.batch_first else y, h_n, c_n], _results(lstm, case, states=True))


def _cut_out(onnx: Any, model: Any, node: Any, feeds: dict[str, Array]) -> None:
    """Reduce a graph to one node with inputs `feeds` and all its outputs, and the nodes that its weights depend on."""
    graph, (X, *states) = model.graph, feeds
    inputs = [*node.input, *[""] * (8 - len(node.input))]
    inputs[0], inputs[4:7] = X, ["", *states]
    node.input[:] = inputs
    node.output[:] = outputs = ["lstm_cy.Y", "lstm_cy.Y_h", "lstm_cy.Y_c"]
    for attribute in node.attribute:
        if attribute.name == "layout":  # ONNX Runtime refuses layout 1; the weights do not depend on it
            attribute.i = 0
    needed = set(outputs)
    kept: list[Any] = []
    for other in reversed(graph.node):
        if needed.intersection(filter(None, other.output)):  # "" stands for an omitted output
            kept.insert(0, onnx.NodeProto.FromString(other.SerializeToString()))
            needed.update(other.input)
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(kept)
    dtype = onnx.helper.np_dtype_to_tensor_dtype(feeds[X].dtype)
    for values, names in ((graph.input, feeds), (graph.output, outputs)):
        values.extend(onnx.helper.make_tensor_value_info(name, dtype, None) for name in names)


def _pytorch_difference(path: str, prefix: str, lstm: LSTM) -> float:
    import torch

    with _running("PyTorch"):
        tensors = own_tensors(dict(flat(_loaded_by_pytorch(torch, path))), prefix, lstm)
        sizes = (lstm.input_size, lstm.hidden_size, lstm.num_layers)
        names = ("bias", "bidirectional", "proj_size", "batch_first")
        options = {name: getattr(lstm, name) for name in names}
        module = torch.nn.LSTM(*sizes, **options, dtype=getattr(torch, lstm.dtype.name))
        module.load_state_dict({name: torch.as_tensor(tensor) for name, tensor in tensors.items()})
        case = _case(lstm)
        with torch.no_grad():
            y, final = module(torch.from_numpy(case.x), tuple(map(torch.from_numpy, case.states[0])))
        got = [part.numpy() for part in (y, *final)]
    return _largest(got, _results(lstm, case, states=True))


def _loaded_by_pytorch(torch: Any, path: str) -> Any:
    if path.lower().endswith(".npz"):
        return dict(np.load(path))
    if path.lower().endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _keras_difference(path: str, model: Sequential) -> float:
    with _running("Keras"):
        keras_model = _keras_library().saving.load_model(path, compile=False)
        case = _case(model, keras_model.inputs[0].shape[1] or _STEPS)
        got = keras_model.predict_on_batch(case.x)
    got = got if isinstance(got, list | tuple) else [got]
    return _largest(got, _results(model, case)[: len(got)])


def _keras_library() -> Any:
    """Import Keras, with an installed backend if KERAS_BACKEND is not set."""
    import importlib.util

    if "KERAS_BACKEND" not in os.environ:
        backends = [name for name in ("tensorflow", "torch", "jax") if importlib.util.find_spec(name)]
        os.environ["KERAS_BACKEND"] = next(iter(backends), "numpy")
    import keras

    return keras
