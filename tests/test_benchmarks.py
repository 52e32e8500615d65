"""The benchmarks run, and refuse wrong results. Nothing here asserts how long anything takes."""

import importlib
import importlib.util
import inspect
import json
import math
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("time_", "timeraw_", "peakmem_", "track_")
BENCHMARKS = {
    "forward": {
        "Forward.time_forward",
        "Forward.track_speedup_over_numpy",
        "ForwardMemory.peakmem_forward",
    },
    "step": {
        "Step.time_step",
        "Step.track_speedup_over_numpy",
        "Stepping.time_step",
        "Stepping.time_step_into",
        "Stepping.track_speedup_over_numpy",
    },
    "train": {
        "Train.time_forward_and_backward",
        "Train.track_speedup_over_numpy",
        "TrainMemory.peakmem_forward_and_backward",
    },
    "load": {
        "Import.timeraw_import",
        "track_import_over_numpy",
        "Construct.time_construct",
        "Construct.time_load_state_dict",
        "Files.time_save",
        "Files.time_load",
    },
}
EVERY_BENCHMARK = [(module, name) for module, names in BENCHMARKS.items() for name in sorted(names)]


@pytest.fixture(scope="module")
def benchmarks():
    """Import a module of the benchmarks by name; as asv does, without their parent folder on the path."""
    folder = ROOT / "benchmarks"
    spec = importlib.util.spec_from_file_location(
        "benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["benchmarks"] = package
    with mock.patch.dict(os.environ, OPENBLAS_NUM_THREADS="1"):
        spec.loader.exec_module(package)
        yield lambda name: importlib.import_module(f"benchmarks.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


@pytest.fixture
def common(benchmarks):
    """What they share, its memory of cases checked before wiped out."""
    module = benchmarks("common")
    module.checked.cache_clear()
    return module


def found_in(module):
    """The names of a module's benchmarks, by asv's rule."""
    for name, member in vars(module).items():
        if inspect.isclass(member):
            yield from (f"{name}.{method}" for method in vars(member) if method.startswith(KINDS))
        elif callable(member) and name.startswith(KINDS):
            yield name


def smallest(benchmark):
    """The arguments that asv would call a benchmark class with first."""
    assert len(benchmark.params) == len(benchmark.param_names)
    return [values[0] for values in benchmark.params]


@pytest.mark.parametrize("module", BENCHMARKS)
def test_benchmarks_are_found(benchmarks, module):
    assert set(found_in(benchmarks(module))) == BENCHMARKS[module]


def test_scripts_and_shared_code_hold_no_benchmark(benchmarks):
    for module in ("common", "compare_numpy", "disassemble"):
        assert not set(found_in(benchmarks(module)))


@pytest.mark.parametrize(("module", "name"), EVERY_BENCHMARK)
def test_benchmark_runs(benchmarks, module, name):
    owner, _, method = name.rpartition(".")
    holder = getattr(benchmarks(module), owner)() if owner else benchmarks(module)
    arguments = smallest(holder) if owner else []
    function = getattr(holder, method)
    if hasattr(holder, "setup"):
        holder.setup(*arguments)
    result = function(*arguments)
    if method.startswith("track_"):
        assert function.unit == "x"
        assert 0 < result < math.inf
    if method.startswith("timeraw_"):
        compile(result, name, "exec")
    if hasattr(holder, "teardown"):
        holder.teardown(*arguments)


def test_more_than_one_thread_is_refused(benchmarks, monkeypatch):
    common = benchmarks("common")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    with pytest.raises(RuntimeError, match="OPENBLAS_NUM_THREADS=1"):
        runpy.run_path(common.__file__)


def test_setup_is_made_once(common):
    first, second = (common.checked(common.Inference, "1x2x3x4") for _ in range(2))
    assert first is second


@pytest.mark.parametrize("shape", ("1x1x3x4", "3x5x2x7", "2x3x4x5 bidirectional"))
@pytest.mark.parametrize("kind", ("Inference", "Training"))
def test_shapes_are_as_they_say(common, kind, shape):
    case = getattr(common, kind)(shape)
    results = case.run()
    B, T, inputs, H = map(int, shape.split()[0].split("x"))
    D = 1 + shape.endswith("bidirectional")
    assert case.x.shape == (T, B, inputs)
    assert results["y"].shape == (T, B, D * H)
    if kind == "Training":
        assert set(results) == {"y", "x", "h0", "c0", *case.lstm.parameters}
    common.check(shape, results, case.reference())


@pytest.mark.parametrize("shape", ("1x4x3x4", "1x4x3x4 bidirectional"))
@pytest.mark.parametrize(("kind", "name"), (("Inference", "y"), ("Inference", "c_n"), ("Training", "weight_hh_l0")))
def test_wrong_result_is_refused(common, monkeypatch, kind, name, shape):
    kind = getattr(common, kind)
    right = kind.run

    def wrong(case):
        results = right(case)
        results[name].flat[-1] += 1e-3
        return results

    monkeypatch.setattr(kind, "run", wrong)
    with pytest.raises(ArithmeticError, match=f"{shape}: {name} is .* off"):
        common.checked(kind, shape)


@pytest.mark.parametrize("shape", ("1x5x3x4", "3x5x2x7"))
def test_steppers_are_checked_against_numpy_steps(benchmarks, common, monkeypatch, shape):
    Streaming = benchmarks("step").Streaming
    case = common.checked(Streaming, shape)
    common.check(shape, case.reference(), common.Inference(shape).reference())
    monkeypatch.setattr(Streaming, "reference", lambda case: {**case.run(), "c_n": case.state[1] + 1})
    with pytest.raises(ArithmeticError, match="c_n is .* off"):
        common.checked.__wrapped__(Streaming, shape)


def test_check_refuses_nan_and_other_shapes_and_names(common):
    ones = {"y": np.ones((2, 3))}
    common.check("this", ones, ones)
    for got, message in (
        ({"y": np.full((2, 3), np.nan)}, "y is nan off"),
        ({"y": np.ones((1, 3))}, r"y has shape \(1, 3\), expected \(2, 3\)"),
        ({"x": np.ones((2, 3))}, "got x; expected y"),
    ):
        with pytest.raises(ArithmeticError, match=message):
            common.check("this", got, ones)


def test_medians_take_turns(common):
    calls = []
    medians = common.medians([lambda: calls.append("a"), lambda: calls.append("b")], seconds=0, least=3)
    assert "".join(calls) == "ab" * 4
    assert len(medians) == 2


def test_asv_configuration():
    configuration = json.loads((ROOT / "asv.conf.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert configuration["version"] == 1
    assert configuration["project"] == project["name"]
    assert configuration["repo"] == "."
    assert (ROOT / configuration["benchmark_dir"] / "__init__.py").is_file()
    assert all(configuration[name].startswith(".asv/") for name in ("env_dir", "results_dir", "html_dir"))
    assert configuration["matrix"]["env_nobuild"] == {"OPENBLAS_NUM_THREADS": ["1"]}
    required = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}
    assert set(configuration["matrix"]["req"]) == required
    (build,) = configuration["build_command"]
    assert "pip wheel --no-deps -w {build_cache_dir} {build_dir}" in build
    (install,) = configuration["install_command"]
    assert install.endswith("{wheel_file}")


def test_compare_numpy_prints_its_tables():
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}  # which the script is to overrule
    shapes = ["1x2x3x4", "2x3x3x5 bidirectional"]
    done = subprocess.run(
        [sys.executable, "benchmarks/compare_numpy.py", "--seconds", "0", "--shapes", *shapes],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    header, *lines = done.stdout.splitlines()
    assert "threads 1, " in header
    assert re.search(r"BLAS threads (1|unknown)", header)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows] == ["BxTxIxH", *shapes] * 2
    peers = ["NumPy"] + ["PyTorch"] * bool(importlib.util.find_spec("torch"))
    for row in rows:
        if row[0] == "BxTxIxH":
            assert row[1:] == ["lstm_cy", *peers, *(f"{peer} / lstm_cy" for peer in peers)]
        else:
            assert len(row) == 2 + 2 * len(peers)
            assert all(float(cell) > 0 for cell in row[1:])
    errors = dict(re.findall(r"^- (float\d+): .* (\S+)$", done.stdout, re.MULTILINE))
    assert 0 < float(errors["float32"]) <= 2e-6
    assert 0 < float(errors["float64"]) <= 1e-13
