"""How the tests run commands: in this process, and in processes of their own."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import lstm_cy.__main__
from lstm_cy import cli

TEXT = "".join(f"{n} green bottles, standing on the wall\n" for n in range(1000))
SMALL = ["--hidden=12", "--embedding=5", "--batch-size=8", "--bptt=16", "--epochs=2", "--lr=0.01"]


def command(*arguments, cwd, **keywords):
    """Start `python -m lstm_cy` in a separate process, in a folder without the sources."""
    environment = os.environ | {"PYTHONPATH": str(Path(lstm_cy.__file__).parents[1])}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", **keywords.pop("environment", {})}
    line = [sys.executable, "-m", "lstm_cy", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | keywords
    return subprocess.Popen(line, cwd=cwd, env=environment, **streams)


def finished(*arguments, cwd, **keywords):
    """Run a command to its end; return its status, output and errors."""
    process = command(*arguments, cwd=cwd, **keywords)
    out, err = process.communicate(timeout=120)
    return process.returncode, out.decode(), err.decode()


def failure(arguments, capsys):
    """Run a command that fails with status 1 in this process; return its line on standard error."""
    assert cli.main(list(map(str, arguments))) == 1
    err = capsys.readouterr().err
    assert err.startswith("lstm-cy: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


def ticking():
    """Return a clock that advances by a second per call, with the real clock for the table."""
    return SimpleNamespace(monotonic=itertools.count(step=1.0).__next__, perf_counter=time.perf_counter)
