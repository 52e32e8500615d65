"""A failing allocation gives a MemoryError or the right result, and the next call is right.

    python tests/slow/fuzz/allocations.py FOUND --count 20000

failing.c is compiled at the start and preloaded. Each case makes the n-th allocation of a call fail, among the
allocations of our compiled modules or of Python, whose objects use malloc because of PYTHONMALLOC=malloc. `--where
NumPy` selects NumPy's allocations, but NumPy 2.4 raises SystemError for some of them, or crashes.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from runner import Cases, Finding, folder_of_worker, main, origin_of, parser_of

import lstm_cy
from lstm_cy import LSTM, Adam, Embedding, Linear, Sequential, StreamPool, ctc, mse

X = np.linspace(-1, 1, 60, dtype="f4").reshape(6, 5, 2)
STEP = X[:, 0]
LSTMS = {name: LSTM(2, 40, 2, seed=0, **options) for name, options in (
    ("plain", {}), ("both", {"bidirectional": True}), ("options", {"peepholes": True, "layer_norm": True,
    "proj_size": 3}))}  # fmt: skip
NARROW = LSTMS["plain"].quantize("int8")
CHAIN = Sequential(Embedding(9, 2, seed=0), LSTM(2, 20, seed=0), Linear(20, 9, seed=0))
TOKENS = np.arange(12).reshape(6, 2) % 9


def gradients(lstm, threads=1):
    y, _, tape = lstm.forward(X, threads=threads)
    found = lstm.backward(tape, y)
    return [found.x, *found.parameters.values()]


def step_results():
    stepper = LSTMS["plain"].stepper(6)
    copy = stepper.copy()
    return [stepper.step(STEP), copy.step(STEP)]


def pool_results():
    pool = StreamPool(LSTMS["plain"])
    ids = [pool.join() for _ in range(6)]
    y = pool.step(ids, STEP, threads=2)
    pool.leave(ids[0])
    return [y, pool.state(ids[1])[0]]


def trained_parameters():
    model = Sequential(LSTM(2, 8, seed=0), Linear(8, 1, seed=0))
    y, _, tape = model.forward(X)
    Adam(model, 0.1).step(model.backward(tape, mse(y, X[..., :1])[1]))
    return list(model.parameters.values())


def saved_and_loaded():
    lstm_cy.save(LSTMS["plain"], "kept.npz", {"a": 1})
    return list(lstm_cy.load("kept.npz").parameters.values())


CALLS = {
    "call": lambda: [LSTMS["plain"](X)[0]],
    "call with all": lambda: [LSTMS["both"](X, lengths=[6, 0, 3, 1, 2], threads=2)[0]],
    "call with options": lambda: [LSTMS["options"](X, mask=X[..., 0] > -0.5)[0]],
    "call narrow": lambda: [NARROW(X, threads=2)[0]],
    "make": lambda: list(LSTM(3, 9, 2, seed=1).parameters.values()),
    "quantize": lambda: [LSTMS["plain"].quantize("bf16")(X)[0]],
    "gradients": lambda: gradients(LSTMS["both"], 2),
    "gradients of options": lambda: gradients(LSTMS["options"]),
    "chain": lambda: [CHAIN(TOKENS)[0]],
    "step": step_results,
    "pool": pool_results,
    "train": trained_parameters,
    "ctc": lambda: [ctc(np.tile(STEP, (4, 1, 3)), [[1, 2]] * 6)[1]],
    "ctc_beam": lambda: [np.array(lstm_cy.ctc_beam(np.tile(STEP[:1], (4, 1, 3)))[0][0][0])],
    "trace": lambda: [LSTMS["plain"].trace(X).cell],
    "save and load": saved_and_loaded,
}
WHERE = {"lstm_cy": "/lstm_cy/", "NumPy": "/numpy/", "Python": "python3", "all": ""}


class Allocations(Cases):
    seconds = 30.0
    label = ""

    def __init__(self, options):
        super().__init__(options)
        os.chdir(folder_of_worker())
        self.failing = ctypes.CDLL(None)
        self.failing.fuzz_fail.argtypes = [ctypes.c_long]
        self.right = {name: np.concatenate([np.ravel(a) for a in call()]) for name, call in CALLS.items()}

    @staticmethod
    def options_of(parser):
        parser.add_argument("--where", nargs="+", default=["lstm_cy", "Python"], choices=WHERE)

    def run(self, rng, index):
        name, where = rng.choice(list(CALLS)), rng.choice(self.options.where)
        call, self.label = CALLS[name], f"{name}, {where}"
        self.failing.fuzz_watch(WHERE[where].encode())
        self.failing.fuzz_fail(0)
        call()
        number = 1 + rng.randrange(max(self.failing.fuzz_count(), 1))
        self.text = f"{name}: allocation {number} of {where}"
        result = f"{where}: right result"
        self.failing.fuzz_fail(number)
        try:
            got = call()
            self.failing.fuzz_count()
            self.expect(name, got, "wrong result")
        except MemoryError:
            self.failing.fuzz_count()
            result = f"{where}: MemoryError"
        except Exception as error:
            self.failing.fuzz_count()
            if isinstance(error, Finding):
                raise
            # NumPy's and Python's functions may replace a MemoryError by a SystemError
            ours = "lstm_cy" in origin_of(error).split(" < ")[0] and not isinstance(error, SystemError)
            if where == "lstm_cy" or ours:
                raise Finding(f"{type(error).__name__} @ {origin_of(error)}", f"{self.text}: {error}") from error
            result = f"{where}: {type(error).__name__} of {origin_of(error).split(' < ')[0]}"
        finally:
            self.failing.fuzz_count()
        self.expect(name, call(), "wrong afterwards")
        if [n for n in os.listdir() if n.endswith(".tmp")]:
            raise Finding("a .tmp file is left", self.text)
        return result

    def expect(self, name, got, what):
        if np.concatenate([np.ravel(a) for a in got]).tobytes() != self.right[name].tobytes():
            raise Finding(what, self.text)

    def keep(self, folder, name):
        return self.text


if __name__ == "__main__":
    options = parser_of(Allocations, __doc__).parse_args()
    if "fuzz-failing" not in os.environ.get("LD_PRELOAD", ""):
        options.found.mkdir(parents=True, exist_ok=True)
        library = (options.found / "fuzz-failing.so").resolve()
        source = Path(__file__).with_name("failing.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
        environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    main(Allocations, __doc__)
