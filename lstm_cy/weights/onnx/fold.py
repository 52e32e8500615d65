"""Constant folding of graphs: a weight is a constant, also after any number of an exporter's operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..faults import shortened
from .node import Node, describe_node
from .operators import ATTRIBUTES, OF_STRINGS, OPERATORS, OUTPUTS
from .operators.forms import MICROSOFT
from .operators.forms import form as form_of
from .proto import BFLOAT16, LONGEST_NAME, is_onnx, naming, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...typing import Array
    from ..budget import Budget
    from .proto import Source

#: operators that are more than a function of arrays
STEPS = {"LSTM", "If", "Loop", "Scan", f"{MICROSOFT}.DynamicQuantizeLSTM"}
# Operators that are folded because exporters put them between a weight and its node; others are left for the run.
_FOLDED = {"Add", "Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "Div", "Expand", "Flatten", "Gather"}
_FOLDED |= {"Identity", "Mul", "Pad", "Range", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Sub", "Tile"}
_FOLDED |= {"Transpose", "Unsqueeze"}


class Graph:
    """A graph, or a graph inside another, with folded constants.

    Attributes
    ----------
    constants : dict
        {name: read-only array} of this graph.
    nodes : list of Node
        Nodes of known operators that are not folded, in the graph's order.
    graphs : list of Graph
        The inner graphs of its nodes.

    Raises
    ------
    ValueError
        A value has no source, or two; or the graph exceeds the limits of nodes or depth.
    """

    def __init__(self, source: Source, proto: Any, outer: Graph | None = None) -> None:
        if proto.sparse_initializer:
            raise ValueError("sparse tensors are not supported")
        self._outer = outer
        self._known: set[str] = set()
        self.constants: dict[str, Array] = {}
        self.nodes: list[Node] = []
        self._unsupported: list[tuple[str, str]] = []  # (kind, node)
        self.graphs: list[Graph] = []
        self._narrow = {value.name for value in (*proto.input, *proto.output) if _is_bfloat16(value)}
        for tensor in proto.initializer:
            self._define(tensor.name)
            if tensor.data_type == BFLOAT16:
                self._narrow.add(tensor.name)
            self.constants[tensor.name] = source.array(tensor)
        self.inputs = [value for value in proto.input if value.name not in self.constants]
        for value in self.inputs:
            self._define(value.name)
        made = {name for node in proto.node for name in node.output}
        for node in proto.node:
            self._add(source, node, made)
        self.outputs = list(proto.output)
        for value in self.outputs:
            if not self.knows(value.name):
                raise ValueError(f"no node gives output {quoted(value.name)}")

    def knows(self, name: str) -> bool:
        """Return whether a value of this name is defined so far, in this graph or an enclosing one."""
        return name in self._known or (self._outer is not None and self._outer.knows(name))

    def defines(self, name: str) -> bool:
        """Return whether a value of this name is an input, constant or result of this graph itself."""
        return name in self._known

    def constant(self, name: str) -> Array | None:
        """Return the array of a constant value, or None if it is not constant."""
        if name in self._known or self._outer is None:
            return self.constants.get(name)
        return self._outer.constant(name)

    @property
    def unsupported(self) -> dict[str, list[str]]:
        """The unsupported nodes of this graph and its inner graphs, by operator; the most frequent one first."""
        kinds: dict[str, list[str]] = {}
        for kind, label in self.all_unsupported():
            kinds.setdefault(kind, []).append(label)
        return dict(sorted(kinds.items(), key=lambda item: -len(item[1])))

    def all_unsupported(self) -> Iterator[tuple[str, str]]:
        yield from self._unsupported
        for graph in self.graphs:
            yield from graph.all_unsupported()

    def _define(self, name: str) -> None:
        if not name or name in self._known:
            raise ValueError(f"value {quoted(name)} is given twice" if name else "a value has no name")
        self._known.add(name)

    def _add(self, source: Source, proto: Any, made: set[str]) -> None:
        label = describe_node(proto.name, proto.op_type, proto.output)
        for name in proto.input:
            if name and not self.knows(name):
                why = "made by a later node: a cycle, or not in order" if name in made else "given by nothing"
                raise ValueError(f"{label}: its input {quoted(name)} is {why}")
        graphs: dict[str, Graph] = {}
        for attribute in proto.attribute:
            for graph in attribute.graphs or ([attribute.g] if attribute.HasField("g") else []):
                with source.budget.nested("graphs inside graphs"):
                    graphs[attribute.name] = Graph(source, graph, self)
                    self.graphs.append(graphs[attribute.name])
        with naming(label):
            for name in filter(None, proto.output):
                self._define(name)
            reason = _unsupported(proto, source.opset)
        if reason is not None:
            self._unsupported.append((_kind(proto.op_type, reason), label))
            return
        with naming(label):
            node = Node(source, proto, OPERATORS.get(proto.op_type), proto.op_type in OF_STRINGS, graphs)
        if node.op_type == "CastLike" and node.inputs[1] in self._narrow:
            node.attributes["to"] = BFLOAT16
        node.rounds = not self._narrow.isdisjoint(node.outputs)
        reason = _unknown_values(node)
        if reason:
            self._unsupported.append((_kind(proto.op_type, reason), label))
        elif not self._fold(node, source.budget):
            self.nodes.append(node)

    def _fold(self, node: Node, budget: Budget) -> bool:
        if node.op_type not in _FOLDED:
            return False
        inputs = [self.constant(name) if name else None for name in node.inputs]
        if any(array is None and name for name, array in zip(node.inputs, inputs, strict=True)):
            return False
        results = node.fold(inputs, budget)
        if results is None:
            return False
        self.constants |= {name: array for name, array in zip(node.outputs, results, strict=False) if name}
        return True


def _is_bfloat16(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == BFLOAT16)


def _kind(op_type: str, reason: str) -> str:
    """Return a text for an unsupported operator, or an unsupported use of it."""
    return shortened(op_type, LONGEST_NAME) + (f" ({reason})" if reason else "")


def _unsupported(proto: Any, opset: int) -> str | None:
    """Return why a NodeProto is not supported, "" for an unknown operator, or None if it is supported.

    Raises
    ------
    ValueError
        The operator is known, but its use is not valid in ONNX.
    """
    name = proto.op_type if is_onnx(proto.domain) else f"{proto.domain}.{proto.op_type}"
    if name not in OPERATORS and name not in STEPS:
        return "" if is_onnx(proto.domain) else f"domain {quoted(proto.domain)}"
    form = form_of(name, opset)
    if form is None:
        return f"not in version {opset}"
    for attribute in proto.attribute:
        if form.attributes.get(attribute.name) != attribute.type:
            raise ValueError(f"attribute {quoted(attribute.name)} is unknown, or of another type")
    missing = [name for name in form.required if name not in {a.name for a in proto.attribute}]
    if missing:
        raise ValueError(f"attribute {missing[0]!r} is missing")
    if not form.least <= len(proto.input) <= form.most:
        raise ValueError(f"expected {form.least} to {form.most} inputs, got {len(proto.input)}")
    for index, name in enumerate(proto.input):
        if not name and form.needs(index):
            raise ValueError(f"input {index} is left out, which this operator needs")
    if len(proto.output) > form.outputs:
        raise ValueError(f"expected at most {form.outputs} outputs, got {len(proto.output)}")
    return None


def _unknown_values(node: Node) -> str | None:
    """Return the part of a node that is not implemented, or None."""
    for name, values in ATTRIBUTES.get(node.op_type, {}).items():
        if name in node.attributes and node.attributes[name] not in values:
            return f"{name}={shortened(repr(node.attributes[name]), LONGEST_NAME)}"
    if len(list(filter(None, node.outputs))) > OUTPUTS.get(node.op_type, len(node.outputs)):
        return "more than one output"
    return None
