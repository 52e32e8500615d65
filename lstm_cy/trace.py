"""What every gate did at every step, how long the cell kept it, and pictures of it."""

from __future__ import annotations

import contextlib
import math
import numbers
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import expect_shape, file_path, flag, int_within, positive_int, shown
from .extras import pip_install
from .lstm import LSTM
from .notebook import html_table, show_as_picture

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.figure import Figure

    from .layers import Sequential
    from .lstm import Batch
    from .typing import Array, ArrayLike, Bools, FilePath, Ints, StateLike

#: what a trace holds of each step, in the order in which a step computes it
FIELDS = ("forget", "input", "candidate", "cell", "output", "hidden")

#: steps that a picture shows one by one; of more it shows means over windows
MOST_COLUMNS = 240
#: steps whose tokens stand along the axis one by one
MOST_TOKENS = 120
#: correlation of two units' cells over the steps above which one is taken for a copy of the other, or its opposite
MOST_ALIKE = 0.9
#: gates, and what they have a share of
_MEANS = {
    "forget": "the cell stays at each step",
    "input": "the candidate is written",
    "output": "the cell is told",
}
_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_FONTS = (
    "Noto Sans Mono CJK SC",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # all that Matplotlib before 3.11 finds in a file with several fonts
    "Source Han Sans SC",
    "WenQuanYi Zen Hei Mono",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Microsoft YaHei",
    "SimHei",
)
#: from this character on DejaVu has next to nothing
_EAST_ASIAN = "\u2e80"
#: heat maps: title, and what the lowest and the highest value mean
_MAPS = {
    "forget": ("Forget gate: how much of the cell stays", "drops it", "keeps it"),
    "input": ("Input gate: how much of the candidate is written", "lets it pass", "writes it down"),
    "candidate": ("Candidate: what could be written", "would lower the cell", "would raise it"),
    "output": ("Output gate: how much of the cell is told", "silent", "tells it"),
}


class GateTrace:
    """What one direction of one layer did with an input; `LSTM.trace` and `Sequential.trace` make it.

    Parameters
    ----------
    forget, input, candidate, output : ndarray (T, B, H), laid out as x
        The gates, activated: what stays of the cell, what is written of the candidate, what could be written, what is
        told of the cell. As computed: with coupled gates the one that follows from the other too.
    cell, hidden : ndarray (T, B, H) and (T, B, P), laid out as x
        The cell and the output after each step.
    initial_cell : ndarray (B, H)
        The cell before the first step.
    valid, reset : ndarray of bool (T, B), laid out as x
        Whether a step was read, and whether the state was set to zero before it. Where `valid` is False the six arrays
        above are NaN.
    batch_first : bool
        x, hence all but `initial_cell`, is laid out (B, T, ...).
    reverse : bool
        The steps were read from the last to the first.

    Notes
    -----
    For one sequence nothing has the axis B. The arrays hold the bits that the layer computed with; what the methods
    derive is computed in float64 and comes in the layer's dtype.

    Steps are numbered as in x, in either direction. A step that is not valid changes nothing: all of the cell is still
    there after it.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM
    >>> lstm = LSTM(3, 5, seed=0)
    >>> trace = lstm.trace(np.ones((7, 3)))
    >>> trace.forget.shape, trace.cell.shape, trace.initial_cell.shape
    ((7, 5), (7, 5), (5,))

    Where the cell after the last step comes from, step by step:

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
        """All attributes by name, as the constructor takes them.

        Returns
        -------
        dict
            The arrays in it are the trace's own.
        """
        return dict(vars(self))

    def to_npz(self, path: FilePath) -> None:
        """Write all attributes to a file; ``GateTrace(**numpy.load(path))`` is the trace again.

        Parameters
        ----------
        path : str or Path
            Ends with .npz.

        Raises
        ------
        ValueError
            It does not.
        OSError
            It cannot be written.
        """
        path = file_path("path", path)
        if not path.endswith(".npz"):
            raise ValueError(f"path: expected a name that ends with .npz, got {path!r}")
        np.savez(path, **self.to_dict())

    def retention(self, t0: int, t1: int) -> Array:
        """The share of what the cell held after step t0 that is still there after step t1.

        Parameters
        ----------
        t0, t1 : int
            Steps, t0 not after t1 as they were read; -1 is the initial cell.

        Returns
        -------
        ndarray (B, H)
            The product of the forget gate over the steps after t0, up to t1; zero where a reset comes between.

        Raises
        ------
        TypeError, ValueError
            A step that there is not, or t1 was read before t0.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_cy import LSTM
        >>> trace = LSTM(3, 5, seed=0).trace(np.ones((7, 3)))
        >>> np.allclose(trace.retention(2, 4), trace.forget[3] * trace.forget[4])
        True
        """
        first, last = self._place("t0", t0), self._place("t1", t1)
        if first > last:
            raise ValueError(f"t0, t1: expected t0 not to be read after t1, got {t0} and {t1}")
        return self._told(self._kept(first + 1, last)[0])

    def half_life(self) -> Array:
        """The number of steps over which each unit forgets half of what its cell holds.

        Returns
        -------
        ndarray (H,)
            ln 2 / -mean(ln forget), the mean over all valid steps and rows: inf where the gate is always 1 (or, with
            other activations than sigmoid, above it on the whole), 0 where it is 0 once, NaN without a valid step.

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
        """What each step adds to the cell: input * candidate.

        Returns
        -------
        ndarray (T, B, H), laid out as x
            NaN where there is no step.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            return self.input * self.candidate

    def contribution(self, t: int) -> Array:
        """What of the cell after step t was written when.

        Parameters
        ----------
        t : int
            A step; -1 is before the first.

        Returns
        -------
        ndarray (t + 2, B, H)
            Row 0 is what is left of the initial cell, row s + 1 what is left of what step s wrote: written * retention.
            They sum to the cell after step t, but for rounding. Zero before a reset and where a step is not valid. In
            the order of reading: for a reverse direction row s + 1 is step T - 1 - s, and there are T - t + 1 rows.

        Raises
        ------
        TypeError, ValueError
            There is no such step.

        Notes
        -----
        This is c_t = f_t c_(t-1) + i_t g_t written out, so it holds for coupled gates, peepholes and other activations
        as well. With `cell_clip` the sum is what the cell would be if nothing had been cut off on the way, and equals
        it only where the bound did not bind.
        """
        last = self._place("t", t)
        before = np.concatenate([self._initial()[None], self._written()[: last + 1]])
        kept = self._kept(0, last)
        with np.errstate(invalid="ignore"):  # infinity, of which nothing is kept
            return self._told(np.where(self._cut_off(0, last)[:, :, None], 0, before * kept))

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

    telling = salience  #: The name of `salience` in version 0.1.0.

    def nan_source(self) -> Any:
        """Where something went wrong first: the first value that is not finite, NaN or infinity.

        Returns
        -------
        (step, row, gate, unit), or None
            First by the order of reading, then by row, then in the order in which a step computes: gate is "forget",
            "input", "candidate", "cell", "output" or "hidden". If all gates of a step are not finite at once, the cause
            lies before them: in x, or in the state.

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
                place, row, unit = map(int, np.unravel_index(wrong.argmax(), wrong.shape))
                found.append((place, row, number, unit))
        if not found:
            return None
        place, row, number, unit = min(found)
        return self._step(place), row, FIELDS[number], unit

    def report(self, tokens: Sequence[object] | None = None, *, row: int = 0, units: int | Sequence[int] = 5) -> str:
        """What happened, in plain text.

        Parameters
        ----------
        tokens : None, str, or sequence of T
            What was read, for the words.
        row : int
            The row that is told of.
        units : int or sequence of int
            How many of the most salient units, or which, chosen as for `plot`.

        Returns
        -------
        str

        Raises
        ------
        TypeError, ValueError
            An argument is not what is expected; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_cy import LSTM
        >>> trace = LSTM(3, 5, seed=0).trace(np.eye(3))
        >>> print(trace.report("abc", units=1))  # doctest: +ELLIPSIS
        3 steps, 5 units
        forget gate: on average 0.7... of the cell stays at each step
        ...
        """
        row = self._row(row)
        tokens, chosen = self._tokens(tokens, row), self._units(units, row)
        steps = np.flatnonzero(self._steps("valid")[:, row])
        lines = [f"{len(steps)} steps, {self.cell.shape[-1]} units"]
        source = self.nan_source()
        if source is not None:
            return "\n".join([*lines, "went wrong first: {2} of unit {3}, at step {0} of row {1}".format(*source)])
        if not len(steps):
            return lines[0]
        for name, words in _MEANS.items():
            lines.append(f"{name} gate: on average {self._steps(name)[steps, row].mean():.2f} of {words}")
        half = self.half_life()
        lines.append(
            f"half-life of what a cell holds, in steps: {_number(half.min())} at the shortest, "
            f"{_number(np.median(half))} in the middle, {_number(half.max())} at the longest (unit {half.argmax()})"
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
        """Draw what happened: the cell of a few units as lines, and the gates as heat maps, over the tokens.

        Parameters
        ----------
        tokens : None, str, or sequence of T
            What was read; they stand along the axis. None: the steps' numbers.
        row : int
            The row that is drawn.
        units : int or sequence of int
            How many of the most salient units the heat maps show, or which, from the top. Units whose cells move
            alike (a correlation above 0.9 or below -0.9) are represented by one of them as long as there are others.
        lines : int
            For how many of them, from the top, the cell is drawn.
        steps : None or (first, last)
            Only these steps, `last` among them.
        title : None or str

        Returns
        -------
        matplotlib.figure.Figure
            Save it with ``figure.savefig(path)``; a notebook shows it. Of more than 240 steps it shows means over
            windows, and says so.

        Raises
        ------
        ImportError
            There is no matplotlib: ``pip install matplotlib``.
        TypeError, ValueError
            An argument is not what is expected; the message names it.
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
        """The lines about one unit."""

        def at(step: int) -> str:
            return f"step {step}" + ("" if tokens is None else f" {tokens[step]!r}")

        cell = self._steps("cell")[steps, row, unit]
        written = self._outer_steps(self.written())[steps, row, unit]
        forget = self._steps("forget")[steps, row, unit]
        wrote, forgot = int(np.abs(written).argmax()), int(forget.argmin())
        last = steps[0] if self.reverse else steps[-1]
        left = self._batched(self.contribution(int(last)), axis=1)[:, row, unit]
        largest = np.argsort(-np.abs(left), kind="stable")[:3]
        sources = [
            f"{left[place]:+.2f} of " + ("the initial cell" if place == 0 else at(self._step(int(place) - 1)))
            for place in largest
            if abs(left[place]) >= 0.005
        ]
        return [
            f"unit {unit}: half-life {_number(half_life)}, cell from {cell.min():.2f} to {cell.max():.2f}",
            f"  wrote most at {at(steps[wrote])}, {written[wrote]:+.2f}; "
            f"kept least at {at(steps[forgot])}, {forget[forgot]:.2f} of it",
            f"  holds {self._steps('cell')[last, row, unit]:+.2f} in the end: "
            + (", ".join(sources) or "nothing much"),
        ]

    # From the layout of x to (T, B, ...), by step or in the order of reading, and back

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

    def _told(self, array: Array) -> Array:
        """A derived array (..., B, H) as the caller sees it."""
        return (array if self._has_batch_axis else array[..., 0, :]).astype(self.cell.dtype)

    # What is derived, in float64 and in the order of reading

    def _written(self) -> Array:
        with np.errstate(invalid="ignore", over="ignore"):
            written = self._read("input").astype(np.float64) * self._read("candidate")
        return np.where(self._read("valid")[:, :, None], written, 0)

    def _kept(self, first: int, last: int) -> Array:
        """(last - first + 2, B, H): of the cell before each step from `first` on, and after `last`, what is still there
        after `last`."""
        valid = self._read("valid")[first : last + 1, :, None]
        factors = np.where(valid, self._read("forget")[first : last + 1].astype(np.float64), 1)
        whole = np.ones((1, *factors.shape[1:]))
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            kept = np.cumprod(np.concatenate([whole, factors[::-1]]), axis=0)[::-1]
        return np.where(self._cut_off(first, last)[:, :, None], 0, kept)

    def _cut_off(self, first: int, last: int) -> Bools:
        """(last - first + 2, B): whether a reset lies between before each step from `first` on and after `last`."""
        resets = self._read("reset")[first : last + 1]
        none = np.zeros((1, resets.shape[1]), bool)
        return np.logical_or.accumulate(np.concatenate([none, resets[::-1]]), axis=0)[::-1]

    # Arguments

    def _place(self, name: str, step: int) -> int:
        """A step's place in the order of reading; -1 is before the first."""
        T = len(self._steps("cell"))
        step = int_within(name, step, -1, T - 1)
        return T - 1 - step if self.reverse and step >= 0 else step

    def _step(self, place: Any) -> Any:
        """The inverse of `_place`."""
        return len(self._steps("cell")) - 1 - place if self.reverse else place

    def _row(self, row: int) -> int:
        return int_within("row", row, 0, self._steps("cell").shape[1] - 1)

    def _ends(self, row: int) -> int:
        """The number of steps up to a row's last valid one."""
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
        """The numbers of units: those given, or so many of the most salient that differ from each other."""
        H = self.cell.shape[-1]
        if isinstance(units, numbers.Integral):
            return self._distinct(np.argsort(-self.salience(row), kind="stable"), row, positive_int("units", units))
        units = [int_within("units", unit, 0, H - 1) for unit in _sequence("units", units)]
        if not units:
            raise ValueError("units: expected at least one, got none")
        return np.array(units)

    def _distinct(self, units: Ints, row: int, count: int) -> Ints:
        """The first `count` of `units` whose cells do not follow each other; where they are too few, others fill up."""
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
    lstm: LSTM,
    x: ArrayLike,
    state: StateLike | None,
    lengths: ArrayLike | None,
    layer: int,
    direction: int,
    mask: ArrayLike | None,
    reset: ArrayLike | None,
    threads: int | None,
) -> GateTrace:
    """What `LSTM.trace` does; see there."""
    layer = int_within("layer", layer, -lstm.num_layers, lstm.num_layers - 1) % lstm.num_layers
    direction = int_within("direction", direction, 0, lstm.num_directions - 1)
    index = layer * lstm.num_directions + direction
    _, _, tape = lstm._run(x, state, (lengths, mask, reset), threads, traced=index)
    batch, _, saved, _ = tape._held[-1]
    _, _, _, gates, _, _, _, told, cell = saved[index]
    backwards = lstm.reverse or direction == 1
    places = _places(batch, backwards)
    parts = zip(("input", "forget", "candidate", "output"), np.split(gates, 4, axis=1), strict=True)
    kept = {**dict(parts), "cell": cell, "hidden": told}
    arrays = {name: batch.unbatched(_put_back(batch, places, array, np.nan)) for name, array in kept.items()}
    valid = _put_back(batch, places, np.ones((batch.rows, 1), bool), False)
    resets = np.zeros_like(valid)
    if reset is not None:
        resets[:] = np.reshape(reset, batch.shape(1))
        if lengths is not None:  # past a row's end they are not read; those on masked steps are
            resets &= valid
    _, initial = lstm._states("state", state, batch)
    return GateTrace(
        **arrays,
        initial_cell=initial[index] if batch.has_batch_axis else initial[index, 0],
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
    """What `Sequential.trace` does; see there."""
    states = model._check_states("states", states)
    model._check_mask(lengths, mask)
    lstms = {place: one for place, one in enumerate(model.layers) if isinstance(one, LSTM)}
    layers = [(place, number) for place in lstms for number in range(lstms[place].num_layers)]
    if not layers:
        raise ValueError("trace: expected a model with an LSTM in it, got none")
    last, number = layers[int_within("layer", layer, -len(layers), len(layers) - 1)]
    steps: dict[str, Any] = {"lengths": lengths, "mask": mask, "reset": reset, "threads": threads}
    initial = dict(zip(lstms, states, strict=True))
    for place, one in enumerate(model.layers[:last]):
        x, _ = model._passed(one, x, initial.get(place), steps)
    return lstms[last].trace(x, initial[last], layer=number, direction=direction, **steps)


def _places(batch: Batch, backwards: bool) -> tuple[Ints, Ints]:
    """Which step of which row each row of a tape is of: as index arrays (steps, rows)."""
    order, lengths, active, places, _ = batch.order
    if order is None:
        order, lengths, active = np.arange(batch.B), np.full(batch.B, batch.T), np.full(batch.T, batch.B)
    steps = np.repeat(np.arange(batch.T), active)
    slots = np.arange(batch.rows) - np.repeat(np.cumsum(active) - active, active)
    rows = order[slots]
    if backwards:
        steps = lengths[slots] - 1 - steps
    return (steps if places is None else places[rows, steps]), rows


def _put_back(batch: Batch, places: tuple[Ints, Ints], array: Array, fill: float) -> Array:
    """A tape's array at its places in x's layout, `fill` where there is none."""
    steps, rows = places
    whole = np.full(batch.shape(array.shape[1]), fill, array.dtype)
    whole[(rows, steps) if batch.batch_first else (steps, rows)] = array
    return whole


def _checked_arrays(arrays: dict[str, Any], batch_first: bool) -> dict[str, Array]:
    """The arrays of a GateTrace, if their shapes fit each other."""
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
    for name, wanted in expected.items():
        expect_shape(name, arrays[name], wanted, "that goes with cell")
    return arrays


def _sequence(name: str, value: Any) -> Any:
    try:
        return list(value)
    except TypeError:  # among them arrays without an axis, and classes
        raise TypeError(f"{name}: expected a sequence, got {shown(value)} ({type(value).__name__})") from None


def _number(value: float) -> str:
    """A number of steps, in words' precision."""
    return "for ever" if math.isinf(value) else f"{value:.1f}" if value < 10 else f"{value:.0f}"


# The picture


def visible(token: str) -> str:
    """A token as it can stand along an axis: space, line end and tab as signs, what cannot be printed escaped."""
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
    """(columns, units): the means of windows that begin at `starts`, of what there is; NaN where nothing is."""
    there = ~np.isnan(array)
    counts = np.add.reduceat(there, starts, axis=0, dtype=np.intp)
    sums = np.add.reduceat(np.where(there, array, 0), starts, axis=0, dtype=np.float64)
    return np.where(counts, sums / np.maximum(counts, 1), np.nan)


def _draw_cell(axes: Any, cell: Array, starts: Ints, edges: Array, colours: Any) -> None:
    """The threads: the cell of the first units, with bands where a column is more than a step."""
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
    """One gate, a line for each unit; the colour bar says in words what is low and what is high."""
    title, low_words, high_words = _MAPS[name]
    low, high = (-1.0, 1.0) if name == "candidate" else (0.0, 1.0)
    finite = values[np.isfinite(values)]
    low, high = min(low, finite.min(initial=low)), max(high, finite.max(initial=high))
    mesh = axes.pcolormesh(
        edges, np.arange(len(units) + 1) - 0.5, values.T, cmap=_colours(name), vmin=low, vmax=high, rasterized=True
    )
    axes.set_facecolor("0.85")  # where there is no step
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
    """Let Matplotlib know of fonts that were installed after it listed those of this machine.

    It keeps that list in a file and reads it again and again: what is installed later is not found, unless somebody
    deletes the file.
    """
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {entry.fname for entry in fontManager.ttflist}
    for path in set(findSystemFonts()) - known:
        with contextlib.suppress(OSError, RuntimeError):  # no font that it can read
            fontManager.addfont(path)


def _token_fonts(tokens: Iterable[str]) -> list[str]:
    """DejaVu, which comes with matplotlib, and behind it what this machine has for Chinese, Japanese and Korean."""
    from matplotlib.font_manager import get_font_names

    found = set(_FONTS) & set(get_font_names())
    if not found and any(character >= _EAST_ASIAN for token in tokens for character in token):
        add_new_fonts()
        found = set(_FONTS) & set(get_font_names())
    return ["DejaVu Sans Mono", *sorted(found, key=_FONTS.index)]


def _label_steps(axes: Any, tokens: list[str] | None, first: int, count: int, inches: float) -> str:
    """The tokens along the axis, or for many steps where some of them stand; returns the axis's name."""
    axes.tick_params(axis="x", labelbottom=True)
    if tokens is None:
        return "step"
    shown = [visible(token) for token in tokens]
    if count <= MOST_TOKENS:
        axes.set_xticks(first + np.arange(len(shown)), shown, fontsize=8, family=_token_fonts(shown), parse_math=False)
        if 0.07 * max(map(len, shown)) > inches:  # a character's width, and a column's
            axes.tick_params(axis="x", labelrotation=90)
        return "token" + _legend(shown)
    places = np.unique(np.linspace(0, count - 1, 13).astype(int)[:-1])
    labels = [f"{first + place}\n{''.join(shown[place : place + 12])[:12]}" for place in places]
    axes.set_xticks(first + places, labels, fontsize=7, family=_token_fonts(shown), parse_math=False, ha="left")
    return "step, and the tokens that follow" + _legend(shown)


def _legend(shown: Sequence[str]) -> str:
    """What the signs among the tokens stand for."""
    names = {"␣": "space", "⏎": "end of line", "⇥": "tab"}
    words = [f"{sign} {name}" for sign, name in names.items() if any(sign in token for token in shown)]
    return f" ({', '.join(words)})" if words else ""
