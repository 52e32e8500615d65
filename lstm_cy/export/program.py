"""The parts of an exported file while it is composed: weights, the state's members, the statements of a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..typing import Array

#: the bytes of C's types
_BYTES = {"float": 4, "double": 8, "int": 4, "int16_t": 2}
_FLUSH = "lstm_flush_denormals();"


def literal(number: float) -> str:
    """Return a float32 as a C constant with the same value."""
    text = f"{np.float32(number):.9g}"
    return (text if "." in text or "e" in text else text + ".0") + "f"


@dataclass
class Program:
    """What the parts of a model add to a file.

    Attributes
    ----------
    floats, bytes : list of (comment, array)
        The weights, in the order of the file.
    members : list of str
        The members of the state that the network's outputs depend on.
    work : {name: (type, size)}
        The working memory in the state.
    reset, step : list of str
        Statements: what sets the state to the initial one, and what computes a step.
    needs : set of str
        The names of the templates that are needed.
    functions : {text: name}
        Functions that were made for this model.
    inputs : list of str
        The C expression of the input of each part.
    title : list of str
        A word for each part.
    block : (units, inputs, weights) or None
        The first layer, if the sums of its inputs can be computed for several steps at a time.
    cells, windows, state_bytes : int
        The number of LSTM layers, of layers with other state, and of the bytes of the state's arrays, so far.
    is_flagged, is_late : bool
        Whether a step can be padding or without an output for the parts that follow; whether the first steps of the
        model can be without an output.
    """

    floats: list[tuple[str, Array]] = field(default_factory=list)
    bytes: list[tuple[str, Array]] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    work: dict[str, tuple[str, int]] = field(default_factory=dict)
    reset: list[str] = field(default_factory=list)
    step: list[str] = field(default_factory=list)
    needs: set[str] = field(default_factory=set)
    functions: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    title: list[str] = field(default_factory=list)
    block: tuple[int, int, str] | None = None
    cells: int = 0
    windows: int = 0
    state_bytes: int = 0
    is_flagged: bool = False
    is_late: bool = False

    @property
    def work_bytes(self) -> int:
        """The bytes of the working memory."""
        return sum(size * _BYTES[kind] for kind, size in self.work.values())

    def state(self, name: str, size: int, copies: int, comment: str, kind: str = "float") -> str:
        """Add an array to the state that a reset sets to zeros; return its C expression."""
        axis = f"[{copies}]" if copies > 1 else ""
        self.members.append(f"{kind} {name}{axis}[{size}]; /* {comment} */")
        self.reset.append(f"memset(state->{name}, 0, sizeof state->{name});")
        self.state_bytes += copies * size * _BYTES[kind]
        return f"state->{name}"

    def number(self, name: str, initial: int, comment: str, kind: str = "int") -> str:
        """Add a number to the state, with its initial value; return its C expression."""
        self.members.append(f"{kind} {name}; /* {comment} */")
        self.reset.append(f"state->{name} = {initial};")
        self.state_bytes += _BYTES[kind]
        return f"state->{name}"

    def with_denormals(self, *statements: str) -> None:
        """Add statements of a step that compute with denormals, as the library does in layers without products."""
        if self.step and self.step[-1] == _FLUSH:
            self.step.pop()
        else:
            self.step.append("lstm_restore_denormals(saved);")
        self.needs.add("SAVED")
        self.step += [*statements, _FLUSH]

    def weights(self, comment: str, array: Array) -> str:
        """Add float32 weights; return the C expression of their address."""
        offset = sum(part.size for _, part in self.floats)
        self.floats.append((comment, array.ravel()))
        return f"w + {offset}"

    def int8_weights(self, comment: str, array: Array) -> str:
        """Add int8 weights; return the C expression of their address."""
        offset = sum(part.size for _, part in self.bytes)
        self.bytes.append((comment, array.ravel()))
        return f"q + {offset}"

    def space(self, name: str, size: int, kind: str = "float") -> str:
        """Ask for working memory; return its C expression."""
        self.work[name] = kind, max(size, self.work.get(name, (kind, 0))[1])
        return f"state->{name}"

    def function(self, prefix: str, text: str) -> str:
        """Add a C function, whose text has {name} for its name; return the name. Equal texts are one function."""
        return self.functions.setdefault(text, f"lstm_{prefix}_{len(self.functions)}")
