"""Compare lstm_cy with every other library for CPUs that is installed: tables, compare.json, compare.png.

    python benchmarks/compare.py                                        # all there is
    python benchmarks/compare.py --quick                                # a few shapes
    python benchmarks/compare.py --kinds streaming --peers numpy torch --shapes 1x1x48x48
    LSTM_CY_ISA=avx2 python benchmarks/compare.py --peers-isa AVX2      # as if the processor had no AVX-512
    python benchmarks/compare.py graphs                                 # whole models, with the options of graphs.py

All peers get the same weights and the same input; a peer with a result other than NumPy's is reported and not timed.
Headings name the precision of the products, and figures compare equal precisions: a peer's bf16 with ours in bf16.
With one thread the peers take turns in one process, except TensorFlow and JAX, each of which shares its own process
with lstm_cy. With more threads each peer has its own process, because the spinning threads of one peer would occupy the
cores of the next; the processes take turns. Figures are medians, in microseconds, of calls without pauses (in
nanoseconds per sample for amplifiers); the numbers in brackets are the time of a peer / the time of lstm_cy at the same
precision, and for lstm_cy with narrow weights, the time / the time of lstm_cy in float32. The second number in brackets
is the largest error of narrow products, as a share of the largest output. The limit, for float32, follows from the
machine's arithmetic and memory speed (limits.py), measured in the same run.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if not __package__:  # run as a file: for the whole process, and before NumPy is loaded
    os.environ.update(OPENBLAS_NUM_THREADS="1", LSTM_CY_NUM_THREADS="1")
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np

import lstm_cy
from benchmarks import common, graphs, machine, peers
from benchmarks.limits import Limits
from benchmarks.worker import KINDS, OURS, PRECISIONS

ROOT = Path(__file__).resolve().parents[1]
LONG = np.dtype("longdouble")
ACCURACY_SIZES = (1, 3, 17, 33, 127, 256)
ROUNDS = 3  # in which the processes take turns
REST = 0.03  # seconds after a process's turn, for its threads to fall asleep
#: names for --shapes
SHAPES = {"unusual": common.UNUSUAL_SHAPES}


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["graphs"]:
        graphs.main(argv[1:])
        return 0
    options = arguments(argv)
    report = {
        "configuration": lstm_cy.show_config("dicts"),
        "processor": machine.processor(),
        "versions": {name: importlib.metadata.version(name) for name in options.peers},
        "peers' instruction set": options.peers_isa,
        "limits": {},
        "rows": [],
    }
    print(header(report))
    for threads in options.threads:
        limits = Limits(threads)
        for name in options.kinds:
            report["rows"] += table(name, threads, limits, options)
        report["limits"][threads] = limits.found()
        print(f"\n{limits}")
    if "inference" in options.kinds:
        report["accuracy"] = accuracy()
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "compare.json").write_text(json.dumps(report, indent=1))
    chart(report["rows"], options.output / "compare.png")
    return 0


def arguments(argv):
    names = list(peers.PEERS)[1:]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--shapes", nargs="+", metavar="SHAPE", help=f"'BxTxIxH 2 layers bidirectional', or {' or '.join(SHAPES)}"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of tables (default: all)")
    parser.add_argument("--peers", nargs="+", choices=names, help="(default: all that are installed)")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="of columns (default: all)"
    )
    parser.add_argument(
        "--peers-isa",
        choices=peers.HELD,
        help="widest instruction set of oneDNN in PyTorch and OpenVINO (default: all)",
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[1], help="numbers of threads (default: 1)")
    parser.add_argument("--seconds", type=float, help="about how long for each row (default: 3; with --quick 1)")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of sleep before each call (default: 0)")
    parser.add_argument("--busy", action="store_true", help="while another process runs that never waits")
    parser.add_argument("--quick", action="store_true", help="a few shapes")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "compare", metavar="DIR", help="folder of the files"
    )
    options = parser.parse_args(argv)
    if min(options.threads) < 1:
        parser.error(f"--threads: expected at least 1, got {min(options.threads)}")
    try:
        options.shapes = [each for shape in options.shapes or () for each in SHAPES.get(shape, [shape])]
        for shape in options.shapes:
            common.Shape.of(shape)
    except ValueError as error:
        parser.error(f"--shapes: {error}")
    missing = [name for name in options.peers or () if not peers.installed(name)]
    if missing:
        parser.error(f"--peers: not installed: {', '.join(missing)}")
    if options.seconds is None:
        options.seconds = 1.0 if options.quick else 3.0
    options.peers = options.peers or [name for name in names if peers.installed(name)]
    return options


def header(report):
    """Return one line with the processor, the configuration and the versions."""
    found = report["configuration"]
    kernels = [f"{name} {found[name]}" for name in ("instruction set", "engine", "threads", "BLAS", "BLAS threads")]
    ours = [f"{name} {found[name]}" for name in ("lstm_cy", "Python", "NumPy", "SciPy")]
    theirs = [f"{peers.PEERS[name].title} {version}" for name, version in report["versions"].items() if name != "numpy"]
    isa = report["peers' instruction set"]
    held = [f"PyTorch and OpenVINO held to {isa}"] if isa else []
    return "; ".join((report["processor"], ", ".join(kernels), ", ".join(ours + theirs), *held))


# Measurements: this process sends requests, the workers run them


def table(name, threads, limits, options):
    """Measure and print one table; return its rows."""
    kind = KINDS[name]
    selected = [peer for peer in kind.peers if peer == OURS or is_selected(peer, options)]
    shapes = options.shapes or (kind.quick if options.quick else kind.shapes)
    unit = "nanoseconds per sample" if kind.per_sample else "microseconds"
    print(f"\n{kind.title}, {unit}, {threads} {'thread' if threads == 1 else 'threads'}:\n")
    rows, refused = [], []
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(group, threads, options.peers_isa)) for group in groups(selected, threads)
        ]
        precisions = {peer: precision for worker in workers for peer, precision in worker.ask("precisions").items()}
        headings = {peer: heading(peer, precisions[peer], options.peers_isa) for peer in selected}
        for shape in shapes:
            if kind.streams and common.Shape.of(shape).directions == 2:
                continue
            row = measure(name, shape, workers, precisions, options)
            row |= {"headings": headings, "precisions": precisions}
            row["limit"] = None if name == "narrow" else limits.seconds(common.Shape.of(shape), kind.method)
            row["ratios"] = ratios(row)
            if not rows:
                columns = ["BxTxIxH", *["limit"] * bool(row["limit"]), *headings.values(), *row["ratios"]]
                print("|", " | ".join(columns), "|")
                print("|---|" + "--:|" * (len(columns) - 1))
            print("|", " | ".join(cells(row, selected)), "|", flush=True)
            rows.append(row)
            refused += [f"{shape}: {headings[peer]}: {why}" for peer, why in row["refused"].items()]
    if refused:
        print("\nNot timed:\n")
        print("\n".join(f"- {line}" for line in refused))
    return rows


def is_selected(peer, options):
    return peer.split()[0] in (OURS, *options.peers) and peers.EVERY[peer].precision in options.precisions


def heading(peer, precision, isa):
    """Return the heading of a peer's column, such as "OpenVINO bf16 (default, AVX2)"."""
    kind = peers.EVERY[peer]
    notes = ", ".join(note for note in (kind.note, isa if kind.onednn else None) if note)
    return f"{kind.title} {precision}" + (f" ({notes})" if notes else "")


def groups(selected, threads):
    """Return the groups of peers that share a process."""
    if threads > 1:
        return [[peer] for peer in selected]
    together = [peer for peer in selected if peer not in peers.APART]
    return [together, *([OURS, peer] for peer in selected if peer in peers.APART)]


def measure(kind, shape, workers, precisions, options):
    """Return one row: the options, "peers": {name: times} and "refused": {name: reason}."""
    row = {"kind": kind, "shape": shape, "threads": workers[0].threads, "pause": options.pause, "busy": options.busy}
    row |= {"peers": {}, "refused": {}}
    checked = [worker.ask("prepare", kind, shape) for worker in workers]
    for found in checked:
        row["refused"] |= {peer: answer["refused"] for peer, answer in found.items() if "refused" in answer}
    if OURS in row["refused"]:
        raise ArithmeticError(row["refused"][OURS])
    counts = [sum("refused" not in answer for answer in found.values()) for found in checked]
    taken = [{} for _ in workers]
    with common.other_process(options.busy):
        for _ in range(ROUNDS):
            for worker, count, mine in zip(workers, counts, taken, strict=True):
                seconds = options.seconds * count / sum(counts) / ROUNDS
                for peer, times in worker.ask("time", seconds, options.pause).items():
                    mine.setdefault(peer, []).extend(times)
                time.sleep(REST)
    every = {peer: times for mine in reversed(taken) for peer, times in mine.items()}
    for found, mine in zip(checked, taken, strict=True):
        for peer, times in mine.items():
            if peer not in row["peers"]:
                p50, p99 = percentiles(times)
                ratio, ratio99 = np.divide((p50, p99), percentiles(base(peer, precisions[peer], every | mine)))
                row["peers"][peer] = {"p50": p50, "p99": p99, "ratio": ratio, "p99 ratio": ratio99, **found[peer]}
    return row


def base(peer, precision, times):
    """Return the times with which a peer's are compared: ours at its precision, if any; for ours, those of float32."""
    return times[OURS] if peer == ours_at(precision) else times.get(ours_at(precision), times[OURS])


def ours_at(precision):
    """Return our name among the peers at a precision."""
    return OURS if precision == "float32" else f"{OURS} {precision}"


def percentiles(times):
    return [float(value) for value in np.percentile(times, (50, 99))]


def ratios(row):
    """Return {column: value}: the best peer / ours at each precision, our gain by narrow weights, ours / the limit."""
    found, columns = row["peers"], {}
    for precision in [each for each in PRECISIONS if ours_at(each) in row["headings"]]:
        columns |= best(row, precision)
        ours = ours_at(precision)
        if ours != OURS:
            columns[f"float32 / {precision}, {OURS}"] = 1 / found[ours]["ratio"] if ours in found else None
    if row["limit"]:
        columns[f"{OURS} float32 / limit"] = found[OURS]["p50"] / row["limit"]
    return columns


def best(row, precision):
    """Return {column: value}: the best of the other libraries' times / ours, all at one precision."""
    others = [peer for peer in row["headings"] if row["precisions"][peer] == precision and title(peer) != title(OURS)]
    keys = {"best peer": "ratio"} | ({"best peer, 99th": "p99 ratio"} if KINDS[row["kind"]].streams else {})
    columns = {}
    for column, key in keys.items() if others else ():
        timed = [row["peers"][peer][key] for peer in others if peer in row["peers"]]
        ours = ours_at(precision) in row["peers"]
        columns[f"{column} / {OURS}, {precision}"] = min(timed) if timed and ours else None
    return columns


class Worker:
    """A process in which some peers take turns; requests and answers are lines of JSON."""

    def __init__(self, names, threads, isa=None):
        self.names, self.threads = names, threads
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by __exit__)
        names_of_threads = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "LSTM_CY_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names_of_threads, str(threads))
        environment |= peers.held_to(isa) if isa else {}
        environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("worker.py")), str(threads), *names],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def ask(self, *request):
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self.process.wait()
            self.errors.seek(0)
            last = self.errors.read()[-2000:]
            raise RuntimeError(f"the process of {', '.join(self.names)} ended at {request}:\n{last}") from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()
        self.errors.close()


# Printing


def title(peer):
    return peers.EVERY[peer].title


def cells(row, selected):
    """Yield the cells of a row of the table."""
    yield row["shape"]
    if row["limit"]:
        yield figure(row["limit"], row)
    for peer in selected:
        yield cell(peer, row)
    for value in row["ratios"].values():
        yield "" if value is None else f"{value:.2f}"


def cell(peer, row):
    """Return the time and its ratio to lstm_cy's; two times for a stream; also the error of narrow products."""
    times = row["peers"].get(peer)
    if not times:
        return ""
    text = figure(times["p50"], row)
    if KINDS[row["kind"]].streams:
        text += f" / {figure(times['p99'], row)}"
    notes = [] if peer == OURS else [f"{times['ratio']:.2f}"]
    if row["precisions"][peer] != "float32":
        notes.append(f"{times['error']:.0e}")
    return text + (f" ({', '.join(notes)})" if notes else "")


def figure(seconds, row):
    """Return microseconds of a call, or nanoseconds of a sample, with three digits, or all digits before the point."""
    shape = common.Shape.of(row["shape"])
    samples = shape.batch * (1 if KINDS[row["kind"]].streams else shape.steps)
    value = 1e9 * seconds / samples if KINDS[row["kind"]].per_sample else 1e6 * seconds
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def chart(rows, path):
    """Draw a bar for each peer of each row: its time / lstm_cy's."""
    if not importlib.util.find_spec("matplotlib"):
        print("\nNo chart: matplotlib is not installed.")
        return
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    panels = list(dict.fromkeys((row["kind"], row["threads"]) for row in rows))
    heights = [sum((row["kind"], row["threads"]) == panel for row in rows) for panel in panels]
    figure = Figure(figsize=(9, 1 + sum(0.6 * height + 0.8 for height in heights)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=[0.6 * height + 0.8 for height in heights])
    names = list(peers.EVERY)
    for (kind, threads), (ax,) in zip(panels, axes, strict=True):
        these = [row for row in rows if (row["kind"], row["threads"]) == (kind, threads)]
        label = these[0]["headings"]
        present = [name for name in names if name != OURS and any(name in row["peers"] for row in these)]
        for position, name in enumerate(present):
            at = [index + 0.8 * ((position + 0.5) / len(present) - 0.5) for index in range(len(these))]
            widths = [row["peers"].get(name, {"ratio": np.nan})["ratio"] for row in these]
            color = f"C{names.index(name) - 1}"
            ax.barh(at, np.array(widths) - 1, 0.8 / len(present), left=1, label=label[name], color=color)
        for index, row in enumerate(these):
            if row["limit"]:
                at = row["limit"] / row["peers"][OURS]["p50"]
                ax.plot([at, at], [index - 0.4, index + 0.4], "k:", label="limit" if index == 0 else None)
        ax.axvline(1, color="black")
        ax.set(xscale="log", xlabel="time / lstm_cy's", title=f"{kind}, threads: {threads}")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_yticks(range(len(these)), [row["shape"] for row in these])
        ax.invert_yaxis()
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    figure.savefig(path, dpi=120)


# Accuracy of lstm_cy


def accuracy():
    """Print and return the largest errors."""
    found = {dtype: largest_error(dtype) for dtype in ("float32", "float64")}
    print()
    for dtype, error in found.items():
        print(f"- {dtype}: largest error of y, h_n and c_n over 100 steps {error:.1e}")
    print(f"\nI = H = {', '.join(map(str, ACCURACY_SIZES))}; weights and biases from U(-1/sqrt(H), 1/sqrt(H));")
    print(f"against NumPy in long double, {np.finfo(LONG).nmant + 1} bits.")
    return found


def largest_error(dtype):
    """Return the largest error of a layer; weights and biases are from U(-1/sqrt(H), 1/sqrt(H))."""
    sizes = [f"2x100x{size}x{size}" for size in ACCURACY_SIZES]
    return max(error(common.Inference(shape, dtype=dtype, forget_bias=0.0)) for shape in sizes)


def error(case):
    """Return the largest difference between lstm_cy and NumPy's long double, for the same weights and input."""
    got = case.run()
    x, *state = (array.astype(LONG) for array in (case.x, *case.state))
    exact = common.Plain(case.lstm, LONG).infer(x, state)
    return float(max(np.abs(got[name] - exact[name]).max() for name in got))


if __name__ == "__main__":
    sys.exit(main())
