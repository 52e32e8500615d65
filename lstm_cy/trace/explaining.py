"""What each unit of a language model follows, and what the model loses without it: `explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import expect_shape, flag, flag_array, int_within, shown
from ..layers.activations import log_softmax
from ..layers.base import Steps, run_layers
from ..layers.lstm import LSTM
from ..text.vocabulary import vocabulary_from_json
from .explanation import SIGNALS, Explanation, UnitExplanation
from .features import text_features

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..layers.base import Layer
    from ..typing import Array, ArrayLike, Bools, Ints

#: the rows that a text is read in; the first half of them is for choosing, the second is held out
ROWS = 16
#: tokens that a loss is measured on, and those before each row of them, which are read but not counted
LOSS_TOKENS, WARM_UP = 20_000, 200
#: the values of a unit are sorted into so many bins of equal frequency
_BINS, _LEVELS = 256, 4096
#: steps that are read at a time, and units whose values are held at a time
_CHUNK, _MOST_UNITS = 1024, 256
#: fewest tokens that can be explained
_LEAST = 64


def explain(
    model: Layer,
    text: str | bytes,
    *,
    vocabulary: Any = None,
    layer: int = -1,
    features: Mapping[str, ArrayLike] | None = None,
    frozen: bool = True,
    limit: int | None = 1_000_000,
) -> Explanation:
    """Find out what each unit of a language model follows, and what the model loses without it.

    Parameters
    ----------
    model : Sequential
        A language model: tokens in, and for the losses one output for each token of the vocabulary.
    text : str or bytes
        The text to read. The first half chooses the feature of a unit, the second half is held out.
    vocabulary : Vocabulary, Words or Bytes; or None
        None: the one in the model's `metadata`, which `lstm-cy train` writes.
    layer : int
        Counts the layers of all LSTMs of the model, from 0; a negative one counts from the last.
    features : None or mapping of str to array_like of bool (number of characters,)
        More features than those of `text_features`: what is true at each character of the text.
    frozen : bool
        Whether to measure the losses with each unit frozen.
    limit : None or int
        Most tokens to read.

    Returns
    -------
    Explanation

    Raises
    ------
    TypeError, ValueError
        An argument is not as expected; the layer is bidirectional or reverse or inside a Residual; the text is too
        short. The message says which.

    Notes
    -----
    The text is read in 16 rows at the same time, each from a state of zeros. A unit is frozen by holding its h at its
    mean over the first half, in the next step and in the layers after it; its cell goes on, but nothing reads it. The
    losses are those of up to 20 000 tokens from the beginning of the held-out half, in rows, after 200 tokens that are
    read before each row and not counted. A layer with narrow weights is frozen with the float32 numbers that they stand
    for.

    That a unit follows a feature does not mean that the model uses it for that; the loss says what it is worth.

    Examples
    --------
    >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
    >>> from lstm_cy.text import Vocabulary
    >>> from lstm_cy.trace import explain
    >>> vocabulary = Vocabulary("ab()")
    >>> model = Sequential(Embedding(5, 4, seed=0), LSTM(4, 3, seed=0), Linear(3, 5, seed=0))
    >>> found = explain(model, "a(b)ab(ab)" * 40, vocabulary=vocabulary)
    >>> len(found.units), 0 <= found.units[0].auc <= 1
    (3, True)
    """
    if vocabulary is None:
        described = getattr(model, "metadata", {}).get("vocabulary")
        if described is None:
            raise ValueError("vocabulary: expected one, because the model's metadata hold none")
        vocabulary = vocabulary_from_json(described)
    if not isinstance(text, str | bytes):
        raise TypeError(f"text: expected str or bytes, got {shown(text)}")
    reader = _Reader(model, layer)
    pieces = vocabulary.split(text)[:limit]
    tokens = vocabulary.encode(text)[:limit]
    table = _feature_table(text, pieces, features)
    if len(tokens) < _LEAST:
        raise ValueError(f"text: expected at least {_LEAST} {vocabulary.unit}s, got {len(tokens)}")
    rows = ROWS if len(tokens) >= ROWS * _LEAST else 2
    length = len(tokens) // rows
    tokens = np.ascontiguousarray(tokens[: rows * length])
    truth = np.stack([array[: rows * length] for array in table.values()], axis=1)
    halves, means = _aucs(reader, tokens.reshape(rows, length), truth)
    frequency = truth[rows // 2 * length :].mean(axis=0)
    losses: list[float | None] = [None] * reader.units
    base = None
    counted = 0
    if flag("frozen", frozen):
        base, losses, counted = _losses(reader, tokens, rows // 2 * length, means)
    units = [_described(unit, halves, list(table), base, losses[unit]) for unit in range(reader.units)]
    return Explanation(units, list(table), halves[1], frequency, base, len(tokens), counted)


class _Reader:
    """The model around one layer: the layers before it, its LSTM, and what follows."""

    def __init__(self, model: Layer, layer: int) -> None:
        parts = list(model.layers)
        places = [(place, number) for place, part in enumerate(parts) for number in range(part.num_traced)]
        if not places:
            raise ValueError("explain: expected a model with an LSTM in it, got none")
        place, self.number = places[int_within("layer", layer, -len(places), len(places) - 1)]
        self.before, self.after = parts[:place], parts[place + 1 :]
        lstm: Any = parts[place]
        if lstm.parts:
            raise ValueError(f"explain: expected an LSTM that is no part of another layer, got one inside {lstm!r}")
        if not lstm.is_causal:
            raise ValueError(f"explain: expected an LSTM that runs forwards, got {lstm!r}")
        self.lstm = lstm
        self.units: int = lstm.hidden_size

    def signals(self, tokens: Ints, states: list[Any]) -> tuple[Array, Array, list[Any]]:
        """Return (cell, h) of the layer for tokens (rows, steps), each (rows, steps, H), and the states after them.

        h is that before a projection.
        """
        lstm, x = self.lstm, tokens if self.lstm.batch_first else tokens.T
        x, finals, _ = run_layers(self.before, x, states, Steps())
        index = self.number
        state = states[len(finals)] if states else None
        _, final, _, saved, _ = lstm.run_traced(x, state, (None, None, None), None, [index])
        rows, length = tokens.shape
        hidden = saved[index].hidden if lstm.proj_size else saved[index].h
        shape = length, rows, self.units
        cell, hidden = (array.reshape(shape).swapaxes(0, 1) for array in (saved[index].cell, hidden))
        return cell, hidden, [*finals, final]

    @property
    def num_states(self) -> int:
        """The number of states before and in the layer's LSTM."""
        return 1 + sum(part.num_states for part in self.before)


def _feature_table(text: str | bytes, pieces: Any, more: Mapping[str, ArrayLike] | None) -> dict[str, Bools]:
    """Return what is true at the last character of each token."""
    found = text_features(text)
    for name, values in (more or {}).items():
        array = flag_array(f"features[{name!r}]", values)
        expect_shape(f"features[{name!r}]", array, (len(text),), "(number of characters,)")
        found[str(name)] = array
    sizes = np.array([len(piece) for piece in pieces]) if isinstance(pieces, list) else np.ones(len(pieces), np.intp)
    ends = np.cumsum(sizes) - 1
    if isinstance(pieces, bytes) and isinstance(text, str):  # bytes of a text: those of a character are alike
        lengths = [len(character.encode("utf-8", "surrogatepass")) for character in text]
        ends = np.repeat(np.arange(len(text)), lengths)[: len(pieces)]
    return {name: array[ends] for name, array in found.items()}


def _aucs(reader: _Reader, tokens: Ints, truth: Bools) -> tuple[Array, Array]:
    """Return the areas (half, signal, H, F), and the mean of h in the first half (H,)."""
    rows, length = tokens.shape
    areas = np.empty((2, len(SIGNALS), reader.units, truth.shape[1]))
    means = np.empty(reader.units)
    truth = truth.astype(np.float32)
    for first in range(0, reader.units, _MOST_UNITS):
        group = slice(first, min(first + _MOST_UNITS, reader.units))
        bins, means[group] = _binned(reader, tokens, group)
        for half in range(2):
            part = slice(half * rows // 2, (half + 1) * rows // 2)
            own = truth[part.start * length : part.stop * length]
            values = bins[:, part].reshape(len(bins), -1)
            areas[half, :, group] = _area(values, own).reshape(len(SIGNALS), -1, truth.shape[1])
    return areas, means


def _binned(reader: _Reader, tokens: Ints, group: slice) -> tuple[Array, Array]:
    """Return the number of the bin of each value, (signals * units, rows, length), and the means of h.

    The edges are quantiles of the first steps of the first half, so that bins have about the same frequency.
    """
    rows, length = tokens.shape
    count = group.stop - group.start
    bins = np.empty((len(SIGNALS) * count, rows, length), np.uint8)
    total = np.zeros(count)
    states: list[Any] = [None] * reader.num_states
    binning: _Binning | None = None
    for start in range(0, length, _CHUNK):
        cell, hidden, states = reader.signals(tokens[:, start : start + _CHUNK], states)
        both = np.concatenate([cell[..., group], hidden[..., group]], axis=-1)
        total += both[: rows // 2, :, count:].sum(axis=(0, 1), dtype=np.float64)
        if binning is None:
            binning = _Binning(both[: rows // 2].reshape(-1, both.shape[-1]))
        bins[:, :, start : start + _CHUNK] = binning(both).transpose(2, 0, 1)
    return bins, total / (rows // 2 * length)


class _Binning:
    """Bins of about equal frequency for each of several signals, looked up by a fine uniform scale."""

    def __init__(self, sample: Array) -> None:
        sample = np.sort(np.nan_to_num(sample.astype(np.float64)), axis=0)
        places = np.linspace(0, len(sample) - 1, _BINS + 1).astype(int)[1:-1]
        rim = len(sample) // 2000
        self.low = sample[rim]
        self.scale = (_LEVELS - 1) / np.maximum(sample[len(sample) - 1 - rim] - self.low, 1e-12)
        edges = (sample[places] - self.low) * self.scale
        levels = np.arange(_LEVELS)
        tables = [np.searchsorted(column, levels, side="right") for column in edges.T]
        self.table = np.stack(tables).astype(np.uint8)
        self.low, self.scale = self.low.astype(np.float32), self.scale.astype(np.float32)

    def __call__(self, values: Array) -> Array:
        """Return the bins of values (..., signals)."""
        with np.errstate(all="ignore"):
            fine = np.clip((values - self.low) * self.scale, 0, _LEVELS - 1)
        fine = np.nan_to_num(fine).astype(np.intp)
        fine += np.arange(len(self.table)) * _LEVELS
        bins: Array = self.table.reshape(-1)[fine]
        return bins


def _area(bins: Array, truth: Array) -> Array:
    """Return the area under the curve of each signal (S, N) for each feature (N, F), as the mean rank of the true ones.

    Source: Mann and Whitney, On a test of whether one of two random variables is stochastically larger than the other
    (1947); ties count one half.
    """
    N, F = truth.shape
    counts = np.stack([np.bincount(row, minlength=_BINS) for row in bins])
    ranks = (np.cumsum(counts, axis=1) - counts / 2) / N  # the middle of each bin
    ranks = ranks.astype(np.float32).reshape(-1)
    starts = np.arange(len(bins))[:, None] * _BINS
    sums = np.zeros((len(bins), F))
    for first in range(0, N, 1 << 15):
        part = bins[:, first : first + (1 << 15)] + starts
        sums += ranks[part] @ truth[first : first + (1 << 15)]
    positive = truth.sum(axis=0, dtype=np.float64)
    negative = N - positive
    with np.errstate(all="ignore"):
        # rank sum of the true ones, less what it is at least, over the number of pairs
        area = (sums * N - positive * positive / 2) / (positive * negative)
    area[:, (positive == 0) | (negative == 0)] = np.nan
    clipped: Array = np.clip(area, 0, 1)
    return clipped


def _described(unit: int, halves: Array, names: Sequence[str], base: float | None, loss: float | None) -> Any:
    chosen, held = (np.nan_to_num(half[:, unit], nan=0.5) for half in halves)
    distance = np.abs(chosen - 0.5)
    order = np.argsort(-distance.max(axis=0), kind="stable")
    signal = int(distance[:, order[0]].argmax())

    def turned(feature: int) -> float:
        own = int(distance[:, feature].argmax())
        sign = 1 if chosen[own, feature] >= 0.5 else -1
        return float(0.5 + sign * (held[own, feature] - 0.5))

    best = int(order[0])
    others = [(names[int(index)], turned(int(index))) for index in order[1:4]]
    sign = 1 if chosen[signal, best] >= 0.5 else -1
    change = None if loss is None or base is None else loss - base
    return UnitExplanation(unit, names[best], SIGNALS[signal], sign, turned(best), others, loss, change)


def _losses(reader: _Reader, tokens: Ints, start: int, means: Array) -> tuple[float, list[float | None], int]:
    """Return (the loss of the whole model, the loss with each unit frozen, the tokens that count).

    They count from the token number `start` on.
    """
    count = min(LOSS_TOKENS, len(tokens) - start - 1)
    rows = max(1, min(ROWS, count // (2 * WARM_UP)))
    length = count // rows
    warm = min(WARM_UP, start)
    firsts = start + np.arange(rows) * length
    places = firsts[:, None] + np.arange(-warm, length)
    x, target = tokens[places], tokens[places + 1][:, warm:]
    lstm = reader.lstm
    x, _, _ = run_layers(reader.before, x if lstm.batch_first else x.T, [None] * reader.num_states, Steps())
    singles = [_single(lstm, number) for number in range(lstm.num_layers)]
    for single in singles[: reader.number]:
        x, _ = single(x)
    own, after = singles[reader.number], [*singles[reader.number + 1 :], *reader.after]
    ones = np.ones((*x.shape[:-1], 1), x.dtype)
    frozen_x = np.concatenate([x, ones], axis=-1)
    measure = _Measure(after, target, warm, lstm.batch_first)
    losses: list[float | None] = []
    for unit in range(reader.units):
        frozen, constant = _frozen(own, unit, means[unit])
        y, _ = frozen(frozen_x)
        if own.proj_size:
            y = y + constant
        else:
            y[..., unit] = means[unit]
        losses.append(measure(y))
    return measure(own(x)[0]), losses, rows * length


class _Measure:
    """The mean loss of the outputs that layers make of a layer's y."""

    def __init__(self, after: list[Any], target: Ints, warm: int, batch_first: bool) -> None:
        self.after, self.target, self.warm, self.batch_first = after, target, warm, batch_first
        self.states: list[Any] = [None] * sum(part.num_states for part in after)
        function = after[-1].function if after else None
        self.function = None if function is None else function[0]

    def __call__(self, y: Array) -> float:
        y, _, _ = run_layers(self.after, y, self.states, Steps())
        y = (y if self.batch_first else y.swapaxes(0, 1))[:, self.warm :]
        if y.shape[:-1] != self.target.shape or y.shape[-1] <= self.target.max():
            raise ValueError("explain: expected a model that predicts the next token; without that, frozen=False")
        if self.function == "softmax":
            y = np.log(np.maximum(y, np.finfo(y.dtype).tiny))
        elif self.function != "logsoftmax":
            y = log_softmax(np.ascontiguousarray(y))
        return -float(np.take_along_axis(y, self.target[..., None], axis=-1).mean(dtype=np.float64))


def _single(lstm: Any, number: int) -> LSTM:
    """Return one layer of an LSTM that runs forwards, with weights that are not narrow."""
    settings = {name: value for name, value in lstm.config.items() if name != "weights"}
    settings |= {"input_size": lstm.layer_inputs(number), "num_layers": 1, "dropout": 0.0}
    single = LSTM.blank(**settings)
    suffix = f"_l{number}"
    own = {name: array for name, array in lstm.state_dict().items() if name.endswith(suffix)}
    single.restore({name.removesuffix(suffix) + "_l0": array for name, array in own.items()})
    return single


def _frozen(single: LSTM, unit: int, mean: float) -> tuple[LSTM, Array]:
    """Return a layer whose unit is held at `mean` before its next step, by one more input, which must be 1.

    Also return what the unit then adds to a projected output.
    """
    arrays = single.state_dict()
    recurrent = arrays["weight_hh_l0"]
    if single.proj_size:
        if single.proj_clip is not None:
            raise ValueError("explain: expected no proj_clip in a layer whose units are frozen; use frozen=False")
        added = arrays["weight_hr_l0"][:, unit] * single.dtype.type(mean)
        arrays["weight_hr_l0"][:, unit] = 0
        constant = recurrent @ added
    else:
        added = np.zeros(0, single.dtype)
        constant = recurrent[:, unit] * single.dtype.type(mean)
        recurrent[:, unit] = 0
    arrays["weight_ih_l0"] = np.concatenate([arrays["weight_ih_l0"], constant[:, None]], axis=1)
    frozen = LSTM.blank(**single.config | {"input_size": single.input_size + 1})
    frozen.restore(arrays, copy=False)
    return frozen, added
