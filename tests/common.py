"""Helpers of several test modules: the implementations, random cases, and reference implementations."""

import contextlib
import os
import threading
import tracemalloc

import numpy as np
import pytest

from lstm_cy import LSTM, config, reference

TOLERANCE = {"float32": 2e-6, "float64": 1e-13}  # of results at T = 100; docs/performance.md promises it
SIZES = (1, 3, 17, 33, 127)
DTYPES = ("float32", "float64")
FINITE_STEP = 1e-3
FINITE_BOUND = 1e-9  # of fourth-order finite differences in float64, relative to the largest entry
IMPLEMENTATIONS = [(isa, engine) for isa in config.available_instruction_sets() for engine in config.ENGINES]
PACKED = [pair for pair in IMPLEMENTATIONS if pair[1] == "packed"]
# Seconds to wait for another thread, which starts late on a busy machine and is slow under instrumentation.
PATIENCE = float(os.environ.get("LSTM_CY_TEST_PATIENCE", "60"))

# With the fixture `chosen` of conftest.py these run a test for each implementation.
every_implementation = pytest.mark.parametrize(("isa", "engine"), IMPLEMENTATIONS)
every_packed = pytest.mark.parametrize(("isa", "engine"), PACKED)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)

# Options of an LSTM: one of each kind, and all together
OPTIONS = (
    {"proj_size": 3},
    {"proj_size": 3, "proj_clip": 0.1, "bidirectional": True, "num_layers": 2},
    {"peepholes": True},
    {"peepholes": True, "bias": False, "reverse": True},
    {"coupled_gates": "f=1-i", "peepholes": True},
    {"coupled_gates": "i=1-f", "peepholes": True, "num_layers": 2},
    {"layer_norm": True},
    {"layer_norm": True, "bias": False, "bidirectional": True},
    {"clip": 0.4, "cell_clip": 0.3},
    {"activations": ("hardsigmoid", "softsign", ("scaledtanh", 1.2, 0.6))},
    {
        "bidirectional": True,
        "num_layers": 3,
        "batch_first": True,
        "proj_size": 5,
        "proj_clip": 0.3,
        "peepholes": True,
        "coupled_gates": "f=1-i",
        "layer_norm": True,
        "clip": 2.0,
        "cell_clip": 0.8,
        "activations": (("sigmoid", "elu", "softplus"), ("hardsigmoid", "tanh", "affine")),
    },
)
every_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options))


def bits(*arrays):
    """Return the bytes of arrays; they are equal if two results are the same to the bit."""
    return [np.asarray(array).tobytes() for array in arrays]


def random_case(lstm, T, B, seed=0, scale=1.0):
    """Return random x, (h0, c0) for a layer."""
    rng = np.random.default_rng(seed)
    shape = (B, T, lstm.input_size) if lstm.batch_first else (T, B, lstm.input_size)
    layers = lstm.num_layers * lstm.num_directions
    x = (scale * rng.standard_normal(shape)).astype(lstm.dtype)
    widths = lstm.proj_size or lstm.hidden_size, lstm.hidden_size
    return x, tuple(rng.standard_normal((layers, B, width)).astype(lstm.dtype) for width in widths)


def directions(lstm):
    """Yield (layer, direction, whether it runs backwards, suffix of its parameters' names) in order."""
    for layer in range(lstm.num_layers):
        for direction in range(lstm.num_directions):
            yield layer, direction, lstm.reverse or direction == 1, f"_l{layer}" + "_reverse" * direction


def reference_lstm(lstm, x, state, lengths=None, mask=None, reset=None, masks=None):
    """Run a layer by lstm_cy.reference in float64, row by row; return (y, h_n, c_n).

    `masks` are those of a forward pass in training: lstm_cy.layers.masks.Masks.
    """
    parameters = {name: array.astype(np.float64) for name, array in lstm.parameters.items()}
    if masks is not None:
        parameters |= {name: parameters[name] * factors for name, factors in masks.weights.items()}
    x, mask, reset = (
        array if array is None or not lstm.batch_first else np.swapaxes(array, 0, 1)
        for array in (np.asarray(x, np.float64), mask, reset)
    )
    T, B, _ = x.shape
    lengths = [T] * B if lengths is None else lengths
    h_n, c_n = initial_states(lstm, B) if state is None else (np.array(part, np.float64) for part in state)
    start = initial_states(lstm, 1)
    P = h_n.shape[-1]
    for layer in range(lstm.num_layers):
        y = np.zeros((T, B, lstm.output_size))
        for this, direction, backwards, suffix in directions(lstm):
            if this != layer:
                continue
            index = layer * lstm.num_directions + direction
            step = reference_step(lstm, parameters, direction, suffix)
            for row, length in enumerate(lengths):
                h, c = h_n[index, row : row + 1].copy(), c_n[index, row : row + 1].copy()
                for t in range(length)[:: -1 if backwards else 1]:
                    if reset is not None and reset[t, row]:
                        h, c = start[0][index], start[1][index]
                    if mask is None or mask[t, row]:
                        noise = {} if masks is None else noise_of(lstm, masks, layer, direction, t, row)
                        h, c = step(x[t, row : row + 1], h, c, **noise)
                        y[t, row, direction * P : (direction + 1) * P] = h[0]
                h_n[index, row], c_n[index, row] = h[0], c[0]
        x = y
    return (x.swapaxes(0, 1) if lstm.batch_first else x), h_n, c_n


def initial_states(lstm, B):
    """Return (h, c) with which a call without a state begins."""
    widths = {"h": lstm.proj_size or lstm.hidden_size, "c": lstm.hidden_size}
    return [
        np.stack(
            [
                np.tile(lstm.parameters.get(f"initial_{part}{suffix}", np.zeros(width)), (B, 1))
                for _, _, _, suffix in directions(lstm)
            ]
        )
        for part, width in widths.items()
    ]


def noise_of(lstm, masks, layer, direction, t, row):
    """Return the arguments of `reference.variant_step` for one row's step in training."""
    found = {}
    if masks.steps is not None:
        recurrent, zone_h, zone_c = masks.steps[layer]
        for name, array, step in (("recurrent_factors", recurrent, 0), ("zone_h", zone_h, t), ("zone_c", zone_c, t)):
            if array is not None:
                own = np.split(array[(row, step) if lstm.batch_first else (step, row)], lstm.num_directions)
                found[name] = own[direction][None].astype(np.float64)
        if "recurrent_factors" in found:
            found["recurrent_factors"] /= 1 - lstm.recurrent_dropout
    return {"zone_h": 0.0, "zone_c": 0.0, **found}


def reference_step(lstm, parameters, direction, suffix):
    """Return the function (x, h, c) -> (h, c) of one direction of one layer, by lstm_cy.reference."""
    bias = np.zeros(4 * lstm.hidden_size)
    if lstm.bias:
        bias = parameters["bias_ih" + suffix] + parameters["bias_hh" + suffix]
    weights = parameters["weight_ih" + suffix], parameters["weight_hh" + suffix], bias
    arrays = {name: parameters.get(name + suffix) for name in ("weight_hr", "peephole", "layer_norm")}
    bounds = {name: getattr(lstm, name) or np.inf for name in ("clip", "cell_clip", "proj_clip")}
    if lstm.config == LSTM(lstm.input_size, lstm.hidden_size, **only_layout(lstm)).config:
        return lambda x, h, c: reference.step(x, h, c, *weights)
    options = {"coupled_gates": lstm.coupled_gates, "activations": lstm.activations[direction], **bounds, **arrays}
    options["zone_h"], options["zone_c"] = lstm.zoneout
    return lambda x, h, c, **noise: reference.variant_step(x, h, c, *weights, **options | noise)


def only_layout(lstm):
    """Return the options of a layer that do not change its cell."""
    names = ("num_layers", "bias", "batch_first", "dropout", "bidirectional", "reverse", "dtype")
    return {name: lstm.config[name] for name in names}


def torch_twin(torch, lstm):
    """Return a torch.nn.LSTM with the layer's parameters."""
    twin = torch.nn.LSTM(
        lstm.input_size,
        lstm.hidden_size,
        lstm.num_layers,
        bias=lstm.bias,
        batch_first=lstm.batch_first,
        bidirectional=lstm.bidirectional,
        proj_size=lstm.proj_size,
        dtype=getattr(torch, lstm.dtype.name),
    )
    twin.load_state_dict({name: torch.tensor(array) for name, array in lstm.state_dict().items()})
    return twin


def largest_error(got, expected):
    """Return the largest difference, relative to the largest expected entry."""
    expected = np.asarray(expected)
    return np.abs(np.asarray(got) - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-300)


def every_gradient(gradients):
    """Return {name: array} of an LSTM's Gradients, including those of x and the states."""
    return {"x": gradients.x, "h0": gradients.state[0], "c0": gradients.state[1], **gradients.parameters}


def small_lstm(**options):
    """Return a small layer with these options."""
    return LSTM(3, 5, seed=1, **options)


@contextlib.contextmanager
def repeated_calls(step):
    """Call `step` in a thread until `end()`, ignoring RuntimeError; yield (counts, end).

    `counts` has a 1 for each call that succeeded.
    """
    counts, stop = [], threading.Event()

    def work():
        while not stop.is_set():
            try:
                step()
            except RuntimeError:
                continue
            counts.append(1)

    def end():
        stop.set()
        thread.join()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield counts, end
    finally:
        end()


def other_layouts(array):
    """Return the same values in the other byte order, strided, reversed, unaligned and read-only."""
    unaligned = np.frombuffer(b"\0" + array.tobytes(), array.dtype, offset=1).reshape(array.shape)
    read_only = array.copy()
    read_only.flags.writeable = False
    swapped = array.astype(array.dtype.newbyteorder())
    return [swapped, np.repeat(array, 2, axis=0)[::2], array[::-1].copy()[::-1], unaligned, read_only]


def finite_difference(function, array, size=FINITE_STEP):
    """Return the gradient of a scalar function of `array`; each entry is changed by `size` and restored."""
    gradient = np.empty_like(array)
    flat, out = array.reshape(-1), gradient.reshape(-1)
    for k in range(flat.size):
        value = flat[k]
        at = {}
        for step in (-2, -1, 1, 2):
            flat[k] = value + step * size
            at[step] = function()
        flat[k] = value
        out[k] = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * size)
    return gradient


def assert_close(got, expected, name):
    assert np.abs(got - expected).max() <= FINITE_BOUND * max(np.abs(expected).max(), 1e-3), name


def with_large_weights(lstm):
    """Give a layer large random parameters, so that bounds are reached and gates differ; return it."""
    rng = np.random.default_rng(7)
    lstm.load_state_dict({name: 2 * rng.uniform(-1, 1, array.shape) for name, array in lstm.parameters.items()})
    return lstm


def random_mask(T, B, batch_first=False):
    """Return a mask that is False at some steps; row 0 is all True, the last row all False."""
    mask = np.random.default_rng(3).random((T, B)) < 0.6
    mask[:, 0] = True
    mask[:, -1] = False
    return mask.T if batch_first else mask


def random_resets(T, B, batch_first=False):
    reset = np.random.default_rng(4).random((T, B)) < 0.3
    reset[0, 0] = reset[-1, 0] = True
    return reset.T if batch_first else reset


def torch_lstm(torch, *sizes, seed=0, **options):
    torch.manual_seed(seed)
    return torch.nn.LSTM(*sizes, **options)


def assert_same(read, arrays):
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        assert read[name].tobytes() == array.tobytes()


def peak_of(function):
    """Return the peak memory of Python and NumPy while `function` runs."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
