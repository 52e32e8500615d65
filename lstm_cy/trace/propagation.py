"""Gradients through a call of a model, in float64, with those of the gates and the cell of each LSTM.

`backward` of the layers is for training: it draws dropout and returns the gradients of parameters. Here the model is
run as for inference, and the gradient of one number is propagated back to every gate, cell and input before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import config
from .._kernels.affine import Affine
from ..layers.activations import ELEMENTWISE
from .layout import steps_and_rows, to_layout, valid_steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._kernels.records import Saved
    from ..layers.base import Layer, Steps
    from ..layers.batch import Batch
    from ..layers.recurrent import Recurrent
    from ..typing import Array

    #: from the gradient of an output to that of the input, None where it has none
    Back = Callable[[Array], Any]


class Recorded(NamedTuple):
    """The gradients of one direction of one layer, laid out as x; zero where a step is not valid.

    Attributes
    ----------
    input, forget, candidate, output, cell, hidden : ndarray (T, B, width)
    initial_cell, initial_hidden : ndarray (B, width)
    """

    input: Array
    forget: Array
    candidate: Array
    output: Array
    cell: Array
    hidden: Array
    initial_cell: Array
    initial_hidden: Array


class Propagation:
    """One call of a model in float64, through which gradients can be propagated back.

    Attributes
    ----------
    y : ndarray
        The model's output.
    recorded : list
        After `backward`: for each layer of each LSTM of the model the Recorded of each of its directions.
    embedding : ndarray or None
        After `backward`: the gradient of the vectors of tokens.
    """

    def __init__(self, model: Layer, x: Any, states: list[Any], steps: Steps) -> None:
        self.recorded: list[list[Recorded]] = []
        self.embedding: Array | None = None
        self._made: dict[int, Layer] = {}
        self.y, self._back = self._through(model, x, states, steps)
        if isinstance(self.y, tuple):
            raise ValueError("gradient: expected a model with one output, got a Readout that returns two")

    def backward(self, dy: Array) -> Any:
        """Propagate the gradient of `y` back; return that of x, None for tokens."""
        return self._back(dy)

    def _through(self, layer: Layer, x: Any, states: list[Any], steps: Steps) -> tuple[Any, Back]:
        """Run a layer; return its output, and the function that propagates a gradient back through it."""
        if layer.passes_on and layer.batch_first is None:  # dropout
            return x, lambda dy: dy
        if layer.parts:
            return self._through_parts(layer, x, states, steps)
        if layer.num_traced:
            return self._through_lstm(layer, x, states[0], steps)
        own = self._in_float64(layer)
        y, _, tape = own.run_forward(x, [], steps, 0)
        if layer.vocabulary_size is not None:
            return y, self._keep_embedding
        return y, lambda dy: own.run_backward(tape, dy, []).x

    def _keep_embedding(self, dy: Array) -> None:
        self.embedding = dy

    def _through_parts(self, layer: Layer, x: Any, states: list[Any], steps: Steps) -> tuple[Any, Back]:
        y, backs, used = x, [], 0
        given = steps
        for part in layer.parts:
            steps = part.steps_of(y, steps)
            y, back = self._through(part, y, states[used : used + part.num_states], steps)
            backs.append(back)
            used += part.num_states
        valid = None
        if layer.adds_input:
            y, valid = layer.plus_input(np.asarray(x, np.float64), y, given.lengths, given.mask)

        def through(dy: Array) -> Any:
            dx: Any = dy
            for back in reversed(backs):
                dx = back(dx)
            if layer.adds_input:
                dx = dx.copy()
                dx[..., : dy.shape[-1]] += dy if valid is None else np.where(valid, dy, 0)
            return dx

        return y, through

    def _through_lstm(self, layer: Any, x: Any, state: Any, steps: Steps) -> tuple[Any, Back]:
        if not hasattr(layer, "forward"):
            raise TypeError(
                f"gradient: expected no narrow weights, got {layer!r}, whose rounding has no gradient; "
                "trace the model that was quantized"
            )
        lstm: Any = self._in_float64(layer)
        count = lstm.num_layers * lstm.num_directions
        *given, threads = steps
        y, _, batch, saved, _ = lstm.run_traced(x, state, tuple(given), threads, range(count))
        first = len(self.recorded)
        self.recorded += [[]] * lstm.num_layers

        def through(dy: Array) -> Array:
            dy = batch.batched(np.asarray(dy, np.float64))
            width = dy.shape[-1] // lstm.num_directions
            for number in reversed(range(lstm.num_layers)):
                total: Any = 0
                self.recorded[first + number] = []
                for direction in range(lstm.num_directions):
                    cell = _Direction(lstm, batch, saved[number * lstm.num_directions + direction], number, direction)
                    dx, found = cell.backward(dy[..., direction * width : (direction + 1) * width])
                    self.recorded[first + number].append(found)
                    total = total + dx
                dy = total
            dx_outer: Array = batch.unbatched(np.ascontiguousarray(dy))
            return dx_outer

        return y, through

    def _in_float64(self, layer: Layer) -> Layer:
        """Return a layer that computes in float64 with the same parameters; itself where it has no option for that."""
        made = self._made.get(id(layer))
        if made is None:
            made = layer
            settings = layer.config
            if layer.dtype == np.float32 and "dtype" in settings:
                if layer.tied is not None:
                    settings["tied"] = self._in_float64(layer.tied)
                made = type(layer).blank(**settings | {"dtype": "float64"})
                made.restore(layer.stored())
            self._made[id(layer)] = made
        return made


class _Direction:
    """What one direction of one layer computed, in the order of reading, (T, B, width), and its way back.

    The formulas are those of `reference.variant_step`, differentiated.
    """

    def __init__(self, lstm: Recurrent, batch: Batch, saved: Saved, layer: int, direction: int) -> None:
        self.lstm, self.batch = lstm, batch
        self.backwards = lstm.reverse or direction == 1
        self.positions = steps_and_rows(batch, self.backwards)
        suffix = f"_l{layer}" + ("_reverse" if direction else "")
        own = {name: array for name, array in lstm.parameters.items() if name.endswith(suffix)}
        self.weights = {name.removesuffix(suffix): array for name, array in own.items()}
        self.functions = lstm.activations[direction]
        x, h_prev, c_prev, gates = (self._dense(array) for array in saved[:4])
        self.c_prev = c_prev
        self.i, self.f, self.g, self.o = np.split(gates, 4, axis=-1)
        with np.errstate(all="ignore"):  # what is not finite stays so
            self.c_free = self.f * c_prev + self.i * self.g
        bound = lstm.cell_clip or np.inf
        self.c = np.clip(self.c_free, -bound, bound)  # before zoneout
        self._differentiate(x, h_prev)
        order = batch.order.resets
        self.valid = self._ordered(valid_steps(batch, self.positions))
        self.all_valid = bool(self.valid.all())
        self.reset = None if order is None else self._resets()

    def _dense(self, array: Array) -> Array:
        """Return rows of a tape as (T, B, width) in the order of reading, zeros where no step is valid."""
        return self._ordered(to_layout(self.batch, self.positions, array, 0))

    def _ordered(self, array: Array) -> Array:
        """Convert from the drivers' layout to (T, B, width) in the order of reading."""
        array = array.swapaxes(0, 1) if self.batch.batch_first else array
        return array[::-1] if self.backwards else array

    def _unordered(self, array: Array) -> Array:
        """Invert `_ordered`."""
        array = array[::-1] if self.backwards else array
        return array.swapaxes(0, 1) if self.batch.batch_first else array

    def _layout(self, array: Array) -> Array:
        """Convert from the order of reading to the caller's layout."""
        return self.batch.unbatched(np.ascontiguousarray(self._unordered(array)))

    def _resets(self) -> Array:
        """Return (T, B): where a row's state was reset before a valid step."""
        resets = self.batch.order.resets.view(bool)  # (B, valid steps)
        steps = self.batch.order.valid_steps
        found = np.zeros((self.batch.B, self.batch.T), bool)
        rows, columns = np.nonzero(resets)
        found[rows, columns if steps is None else steps[rows, columns]] = True
        return found.T & self.valid[..., 0]

    def _differentiate(self, x: Array, h_prev: Array) -> None:
        """Compute the slopes of the gates, the candidate and the cell activation at each step."""
        lstm, weights = self.lstm, self.weights
        z = _product(x, weights["weight_ih"]) + _product(h_prev, weights["weight_hh"])
        parts = np.split(z, 4, axis=-1)
        if lstm.peepholes:
            cells = self.c_prev, self.c_prev, self.c
            for index, own, cell in zip((0, 1, 3), weights["peephole"], cells, strict=True):
                parts[index] += own * cell
        self.normal: list[tuple[Array, Array]] = []  # of each gate: its normalised input, and the factors of that
        if lstm.layer_norm:
            for part, scale in zip(parts, np.split(weights["layer_norm"], 4), strict=True):
                part -= part.mean(axis=-1, keepdims=True)
                spread = np.sqrt((part * part).mean(axis=-1, keepdims=True) + 1e-8)
                part /= spread
                self.normal.append((part.copy(), 1 / spread))
                part *= scale
        if lstm.bias:
            z += weights["bias_ih"] + weights["bias_hh"]
        gate, candidate, cell = self.functions
        slopes = [_slope(function, part) for function, part in zip((gate, gate, candidate, gate), parts, strict=True)]
        if lstm.clip is not None:
            slopes = [np.where(np.abs(part) < lstm.clip, own, 0) for own, part in zip(slopes, parts, strict=True)]
        self.slopes = slopes
        name, alpha, beta = cell
        self.activated = ELEMENTWISE[name][0](self.c, alpha, beta)
        self.cell_slope = np.broadcast_to(ELEMENTWISE[name][1](self.c, self.activated, alpha, beta), self.c.shape)

    def backward(self, dy: Array) -> tuple[Array, Recorded]:
        """Return the gradient of the layer's input from that of h, both (T, B, width), and all others."""
        lstm, weights = self.lstm, self.weights
        T, B, H = self.c.shape
        dy = self._ordered(dy)
        zone_h, zone_c = lstm.zoneout
        dh, dc = np.zeros((B, dy.shape[-1])), np.zeros((B, H))
        recurrent = _affine(weights["weight_hh"].T)  # faster than BLAS for a few rows, and never on several threads
        projection, peephole = weights.get("weight_hr"), weights.get("peephole")
        unprojected = None if projection is None else _affine(projection.T)
        unbound = None
        if projection is not None and lstm.proj_clip is not None:
            unbound = np.abs(_product(self.o * self.activated, projection)) < lstm.proj_clip
        free = None if lstm.cell_clip is None else np.abs(self.c_free) < lstm.cell_clip
        found = {name: np.empty((T, B, H)) for name in ("input", "forget", "candidate", "output", "cell")}
        hidden = np.empty((T, B, dy.shape[-1]))
        dz = np.empty((T, B, 4 * H))
        slope_i, slope_f, slope_g, slope_o = self.slopes
        through_cell = self.o * self.cell_slope
        for t in range(T)[::-1]:
            dh_t = np.add(dh, dy[t], out=hidden[t])
            dh_new = dh_t if not zone_h else (1 - zone_h) * dh_t
            if unprojected is not None:
                reached, dh_new = dh_new if unbound is None else dh_new * unbound[t], np.empty_like(dc)
                unprojected(reached, dh_new)
            z = dz[t]
            d_o = np.multiply(dh_new, self.activated[t], out=found["output"][t])
            z_o = z[:, 3 * H :]
            np.multiply(d_o, slope_o[t], out=z_o)
            self._denormalize(3, t, z_o)
            d_c = np.multiply(dh_new, through_cell[t], out=found["cell"][t])
            d_c += dc if not zone_c else (1 - zone_c) * dc
            if peephole is not None:
                d_c += z_o * peephole[2]
            if free is not None:
                d_c = d_c * free[t]
            d_f = np.multiply(d_c, self.c_prev[t], out=found["forget"][t])
            d_i = np.multiply(d_c, self.g[t], out=found["input"][t])
            d_g = np.multiply(d_c, self.i[t], out=found["candidate"][t])
            z_f, z_i = d_f, d_i
            if lstm.coupled_gates == "f=1-i":
                d_i -= d_f
                z_f = np.zeros_like(d_f)
            elif lstm.coupled_gates == "i=1-f":
                d_f -= d_i
                z_i = np.zeros_like(d_i)
            np.multiply(z_i, slope_i[t], out=z[:, :H])
            np.multiply(z_f, slope_f[t], out=z[:, H : 2 * H])
            np.multiply(d_g, slope_g[t], out=z[:, 2 * H : 3 * H])
            for index in range(3):
                self._denormalize(index, t, z[:, index * H : (index + 1) * H])
            before_c = d_c * self.f[t]
            before_h = np.empty_like(dh)
            recurrent(z, before_h)
            if peephole is not None:
                before_c += z[:, :H] * peephole[0] + z[:, H : 2 * H] * peephole[1]
            if zone_c:
                before_c += zone_c * dc
            if zone_h:
                before_h += zone_h * dh_t
            if not self.all_valid:
                before_h, before_c = self._unread(t, before_h, before_c, dh, dc, (z, hidden[t], *found.values()))
            if self.reset is not None:
                before_h[self.reset[t]] = before_c[self.reset[t]] = 0
            dh, dc = before_h, before_c
        dx = _product(dz, weights["weight_ih"].T)
        recorded = Recorded(
            **{name: self._layout(array) for name, array in found.items()},
            hidden=self._layout(hidden),
            initial_cell=self._row(dc),
            initial_hidden=self._row(dh),
        )
        return self._unordered(dx), recorded

    def _row(self, array: Array) -> Array:
        return array if self.batch.has_batch_axis else array[0]

    def _unread(self, t: int, dh_new: Array, dc_new: Array, dh: Array, dc: Array, records: Any) -> tuple[Array, Array]:
        """Carry the gradients past a step where it is not valid, and set its records to zero there."""
        valid = self.valid[t]
        for record in records:
            array = record if isinstance(record, np.ndarray) and record.ndim == 2 else record[t]
            array[~valid[:, 0]] = 0
        return np.where(valid, dh_new, dh), np.where(valid, dc_new, dc)

    def _denormalize(self, index: int, t: int, dz: Array) -> None:
        """Propagate the gradient of a gate's normalised and scaled input back to its input, in place."""
        if self.normal:
            normal, factors = (array[t] for array in self.normal[index])
            scale = np.split(self.weights["layer_norm"], 4)[index]
            d = dz * scale
            d -= d.mean(axis=-1, keepdims=True) + normal * (d * normal).mean(axis=-1, keepdims=True)
            np.multiply(d, factors, out=dz)


def _affine(weight: Array) -> Affine:
    """Return the packed product with a matrix (outputs, inputs)."""
    return Affine(config.kernels(), None, 8, np.ascontiguousarray(weight), None)


def _product(x: Array, weight: Array) -> Array:
    """Return x (..., inputs) times the transpose of `weight` (outputs, inputs)."""
    y = np.empty((*x.shape[:-1], len(weight)))
    _affine(weight)(np.ascontiguousarray(x).reshape(-1, x.shape[-1]), y.reshape(-1, len(weight)))
    return y


def _slope(function: tuple[str, float, float], z: Array) -> Array:
    name, alpha, beta = function
    value, slope = ELEMENTWISE[name]
    return np.asarray(slope(z, value(z, alpha, beta), alpha, beta))
