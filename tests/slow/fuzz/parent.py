"""The parent process of a fuzzer: it starts workers, adds up their results, and detects crashes and hangs."""

import collections
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

#: most repros that are kept of each kind of finding
KEPT = 3


class Parent:
    """Starts workers until all cases have been run, and adds up their results."""

    def __init__(self, options):
        self.options, self.results, self.findings = options, collections.Counter(), {}
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
        for what, count in self.results.most_common():
            print(f"{count:9d}  {what}")
        print(f"{len(self.findings)} kinds of findings, in {self.options.found}")
        return bool(self.findings)

    def _worker(self):
        position = self.folder / "position"
        position.write_bytes(struct.pack("<qq", -1, 0))
        arguments = [a for a in sys.argv[1:] if not a.startswith(("--from=", "--count="))]
        command = [sys.executable, sys.argv[0], *arguments, f"--worker={position}", f"--from={self.next}"]
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
            now = position.read_bytes()[:8]
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > self.options.patience:
                hung = True
                process.send_signal(signal.SIGABRT)  # faulthandler prints the stack
                time.sleep(2)
                process.kill()
        process.wait()
        reader.join()
        if process.returncode:
            (at,) = struct.unpack("<q", position.read_bytes()[:8])
            output = self.log.read_text(errors="replace")
            if at < 0:
                sys.exit(f"the worker does not start:\n{output[-3000:]}")
            self._found(at, *self._last_words(output, process.returncode, hung))
            self.results["run before a worker died, result not reported"] += at - self.next
            self.next = at + 1

    def _last_words(self, output, code, hung):
        what = "hang" if hung else f"crash {-code if code < 0 else code}"
        output = output.partition("\nExtension modules:")[0]
        head, _, output = output.rpartition("Current thread") if "Current thread" in output else ("", "", output)
        frames = re.findall(r'File "[^"]*?([^"/]*/[^"/]*)", line \d+ in (\w+)', output)
        sanitizer = re.findall(r"(?:SUMMARY: |runtime error: ).*", output)[:1]
        return (
            f"{what} @ {sanitizer or ' < '.join(':'.join(frame) for frame in frames[:3])}",
            f"{head[-500:]}{output[:3000]}",
        )

    def _found(self, index, kind, text, repro=None):
        self.results[f"finding: {kind}"] += repro is None
        number = self.findings[kind] = self.findings.get(kind, 0) + 1
        if number <= KEPT:
            line = {"kind": kind, "index": index, "seed": self.options.seed, "text": text, "repro": repro}
            with open(self.options.found / "findings.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"FINDING {self.options.seed}/{index} {kind}: {text[:300]!r}", flush=True)

    def _read(self, lines):
        for line in lines:
            message = json.loads(line)
            if "finding" in message:
                self._found(message["index"], message["finding"], message["text"], message.get("repro") or "")
            else:
                self.next = message["next"]
                self.results.update(message["results"])
                line = {"seed": self.options.seed, "next": self.next, "results": self.results}
                temporary = self.state.with_suffix(".new")
                temporary.write_text(json.dumps(line, indent=1))
                temporary.replace(self.state)
