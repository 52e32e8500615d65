"""The benchmarks run and refuse wrong results. No test asserts a duration."""

import importlib
import importlib.util
import inspect
import json
import math
import os
import platform
import re
import runpy
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import lstm_cy
from lstm_cy import LSTM, Embedding, Linear, Sequential, config

ROOT = Path(__file__).resolve().parents[1]
PREFIXES = ("time_", "timeraw_", "peakmem_", "track_")
BENCHMARKS = {
    "forward": {
        "Forward.time_forward",
        "Forward.track_speedup_over_numpy",
        "ForwardMemory.peakmem_forward",
        "Ragged.time_forward",
        "Ragged.track_share_of_padded",
        "Arriving.track_speedup_by_two_threads",
        "Narrow.time_forward",
        "Narrow.track_speedup_over_float32",
        "Stacks.track_speedup_by_two_threads",
        "Variants.time_forward",
        "Variants.track_time_of_plain",
        "track_slowdown_by_denormals",
        "track_memory_drift",
    },
    "step": {
        "Step.time_step",
        "Step.track_speedup_over_numpy",
        "Stepping.time_step",
        "Stepping.time_step_into",
        "Stepping.track_speedup_over_numpy",
    },
    "streams": {
        "Pool.time_step",
        "Pool.track_share_of_batch",
        "Pool.track_speedup_over_one_by_one",
        "Callers.track_calls_over_one_thread",
        "Callers.track_steps_over_one_thread",
    },
    "train": {
        "Train.time_forward_and_backward",
        "Train.track_speedup_over_numpy",
        "Step.time_step",
        "TrainMemory.peakmem_forward_and_backward",
    },
    "torch_module": {
        "TorchModule.time_call",
        "TorchModule.track_speedup_over_pytorch",
        "TorchStep.time_call",
        "TorchStep.track_speedup_over_pytorch",
    },
    "decode": {"CtcBeam.time_search"},
    "load": {
        "Import.timeraw_import",
        "track_import_over_numpy",
        "track_installed_bytes",
        "Construct.time_construct",
        "Construct.time_load_state_dict",
        "Files.time_save",
        "Files.time_load",
    },
}
EVERY_BENCHMARK = [(module, name) for module, names in BENCHMARKS.items() for name in sorted(names)]


@pytest.fixture(scope="module")
def benchmarks():
    """Return an import function for modules of the benchmarks, with their parent not on the path, as in asv."""
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
    """Return the shared module of the benchmarks, with an empty cache of checked cases."""
    module = benchmarks("common")
    module.checked.cache_clear()
    return module


def found_in(module):
    """Yield the names of a module's benchmarks, by asv's rule."""
    for name, member in vars(module).items():
        if inspect.isclass(member):
            yield from (f"{name}.{method}" for method in vars(member) if method.startswith(PREFIXES))
        elif callable(member) and name.startswith(PREFIXES):
            yield name


def first_arguments(benchmark):
    """Return the first arguments with which asv calls a benchmark class."""
    assert len(benchmark.params) == len(benchmark.param_names)
    return [values[0] for values in benchmark.params]


@pytest.mark.parametrize("module", BENCHMARKS)
def test_benchmarks_are_found(benchmarks, module):
    assert set(found_in(benchmarks(module))) == BENCHMARKS[module]


def test_scripts_and_shared_code_contain_no_benchmark(benchmarks):
    modules = (
        "common",
        "compare",
        "disassemble",
        "generation",
        "limits",
        "machine",
        "pages",
        "peers",
        "scaling",
        "worker",
    )
    for module in modules:
        assert not set(found_in(benchmarks(module)))


def test_every_file_is_imported_without_extras():
    """As asv does to find benchmarks, in an environment that has little more than NumPy and SciPy."""
    extras = (
        "torch",
        "onnx",
        "onnxruntime",
        "openvino",
        "keras",
        "tensorflow",
        "jax",
        "pandas",
        "sklearn",
        "matplotlib",
    )
    names = {file.stem for file in (ROOT / "benchmarks").glob("*.py")} - {"__init__"}
    if not importlib.util.find_spec("asv"):
        names -= {"pages"}  # a plugin of asv's own
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({extras}))
for name in {sorted(names)}:
    importlib.import_module("benchmarks." + name)
"""
    path = os.pathsep.join((str(Path(lstm_cy.__file__).parents[1]), str(ROOT)))  # the tested library before the sources
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("module", "name"), EVERY_BENCHMARK)
def test_benchmark_runs(benchmarks, module, name):
    if module == "torch_module":
        pytest.importorskip("torch")
    owner, _, method = name.rpartition(".")
    holder = getattr(benchmarks(module), owner)() if owner else benchmarks(module)
    arguments = first_arguments(holder) if owner else []
    function = getattr(holder, method)
    if hasattr(holder, "setup"):
        holder.setup(*arguments)
    result = function(*arguments)
    if method.startswith("track_"):
        assert function.unit
        assert 0 <= result < math.inf
    if method.startswith("timeraw_"):
        compile(result, name, "exec")
    if hasattr(holder, "teardown"):
        holder.teardown(*arguments)


def test_versions_without_a_feature_are_skipped(benchmarks, monkeypatch):
    """For asv, NotImplementedError in setup means "n/a", and any other error is a failure."""

    class Old:
        def __init__(self, input_size, hidden_size, *, seed=None, bidirectional=False):
            pass

        def __call__(self, x, state=None, *, lengths=None):
            pass

    forward, step = benchmarks("forward"), benchmarks("step")
    shape, options = forward.Variants.params
    for option in options:
        forward.Variants().setup(shape[0], option)  # none of them is skipped today
    for module in (forward, step):
        monkeypatch.setattr(module, "LSTM", Old)
    for option, lacking in (("peepholes", "peepholes"), ("projection", "proj_size"), ("mask", "mask")):
        with pytest.raises(NotImplementedError, match=f"of this version takes no {lacking}$"):
            forward.Variants().setup(shape[0], option)
    forward.Variants().setup(shape[0], "nothing")
    with pytest.raises(NotImplementedError, match="no Stepper"):
        step.Stepping().setup("1x1x3x4")


def test_speedups_have_titles(benchmarks):
    """The titles identify the speed-ups on the pages."""
    found = {}
    for module, names in BENCHMARKS.items():
        for name in names:
            owner, _, method = name.rpartition(".")
            if method == "track_speedup_over_numpy":
                function = getattr(getattr(benchmarks(module), owner), method)
                found[name] = function.pretty_name
                assert function.unit == "x"
    assert len(set(found.values())) == len(found) == 4
    assert all(title.startswith("Speed-up over NumPy: ") for title in found.values())


def test_more_than_one_thread_is_refused(benchmarks, monkeypatch):
    common = benchmarks("common")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    with pytest.raises(RuntimeError, match="OPENBLAS_NUM_THREADS=1"):
        runpy.run_path(common.__file__)


def test_a_checked_case_is_made_once(common):
    first, second = (common.checked(common.Inference, "1x2x3x4") for _ in range(2))
    assert first is second


@pytest.mark.parametrize("shape", ("1x1x3x4", "3x5x2x7", "2x3x4x5 bidirectional", "2x3x4x5 2 layers bidirectional"))
@pytest.mark.parametrize("kind", ("Inference", "Training"))
def test_arrays_have_the_sizes_of_the_shape(common, kind, shape):
    case = getattr(common, kind)(shape)
    results = case.run()
    B, T, inputs, H = map(int, shape.split()[0].split("x"))
    D = 1 + shape.endswith("bidirectional")
    L = 1 + ("2 layers" in shape)
    assert case.lstm.num_layers == L
    assert case.state[0].shape == (L * D, B, H)
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


@pytest.mark.parametrize("text", ("1x2x3", "1x2x3x4 bidirectional 2 layers", "1x2x3x4 layers", "axbxcxd", "1x2x3x-4"))
def test_invalid_shapes_are_refused(common, text):
    with pytest.raises(ValueError, match=f"shape: expected .*, got {text!r}"):
        common.Shape.of(text)


def test_medians_alternate_the_calls(common):
    calls = []
    medians = common.medians([lambda: calls.append("a"), lambda: calls.append("b")], seconds=0, least=3)
    assert "".join(calls) == "ab" * 4
    assert len(medians) == 2


def test_turns_repeat_the_arguments(common, monkeypatch):
    monkeypatch.setattr(common, "MOST_CALLS", 4)
    calls = []
    times = common.turns([(calls.append, [(1,), (2,), (3,)]), (calls.append, [("a",)])], 0, least=2, burst=1)
    first, then = [1, "a"], [1, 1, 2, 3, 1, *"aaaaa"]  # the first call of a turn runs twice: once to fill the caches
    assert calls == first + 2 * then
    assert [len(taken) for taken in times] == [8, 8]


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
    (plugin,) = configuration["plugins"]
    assert plugin.startswith(".")
    assert ROOT.joinpath(*plugin[1:].split(".")).with_suffix(".py").is_file()
    # for these larger values are better, which asv would report as a regression
    (excluded,) = configuration["regressions_first_commits"].items()
    names = {f"{module}.{name}" for module, name in EVERY_BENCHMARK}
    assert {name for name in names if re.match(excluded[0], name)} == {name for name in names if "speedup" in name}
    assert excluded[1] is None


KINDS = ("inference", "streaming", "training")
PEERS = {
    **dict.fromkeys(("lstm_cy", "numpy", "torch", "tensorflow", "jax"), KINDS),
    **dict.fromkeys(("onnxruntime", "openvino", "openvino default", "ncnn", "tract", "mnn"), KINDS[:2]),
    **dict.fromkeys(("lstm_cy bf16", "torch bf16"), KINDS[:2]),
    **dict.fromkeys(("lstm_cy int8", "torch int8", "onnxruntime int8"), KINDS[:1]),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in PEERS.items() for kind in kinds])
def test_peer_has_the_same_weights(benchmarks, name, kind):
    compare, peers = benchmarks("compare"), benchmarks("peers")
    if not peers.installed(name):
        pytest.skip(f"{name} is not installed")
    if name in ("lstm_cy bf16", "lstm_cy int8") and not hasattr(LSTM, "quantize"):
        pytest.skip("LSTM has no quantize")
    rows = 1 if name == "ncnn" else 3
    with compare.Worker([name], 1) as worker:
        precision = worker.ask("precisions")[name]
        for shape in ("1x5x3x4", f"{rows}x7x5x6 2 layers", f"{rows}x7x5x6 2 layers bidirectional", "1x33x1x17"):
            if kind == "streaming" and "bidirectional" in shape:
                continue
            found = worker.ask("prepare", kind, shape)
            assert found[name].keys() == {"error"}, found
            assert found[name]["error"] <= (1e-5 if precision == "float32" else 0.03)
        times = worker.ask("time", 0, 0)
        assert all(time > 0 for time in times[name])


def test_all_kinds_of_all_peers_are_tested(benchmarks):
    peers = benchmarks("peers")
    supported = {name: tuple(kind for kind in KINDS if getattr(peer, kind)) for name, peer in peers.EVERY.items()}
    assert supported == PEERS
    precisions = {name: peer.precision for name, peer in peers.EVERY.items() if name not in peers.PEERS}
    assert precisions == {name: name.split()[1] for name in precisions}
    assert {peer.precision for peer in peers.PEERS.values()} == {"float32"}


def test_peers_without_a_shape_say_so(benchmarks):
    """ncnn's layer takes one row, and tract one thread."""
    compare, peers = benchmarks("compare"), benchmarks("peers")
    for name, threads, message in (("ncnn", 1, "takes one row"), ("tract", 2, "runs on one thread")):
        if peers.installed(name):
            with compare.Worker([name], threads) as worker:
                for kind in KINDS[:2]:
                    assert message in worker.ask("prepare", kind, "2x5x3x4")[name]["refused"]


def test_openvino_says_which_precision_it_chooses(benchmarks):
    pytest.importorskip("openvino")
    peer = benchmarks("peers").OpenVINODefault(1)
    assert peer.precision in ("float32", "bf16", "float16")
    if "avx512bf16" not in Path("/proc/cpuinfo").read_text().replace("_", ""):
        assert peer.precision == "float32"


def test_the_faster_form_is_timed(benchmarks):
    """One that raises is left out; a stream begins at its first state."""
    peers, common = benchmarks("peers"), benchmarks("common")
    made = []

    def form(name, seconds):
        def method(case):
            def call():
                if seconds is None:
                    raise RuntimeError(name)
                time.sleep(seconds)

            made.append(name)
            return peers.Run(call, [()], lambda: {"y": name})

        return method

    slow, fast, broken = form("slow", 0.01), form("fast", 0.0), form("broken", None)
    for forms in ((slow, fast, broken), (broken, fast, slow)):
        made.clear()
        assert peers.fastest(forms, common.Inference("1x2x3x4")).results() == {"y": "fast"}
        assert sorted(made) == ["broken", "fast", "fast", "slow"]
        assert made[-1] == "fast"
    with pytest.raises(RuntimeError, match="broken"):
        peers.fastest((broken,), None)


def test_columns_compare_equal_precisions(benchmarks):
    """A peer's bf16 is compared with ours in bf16; a default that is float32 counts as float32."""
    compare = benchmarks("compare")
    precisions = {"lstm_cy": "float32", "torch": "float32", "openvino default": "bf16", "lstm_cy bf16": "bf16"}
    precisions["torch bf16"] = "bf16"
    times = {"lstm_cy": [4.0], "torch": [8.0], "openvino default": [3.0], "lstm_cy bf16": [2.0], "torch bf16": [6.0]}

    class Worker:
        threads = 1

        def ask(self, request, *_):
            return {name: {"error": 0.0} for name in times} if request == "prepare" else times

    options = mock.Mock(seconds=0, pause=0, busy=False)

    def columns():
        row = compare.measure("inference", "1x2x3x4", [Worker()], precisions, options)
        row |= {"limit": None, "precisions": precisions}
        row["headings"] = {name: compare.heading(name, precisions[name], None) for name in times}
        ratios = {name: found["ratio"] for name, found in row["peers"].items()}
        return ratios, compare.ratios(row), list(row["headings"].values())

    ratios, found, headings = columns()
    assert ratios == {
        "lstm_cy": 1.0,
        "torch": 2.0,
        "openvino default": 1.5,
        "lstm_cy bf16": 0.5,
        "torch bf16": 3.0,
    }
    assert found == {
        "best peer / lstm_cy, float32": 2.0,
        "best peer / lstm_cy, bf16": 1.5,
        "float32 / bf16, lstm_cy": 2.0,
    }
    assert headings == [
        "lstm_cy float32",
        "PyTorch float32",
        "OpenVINO bf16 (default)",
        "lstm_cy bf16",
        "PyTorch bf16",
    ]
    precisions["openvino default"] = "float32"
    ratios, found, headings = columns()
    assert ratios["openvino default"] == 0.75
    assert found["best peer / lstm_cy, float32"] == 0.75
    assert found["best peer / lstm_cy, bf16"] == 3.0
    assert headings[2] == "OpenVINO float32 (default)"


def test_peers_are_held_to_an_instruction_set(benchmarks):
    compare, peers = benchmarks("compare"), benchmarks("peers")
    assert peers.held_to("AVX2")["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    for name, peer in peers.EVERY.items():
        held = compare.heading(name, "float32", "AVX2").endswith("AVX2)")
        assert held == (peer.title in ("PyTorch", "OpenVINO"))
    assert compare.heading("openvino default", "bf16", "AVX512_CORE") == "OpenVINO bf16 (default, AVX512_CORE)"
    with compare.Worker(["lstm_cy"], 1, "AVX2") as worker:
        assert worker.ask("precisions") == {
            "lstm_cy": "float32"
        }  # an answer: the new program has its environment by now
        environment = Path(f"/proc/{worker.process.pid}/environ").read_bytes().split(b"\0")
        assert b"ONEDNN_MAX_CPU_ISA=AVX2" in environment


def test_figures_of_amplifiers_are_per_sample(benchmarks):
    figure = benchmarks("compare").figure
    assert figure(48e-6, {"kind": "amplifier", "shape": "1x48000x1x8"}) == "1.00"
    assert figure(48e-6, {"kind": "amplifier", "shape": "2x12000x1x8"}) == "2.00"
    assert figure(1.234e-6, {"kind": "amplifier-step", "shape": "1x1x1x8"}) == "1234"
    assert figure(48e-6, {"kind": "inference", "shape": "1x48000x1x8"}) == "48.0"


def test_unusual_shapes_are_in_no_table(benchmarks):
    common, worker = benchmarks("common"), benchmarks("worker")
    unusual = [common.Shape.of(shape) for shape in common.UNUSUAL_SHAPES]
    assert not set(common.UNUSUAL_SHAPES) & {shape for kind in worker.KINDS.values() for shape in kind.shapes}
    assert {shape.hidden for shape in unusual} == {48, 50, 96, 200, 300}
    assert {shape.inputs for shape in unusual} >= {1, 7, 80, 257}
    assert {shape.batch for shape in unusual} == {1, 2, 3, 5, 24}
    options = benchmarks("compare").arguments(["--shapes", "unusual", "1x2x3x4", "--peers", "numpy"])
    assert options.shapes == [*common.UNUSUAL_SHAPES, "1x2x3x4"]


CPUINFO = "processor\t: 0\nvendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\nmodel name\t: {}\n\nprocessor\t: 1\n"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    (
        (CPUINFO.format("AuthenticAMD", 23, 49, "AMD EPYC 7742"), "AMD EPYC 7742 Zen 2"),
        (CPUINFO.format("AuthenticAMD", 23, 1, "AMD EPYC 7601"), "AMD EPYC 7601 Zen"),
        (CPUINFO.format("AuthenticAMD", 25, 1, "AMD EPYC"), "AMD EPYC Zen 3"),
        (CPUINFO.format("AuthenticAMD", 25, 17, "AMD EPYC"), "AMD EPYC Zen 4"),
        (CPUINFO.format("AuthenticAMD", 26, 2, "AMD EPYC"), "AMD EPYC Zen 5"),
        (CPUINFO.format("AuthenticAMD", 99, 2, "AMD EPYC"), "AMD EPYC"),
        (CPUINFO.format("GenuineIntel", 6, 143, "Intel(R) Xeon(R) CPU @ 2.00GHz"), "Intel Xeon"),
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n", f"{platform.machine()} 0x41-0xd40"),
    ),
)
def test_machines_are_named_by_their_processor(benchmarks, tmp_path, monkeypatch, cpuinfo, expected):
    machine = benchmarks("machine")
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)
    monkeypatch.setattr(machine, "CPUINFO", path)
    assert machine.name() == f"{expected} {config.instruction_set()}"
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "missing")
    assert machine.name().endswith(f" {config.instruction_set()}")


def test_gates_in_another_order(benchmarks):
    rows = np.array([["i0"], ["i1"], ["f0"], ["f1"], ["g0"], ["g1"], ["o0"], ["o1"]])
    other = benchmarks("peers").split(rows, "iofg")
    assert other[:, 0].tolist() == ["i0", "i1", "o0", "o1", "f0", "f1", "g0", "g1"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_with_wrong_results_is_not_timed(benchmarks, kind):
    peers, worker = benchmarks("peers"), benchmarks("worker")

    class Wrong(peers.NumPy):
        def wrong(self, case):
            run = getattr(super(), kind)(case)

            def results():
                found = run.results()
                found["y"].flat[-1] += 1e-3
                return found

            return run._replace(results=results)

        inference = streaming = training = wrong

    class Broken(peers.NumPy):
        def broken(self, case):
            raise OSError("no such library")

        inference = streaming = training = broken

    runs = {}
    answers = {
        peer.__name__: worker.prepared(peer.__name__, peer(1), runs, kind, "2x3x4x5")
        for peer in (peers.NumPy, Wrong, Broken)
    }
    assert list(runs) == ["NumPy"]
    assert answers["NumPy"]["error"] <= 1e-5
    assert re.match("ArithmeticError: NumPy: y is .* off", answers["Wrong"]["refused"])
    assert answers["Broken"]["refused"] == "OSError: no such library"


def test_a_stream_keeps_its_state(benchmarks):
    """The same input gives a different result at the second step."""
    peers, worker = benchmarks("peers"), benchmarks("worker")
    for peer in (peers.Ours, peers.NumPy):
        runs = {}
        assert worker.prepared("it", peer(1), runs, "streaming", "2x1x4x5")["error"] <= 1e-5
        first, second = (np.array(runs["it"].call(*runs["it"].arguments[0])) for _ in range(2))
        assert np.abs(first - second).max() > 1e-3


def test_limits(benchmarks):
    """The formula for given rates: 1 operation and 1 byte per second, but 4 bytes per second for small arrays."""
    limits, Shape = benchmarks("limits").Limits(), benchmarks("common").Shape
    limits.flops = 1.0
    limits.bandwidth = lambda size: 4.0 if size <= 64 else 1.0
    # H = 2: R has 64 bytes; a step reads them in 16 s, and computes 32 B; the input's products are 16 I B a step
    assert limits.seconds(Shape(1, 10, 3, 2)) == 10 * 32 + 10 * 48
    assert limits.seconds(Shape(1, 1, 3, 4)) == 256 + 96  # R has 256 bytes, which takes longer than 128 operations
    assert limits.seconds(Shape(1, 10, 3, 2, layers=2)) == 10 * (32 + 48) + 10 * (32 + 32)
    assert limits.seconds(Shape(1, 10, 3, 2, layers=2, directions=2)) == 2 * (10 * (32 + 48) + 10 * (32 + 64))
    assert limits.seconds(Shape(1, 10, 3, 2), "training") == 2 * 10 * (32 + 48) + 10 * (48 + 32)
    assert limits.seconds(Shape(1, 1, 3, 2), "streaming") == 160  # bytes of W and R
    assert limits.seconds(Shape(7, 1, 3, 2), "streaming") == 7 * 80


@pytest.mark.parametrize("threads", (1, 2))
def test_limits_are_measured(benchmarks, monkeypatch, threads):
    module = benchmarks("limits")
    monkeypatch.setattr(module, "SECONDS", 1e-4)
    monkeypatch.setattr(module, "TRIES", 1)
    without_kernel = module.Limits(threads)
    without_kernel.kernel = None  # measures with NumPy
    for limits in (module.Limits(threads), without_kernel):
        assert 0 < limits.flops < math.inf
        assert 0 < limits.bandwidth(2**16) < math.inf
        assert limits.found()["bandwidth"].keys() == {2**16}
        assert f"{threads} thread" in str(limits)


@pytest.mark.parametrize("threads", (1, 2))
def test_compare_prints_tables_and_writes_files(benchmarks, tmp_path, threads):
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}  # the script must override it
    shapes = ["1x2x3x4", "2x3x3x5 2 layers bidirectional"]
    names = ["numpy"] + ["torch"] * bool(importlib.util.find_spec("torch"))
    titles = [f"{benchmarks('peers').PEERS[name].title} float32" for name in names]
    arguments = ["--seconds", "0", "--threads", str(threads), "--output", tmp_path, "--peers", *names]
    done = subprocess.run(
        [sys.executable, "benchmarks/compare.py", *arguments, "--shapes", *shapes],
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
    starts = [index for index, row in enumerate(rows) if row[0] == "BxTxIxH"]
    tables = [rows[start:end] for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)]
    forward, streaming, training, narrow, amplifier, amplifier_step = tables
    torch = ["PyTorch bf16"] * ("torch" in names)
    bf16 = ["best peer / lstm_cy, bf16"] * len(torch)
    best, gain, limit = "best peer / lstm_cy, float32", "float32 / bf16, lstm_cy", "lstm_cy float32 / limit"
    ours = ["limit", "lstm_cy float32"]
    assert forward[0][1:] == [*ours, *titles, "lstm_cy bf16", *torch, best, *bf16, gain, limit]
    assert training[0][1:] == [*ours, *titles, best, limit]
    for table in (forward, training):
        assert [row[0] for row in table[1:]] == shapes
        for row in table[1:]:
            for cell in row[1:]:
                assert all(float(number) >= 0 for number in re.findall(r"[\d.]+(?:e-\d+)?", cell))
            assert all(re.fullmatch(r"[\d.]+ \([\d.]+\)", cell) for cell in row[3 : 3 + len(names)])
            assert all(re.fullmatch(r"[\d.]+", cell) for cell in (*row[1:3], *row[-2:]))
    for row in forward[1:]:
        for cell in row[3 + len(names) :][: 1 + len(torch)]:
            assert re.fullmatch(r"[\d.]+ \([\d.]+, \de-\d+\)", cell)
    assert [row[0] for row in streaming[1:]] == shapes[:1]  # a bidirectional layer has no stream
    assert re.fullmatch(r"[\d.]+ / [\d.]+ \([\d.]+\)", streaming[1][3])
    assert [row[0] for row in narrow[1:]] == shapes
    assert narrow[0][1:3] == ["lstm_cy float32", "lstm_cy bf16"]
    assert [row[0] for row in amplifier[1:]] == shapes
    assert [row[0] for row in amplifier_step[1:]] == shapes[:1]
    assert done.stdout.count(", nanoseconds per sample, ") == 2
    errors = dict(re.findall(r"^- (float\d+): .* (\S+)$", done.stdout, re.MULTILINE))
    assert 0 < float(errors["float32"]) <= 2e-6
    assert 0 < float(errors["float64"]) <= 1e-13

    report = json.loads((tmp_path / "compare.json").read_text())
    parts = {"configuration", "processor", "versions", "peers' instruction set", "limits", "rows", "accuracy"}
    assert set(report) == parts
    assert set(report["versions"]) == set(names)
    assert report["peers' instruction set"] is None
    assert set(report["limits"][str(threads)]) == {"flops", "bandwidth", "how"}
    found = [(row["kind"], row["shape"]) for row in report["rows"]]
    assert found == [
        *(("inference", shape) for shape in shapes),
        ("streaming", shapes[0]),
        *(("training", shape) for shape in shapes),
        *(("narrow", shape) for shape in shapes),
        *(("amplifier", shape) for shape in shapes),
        ("amplifier-step", shapes[0]),
    ]
    parts = {
        "kind",
        "shape",
        "threads",
        "pause",
        "busy",
        "limit",
        "peers",
        "refused",
        "ratios",
        "headings",
        "precisions",
    }
    for row in report["rows"]:
        assert set(row) == parts
        assert row["threads"] == threads
        assert row["peers"]["lstm_cy"]["ratio"] == 1
        for times in row["peers"].values():
            assert set(times) == {"p50", "p99", "ratio", "p99 ratio", "error"}
        if row["kind"] != "narrow":
            assert {"lstm_cy", *names} <= set(row["peers"])
            assert row["refused"] == {}
            assert row["ratios"][best] == min(row["peers"][name]["ratio"] for name in names)
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_compare_shows_the_selected_precisions(benchmarks, tmp_path, capsys, monkeypatch):
    compare = benchmarks("compare")
    monkeypatch.setattr(compare, "ROUNDS", 1)
    arguments = ["--seconds", "0", "--peers", "numpy", "--shapes", "1x2x3x4", "--output", str(tmp_path)]
    compare.main([*arguments, "--kinds", "streaming", "narrow", "--precisions", "bf16", "--peers-isa", "AVX2"])
    out = capsys.readouterr().out
    assert out.splitlines()[0].endswith("; PyTorch and OpenVINO held to AVX2")
    tables = [line.split(" | ")[1:] for line in out.splitlines() if line.startswith("| BxTxIxH")]
    assert tables == [
        ["limit", "lstm_cy float32", "lstm_cy bf16", "float32 / bf16, lstm_cy", "lstm_cy float32 / limit |"],
        ["lstm_cy float32", "lstm_cy bf16", "float32 / bf16, lstm_cy |"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (["--shapes", "3x4"], "--shapes: shape: expected .* got '3x4'"),
        (["--threads", "0"], "--threads: expected at least 1, got 0"),
        (["--kinds", "both"], "--kinds: invalid choice: 'both'"),
        (["--peers", "lstm_cy"], "--peers: invalid choice: 'lstm_cy'"),
        (["--precisions", "float16"], "--precisions: invalid choice: 'float16'"),
        (["--peers-isa", "avx3"], "--peers-isa: invalid choice: 'avx3'"),
    ),
)
def test_compare_explains_wrong_arguments(benchmarks, capsys, arguments, message):
    with pytest.raises(SystemExit):
        benchmarks("compare").main(arguments)
    assert re.search(message, capsys.readouterr().err)


def test_compare_shows_why_a_worker_ended(benchmarks):
    compare = benchmarks("compare")
    with (
        pytest.raises(RuntimeError, match=r"the process of unknown ended .*\n(.|\n)*KeyError: 'unknown'"),
        compare.Worker(["unknown"], 1) as worker,
    ):
        worker.ask("prepare", "inference", "1x2x3x4")


def test_generation_compares_libraries_on_one_text(benchmarks, capsys):
    pytest.importorskip("torch")
    measured = benchmarks("generation").main(["--length=20", "--seconds=0.01"])
    assert [len(row) for row in measured] == [3, 3]
    out = capsys.readouterr().out
    assert out.count("largest difference of logits") == 2
    assert [line.split()[0] for line in out.splitlines()[3:]] == ["lstm_cy", "PyTorch", "PyTorch"]


def test_generation_refuses_another_model(benchmarks, monkeypatch):
    pytest.importorskip("torch")
    generation = benchmarks("generation")
    begin = generation.TorchCells.begin

    def wrong(writer):
        begin(writer)
        writer.cells.reverse()

    model = Sequential(Embedding(5, 4, seed=0), LSTM(4, 4, 2, seed=1), Linear(4, 5, seed=2))
    monkeypatch.setattr(generation.TorchCells, "begin", wrong)
    writers = [kind(model) for kind in (generation.Ours, generation.TorchModule, generation.TorchCells)]
    assert len(generation.checked(writers[:2], 9)) == 9
    with pytest.raises(ArithmeticError, match="PyTorch nn.LSTMCell: logits differ from lstm_cy Stepper's by"):
        generation.checked(writers, 9)


def test_torch_module_prints_tables_of_ratios(benchmarks, capsys):
    torch = pytest.importorskip("torch")
    module = benchmarks("torch_module")
    before = torch.get_num_threads()
    try:
        rows = module.main(["--shapes", "2x3x4x5 2 layers bidirectional", "--seconds", "0.01"])
    finally:
        torch.set_num_threads(before)
    assert [name for name, _, _ in rows] == list(module.TABLES)
    assert all(ratio > 0 for _, _, ratio in rows)
    assert capsys.readouterr().out.count("| 2x3x4x5 2 layers bidirectional | ") == len(rows)
