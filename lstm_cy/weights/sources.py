"""The models in files, as `lstm-cy convert` reads them: a function for each format."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from ..printable import printable
from . import comparisons, native
from .budget import LimitExceeded
from .comparisons import Comparison
from .faults import listed, shortened
from .graph import Graph

if TYPE_CHECKING:
    from ..layers.base import Layer
    from .inputs import Input

# Operators that compute nothing: they change an array's form or select parts of it.
_LAYOUT_OPERATORS = {"Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "Equal", "Expand", "Flatten"}
_LAYOUT_OPERATORS |= {"Identity", "Reshape", "ReverseSequence", "Shape", "Slice", "Split", "Squeeze", "Transpose"}
_LAYOUT_OPERATORS |= {"Unsqueeze", "Where"}


class Source(NamedTuple):
    """The model in a file, and what else is in it.

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


def of_own(path: Input, name: str | None) -> Source:
    """Return the model in a file of this library; raise ForeignFile if it is not one."""
    model: Layer
    model, model.metadata = native.read_model(path, strict=False)
    _refuse_name(path, name)
    return Source(model, None, [])


def of_pytorch(path: Input, name: str | None, batch_first: bool) -> Source:
    """Return an LSTM in a file with tensors under PyTorch's names."""
    from .pytorch.files import read_lstms
    from .pytorch.tensors import shapes_of

    found = read_lstms(path)
    if found.problem:
        raise ValueError(f"{printable(path)}: {found.problem}")
    if name is None and len(found.plans) != 1:
        raise ValueError(
            f"{printable(path)}: expected one LSTM under PyTorch's names and nothing else; its LSTMs: "
            f"{listed(map(repr, found.plans)) or 'none'}; its tensors: {shapes_of(found.tensors)}{_advice(found.plans)}"
        )
    prefix = next(iter(found.plans)) if name is None else _chosen(path, found.plans, name)
    (lstm,) = found.layers(False, [prefix], batch_first=batch_first).values()
    left = [f"{name} {found.tensors[name].shape}" for name in found.others(prefix)]
    return Source(lstm, Comparison("PyTorch", lambda: comparisons.pytorch_difference(str(path), prefix, lstm)), left)


def of_onnx(path: str | bytes, name: str | None) -> Source:
    """Return an LSTM node of an ONNX graph."""
    from .onnx.lstm_nodes import lstms

    found = lstms(path)
    if name is None and len(found) == 1:
        (name,) = found
    name = _chosen(path, found, name)
    comparison = Comparison(
        "ONNX Runtime", lambda: comparisons.onnxruntime_node_difference(str(path), list(found).index(name), found[name])
    )
    return Source(found[name], comparison, _other_nodes(path))


def _advice(names: Any) -> str:
    """Return what to do to take one of several LSTMs, with the first one's name."""
    return f". A name takes one of its LSTMs, such as --name {shortened(repr(next(iter(names))), 200)}" if names else ""


def _other_nodes(path: str | bytes) -> list[str]:
    """Return the operators of a graph besides one of its LSTM nodes, each with its number of nodes."""
    from .onnx.fold import Graph
    from .onnx.proto import Source as Proto
    from .onnx.proto import naming

    proto = Proto(path)
    with naming(path):
        graph = Graph(proto, proto.proto.graph)
    counts = Counter(node.op_type for node in graph.nodes if not _computes_nothing(node, graph.constants))
    counts["LSTM"] -= 1  # the converted node, or one like it
    unsupported = [f"{len(labels)} {kind}" for kind, labels in graph.unsupported.items()]
    return [f"{count} {kind}" for kind, count in counts.items() if count > 0] + unsupported


def _computes_nothing(node: Any, constants: dict[str, Any]) -> bool:
    """Return whether a node computes nothing; Gather from an array of floats is an embedding, which computes."""
    if node.op_type == "Gather":
        table = constants.get(node.inputs[0])
        return table is None or table.dtype.kind != "f"
    return node.op_type in _LAYOUT_OPERATORS


def of_keras(path: Input, name: str | None) -> Source:
    """Return the model in a file of Keras."""
    from .keras.lstms import lstms
    from .keras.model import read_model

    if name is not None:
        found = lstms(path)
        return Source(found[_chosen(path, found, name)], None, ["its other layers"])
    try:
        model = read_model(path)
        if isinstance(model, Graph):
            raise ValueError(f"{printable(path)}: its model is no chain of layers, so that only lstm_cy.load reads it")
    except LimitExceeded:
        raise
    except ValueError as error:
        raise ValueError(f"{error}{_advice(_lstms_of_keras(path))}") from None
    model.metadata = {}
    return Source(model, Comparison("Keras", lambda: comparisons.keras_difference(str(path), model)), [])


def _lstms_of_keras(path: Input) -> list[str]:
    """Return the names of the LSTMs that a file gives, whatever its other layers are."""
    from .keras.lstms import lstms

    try:
        return list(lstms(path))
    except ValueError:
        return []


def of_audio(path: Input, name: str | None) -> Source:
    """Return the model of an amplifier, compared with the output that the file stores, if it does."""
    from .audio.files import read_with_case

    _refuse_name(path, name)
    model, metadata, case = read_with_case(path, False)
    model.metadata = metadata
    comparison = (
        Comparison("the output in the file", lambda: comparisons.stored_difference(model, *case)) if case else None
    )
    return Source(model, comparison, [])


def _chosen(path: object, lstms: Any, name: str | None) -> str:
    """Return the key of `lstms` for a name, or for a prefix with or without the final dot."""
    for candidate in (name, f"{name}."):
        if candidate in lstms:
            return str(candidate)
    names = listed(map(repr, lstms)) or "none"
    raise ValueError(f"{printable(path)}: expected the name of one of its LSTMs: {names}{_advice(lstms)}")


def _refuse_name(path: object, name: str | None) -> None:
    if name is not None:
        raise ValueError(f"{printable(path)}: holds a whole model, expected no name (--name), got {name!r}")
