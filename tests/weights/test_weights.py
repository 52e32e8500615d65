"""The library's own files: saved models are loaded unchanged; damaged and hostile files are refused."""

import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from common import assert_same, peak_of

import lstm_cy
from lstm_cy import LSTM, Dropout, Embedding, Linear, Sequential, load, save
from lstm_cy.weights import gate_order, native, pytorch
from lstm_cy.weights.containers import safetensors
from lstm_cy.weights.containers.npz import read_npz, write_npz

SUFFIXES = [".npz", ".safetensors"]


# Models


def sequential():
    return Sequential(Embedding(7, 4, seed=1), LSTM(4, 6, 2, dropout=0.5, seed=2), Dropout(0.1), Linear(6, 7, seed=3))


MODELS = {
    "LSTM": lambda: LSTM(3, 5, seed=0),
    "LSTM, many options": lambda: LSTM(
        3, 5, 2, bias=False, batch_first=True, bidirectional=True, dtype="float64", seed=0
    ),
    "LSTM, reverse": lambda: LSTM(3, 5, reverse=True, seed=0),
    "LSTM, variants": lambda: LSTM(
        3, 5, 2, proj_size=2, peepholes=True, layer_norm=True, cell_clip=1.0, proj_clip=0.5, bidirectional=True, seed=0
    ),
    "LSTM, activations": lambda: LSTM(
        3, 5, coupled_gates="i=1-f", clip=0.7, activations=("hardsigmoid", ("leakyrelu", 0.2), "softsign"), seed=0
    ),
    "Sequential": sequential,
    "Sequential, float64": lambda: Sequential(
        LSTM(2, 3, dtype="float64", seed=1), Linear(3, 1, bias=False, dtype="float64", seed=2)
    ),
}


def output(model):
    if isinstance(model, Sequential) and isinstance(model.layers[0], Embedding):
        return model(np.array([[1, 2], [0, 6], [3, 3]]))[0]
    inputs = model.config["input_size"] if isinstance(model, LSTM) else 2
    return model(np.random.default_rng(0).standard_normal((4, 2, inputs)))[0]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_model_is_loaded_bit_for_bit(tmp_path, suffix, make):
    skip_without_safetensors(suffix)
    model, path = make(), tmp_path / f"model{suffix}"
    metadata = {"characters": "aé\n\0\ud800😀", "numbers": [1, 2.5, None, True], "deep": {"er": {}}}
    save(model, path, metadata)
    again = load(path)
    assert type(again) is type(model)
    assert again.config == model.config
    assert again.metadata == metadata
    assert_same(again.parameters, model.parameters)
    assert output(again).tobytes() == output(model).tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_metadata_are_kept_with_the_model(tmp_path, suffix):
    skip_without_safetensors(suffix)
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix.upper()}"
    save(LSTM(1, 1), first)
    assert load(first).metadata == {}
    save(LSTM(1, 1), first, {"a": 1})
    save(load(first), second)
    assert load(str(second)).metadata == {"a": 1}
    save(load(first), second, {})
    assert load(second).metadata == {}


def test_the_safetensors_library_reads_the_tensors(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    model = sequential()
    save(model, tmp_path / "a.safetensors")
    tensors = numpy.load_file(tmp_path / "a.safetensors")
    assert_same({name: tensors[name] for name in model.parameters}, model.parameters)


@pytest.mark.parametrize("name", ["model", "model.pkl", "model.npz.txt", ".npz"])
def test_another_suffix_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="path: expected a file ending in"):
        save(LSTM(1, 1), tmp_path / name)
    with pytest.raises(FileNotFoundError):  # the content decides, not the suffix
        load(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("model", "metadata", "error", "message"),
    [
        (Linear(1, 1), None, TypeError, "model: expected an LSTM, a Sequential or a Seq2Seq, got Linear"),
        ({"w": np.ones(1)}, None, TypeError, "model: expected an LSTM, a Sequential or a Seq2Seq, got dict"),
        (LSTM(1, 1), ["a"], TypeError, "metadata: expected a dict, got list"),
        (LSTM(1, 1), {"a": {1, 2}}, TypeError, "metadata: expected values that JSON can hold: .*set"),
        (LSTM(1, 1), {"a": np.ones(2)}, TypeError, "metadata: expected values that JSON can hold: .*ndarray"),
        (LSTM(1, 1), {"a": float("nan")}, TypeError, "metadata: expected values that JSON can hold"),
        (LSTM(1, 1), {1: "a"}, ValueError, "metadata: JSON does not give it back"),
        (LSTM(1, 1), {"a": (1, 2)}, ValueError, "metadata: JSON does not give it back"),
        (LSTM(1, 1), {"a": "x" * (17 << 20)}, ValueError, "metadata: .* bytes as JSON"),
    ],
)
def test_a_refused_save_writes_no_file(tmp_path, suffix, model, metadata, error, message):
    with pytest.raises(error, match=message):
        save(model, tmp_path / f"a{suffix}", metadata)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_save_leaves_the_old_model(tmp_path, monkeypatch, suffix):
    skip_without_safetensors(suffix)
    path = tmp_path / f"a{suffix}"
    save(LSTM(1, 1, seed=1), path)
    old = path.read_bytes()

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save(LSTM(2, 2), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_safetensors_is_optional(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    (tmp_path / "a.safetensors").write_bytes(bytes(8))
    for use in (lambda path: save(LSTM(1, 1), path), load):
        with pytest.raises(ImportError, match="pip install safetensors"):
            use(tmp_path / "a.safetensors")
    save(LSTM(1, 1), tmp_path / "a.npz")
    load(tmp_path / "a.npz")


# Damaged, foreign and hostile model files


def skip_without_safetensors(suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")


def write_file(path, header, arrays):
    """Write a file of `arrays` with a header: a text, a value that becomes JSON, or None for no header."""
    if header is not None and not isinstance(header, str):
        header = json.dumps(header)
    if path.suffix == ".npz":
        inside = {} if header is None else {"lstm_cy": np.frombuffer(header.encode(), np.uint8)}
        write_npz(path, inside | arrays)
    else:
        numpy = pytest.importorskip("safetensors.numpy")
        numpy.save_file(arrays, path, None if header is None else {"lstm_cy": header})
    return path


def header_of(config, **changes):
    return {"format": "lstm_cy", "version": 1, "model": config, "metadata": {}} | changes


LINEAR = {"type": "Linear", "in_features": 2, "out_features": 3}
LINEAR_ARRAYS = {"0.weight": np.ones((3, 2), np.float32), "0.bias": np.ones(3, np.float32)}
SMALL_LSTM = {"type": "LSTM", "input_size": 2, "hidden_size": 3}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_largest_header(tmp_path, monkeypatch, suffix):
    skip_without_safetensors(suffix)
    model, metadata, path = LSTM(2, 3), {"text": "é" * 100}, tmp_path / f"a{suffix}"
    length = len(native.pack_header(model, metadata))
    monkeypatch.setattr(native, "_MAX_JSON", length)
    save(model, path, metadata)
    assert load(path).metadata == metadata
    monkeypatch.setattr(native, "_MAX_JSON", length - 1)
    with pytest.raises(ValueError, match=f"a header of {length} bytes; at most {length - 1} are read"):
        load(path)
    with pytest.raises(ValueError, match=f"metadata: {length} bytes as JSON; at most {length - 1} are read back"):
        save(model, path, metadata)


def test_the_largest_header_of_safetensors(tmp_path, monkeypatch):
    """It may have three times the bytes of ours, which is a text in it."""
    assert safetensors._MAX_HEADER == 3 * native._MAX_JSON
    pytest.importorskip("safetensors")
    monkeypatch.setattr(safetensors, "_MAX_HEADER", 300)
    content = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 300) + content.ljust(300) + bytes(4))
    assert pytorch.read(path)["w"].tolist() == [0]
    path.write_bytes(struct.pack("<Q", 301) + content.ljust(301) + bytes(4))
    with pytest.raises(ValueError, match=f"^{path}: a header of 301 bytes; at most 300 are read"):
        pytorch.read(path)


TINY_LSTM = {"type": "LSTM", "input_size": 1, "hidden_size": 1}  # needs no more weights than LINEAR_ARRAYS has


def in_sequential(*configs):
    return {"type": "Sequential", "layers": list(configs)}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_crafted_model_is_read(tmp_path, suffix):
    path = write_file(tmp_path / f"a{suffix}", header_of(in_sequential(LINEAR)), LINEAR_ARRAYS)
    assert_same(load(path).parameters, LINEAR_ARRAYS)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, r"expected one LSTM under PyTorch's names and nothing else; its LSTMs: none; .*0.weight \(3, 2\)"),
        ("{", "its header is not JSON"),
        ("[" * 100_000, "its header: nested deeper than 920 levels"),
        ('{"a": ' + "9" * 10_000 + "}", "its header is not JSON"),
        (" " * (17 << 20), "a header of 17825792 bytes; at most"),
        ([1], "its header is not one of lstm_cy"),
        (header_of(LINEAR, format="other"), "its header is not one of lstm_cy"),
        (header_of(LINEAR, version=3), "format version 3; this release reads version 1 and 2"),
        ({"format": "lstm_cy"}, "format version None; this release reads version 1"),
        (header_of(LINEAR, version=True), "format version True"),
        (header_of(LINEAR, version=[1]), r"format version \[1\]"),
        (header_of(LINEAR, metadata=[]), "its metadata are not a JSON object"),
        (header_of(None), "expected the configuration of a layer, got None"),
        (header_of(["LSTM"]), "expected the configuration of a layer"),
        (header_of({}), "unknown type of layer None; known are LSTM, Linear"),
        (header_of({"type": "eval"}), "unknown type of layer 'eval'"),
        (header_of({"type": ["LSTM"]}), "unknown type of layer"),
        (header_of(in_sequential({"type": "os.system"})), "unknown type of layer 'os.system'"),
        (header_of({"type": "Sequential"}), "Sequential: expected a list of layers"),
        (header_of({"type": "Sequential", "layers": {}}), "Sequential: expected a list of layers"),
        (header_of(in_sequential() | {"also": 1}), "Sequential: expected a list of layers"),
        (header_of(in_sequential(LINEAR | {"shape": 1})), "unexpected keyword argument 'shape'"),
        (header_of(in_sequential({"type": "Linear"})), "Linear: in_features: expected an integer, got None"),
        (header_of(in_sequential(LINEAR | {"in_features": 2.0})), "in_features: expected an integer"),
        (header_of(in_sequential(LINEAR | {"in_features": "2"})), "in_features: expected an integer"),
        (header_of(in_sequential(LINEAR | {"out_features": 0})), "out_features: expected at least 1"),
        (header_of(in_sequential(LINEAR | {"dtype": "object"})), "dtype: expected"),
        (header_of(in_sequential(LINEAR | {"out_features": 2})), "misshaped"),
        (header_of(in_sequential(LINEAR, LINEAR | {"in_features": 3, "out_features": 1})), "missing"),
        (header_of(in_sequential()), "0.weight|at least"),
        (header_of(SMALL_LSTM | {"proj_size": -1}), "LSTM: proj_size: expected at least 0, got -1"),
        (header_of(SMALL_LSTM | {"proj_size": 1.5}), "LSTM: proj_size: expected an integer"),
        (header_of(SMALL_LSTM | {"proj_size": 10**15}), "the architecture needs"),
        (header_of(TINY_LSTM | {"proj_size": 1}), "proj_size"),
        (header_of(SMALL_LSTM | {"bidirectional": 2}), "LSTM: bidirectional: expected True or False, got 2"),
        (header_of(SMALL_LSTM | {"peepholes": "yes"}), "LSTM: peepholes: expected True or False"),
        (header_of(SMALL_LSTM | {"layer_norm": []}), "LSTM: layer_norm: expected True or False"),
        (header_of(TINY_LSTM | {"coupled_gates": ["f=1-i"]}), "coupled_gates: expected"),
        (header_of(TINY_LSTM | {"coupled_gates": "f=i"}), "coupled_gates: expected"),
        (header_of(TINY_LSTM | {"clip": "1"}), "clip: expected"),
        (header_of(TINY_LSTM | {"clip": -1.0}), "clip: expected"),
        (header_of(TINY_LSTM | {"cell_clip": 10**400}), "cell_clip: expected a number that"),
        (header_of(TINY_LSTM | {"dropout": 10**400}), "dropout: expected a number that"),
        (header_of(TINY_LSTM | {"activations": "tanh"}), "activations: expected"),
        (header_of(TINY_LSTM | {"activations": [["eval", 1, 1]] * 3}), "activations: expected names of"),
        (header_of(TINY_LSTM | {"activations": [["affine", 10**400, 1], "tanh", "tanh"]}), "float64 can hold"),
        (header_of(TINY_LSTM | {"activations": [[]] * 3}), "activations: expected"),
        (header_of(TINY_LSTM | {"activations": [["tanh", {}], "tanh", "tanh"]}), "activations: expected"),
    ],
)
def test_damaged_and_hostile_headers_are_refused(tmp_path, suffix, header, message):
    path = write_file(tmp_path / f"a{suffix}", header, LINEAR_ARRAYS)
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "config",
    [
        LINEAR | {"in_features": 10**6, "out_features": 10**6},
        LINEAR | {"in_features": 10**18},
        {"type": "Embedding", "num_embeddings": 10**12, "embedding_dim": 1},
        {"type": "LSTM", "input_size": 10**9, "hidden_size": 1},
        {"type": "LSTM", "input_size": 1, "hidden_size": 10**5},
        {"type": "LSTM", "input_size": 1, "hidden_size": 1, "num_layers": 10**9},
        {"type": "LSTM", "input_size": 1, "hidden_size": 10**9, "proj_size": 1},
        {"type": "LSTM", "input_size": 1, "hidden_size": 3, "num_layers": 10**9, "peepholes": True},
        in_sequential(in_sequential(LINEAR | {"in_features": 10**9})),
    ],
)
def test_sizes_in_headers_are_checked_before_memory_is_allocated(tmp_path, suffix, config):
    path = write_file(tmp_path / f"a{suffix}", header_of(in_sequential(config)), LINEAR_ARRAYS)

    def assert_refused_at_once():
        with pytest.raises(ValueError, match=r"the architecture needs \d+ weights, the file holds 9"):
            load(path)

    assert peak_of(assert_refused_at_once) < 1 << 20


@pytest.mark.parametrize(
    "model",
    [
        LSTM(3, 5, bias=False),
        LSTM(3, 5, 3, bias=False),
        LSTM(3, 5, 3, bias=False, bidirectional=True),
        LSTM(3, 5, 2, bias=False, peepholes=True),
        LSTM(3, 5, 2, bias=False, layer_norm=True, coupled_gates="f=1-i", clip=1.0, cell_clip=2.0),
        LSTM(3, 5, 3, bias=False, proj_size=2, bidirectional=True, peepholes=True, layer_norm=True, proj_clip=1.0),
        Linear(4, 7, bias=False),
        Embedding(4, 7),
        Dropout(0.5),
        Sequential(Embedding(4, 7), LSTM(7, 2, bias=False)),
    ],
)
def test_computed_sizes_are_those_of_the_layers(model):
    config = {"type": type(model).__name__, **model.config}
    assert native._least_size(config) == sum(array.size for array in model.parameters.values())


def test_a_header_array_of_another_dtype_is_not_ours(tmp_path):
    write_npz(tmp_path / "a.npz", {"lstm_cy": np.ones(3), **LINEAR_ARRAYS})
    with pytest.raises(ValueError, match="expected one LSTM under PyTorch's names"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_prefix_of_a_model_is_refused(tmp_path, suffix):
    skip_without_safetensors(suffix)
    path = tmp_path / f"a{suffix}"
    save(LSTM(1, 1), path, {"a": 1})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=str(path)):
            load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, this is not a file of tensors",
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 10**8) + b"{",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 70) + b'{"w":{"dtype":"F32","shape":[4294967296],"data_offsets":[0,17179869184]}}',
        struct.pack("<Q", 58) + b'{"w":{"dtype":"O","shape":[1],"data_offsets":[0,2]}}      ' + bytes(2),
    ],
)
def test_a_damaged_safetensors_file_is_refused(tmp_path, content):
    pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path}: "):
        load(path)


def test_a_dtype_that_numpy_does_not_have_is_refused(tmp_path):
    torch, safetensors_torch = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    path = tmp_path / "a.safetensors"
    header = json.dumps(header_of(in_sequential(LINEAR)))
    safetensors_torch.save_file({"0.weight": torch.ones(3, 2, dtype=torch.bfloat16)}, path, {"lstm_cy": header})
    with pytest.raises(ValueError, match=f"{path}: 0.weight: expected one of F32, F64, U16 or I8, got BF16"):
        load(path)


def test_an_error_for_a_missing_file_names_it(tmp_path):
    for suffix in SUFFIXES:
        skip_without_safetensors(suffix)
        with pytest.raises(FileNotFoundError) as caught:
            load(tmp_path / f"a{suffix}")
        assert caught.value.filename == str(tmp_path / f"a{suffix}")


# NaN among the weights


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_a_warning_or_an_error(tmp_path, suffix, bad):
    skip_without_safetensors(suffix)
    path, model = tmp_path / f"a{suffix}", sequential()
    state = model.state_dict()
    state["1.weight_hh_l1"][2, 3] = bad
    state["3.bias"][0] = bad
    model.load_state_dict(state)
    save(model, path)
    message = f"{path}: NaN or infinity in 1.weight_hh_l1, 3.bias$"
    with pytest.warns(UserWarning, match=message) as caught:
        again = load(path)
    assert [warning.filename for warning in caught] == [__file__]
    assert_same(again.parameters, model.parameters)
    with pytest.raises(ValueError, match=message):
        load(path, strict=True)


# Files of other libraries, by the suffix


def foreign(prefix=""):
    """Return (LSTM, its tensors under PyTorch's names)."""
    lstm = LSTM(3, 5, 2, bidirectional=True, seed=0)
    return lstm, {prefix + name: array for name, array in lstm.parameters.items()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tensors_without_a_header_are_read_as_pytorchs(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    lstm, arrays = foreign("encoder.rnn.")
    model = load(write_file(path, None, arrays))
    assert (model.config, model.metadata) == (lstm.config, {})
    assert_same({name: model.parameters[name] for name in lstm.parameters}, lstm.parameters)
    write_file(path, None, arrays | {"head.weight": np.ones((2, 5), np.float32)})
    with pytest.raises(ValueError, match="nothing else; .*encoder.rnn.*head.weight.*weights.pytorch.lstms"):
        load(path)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".BIN"])
def test_files_by_pytorch(tmp_path, suffix):
    torch = pytest.importorskip("torch")
    path = tmp_path / f"a{suffix}"
    lstm, arrays = foreign()
    torch.save({"epoch": 3, "model": {name: torch.tensor(array) for name, array in arrays.items()}}, path)
    model = load(path)
    assert (model.config, model.metadata) == (lstm.config, {})
    assert_same({name: model.parameters[name] for name in arrays}, arrays)


def test_onnx_files(tmp_path):
    onnx = pytest.importorskip("onnx")
    path, model = tmp_path / "a.onnx", sequential()
    save(model, path, {"unit": "mm"})
    read = load(path)
    assert isinstance(read, lstm_cy.Graph)
    assert read.metadata == {"unit": "mm"}
    tokens = np.array([[1, 2], [0, 6], [3, 3]])
    assert np.abs(read.run({"tokens": tokens}, ["y"])[0] - output(model)).max() < 1e-6

    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, {"author": "A. Author", "lstm_cy": "{"})
    onnx.save(proto, path)
    with pytest.raises(ValueError, match=f"{path}: its header is not JSON"):
        load(path)
    onnx.helper.set_model_props(proto, {"author": "A. Author"})
    onnx.save(proto, path)
    assert load(path).metadata == {"author": "A. Author"}


@pytest.mark.parametrize("strict", [False, True])
def test_every_reader_obeys_strict(tmp_path, strict):
    pytest.importorskip("onnx")
    lstm, arrays = foreign()
    arrays["bias_ih_l1"] = np.full(20, np.nan, np.float32)
    lstm.load_state_dict(arrays)
    save(lstm, tmp_path / "a.onnx")
    write_npz(tmp_path / "a.npz", arrays)
    for path in (tmp_path / "a.onnx", tmp_path / "a.npz"):
        if strict:
            with pytest.raises(ValueError, match="NaN or infinity"):
                load(path, strict=True)
        else:
            with pytest.warns(UserWarning, match="NaN or infinity"):
                load(path)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".keras", ".onnx"])
def test_files_of_another_kind_are_refused(tmp_path, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    path = tmp_path / f"a{suffix}"
    for content in (b"", b"hello", bytes(1000), b"PK\3\4"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=str(path)):
            load(path)


def test_hdf5_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    for suffix in (".h5", ".hdf5"):
        with h5py.File(tmp_path / f"a{suffix}", "w"):
            pass
        with pytest.raises(ValueError, match="holds no architecture"):
            load(tmp_path / f"a{suffix}")


def test_other_libraries_are_not_imported_before_they_are_needed():
    program = """
import sys
for name in ("torch", "onnx", "onnxruntime", "keras", "h5py", "safetensors"):
    sys.modules[name] = None
import lstm_cy
assert not any(name.startswith("lstm_cy.") for name in sys.modules), sorted(sys.modules)
assert lstm_cy.weights.pytorch.lstms({}) == {}
lstm_cy.weights.keras.from_keras, lstm_cy.weights.onnx.from_onnx, lstm_cy.from_torch, lstm_cy.from_keras
lstm_cy.save(lstm_cy.LSTM(1, 1), "a.npz")
lstm_cy.load("a.npz")
for extra, use in [
    ("onnx", lambda: lstm_cy.save(lstm_cy.LSTM(1, 1), "a.onnx")),
    ("safetensors", lambda: lstm_cy.save(lstm_cy.LSTM(1, 1), "a.safetensors")),
]:
    try:
        use()
    except ImportError as error:
        assert f"pip install {extra}" in str(error), error
    else:
        raise AssertionError(extra)
try:
    lstm_cy.weights.tensorflow
except AttributeError as error:
    assert str(error) == "module 'lstm_cy.weights' has no attribute 'tensorflow'"
"""
    environment = os.environ | {"PYTHONPATH": str(Path(lstm_cy.__file__).parents[1])}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)


# Repeated layers


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_shared_layer_is_stored_once_and_loaded_shared(tmp_path, suffix):
    skip_without_safetensors(suffix)
    lstm, path = LSTM(3, 3, seed=0), tmp_path / f"a{suffix}"
    save(Sequential(lstm, Dropout(0.5), lstm), path)
    model = load(path)
    assert model.layers[0] is model.layers[2]
    assert list(model.parameters) == [f"0.{name}" for name in lstm.parameters]
    assert_same(model.layers[0].parameters, lstm.parameters)
    arrays = safetensors.read_safetensors(path)[0] if suffix == ".safetensors" else read_npz(path)
    assert set(arrays) - {"lstm_cy"} == set(model.parameters)


def test_only_files_with_sharing_have_the_new_version(tmp_path):
    linear = Linear(2, 2)
    for model, version in [(linear, 1), (Sequential(linear, Linear(2, 2)), 1), (Sequential(linear, linear), 2)]:
        assert json.loads(native.pack_header(model, {}))["version"] == version


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones((5, 2)), gate_order.ORDER), ValueError, "rows: expected a multiple of 4 along axis 0, got shape"),
        ((1.0, gate_order.ORDER), ValueError, "rows: expected a multiple of 4"),
        ((np.ones(4, "O"), gate_order.ORDER), TypeError, "rows: expected real numbers"),
        ((np.ones(4), 3), TypeError, "source: expected a sequence of names, got 3"),
        ((np.ones(4), ()), TypeError, "source: expected a sequence of names"),
        ((np.ones(4), ("input", "input")), ValueError, "source: expected each name once"),
        ((np.ones(4), gate_order.ORDER, ("input", "other")), ValueError, "target: expected names of source"),
    ],
)
def test_invalid_gate_orders_are_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        gate_order.reorder(*arguments)


@pytest.mark.parametrize(
    ("gates", "error", "message"),
    [
        (3, TypeError, "gates: expected a dict, got 3"),
        ({"input": np.ones(2)}, ValueError, "gates: expected the names input, forget, candidate, output"),
        (dict.fromkeys(gate_order.ORDER, 1.0), ValueError, "gates: input: expected rows"),
        ({**dict.fromkeys(gate_order.ORDER, np.ones(2)), "output": np.ones((2, 2))}, ValueError, "gates: output"),
        ({**dict.fromkeys(gate_order.ORDER, np.ones(2)), "output": "x"}, TypeError, "gates: output: expected real"),
    ],
)
def test_mismatched_gates_are_refused_by_name(gates, error, message):
    with pytest.raises(error, match=message):
        gate_order.stack(gates)


def test_infinities_of_both_signs_give_only_our_warning(tmp_path):
    lstm = LSTM(2, 3, seed=0)
    infinite = {"bias_ih_l0": np.full(12, np.inf), "bias_hh_l0": np.full(12, -np.inf)}
    lstm.load_state_dict({**lstm.state_dict(), **infinite})
    save(lstm, tmp_path / "a.npz")
    with pytest.warns(UserWarning) as warned:
        load(tmp_path / "a.npz")
    assert [entry.category for entry in warned] == [UserWarning]
