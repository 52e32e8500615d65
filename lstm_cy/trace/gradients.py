"""The gradient of a prediction or a loss with respect to every input, gate and cell: `GateTrace.gradient`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import int_within, shown
from ..notebook import html_table, show_as_picture
from .charts import draw_gradient
from .propagation import Propagation
from .selection import checked_steps, numbers_of, texts_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from ..layers.base import Layer, Steps
    from ..typing import Array, ArrayLike, Bools, Ints

#: the arrays of a gradient, in the order of the table
GRADIENTS = ("x", "embedding", "forget", "input", "candidate", "cell", "output", "hidden")
#: the distances of the table, in steps
_DISTANCES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class GradientTrace:
    """The gradient of one number with respect to all that the model computed before it; made by `GateTrace.gradient`.

    Parameters
    ----------
    value : ndarray (B,) or scalar
        The prediction of each row; or the loss, which all rows share.
    of : str
        What the gradient is of, in words.
    step : ndarray of int (B,)
        The step that distances are counted from: that of the prediction, or in each row the last one whose output the
        loss depends on.
    x : None or ndarray (T, B, I), laid out as x
        With respect to the input of the model; None where the input is tokens.
    embedding : None or ndarray (T, B, E), laid out as x
        With respect to the vectors of the tokens; None where there are none.
    forget, input, candidate, output, cell, hidden : ndarray, in the shapes of the GateTrace
        With respect to the values of the traced layer and direction.
    initial_cell, initial_hidden : ndarray (B, H) and (B, P)
        With respect to the state before the first step.
    valid : ndarray of bool (T, B), laid out as x
    batch_first, reverse : bool
        As in the GateTrace.

    Notes
    -----
    Each number is a total: how the value changes if this one number, at this step, is changed by a little and all that
    is computed from it follows, over every later step. So the numbers are no shares of the value: they do not add up
    over steps, because the cell of one step contains the cells before it. Where a step is not valid they are zero.

    A changed gate counts after its activation. With coupled gates the gate that is computed from the changed one
    follows it. With zoneout `cell` is the new cell, before the old one is mixed in, and `hidden` is the mixed output.

    For one sequence the arrays have no axis B. All are float64.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Linear, Sequential
    >>> model = Sequential(LSTM(3, 5, seed=0), Linear(5, 2, seed=0))
    >>> trace = model.trace(np.ones((7, 3)))
    >>> gradient = trace.gradient(of=(6, 1))
    >>> gradient.x.shape, gradient.cell.shape
    ((7, 3), (7, 5))
    >>> bool(np.isclose(gradient.value, model(np.ones((7, 3)))[0][6, 1]))
    True
    """

    def __init__(
        self,
        value: Array,
        of: str,
        step: Ints,
        x: Array | None,
        embedding: Array | None,
        forget: Array,
        input: Array,
        candidate: Array,
        output: Array,
        cell: Array,
        hidden: Array,
        initial_cell: Array,
        initial_hidden: Array,
        valid: Bools,
        batch_first: bool = False,
        reverse: bool = False,
    ) -> None:
        self.value, self.of, self.step = value, of, step
        self.x, self.embedding = x, embedding
        self.forget, self.input, self.candidate, self.output = forget, input, candidate, output
        self.cell, self.hidden = cell, hidden
        self.initial_cell, self.initial_hidden = initial_cell, initial_hidden
        self.valid, self.batch_first, self.reverse = valid, batch_first, reverse

    def __repr__(self) -> str:
        T, B = self._by_step(self.valid).shape[:2]
        return f"GradientTrace(of {self.of}, T={T}, B={B}, H={self.cell.shape[-1]})"

    def _repr_html_(self) -> str:
        return html_table(repr(self), [("value", np.array2string(np.asarray(self.value), precision=4))])

    def as_dict(self, row: int = 0) -> dict[str, Any]:
        """Return the gradient of one row in types that JSON can hold.

        Parameters
        ----------
        row : int

        Returns
        -------
        dict
            "of", "value", "step", "reverse", "valid", and under each name of `norms` a list (T,) of norms; under
            "signed", {"cell": (T, H), ...} the gradients of the cell and the gates themselves.
        """
        row = self._row(row)
        signed = {name: self._by_step(getattr(self, name))[:, row].tolist() for name in GRADIENTS[2:]}
        return {
            "of": self.of,
            "value": float(np.broadcast_to(self.value, len(self._steps_of_rows()))[row]),
            "step": int(self._steps_of_rows()[row]),
            "reverse": self.reverse,
            "valid": self._by_step(self.valid)[:, row].tolist(),
            **{name: array.tolist() for name, array in self.norms(row).items()},
            "signed": signed,
        }

    def norms(self, row: int = 0) -> dict[str, Array]:
        """Return the length of the gradient at each step: the root of the sum of squares over units or features.

        Parameters
        ----------
        row : int

        Returns
        -------
        dict of str to ndarray (T,)
            "x" or "embedding", and "forget", "input", "candidate", "cell", "output" and "hidden".
        """
        row = self._row(row)
        arrays = {name: getattr(self, name) for name in GRADIENTS}
        return {
            name: np.sqrt(np.square(self._by_step(array)[:, row]).sum(axis=-1))
            for name, array in arrays.items()
            if array is not None
        }

    def by_distance(self, row: int = 0) -> dict[str, Array]:
        """Return the norms by how far back they are.

        Parameters
        ----------
        row : int

        Returns
        -------
        dict of str to ndarray
            "distance", the number of steps before `step`; below zero after it, in models that read backwards too. The
            other entries are those of `norms` at these distances. Steps that are not valid are left out, and so are
            later steps at which all gradients are zero.
        """
        row = self._row(row)
        norms = self.norms(row)
        distance = int(self._steps_of_rows()[row]) - np.arange(len(self._by_step(self.valid)))
        reached = np.any([array > 0 for array in norms.values()], axis=0)
        kept = np.flatnonzero(self._by_step(self.valid)[:, row] & ((distance >= 0) | reached))[::-1]
        return {"distance": distance[kept], **{name: array[kept] for name, array in norms.items()}}

    def table(self, *, row: int = 0, compare: Mapping[str, ArrayLike] | None = None) -> str:
        """Return the norms at some distances as a table in Markdown.

        Parameters
        ----------
        row : int
        compare : None or mapping of str to array_like (T,)
            Norms of other models at the same steps, such as those of a plain recurrent network: one column each.

        Returns
        -------
        str
        """
        row = self._row(row)
        found = self.by_distance(row)
        columns = {name: array for name, array in found.items() if name != "distance"}
        step = int(self._steps_of_rows()[row])
        for name, array in self._compared(compare).items():
            columns[name] = array[step - found["distance"]]
        distances = found["distance"].tolist()
        shown_rows = [index for index, d in enumerate(distances) if abs(d) in _DISTANCES or index == len(distances) - 1]
        lines = [_line(["steps back", *columns]), "|---|" + "--:|" * len(columns)]
        for index in shown_rows:
            cells = [f"{column[index]:.1e}" for column in columns.values()]
            lines.append(_line([str(distances[index]), *cells]))
        return "\n".join(lines)

    def plot(
        self,
        tokens: Sequence[object] | None = None,
        *,
        row: int = 0,
        steps: tuple[int, int] | None = None,
        units: int | Sequence[int] = 8,
        compare: Mapping[str, ArrayLike] | None = None,
        language: str = "en",
        title: str | None = None,
    ) -> Figure:
        """Draw how far the gradient reaches: its norms by step, and the gradient of the cells of some units.

        Parameters
        ----------
        tokens : None, str, or sequence of T
            The tokens that were read, for the axis.
        row : int
        steps : None or (first, last)
            Draw only these steps, including `last`.
        units : int or sequence of int
            How many units to draw, those whose cell has the largest gradients; or their numbers.
        compare : None or mapping of str to array_like (T,)
            Norms of other models at the same steps, drawn as dashed lines.
        language : {"en", "zh"}
            The language of the labels.
        title : None or str

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            Matplotlib is not installed: ``pip install matplotlib``.
        TypeError, ValueError
            An argument is not as expected; the message names it.
        """
        row = self._row(row)
        T = len(self._by_step(self.valid))
        texts = texts_of(tokens, T, T)
        first, last = checked_steps(steps, T)
        cell = self._by_step(self.cell)[:, row]
        chosen = _largest(cell, units)
        drawn = slice(first, last + 1)
        norms = {name: array[drawn] for name, array in self.norms(row).items()}
        others = {name: array[drawn] for name, array in self._compared(compare).items()}
        here = int(self._steps_of_rows()[row])
        texts = None if texts is None else texts[drawn]
        figure = draw_gradient(
            norms, others, cell[drawn][:, chosen], chosen, texts, first, here, self.of, language, title
        )
        return show_as_picture(figure)

    def _compared(self, compare: Mapping[str, ArrayLike] | None) -> dict[str, Array]:
        """Check the argument `compare`, and return its arrays."""
        T, arrays = len(self._by_step(self.valid)), {}
        for name, value in (compare or {}).items():
            arrays[name] = np.asarray(value, np.float64)
            if arrays[name].shape != (T,):
                raise ValueError(f"compare: expected arrays (T,) = ({T},), got {arrays[name].shape} for {name!r}")
        return arrays

    def _by_step(self, array: Array) -> Array:
        """Return an array with the axes (T, B, ...)."""
        if self.valid.ndim == 1:
            return array[:, np.newaxis]
        return array.swapaxes(0, 1) if self.batch_first else array

    def _steps_of_rows(self) -> Array:
        return np.atleast_1d(self.step)

    def _row(self, row: int) -> int:
        return int_within("row", row, 0, self._by_step(self.valid).shape[1] - 1)


def gradient_of(
    model: Layer,
    x: Array,
    states: list[Any],
    steps: Steps,
    layer: int,
    direction: int,
    of: Any,
    target: ArrayLike | None,
    trace: Any,
) -> GradientTrace:
    """Implement `GateTrace.gradient` for a call of a model and the trace that was made of it."""
    call = Propagation(model, x, states, steps)
    if callable(of):
        value, dy = _loss(of, target, call.y, model, steps)
        words = f"the loss {getattr(of, '__name__', type(of).__name__)}"
        step = _last_counted(dy, trace)
    else:
        if target is not None:
            raise ValueError("target: expected None with a prediction, because only a loss has a target")
        value, dy, words, step = _prediction(of, call.y, model, trace)
    dx = call.backward(dy)
    found = call.recorded[layer][direction]
    return GradientTrace(
        value,
        words,
        step,
        None if model.vocabulary_size is not None else dx,
        call.embedding,
        found.forget,
        found.input,
        found.candidate,
        found.output,
        found.cell,
        found.hidden,
        found.initial_cell,
        found.initial_hidden,
        trace.valid,
        trace.batch_first,
        trace.reverse,
    )


def _prediction(of: Any, y: Array, model: Layer, trace: Any) -> tuple[Any, Array, str, Any]:
    """Return (the prediction, the gradient of y, words for it, its step) for `of`, a pair (t, output)."""
    if not isinstance(of, tuple | list) or len(of) != 2:
        raise TypeError(f"of: expected a pair (t, output), or a loss, got {shown(of)}")
    t, output = of
    output = int_within("of: output", output, 0, y.shape[-1] - 1)
    has_batch_axis = trace.valid.ndim == 2
    dy = np.zeros_like(y)
    if y.ndim < 2 + has_batch_axis:  # one output for each row
        if t is not None:
            raise ValueError(f"of: expected (None, output), because the model's output has no steps, got {shown(of)}")
        dy[..., output] = 1
        return y[..., output], dy, f"output {output}", _last_valid(trace)
    steps_first = not (trace.batch_first and has_batch_axis)
    t = int_within("of: t", t, 0, y.shape[0 if steps_first else 1] - 1)
    where = (t,) if steps_first else (slice(None), t)
    dy[(*where, ..., output)] = 1
    step = np.full(y.shape[1 - where.index(t)] if has_batch_axis else (), t)
    return y[(*where, ..., output)], dy, f"output {output} at step {t}", step


def _loss(loss: Any, target: Any, y: Array, model: Layer, steps: Steps) -> tuple[Any, Array]:
    """Return a loss of the output and its gradient; the loss gets the keywords that `fit` gives it."""
    if target is None:
        raise ValueError("target: expected the target of the loss, got None")
    keywords: dict[str, Any] = {}
    if model.batch_first and _takes(loss, "batch_first") and y.ndim == 3:
        keywords["batch_first"] = True
    if steps.lengths is not None and model.gives_steps:
        keywords["lengths"] = steps.lengths
    result = loss(y, np.asarray(target), **keywords)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"of: expected a loss that returns (value, gradient), got {shown(result)}")
    value, dy = result
    dy = np.asarray(dy, np.float64)
    if dy.shape != y.shape:
        raise ValueError(f"of: expected a loss whose gradient has the output's shape {y.shape}, got {dy.shape}")
    return np.float64(value), dy


def _takes(function: Any, keyword: str) -> bool:
    """Return whether a function has an argument of this name."""
    try:
        arguments = inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled code may have no signature
        return True
    return keyword in arguments or any(one.kind is one.VAR_KEYWORD for one in arguments.values())


def _last_counted(dy: Array, trace: Any) -> Any:
    """Return each row's last step whose output the loss depends on; its last valid one if there is none."""
    last = _last_valid(trace)
    if dy.ndim < trace.valid.ndim + 1:  # the output has no steps
        return last
    counted = np.any(dy != 0, axis=-1)
    counted = counted if counted.ndim == 1 or trace.batch_first else counted.T
    found = counted.shape[-1] - 1 - counted[..., ::-1].argmax(axis=-1)
    return np.where(counted.any(axis=-1), found, last)


def _last_valid(trace: Any) -> Any:
    """Return each row's last valid step; 0 for a row without one."""
    valid = trace.valid if trace.valid.ndim == 1 or trace.batch_first else trace.valid.T
    last = valid.shape[-1] - 1 - valid[..., ::-1].argmax(axis=-1)
    return np.where(valid.any(axis=-1), last, 0)


def _largest(cell: Array, units: Any) -> Ints:
    """Return the numbers of the units with the largest gradients, or the given ones."""
    order = np.argsort(-np.square(cell).sum(axis=0), kind="stable")
    return numbers_of(units, order, cell.shape[-1])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
