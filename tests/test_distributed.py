"""distributed.py: Dask's chunks compared with one call, several MPI processes with one."""

import functools
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mpi_training
import numpy as np
import pytest
from common import bits

import lstm_cy
from lstm_cy import LSTM, Adam, Dropout, Embedding, Linear, Masking, Readout, Seq2Seq, Sequential, fit, mse
from lstm_cy.distributed import DataParallel, predict

STEPS, ROWS = 6, 11
LENGTHS = np.array([6, 0, 3, 6, 1, 2, 6, 5, 4, 0, 6])
CHUNKS = (4, 3, 0, 4)

# scoring with Dask


@pytest.fixture
def da():
    return pytest.importorskip("dask.array")


def model_of(batch_first=False, **options):
    lstm = LSTM(3, 5, 2, bidirectional=True, batch_first=batch_first, seed=1, **options)
    return Sequential(lstm, Linear(10, 2, seed=2))


def features(batch_first=False):
    x = np.random.default_rng(0).standard_normal((STEPS, ROWS, 3)).astype("float32")
    return x.swapaxes(0, 1) if batch_first else x


def cut(x, axis):
    """Return x cut into pieces of CHUNKS rows."""
    return np.split(x, np.cumsum(CHUNKS)[:-1], axis)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_chunks_give_the_result_of_one_call(da, batch_first, ragged):
    model, x = model_of(batch_first), features(batch_first)
    axis, lengths = int(not batch_first), LENGTHS if ragged else None
    y = predict(model, da.from_array(x, {axis: CHUNKS, 1 - axis: -1, 2: -1}), lengths=lengths)
    expected = model(x, lengths=lengths)[0]
    assert (y.shape, y.dtype, y.chunks[axis]) == (expected.shape, expected.dtype, CHUNKS)
    assert bits(y.compute()) == bits(expected)


@pytest.mark.parametrize("batch_first", [False, True])
def test_one_result_per_row(da, batch_first):
    lstm = LSTM(3, 2, batch_first=batch_first, seed=1)  # as many units as there are steps in the trial input
    model, x = Sequential(lstm, Readout(batch_first=batch_first)), features(batch_first)
    axis = int(not batch_first)
    y = predict(model, da.from_array(x, {axis: CHUNKS, 1 - axis: -1, 2: -1}), lengths=LENGTHS)
    assert y.chunks == (CHUNKS, (2,))
    assert bits(y.compute()) == bits(model(x, lengths=LENGTHS)[0])


def test_tokens(da):
    model = Sequential(Embedding(9, 4, mask_zero=True, seed=0), LSTM(4, 5, seed=1))
    tokens = np.random.default_rng(0).integers(9, size=(STEPS, ROWS))
    y = predict(model, da.from_array(tokens, (-1, CHUNKS)))
    assert bits(y.compute()) == bits(model(tokens)[0])


def test_narrow_weights_and_layers_without_a_size_before_the_lstm(da):
    model = Sequential(Masking(0.5), Dropout(0.3), LSTM(3, 5, seed=1)).quantize("int8")
    x = features()
    assert bits(predict(model, da.from_array(x, (-1, CHUNKS, -1))).compute()) == bits(model(x)[0])


def test_chunks_along_time_and_features_are_joined(da):
    model, x = model_of(), features()
    y = predict(model, da.from_array(x, ((2, 4), CHUNKS, (1, 2))), lengths=da.from_array(LENGTHS, 5))
    assert y.chunks == ((STEPS,), CHUNKS, (2,))
    assert bits(y.compute()) == bits(model(x, lengths=LENGTHS)[0])


def test_later_changes_of_the_model_have_no_effect(da):
    model, x = model_of(), features()
    expected = model(x)[0]
    y = predict(model, da.from_array(x, (-1, CHUNKS, -1)))
    model.load_state_dict({name: array * 2 for name, array in model.state_dict().items()})
    assert bits(y.compute()) == bits(expected)


@pytest.mark.parametrize("batch_first", [False, True])
def test_files_and_delayed_arrays_are_concatenated(da, tmp_path, batch_first):
    import dask.array

    model, x, axis = model_of(batch_first), features(batch_first), int(not batch_first)
    pieces = cut(x, axis)
    for i in 0, 3:
        np.save(tmp_path / f"{i}.npy", pieces[i])
    np.save(tmp_path / "none.npy", pieces[2])
    parts = [tmp_path / "0.npy", dask.delayed(pieces[1]), dask.delayed(pieces[2]), str(tmp_path / "3.npy")]
    expected = model(x, lengths=LENGTHS)[0]
    lengths = list(cut(LENGTHS, 0))
    with dask.config.set({"array.chunk-size": "150 B"}):  # a row has 72 bytes, so the files are cut
        y = predict(model, [tmp_path / "none.npy", *parts], lengths=[[], *lengths])
    assert np.isnan(y.shape[axis])
    assert y.numblocks[axis] == 2 + 1 + 1 + 2
    assert bits(y.compute()) == bits(expected)
    with pytest.raises(ValueError, match=r"lengths: expected \(B,\), or an array for each of 4 entries of data, got 3"):
        predict(model, parts, lengths=lengths[:3])
    assert bits(predict(model, parts[:1] + parts[3:], lengths=LENGTHS[[*range(4), *range(7, 11)]]).compute()) == bits(
        expected.take([*range(4), *range(7, 11)], axis)
    )


def test_a_file_is_cut_and_read_again(da, tmp_path):
    import dask.array

    model, path = model_of(batch_first=True), tmp_path / "x.npy"
    for x in features(True), -features(True):
        np.save(path, x)
        with dask.config.set({"array.chunk-size": "300 B"}):  # a row has 72 bytes
            y = predict(model, path)
        assert y.chunks[0] == (4, 4, 3)
        assert bits(y.compute()) == bits(model(x)[0])


@pytest.mark.parametrize("scheduler", ["threads", "sync"])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_out_writes_a_file(da, tmp_path, batch_first, per_row, scheduler, capsys):
    import dask.array

    lstm = LSTM(3, 5, batch_first=batch_first, seed=1)
    model = Sequential(lstm, *[Readout(batch_first=batch_first)] * per_row)
    x, axis, out = features(batch_first), int(not batch_first), tmp_path / "y.npy"
    out.write_text("an older file")
    with dask.config.set(scheduler=scheduler):
        y = predict(model, da.from_array(x, {axis: CHUNKS, 1 - axis: -1, 2: -1}), lengths=LENGTHS, out=out)
    expected = model(x, lengths=LENGTHS)[0]
    assert isinstance(y, np.memmap) and not y.flags.writeable
    assert bits(y) == bits(expected) == bits(np.load(out))
    assert os.listdir(tmp_path) == ["y.npy"]
    err = capsys.readouterr().err
    assert "y.npy" in err
    if importlib.util.find_spec("tqdm"):
        assert "4/4" in err


def test_an_error_leaves_no_temporary_file_and_nothing_is_printed(da, tmp_path, capsys):
    model, out = model_of(), tmp_path / "y.npy"
    predict(model, da.from_array(features(), (-1, CHUNKS, -1)), out=out, progress=False)
    before = out.read_bytes()
    wrong = da.from_array(np.where(np.arange(ROWS) == 9, 99, LENGTHS), 3)
    with pytest.raises(ValueError, match="lengths: expected 0 to T = 6, got 99"):
        predict(model, da.from_array(features(), (-1, CHUNKS, -1)), lengths=wrong, out=out, progress=False)
    assert os.listdir(tmp_path) == ["y.npy"]
    assert out.read_bytes() == before
    assert capsys.readouterr() == ("", "")


def test_no_rows(da, tmp_path):
    y = predict(model_of(), da.zeros((STEPS, 0, 3), dtype="float32"), out=tmp_path / "y.npy", progress=False)
    assert y.shape == (STEPS, 0, 2)


LARGER_THAN_MEMORY = """
    import resource, sys
    from pathlib import Path
    import dask.array
    import numpy as np
    from lstm_cy import LSTM
    from lstm_cy.distributed import predict

    folder, rows = Path(sys.argv[1]), 60_000
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", "float32", (rows, 16, 64))  # 246 MB
    x[:, 0, 0] = np.arange(rows) % 100
    del x
    lstm = LSTM(64, 32, batch_first=True, seed=0)
    limited = {"array.chunk-size": "4MiB", "scheduler": "threads", "num_workers": 2}
    dask.config.set(limited)
    predict(lstm, dask.array.zeros((500, 16, 64), dtype="float32", chunks=(50, -1, -1))).compute()  # fills caches
    status = Path("/proc/self/status").read_text().split()
    used = 1024 * int(status[status.index("VmData:") + 1])
    resource.setrlimit(resource.RLIMIT_DATA, (used + 90_000_000,) * 2)
    try:
        np.load(folder / "x.npy")
    except MemoryError:
        print("refused")
    y = predict(lstm, folder / "x.npy", out=folder / "y.npy", progress=False)  # 123 MB
    first = np.zeros((100, 16, 64), "float32")
    first[:, 0, 0] = np.arange(100)
    expected = lstm(first)[0]
    print(all(np.array_equal(y[start : start + 100], expected) for start in range(0, rows, 100)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_data_larger_than_memory(da, tmp_path):
    printed = python(LARGER_THAN_MEMORY, tmp_path)
    assert printed.split() == ["refused", "True"]


def python(code, *arguments):
    """Run a script in a separate process; return its output."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment():
    path = os.pathsep.join([str(Path(lstm_cy.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}


class Noted(LSTM):
    """An LSTM that writes to the file NOTED which process unpickles it."""

    def __reduce__(self):
        return rebuilt, super().__reduce__()[1]


def rebuilt(kind, config, arrays):
    with open(os.environ["NOTED"], "a") as notes:
        print(os.getpid(), file=notes)
    layer = kind.blank(**config)
    layer.restore(arrays)
    return layer


PIECE = 10, 100, 300  # more than a megabyte, so that Dask computes its output on the worker that has it


def piece(index, folder):
    """Return some rows; the first worker that makes the fourth piece waits to be killed."""
    if index == 3 and not (folder / "victim").exists():
        (folder / "writing").write_text(str(os.getpid()))
        (folder / "writing").rename(folder / "victim")
        time.sleep(60)
    time.sleep(0.1)  # so that each worker gets some pieces
    return np.random.default_rng(index).standard_normal(PIECE).astype("float32")


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """Start two worker processes, which can import this file."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("NOTED", str(tmp_path / "noted"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([environment()["PYTHONPATH"], str(Path(__file__).parent)]))
    options = {"n_workers": 2, "threads_per_worker": 2, "processes": True, "dashboard_address": None}
    with (
        distributed.LocalCluster(**options, local_directory=str(tmp_path)) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_a_worker_killed_mid_job(cluster, tmp_path):
    import dask.array
    import dask.array as da

    lstm, folder = Noted(300, 5, batch_first=True, seed=1), tmp_path
    pieces = 12

    def delayed(folder):
        parts = [dask.delayed(piece)(index, folder) for index in range(pieces)]
        return da.concatenate([da.from_delayed(part, PIECE, "float32") for part in parts])

    def kill():
        deadline = time.monotonic() + 60
        while not (folder / "victim").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(int((folder / "victim").read_text()), signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        y = predict(lstm, delayed(folder), out=folder / "y.npy", progress=False)
        killed.result()
    x = np.concatenate([piece(index, folder) for index in range(pieces)])
    assert bits(y) == bits(lstm(x)[0])
    victim = (folder / "victim").read_text()
    assert victim not in map(str, cluster.run(os.getpid).values())
    noted = folder / "noted"
    unpickled = noted.read_text().split()
    assert str(os.getpid()) not in unpickled
    assert len(unpickled) == len(set(unpickled))

    cluster.wait_for_workers(2)  # the killed worker is replaced
    noted.unlink()
    lazy = predict(lstm, delayed(folder), lengths=np.arange(120) % 101)
    assert bits(lazy.compute()) == bits(lstm(x, lengths=np.arange(120) % 101)[0])
    assert sorted(noted.read_text().split()) == sorted(map(str, cluster.run(os.getpid).values()))


SAMPLE = features()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": Linear(3, 2)}, TypeError, "model: expected an LSTM or a Sequential with one, got Linear"),
        ({"model": Sequential(Linear(3, 2))}, TypeError, "model: expected .*, got Sequential"),
        ({"model": Seq2Seq(6, embedding_dim=4, hidden_size=8)}, TypeError, "model: expected .*, got Seq2Seq"),
        ({"model": LSTM(4, 5)}, ValueError, r"x: expected shape \(T, B, I\) .* with I = 4, got \(2, 3, 3\)"),
        (
            {"model": Sequential(LSTM(3, 5, bidirectional=True), Readout(bidirectional=True, merge_mode=None))},
            ValueError,
            "model: expected one with a single output array, got one with 2",
        ),
        ({"data": SAMPLE}, TypeError, "data: expected a dask array, a path, or a list of .*, got ndarray"),
        ({"data": []}, TypeError, "data: expected .*, got an empty list"),
        ({"data": [SAMPLE]}, TypeError, r"data\[0\]: expected a path or dask.delayed, got ndarray"),
        ({"data": "x.npz"}, ValueError, r"data: expected the path of a .npy file, got '.*x.npz'"),
        ({"data": lambda da: da.zeros((6, 11))}, ValueError, r"data: expected shape \(T, B, I\), got \(6, 11\)"),
        ({"data": lambda da: da.zeros((6, 11, 3), dtype=complex)}, TypeError, "x: expected real numbers, got dtype"),
        ({"lengths": [1, 2]}, ValueError, r"lengths: expected shape \(B,\) = \(11,\), got \(2,\)"),
        ({"lengths": np.full(ROWS, 7)}, ValueError, "lengths: expected 0 to T = 6, got 7 at row 0"),
        ({"lengths": np.full(ROWS, 1.5)}, TypeError, "lengths: expected integers, got dtype float64"),
        (
            {"lengths": lambda da: da.ones(3, dtype=int)},
            ValueError,
            r"lengths: expected shape \(B,\) = \(11,\), got \(3,",
        ),
        ({"threads": 0}, ValueError, "threads: expected at least 1, got 0"),
        ({"progress": 1}, TypeError, "progress: expected True or False, got 1"),
        ({"out": "y.npz"}, ValueError, "out: expected a path ending in .npy, got '.*y.npz'"),
        ({"out": "nowhere/y.npy"}, ValueError, "out: expected an existing folder, got '.*nowhere'"),
        *(({"out": bad}, TypeError, "out: expected a str or an os.PathLike") for bad in (3, b"y.npy", ["y.npy"])),
        ({"data": "x\0.npy"}, ValueError, "data: expected a path without a null character"),
        ({"lengths": lambda da: da.ones(ROWS)}, TypeError, "lengths: expected integers, got dtype float64"),
    ],
)
def test_errors_of_predict(da, options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"model": model_of(), "data": lambda da: da.from_array(SAMPLE)} | options
    options = {name: value(da) if name != "model" and callable(value) else value for name, value in options.items()}
    with pytest.raises(error, match=message):
        predict(options.pop("model"), options.pop("data"), **options).compute()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("content", [b"", b"abc", b"\x93NUMPY\x01\x00", np.array([object()]), np.array("text")])
def test_files_without_numbers_are_refused(da, tmp_path, content):
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(ValueError, match=r"data: .*x.npy: expected an array of numbers|data\[0\]: expected shape"):
        predict(model_of(), path)


def test_files_with_different_numbers_of_steps_are_refused(da, tmp_path):
    paths = [tmp_path / "0.npy", tmp_path / "1.npy"]
    for path, steps in zip(paths, (6, 5), strict=True):
        np.save(path, SAMPLE[:steps])
    with pytest.raises(ValueError, match=r"data: expected .* differ only in B, got \(6, 11, 3\), \(5, 11, 3\)"):
        predict(model_of(), paths)


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_chunk_of_another_shape_than_declared(da, tmp_path, batch_first):
    import dask.array

    x = np.zeros((6, 5, 3), "float32")
    declared = da.from_delayed(dask.delayed(x[:-1, :-1]), x.shape, x.dtype)
    with pytest.raises(ValueError, match="data: expected a chunk that gives a result of shape .*, got"):
        predict(model_of(batch_first), declared, out=tmp_path / "y.npy", progress=False)
    assert not os.listdir(tmp_path)


def test_an_unknown_number_of_rows_is_refused(da, tmp_path):
    import dask.array

    parts = [dask.delayed(part) for part in cut(SAMPLE, 1)]
    with pytest.raises(ValueError, match="lengths: expected one array for each entry of data, .*the number of rows"):
        predict(model_of(), parts, lengths=LENGTHS)
    with pytest.raises(
        ValueError, match=r"out: expected data of a known shape with it, got a result of shape \(nan, nan, 2\)"
    ):
        predict(model_of(), parts, out=tmp_path / "y.npy")
    with pytest.raises(ValueError, match="lengths: expected shape"):
        predict(model_of(), parts, lengths=[LENGTHS] * 4).compute()


# training with MPI

# Open MPI's options as variables, which other MPIs ignore: allow more ranks than cores, and the user root.
MPI_SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def mpirun(ranks, *arguments, cwd=None):
    """Run a Python script with `ranks` ranks."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = shutil.which("mpirun", path=path)
    if command is None or importlib.util.find_spec("mpi4py") is None:
        pytest.skip("needs mpi4py and mpirun")
    script = [sys.executable, *(map(str, arguments))]
    return subprocess.run(
        [command, "-n", str(ranks), *script],
        env=environment() | MPI_SETTINGS | {"PATH": path},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
    )


def trained(ranks, task, folder, *names):
    """Run `task` of mpi_training.py; return {name: [result of each rank]}."""
    done = mpirun(ranks, mpi_training.__file__, task, folder)
    assert done.returncode == 0, done.stderr
    return {name: [dict(np.load(folder / f"{name}.{ranks}.{rank}.npz")) for rank in range(ranks)] for name in names}


@functools.cache
def alone(name, **more):
    """Return the result of one process without MPI."""
    return mpi_training.run(name, progress=False, **more)


def assert_same(found, expected, tolerance=1e-12):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance * np.abs(array).max(initial=0))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_number_of_ranks_trains_as_one_process(ranks, tmp_path):
    every = trained(ranks, "cases", tmp_path, *mpi_training.CASES, *mpi_training.MORE)
    for name, found in every.items():
        for rank, of_rank in enumerate(found):
            assert (of_rank.pop("printed") > 0) == (rank == 0), name
            assert bits(*of_rank.values()) == bits(*found[0].values()), name  # the ranks agree bit for bit
    for name in mpi_training.CASES:
        assert_same(every[name][0], alone(name), 1e-5 if name == "float32" else 1e-12)
    assert_same(every["stopped"][0], alone("plain", epochs=2))  # stopped by one of the ranks
    # Each rank draws the dropout of this model by itself.
    assert np.isfinite(every["another kind of model"][0]["loss"]).all()


def test_the_options_of_the_cases_have_an_effect():
    assert len(alone("early stopping")["loss"]) < 6
    assert len(alone("plain")["loss"]) == 3
    plain, dropped = (mpi_training.CASES[name]["options"] for name in ("plain", "dropout"))
    assert "clip_norm" not in plain | dropped
    for name in ("ragged, clipped, windows", "ignored", "float32"):
        unclipped = alone(name, clip_norm=None)
        assert not np.allclose(unclipped["loss"], alone(name)["loss"], rtol=1e-4), name
    ignored = mpi_training.CASES["ignored"]["data"][1] == -100
    assert len(set(ignored.sum(axis=0))) > 1


def test_a_training_resumes_with_another_number_of_ranks(tmp_path):
    for ranks, epochs in ((2, 2), (4, 3)):
        (tmp_path / "epochs.json").write_text(json.dumps(epochs))
        for of_rank in trained(ranks, "resume", tmp_path, "resume")["resume"]:
            assert_same(of_rank, alone("dropout", epochs=epochs))
    assert not (tmp_path / "nowhere").exists()
    options = {"checkpoint": tmp_path / "checkpoint.npz", "resume": True, "progress": False}
    assert_same(mpi_training.run("dropout", epochs=4, **options), alone("dropout", epochs=4))


def test_an_exception_in_one_rank_ends_all_ranks(tmp_path):
    done = mpirun(2, mpi_training.__file__, "failure", tmp_path)
    assert done.returncode != 0
    assert "rank 1 of 2 ends all ranks:" in done.stderr
    assert "OSError: the disk of rank 1 is gone" in done.stderr


def test_ranks_with_other_arguments_are_refused(tmp_path):
    done = mpirun(2, mpi_training.__file__, "settings", tmp_path)
    assert done.returncode != 0
    assert "fit's arguments differ from those of rank 0: batch_size: expected 4, got 5" in done.stderr


def test_fit_refuses_a_wrong_parallel():
    x, y = mpi_training.series()
    model = mpi_training.regressor(0)
    with pytest.raises(TypeError, match="parallel: expected a lstm_cy.distributed.DataParallel, got 2"):
        fit(model, (x, y), loss=mse, optimizer=Adam(model), epochs=1, parallel=2)


@pytest.mark.parametrize("bad", [None, "x", -1, np.nan, np.inf, 1j, [1]])
def test_the_result_of_count_is_checked(bad):
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("needs mpi4py")
    program = f"""
        from math import inf, nan
        import mpi_training as t
        from lstm_cy.distributed import DataParallel
        model = t.regressor(0)
        team = DataParallel(count=lambda target: {bad!r})
        try:
            t.fit(model, t.series(), loss=t.mse, optimizer=t.Adam(model), epochs=1, progress=False, parallel=team)
        except (TypeError, ValueError) as error:
            print(error)
    """
    paths = os.pathsep.join([str(Path(__file__).parent), environment()["PYTHONPATH"]])
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(
        command, env=environment() | MPI_SETTINGS | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    if "needs mpi4py and an MPI library" in done.stderr:
        pytest.skip("needs an MPI library")
    assert done.stdout.startswith("the result of count: expected a number"), done.stderr


def test_errors_name_missing_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.array", None)
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ImportError, match=r'needs Dask: pip install "dask\[array,distributed\]"'):
        predict(model_of(), SAMPLE)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match="needs mpi4py and an MPI library: pip install mpi4py"):
        DataParallel()


def test_the_benchmark_marks_results_as_measured_or_predicted():
    done = mpirun(2, Path(__file__).parents[1] / "benchmarks" / "scaling.py", "--quick")
    assert done.returncode == 0, done.stderr
    blocks = [block.splitlines() for block in done.stdout.strip().split("\n\n")]
    assert [block[0].partition(":")[0].partition(",")[0] for block in blocks[::2]] == ["Measured"] * 2 + [
        "**Predicted**"
    ] * 2
    for lines in blocks[1::2]:
        assert len({line.count("|") for line in lines}) == 1
        assert not re.search("nan|inf", "".join(lines[2:]))


def test_the_example(tmp_path):
    pytest.importorskip("distributed")
    example = Path(__file__).parents[1] / "examples" / "scale_out.py"
    x, y, model, predicted = (tmp_path / name for name in ("x.npy", "y.npy", "model.npz", "predicted.npy"))

    def run(*arguments):
        command = [sys.executable, *map(str, (example, *arguments))]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100)

    for done in (
        run("make", x, y, "--rows", 1200),
        mpirun(2, example, "train", x, y, model, "--hidden", 8, "--epochs", 15),
        run("score", model, x, predicted),
    ):
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1200, 50, 1) by 2 workers")
    assert bits(np.load(predicted)) == bits(lstm_cy.load(model)(np.load(x))[0])
    assert mse(np.load(predicted), np.load(y))[0] < 0.3 * np.square(np.load(y)).mean()


def test_the_script_in_the_docs(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "distributed.md").read_text()
    (script,) = re.findall(r"^```text\n(# train.py\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "train.py").write_text(script)
    for name in "xy":
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).standard_normal((6, 4, 1)))
    done = mpirun(2, "train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "x.npy", "y.npy", "run.npz", "model.npz"}
