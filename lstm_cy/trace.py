"""Records of the gates and the cell at every step, values derived from them, and pictures of them."""

from __future__ import annotations

import contextlib
import math
import numbers
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import expect_shape, file_path, flag, int_within, positive_int, shown
from .extras import pip_install
from .layers.base import Steps, run_layers
from .notebook import html_table, show_as_picture

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.figure import Figure

    from .layers.batch import Batch
    from .layers.recurrent import Recurrent
    from .layers.sequential import Sequential
    from .typing import Array, ArrayLike, Bools, FilePath, Ints, StateLike

#: the arrays of a trace, in the order in which a step computes them
FIELDS = ("forget", "input", "candidate", "cell", "output", "hidden")

#: most columns of a picture; more steps are shown as means over windows
MOST_COLUMNS = 240
#: most steps whose tokens are written along the axis one by one
MOST_TOKENS = 120
#: two units are alike if their cells correlate, over the steps, by more than this or less than its negative
MOST_ALIKE = 0.9
#: gate: what its mean is a share of, in a report
_MEANS = {
    "forget": "the cell is kept at each step",
    "input": "the candidate is added to the cell",
    "output": "the cell is output",
}
_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_FONTS = (
    "Noto Sans Mono CJK SC",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # the only one that Matplotlib before 3.11 finds in a file with several fonts
    "Source Han Sans SC",
    "WenQuanYi Zen Hei Mono",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Microsoft YaHei",
    "SimHei",
)
#: DejaVu has almost no characters from here on
_EAST_ASIAN = "\u2e80"
#: gate: title of its heat map, and the meaning of the lowest and of the highest value
_MAPS = {
    "forget": ("Forget gate: how much of the cell is kept", "drops it", "keeps it"),
    "input": ("Input gate: how much of the candidate is added", "ignores it", "adds it"),
    "candidate": ("Cell candidate: the value that may be added", "would lower the cell", "would raise it"),
    "output": ("Output gate: how much of the cell is output", "hides it", "outputs it"),
}


class GateTrace:
    """Gates, cell and output of one direction of one layer; made by `LSTM.trace` and `Sequential.trace`.

    Parameters
    ----------
    forget, input, candidate, output : ndarray (T, B, H), laid out as x
        The forget gate, the input gate, the cell candidate and the output gate, after their activations. With coupled
        gates, the gate that is computed from the other one is included.
    cell, hidden : ndarray (T, B, H) and (T, B, P), laid out as x
        The cell and the output after each step.
    initial_cell : ndarray (B, H)
        The cell before the first step.
    valid, reset : ndarray of bool (T, B), laid out as x
        Whether a step was read, and whether the state was set to zero before it. Where `valid` is False the six arrays
        above are NaN.
    batch_first : bool
        x is laid out (B, T, ...), and so are all arrays but `initial_cell`.
    reverse : bool
        The steps were read from the last to the first.

    Notes
    -----
    For one sequence the arrays have no axis B. They are the arrays of the layer's own computation, to the bit. Methods
    compute in float64 and return the layer's dtype.

    Steps are numbered as in x, in either direction. A step that is not valid changes nothing: the whole cell is kept.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM
    >>> lstm = LSTM(3, 5, seed=0)
    >>> trace = lstm.trace(np.ones((7, 3)))
    >>> trace.forget.shape, trace.cell.shape, trace.initial_cell.shape
    ((7, 5), (7, 5), (5,))

    How much of the cell after the last step comes from each step:

    >>> shares = trace.contribution(6)
    >>> shares.shape, np.allclose(shares.sum(axis=0), trace.cell[6])
    ((8, 5), True)
    """

    def __init__(
        self,
        forget: Array,
        input: Array,
        candidate: Array,
        output: Array,
        cell: Array,
        hidden: Array,
        initial_cell: Array,
        valid: Bools,
        reset: Bools,
        batch_first: bool = False,
        reverse: bool = False,
    ) -> None:
        arrays = {
            "forget": forget,
            "input": input,
            "candidate": candidate,
            "output": output,
            "cell": cell,
            "hidden": hidden,
            "initial_cell": initial_cell,
            "valid": valid,
            "reset": reset,
        }
        flags: dict[str, Any] = {"batch_first": batch_first, "reverse": reverse}
        for name, value in flags.items():  # numpy.load gives them as arrays without an axis
            flags[name] = flag(name, value[()] if isinstance(value, np.ndarray) else value)
        vars(self).update(_checked_arrays(arrays, flags["batch_first"]), **flags)

    if TYPE_CHECKING:
        forget: Array
        input: Array
        candidate: Array
        output: Array
        cell: Array
        hidden: Array
        initial_cell: Array
        valid: Bools
        reset: Bools
        batch_first: bool
        reverse: bool

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a GateTrace is a record: {name} cannot be set; make another one")

    def __repr__(self) -> str:
        T, B, H = self._read("cell").shape
        return f"GateTrace(T={T}, B={B}, H={H})"

    def _repr_html_(self) -> str:
        valid = self._read("valid")
        rows: list[tuple[object, ...]] = [("valid steps", int(valid.sum()))]
        if valid.any():
            for name in _MEANS:
                rows.append((f"{name} gate, mean", f"{self._read(name)[valid].mean():.2f}"))
            half = self.half_life()
            rows.append(("half-life of the cell, median", f"{_number(np.median(half))} steps"))
            rows.append(("half-life of the cell, longest", f"{_number(half.max())} steps, unit {half.argmax()}"))
        return html_table(repr(self), rows)

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes by name, as the constructor takes them.

        Returns
        -------
        dict
            The arrays are not copied.
        """
        return dict(vars(self))

    def to_npz(self, path: FilePath) -> None:
        """Write all attributes to a file; ``GateTrace(**numpy.load(path))`` reads it.

        Parameters
        ----------
        path : str or Path
            A name that ends with .npz.

        Raises
        ------
        ValueError
            The name does not end with .npz.
        OSError
            The file cannot be written.
        """
        path = file_path("path", path)
        if not path.endswith(".npz"):
            raise ValueError(f"path: expected a name that ends with .npz, got {path!r}")
        np.savez(path, **self.to_dict())

    def retention(self, t0: int, t1: int) -> Array:
        """Return the share of the cell after step t0 that is still in the cell after step t1.

        Parameters
        ----------
        t0, t1 : int
            Steps; t0 must not be read after t1. -1 is the initial cell.

        Returns
        -------
        ndarray (B, H)
            The product of the forget gate over the steps after t0, up to t1; zero where a reset is between them.

        Raises
        ------
        TypeError, ValueError
            A step does not exist, or t1 was read before t0.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_cy import LSTM
        >>> trace = LSTM(3, 5, seed=0).trace(np.ones((7, 3)))
        >>> np.allclose(trace.retention(2, 4), trace.forget[3] * trace.forget[4])
        True
        """
        first, last = self._position("t0", t0), self._position("t1", t1)
        if first > last:
            raise ValueError(f"t0, t1: expected t0 not to be read after t1, got {t0} and {t1}")
        return self._result(self._kept(first + 1, last)[0])

    def half_life(self) -> Array:
        """Return the number of steps after which half of each unit's cell is forgotten.

        Returns
        -------
        ndarray (H,)
            ln 2 / -mean(ln forget), the mean over all valid steps and rows. inf if the gate is always 1 (or, with
            other activations than sigmoid, if its geometric mean is 1 or more), 0 if it is 0 once, NaN without a valid
            step.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_cy import LSTM
        >>> trace = LSTM(1, 1, bias=False, dtype="float64").trace(np.zeros((7, 1)))  # every gate is 0.5
        >>> trace.half_life()
        array([1.])
        """
        forget = self._read("forget")[self._read("valid")].astype(np.float64)
        if not len(forget):
            return np.full(forget.shape[-1], np.nan, self.cell.dtype)
        with np.errstate(divide="ignore"):
            rate = -np.log(np.abs(forget)).mean(axis=0)
            return np.where(rate > 0, math.log(2) / rate, np.where(np.isnan(rate), rate, np.inf)).astype(
                self.cell.dtype
            )

    def written(self) -> Array:
        """Return the value that each step adds to the cell: input * candidate.

        Returns
        -------
        ndarray (T, B, H), laid out as x
            NaN where a step is not valid.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            return self.input * self.candidate

    def contribution(self, t: int) -> Array:
        """Return how much of the cell after step t each earlier step has added.

        Parameters
        ----------
        t : int
            A step; -1 is before the first.

        Returns
        -------
        ndarray (t + 2, B, H)
            Row 0 is the rest of the initial cell, row s + 1 the rest of the value that step s added: written *
            retention. The rows sum to the cell after step t, up to rounding. They are zero before a reset and where a
            step is not valid. They are in the order of reading: for a reverse direction row s + 1 is step T - 1 - s,
            and there are T - t + 1 rows.

        Raises
        ------
        TypeError, ValueError
            The step does not exist.

        Notes
        -----
        The rows are the terms of c_t = f_t c_(t-1) + i_t g_t, expanded over the steps. This holds for coupled gates,
        peepholes and other activations too. With `cell_clip` the rows sum to the cell as it would be without clipping.
        """
        last = self._position("t", t)
        before = np.concatenate([self._initial()[None], self._written()[: last + 1]])
        kept = self._kept(0, last)
        with np.errstate(invalid="ignore"):  # infinity times a retention of 0
            return self._result(np.where(self._was_reset(0, last)[:, :, None], 0, before * kept))

    def salience(self, row: int | None = None) -> Array:
        """Return the salience of each unit's memory: how much it changes, is kept, and reaches the output.

        This is the standard deviation over the steps of tanh(forget * old cell), the memory of earlier steps, times
        the mean of the forget gate and the mean of the output gate. It is low for a unit that replaces its whole cell
        at each step, that never changes or changes only where tanh is flat, or whose output gate is closed.

        Parameters
        ----------
        row : None or int
            The row to use; None: all rows.

        Returns
        -------
        ndarray (H,)
            Zero for units that are not finite, and without a valid step.
        """
        rows = slice(None) if row is None else slice(self._row(row), self._row(row) + 1)
        valid = self._read("valid")[:, rows]
        names = "cell", "forget", "output"
        cell, forget, output = (self._read(name)[:, rows][valid].astype(np.float64) for name in names)
        if not len(cell):
            return np.zeros(cell.shape[-1], self.cell.dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            moves = np.tanh(cell - self._written()[:, rows][valid]).std(axis=0)
            found = np.abs(moves * forget.mean(axis=0) * output.mean(axis=0))
        return np.where(np.isfinite(found), found, 0).astype(self.cell.dtype)

    #: The name of `salience` in version 0.1.0.
    telling = salience  # codespell:ignore telling

    def nan_source(self) -> Any:
        """Return the position of the first value that is not finite (NaN or infinity).

        Returns
        -------
        (step, row, gate, unit), or None
            The first in the order of reading, then by row, then in the order in which a step computes. gate is
            "forget", "input", "candidate", "cell", "output" or "hidden". If all gates of a step are not finite, the
            cause is their input: x or the state.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_cy import LSTM
        >>> lstm, x = LSTM(3, 5, seed=0), np.ones((7, 3))
        >>> lstm.trace(x).nan_source() is None
        True
        >>> x[4, 1] = np.nan
        >>> lstm.trace(x).nan_source()
        (4, 0, 'forget', 0)
        """
        valid = self._read("valid")
        found: list[tuple[int, int, int, int]] = []
        for number, name in enumerate(FIELDS):
            wrong = ~np.isfinite(self._read(name)) & valid[:, :, None]
            if wrong.any():
                position, row, unit = map(int, np.unravel_index(wrong.argmax(), wrong.shape))
                found.append((position, row, number, unit))
        if not found:
            return None
        position, row, number, unit = min(found)
        return self._step(position), row, FIELDS[number], unit

    def report(self, tokens: Sequence[object] | None = None, *, row: int = 0, units: int | Sequence[int] = 5) -> str:
        """Describe the gates and the units of one row in plain text.

        Parameters
        ----------
        tokens : None, str, or sequence of T
            The tokens that were read, to name the steps with.
        row : int
            The row to describe.
        units : int or sequence of int
            How many of the most salient units to describe, or their numbers; chosen as in `plot`.

        Returns
        -------
        str

        Raises
        ------
        TypeError, ValueError
            An argument is not as expected; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_cy import LSTM
        >>> trace = LSTM(3, 5, seed=0).trace(np.eye(3))
        >>> print(trace.report("abc", units=1))  # doctest: +ELLIPSIS
        3 steps, 5 units
        forget gate: on average 0.7... of the cell is kept at each step
        ...
        """
        row = self._row(row)
        tokens, chosen = self._tokens(tokens, row), self._units(units, row)
        steps = np.flatnonzero(self._steps("valid")[:, row])
        lines = [f"{len(steps)} steps, {self.cell.shape[-1]} units"]
        source = self.nan_source()
        if source is not None:
            step, source_row, name, unit = source
            return (
                f"{lines[0]}\nfirst value that is not finite: {name} of unit {unit}, at step {step} of row {source_row}"
            )
        if not len(steps):
            return lines[0]
        for name, words in _MEANS.items():
            lines.append(f"{name} gate: on average {self._steps(name)[steps, row].mean():.2f} of {words}")
        half = self.half_life()
        lines.append(
            f"half-life of the cell, in steps: shortest {_number(half.min())}, median {_number(np.median(half))}, "
            f"longest {_number(half.max())} (unit {half.argmax()})"
        )
        lines.append("the most salient units:")
        for unit in chosen:
            lines += self._report_of(int(unit), row, steps, tokens, half[unit])
        return "\n".join(lines)

    def plot(
        self,
        tokens: Sequence[object] | None = None,
        *,
        row: int = 0,
        units: int | Sequence[int] = 8,
        lines: int = 4,
        steps: tuple[int, int] | None = None,
        title: str | None = None,
    ) -> Figure:
        """Draw the cell of a few units as lines, and the gates as heat maps, over the tokens.

        Parameters
        ----------
        tokens : None, str, or sequence of T
            The tokens that were read, for the axis. None: the numbers of the steps.
        row : int
            The row to draw.
        units : int or sequence of int
            How many of the most salient units the heat maps show, or their numbers, from the top. Of units whose cells
            move alike (a correlation above 0.9 or below -0.9) only one is shown, as long as there are other units.
        lines : int
            Of how many of these units, from the top, the cell is drawn.
        steps : None or (first, last)
            Draw only these steps, including `last`.
        title : None or str

        Returns
        -------
        matplotlib.figure.Figure
            Save it with ``figure.savefig(path)``; a notebook shows it. More than 240 steps are drawn as means over
            windows, and the axis says so.

        Raises
        ------
        ImportError
            Matplotlib is not installed: ``pip install matplotlib``.
        TypeError, ValueError
            An argument is not as expected; the message names it.
        """
        row = self._row(row)
        tokens, chosen = self._tokens(tokens, row), self._units(units, row)
        lines = positive_int("lines", lines)
        first, last = self._range(steps, row)
        arrays = {name: self._steps(name)[first : last + 1, row][:, chosen] for name in ("cell", *_MAPS)}
        if tokens is not None:
            tokens = tokens[first : last + 1]
        return show_as_picture(_figure(arrays, tokens, first, chosen, chosen[:lines], self.reverse, title))

    def _report_of(self, unit: int, row: int, steps: Ints, tokens: list[str] | None, half_life: float) -> list[str]:
        """Return the lines about one unit."""

        def at(step: int) -> str:
            return f"step {step}" + ("" if tokens is None else f" {tokens[step]!r}")

        cell = self._steps("cell")[steps, row, unit]
        written = self._outer_steps(self.written())[steps, row, unit]
        forget = self._steps("forget")[steps, row, unit]
        most, least = int(np.abs(written).argmax()), int(forget.argmin())
        last = steps[0] if self.reverse else steps[-1]
        left = self._batched(self.contribution(int(last)), axis=1)[:, row, unit]
        largest = np.argsort(-np.abs(left), kind="stable")[:3]
        sources = [
            f"{left[index]:+.2f} from " + ("the initial cell" if index == 0 else at(self._step(int(index) - 1)))
            for index in largest
            if abs(left[index]) >= 0.005
        ]
        return [
            f"unit {unit}: half-life {_number(half_life)}, cell from {cell.min():.2f} to {cell.max():.2f}",
            f"  added most at {at(steps[most])}: {written[most]:+.2f}; "
            f"kept least at {at(steps[least])}: {forget[least]:.2f} of the cell",
            f"  cell at the end {self._steps('cell')[last, row, unit]:+.2f}: "
            + (", ".join(sources) or "no step left 0.005 or more"),
        ]

    # Between the layout of x and (T, B, ...), by step or in the order of reading

    @property
    def _has_batch_axis(self) -> bool:
        return self.cell.ndim == 3

    def _batched(self, array: Array, axis: int) -> Array:
        return array if self._has_batch_axis else np.expand_dims(array, axis)

    def _outer_steps(self, array: Array) -> Array:
        array = self._batched(array, 1)
        return array.swapaxes(0, 1) if self.batch_first and self._has_batch_axis else array

    def _steps(self, name: str) -> Array:
        return self._outer_steps(getattr(self, name))

    def _read(self, name: str) -> Array:
        return self._steps(name)[:: -1 if self.reverse else 1]

    def _initial(self) -> Array:
        return self._batched(self.initial_cell, 0)

    def _result(self, array: Array) -> Array:
        """Return a derived array (..., B, H) as the caller sees it."""
        return (array if self._has_batch_axis else array[..., 0, :]).astype(self.cell.dtype)

    # Derived arrays, in float64 and in the order of reading

    def _written(self) -> Array:
        with np.errstate(invalid="ignore", over="ignore"):
            written = self._read("input").astype(np.float64) * self._read("candidate")
        return np.where(self._read("valid")[:, :, None], written, 0)

    def _kept(self, first: int, last: int) -> Array:
        """Return (last - first + 2, B, H): the share of the cell before each step from `first` on, and after `last`,
        that is still in the cell after `last`."""
        valid = self._read("valid")[first : last + 1, :, None]
        factors = np.where(valid, self._read("forget")[first : last + 1].astype(np.float64), 1)
        whole = np.ones((1, *factors.shape[1:]))
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            kept = np.cumprod(np.concatenate([whole, factors[::-1]]), axis=0)[::-1]
        return np.where(self._was_reset(first, last)[:, :, None], 0, kept)

    def _was_reset(self, first: int, last: int) -> Bools:
        """Return (last - first + 2, B): whether a reset is between each step from `first` on and the end of `last`."""
        resets = self._read("reset")[first : last + 1]
        none = np.zeros((1, resets.shape[1]), bool)
        return np.logical_or.accumulate(np.concatenate([none, resets[::-1]]), axis=0)[::-1]

    # Arguments

    def _position(self, name: str, step: int) -> int:
        """Return a step's position in the order of reading; -1 is before the first step."""
        T = len(self._steps("cell"))
        step = int_within(name, step, -1, T - 1)
        return T - 1 - step if self.reverse and step >= 0 else step

    def _step(self, position: Any) -> Any:
        """Invert `_position`."""
        return len(self._steps("cell")) - 1 - position if self.reverse else position

    def _row(self, row: int) -> int:
        return int_within("row", row, 0, self._steps("cell").shape[1] - 1)

    def _ends(self, row: int) -> int:
        """Return the number of steps up to a row's last valid step."""
        valid = np.flatnonzero(self._steps("valid")[:, row])
        return int(valid[-1]) + 1 if len(valid) else 0

    def _tokens(self, tokens: Sequence[object] | None, row: int) -> list[str] | None:
        if tokens is None:
            return None
        T, least = len(self._steps("cell")), self._ends(row)
        words = [str(token) for token in _sequence("tokens", tokens)]
        if not least <= len(words) <= T:
            expected = f"T = {T}" if least == T else f"{least} to T = {T}"
            raise ValueError(f"tokens: expected {expected} of them, got {len(words)}")
        return words

    def _units(self, units: int | Sequence[int], row: int) -> Ints:
        """Return the numbers of the units: the given ones, or the most salient ones that are not alike."""
        H = self.cell.shape[-1]
        if isinstance(units, numbers.Integral):
            return self._distinct(np.argsort(-self.salience(row), kind="stable"), row, positive_int("units", units))
        units = [int_within("units", unit, 0, H - 1) for unit in _sequence("units", units)]
        if not units:
            raise ValueError("units: expected at least one, got none")
        return np.array(units)

    def _distinct(self, units: Ints, row: int, count: int) -> Ints:
        """Return the first `count` of `units` that are not alike; if these are too few, then others too."""
        cell = self._steps("cell")[self._steps("valid")[:, row], row].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            moves = cell - cell.mean(axis=0) if len(cell) else cell
            moves /= np.maximum(np.linalg.norm(moves, axis=0), np.finfo(float).tiny)
        chosen: list[int] = []
        for unit in units:
            if len(chosen) == count:
                break
            if not (np.abs(moves[:, unit] @ moves[:, chosen]) > MOST_ALIKE).any():
                chosen.append(int(unit))
        others = [int(unit) for unit in units if int(unit) not in chosen]
        return np.array([*chosen, *others[: count - len(chosen)]], np.intp)

    def _range(self, steps: tuple[int, int] | None, row: int) -> tuple[int, int]:
        ends = self._ends(row)
        if not ends:
            raise ValueError(f"row: expected one with valid steps to draw, got {row}")
        if steps is None:
            return 0, ends - 1
        if not isinstance(steps, tuple | list) or len(steps) != 2:
            raise TypeError(f"steps: expected None or a pair (first, last), got {steps!r}")
        first = int_within("steps", steps[0], 0, ends - 1)
        return first, int_within("steps", steps[1], first, ends - 1)


def trace(
    lstm: Recurrent,
    x: ArrayLike,
    state: StateLike | None,
    lengths: ArrayLike | None,
    layer: int,
    direction: int,
    mask: ArrayLike | None,
    reset: ArrayLike | None,
    threads: int | None,
) -> GateTrace:
    """Implement `LSTM.trace`."""
    layer = int_within("layer", layer, -lstm.num_layers, lstm.num_layers - 1) % lstm.num_layers
    direction = int_within("direction", direction, 0, lstm.num_directions - 1)
    index = layer * lstm.num_directions + direction
    batch, saved, initial = lstm.run_traced(x, state, (lengths, mask, reset), threads, index)
    _, _, _, gates, _, _, _, h, cell = saved
    backwards = lstm.reverse or direction == 1
    positions = _step_and_row(batch, backwards)
    parts = zip(("input", "forget", "candidate", "output"), np.split(gates, 4, axis=1), strict=True)
    fields = {**dict(parts), "cell": cell, "hidden": h}
    arrays = {name: batch.unbatched(_to_layout(batch, positions, array, np.nan)) for name, array in fields.items()}
    valid = _to_layout(batch, positions, np.ones((batch.rows, 1), bool), False)
    resets = np.zeros_like(valid)
    if reset is not None:
        resets[:] = np.reshape(reset, batch.shape(1))
        if lengths is not None:  # resets after a row's end are not read; those on masked steps are
            resets &= valid
    return GateTrace(
        **arrays,
        initial_cell=initial if batch.has_batch_axis else initial[0],
        valid=batch.unbatched(valid)[..., 0],
        reset=batch.unbatched(resets)[..., 0],
        batch_first=lstm.batch_first,
        reverse=backwards,
    )


def trace_model(
    model: Sequential,
    x: ArrayLike,
    states: Sequence[StateLike | None] | None,
    lengths: ArrayLike | None,
    layer: int,
    direction: int,
    mask: ArrayLike | None,
    reset: ArrayLike | None,
    threads: int | None,
) -> GateTrace:
    """Implement `Sequential.trace`."""
    pairs = model.pairs_of("states", states)
    model.check_mask(lengths, mask)
    layers = [(index, number) for index, part in enumerate(model.layers) for number in range(part.num_traced)]
    if not layers:
        raise ValueError("trace: expected a model with an LSTM in it, got none")
    last, number = layers[int_within("layer", layer, -len(layers), len(layers) - 1)]
    before, traced = model.layers[:last], model.layers[last]
    x, finals, steps = run_layers(before, x, pairs, Steps(lengths, mask, reset, threads))
    state = traced.states_of(pairs[len(finals) : len(finals) + traced.num_states])
    result: GateTrace = traced.trace(x, state, layer=number, direction=direction, **steps._asdict())
    return result


def _step_and_row(batch: Batch, backwards: bool) -> tuple[Ints, Ints]:
    """Return the step and the batch row of each row of a tape, as index arrays (steps, rows)."""
    order, lengths, active, places, _ = batch.order
    if order is None:
        order, lengths, active = np.arange(batch.B), np.full(batch.B, batch.T), np.full(batch.T, batch.B)
    steps = np.repeat(np.arange(batch.T), active)
    slots = np.arange(batch.rows) - np.repeat(np.cumsum(active) - active, active)
    rows = order[slots]
    if backwards:
        steps = lengths[slots] - 1 - steps
    return (steps if places is None else places[rows, steps]), rows


def _to_layout(batch: Batch, positions: tuple[Ints, Ints], array: Array, fill: float) -> Array:
    """Return a tape's array in the layout of x, with `fill` where the tape has no row."""
    steps, rows = positions
    whole = np.full(batch.shape(array.shape[1]), fill, array.dtype)
    whole[(rows, steps) if batch.batch_first else (steps, rows)] = array
    return whole


def _checked_arrays(arrays: dict[str, Any], batch_first: bool) -> dict[str, Array]:
    """Return the arrays of a GateTrace, after checking that their shapes agree."""
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")
    shape = arrays["cell"].shape
    if len(shape) not in (2, 3):
        raise ValueError(f"cell: expected shape (T, H), (T, B, H) or (B, T, H), got {shape}")
    rows = () if len(shape) == 2 else shape[:1] if batch_first else shape[1:2]
    expected = dict.fromkeys(("forget", "input", "candidate", "output"), shape)
    expected |= {"hidden": (*shape[:-1], arrays["hidden"].shape[-1] if arrays["hidden"].ndim else 0)}
    expected |= {"initial_cell": (*rows, shape[-1]), "valid": shape[:-1], "reset": shape[:-1]}
    for name, needed in expected.items():
        expect_shape(name, arrays[name], needed, "that matches cell")
    return arrays


def _sequence(name: str, value: Any) -> Any:
    try:
        return list(value)
    except TypeError:  # also arrays without an axis, and classes
        raise TypeError(f"{name}: expected a sequence, got {shown(value)} ({type(value).__name__})") from None


def _number(value: float) -> str:
    """Return a number of steps as text: one decimal below 10, none above."""
    return "infinite" if math.isinf(value) else f"{value:.1f}" if value < 10 else f"{value:.0f}"


# The picture


def visible(token: str) -> str:
    """Return a token as printable text: signs for space, line end and tab, escapes for what cannot be printed."""
    shown = "".join(_SIGNS.get(character, character) for character in token)
    return shown if shown.isprintable() else ascii(shown)[1:-1]


def _figure(
    arrays: dict[str, Array],
    tokens: list[str] | None,
    first: int,
    units: Ints,
    drawn: Ints,
    backwards: bool,
    title: str | None,
) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"trace.plot needs matplotlib: {pip_install('plot')}") from None
    count = len(arrays["cell"])
    window = -(-count // MOST_COLUMNS)
    starts = np.arange(0, count, window)
    edges = np.append(first + starts, first + count) - 0.5
    colours = {int(unit): f"C{number}" for number, unit in enumerate(drawn)}
    width, height = min(max(0.135 * len(starts), 6), 16), max(0.19 * len(units), 0.6)
    figure = Figure(figsize=(width + 2.6, 4 * height + 5.2), layout="constrained")
    panels = figure.subplots(5, 1, sharex=True, height_ratios=[2.1, *[height] * 4])
    _draw_cell(panels[0], arrays["cell"], starts, edges, colours)
    for axes, name in zip(panels[1:], _MAPS, strict=True):
        _draw_map(figure, axes, name, _means(arrays[name], starts), edges, units, colours)
    notes = [_label_steps(panels[-1], tokens, first, count, width / count)]
    if backwards:
        notes.append("read from right to left")
    if window > 1:
        notes.append(f"each column is the mean of {window} steps (bands: smallest to largest)")
    panels[-1].set_xlabel("; ".join(notes))
    if title is not None:
        figure.suptitle(title, parse_math=False)
    return figure


def _means(array: Array, starts: Ints) -> Array:
    """Return (columns, units): means over windows that begin at `starts`, without NaN; NaN for a window of NaN only."""
    present = ~np.isnan(array)
    counts = np.add.reduceat(present, starts, axis=0, dtype=np.intp)
    sums = np.add.reduceat(np.where(present, array, 0), starts, axis=0, dtype=np.float64)
    return np.where(counts, sums / np.maximum(counts, 1), np.nan)


def _draw_cell(axes: Any, cell: Array, starts: Ints, edges: Array, colours: Any) -> None:
    """Draw the cells of the first units as lines, with bands where a column is several steps."""
    middles, means = (edges[:-1] + edges[1:]) / 2, _means(cell, starts)
    low, high = (reduce.reduceat(cell, starts, axis=0) for reduce in (np.fmin, np.fmax))
    whole = len(starts) == len(cell)
    axes.axhline(0, color="0.8", linewidth=0.8)
    for number, (unit, colour) in enumerate(colours.items()):
        axes.plot(middles, means[:, number], color=colour, marker="." * whole, markersize=3, label=f"unit {unit}")
        if not whole:
            axes.fill_between(middles, low[:, number], high[:, number], color=colour, alpha=0.2, linewidth=0)
    axes.set_title("Cell: what is remembered", loc="left", fontsize=10)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.97), ncols=len(colours), frameon=False, fontsize=8)
    axes.margins(x=0)
    axes.tick_params(axis="x", length=0, labelbottom=False)


def _draw_map(figure: Figure, axes: Any, name: str, values: Array, edges: Array, units: Ints, colours: Any) -> None:
    """Draw one gate, a line for each unit, and a colour bar that names the lowest and the highest value."""
    title, low_words, high_words = _MAPS[name]
    low, high = (-1.0, 1.0) if name == "candidate" else (0.0, 1.0)
    finite = values[np.isfinite(values)]
    low, high = min(low, finite.min(initial=low)), max(high, finite.max(initial=high))
    mesh = axes.pcolormesh(
        edges, np.arange(len(units) + 1) - 0.5, values.T, cmap=_colours(name), vmin=low, vmax=high, rasterized=True
    )
    axes.set_facecolor("0.85")  # steps that are not valid
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_yticks(np.arange(len(units)), [f"unit {unit}" for unit in units], fontsize=7)
    for label, unit in zip(axes.get_yticklabels(), units, strict=True):
        label.set_color(colours.get(int(unit), "black"))
    axes.invert_yaxis()
    axes.tick_params(length=0, labelbottom=False)
    bar = figure.colorbar(mesh, ax=axes, aspect=8, pad=0.01)
    bar.set_ticks([low, high], labels=[f"{low:g} {low_words}", f"{high:g} {high_words}"], fontsize=7)


def _colours(name: str) -> str:
    return "RdBu_r" if name == "candidate" else "viridis"


def add_new_fonts() -> None:
    """Add the fonts that were installed after Matplotlib listed those of this machine.

    Matplotlib keeps its list in a file, and does not look for new fonts until the file is deleted.
    """
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {entry.fname for entry in fontManager.ttflist}
    for path in set(findSystemFonts()) - known:
        with contextlib.suppress(OSError, RuntimeError):  # Matplotlib cannot read this font
            fontManager.addfont(path)


def _token_fonts(tokens: Iterable[str]) -> list[str]:
    """Return DejaVu, which comes with Matplotlib, then this machine's fonts for Chinese, Japanese and Korean."""
    from matplotlib.font_manager import get_font_names

    found = set(_FONTS) & set(get_font_names())
    if not found and any(character >= _EAST_ASIAN for token in tokens for character in token):
        add_new_fonts()
        found = set(_FONTS) & set(get_font_names())
    return ["DejaVu Sans Mono", *sorted(found, key=_FONTS.index)]


def _label_steps(axes: Any, tokens: list[str] | None, first: int, count: int, inches: float) -> str:
    """Write the tokens along the axis, or for many steps some of them with their positions; return the axis's label."""
    axes.tick_params(axis="x", labelbottom=True)
    if tokens is None:
        return "step"
    shown = [visible(token) for token in tokens]
    if count <= MOST_TOKENS:
        axes.set_xticks(first + np.arange(len(shown)), shown, fontsize=8, family=_token_fonts(shown), parse_math=False)
        if 0.07 * max(map(len, shown)) > inches:  # the width of a character, and of a column
            axes.tick_params(axis="x", labelrotation=90)
        return "token" + _legend(shown)
    offsets = np.unique(np.linspace(0, count - 1, 13).astype(int)[:-1])
    labels = [f"{first + offset}\n{''.join(shown[offset : offset + 12])[:12]}" for offset in offsets]
    axes.set_xticks(first + offsets, labels, fontsize=7, family=_token_fonts(shown), parse_math=False, ha="left")
    return "step, and the tokens that follow" + _legend(shown)


def _legend(shown: Sequence[str]) -> str:
    """Return the meaning of the signs that occur among the tokens."""
    names = {"␣": "space", "⏎": "end of line", "⇥": "tab"}
    words = [f"{sign} {name}" for sign, name in names.items() if any(sign in token for token in shown)]
    return f" ({', '.join(words)})" if words else ""
