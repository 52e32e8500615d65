"""The common part of the fuzzers: numbered cases in a worker process, findings grouped by their origin.

A fuzzer calls `main` with a class of cases. Case i of seed s is always the same: its choices come from `choices(s,
i)`. The parent starts a worker, which runs case after case. A worker that dies, or sends nothing for `--patience`
seconds, is a finding too, and the next worker continues with the next case.
"""

import argparse
import collections
import contextlib
import faulthandler
import gc
import json
import mmap
import os
import random
import re
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from parent import KEPT, Parent

HERE = Path(__file__).resolve().parent
#: a case may cost so much beyond its `allowance`
SECONDS, BYTES = 1.0, 100_000_000
SPACE = 6 << 30


class Finding(Exception):
    """A finding of a case: (kind, text)."""


class Cases:
    """The cases of a fuzzer, a base class."""

    #: fuzzers other than of files allow more, because their times depend on the machine's load
    seconds, bytes = SECONDS, BYTES
    #: address space that a worker and the programs it starts may take beyond that at its start; None for no limit
    space = SPACE

    def __init__(self, options):
        """Prepare the worker before the first case."""
        self.options = options

    def run(self, rng, index):
        """Run one case and return its result in a few words. Any exception is a finding."""
        raise NotImplementedError

    def allowance(self):
        """Return the bytes that the last case may take beyond the limit."""
        return 0

    def mark(self):
        """Restart the measurement of the case's cost."""
        self.base = least_memory()
        self.started = time.process_time()

    def keep(self, folder, name):
        """Save the input of the last case to a file, and return its path or a text."""
        return ""

    @staticmethod
    def options_of(parser):
        """Add the fuzzer's own arguments."""


def choices(seed, index):
    return random.Random(seed << 64 | index)


def parser_of(cases, description):
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("found", type=Path, help="a folder for the findings and the state")
    parser.add_argument("--count", type=int, default=1000, help="how many cases")
    parser.add_argument(
        "--from", dest="start", type=int, help="the first case's number (default: the next one by FOUND/state.json)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--patience", type=float, default=120, help="seconds without progress until a worker is stopped"
    )
    parser.add_argument("--index", type=int, help="run only this case in this process and print its result")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    cases.options_of(parser)
    return parser


def main(cases, description):
    options = parser_of(cases, description).parse_args()
    options.found.mkdir(parents=True, exist_ok=True)
    if options.worker:
        work(cases, options)
    elif options.index is not None:
        print(cases(options).run(choices(options.seed, options.index), options.index))
    else:
        sys.exit(Parent(options).run())


def work(cases, options):
    """Run cases in the worker; send a line of JSON for each finding, and from time to time for other results."""
    if "asan" not in os.environ.get("LD_PRELOAD", ""):
        faulthandler.enable()
        if cases.space is not None:
            space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + cases.space
            resource.setrlimit(resource.RLIMIT_AS, (space, space))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # printed text does not mix with the lines
    with open(options.worker, "r+b") as file:
        position = mmap.mmap(file.fileno(), 16)
    suite, results, last_sent = cases(options), collections.Counter(), 0.0
    suite.mark()
    for index in range(options.start, options.start + options.count):
        position[:8] = struct.pack("<q", index)
        suite.started = time.process_time()
        try:
            result = suite.run(choices(options.seed, index), index)
        except BaseException as error:
            result = report(suite, options, index, error, out)
        seconds = time.process_time() - suite.started
        if seconds > suite.seconds:
            result = f"took {seconds:.1f} s"
            send(out, finding=f"slow: {getattr(suite, 'label', '')}", index=index, text=result, suite=suite)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - suite.base
        if peak > min(suite.bytes, BYTES) // 2:
            if peak > suite.bytes + suite.allowance():
                result = f"took {peak / 1e6:.0f} MB"
                send(out, finding=f"memory: {getattr(suite, 'label', '')}", index=index, text=result, suite=suite)
            suite.base = least_memory()
        results[result] += 1
        if index + 1 == options.start + options.count or time.monotonic() - last_sent > 2:
            send(out, next=index + 1, results=results)
            results.clear()
            last_sent = time.monotonic()


def least_memory():
    """Free garbage, reset the peak memory, and return the bytes of the process."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def report(suite, options, index, error, out):
    """Send `error` and its origin as a finding."""
    if isinstance(error, Finding):
        kind, text = error.args
    else:
        kind, text = f"{type(error).__name__} @ {origin_of(error)}", f"{error}"[:500]
    kind = f"{kind} [{getattr(suite, 'label', '')}]"
    send(out, finding=kind, index=index, text=text, suite=suite)
    return f"finding: {kind}"


def origin_of(error):
    """Return where an error was raised, and the functions of lstm_cy that led there."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent != HERE]
    origins = [f"{'/'.join(f.filename.split('/')[-2:])}:{f.name}" for f in frames]
    own = [origin for origin, frame in zip(origins, frames, strict=True) if "lstm_cy" in frame.filename]
    return " < ".join([*origins[-1:], *[origin for origin in own[:-4:-1] if origin not in origins[-1:]]])


_kept = collections.Counter()


def send(out, suite=None, **content):
    if suite is not None:
        kind, index = content["finding"], content["index"]
        _kept[kind] += 1
        if _kept[kind] <= KEPT:
            name = re.sub(r"[^\w.]+", "-", f"{kind:.60}-{index}")
            content["repro"] = suite.keep(suite.options.found, name)
    out.write(json.dumps(content) + "\n")
    out.flush()


def folder_of_worker():
    """Return a folder in memory, which the parent removes."""
    return Path(os.environ.get("LSTM_CY_FUZZ_FOLDER") or tempfile.mkdtemp(prefix="lstm-cy-fuzz-", dir="/dev/shm"))


@contextlib.contextmanager
def only_user_warnings(allowed=(UserWarning,)):
    """Ignore the warnings in `allowed`, and raise all others."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in allowed:
            warnings.simplefilter("ignore", kind)
        yield
