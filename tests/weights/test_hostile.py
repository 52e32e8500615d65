"""Small files that would cost much are refused before memory is allocated, in short errors that name the file."""

import io
import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from lstm_cy import LSTM, load
from lstm_cy.weights import budget, native, pytorch
from lstm_cy.weights.inspect import describe

LIMIT = 100_000_000


def assert_refused(path, message):
    """Check that `load` names the file in a short error and takes little memory besides the file's own bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).count(str(path)) == 1
    assert len(str(caught.value)) < 12_000
    assert peak < LIMIT


def npy(shape=(0,)):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(shape, np.float32))
    return buffer.getvalue()


def npz(path, model, metadata=None, version=1, **arrays):
    header = {"format": "lstm_cy", "version": version, "model": model, "metadata": metadata or {}}
    content = header if isinstance(model, bytes) else json.dumps(header).encode()
    np.savez(path, lstm_cy=np.frombuffer(model if isinstance(model, bytes) else content, np.uint8), **arrays)
    return path


def lstm(**options):
    return {"type": "LSTM", "input_size": 1, "hidden_size": 1, **options}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"type": "Sequential", "layers": [{"type": "Dropout"}] * 50_000}, "its (header|layers): would take more than"),
        (
            {"type": "Sequential", "layers": [{"type": "Dropout"}, *[{"type": "Shared", "layer": 0}] * 40_000]},
            "objects",
        ),
        (lstm(num_layers=1_500_000, bias=False), "its layers: would take more than 800000 objects"),
        (lstm(dtype="(,)f4"), r"dtype: expected one of float32, float64, got '\(,\)f4'"),
        (lstm(dtype="f4," * 100_000), "dtype: expected one of float32, float64"),
        (lstm(dtype={"names": ["a"], "formats": ["(1000000000,)f8"]}), "dtype: expected one of float32, float64"),
        (lstm(dtype=["f4"]), "dtype: expected one of float32, float64"),
        (lstm(hidden_size=10**400), "hidden_size: expected at most"),
        (lstm(activations=["x" * 100_000]), "activations"),
        (lstm(**{"\x1b[31m" + "a" * 50_000: 1}), r"\\x1b\[31maaa"),
        ({"type": "\x1b" + "L" * 50_000}, r"unknown type of layer '\\x1bLLL"),
    ],
)
def test_costly_architectures_are_refused(tmp_path, model, message):
    assert_refused(npz(tmp_path / "a.npz", model, w=np.zeros(12_100_000, np.int8)), message)


def test_an_lstm_without_its_tensors_is_refused(tmp_path):
    assert_refused(
        npz(tmp_path / "a.npz", lstm(num_layers=500, bias=False), w=np.zeros(20_000, np.int8)), "missing: weight_ih_l0"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a":' * 5000, "its header: nested deeper than 920 levels"),
        (b"[" * 100_000 + b"]" * 100_000, "its header: nested deeper than 920 levels"),
        (b"[" + b"[]," * 500_000 + b"0]", "its header: would take more than 800000 objects"),
        (b"[" + b"0," * 900_000 + b"0]", "its header: would take more than 800000 objects"),
        (b'"' + b"\\\\" * 4_000_000, "its header is not JSON"),
        (b"9" * 5000, "its header is not JSON"),
    ],
)
def test_costly_headers_are_refused(tmp_path, monkeypatch, text, message):
    if "JSON" not in message:
        monkeypatch.setattr(budget.json, "loads", lambda text: pytest.fail("it was read"))
    assert_refused(npz(tmp_path / "a.npz", text), message)


def safetensors(path, header, size=0):
    content = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + bytes(size))
    return path


EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({f"t{index}": EMPTY for index in range(40_000)}, "would take more than 800000 objects"),
        ({"w": EMPTY | {"shape": [1] * 1000}}, "an entry with a shape of up to 32 axes"),
        ({"w": EMPTY | {"shape": 3}}, "an entry with a shape"),
        ({"w": 3}, "an entry with a shape"),
        ({"__metadata__": {f"k{index}": "v" for index in range(150_000)}}, "would take more than 800000 objects"),
        ({"__metadata__": {"lstm_cy": "[" * 100_000}}, "its header: nested deeper than 920"),
        ({"__metadata__": ["lstm_cy"]}, "its metadata are not a JSON object"),
        ({"w": EMPTY | {"shape": [1] * 33}}, "tensor 'w': expected an entry with a shape of up to 32 axes"),
        ({"\x1bweight_hh_l0" + "x" * 5000: EMPTY, "\x1b": EMPTY}, "more characters"),
        ({f"a{index}.weight_hh_l0": EMPTY for index in range(5000)}, "and 9950 more"),
    ],
)
def test_costly_safetensors_files_are_refused(tmp_path, header, message):
    pytest.importorskip("safetensors")
    assert_refused(safetensors(tmp_path / "a.safetensors", header), message)


def test_a_tensor_of_32_axes_is_read(tmp_path):
    pytest.importorskip("safetensors")
    entry = EMPTY | {"shape": [1] * 32, "data_offsets": [0, 4]}
    assert pytorch.read(safetensors(tmp_path / "a.safetensors", {"w": entry}, 4))["w"].shape == (1,) * 32


def test_layers_that_are_too_deep_for_the_stack_of_the_caller(tmp_path, monkeypatch):
    def build(config, own):
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(native, "build", build)
    path = npz(tmp_path / "a.npz", lstm(), **LSTM(1, 1).parameters)
    assert_refused(path, "its layers are nested too deep to be read here")


def torch_file(path, pickle):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02" + pickle)
    return path


@pytest.mark.parametrize(
    ("pickle", "message"),
    [
        (b"](" + b"}" * 490_000 + b"e.", "its pickle: would take more than 800000 objects"),
        (b"]" + b"(]e" * 166_000 + b".", "its pickle: would take more than 800000 objects"),
        (b"](" + b")\x85\x85" * 130_000 + b"e.", "would take more than 800000 objects|nothing else"),
        (b"L" + b"9" * 1_000_000 + b"L\n.", "an integer of 1000000 digits"),
        (b"c" + b"a" * 100_000 + b"\nb\n.", "nothing else; its LSTMs: none"),
    ],
)
def test_costly_pickles_are_refused(tmp_path, pickle, message):
    assert_refused(torch_file(tmp_path / "a.pt", pickle), message)


def test_too_many_layers_and_lstms_are_refused(tmp_path):
    for names in (
        [f"weight_{part}_l{layer}" for layer in range(3000) for part in ("ih", "hh")],
        [f"p{index}.weight_{part}_l0" for index in range(3000) for part in ("ih", "hh")],
    ):
        path = tmp_path / "a.npz"
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(f"{name}.npy", npy((4, 1)))
        with pytest.raises(budget.LimitExceeded, match="its LSTMs: would take more than 800000 objects"):
            pytorch.lstms(path)
        assert any("not read  its LSTMs: would take" in line for line in describe(path))


def test_a_model_with_thousands_of_tensors_is_read(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {f"m{index}.weight": np.ones(2, np.float32) for index in range(5000)}
    np.savez(path, **arrays, **LSTM(1, 1).parameters)
    assert len(pytorch.read(path)) == 5004
    assert list(pytorch.lstms(path)) == [""]


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("a.h5", b"\x89HDF"),
        ("a.keras", b"PK\3\4"),
        ("a.npz", b"PK\3\4"),
        ("a.pt", b"PK\3\4"),
        ("a.safetensors", struct.pack("<Q", 90_000_000)),
    ],
)
def test_a_file_of_another_kind_is_not_read_completely(tmp_path, name, beginning):
    """Only the beginning and the end of a sparse file of a gigabyte are read."""
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    path = tmp_path / name
    with open(path, "wb") as file:
        file.write(beginning)
        file.truncate(1 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"^{path}: "):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_an_error_names_onnx_runtimes_own_format(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(struct.pack("<I", 28) + b"ORTM" + bytes(100))
    assert_refused(path, r"an ONNX Runtime model \(.ort\), which is not read")
