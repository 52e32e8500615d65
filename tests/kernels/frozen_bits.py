"""Results that every processor and compiler must give to the bit: python tests/kernels/frozen_bits.py writes the file.

tests/data/bits.json has a hash of outputs, states and gradients for each of some two hundred configurations of an LSTM
on engine "packed". Inputs and parameters are made by integer arithmetic, so that they are the same everywhere.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from lstm_cy import LSTM, config

PATH = Path(__file__).parents[1] / "data" / "bits.json"
ACTIVATIONS = (
    ("relu", "tanh", "tanh"),
    ("sigmoid", ("affine", 0.5, 0.25), "softsign"),
    (("hardsigmoid", 0.2, 0.5), ("leakyrelu", 0.1), ("thresholdedrelu", 0.125)),
    ("hardsigmoid", ("scaledtanh", 1.25, 0.75), ("elu", 0.5)),
    ("sigmoid", "softplus", "tanh"),
)
OPTIONS = (
    {},
    {"bias": False},
    {"reverse": True},
    {"bidirectional": True},
    {"num_layers": 2},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"proj_size": 3},
    {"proj_size": 5, "proj_clip": 0.25, "bidirectional": True},
    {"peepholes": True},
    {"peepholes": True, "proj_size": 3, "num_layers": 2},
    {"coupled_gates": "f=1-i"},
    {"coupled_gates": "i=1-f", "peepholes": True},
    {"layer_norm": True},
    {"layer_norm": True, "bias": False, "bidirectional": True},
    {"clip": 0.5, "cell_clip": 0.5},
    *({"activations": triple} for triple in ACTIVATIONS),
    {"activations": ACTIVATIONS[2], "layer_norm": True, "peepholes": True, "clip": 2.0, "proj_size": 4},
    {"recurrent_dropout": 0.25},
    {"zoneout": (0.125, 0.25), "learn_initial_state": True, "num_layers": 2},
    {"zoneout": (0.0, 0.5), "recurrent_dropout": 0.5, "weight_drop": 0.25, "bidirectional": True, "proj_size": 4},
)
#: (T, B, I, H): one row, whole and broken vectors, tiles of every height, more than a block of steps
SIZES = ((7, 1, 1, 8), (11, 1, 3, 33), (5, 2, 17, 16), (3, 5, 8, 50), (4, 9, 33, 24), (2, 23, 5, 40), (70, 3, 2, 9))
STEPS = ("plain", "lengths", "mask", "reset")
#: with integer weights, which need a plain cell
NARROW = [{}, {"bidirectional": True}, {"num_layers": 2}, {"proj_size": 7}, {"bias": False, "reverse": True}]


def cases():
    """Return {name: (options, precision, quantised, sizes, steps)}: each option with each kind of steps, in many sizes.

    The precision of training is float32, float64 or bf16; quantised is None or the kind of narrow weights.
    """
    found = {}
    for index, options in enumerate(OPTIONS):
        for dtype in ("float32", "float64"):
            for number, steps in enumerate(STEPS):
                if steps == "reset" and (options.get("reverse") or options.get("bidirectional")):
                    continue  # only a layer that runs forwards has resets
                sizes = SIZES[(3 * index + 2 * number + (dtype == "float64")) % len(SIZES)]
                found[name_of(options, dtype, sizes, steps)] = options, dtype, None, sizes, steps
    for index, options in enumerate(NARROW):
        for number, sizes in enumerate(SIZES):
            steps = STEPS[(index + number) % 2]  # not every option of a step is for narrow weights
            found["int8 " + name_of(options, "float32", sizes, steps)] = options, "float32", "int8", sizes, steps
    for index, options in enumerate(OPTIONS):
        steps = STEPS[index % (3 if options.get("reverse") or options.get("bidirectional") else 4)]
        sizes, others = SIZES[index % len(SIZES)], SIZES[(index + 3) % len(SIZES)]
        found["training in " + name_of(options, "bf16", sizes, steps)] = options, "bf16", None, sizes, steps
        found["weights in " + name_of(options, "bf16", others, steps)] = options, "float32", "bf16", others, steps
    return found


def name_of(options, dtype, sizes, steps):
    text = ", ".join(f"{key}={value}" for key, value in options.items()) or "no options"
    return f"{dtype} {'x'.join(map(str, sizes))} {steps}: {text}"


def numbers(shape, dtype, seed, most=1.0):
    """Return numbers in [-most, most), multiples of most / 2**15, by a linear congruential generator."""
    state = np.uint64(seed * 7919 + 12345)
    count = int(np.prod(shape))
    out = np.empty(count)
    for k in range(count):
        state = np.uint64((int(state) * 6364136223846793005 + 1442695040888963407) % 2**64)
        out[k] = (int(state) >> 48) - 2**15
    return (out * (most / 2**15)).astype(dtype).reshape(shape)


def layer_of(options, dtype, quantised, sizes):
    _, _, inputs, hidden = sizes
    layer = LSTM(inputs, hidden, dtype=dtype, seed=0, **options)
    shapes = {name: array.shape for name, array in layer.parameters.items()}
    layer.load_state_dict(
        {name: numbers(shape, dtype, seed, 0.75) for seed, (name, shape) in enumerate(shapes.items())}
    )
    return layer.quantize(quantised) if quantised else layer


def arguments_of(layer, sizes, steps):
    """Return x, the state and the arguments of one kind of steps."""
    T, B, inputs, hidden = sizes
    shape = (B, T) if layer.batch_first else (T, B)
    x = numbers((*shape, inputs), layer.dtype, 101, 2.0)
    parts = layer.num_layers * layer.num_directions
    state = (
        numbers((parts, B, layer.proj_size or hidden), layer.dtype, 102),
        numbers((parts, B, hidden), layer.dtype, 103),
    )
    flags = numbers(shape, "float64", 104) < 0.25
    if steps == "lengths":
        return x, state, {"lengths": [(3 * row + 1) % (T + 1) for row in range(B)]}
    return x, state, {} if steps == "plain" else {steps: flags}


def results(options, precision, quantised, sizes, steps, threads=1):
    """Return the arrays of a case: y and the final state, and all gradients unless the weights are narrow."""
    dtype = "float64" if precision == "float64" else "float32"
    layer = layer_of(options, dtype, quantised, sizes)
    x, state, more = arguments_of(layer, sizes, steps)
    if quantised:
        y, final = layer(x, state, threads=threads, **more)
        return [y, *final]
    precision = "bf16" if precision == "bf16" else None
    y, final, tape = layer.forward(x, state, threads=threads, rng=7, precision=precision, **more)
    gradients = layer.backward(tape, numbers(y.shape, dtype, 105), [numbers(part.shape, dtype, 106) for part in final])
    return [y, *final, gradients.x, *gradients.state, *gradients.parameters.values()]


def digest(arrays):
    """Return the start of a hash of arrays, in the byte order of x86 and ARM."""
    content = b"".join(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes() for array in arrays)
    return hashlib.sha256(content).hexdigest()[:16]


def main():
    with config.using(engine="packed"):
        frozen = {name: digest(results(*case)) for name, case in cases().items()}
    PATH.write_text(json.dumps(frozen, indent=0) + "\n")
    print(f"{len(frozen)} results in {PATH}, by {config.instruction_set()}")


if __name__ == "__main__":
    main()
