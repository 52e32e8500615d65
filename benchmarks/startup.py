"""Measure importing, starting up to the first result, and the memory of a process with a model.

    python benchmarks/startup.py                              # NumPy, and PyTorch and ONNX Runtime if installed
    python benchmarks/startup.py --rounds 3 --peers torch

Each peer loads a file with the same weights, a layer of 64 inputs and 128 units, makes one step, writes its result,
makes 99 more and writes the last one. A cold start is the time from starting Python to the first result, measured by
the parent process; the files are in the system's cache, as on any start but the first. Memory is read after the last
step: the peak of the resident memory, the proportional share (shared pages are divided among their processes), and the
private memory. Processes run one at a time, in turns; figures are medians. A different result is an error.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

if not __package__:  # run as a file: for the whole process, and before NumPy is loaded
    os.environ.update(OPENBLAS_NUM_THREADS="1", LSTM_CY_NUM_THREADS="1")
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np

import lstm_cy
from benchmarks.common import check
from lstm_cy import LSTM, save

INPUTS, HIDDEN, STEPS = 64, 128, 100
# Each program reads its file and defines `step`, which returns h as a list. This follows:
RUN = f"""
import sys
from array import array
def write(h):
    sys.stdout.buffer.write(array("f", h).tobytes())
    sys.stdout.flush()
write(step())
for _ in range({STEPS - 1}):
    result = step()
write(result)
sys.stdin.read()
"""

NUMPY = """
import numpy as np
file = np.load("numpy.npz")
w_ih, w_hh, bias = file["w_ih"], file["w_hh"], file["bias"]
h, c = np.zeros((2, 128), np.float32)
x = np.linspace(-1, 1, 64, dtype=np.float32)
def sigmoid(z):
    return 1 / (1 + np.exp(-z))
def step():
    global h, c
    i, f, g, o = np.split(w_ih @ x + w_hh @ h + bias, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return h.tolist()
"""
OURS = """
import numpy as np
import lstm_cy
stepper = lstm_cy.load("lstm_cy.npz").stepper()
x = np.linspace(-1, 1, 64, dtype=np.float32)
def step():
    return stepper.step(x).tolist()
"""
TORCH = """
import torch
torch.set_num_threads(1)
lstm = torch.nn.LSTM(64, 128)
lstm.load_state_dict(torch.load("torch.pt", weights_only=True))
x = torch.linspace(-1, 1, 64)[None]
state = None
@torch.inference_mode()
def step():
    global state
    y, state = lstm(x, state)
    return y[0].tolist()
"""
ONNXRUNTIME = """
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession("onnxruntime.onnx", options, providers=["CPUExecutionProvider"])
x = np.linspace(-1, 1, 64, dtype=np.float32)[None, None]
h, c = np.zeros((2, 1, 1, 128), np.float32)
def step():
    global h, c
    y, h, c = session.run(["y", "h_n", "c_n"], {"x": x, "h0": h, "c0": c})
    return y[0, 0].tolist()
"""


class Peer(NamedTuple):
    """A title, the required package, its import statement, and the program."""

    title: str
    package: str
    statement: str
    program: str


PEERS = {
    "lstm_cy": Peer("lstm_cy", "lstm_cy", "from lstm_cy import LSTM", OURS),
    "numpy": Peer("NumPy", "numpy", "import numpy", NUMPY),
    "torch": Peer("PyTorch", "torch", "import torch", TORCH),
    "onnxruntime": Peer("ONNX Runtime", "onnxruntime", "import onnxruntime", ONNXRUNTIME),
}


class Started(NamedTuple):
    """Seconds until a process's first result; its memory in bytes, or None if the system does not provide it."""

    seconds: float
    peak: int | None
    proportional: int | None
    own: int | None


def main(argv=None):
    """Print the tables; return {"import": {title: seconds}, "start": {title: Started}}."""
    options = arguments(argv)
    peers = [PEERS[name] for name in dict.fromkeys(["lstm_cy", "numpy", *options.peers])]
    versions = ", ".join(f"{peer.title} {importlib.metadata.version(peer.package)}" for peer in peers[1:])
    print(f"lstm_cy {lstm_cy.__version__}, {versions}, Python {sys.version.split()[0]}; {options.rounds} rounds")
    imports = importing(peers, options.rounds)
    started = starting(peers, options.rounds)
    return {"import": imports, "start": started}


def arguments(argv):
    others = [name for name in PEERS if name not in ("lstm_cy", "numpy")]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    installed = [name for name in others if importlib.util.find_spec(PEERS[name].package)]
    parser.add_argument("--peers", nargs="*", choices=others, default=installed, help="(default: all installed)")
    parser.add_argument("--rounds", type=int, default=15, help="(default: 15)")
    return parser.parse_args(argv)


# Importing


def importing(peers, rounds):
    statements = {peer.statement: peer.statement for peer in peers}
    statements = {"import lstm_cy": "import lstm_cy", **statements}
    taken = in_turns(statements, import_seconds, rounds)
    found = {name: statistics.median(times) for name, times in taken.items()}
    rows = [[f"`{name}`", f"{1e3 * took:.1f}", f"{took / found['import numpy']:.2f}"] for name, took in found.items()]
    table("Importing", ["", "ms", "/ NumPy"], rows)
    return found


def import_seconds(statement):
    """Return the time of the statement in a new process, measured in that process."""
    code = f"import time; begin = time.perf_counter(); {statement}; print(time.perf_counter() - begin)"
    return float(subprocess.run(**process(code), check=True).stdout)


# Starting


def starting(peers, rounds):
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), {peer.package for peer in peers})
        expected = in_double()
        programs = {peer.title: peer.program + RUN for peer in peers}
        taken = in_turns(programs, lambda program: start(program, folder, expected), rounds)
    found = {title: Started(*map(median, zip(*these, strict=True))) for title, these in taken.items()}
    ours = found["lstm_cy"]
    rows = [[title, f"{1e3 * it.seconds:.0f}", f"{it.seconds / ours.seconds:.2f}"] for title, it in found.items()]
    table("Starting, to the first result", ["", "ms", "/ lstm_cy"], rows)
    if ours.peak is None:
        print("\nMemory: not available on this system.")
        return found
    head = ["", "peak", "proportional", "private", "proportional / lstm_cy's"]
    rows = [
        [title, *(f"{part / 2**20:.1f}" for part in it[1:]), f"{it.proportional / ours.proportional:.2f}"]
        for title, it in found.items()
    ]
    table(f"Memory of a process that steps {HIDDEN} units, MiB", head, rows)
    return found


def layer():
    return LSTM(INPUTS, HIDDEN, seed=0)


def write_files(folder, packages):
    """Write the weights in the format of each peer."""
    lstm = layer()
    weights = lstm.state_dict()
    save(lstm, folder / "lstm_cy.npz")
    bias = weights["bias_ih_l0"] + weights["bias_hh_l0"]
    np.savez(folder / "numpy.npz", w_ih=weights["weight_ih_l0"], w_hh=weights["weight_hh_l0"], bias=bias)
    if "torch" in packages:
        import torch

        torch.save({name: torch.tensor(array) for name, array in weights.items()}, folder / "torch.pt")
    if "onnxruntime" in packages:
        from lstm_cy.weights.onnx import to_onnx

        (folder / "onnxruntime.onnx").write_bytes(to_onnx(lstm, states=True).SerializeToString())


def in_double():
    """Return the first and the last h, by lstm_cy.reference in float64."""
    weights = {name: array.astype(float) for name, array in layer().parameters.items()}
    bias = weights["bias_ih_l0"] + weights["bias_hh_l0"]
    x = np.broadcast_to(np.linspace(-1, 1, INPUTS), (STEPS, 1, INPUTS))
    zeros = np.zeros((1, HIDDEN))
    y, _, _ = lstm_cy.reference.forward(x, zeros, zeros, weights["weight_ih_l0"], weights["weight_hh_l0"], bias)
    return y[[0, -1], 0]


def start(program, folder, expected):
    """Run a program until it has written both results; return its time and memory."""
    begin = time.perf_counter()
    with subprocess.Popen(**process(program), cwd=folder, stdin=subprocess.PIPE) as running:
        results = [running.stdout.read(4 * HIDDEN)]
        took = time.perf_counter() - begin
        results.append(running.stdout.read(4 * HIDDEN))
        if len(results[1]) < 4 * HIDDEN:
            raise RuntimeError(f"ended before it wrote its results:\n{program}\n{running.stderr.read().decode()}")
        memory = memory_of(running.pid)
        running.stdin.close()
    check(program, {"h": np.array([np.frombuffer(h, np.float32) for h in results])}, {"h": expected})
    return Started(took, *memory)


def memory_of(pid):
    """Return (peak, proportional, own) in bytes."""
    try:
        text = Path(f"/proc/{pid}/status").read_text() + Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return None, None, None
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    return 1024 * kib["VmHWM"], 1024 * kib["Pss"], 1024 * (kib["Private_Clean"] + kib["Private_Dirty"])


# Both


def process(code):
    """Return the arguments for a process that runs the code with one thread, and with this lstm_cy."""
    found = [str(Path(lstm_cy.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, found)),
        **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "LSTM_CY_NUM_THREADS"), "1"),
    }
    return {
        "args": [sys.executable, "-c", code],
        "env": environment,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }


def in_turns(cases, measure, rounds):
    """Return {name: [measure(case), ...]} of all rounds; a first round is not counted."""
    taken = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, case in cases.items():
            taken[name].append(measure(case))
    return {name: these[1:] for name, these in taken.items()}


def median(values):
    return None if None in values else statistics.median(values)


def table(title, head, rows):
    print(f"\n## {title}\n\n| {' | '.join(head)} |\n|---|{'--:|' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
