"""The parts of an exported file while it is composed: weights, the state's members, the statements of a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..typing import Array


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
    cells, state_floats : int
        The number of LSTM layers, and of numbers in the state, so far.
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
    state_floats: int = 0

    @property
    def state_bytes(self) -> int:
        """The bytes of the arrays in the state."""
        sizes = [size * (2 if kind == "int16_t" else 4) for kind, size in self.work.values()]
        return sum(sizes) + 4 * self.state_floats

    def state(self, name: str, size: int, copies: int, comment: str) -> str:
        """Add an array to the state that a reset sets to zeros; return its C expression."""
        axis = f"[{copies}]" if copies > 1 else ""
        self.members.append(f"float {name}{axis}[{size}]; /* {comment} */")
        self.reset.append(f"memset(state->{name}, 0, sizeof state->{name});")
        self.state_floats += copies * size
        return f"state->{name}"

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
