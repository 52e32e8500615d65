"""Measure the time before the first call: importing, constructing a layer, saving and loading a model."""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import lstm_cy
from lstm_cy import LSTM, Embedding, Linear, Sequential, load, save

from .common import REPEAT, Inference, check, checked

LAYER = "from lstm_cy import LSTM"


class Import:
    """`import lstm_cy` alone loads next to nothing; the layer brings NumPy and the kernels."""

    params = (("import numpy", "import lstm_cy", LAYER),)
    param_names = ("statement",)
    repeat = (3, 20, 2.0)

    def timeraw_import(self, statement):
        return statement


def track_import_over_numpy():
    """Return the time to import the layer / the time to import NumPy."""
    rounds = [(_import_seconds(LAYER), _import_seconds("import numpy")) for _ in range(7)]
    ours, numpy = (statistics.median(times) for times in zip(*rounds, strict=True))
    return round(ours / numpy, 2)


track_import_over_numpy.unit = "x"


def track_installed_bytes():
    """Return the size of the installed package, compiled modules and sources, without Python's caches."""
    files = (path for path in Path(lstm_cy.__file__).parent.rglob("*") if "__pycache__" not in path.parts)
    return sum(path.stat().st_size for path in files if path.is_file())


track_installed_bytes.unit = "bytes"


def _import_seconds(statement):
    code = f"import time; begin = time.perf_counter(); {statement}; print(time.perf_counter() - begin)"
    python = [sys.executable, "-c", code]
    return float(subprocess.run(python, check=True, capture_output=True, text=True).stdout)


class Construct:
    """The construction of a layer, and the packing of new weights into an existing one."""

    params = (("64x64", "512x512"),)
    param_names = ("IxH",)
    repeat = REPEAT

    def setup(self, sizes):
        self.lstm = checked(Inference, f"1x2x{sizes}").lstm
        self.weights = self.lstm.state_dict()

    def time_construct(self, sizes):
        LSTM(self.lstm.input_size, self.lstm.hidden_size, seed=0)

    def time_load_state_dict(self, sizes):
        self.lstm.load_state_dict(self.weights)


class Files:
    """A character model as a .npz file."""

    params = (("64x64", "512x512"),)
    param_names = ("IxH",)
    repeat = REPEAT

    def setup(self, sizes):
        inputs, hidden = map(int, sizes.split("x"))
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "model.npz")
        self.model = Sequential(
            Embedding(100, inputs, seed=0), LSTM(inputs, hidden, seed=1), Linear(hidden, 100, seed=2)
        )
        save(self.model, self.path)
        loaded, _ = load(self.path)(np.arange(10))
        expected, _ = self.model(np.arange(10))
        check(f"a loaded model of {sizes}", {"out": loaded}, {"out": expected})

    def teardown(self, sizes):
        self.folder.cleanup()

    def time_save(self, sizes):
        save(self.model, self.path)

    def time_load(self, sizes):
        load(self.path)
