"""The record of the gates and the cell at every step, and values derived from it."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import expect_shape, file_path, flag, int_within, number, one_of, positive_int
from ..notebook import html_table, show_as_picture
from .charts import draw_memories
from .layout import FIELDS
from .matching import matches_of, units_of_span
from .memories import memories_of
from .picture import USUAL_PANELS, draw, panel_names
from .report import MEANS, description, step_count
from .selection import checked_steps, numbers_of, step_range, token_texts, unit_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from ..typing import Array, ArrayLike, Bools, FilePath, Ints
    from .explanation import Explanation
    from .gradients import GradientTrace
    from .matching import Match, SpanUnit
    from .memories import Memory
    from .predictions import Predictions


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
    zoneout : float
        The share of the old cell that zoneout keeps at each step: z in c_t = z c_(t-1) + (1 - z) (f_t c_(t-1) +
        i_t g_t). The methods take it into account: the share that is kept is z + (1 - z) f_t.

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
        zoneout: float = 0.0,
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
        zoneout = number("zoneout", zoneout[()] if isinstance(zoneout, np.ndarray) else zoneout, 0.0, 1.0)
        vars(self).update(_checked_arrays(arrays, flags["batch_first"]), **flags, zoneout=zoneout)

    #: what the trace was made from; not a part of its files
    _source: Any = None

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
        zoneout: float

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a GateTrace is a record: {name} cannot be set; make another one")

    def __repr__(self) -> str:
        T, B, H = self._read("cell").shape
        return f"GateTrace(T={T}, B={B}, H={H})"

    def _repr_html_(self) -> str:
        valid = self._read("valid")
        rows: list[tuple[object, ...]] = [("valid steps", int(valid.sum()))]
        if valid.any():
            for name in MEANS:
                rows.append((f"{name} gate, mean", f"{self._read(name)[valid].mean():.2f}"))
            half = self.half_life()
            rows.append(("half-life of the cell, median", f"{step_count(np.median(half))} steps"))
            rows.append(("half-life of the cell, longest", f"{step_count(half.max())} steps, unit {half.argmax()}"))
        return html_table(repr(self), rows)

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes by name, as the constructor takes them.

        Returns
        -------
        dict
            The arrays are not copied.
        """
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

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

    def to_html(
        self,
        path: FilePath,
        symbols: Sequence[object] | None = None,
        tokens: Sequence[object] | None = None,
        *,
        row: int = 0,
        title: str | None = None,
        language: str = "en",
        gradients: bool = True,
        units: int | Sequence[int] = 8,
        explanation: Explanation | None = None,
        checkpoints: Mapping[str, GateTrace] | None = None,
        compare: Mapping[str, ArrayLike] | None = None,
        notes: Sequence[Mapping[str, object]] | None = None,
    ) -> None:
        """Write a page that shows the gates of one row: one HTML file, which opens from disk and loads nothing.

        The page shows what each gate of a unit did at each step, what the cell is made of, what the model predicts,
        where the gradient of the prediction goes, and which units are on for exactly a span of the text. A model that
        reads tokens runs in the page: a reader can type any text, hold a gate, set a cell or switch a unit off, and
        see how the text goes on.

        Parameters
        ----------
        path : str or Path
            The file to write, replaced if it exists.
        symbols : None or sequence of str
            The text of each of the model's tokens, such as the symbols of a vocabulary.
        tokens : None or sequence of T
            The texts of the steps; None: those that `symbols` gives, else the numbers of the steps.
        row : int
            The row to show.
        title : None or str
        language : {"en", "zh"}
            The language of the page: English or Chinese.
        gradients : bool
            Whether to store the gradient of each step's most probable output, up to 128 steps back. This runs the model
            backwards once for each step.
        units : int or sequence of int
            The units that are shown together: as many of the most salient ones, or these.
        explanation : None or Explanation
            What each unit follows, made by `lstm_cy.trace.explain` of the same layer: a table in the page.
        checkpoints : None or {label: GateTrace}
            Traces of one sequence at several times of a training. If they have as many units as this trace, the page
            shows the units that are shown together, else the first eight.
        compare : None or {label: array_like}
            Norms of gradients by their distance in steps, to be drawn together, such as those of
            `GradientTrace.by_distance`, and of another model.
        notes : None or sequence of mappings
            Remarks for the reader, each with "title" and "text". A button shows the "unit", the "step" and the "colour"
            of the text ("cell", "forget", "input", "output", "hidden", "contribution" or "gradient") that the note
            names. "view" is the part of the page that it belongs to: "reading" (default), "step", "predictions",
            "memory", "gradient", "explanation", "units", "span", "experiment", "training" or "comparison".

        Raises
        ------
        OSError
            The file cannot be written.
        TypeError, ValueError
            An argument is not as expected; or there are more than 2000 steps.

        Notes
        -----
        Texts are data in the page: they cannot become a part of its code, and its content security policy allows
        neither other scripts nor any request. Where the model cannot run in the page, because it is bidirectional or
        reads numbers, for example, the page contains the trace and says why.

        Examples
        --------
        >>> import os, tempfile
        >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
        >>> model = Sequential(Embedding(3, 4, seed=0), LSTM(4, 8, seed=0), Linear(8, 3, seed=0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.trace([0, 1, 2, 0]).to_html(os.path.join(folder, "page.html"), "abc")
        """
        from ..export.page import write_page

        write_page(
            file_path("path", path),
            self,
            self._alone(row),
            self._source,
            symbols,
            tokens,
            row=self._row(row),
            title=title,
            language=language,
            gradients=flag("gradients", gradients),
            units=units,
            explanation=explanation,
            checkpoints=checkpoints or {},
            compare=compare or {},
            notes=notes or (),
        )

    def retention(self, t0: int, t1: int) -> Array:
        """Return the share of the cell after step t0 that is still in the cell after step t1.

        Parameters
        ----------
        t0, t1 : int
            Steps; t0 must not be read after t1. -1 is the initial cell.

        Returns
        -------
        ndarray (B, H)
            The product of the forget gate (with zoneout of z + (1 - z) * forget) over the steps after t0, up to t1;
            zero where a reset is between them.

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
        forget = self._shares()[self._read("valid")]
        if not len(forget):
            return np.full(forget.shape[-1], np.nan, self.cell.dtype)
        with np.errstate(divide="ignore"):
            rate = -np.log(np.abs(forget)).mean(axis=0)
            return np.where(rate > 0, math.log(2) / rate, np.where(np.isnan(rate), rate, np.inf)).astype(
                self.cell.dtype
            )

    def written(self) -> Array:
        """Return the value that each step adds to the cell: input * candidate, times 1 - zoneout.

        Returns
        -------
        ndarray (T, B, H), laid out as x
            NaN where a step is not valid.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            added: Array = self.input * self.candidate * self.cell.dtype.type(1 - self.zoneout)
            return added

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

    def gradient(self, of: Any, target: ArrayLike | None = None) -> GradientTrace:
        """Return the gradient of a prediction, or of a loss, with respect to every input, gate and cell.

        Parameters
        ----------
        of : (t, output), or a loss
            An element of the model's output at step t; (None, output) if the output has no axis of steps. Or a loss as
            `fit` takes it, a callable that returns (value, gradient).
        target : None or array_like
            The target of the loss, in the layout of the output.

        Returns
        -------
        GradientTrace
            Exact, computed in float64: the model is run once more, as for inference, on the same x, states and
            arguments. The gates and the cell are those of the layer and direction of this trace, and x is the input of
            the whole model.

        Raises
        ------
        TypeError, ValueError
            An argument is not as expected, or the trace was read from a file, which holds no model. Or the model has
            narrow weights: rounding has no gradient.

        Notes
        -----
        Each number is a total over all later steps. See `GradientTrace`. The formulas are those of back-propagation
        through time (Werbos, Backpropagation through time: what it does and how to do it, 1990).

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_cy import LSTM, Linear, Sequential, mse
        >>> model = Sequential(LSTM(3, 5, seed=0), Linear(5, 2, seed=0))
        >>> trace = model.trace(np.ones((7, 3)))
        >>> gradient = trace.gradient(of=(6, 1))
        >>> norms = gradient.by_distance()
        >>> norms["distance"].tolist(), bool(norms["x"][0] > norms["x"][6] > 0)
        ([0, 1, 2, 3, 4, 5, 6], True)
        >>> trace.gradient(of=mse, target=np.zeros((7, 2))).of
        'the loss mse'
        """
        result: GradientTrace = self._made_from("gradient").gradient(of, target, self)
        return result

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
        forget = self._shares()[:, rows][valid]
        cell, output = (self._read(name)[:, rows][valid].astype(np.float64) for name in ("cell", "output"))
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
        for index, name in enumerate(FIELDS):
            wrong = ~np.isfinite(self._read(name)) & valid[:, :, None]
            if wrong.any():
                position, row, unit = map(int, np.unravel_index(wrong.argmax(), wrong.shape))
                found.append((position, row, index, unit))
        if not found:
            return None
        position, row, index, unit = min(found)
        return self._step(position), row, FIELDS[index], unit

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
        alone = self._alone(row)
        texts, chosen = token_texts(alone, tokens), unit_numbers(alone, units)
        return description(alone, texts, chosen, self.half_life(), self.nan_source())

    def plot(
        self,
        tokens: Sequence[object] | None = None,
        *,
        row: int = 0,
        units: int | Sequence[int] = 8,
        lines: int = 4,
        steps: tuple[int, int] | None = None,
        panels: Sequence[str] = USUAL_PANELS,
        outputs: Sequence[object] | None = None,
        target: ArrayLike | None = None,
        language: str = "en",
        title: str | None = None,
    ) -> Figure:
        """Draw the cell of a few units as lines, and the gates as heat maps, over the tokens.

        Parameters
        ----------
        tokens : None, str, or sequence of T
            The tokens that were read, for the axis of each panel. None: the numbers of the steps.
        row : int
            The row to draw.
        units : int or sequence of int
            How many of the most salient units the heat maps show, or their numbers, from the top. Of units whose cells
            move alike (a correlation above 0.9 or below -0.9) only one is shown, as long as there are other units.
        lines : int
            Of how many of these units, from the top, the cell is drawn.
        steps : None or (first, last)
            Draw only these steps, including `last`.
        panels : sequence of str
            What to draw, from the top: any of "cell", "forget", "input", "candidate", "output", "written" (the value
            that is added to the cell), "hidden" and "prediction", which comes last.
        outputs, target :
            As for `predictions`, for the panel "prediction".
        language : {"en", "zh"}
            The language of the labels: English or Chinese.
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
        alone = self._alone(row)
        texts, chosen = token_texts(alone, tokens), unit_numbers(alone, units)
        lines = positive_int("lines", lines)
        first, last = step_range(alone, steps, row)
        drawn = slice(first, last + 1)
        names = panel_names(panels)
        arrays = {
            name: (alone.written() if name == "written" else getattr(alone, name))[drawn][:, self._shown(name, chosen)]
            for name in names
            if name != "prediction"
        }
        found = None
        if "prediction" in names:
            found = self.predictions(outputs, target, row=row)
            found = found._replace(probability=found.probability[drawn], target=found.target[drawn])
        elif outputs is not None or target is not None:
            raise ValueError('outputs, target: expected None without the panel "prediction"')
        texts = None if texts is None else texts[drawn]
        return show_as_picture(draw(arrays, texts, first, chosen, chosen[:lines], self.reverse, title, language, found))

    def _shown(self, name: str, units: Ints) -> Ints:
        """Return the columns of a field that belong to the units; a projected h has columns of its own."""
        width = self.hidden.shape[-1]
        return units[units < width] if name == "hidden" and width != self.cell.shape[-1] else units

    def predictions(
        self, outputs: Sequence[object] | None = None, target: ArrayLike | None = None, *, row: int = 0
    ) -> Predictions:
        """Return what the model of this trace predicts at each step.

        Parameters
        ----------
        outputs : None or sequence of K
            The names of the model's outputs, such as the symbols of a vocabulary.
        target : None or array_like of int (T,)
            The right output of each step, of this row; -100 where there is none.
        row : int

        Returns
        -------
        Predictions
            The probabilities: the model's outputs, after softmax unless its last layer is one.

        Raises
        ------
        TypeError, ValueError
            An argument is not as expected; the model has no outputs at each step; or the trace was read from a file,
            which holds no model.

        Examples
        --------
        >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
        >>> model = Sequential(Embedding(3, 4, seed=0), LSTM(4, 8, seed=0), Linear(8, 3, seed=0))
        >>> found = model.trace([0, 1, 2, 0]).predictions("abc", [1, 2, 0, -100])
        >>> found.probability.shape, found.labels
        ((4, 3), ['a', 'b', 'c'])
        """
        source, row = self._made_from("predictions"), self._row(row)
        result: Predictions = source.predictions(row, len(self._steps("cell")), outputs, target)
        return result

    def memories(
        self, *, row: int = 0, units: int | Sequence[int] = 8, share: float = 0.5, most: int = 8
    ) -> list[Memory]:
        """Return the largest values that each unit added to its cell, and for how long it kept them.

        Parameters
        ----------
        row : int
        units : int or sequence of int
            As for `plot`.
        share : float
            A value counts as kept as long as this share of it is still in the cell.
        most : int
            How many values of each unit, the largest ones.

        Returns
        -------
        list of Memory
            In the order of the units, then of reading.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_cy import LSTM
        >>> trace = LSTM(3, 5, seed=0).trace(np.eye(3))
        >>> [one.unit for one in trace.memories(units=[2, 4], most=2)]
        [2, 2, 4, 4]
        """
        alone = self._alone(row)
        chosen, share = unit_numbers(alone, units), number("share", share, 0.0, 1.0)
        found = memories_of(
            alone._written()[:, 0],
            alone._shares()[:, 0],
            alone._read("valid")[:, 0],
            alone._read("reset")[:, 0],
            chosen,
            share,
            positive_int("most", most),
        )
        return [one._replace(step=self._step(one.step), until=self._step(one.until)) for one in found]

    def plot_memories(
        self,
        tokens: Sequence[object] | None = None,
        *,
        row: int = 0,
        units: int | Sequence[int] = 3,
        at: int | None = None,
        steps: tuple[int, int] | None = None,
        share: float = 0.5,
        most: int = 8,
        language: str = "en",
        title: str | None = None,
    ) -> Figure:
        """Draw what each unit wrote and for how long it kept it, and what the cell is made of at one step.

        Parameters
        ----------
        tokens, row :
            As for `plot`.
        units : int or sequence of int
            As for `plot`; each has a panel of its own.
        at : None or int
            The step after which the cell is split into `contribution`; None for the last one that is drawn, in the
            order of reading.
        steps :
            As for `plot`.
        share, most :
            As for `memories`.
        language, title :
            As for `plot`.

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
        alone = self._alone(row)
        texts, chosen = token_texts(alone, tokens), unit_numbers(alone, units)
        first, last = step_range(alone, steps, row)
        at = (first if self.reverse else last) if at is None else int_within("at", at, first, last)
        found = self.memories(row=row, units=chosen.tolist(), share=share, most=most)
        found = [one for one in found if first <= one.step <= last]
        found = [one._replace(until=min(max(one.until, first), last)) for one in found]
        parts = np.zeros_like(alone.cell)
        added = alone.contribution(at)[1:]
        parts[alone._read_order()[: len(added)]] = added
        drawn = slice(first, last + 1)
        texts = None if texts is None else texts[drawn]
        cell, parts = alone.cell[drawn][:, chosen], parts[drawn][:, chosen]
        return show_as_picture(
            draw_memories(found, cell, parts, chosen, texts, first, at, self.reverse, language, title)
        )

    def span_units(
        self, span: tuple[int, int], *, row: int = 0, signal: str = "cell", most: int | None = None
    ) -> list[SpanUnit]:
        """Return the units that are on for exactly a span of steps.

        Parameters
        ----------
        span : (first, last)
            Steps, including `last`.
        row : int
        signal : {"cell", "hidden", "forget", "input", "candidate", "output"}
            The value that counts.
        most : None or int
            How many units to return; None for all.

        Returns
        -------
        list of SpanUnit
            Units whose value is higher at each step of the span than at the steps next to it, or lower; the clearest
            first.
        """
        values = self._steps(one_of("signal", signal, FIELDS))
        own = values[:, self._row(row)]
        first, last = checked_steps(span, len(own))
        with np.errstate(invalid="ignore"):
            spread = np.nan_to_num(np.std(values[self._steps("valid")].astype(np.float64), axis=0))
        found = units_of_span(own, first, last, spread)
        return found[: None if most is None else positive_int("most", most)]

    def match(
        self,
        span: tuple[int, int],
        corpus: Any = None,
        *,
        row: int = 0,
        units: int | Sequence[int] | None = None,
        signal: str = "cell",
        most: int = 20,
    ) -> list[Match]:
        """Return the places in a corpus where units do what they do in a span of this trace.

        Parameters
        ----------
        span : (first, last)
            Steps of this trace, including `last`.
        corpus : None, GateTrace or array_like
            A trace of the same layer; or an input of the model, such as tokens, which is traced; None: this trace.
        row : int
            The row of the span.
        units : None, int or sequence of int
            The units that count: how many of `span_units`, the clearest first, or their numbers. None: the three
            clearest ones.
        signal : str
            As for `span_units`.
        most : int
            How many places to return.

        Returns
        -------
        list of Match
            The places where most of the units are on, and off right before and after; of these first those that are
            about as long as the span. The span itself is left out.

        Raises
        ------
        TypeError, ValueError
            An argument is not as expected; or no unit, or not the given one, is on for exactly the span.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_cy import LSTM
        >>> x = np.zeros((30, 1))
        >>> x[[5, 6, 7, 20, 21, 22]] = 4
        >>> trace = LSTM(1, 6, seed=0).trace(x)
        >>> [(one.first, one.last) for one in trace.match((5, 7), most=1, signal="input")]
        [(20, 22)]
        """
        found = self.span_units(span, row=row, signal=signal)
        if units is None or isinstance(units, numbers.Integral):
            found = found[: 3 if units is None else positive_int("units", units)]
        else:
            chosen = numbers_of(units, np.arange(0), self.cell.shape[-1]).tolist()
            missing = set(chosen) - {one.unit for one in found}
            if missing:
                raise ValueError(f"units: expected units that are on for exactly the span, got {sorted(missing)}")
            found = [one for one in found if one.unit in chosen]
        if not found:
            raise ValueError(f"span: expected steps for which a unit is on, got {span!r}, where none is")
        other = self if corpus is None else self._traced("match", corpus)
        if other.cell.shape[-1] != self.cell.shape[-1]:
            raise ValueError(f"corpus: expected a trace of {self.cell.shape[-1]} units, got {other.cell.shape[-1]}")
        first, last = span
        places = matches_of(other._steps(signal), other._steps("valid"), found, last - first + 1)
        if other is self:
            places = [one for one in places if (one.row, one.first, one.last) != (row, first, last)]
        return places[: positive_int("most", most)]

    def _traced(self, method: str, corpus: Any) -> GateTrace:
        """Return a corpus as a trace of the same layer and direction."""
        if isinstance(corpus, GateTrace):
            return corpus
        result: GateTrace = self._made_from(method).trace(corpus)
        return result

    def _read_order(self) -> Ints:
        """Return the steps in the order of reading."""
        return np.arange(len(self._steps("cell")))[:: -1 if self.reverse else 1]

    def _made_from(self, method: str) -> Any:
        """Return the Source of the trace; raise if it has none."""
        if self._source is None:
            raise ValueError(f"{method}: expected a trace that a model made, got one from arrays, which holds no model")
        return self._source

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
            written = self._read("input").astype(np.float64) * self._read("candidate") * (1 - self.zoneout)
        return np.where(self._read("valid")[:, :, None], written, 0)

    def _shares(self) -> Array:
        """Return (T, B, H) in the order of reading: the share of the old cell that each step keeps."""
        forget: Array = self._read("forget").astype(np.float64)
        return self.zoneout + (1 - self.zoneout) * forget if self.zoneout else forget

    def _kept(self, first: int, last: int) -> Array:
        """Return (last - first + 2, B, H): the share of the cell before each step from `first` on, and after `last`,
        that is still in the cell after `last`."""
        valid = self._read("valid")[first : last + 1, :, None]
        factors = np.where(valid, self._shares()[first : last + 1], 1)
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

    def _alone(self, row: int) -> GateTrace:
        """Return the trace of one row, as of one sequence."""
        row = self._row(row)
        arrays: dict[str, Any] = {name: self._steps(name)[:, row] for name in (*FIELDS, "valid", "reset")}
        return GateTrace(**arrays, initial_cell=self._initial()[row], reverse=self.reverse, zoneout=self.zoneout)


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
