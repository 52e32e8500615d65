"""Random calls of the C interface: results equal a Stepper's; wrong calls return their error and change nothing.

    python tests/slow/fuzz/c_interface.py FOUND --count 20000

tests/data/embed_driver.pyx is compiled at the start, in FOUND. Each case opens a model, makes streams, and then calls
forty random functions: steps, runs, clones, reading and setting of states, resets, frees. Sizes, rows and tokens may
be out of range, pointers NULL, and the dtype wrong, or numbers are given for tokens. A Stepper makes the same steps
as each stream.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from runner import Cases, Finding, main

import lstm_cy
from lstm_cy import LSTM, Embedding, Linear, Sequential

DATA = Path(__file__).resolve().parents[2] / "data"
BIG = (-1, -(2**62), 2**31, 2**62)


def compiled(folder):
    """Compile and import the driver."""
    made = list(folder.glob("embed_driver*.so"))
    if not made:
        shutil.copy(DATA / "embed_driver.pyx", folder)
        paths = os.pathsep.join([str(Path(lstm_cy.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "Cython.Build.Cythonize", "-i", "-3", "-q", "embed_driver.pyx"]
        environment = os.environ | {"PYTHONPATH": paths, "LD_PRELOAD": "", "CFLAGS": "-O0"}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        made = list(folder.glob("embed_driver*.so"))
    spec = importlib.util.spec_from_file_location("embed_driver", made[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Twin:
    """A stream and the Stepper that must have the same state."""

    def __init__(self, handle, stepper):
        self.handle, self.stepper = handle, stepper


class Interface(Cases):
    seconds = 20.0
    label = ""

    def __init__(self, options):
        super().__init__(options)
        self.driver = compiled(options.found)
        self.error = self.driver.ERRORS

    def run(self, rng, index):
        self.calls = []
        self.tokens, self.dtype = rng.random() < 0.4, rng.choice(("float32", "float64"))
        self.H, self.layers = rng.choice((1, 3, 17, 40)), rng.choice((1, 2))
        lstm = LSTM(2, self.H, self.layers, dtype=self.dtype, seed=index % 100, peepholes=rng.random() < 0.3)
        self.model = lstm
        if self.tokens:
            self.model = Sequential(
                Embedding(4, 2, dtype=self.dtype, seed=0), lstm, Linear(self.H, 2, dtype=self.dtype, seed=1)
            )
        self.width, self.rows = 2 if self.tokens else self.H, rng.choice((1, 1, 3))
        opened = self.driver.Model(self.model)
        self.twins = [self.created(opened)]
        if rng.random() < 0.5:
            opened.close()
        numbers = np.random.default_rng(index)
        for _ in range(40):
            if not self.twins:
                break
            getattr(
                self,
                rng.choice(("step", "step", "run_many", "clone", "state", "reset", "row", "wrong", "wrong", "free")),
            )(rng, numbers, rng.choice(self.twins))
        for twin in self.twins:
            self.expect("OK", twin.handle.free())
        return "tokens" if self.tokens else "numbers"

    def created(self, opened):
        for rows in BIG[:2]:
            self.expect("SIZE", opened.create(rows)[0])
        self.expect("NULL", opened.create_nowhere())
        error, handle = opened.create(self.rows)
        self.expect("OK", error)
        return Twin(handle, self.model.stepper(self.rows))

    def expect(self, name, got):
        if got != self.error[name]:
            raise Finding(f"expected {name}", f"got {got}, after {self.calls[-5:]}")

    def x(self, numbers, *shape):
        if self.tokens:
            return numbers.integers(0, 4, (*shape, self.rows)).astype(np.intp)
        return numbers.standard_normal((*shape, self.rows, 2)).astype(self.dtype)

    def same(self, got, right, what):
        if np.asarray(got).tobytes() != np.asarray(right).tobytes():
            raise Finding(f"other bits: {what}", f"after {self.calls[-5:]}")

    def flags(self):
        return self.dtype == "float64", self.tokens

    def step(self, rng, numbers, twin):
        self.calls.append("step")
        x, y = self.x(numbers), np.empty((self.rows, self.width), self.dtype)
        self.expect("OK", twin.handle.step(*self.flags(), x.ctypes.data, y.ctypes.data))
        self.same(y, twin.stepper.step(x), "step")

    def run_many(self, rng, numbers, twin):
        T = rng.choice((0, 1, 5, 20))
        self.calls.append(f"run {T}")
        x, y = self.x(numbers, T), np.empty((T, self.rows, self.width), self.dtype)
        self.expect("OK", twin.handle.run(*self.flags(), T, x.ctypes.data, y.ctypes.data))
        self.same(y, np.array([twin.stepper.step(x_t) for x_t in x], self.dtype).reshape(y.shape), "run")

    def clone(self, rng, numbers, twin):
        if len(self.twins) < 5:
            self.calls.append("clone")
            error, handle = twin.handle.clone()
            self.expect("OK", error)
            self.twins.append(Twin(handle, twin.stepper.copy()))

    def pair(self):
        return [np.empty((self.layers, self.rows, self.H), self.dtype) for _ in range(2)]

    def state(self, rng, numbers, twin):
        """Read and compare the state, and set a random one."""
        self.calls.append("state")
        h, c = self.pair()
        f64 = self.flags()[0]
        self.expect("OK", twin.handle.get_state(f64, 0, h.ctypes.data, c.ctypes.data))
        right = twin.stepper.state[0] if self.tokens else twin.stepper.state
        self.same(h, right[0], "h")
        self.same(c, right[1], "c")
        h[:], c[:] = numbers.standard_normal(h.shape), numbers.standard_normal(c.shape)
        self.expect("OK", twin.handle.set_state(f64, 0, h.ctypes.data, c.ctypes.data))
        twin.stepper.state = [(h, c)] if self.tokens else (h, c)

    def reset(self, rng, numbers, twin):
        self.calls.append("reset")
        self.expect("OK", twin.handle.reset())
        twin.stepper.reset()

    def row(self, rng, numbers, twin):
        row = rng.randrange(self.rows)
        self.calls.append(f"reset {row}")
        self.expect("OK", twin.handle.reset_row(row))
        twin.stepper.reset([row])

    def free(self, rng, numbers, twin):
        if rng.random() < 0.3:
            self.calls.append("free")
            self.twins.remove(twin)
            self.expect("OK", twin.handle.free())

    def wrong(self, rng, numbers, twin):
        """A call that is refused."""
        f64, tokens = self.flags()
        T = 3
        x, y = self.x(numbers, T), np.empty((T, self.rows, self.width), self.dtype)
        kind = rng.randrange(8)
        self.calls.append(f"wrong {kind}")
        big = rng.choice(BIG)
        if kind == 0:
            self.expect("DTYPE", twin.handle.run(not f64, tokens, T, x.ctypes.data, y.ctypes.data))
        elif kind == 1:
            self.expect("INPUT", twin.handle.run(f64, not tokens, T, x.ctypes.data, y.ctypes.data))
        elif kind == 2:
            self.expect("SIZE", twin.handle.run(f64, tokens, rng.choice((-1, -(2**62))), x.ctypes.data, y.ctypes.data))
        elif kind == 3:
            addresses = rng.choice(((0, y.ctypes.data), (x.ctypes.data, 0), (0, 0)))
            self.expect("NULL", twin.handle.run(f64, tokens, T, *addresses))
        elif kind == 4:
            self.expect("SIZE", twin.handle.reset_row(rng.choice((*BIG, self.rows))))
        elif kind == 5:
            h, c = self.pair()
            self.expect("SIZE", twin.handle.set_state(f64, rng.choice((big, 1, 2)), h.ctypes.data, c.ctypes.data))
        elif kind == 6:
            h, c = self.pair()
            self.expect("NULL", twin.handle.get_state(f64, 0, 0, rng.choice((0, c.ctypes.data))))
        elif tokens:
            x[rng.randrange(T), rng.randrange(self.rows)] = rng.choice((*BIG, 4))
            self.expect("TOKEN", twin.handle.run(f64, tokens, T, x.ctypes.data, y.ctypes.data))

    def keep(self, folder, name):
        return f"{self.model!r:.300}, {self.rows} rows: {self.calls}"


if __name__ == "__main__":
    main(Interface, __doc__)
