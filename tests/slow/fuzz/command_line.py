"""lstm-cy with random arguments, files and standard streams: a valid exit status, no control characters.

    python tests/slow/fuzz/command_line.py FOUND --count 3000

Each case is a separate process. Allowed are status 0, 1 and 2, at most a minute, no traceback, no end by a signal
except SIGPIPE, and on standard output and error no control characters except newline, tab and carriage return.
Standard error or output may be closed, full or a pipe without a reader; Ctrl-C may be pressed at any time.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
from mutations import damage
from runner import Cases, Finding, folder_of_worker, main
from seeds import make

from lstm_cy import LSTM, Embedding, Linear, Sequential, save
from lstm_cy.text import Vocabulary

COMMANDS = {
    "demo": ("--quick", "--threads", "--seed", "--output"),
    "train": ("--text", "--level", "--limit-characters", "--min-count", "--vocabulary", "--output", "--embedding",
    "--hidden",
              "--layers", "--dropout", "--epochs", "--minutes", "--threads", "--batch-size", "--bptt", "--lr",
              "--clip-norm", "--seed",
              "--checkpoint", "--resume"),
    "generate": ("MODEL", "--prompt", "--length", "--temperature", "--top-k", "--top-p", "--seed"),
    "perplexity": ("MODEL", "--text", "--threads"),
    "trace": ("MODEL", "--text", "--layer", "--direction", "--output", "--units"),
    "convert": ("MODEL", "OUT", "--name", "--batch-first", "--states", "--lengths"),
    "inspect": ("MODEL",),
    "info": (),
    "bench": ("--seconds", "--quick", "--kind", "--threads"),
}  # fmt: skip
VALUES = ("0", "1", "2", "-1", "3", "1e9", "nan", "inf", "-inf", "0.5", "", "x", "\udcff", "é", "\x1b[2J", "--help",
    "-", "9" * 5000,
          "99999999999999999999", "1_000", "0x10", " 1", "None", "..", ".", "/", "/dev/null", "/dev/full",
          "missing.npz", "a\nb",
          "text.txt", "control.txt", "empty.txt", "folder", "characters", "words", "bytes")  # fmt: skip
#: values of the options that make runs long
SHORT_RUNS = {"--epochs": ("1", "0", "-1", "x", "nan"), "--minutes": ("0.001", "0", "-1", "nan"), "--hidden": ("2", "0",
    "x", "-3", "1.5"),
         "--limit-characters": ("300", "0", "-1", "50"), "--text": ("text.txt", "control.txt", "empty.txt", "missing",
         "folder", "/dev/null"),
         "--length": ("5", "0", "-1", "x", "1e3"), "--seconds": ("0.001", "0", "-1", "nan", "x"), "--embedding": ("2",
         "0", "x"),
         "--layers": ("1", "2", "0", "x"), "--output": ("out.npz", "out.safetensors", "out.onnx", "out.txt", "",
         "missing/out.npz", "/dev/full",
         "folder"), "OUT": ("out.npz", "out.safetensors", "out.onnx", "out.txt", "", "missing/out.npz",
         "folder")}  # fmt: skip
FLAGS = {"--quick", "--resume", "--batch-first", "--states", "--lengths"}
ALWAYS = {"train": ["--epochs=1", "--hidden=2", "--embedding=2", "--limit-characters=300", "--text=text.txt"],
    "demo": ["--quick"],
          "bench": ["--seconds=0.001"]}  # fmt: skip
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Terminal(Cases):
    seconds = 60.0
    label = ""

    def __init__(self, options):
        super().__init__(options)
        self.seeds = make((options.found / "seeds").resolve())
        self.home = folder_of_worker()
        os.chdir(self.home)
        (self.home / "folder").mkdir(exist_ok=True)
        (self.home / "text.txt").write_text("a quick brown fox jumps over the lazy dog\n" * 30)
        (self.home / "control.txt").write_text("\x1b[2Jred\x07 \u202etxt\u202c\n" * 50)
        (self.home / "empty.txt").write_text("")
        vocabulary = Vocabulary("ab \x1b\u202e")
        model = Sequential(Embedding(6, 2, seed=0), LSTM(2, 3, batch_first=True, seed=0), Linear(3, 6, seed=0))
        save(model, "writer.npz", {"vocabulary": vocabulary.to_json(), "\x1b]0;title\x07": "\x1b[2J\u202e"})
        np.savez(
            "names.npz",
            **{
                "\x1b[31mencoder.weight_ih_l0": np.zeros((4, 1), "f4"),
                "\x1b[31mencoder.weight_hh_l0": np.zeros((4, 1), "f4"),
            },
        )

    def run(self, rng, index):
        self.command = self.arguments(rng)
        streams, feed = self.streams(rng)
        self.label = f"{self.command[0]} {streams}"
        interrupt = rng.random() < 0.1
        status, text = self.process(streams, feed, rng.uniform(0.05, 1.5) if interrupt else None)
        if "Traceback (most recent call last)" in text or "Exception ignored" in text:
            last = [line for line in text.splitlines() if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit)\b", line)]
            raise Finding(f"traceback {last[-1][:60] if last else ''}", text[-1500:])
        if CONTROL.search(text):
            raise Finding(
                f"control character {CONTROL.search(text)[0]!r}",
                repr(text[max(CONTROL.search(text).start() - 200, 0) :][:600]),
            )
        if status not in (0, 1, 2, 120, 128 + signal.SIGINT, -signal.SIGINT, -signal.SIGPIPE):
            raise Finding(f"status {status}", text[-1500:])
        if status in (-signal.SIGINT, 130) and not interrupt:
            raise Finding("interrupted without Ctrl-C", text[-1500:])
        if status and not text and "err" not in streams and "2" not in streams:
            raise Finding(f"status {status} without a message", "")
        return f"{self.command[0]}: {status}"

    def arguments(self, rng):
        name = rng.choice([c for c in COMMANDS if c not in ("bench", "demo") or rng.random() < 0.2])
        options = COMMANDS[name]
        chosen = [argument for argument in options if argument.isupper() or rng.random() < 0.25]
        parts = list(ALWAYS.get(name, []))
        for argument in chosen:
            value = self.model(rng) if argument == "MODEL" else rng.choice(SHORT_RUNS.get(argument, VALUES))
            parts += [value] if argument.isupper() else [argument] if argument in FLAGS else [f"{argument}={value}"]
        if rng.random() < 0.1:
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(VALUES))
        if rng.random() < 0.05:
            name = rng.choice((*VALUES, name + "s", name[:-1]))
        return [part.replace("\0", "") for part in (name, *parts)]

    def model(self, rng):
        kind = rng.random()
        if kind < 0.4:
            return rng.choice(("writer.npz", "names.npz"))
        name = rng.choice(list(self.seeds))
        content = self.seeds[name]
        if kind > 0.6:
            content = damage(rng, content, name, lambda rng: self.seeds[rng.choice(list(self.seeds))])
        (self.home / name).write_bytes(content)
        return name if kind < 0.97 else rng.choice(VALUES).replace("\0", "")

    @staticmethod
    def streams(rng):
        return rng.choice(
            ("plain",) * 8 + ("full out", "full err", "closed out", "closed err", "closed in", "broken pipe out")
        ), None

    def process(self, streams, feed, interrupt):
        plain = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        shell = {"closed out": ">&-", "closed err": "2>&-", "closed in": "<&-", "full out": ">/dev/full",
            "full err": "2>/dev/full",
                 "broken pipe out": "| true"}.get(streams, "")  # fmt: skip
        environment = os.environ | {
            "COLUMNS": "80",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONIOENCODING": "utf-8:surrogateescape",
        }
        program = [sys.executable, "-X", "faulthandler", "-m", "lstm_cy", *self.command]
        command = ["sh", "-c", f'"$@" {shell}', "sh", *program] if shell else program
        process = subprocess.Popen(
            [os.fsencode(part) for part in command], env=environment, start_new_session=True, **plain
        )
        if interrupt:
            time.sleep(interrupt)
            os.killpg(process.pid, signal.SIGINT)
        try:
            out, err = process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)
            out, err = process.communicate()
            raise Finding(f"hang {self.command[0]}", err[-3000:].decode(errors="replace")) from None
        return process.returncode, (out + err).decode("utf-8", "replace")

    def keep(self, folder, name):
        text = json.dumps(self.command)
        if any(part in self.seeds for part in self.command):
            used = next(part for part in self.command if part in self.seeds)
            (folder / f"{name}-{used}").write_bytes((self.home / used).read_bytes())
        return text


if __name__ == "__main__":
    main(Terminal, __doc__)
