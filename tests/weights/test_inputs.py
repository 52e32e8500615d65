"""Files are read by their content: from paths of any name, bytes and open files; what is not read is named."""

import io
import os
import pickle
import struct
import threading
import zipfile

import numpy as np
import pytest

from lstm_cy import LSTM, Linear, Sequential, load, save
from lstm_cy.cli import main
from lstm_cy.weights import pytorch
from lstm_cy.weights.inspect import describe

X = np.random.default_rng(0).standard_normal((5, 2, 3)).astype("float32")
LIBRARIES = {"safetensors": "safetensors", "onnx": "onnx"}


def model():
    return Sequential(LSTM(3, 4, batch_first=True, seed=0), Linear(4, 1, seed=1))


def output(loaded):
    return loaded(X)[0] if isinstance(loaded, Sequential) else loaded.run({"x": X})[0]


@pytest.mark.parametrize("name", ["npz", "safetensors", "onnx", "nam", "json"])
def test_every_source_and_target(tmp_path, name):
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name])
    original = model()
    target = io.BytesIO(b"before")
    target.seek(0, os.SEEK_END)
    save(original, target, {"a": 1}, format=name)
    content = target.getvalue().removeprefix(b"before")
    options = {"format": "onnx"} if name == "onnx" else {}  # the only one without a mark
    path = tmp_path / "model.h5"  # the suffix of another format
    path.write_bytes(content)
    target.seek(len(b"before"))
    first = output(load(content, **options))
    assert np.abs(first - original(X)[0]).max() < 2e-6
    with open(path, "rb") as file, open(path, "rb") as later:
        later.seek(0)
        sources = [path, str(path), bytearray(content), memoryview(content), io.BytesIO(content), file, target]
        for source in sources:
            loaded = load(source, **options)
            assert np.array_equal(output(loaded), first) and loaded.metadata == {"a": 1}
        assert not file.closed
    assert describe(content, **options)[0].startswith(f"bytes: {len(content)} bytes, ")
    assert describe(path, **options)[1:] == describe(content, **options)[1:]
    save(original, tmp_path / "named", {"a": 1}, format=name)
    assert np.array_equal(output(load(tmp_path / "named", **options)), first)
    with open(tmp_path / f"file.{name}", "wb") as file:
        save(original, file, {"a": 1})
    assert np.array_equal(output(load(tmp_path / f"file.{name}")), first)
    if name != "onnx":
        with pytest.raises(ValueError, match="not of format onnx"):
            load(path, format="onnx")
        assert main(["convert", str(path), str(tmp_path / "again.npz")]) == 0
    else:
        assert main(["inspect", str(path), "--format", "onnx"]) == 0


def test_a_pipe_is_read(tmp_path):
    save(model(), tmp_path / "a.npz")
    content = (tmp_path / "a.npz").read_bytes()
    reading, writing = os.pipe()

    def write():
        with open(writing, "wb") as file:
            file.write(content)

    thread = threading.Thread(target=write)
    thread.start()
    with open(reading, "rb") as file:
        assert np.array_equal(load(file)(X)[0], model()(X)[0])
    thread.join()


def test_a_file_without_a_name_becomes_npz():
    file = io.BytesIO()
    save(model(), file)
    with zipfile.ZipFile(file) as archive:
        assert "lstm_cy.npy" in archive.namelist()
    with pytest.raises(ValueError, match="format: expected 'npz'"):
        save(model(), file, format="pytorch")
    with pytest.raises(TypeError, match="open for writing, got int"):
        save(model(), 5)


def test_tensors_under_pytorchs_names_from_bytes():
    lstm = LSTM(3, 5, seed=0)
    arrays = pytorch.to_state_dict(lstm, "rnn.")
    file = io.BytesIO()
    np.savez(file, **arrays)
    bare = pickle.dumps({"model": arrays, "epoch": np.int64(3), "name": "a", "numbers": {1, 2}})
    for content in (file.getvalue(), bare):
        (found,) = pytorch.lstms(content).values()
        assert np.array_equal(found(X)[0], lstm(X)[0])
    lines = describe(bare)
    assert any(line == "other values: int64 1, str 1, set 1" for line in lines)
    assert pytorch.read(io.BytesIO(bare))["epoch"] == 3


def zipped(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "a")
    return file.getvalue()


UNREADABLE = {
    "TensorFlow Lite": b"\x1c\0\0\0TFL3" + bytes(20),
    "ONNX Runtime model": b"\x1c\0\0\0ORTM" + bytes(20),
    "gzip": b"\x1f\x8b\x08",
    "tar archive": bytes(257) + b"ustar" + bytes(300),
    r"\.npy": b"\x93NUMPY\1\0",
    "HTML page": b"\n<!DOCTYPE html>",
    "pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
    "index of TensorFlow checkpoints": b'model_checkpoint_path: "a"',
    "index of a TensorFlow checkpoint": bytes(40) + struct.pack("<Q", 0xDB4775248B80FB57),
    "a SavedModel": zipped("m/saved_model.pb", "m/variables/variables.index"),
    "Core ML package": zipped("m.mlpackage/Manifest.json"),
}


@pytest.mark.parametrize(("kind", "content"), UNREADABLE.items(), ids=UNREADABLE)
def test_formats_that_are_not_read_are_named(tmp_path, kind, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path}: .*{kind}.*, which is not read"):
        load(path)
    with pytest.raises(ValueError, match=f"{kind}.*, which is not read"):
        pytorch.read(path)
    (line,) = describe(path)
    assert "which is not read" in line


def test_folders_and_suffixes_of_other_formats_are_named(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    package = tmp_path / "a.mlpackage"
    package.mkdir()
    for path, kind in ((folder, "SavedModel"), (folder / "saved_model.pb", "TensorFlow"), (package, "Core ML")):
        with pytest.raises(ValueError, match=f"{kind}.*not read"):
            load(path)
        assert kind in describe(path)[0]
    with pytest.raises(OSError, match="directory|denied"):
        load(tmp_path)


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="its first bytes, b'hello', are those of no format.*--format onnx"):
        load(b"hello")
    with pytest.raises(ValueError, match="format: expected"):
        load(b"hello", format="tflite")
    for source in (io.StringIO("a"), open(os.devnull)):  # noqa: SIM115
        with source, pytest.raises(TypeError, match="path: expected a file that is open in binary mode"):
            load(source)
    for use in (load, describe, pytorch.read):
        with pytest.raises(TypeError, match="path: expected a path, bytes or a file"):
            use(5)
    with pytest.raises(TypeError, match="source: expected a mapping, a path, bytes or a file"):
        pytorch.lstms(5)


def test_the_command_line_names_the_flag_that_helps(tmp_path, capsys):
    arrays = pytorch.to_state_dict(LSTM(3, 5, seed=0), "rnn.") | pytorch.to_state_dict(LSTM(3, 5, seed=0), "other.")
    path, out = tmp_path / "a.npz", str(tmp_path / "b.npz")
    np.savez(path, **arrays, **{"head.weight": np.ones((2, 5))})
    assert main(["convert", str(path), out]) == 1
    assert "--name 'rnn.'" in capsys.readouterr().err
    assert main(["convert", str(path), out, "--name", "rnn"]) == 1
    error = capsys.readouterr().err
    assert "--partial" in error and "head.weight" in error and not os.path.exists(out)
    assert main(["convert", str(path), out, "--name", "rnn", "--partial"]) == 0
    assert "left behind: other.weight_ih_l0" in capsys.readouterr().out
