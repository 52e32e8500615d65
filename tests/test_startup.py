"""benchmarks/startup.py: every peer gives the right result. No test asserts a duration."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def startup():
    """The script, as part of its package."""
    spec = importlib.util.spec_from_file_location(
        "benchmarks", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ, OPENBLAS_NUM_THREADS="1"):
        yield importlib.import_module("benchmarks.startup")
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


def test_every_installed_peer_gives_the_right_result(startup, capsys):
    others = [name for name in ("torch", "onnxruntime") if importlib.util.find_spec(name)]
    others = others if importlib.util.find_spec("onnx") else [name for name in others if name != "onnxruntime"]
    found = startup.main(["--rounds=1", "--peers", *others])
    titles = [startup.PEERS[name].title for name in ("lstm_cy", "numpy", *others)]
    assert list(found["start"]) == titles
    assert "import numpy" in found["import"]
    printed = capsys.readouterr().out
    for title in titles:
        assert f"\n| {title} | " in printed
    if Path("/proc/self/smaps_rollup").exists():
        for started in found["start"].values():
            assert 2**20 < started.own <= started.proportional <= started.peak


def test_another_result_is_refused(startup, tmp_path):
    startup.write_files(tmp_path, set())
    program, expected = startup.NUMPY + startup.RUN, startup.in_double()
    startup.start(program, tmp_path, expected)
    with pytest.raises(ArithmeticError, match="h is .* off"):
        startup.start(program.replace("np.tanh(c)", "c"), tmp_path, expected)
    with pytest.raises(ArithmeticError, match="h is .* off"):
        startup.start(program, tmp_path, expected + np.array([[0.0], [0.01]]))


def test_a_process_that_ends_early_is_an_error(startup, tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)ended before it wrote.*No such file"):
        startup.start(startup.NUMPY + startup.RUN, tmp_path, startup.in_double())
