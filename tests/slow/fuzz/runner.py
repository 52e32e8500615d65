"""What the fuzzers share: cases by number in a worker process, findings sorted by where they come from.

A fuzzer calls `main` with a class of cases. Case i of seed s is always the same: its choices come from `choices(s, i)`.
The parent starts a worker, which runs case after case; if that dies, or says nothing for `--patience` seconds, this is a
finding too, and the next worker goes on with the case after it.
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
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: so many repros are kept of each kind of finding
KEPT = 3
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
    base = least_memory()
    for index in range(options.start, options.start + options.count):
        here[:8] = struct.pack("<q", index)
        started = time.process_time()
        try:
            result = suite.run(choices(options.seed, index), index)
        except BaseException as error:
            result = report(suite, options, index, error, out)
        seconds = time.process_time() - started
        if seconds > suite.seconds:
            result = f"took {seconds:.1f} s"
            tell(out, finding=f"slow: {getattr(suite, 'label', '')}", index=index, text=result, suite=suite)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base
        if peak > min(suite.bytes, BYTES) // 2:
            if peak > suite.bytes + suite.allowance():
                result = f"took {peak / 1e6:.0f} MB"
                tell(out, finding=f"memory: {getattr(suite, 'label', '')}", index=index, text=result, suite=suite)
            base = least_memory()
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


class Parent:
    """Starts workers until all cases have been run, and adds up what they say."""

    def __init__(self, options):
        self.options, self.came, self.findings = options, collections.Counter(), {}
        self.state = options.found / "state.json"
        self.next = options.start if options.start is not None else self._resumed()
        self.end, self.run_now = self.next + options.count, 0
        self.folder = Path(tempfile.mkdtemp(prefix="lstm-cy-fuzz-", dir="/dev/shm"))
        self.log = self.folder / "stderr"

    def _resumed(self):
        return json.loads(self.state.read_text())["next"] if self.state.exists() else 0

    def run(self):
        started = time.monotonic()
        try:
            while self.next < self.end:
                self._worker()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        minutes = (time.monotonic() - started) / 60
        print(f"{self.end - self.options.count} to {self.end - 1} of seed {self.options.seed}: {minutes:.1f} minutes")
        for what, count in self.came.most_common():
            print(f"{count:9d}  {what}")
        print(f"{len(self.findings)} kinds of findings, in {self.options.found}")
        return bool(self.findings)

    def _worker(self):
        place = self.folder / "place"
        place.write_bytes(struct.pack("<qq", -1, 0))
        arguments = [a for a in sys.argv[1:] if not a.startswith(("--from=", "--count="))]
        command = [sys.executable, sys.argv[0], *arguments, f"--worker={place}", f"--from={self.next}"]
        environment = os.environ | {"LSTM_CY_FUZZ_FOLDER": str(self.folder)}
        with open(self.log, "w") as log:
            process = subprocess.Popen(
                [*command, f"--count={self.end - self.next}"], stdout=subprocess.PIPE, stderr=log, text=True,
                env=environment, start_new_session=True,
            )  # fmt: skip
        reader = threading.Thread(target=self._read, args=(process.stdout,))
        reader.start()
        last, since, hung = None, time.monotonic(), False
        while process.poll() is None:
            time.sleep(0.2)
            now = place.read_bytes()[:8]
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > self.options.patience:
                hung = True
                process.send_signal(signal.SIGABRT)  # faulthandler shows where it is
                time.sleep(2)
                process.kill()
        process.wait()
        reader.join()
        if process.returncode:
            (at,) = struct.unpack("<q", place.read_bytes()[:8])
            said = self.log.read_text(errors="replace")
            if at < 0:
                sys.exit(f"the worker does not start:\n{said[-3000:]}")
            self._found(at, *self._last_words(said, process.returncode, hung))
            self.next = at + 1

    def _last_words(self, said, code, hung):
        what = "hang" if hung else f"crash {-code if code < 0 else code}"
        said = said.partition("\nExtension modules:")[0]
        said = said[max(said.find("Current thread"), 0) :]
        places = re.findall(r'File "[^"]*?([^"/]*/[^"/]*)", line \d+ in (\w+)', said)
        sanitizer = re.findall(r"(?:SUMMARY: |runtime error: ).*", said)[:1]
        return f"{what} @ {sanitizer or ' < '.join(':'.join(place) for place in places[:3])}", said[:3000]

    def _found(self, index, kind, text, repro=None):
        self.came[f"finding: {kind}"] += repro is None
        number = self.findings[kind] = self.findings.get(kind, 0) + 1
        if number <= KEPT:
            line = {"kind": kind, "index": index, "seed": self.options.seed, "text": text, "repro": repro}
            with open(self.options.found / "findings.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"FINDING {self.options.seed}/{index} {kind}: {text[:300]!r}", flush=True)

    def _read(self, lines):
        for line in lines:
            told = json.loads(line)
            if "finding" in told:
                self._found(told["index"], told["finding"], told["text"], told.get("repro") or "")
            else:
                self.next = told["next"]
                self.came.update(told["came"])
                line = {"seed": self.options.seed, "next": self.next, "came": self.came}
                self.state.write_text(json.dumps(line, indent=1))


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
