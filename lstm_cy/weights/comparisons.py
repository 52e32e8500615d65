"""Comparisons of models with their files, which other frameworks or this library run on random input."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..layers.masking import Masking
from .containers.safetensors import is_safetensors
from .faults import shortened
from .inputs import input_of
from .marks import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..layers.base import Layer
    from ..layers.lstm import LSTM
    from ..layers.sequential import Sequential
    from ..typing import Array
    from .graph import Graph

_STEPS, _ROWS = 9, 3


class Comparison(NamedTuple):
    """A label of the framework that a model is compared with, and a function that compares.

    The function returns the largest difference. It raises ImportError if the framework is not installed, and ValueError
    if the framework cannot run the model.
    """

    label: str
    difference: Callable[[], float]


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
        value = _mask_value(first)
        if value is not None:
            x[rng.random(shape) < 0.3] = value
    lstms = [*_lstms(model)]
    shapes = [[(lstm.num_layers * lstm.num_directions, _ROWS, size) for size in _sizes(lstm)] for lstm in lstms]
    states = [tuple(rng.standard_normal(shape).astype(model.dtype) for shape in pair) for pair in shapes]
    return _Case(x, states, rng.integers(1, steps + 1, _ROWS).astype(np.int32))


@functools.singledispatch
def _mask_value(layer: Layer) -> float | None:
    """Return the value of the features of a masked step, or None if the layer masks no steps of numbers."""
    return None


@_mask_value.register(Masking)
def _(layer: Masking) -> float:
    return layer.mask_value


def _lstms(layer: Any) -> Iterator[Any]:
    """Yield the LSTMs of a model in the order of its states."""
    if layer.parts:
        for part in layer.parts:
            yield from _lstms(part)
    elif layer.num_states:
        yield layer


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


def reread_difference(read: Layer, model: Layer) -> float:
    """Return the largest difference of a model from the one that its file gives."""
    case = _case(model)
    return _largest(_results(read, case, states=True), _results(model, case, states=True))


def stored_difference(model: Layer, x: Array, y: Array) -> float:
    """Return the largest difference of a model's output for one sequence from an output that was stored with it."""
    return _largest([model(x)[0]], [y])


def _graph_difference(model: Layer, names: list[str], run: Callable[[dict[str, Array]], list[Array]]) -> float:
    """Return the largest difference of a graph that `to_onnx` made, with inputs of these names."""
    case = _case(model)
    states, lengths = any(name.endswith("h0") for name in names), "lengths" in names
    values = [case.x, *(part for pair in case.states for part in pair)] if states else [case.x]
    feeds = dict(zip([name for name in names if name != "lengths"], values, strict=True))
    if lengths:
        feeds["lengths"] = case.lengths
    return _largest(run(feeds), _results(model, case, states, lengths))


def graph_difference(read: Graph, model: Layer) -> float:
    """Return the largest difference of a model from the graph that its .onnx file gives."""
    return _graph_difference(model, [value.name for value in read.inputs], read.run)


def onnxruntime_difference(path: str, model: Layer) -> float:
    """Return the largest difference of a model from its .onnx file, run by ONNX Runtime."""
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


def onnxruntime_node_difference(path: str, index: int, lstm: LSTM) -> float:
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


def pytorch_difference(path: str, prefix: str, lstm: LSTM) -> float:
    """Return the largest difference of an LSTM from the torch.nn.LSTM with the tensors of its file."""
    import torch

    with _running("PyTorch"):
        tensors = _own_tensors(dict(_flat(_loaded_by_pytorch(torch, path))), prefix, lstm)
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


def _own_tensors(tensors: Any, prefix: str, lstm: LSTM) -> dict[str, Any]:
    """Return {parameter: tensor} of the LSTM that `pytorch.lstms` found under `prefix`, from the pairs of `_flat`."""
    own = {}
    for path, tensor in tensors.items():
        for name in (path, path.rpartition("/")[2]):
            part = name.removeprefix(prefix)
            for parameter in (part, f"{part}_l0"):  # an LSTMCell's parameters have no number
                if name.startswith(prefix) and parameter in lstm.parameters:
                    own[parameter] = tensor
    return own


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, tensor) for nested dicts and lists; keys and indices come before the names."""
    if hasattr(value, "shape"):
        yield prefix, value
    elif isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(inner, f"{prefix}/{key}" if prefix else str(key))


def _loaded_by_pytorch(torch: Any, path: str) -> Any:
    if kind_of(input_of(path)) == "npz":
        return dict(np.load(path))
    if is_safetensors(path):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def keras_difference(path: str, model: Sequential) -> float:
    """Return the largest difference of a model from its file, run by Keras."""
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
