"""Graph: a model of steps between named arrays, as ONNX files and Keras's functional models describe it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..checks import one_of, positive_int, real_array, shown
from ..layers.narrow import KINDS
from ..notebook import html_table
from ..printable import printable
from .ownership import owned_bytes, owner
from .plans.cache import Plans
from .plans.record import GraphPlan, record
from .tracing import is_traced, traced

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..layers.sequential import Sequential
    from ..streaming.stepper import Stepper
    from ..typing import Array, ArrayLike, Narrow
    from .pooling import GraphPool
    from .stepping import GraphStepper

#: the dtype of arrays of strings
STRINGS = np.dtype(object)
#: most bytes of all live results of a run, or this many times the bytes of its inputs and constants
LARGEST_RUN, RUN_FACTOR = 1 << 32, 16
#: the header of a summary
_COLUMNS = ("", "operator", "inputs", "outputs", "parameters", "bytes")


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


class Step(Protocol):
    """One computation of a graph; `str` of it names it in errors.

    Attributes
    ----------
    name, op_type : str
        Its name, which may be empty, and the kind of computation.
    inputs, outputs : tuple of str
        Names of values; empty for an omitted one.
    """

    @property
    def name(self) -> str: ...
    @property
    def op_type(self) -> str: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def outputs(self) -> tuple[str, ...]: ...

    def run(self, inputs: Sequence[Any]) -> Sequence[Array]:
        """Compute the outputs from the inputs, None for an omitted one."""

    def weights(self) -> Iterable[Array]:
        """Return the arrays that the step holds itself."""


class Graph:
    """A model that computes named arrays step by step; `from_onnx`, `from_keras` and `load` make it.

    Several threads may run it at the same time.

    Parameters
    ----------
    inputs, outputs : sequence of Value
        Of `run`, in order.
    steps : sequence of Step
        Each takes constants, inputs of the graph and outputs of steps before it.
    constants : mapping of str to ndarray
        Those that `steps` and `outputs` use.

    Attributes
    ----------
    inputs, outputs : tuple of Value
        The inputs and outputs of `run`, in the model's order.
    properties : dict of str to str
        The metadata_props of an .onnx file.
    report : dict
        What `quantize` measured; only of its result.

    Examples
    --------
    A graph of an ONNX file, with `onnx` installed::

        model = lstm_cy.load("model.onnx")
        model.inputs  # names, shapes and dtypes
        y = model(x)  # by position; or by name:
        (y,) = model.run({"x": x})

    A graph of one step of one's own:

    >>> import numpy as np
    >>> from lstm_cy import Graph
    >>> from lstm_cy.weights.graph import Value
    >>> class Add:
    ...     name, op_type, inputs, outputs = "sum", "Add", ("x", "bias"), ("y",)
    ...
    ...     def run(self, inputs):
    ...         return [inputs[0] + inputs[1]]
    ...
    ...     def weights(self):
    ...         return []
    >>> x, y = (Value(name, (None, 2), np.dtype(np.float32)) for name in "xy")
    >>> model = Graph([x], [y], [Add()], {"bias": np.float32([1, 2])})
    >>> model
    Graph(x -> y)
    >>> model([[10, 20]])
    array([[11., 22.]], dtype=float32)
    """

    properties: dict[str, str]
    metadata: dict[str, Any]
    report: dict[str, Any]

    def __init__(
        self,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        steps: Sequence[Step],
        constants: Mapping[str, Array] | None = None,
    ) -> None:
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._steps = list(steps)
        used = {name for step in self._steps for name in step.inputs} | {value.name for value in self.outputs}
        self._constants = {name: array for name, array in (constants or {}).items() if name in used}
        self._constant_bytes = owned_bytes(self._constants.values())
        self._everything = self._needed([value.name for value in self.outputs])
        self._plans: Plans | None = None
        self.properties = {}

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(printable(value.name) for value in ends) for ends in (self.inputs, self.outputs))
        return f"{type(self).__name__}({inputs} -> {outputs})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": None}

    def __call__(self, *inputs: ArrayLike) -> Any:
        """Run the graph with inputs by position.

        Parameters
        ----------
        *inputs : array_like
            One for each of `self.inputs`, in order; as for `run`.

        Returns
        -------
        ndarray or tuple of ndarray
            The output; a tuple if the graph has several.

        Raises
        ------
        TypeError, ValueError
            As `run`; or there are more or fewer inputs.
        """
        if len(inputs) != len(self.inputs):
            names = [value.name for value in self.inputs]
            raise TypeError(f"inputs: expected {len(names)}, for {names}, got {len(inputs)}")
        results = self.run(dict(zip((value.name for value in self.inputs), inputs, strict=True)))
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, inputs: Mapping[str, ArrayLike], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run the graph.

        Parameters
        ----------
        inputs : mapping of str to array_like
            One array for each of `self.inputs`, of its shape; it is converted to its dtype if NumPy's ``same_kind``
            rule allows it. Sizes with the same name must be equal. The arrays are not changed.
        outputs : None or sequence of str
            The names of the outputs to compute; None for all. Steps that they do not need are not run.

        Returns
        -------
        list of ndarray
            New arrays, in the order of `outputs` or of the graph.

        Raises
        ------
        TypeError, ValueError
            Inputs are missing, unknown or of another shape or dtype; a step's inputs do not match, or its result is
            larger than its inputs and takes more than 2 GiB. The message names the input or step.
        """
        names = self._output_names(outputs)
        values = self._given(inputs)
        steps = self._everything if outputs is None else self._needed(names)
        given = dict(values)
        results = None if is_traced() else self._planned.run(names, steps, given, self._limit(values))
        if results is None:
            self._execute(steps, values)
            results = [np.array(self._constants.get(name, values.get(name))) for name in names]
        return results

    def plan(self, inputs: Mapping[str, ArrayLike], runs: int = 21) -> GraphPlan:
        """Return what runs where for inputs of these shapes, and how long each part takes.

        A plan is made at the first run with inputs of some shapes, and used by later runs; the plans of the 16 last
        shapes are kept. Whole numbers without axes, such as a sampling rate, count as a part of the shapes. What
        follows from shapes and constants is computed then, a branch that it decides on replaces its If, and a
        convolution or a product with a constant matrix also does the normalization, the addition and the activation
        after it.

        Parameters
        ----------
        inputs : mapping of str to array_like
            As for `run`.
        runs : int
            How often it is run to be timed.

        Returns
        -------
        GraphPlan
            `print` shows a table of the parts: computed by "kernels", in one call without the GIL, or called from
            "python".

        Raises
        ------
        TypeError, ValueError
            As `run`; or `runs` is not a positive integer.
        """
        runs = positive_int("runs", runs)
        names, values = self._names(), self._given(inputs)
        if self._planned.find(names, values) is None:
            self.run(values)
        plan = self._planned.find(names, values)
        if plan is None:
            raise ValueError("plan: its results would take too much memory together; the steps are run one by one")
        return record(plan, [*values.values()], runs)

    def stepper(
        self,
        states: Mapping[str, str] | None = None,
        *,
        constants: Mapping[str, ArrayLike] | None = None,
        batch_size: int = 1,
    ) -> GraphStepper | Stepper:
        """Return what runs the graph step by step, and keeps its states.

        Parameters
        ----------
        states : None or mapping of str to str
            The inputs that are states, and for each the output with its new value. None: those whose names belong
            together (h and hn, state and stateN, h_in and h_out, c and new_c), and of the other inputs and outputs but
            the first those of the same shape.
        constants : None or mapping of str to array_like
            Inputs that are the same in every step, such as a sample rate.
        batch_size : int
            The variable size of the states' shapes, or B of a Stepper.

        Returns
        -------
        GraphStepper or Stepper
            A GraphStepper if the graph has states, which are zero. Else the Stepper of `sequential()`: its states are
            those of LSTMs, and the steps that convolutions and pooling have read.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit the graph; or no states are found, or one without a known shape, and the graph is
            no chain of layers either. The message says why, and which part can be stepped.

        Examples
        --------
        The step of a voice detector with the inputs input, state and sr and the outputs output and stateN::

            stepper = lstm_cy.load("silero_vad.onnx").stepper(constants={"sr": 16000})
            probability = stepper.step(samples)  # (1, 576): 64 samples of the last step, and 512 new ones
        """
        from .stepping import GraphStepper, state_pairs

        if states is None and not constants and not state_pairs(self.inputs, self.outputs):
            return self.sequential().stepper(batch_size)
        return GraphStepper(self, states, constants, batch_size)

    def pool(
        self,
        states: Mapping[str, str] | None = None,
        *,
        constants: Mapping[str, ArrayLike] | None = None,
        input_shape: Sequence[int] | None = None,
    ) -> GraphPool:
        """Return a GraphPool: any number of streams over a graph with states, which step together.

        For a chain of layers without such states there is `StreamPool(graph)`.

        Parameters
        ----------
        states, constants :
            As for `stepper`.
        input_shape : None or sequence of int
            The shape of one stream's input, without the axis of rows; None if the graph has it.

        Returns
        -------
        GraphPool
            Without streams. An AsyncStreamPool takes it as its model.

        Raises
        ------
        TypeError, ValueError
            As `stepper`; or there are several inputs or outputs besides states and constants, or rows that depend on
            each other.

        Examples
        --------
        Streams of a voice detector that takes 576 samples at a time::

            pool = lstm_cy.load("silero_vad.onnx").pool(constants={"sr": 16000}, input_shape=[576])
            first, second = pool.join(), pool.join()
            probabilities = pool.step([first, second], samples)  # samples (2, 576)
        """
        from .pooling import GraphPool

        return GraphPool(self, states, constants, input_shape)

    def sequential(self, output: str | None = None) -> Sequential:
        """Return the graph as layers that run one after the other: a Sequential that computes the same.

        It can be stepped, streamed, trained, quantized and saved. `stepper`, `StreamPool`, `AsyncStreamPool` and the C
        interface make it themselves.

        Parameters
        ----------
        output : None or str
            The name of the value that it computes: an output, or any other value, for a part of the graph. None: the
            output that layers compute, if there is one besides states.

        Returns
        -------
        Sequential
            With copies of the weights, and with `batch_first` unless the graph's steps come before its rows. Its input
            is (B, T, features) or (T, B, features), also where a convolution of the graph has the features before the
            steps. Its states begin with zeros. The metadata are those of the graph.

        Raises
        ------
        ValueError
            No Sequential computes the same; the message names the step and, if there is one, the value up to which
            layers do.

        Notes
        -----
        Graph and layers are run once on random numbers and compared. Their results differ by the rounding of the layers
        at most.

        Examples
        --------
        >>> import numpy as np, onnx
        >>> from lstm_cy import from_onnx
        >>> text = '''<ir_version: 8, opset_import: ["": 17]> g (float[B, 3, T] x) => (float[B, 4, T] y)
        ... <float[4, 3, 2] w = {1, 2, 0, 1, 3, 1, 0, 1, 0, 2, 1, 2, 0, 1, 3, 1, 0, 1, 0, 1, 0, 1, 1, 2}> {
        ...     causal = Conv <pads = [1, 0]> (x, w)
        ...     y = Tanh (causal)
        ... }'''
        >>> model = from_onnx(onnx.parser.parse_model(text)).sequential()
        >>> model.layers
        (Conv1D(3, 4, 2, padding='causal', bias=False, batch_first=True), Activation('tanh'))
        >>> model.stepper().step([0.0, 0.0, 1.0]).shape
        (4,)
        """
        from .chains import sequential

        return sequential(self, output)

    def summary(self) -> None:
        """Print a table of the steps: operator, names of inputs and outputs, number of parameters and their bytes."""
        lines = [_COLUMNS, *self._summary_rows()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            cells = [
                cell.rjust(width) if column > 3 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            print("  ".join(cells).rstrip())

    def _repr_html_(self) -> str:
        return html_table(repr(self), self._summary_rows(), _COLUMNS)

    def _summary_rows(self) -> list[tuple[str, ...]]:
        """Return the lines of `summary` below its header; the totals come last, where shared arrays count once."""
        rows, every = [], []
        for step in self._steps:
            constants = [self._constants[name] for name in step.inputs if name in self._constants]
            arrays = [array for array in (*constants, *step.weights()) if array.dtype.kind == "f"]
            every += arrays
            names = (", ".join(filter(None, ends)) for ends in (step.inputs, step.outputs))
            rows.append((*map(printable, (step.name, step.op_type, *names)), *_size(arrays)))
        distinct = {id(owner(array)): array for array in every}
        return [*rows, ("", "total", "", "", *_size(distinct.values()))]

    @property
    def _planned(self) -> Plans:
        if self._plans is None:
            self._plans = Plans(self)
        return self._plans

    @property
    def constants(self) -> Mapping[str, Array]:
        """The constants by name, which must not be changed."""
        return self._constants

    @property
    def steps(self) -> Sequence[Step]:
        """The steps, in the order in which they are computed."""
        return tuple(self._steps)

    def steps_for(self, outputs: list[str] | None) -> Sequence[tuple[Step, set[str]]]:
        """Return the steps that some outputs need.

        Parameters
        ----------
        outputs : None or list of str
            None for all outputs.

        Returns
        -------
        sequence of (step, set of str)
            In their order, each with the names of the values that no later step needs.
        """
        return self._everything if outputs is None else self._needed(outputs)

    def quantize(self, kind: Narrow, sample: Mapping[str, ArrayLike] | None = None) -> Graph:
        """Return a graph with narrow weights in its LSTMs, which shares everything else with this one.

        Parameters
        ----------
        kind : {"bf16", "int8"}
            As for `LSTM.quantize`.
        sample : None or mapping of str to array_like
            Inputs as for `run`: each LSTM is measured on its input in this run. None, and for LSTMs inside other steps
            than models of Keras: each is measured on standard normal numbers.

        Returns
        -------
        Graph
            Its `report` is {name of the step, or of its first output if it has no name: the LSTM's report}. The weights
            of other steps, and of LSTMs whose weights are computed in the graph, stay as they are.

        Raises
        ------
        TypeError, ValueError
            As in `LSTM.quantize`, and `run`; or there is no LSTM with constant float32 weights.

        Examples
        --------
        A graph of a file::

            narrow = lstm_cy.load("model.onnx").quantize("int8", sample={"x": x})
        """
        one_of("kind", kind, KINDS)
        values = None if sample is None else self._given(sample)
        report: dict[str, Any] = {}
        made = self.quantized(kind, values, report)
        if not report:
            kinds = sorted({step.op_type for step in self._steps})
            raise ValueError(f"quantize: expected a graph with an LSTM of constant weights, got {', '.join(kinds)}")
        made.report = report
        return made

    def quantized(self, kind: Narrow, values: dict[str, Array] | None, report: dict[str, Any]) -> Graph:
        """Return a graph with narrow weights; see `quantize`.

        Parameters
        ----------
        kind : {"bf16", "int8"}
        values : None or dict of str to ndarray
            The inputs of a run; results are added on the way.
        report : dict
            What is measured is added to it.

        Returns
        -------
        Graph
        """
        made = copy(self)
        made._steps = []
        for step in self._steps:
            inputs = None
            if values is not None:
                inputs = [self._constants.get(name, values.get(name)) for name in step.inputs]
                with np.errstate(all="ignore"):  # infinity and NaN are valid results
                    results = step.run(inputs)
                values.update((name, array) for name, array in zip(step.outputs, results, strict=False) if name)
            narrowed = getattr(step, "quantized", None)
            made._steps.append(step if narrowed is None else narrowed(kind, inputs, report))
        made._everything = made._needed(made._names())
        made._plans = None
        return made

    def trace(self, *inputs: ArrayLike, layer: int = -1, direction: int = 0) -> Any:
        """Run the graph step by step, and return the values of all gates of one of the LSTMs that it runs.

        Parameters
        ----------
        *inputs : array_like
            As in a call.
        layer : int
            Counts the layers of the LSTMs in the order in which they run, from 0; a negative one counts from the last.
            LSTMs inside other steps count too: those of the branch of an If that is run, those of a Loop or Scan in
            each iteration, and those of models inside a model of Keras.
        direction : int
            0, or 1 for the second of a bidirectional LSTM.

        Returns
        -------
        GateTrace
            Of the layer that the step runs; `gradient` and `predictions` see that layer alone. The trace of a
            DynamicQuantizeLSTM has neither of the two.

        Raises
        ------
        TypeError, ValueError
            As `run`; or no LSTM is run. The message names the steps. A file may also contain an LSTM as single
            products and activations; the library does not recognise these as gates.
        """
        if len(inputs) != len(self.inputs):
            raise TypeError(f"inputs: expected {len(self.inputs)}, got {len(inputs)}")
        values = self._given(dict(zip((value.name for value in self.inputs), inputs, strict=True)))
        with traced(layer) as runs:
            self._execute(self._everything, values)
        if not runs.count:
            kinds = sorted({step.op_type for step in self._steps})
            raise ValueError(f"trace: expected a graph with an LSTM whose gates can be traced, got {', '.join(kinds)}")
        return runs.trace(direction)

    def evaluate(self, values: dict[str, Array]) -> list[Array]:
        """Return the outputs for inputs that are not checked.

        Parameters
        ----------
        values : dict of str to ndarray
            The inputs by name; results are added on the way.

        Returns
        -------
        list of ndarray
            They may be inputs or constants of the graph, or parts of them.
        """
        self._execute(self._everything, values)
        return [self._constants[name] if name in self._constants else values[name] for name in self._names()]

    def weights(self) -> list[Array]:
        """Return the arrays of numbers that the steps use.

        Returns
        -------
        list of ndarray
            The constants, and the arrays that the steps hold themselves.
        """
        arrays = [*self._constants.values(), *(array for step in self._steps for array in step.weights())]
        return [array for array in arrays if array.dtype.kind == "f"]

    def _names(self) -> list[str]:
        return [value.name for value in self.outputs]

    def _execute(self, plan: Sequence[tuple[Step, set[str]]], values: dict[str, Array]) -> None:
        """Run the steps of a plan and add their results to `values`; those that no later step needs are removed."""
        live_bytes, limit = sum(array.nbytes for array in values.values()), self._limit(values)
        with np.errstate(all="ignore"):  # infinity and NaN are valid results
            for step, unused in plan:
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

    def _limit(self, values: Mapping[str, Array]) -> int:
        """Return the most bytes of a run with these inputs."""
        return max(LARGEST_RUN, RUN_FACTOR * (sum(array.nbytes for array in values.values()) + self._constant_bytes))

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

    def _needed(self, names: list[str]) -> list[tuple[Step, set[str]]]:
        """Return the steps that these outputs need, each with the values that no later step needs."""
        needed, plan = set(names), []
        for step in reversed(self._steps):
            if needed.isdisjoint(step.outputs):
                continue
            unused = {name for name in (*step.inputs, *step.outputs) if name not in needed}
            needed.update(step.inputs)
            plan.append((step, unused))
        return plan[::-1]


def _size(arrays: Iterable[Array]) -> tuple[str, str]:
    """Return the number of parameters and their bytes, as text."""
    arrays = list(arrays)
    return f"{sum(array.size for array in arrays):,}", f"{sum(array.nbytes for array in arrays):,}"


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
