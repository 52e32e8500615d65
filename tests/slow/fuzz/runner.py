"""What the fuzzers share: cases by number in a worker process, findings sorted by where they come from.

A fuzzer calls `main` with a class of cases. Case i of seed s is always the same: its choices come from `choices(s,
i)`. The parent starts a worker, which runs case after case; if that dies, or says nothing for `--patience` seconds,
this is a finding too, and the next worker goes on with the case after it.
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
#: a case may cost so much beyond what its `allowance` says
SECONDS, BYTES = 1.0, 100_000_000
#: and a worker may have so much address space in all, beyond what it has when it begins
SPACE = 6 << 30


class Finding(Exception):
    """Something a case found: (kind, text)."""


class Cases:
    """To be subclassed: what a fuzzer does."""

    #: more allowed seconds for everything else than files, where the machine's other work counts
    seconds, bytes = SECONDS, BYTES

    def __init__(self, options):
        """In the worker, before the first case."""
        self.options = options

    def run(self, rng, index):
        """One case; what came of it, in a word. Any exception is a finding."""
        raise NotImplementedError

    def allowance(self):
        """Bytes that the last case may take beyond the limit."""
        return 0

    def mark(self):
        """What the case cost up to here does not count."""
        self.base = least_memory()
        self.started = time.process_time()

    def keep(self, folder, name):
        """Save what repeats the last case, in a file or a text that is returned."""
        return ""

    @staticmethod
    def options_of(parser):
        """Add arguments of the fuzzer's own."""


def choices(seed, index):
    return random.Random(seed << 64 | index)


def parser_of(cases, description):
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("found", type=Path, help="a folder for the findings and for how far this came")
    parser.add_argument("--count", type=int, default=1000, help="how many cases")
    parser.add_argument("--from", dest="start", type=int, help="the first case's number (default: where FOUND is)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=120, help="seconds without a word, until a worker is stopped")
    parser.add_argument("--index", type=int, help="run this case alone, here, and show what comes")
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
    """The worker's side: a line of JSON for each finding, and now and then for what else came."""
    if "asan" not in os.environ.get("LD_PRELOAD", ""):
        faulthandler.enable()
        space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (space + SPACE, space + SPACE))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed does not go between the lines
    with open(options.worker, "r+b") as file:
        here = mmap.mmap(file.fileno(), 16)
    suite, came, shown = cases(options), collections.Counter(), 0.0
    suite.mark()
    for index in range(options.start, options.start + options.count):
        here[:8] = struct.pack("<q", index)
        suite.started = time.process_time()
        try:
            result = suite.run(choices(options.seed, index), index)
        except BaseException as error:
            result = report(suite, options, index, error, out)
        seconds = time.process_time() - suite.started
        if seconds > suite.seconds:
            result = f"took {seconds:.1f} s"
            tell(out, finding=f"slow: {getattr(suite, 'label', '')}", index=index, text=result, suite=suite)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - suite.base
        if peak > min(suite.bytes, BYTES) // 2:
            if peak > suite.bytes + suite.allowance():
                result = f"took {peak / 1e6:.0f} MB"
                tell(out, finding=f"memory: {getattr(suite, 'label', '')}", index=index, text=result, suite=suite)
            suite.base = least_memory()
        came[result] += 1
        if index + 1 == options.start + options.count or time.monotonic() - shown > 2:
            tell(out, next=index + 1, came=came)
            came.clear()
            shown = time.monotonic()


def least_memory():
    """Bytes the process has when everything has been given back; the largest is counted from here on."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def report(suite, options, index, error, out):
    """Write down what `error` is and where it comes from."""
    if isinstance(error, Finding):
        kind, text = error.args
    else:
        kind, text = f"{type(error).__name__} @ {place_of(error)}", f"{error}"[:500]
    kind = f"{kind} [{getattr(suite, 'label', '')}]"
    tell(out, finding=kind, index=index, text=text, suite=suite)
    return f"finding: {kind}"


def place_of(error):
    """Where an error was raised, and which functions of ours led there."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent != HERE]
    places = [f"{'/'.join(f.filename.split('/')[-2:])}:{f.name}" for f in frames]
    own = [place for place, frame in zip(places, frames, strict=True) if "lstm_cy" in frame.filename]
    return " < ".join([*places[-1:], *[place for place in own[:-4:-1] if place not in places[-1:]]])


_kept = collections.Counter()


def tell(out, suite=None, **content):
    if suite is not None:
        kind, index = content["finding"], content["index"]
        _kept[kind] += 1
        if _kept[kind] <= KEPT:
            name = re.sub(r"[^\w.]+", "-", f"{kind:.60}-{index}")
            content["repro"] = suite.keep(suite.options.found, name)
    out.write(json.dumps(content) + "\n")
    out.flush()


def folder_of_worker():
    """A folder in memory, which the parent removes."""
    return Path(os.environ.get("LSTM_CY_FUZZ_FOLDER") or tempfile.mkdtemp(prefix="lstm-cy-fuzz-", dir="/dev/shm"))


@contextlib.contextmanager
def only_user_warnings(allowed=(UserWarning,)):
    """Warnings are kept quiet, but those that are not `allowed` are raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in allowed:
            warnings.simplefilter("ignore", kind)
        yield
