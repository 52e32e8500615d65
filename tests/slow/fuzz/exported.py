"""Random models as C99 files, compiled with all warnings as errors and run with the sanitizers.

    python tests/slow/fuzz/exported.py FOUND --count 1000

Each case makes a model of random layers, options, sizes and weights, and exports it with a self test, which compares
100 steps with a Stepper. Where the library runs with fma the results must be equal to the bit. A model that no
Stepper runs must be refused, with an error for the argument `model`, and so must weights that are not finite. CC is
the compiler; it must know -fsanitize=address,undefined.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from layers import draw
from runner import Cases, Finding, main

from lstm_cy import (
    LSTM,
    Activation,
    BatchNormalization,
    Conv1D,
    Dropout,
    Embedding,
    GlobalPooling1D,
    LayerNormalization,
    Linear,
    Masking,
    Pooling1D,
    Readout,
    Residual,
    Sequential,
    config,
)  # fmt: skip
from lstm_cy.export import c99
from lstm_cy.layers.activations import ELEMENTWISE, VECTORWISE

STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-march=native"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SIZES = (1, 2, 3, 7, 8, 9, 16, 17, 31, 33, 40)
#: how the weights are scaled; the last ones overflow, or are denormal
SCALES = (1.0, 1.0, 1.0, 1.0, 4.0, 1e-3, 0.0, 1e4, 1e30, 1e-40)
NAMES = ("model.h", 'x *" \\\n#error.h', "a *\\ b.h", "??).h", "2 -- 3.c", "ÄÖ.h", "lstm.h", "int.h", "%s%n.h", "__.h")
CC = os.environ.get("CC", "cc").split()


class Exported(Cases):
    seconds, bytes, space = 120.0, 4_000_000_000, None
    label = text = ""

    def run(self, rng, index):
        numbers = np.random.default_rng(index)
        model = random_model(rng)
        scale = rng.choice(SCALES)
        wrong = "NaN or infinity" if rng.random() < 0.03 else None
        model.load_state_dict({n: weights(n, a, scale, numbers, wrong) for n, a in model.state_dict().items()})
        if model.num_states and rng.random() < 0.25:
            model = model.quantize("int8")
        self.label, self.text = "model", f"{model!r}, scale {scale}, {wrong}"
        with tempfile.TemporaryDirectory() as folder, np.errstate(all="ignore"):
            path = Path(folder, rng.choice(NAMES))
            apart = Path(folder, "weights.bin") if rng.random() < 0.3 else None
            reason = refusal(model) or (wrong if model.state_dict() else None)
            try:
                c99(model, path, weights=apart, self_test=True)
            except ValueError as error:
                if reason is None or not str(error).startswith("model: ") or list(Path(folder).iterdir()):
                    raise
                return "refused"
            if reason is not None:
                raise Finding("was exported", f"{self.text}: expected {reason}")
            return self.compiled(path, apart, rng)

    def compiled(self, path, apart, rng):
        """Compile and run the self test."""
        text = path.read_text("ascii")
        name = text.partition("#ifndef ")[2].partition("_H\n")[0]
        (path.parent / "test.c").write_text(text)
        language = rng.choice((["-x", "c", "-std=c99"], ["-x", "c", "-std=c99"], ["-x", "c++", "-std=c++11"]))
        level = rng.choice(("-O1", "-O1", "-O3"))
        command = [*CC, *language, *STRICT, *SANITIZERS, level, f"-D{name}_SELF_TEST", "test.c", "-o", "test"]
        done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True)
        if done.returncode:
            raise Finding("does not compile", f"{self.text}: {done.stderr[:2000]}")
        run = [str(path.parent / "test"), *([str(apart)] if apart else [])]
        done = subprocess.run(run, capture_output=True, text=True)
        exact = config.instruction_set() != "base"
        right = done.stdout.startswith("passed") and (not exact or "; equal to the bit" in done.stdout)
        if done.returncode or not right:
            raise Finding("differs", f"{self.text}, {language[1]} {level}: {done.stdout[:300]}{done.stderr[:2000]}")
        return language[1]

    def keep(self, folder, name):
        return self.text


def weights(name, array, scale, numbers, wrong):
    """Return random weights in the place of `array`."""
    if "running_var" in name:
        return np.abs(numbers.standard_normal(array.shape)) + 0.1
    new = np.float32(scale * numbers.uniform(-1, 1, array.shape) / np.sqrt(max(array.shape[-1], 1)))
    if wrong is not None:
        new.flat[numbers.integers(new.size)] = numbers.choice([np.nan, np.inf, -np.inf])
    return new


def refusal(model):
    """Return why a model cannot be exported, or None."""
    if model.dtype != np.float32:
        return "float32"
    try:
        model.stepper()
    except ValueError as error:
        return str(error)
    return None


def random_model(rng):
    """Return a chain of random layers that a Sequential takes, or an LSTM."""
    while True:
        try:
            return drawn_model(rng)
        except ValueError:
            continue


def drawn_model(rng):
    """Return a chain of random layers, or an LSTM; raise ValueError where they do not fit."""
    width = rng.choice(SIZES)
    layers = []
    if rng.random() < 0.25:
        layers.append(Embedding(rng.choice((1, 3, 30)), width, mask_zero=rng.random() < 0.4, seed=1))
    elif rng.random() < 0.15:
        return LSTM(**lstm_options(rng, width))
    else:
        layers.append(Linear(rng.choice(SIZES), width, seed=0))
    for _ in range(rng.randrange(1, 7)):
        layer, width = rng.choice(KINDS)(rng, width)
        layers += layer if isinstance(layer, list) else [layer]
    return Sequential(*layers)


def lstm_options(rng, inputs):
    options = draw(rng) | {"input_size": inputs, "batch_first": False}
    if rng.random() < 0.95:
        options |= {"bidirectional": False, "reverse": False, "dtype": "float32"}
    if rng.random() < 0.1:
        options |= {"zoneout": (0.1, 0.3), "learn_initial_state": True}
    return options


def lstm(rng, width):
    layer = LSTM(**lstm_options(rng, width) | {"dtype": "float32"})
    return layer, layer.output_features(width)


def linear(rng, width):
    outputs = rng.choice(SIZES)
    return Linear(width, outputs, bias=rng.random() < 0.7, seed=3), outputs


def activation(rng, width):
    return Activation(rng.choice([*ELEMENTWISE, *VECTORWISE])), width


def normalization(rng, width):
    kind = rng.choice((BatchNormalization, LayerNormalization))
    return kind(width, eps=rng.choice((1e-3, 1e-5, 0.1))), width


def convolution(rng, width):
    groups = rng.choice([n for n in (1, 1, 2, 3, 8, width) if width % n == 0])
    outputs = groups * rng.choice((1, 2, 5, 9))
    padding = rng.choice(("causal", "causal", "valid"))
    size, dilation = rng.choice((1, 2, 3, 5)), rng.choice((1, 1, 2, 4))
    stride = 1 if dilation > 1 else rng.choice((1, 1, 2))
    return Conv1D(
        width, outputs, size, stride=stride, dilation=dilation, padding=padding, groups=groups, seed=0
    ), outputs


def pooling(rng, width):
    size = rng.choice((1, 2, 3))
    return Pooling1D(rng.choice(("max", "average")), size, stride=rng.choice((None, 1, 2))), width


def running(rng, width):
    return GlobalPooling1D(rng.choice(("max", "average"))), width


def masking(rng, width):
    # numbers that relu makes zero
    return [Linear(width, 2, seed=0), Activation("relu"), Masking(0.0), LSTM(2, 3, seed=0)], 3


def residual(rng, width):
    layer, outputs = rng.choice((lstm, linear, activation, normalization))(rng, width)
    return Residual(layer, Linear(outputs, width, seed=0)), width


def readout(rng, width):
    return Readout(zero_output_for_mask=rng.random() < 0.5, return_sequences=rng.random() < 0.5), width


def dropout(rng, width):
    return Dropout(0.5), width


KINDS = (
    lstm, lstm, lstm, linear, activation, activation, normalization, convolution, convolution, pooling, running,
    masking, residual, readout, dropout,
)  # fmt: skip

if __name__ == "__main__":
    if shutil.which(CC[-1]) is None:
        raise SystemExit(f"no compiler: {CC[-1]}")
    main(Exported, __doc__)
