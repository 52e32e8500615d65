"""A Graph as a Sequential: which of its values are layers that run one after the other on the input.

A graph is run once on a small input, so that the shapes of all values are known. Then each value gets the layers that
compute it, and the axes of the input that its axes come from. At last both are run, and must give the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..layers.residual import Residual
from ..layers.sequential import Sequential
from .faults import shortened
from .stepping import state_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..layers.base import Layer
    from ..typing import Array, Parameters
    from .graph import Graph, Step, Value

#: sizes of the first two variable axes of an input and of the others, to be tried: the first may be the rows or the
#: steps, and some graphs need many steps
_PROBES = ((3, 29, 31), (29, 3, 31), (2, 613, 31), (1, 16384, 31))
#: the largest difference of the outputs of graph and layers, of the largest output
_TOLERANCE = 1e-3
#: the operators that depend on the shape of their input alone
_OF_SHAPES = ("Shape", "Size")


class NoChain(Exception):
    """A step that no layer computes, by the reason."""


class Part:
    """A layer of a chain, which is made when the layout of sequences is known.

    Parameters
    ----------
    kind : type of Layer
    parameters : dict of str to ndarray, or None
        What the layer stores.
    has_layout : bool
        Whether it has the option `batch_first`.
    **options
        Its other options.
    """

    def __init__(self, kind: Any, parameters: Parameters | None = None, has_layout: bool = False, /, **options: Any):
        self.kind, self.options, self.parameters, self._has_layout = kind, options, parameters, has_layout

    def layer(self, batch_first: bool) -> Layer:
        """Make the layer."""
        options = self.options | ({"batch_first": batch_first} if self._has_layout else {})
        if self.parameters is None:
            made: Layer = self.kind(**options)
        else:
            made = self.kind.blank(**options)
            made.restore({name: np.ascontiguousarray(array) for name, array in self.parameters.items()})
        return made


class MadePart(Part):
    """A layer of a chain that is made already, with `batch_first`."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(type(layer))
        self._layer = layer

    def layer(self, batch_first: bool) -> Layer:
        if not batch_first and self._layer.batch_first is not None:
            raise NoChain("its rows come first, and those of the graph do not")
        return self._layer


class SkipPart(Part):
    """Layers of a chain whose input is added to their output."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__(Residual)
        self._parts = parts

    def layer(self, batch_first: bool) -> Layer:
        return Residual(*(part.layer(batch_first) for part in self._parts))


class Atom(NamedTuple):
    """An axis of the input, by its index, or a new one with a larger number, and its size: more than 1."""

    number: int
    size: int


#: what an axis of a value is made of; axes of size 1 of nothing
Axis = tuple[Atom, ...]


class Link(NamedTuple):
    """A value of a graph that layers compute.

    Attributes
    ----------
    parts : tuple of Part
        From the input on.
    axes : tuple of Axis
    pads : (int, int)
        Zeros before and after the steps, which a convolution has to take.
    ahead : int
        Further steps at the end, which have to be cut off.
    is_state : bool
        Whether it is the final h of an LSTM, which graphs often return besides what they are made for.
    """

    parts: tuple[Part, ...]
    axes: tuple[Axis, ...]
    pads: tuple[int, int] = (0, 0)
    ahead: int = 0
    is_state: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return tuple(math.prod(atom.size for atom in axis) for axis in self.axes)

    def then(self, *parts: Part, axes: Sequence[Axis] | None = None) -> Link:
        """Return the value after further layers."""
        return Link((*self.parts, *parts), self.axes if axes is None else tuple(axes))


class Chain:
    """The values of a graph as layers that run one after the other.

    Parameters
    ----------
    graph : Graph

    Attributes
    ----------
    links : dict of str to Link
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._first, *others = graph.inputs
        self._states = state_pairs(graph.inputs, graph.outputs)
        unknown = [value.name for value in others if value.name not in self._states]
        if unknown:
            names = f"{self._first.name} and {', '.join(unknown)}"
            raise ValueError(f"expected one input, besides states, got {names}; stepper(states=) names what is a state")
        self._given, self._values = _probe(graph)
        self._known = {*graph.constants, *(value.name for value in others)}
        axes = tuple(axis_of_size(number, size) for number, size in enumerate(self._given[self._first.name].shape))
        self._new, self._own = len(axes), axes
        self._positions: set[int] = set()  # the axes of the input that are rows or steps
        self._features: set[int] = set()
        self._roles: dict[str, int | None] = {}  # the axis that are the rows, and the steps; None: it has size 1
        self.links = {self._first.name: Link((), axes)}
        self._problems: dict[str, tuple[str, str]] = {}  # {value: (problem, the last value before it)}
        for step in graph.steps:
            self._visit(step)

    def sequential(self, name: str) -> Sequential:
        """Return the layers that compute a value; raise ValueError if there are none."""
        if name in self._problems:
            problem, last = self._problems[name]
            advice = f"; the part up to {last!r} can: sequential({last!r})" if self._is_part(last) else ""
            raise ValueError(problem + advice)
        link = self.links.get(name)
        if link is None:
            raise ValueError(f"{name!r}: expected a value that depends on the input, got one that does not")
        if not link.parts:
            raise ValueError(f"{name!r}: expected a value that layers compute, got the input itself")
        if link.ahead or any(link.pads):
            raise ValueError(f"{name!r}: expected no steps before or after those of the input")
        self._settle(link)
        try:
            model = Sequential(*(part.layer(self._batch_first) for part in link.parts))
        except (NoChain, TypeError, ValueError) as error:
            raise ValueError(f"{name!r}: {shortened(error)}") from None
        self._compare(model, link, name)
        return model

    def output(self) -> str:
        """Return the name of the output that layers compute, or of the first one; raise if there are several."""
        names = [value.name for value in self._graph.outputs if value.name not in self._states.values()]
        found = [name for name in names if name in self.links]
        found = [name for name in found if not self.links[name].is_state] or found[:1] or names[:1]
        if len(found) != 1:
            raise ValueError(f"output: expected one of {found or names}, got None")
        return found[0]

    def _is_part(self, name: str) -> bool:
        link = self.links[name]
        return bool(link.parts) and not link.ahead and not any(link.pads)

    # Steps

    def _visit(self, step: Step) -> None:
        names = [name for name in step.inputs if name]
        if step.op_type in _OF_SHAPES or all(name in self._known for name in names):
            self._known.update(filter(None, step.outputs))
            return
        blocked = [self._problems[name] for name in names if name in self._problems]
        links = [self.links[name] for name in names if name in self.links]
        try:
            if blocked:
                found: Sequence[Link | None] = []
            elif any(link.ahead for link in links) and step.op_type != "Slice":
                raise NoChain("its input has more steps than the input of the graph, and needs later ones")
            elif any(any(link.pads) for link in links) and step.op_type != "Conv":
                raise NoChain("its input has zeros before or after the steps")
            else:
                found = self._links(step)
        except (NoChain, AttributeError, LookupError, TypeError, ValueError) as error:
            last = max((name for name in names if name in self.links), key=lambda name: len(self.links[name].parts))
            blocked, found = [(f"{step}: {shortened(error)}", last)], []
        for name, link in zip(step.outputs, [*found, *[None] * len(step.outputs)], strict=False):
            if name and link is not None:
                self.links[name] = link
            elif name:
                last = max(self.links, key=lambda name: len(self.links[name].parts))
                self._problems[name] = blocked[0] if blocked else (f"{step}: no layer computes {name!r}", last)

    def _links(self, step: Step) -> Sequence[Link | None]:
        chained = getattr(step, "chained", None)
        if chained is None:
            raise NoChain("no layer computes it")
        given = [self.links.get(name, self._values.get(name)) if name else None for name in step.inputs]
        shapes = [self._values[name].shape if name else None for name in step.outputs]
        found: Sequence[Link | None] = chained(self, given, shapes)
        for link, shape in zip(found, shapes, strict=False):
            if link is not None and shape is not None and link.shape != shape:
                raise NoChain(f"expected a result of shape {link.shape}, got {shape}")
        return found

    # What the conversions of steps use

    def new_axis(self, size: int) -> Axis:
        """Return an axis of features that did not exist before."""
        self._new += 1
        return axis_of_size(self._new, size)

    def features(self, link: Link, axis: int) -> int:
        """Note that an axis has the features, and the others rows and steps; return its size."""
        own = {atom.number for atom in link.axes[axis]}
        others = [atoms for place, atoms in enumerate(link.axes) if place != axis % len(link.axes)]
        self._features |= own
        self._positions |= {atom.number for atoms in others for atom in atoms}
        wrong = self._features & self._positions
        if wrong or any(number >= len(self._own) for number in self._positions):
            raise NoChain("it joins rows, steps or features in another way than a layer does")
        return link.shape[axis]

    def sequence(self, link: Link, rows: int, steps: int, axis: int) -> int:
        """Note which axes have the rows, the steps and the features; return the number of features."""
        size = self.features(link, axis)
        for role, place in (("rows", rows), ("steps", steps)):
            atoms = link.axes[place]
            if len(atoms) > 1:
                raise NoChain(f"expected one axis as its {role}, got several in one")
            number = atoms[0].number if atoms else None
            if self._roles.setdefault(role, number) != number:
                raise NoChain(f"its {role} are not those of the layers before it")
        return size

    def steps_of(self, link: Link) -> int:
        """Return the axis of the steps; raise if it is not known."""
        number = self._roles.get("steps")
        found = [place for place, axis in enumerate(link.axes) if number in [atom.number for atom in axis]]
        if number is None or len(found) != 1 or len(link.axes[found[0]]) != 1:
            raise NoChain("its axis of steps is not known")
        return found[0]

    @property
    def has_steps(self) -> bool:
        """Whether the graph has an axis of steps, and not only one step."""
        return self._roles.get("steps") is not None

    def resized(self, axis: Axis, size: int) -> Axis:
        """Return an axis with another number of steps."""
        return (Atom(axis[0].number, size),) if axis else ()

    def reshaped(self, link: Link, shape: Sequence[int]) -> Link:
        """Return the value in another shape with the same elements in the same order."""
        left = [atom for axis in link.axes for atom in axis if atom.size > 1]
        axes: list[Axis] = []
        for size in shape:
            axis: list[Atom] = []
            while math.prod(atom.size for atom in axis) < size:
                if not left:
                    raise NoChain("it changes the number of elements")
                missing = size // math.prod(atom.size for atom in axis)
                if left[0].size > missing:
                    left[:1] = self._split(left[0], missing)
                axis.append(left.pop(0))
            if math.prod(atom.size for atom in axis) != size:
                raise NoChain("it joins parts of axes")
            axes.append(tuple(axis))
        return link._replace(axes=tuple(axes))

    def _split(self, atom: Atom, first: int) -> list[Atom]:
        """Cut an axis of features in two, of sizes `first` and what is left."""
        if atom.size % first or atom.number in self._positions:
            raise NoChain("it splits an axis of rows or steps, or parts of axes")
        self._new += 2
        self._features |= {atom.number, self._new - 1, self._new}
        return [Atom(self._new - 1, first), Atom(self._new, atom.size // first)]

    def along_features(self, link: Link, array: Array) -> Array:
        """Return a constant that is combined with a value as one number for each feature, or as one number ()."""
        if array.size == 1:
            return array.reshape(())
        wide = array.reshape((1,) * (len(link.axes) - array.ndim) + array.shape)
        places = [place for place, size in enumerate(wide.shape) if size > 1]
        if wide.ndim != len(link.axes) or len(places) != 1 or wide.size != link.shape[places[0]]:
            raise NoChain("its constant is not one number for each feature")
        self.features(link, places[0])
        return array.reshape(-1)

    def sum(self, a: Any, b: Any) -> Link:
        """Return the sum of a value and of one that layers compute from it; raise for others."""
        if not isinstance(a, Link) or not isinstance(b, Link):
            raise NoChain("expected two values that depend on the input")
        before, rest = self.between(a, b)
        if a.shape != b.shape:
            raise NoChain("it adds values of different shapes")
        return Link((*before.parts, SkipPart(rest)), max(a, b, key=lambda link: len(link.parts)).axes)

    def between(self, a: Link, b: Link) -> tuple[Link, tuple[Part, ...]]:
        """Return one of two values, and the layers that compute the other from it; raise if there are none."""
        before, after = sorted((a, b), key=lambda link: len(link.parts))
        rest = after.parts[len(before.parts) :]
        if any(one is not other for one, other in zip(before.parts, after.parts, strict=False)) or not rest:
            raise NoChain("it joins values of which none follows from the other by layers")
        return before, rest

    def applied(self, link: Link, parts: Sequence[Part], shape: Sequence[int]) -> Link:
        """Return a value (rows, steps, features) after layers that give another one, without steps perhaps."""
        rows, *others = link.axes
        if others and len(link.axes) == 3:
            self.sequence(link, 0, 1, 2)
        steps = others[0] if others else ()
        axes = [rows, *[self.resized(steps, shape[1])] * (len(shape) == 3), self.new_axis(shape[-1])]
        made = link.then(*parts, axes=axes)
        if len(shape) == 3:
            self.sequence(made, 0, 1, 2)
        else:
            self.features(made, -1)
        return made

    # The whole

    def _settle(self, link: Link) -> None:
        """Decide on the axes of rows and steps if no layer has."""
        left = [axis[0].number for axis in self._own if axis and axis[0].number not in self._features]
        for role in ("rows", "steps"):
            if role not in self._roles:
                free = [number for number in left if number not in self._roles.values()]
                self._roles[role] = free[0] if free else None

    @property
    def _batch_first(self) -> bool:
        rows, steps = self._roles["rows"], self._roles["steps"]
        return steps != 0 if rows is None or steps is None else rows < steps

    def _arranged(self, array: Array, axes: Sequence[Axis]) -> Array:
        """Return a value as (rows, steps, features)."""
        atoms = [atom for axis in axes for atom in axis if atom.size > 1]
        places = {self._roles["rows"]: 0, self._roles["steps"]: 1}
        keys = [places.get(atom.number, 2) for atom in atoms]
        order = sorted(range(len(atoms)), key=keys.__getitem__)
        sizes = [math.prod(atom.size for atom, key in zip(atoms, keys, strict=True) if key == one) for one in (0, 1)]
        return array.reshape([atom.size for atom in atoms]).transpose(order).reshape(*sizes, -1)

    def _compare(self, model: Sequential, link: Link, name: str) -> None:
        """Raise unless a model computes what the graph does, in two calls if the graph has states."""
        given, states, values = dict(self._given), None, self._values
        for number in range(1 + bool(self._states)):
            if number:
                given |= {before: values[after] for before, after in self._states.items()}
                values = _run(self._graph, given)
            x = self._arranged(given[self._first.name], self._own)
            x = x[..., 0] if model.vocabulary_size is not None else x
            y, states = model(x if self._batch_first else x.swapaxes(0, 1), states)
            y = y[:, np.newaxis] if not model.gives_steps else y if self._batch_first else y.swapaxes(0, 1)
            expected = self._arranged(values[name], link.axes)
            largest = np.abs(expected).max(initial=1e-6)
            if y.shape != expected.shape or not np.abs(y - expected).max(initial=0) <= _TOLERANCE * largest:
                raise ValueError(f"{name!r}: layers one after the other would not compute the same")


def axis_of_size(number: int, size: int) -> Axis:
    """Return an axis of one Atom, or of none."""
    return (Atom(number, size),) if size > 1 else ()


def _probe(graph: Graph) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return a small input of a graph, zeros for its states, and all values that follow."""
    problem: Exception | None = None
    for sizes in _PROBES:
        try:
            given = _inputs(graph.inputs, sizes)
            return given, _run(graph, given)
        except (TypeError, ValueError) as error:
            problem = problem or error
        if not any(isinstance(size, str) or size is None for value in graph.inputs for size in value.shape or ()):
            break
    raise ValueError(f"expected a graph that runs on numbers of its input's shape: {shortened(problem)}")


def _run(graph: Graph, given: dict[str, Array]) -> dict[str, Array]:
    values = dict(graph.constants) | given
    with np.errstate(all="ignore"):  # infinity and NaN are valid results
        for step in graph.steps:
            results = step.run([values[name] if name else None for name in step.inputs])
            values.update((name, array) for name, array in zip(step.outputs, results, strict=False) if name)
    return values


def _inputs(inputs: Sequence[Value], sizes: Sequence[int]) -> dict[str, Array]:
    """Return {name: array}: drawn numbers for the first input, zeros for the others."""
    first, second, others = sizes
    free: Iterator[int] = iter([first, second])
    named: dict[str | int, int] = {}
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for value in inputs:
        if value.shape is None:
            raise ValueError(f"{value.name}: expected an input of known shape")
        if value.dtype.kind not in "fiu":
            raise ValueError(f"{value.name}: expected numbers, got {value.dtype}")
        shape = []
        for place, size in enumerate(value.shape):
            if not isinstance(size, int):
                key = size if isinstance(size, str) else place
                if key not in named:
                    named[key] = next(free, others)
                size = named[key]
            shape.append(size)
        if arrays:
            arrays[value.name] = np.zeros(shape, value.dtype)
        elif value.dtype.kind == "f":
            arrays[value.name] = rng.standard_normal(shape).astype(value.dtype)
        else:
            arrays[value.name] = rng.integers(0, 2, shape).astype(value.dtype)
    return arrays


def sequential(graph: Graph, output: str | None) -> Sequential:
    """Implement `Graph.sequential`."""
    try:
        if not graph.inputs:
            raise ValueError("expected a graph with an input")
        chain = Chain(graph)
        model = chain.sequential(chain.output() if output is None else output)
    except ValueError as error:
        advice = "; Graph.pool has streams of a graph with states" if state_pairs(graph.inputs, graph.outputs) else ""
        raise ValueError(f"sequential: {error}{advice}") from None
    model.metadata = dict(getattr(graph, "metadata", graph.properties))
    return model
