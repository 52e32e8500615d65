"""The command line: info and bench, help, errors, Ctrl-C and closed pipes."""

import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from running import command, failure, finished

import lstm_cy.__main__
from lstm_cy import bench, cli
from lstm_cy.cli.arguments import make_parser, parsed


def test_info(tmp_path):
    status, out, err = finished("info", cwd=tmp_path)
    assert (status, err) == (0, "")
    shown = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert shown["lstm_cy"] == lstm_cy.__version__
    assert shown["NumPy"] == np.__version__


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("demo", "train", "generate", "convert", "inspect", "bench", "info"))


def test_without_arguments_the_help_is_shown(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert out == capsys.readouterr().out


def test_the_help_loads_no_command(tmp_path):
    code = "import sys; from lstm_cy import cli\ntry: cli.main(['--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True, text=True, cwd=tmp_path)
    loaded = {name for name in done.stdout.splitlines()[-1].split() if name.startswith("lstm_cy.")}
    assert {name for name in loaded if name.startswith("lstm_cy.cli.")} == {"lstm_cy.cli.arguments"}
    assert not loaded & {"lstm_cy.layers", "lstm_cy.training", "lstm_cy.weights", "lstm_cy.decoding"}


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"lstm-cy {lstm_cy.__version__}\n"


@pytest.mark.parametrize("name", make_parser()[1])
def test_the_examples_in_the_help_of_a_command_are_accepted(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    out = capsys.readouterr().out
    assert "None" not in out
    examples = out.partition("examples:")[2].strip().splitlines()
    assert examples
    for example in examples:
        arguments = shlex.split(example.rpartition("lstm-cy ")[2])
        assert parsed(arguments).parser.prog == f"lstm-cy {name}", example


def test_the_help_shows_defaults_that_are_not_empty(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "seed of all random choices in training (default: 0)" in out
    assert "continue from the checkpoint if it exists examples" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paint"], "lstm-cy: error: no command 'paint'; did you mean explain?"),
        (["tarin", "--hidden=3"], "lstm-cy: error: no command 'tarin'; did you mean train?"),
        (["xyz\x1b[31m"], "lstm-cy: error: no command 'xyz\\x1b[31m'; see --help"),
        (["--verson"], "lstm-cy: error: unrecognized arguments: --verson; did you mean --version?"),
        (["--"], "lstm-cy: error: unrecognized arguments: --; see --help"),
        (["train", "--hiden", "3"], "lstm-cy train: error: unrecognized arguments: --hiden 3; did you mean --hidden?"),
        (
            ["train", "--hidden=0"],
            "lstm-cy train: error: argument --hidden: expected an integer of",
        ),
        (["train", "--hidden=big"], "argument --hidden: expected an integer of at least 1, got 'big'"),
        (["train", "--lr=0"], "argument --lr: expected a number above 0, got '0'"),
        (["train", "--lr=nan"], "argument --lr: expected a number above 0, got 'nan'"),
        (["train", "--dropout=1"], "argument --dropout: expected a number in [0, 1), got '1'"),
        (["train", "--seed=-1"], "argument --seed: expected an integer of at least 0"),
        (["generate"], "lstm-cy generate: error: the following arguments are required: MODEL"),
        (
            ["generate", "m.npz", "--temperature=-1"],
            "argument --temperature: expected a number of",
        ),
        (["generate", "m.npz", "--colour=red"], "unrecognized arguments: --colour=red"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "missing.npz"], "No such file or directory: 'missing.npz'"),
        (["generate", "text.txt"], "text.txt: its first bytes, b'"),
        (["generate", "damaged.npz"], "damaged.npz: truncated, or not an .npz file"),
        (["train", "--text=missing.txt"], "No such file or directory: 'missing.txt'"),
        (["train", "--text=latin1.txt"], "latin1.txt: not UTF-8 text: "),
        (["train", "--text=empty.txt"], "empty.txt: the file is empty"),
        (["train", "--text=short.txt"], "the text: 5 characters are too few for batches of 32"),
        (["train", "--text=text.txt", "--resume", "--output=m.npz"], "resume: expected a checkpoint"),
        (["demo", "--text=missing.txt"], "No such file or directory: 'missing.txt'"),
    ],
)
def test_an_error_is_one_line_and_status_1(arguments, message, tmp_path, text, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("damaged.npz").write_bytes(b"PK")
    Path("latin1.txt").write_bytes(b"\xe4")
    Path("empty.txt").touch()
    Path("short.txt").write_text("short")
    assert message in failure(arguments, capsys)


def test_an_error_in_a_separate_process(tmp_path):
    status, out, err = finished("generate", "missing.npz", cwd=tmp_path)
    assert (status, out) == (1, "")
    assert err == "lstm-cy: error: [Errno 2] No such file or directory: 'missing.npz'\n"
    assert finished("generate", cwd=tmp_path)[0] == 2


def test_ctrl_c_ends_with_one_line_and_130(train, tmp_path):
    path, _ = train("--epochs=1")
    process = command("generate", path, "--length", 10**9, cwd=tmp_path)
    try:
        process.stdout.read(100)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == b"lstm-cy: interrupted\n"


def test_ctrl_c_during_the_imports(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    assert lstm_cy.__main__.main() == 130
    assert capsys.readouterr().err == "lstm-cy: interrupted\n"


def test_a_closed_pipe_ends_generate_without_a_message(train, tmp_path):
    path, _ = train()
    process = command("generate", path, "--length", 10**9, cwd=tmp_path)
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


def test_bench_shows_every_shape_and_library(capfd, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setattr(bench, "SHAPES", {"forward": ("2x5x3x4",), "step": ("1x1x3x4",), "training": ("2x5x3x4",)})
    assert cli.main(["bench", "--seconds=0.01"]) == 0
    out = capfd.readouterr().out
    names = [name for name in bench.installed() if name != "lstm_cy"]
    assert "NumPy" in names
    header, *rows = [line for line in out.splitlines() if line.startswith((" " * 10, *bench.SHAPES))]
    assert all(name in header for name in names)
    assert [row.split()[:2] for row in rows] == [["forward", "2x5x3x4"], ["step", "1x1x3x4"], ["training", "2x5x3x4"]]
    assert all(row.count("x)") >= len(names) - 1 for row in rows)  # ONNX Runtime does not train


def test_bench_restarts_with_one_blas_thread(monkeypatch):
    seen = []

    def run(command, env):
        seen.append((command, env["OPENBLAS_NUM_THREADS"]))
        return SimpleNamespace(returncode=3)

    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr("lstm_cy.cli.machine.subprocess", SimpleNamespace(run=run))
    with pytest.raises(SystemExit, match="3"):
        cli.main(["bench", "--seconds=0.5"])
    assert seen == [([sys.executable, "-m", "lstm_cy", "bench", "--seconds", "0.5"], "1")]
