"""PyTorch's files, state dicts and modules: results equal PyTorch's, and hostile files are refused."""

import argparse
import collections
import datetime
import pickle
import re
import struct
import sys
import warnings
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from common import assert_same, torch_lstm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lstm_cy
from lstm_cy import LSTM, Dropout, Embedding, Linear, Sequential, load, save
from lstm_cy.weights import native
from lstm_cy.weights.pytorch import lstms, read, read_model, to_state_dict

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def safetensors_torch(torch):
    return pytest.importorskip("safetensors.torch")


def outputs(torch, module, x):
    """y, h, c of a torch.nn.LSTM."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        y, (h, c) = module(torch.from_numpy(x))
    return [part.numpy() for part in (y, h, c)]


def assert_runs_as(torch, layer, module, tolerance=5e-6):
    """Check that `layer` and `module` agree on random input."""
    x = np.random.default_rng(0).standard_normal((7, 3, layer.input_size)).astype(layer.dtype)
    y, (h, c) = layer(x)
    for got, expected in zip((y, h, c), outputs(torch, module, x), strict=True):
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= tolerance


def shuffled(torch, how, state):
    """Return a state dict with the same numbers and another memory layout."""
    if how == "parameters":
        return {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}
    if how == "strided":
        return {name: tensor.repeat_interleave(2, dim=-1)[..., ::2] for name, tensor in state.items()}
    if how == "transposed":
        return {name: tensor.t().contiguous().t() for name, tensor in state.items()}
    if how == "one storage":
        flat = torch.cat([tensor.flatten() for tensor in state.values()])
        parts = flat.split([tensor.numel() for tensor in state.values()])
        return {name: part.view(tensor.shape) for (name, tensor), part in zip(state.items(), parts, strict=True)}
    return state


# Files of PyTorch


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.tuples(st.integers(1, 6), st.integers(2, 9), st.integers(1, 3)),
    bias=st.booleans(),
    bidirectional=st.booleans(),
    projected=st.booleans(),
    kind=st.sampled_from(["float32", "float64", "float16", "bfloat16"]),
    prefix=st.sampled_from(["", "rnn.", "module.encoder.0.", "größe."]),
    how=st.sampled_from(["unchanged", "parameters", "strided", "transposed", "one storage"]),
    nested=st.sampled_from([(), ("state_dict",), ("a", "model_state")]),
    protocol=st.integers(2, 5),
)
def test_a_saved_lstm_computes_the_same_as_in_pytorch(
    torch, tmp_path, sizes, bias, bidirectional, projected, kind, prefix, how, nested, protocol
):
    module = torch_lstm(torch, *sizes, bias=bias, bidirectional=bidirectional, proj_size=projected and sizes[1] - 1)
    module = module.to(getattr(torch, kind))
    value = {prefix + name: tensor for name, tensor in shuffled(torch, how, module.state_dict()).items()}
    for key in reversed(nested):
        value = {key: value, "epoch": 3, "losses": [1.5, None], "shape": torch.Size([1, 2])}
    torch.save(value, tmp_path / "a.pt", pickle_protocol=protocol)
    (found,) = lstms(tmp_path / "a.pt").items()
    assert found[0] == prefix
    layer = found[1]
    assert type(layer) is LSTM
    assert layer.dtype == (np.float64 if kind == "float64" else np.float32)
    assert (layer.bias, layer.bidirectional) == (bias, bidirectional)
    assert_runs_as(torch, layer, module.double() if kind == "float64" else module.float())


def test_values_are_read_unchanged(torch, tmp_path):
    kinds = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
    numbers = torch.tensor([0, 1, 7, 100])
    tensors = {kind: numbers.to(getattr(torch, kind)) for kind in [*kinds, "bool"]}
    base = torch.arange(24.0)
    tensors |= {
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "part": base[5:9],
        "strided": base.view(4, 6).t()[1::2, 1:3],
        "expanded": torch.ones(3, 1).expand(3, 4),
        "signs": torch.tensor([-0.0, float("nan"), float("-inf")]),
    }
    plain = {
        "list": [1, -2, 2**40, 2**70, -1.5, "é", b"\x00\xff", None, True, ((), (1,))],
        3: {"deep": OrderedDict(a=1)},
    }
    for protocol in (2, 4):
        torch.save({**tensors, **plain}, tmp_path / "a.pt", pickle_protocol=protocol)
        found = read(tmp_path / "a.pt")
        assert_same({name: found[name] for name in tensors}, {name: tensor.numpy() for name, tensor in tensors.items()})
        assert {name: found[name] for name in plain} == plain
        assert type(found[3]["deep"]) is dict


def test_devices_and_dtypes_become_strings_and_sizes_tuples(torch, tmp_path):
    torch.save([torch.device("cuda", 1), torch.device("cpu"), torch.float16, torch.Size([2, 3])], tmp_path / "a.pt")
    assert read(tmp_path / "a.pt") == ["cuda:1", "cpu", "torch.float16", (2, 3)]


def test_bfloat16_becomes_float32(torch, tmp_path):
    tensor = torch.tensor([1.0, -2.5, 3e38, 1e-40]).to(torch.bfloat16)
    torch.save(tensor, tmp_path / "a.pt")
    found = read(tmp_path / "a.pt")
    assert found.dtype == np.float32
    assert found.tolist() == tensor.float().tolist()


def test_shared_storages_stay_shared(torch, tmp_path):
    tensor = torch.arange(6.0)
    torch.save({"whole": tensor, "part": tensor[2:4]}, tmp_path / "a.pt")
    found = read(tmp_path / "a.pt")
    found["whole"][2] = 99
    assert found["part"].tolist() == [99, 3]


def test_a_training_checkpoint(torch, tmp_path):
    module = torch_lstm(torch, 3, 5)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 1, 3))[0].sum().backward()
    optimizer.step()
    checkpoint = {"model_state": module.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    torch.save(checkpoint, tmp_path / "a.ckpt")
    found = read(tmp_path / "a.ckpt")
    assert found["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert found["optimizer"]["state"][0]["exp_avg"].shape == (20, 3)
    assert_runs_as(torch, lstms(tmp_path / "a.ckpt")[""], module)


@pytest.mark.filterwarnings("ignore")
def test_values_of_other_classes_are_kept_as_data(torch, tmp_path):
    class Config:
        def __init__(self):
            self.hidden = 5

    values = {
        "sparse": torch.ones(3).to_sparse(),
        "class": torch.optim.lr_scheduler.LambdaLR,
        "set": {1, 2},
        "path": PurePosixPath("a/b"),
        "number": np.float64(3.5),
        "array": np.arange(6, dtype=">i2").reshape(2, 3, order="F"),
        "text": np.array(["ab", "c"]),
        "namespace": argparse.Namespace(lr=0.1, layers=[1, 2]),
        "counter": collections.Counter("abba"),
        "default": collections.defaultdict(list, a=[1]),
        "ordered": collections.OrderedDict(a=1),
        "date": datetime.datetime(2020, 1, 2, 3, 4, 5),
        "complex": torch.tensor([1 + 2j]),
        "number of Python": 1 + 2j,
        "frozen": frozenset([1, "a"]),
        ("a", 1): torch.device("cuda", 1),
        "quantized": torch.quantize_per_tensor(torch.tensor([1.0, -0.5]), 0.25, 3, torch.qint8),
        "channels": torch.quantize_per_channel(
            torch.tensor([[1.0, 2.0], [-1.0, 0.5]]), torch.tensor([0.5, 0.25]), torch.tensor([0, 1]), 0, torch.quint8
        ),
    }
    for legacy in (False, True):
        for protocol in (2, 4):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sparse|.*quantize", UserWarning)
                torch.save(
                    values, tmp_path / "a.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy
                )
            found = read(tmp_path / "a.pt")
            assert list(found) == list(values)
            for name in ("set", "number", "counter", "default", "ordered", "number of Python", "frozen"):
                assert found[name] == values[name]
            for name in ("array", "text"):
                assert np.array_equal(found[name], values[name]) and found[name].shape == values[name].shape
            assert found["complex"].tolist() == [1 + 2j]
            assert found["quantized"].tolist() == values["quantized"].dequantize().tolist()
            assert found["channels"].tolist() == values["channels"].dequantize().tolist()
            assert found["a", 1] == "cuda:1"
            assert found["path"].name.endswith("PurePosixPath") and "".join(found["path"].arguments) in ("ab", "a/b")
            assert (found["namespace"].name, found["namespace"].state) == (
                "argparse.Namespace",
                vars(values["namespace"]),
            )
            assert found["date"].name == "datetime.datetime" and found["class"].name.endswith("LambdaLR")
            assert found["class"].arguments is None and found["sparse"].name.endswith("_rebuild_sparse_tensor")
            assert repr(found["path"]).startswith("Opaque('pathlib")


def test_float8_tensors_are_refused(torch, tmp_path):
    torch.save(torch.ones(3).to(torch.float8_e4m3fn), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="a tensor of torch.float8_e4m3fn is not read"):
        read(tmp_path / "a.pt")


def test_a_negated_tensor_is_refused(torch, tmp_path):
    torch.save(torch._neg_view(torch.ones(3)), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="a tensor that is conjugated, negated or has other metadata is not read"):
        read(tmp_path / "a.pt")


def test_a_quantized_lstm_is_refused_by_name(tmp_path):
    for name in ("_all_weight_values.0.param", "rnn._all_weight_values.11.param", "cell._packed_weight_ih"):
        with pytest.raises(ValueError, match=f"a quantized LSTM, which are not read: {name}; take the state_dict"):
            lstms({"model": {name: None}})
    assert lstms({"all_weight_values.0.param": np.ones(3)}) == {}


def test_sparse_weights_are_refused_by_name(torch):
    state = torch_lstm(torch, 3, 5).state_dict()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse", UserWarning)
        state["weight_ih_l0"] = state["weight_ih_l0"].to_sparse()
    with pytest.raises(ValueError, match="source: weight_ih_l0: expected a dense tensor: "):
        lstms(state)


@pytest.mark.parametrize("protocol", range(6))
def test_files_from_before_1_6_are_read(torch, tmp_path, protocol):
    path = tmp_path / "a.pt"
    module = torch_lstm(torch, 3, 5, num_layers=2, bidirectional=True)
    half = {name: tensor.half() for name, tensor in module.state_dict().items()}
    brain = {name: tensor.bfloat16() for name, tensor in module.state_dict().items()}
    checkpoint = {"state_dict": module.state_dict(), "half": half, "brain": brain, "flags": torch.tensor([True, False])}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    found = read(path)
    assert found["flags"].tolist() == [True, False]
    for name, tensor in module.state_dict().items():
        assert np.array_equal(found["state_dict"][name], tensor.numpy())
        assert np.array_equal(found["half"][name], half[name].numpy())
        assert np.array_equal(found["brain"][name], brain[name].float().numpy())
    assert_runs_as(torch, lstms(path)["state_dict/"], module)
    whole = path.read_bytes()
    for size in (20, 300, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="truncated|damaged|exhausted|does not begin"):
            read(path)


class Tagger:
    """Makes a module whose class is not importable when the file is read."""

    @staticmethod
    def of(torch):
        module = torch.nn.Module()
        module.rnn = torch.nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True)
        module.head = torch.nn.Sequential(torch.nn.Linear(10, 2), torch.nn.BatchNorm1d(2))
        return module


@pytest.mark.parametrize("legacy", [False, True])
def test_whole_modules_are_read_as_data(torch, tmp_path, legacy):
    path = tmp_path / "a.pt"
    module = Tagger.of(torch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sources that cannot be found
        torch.save({"model": torch.nn.DataParallel(module)}, path, _use_new_zipfile_serialization=not legacy)
    ((prefix, lstm),) = lstms(path).items()
    assert prefix == "module.rnn." and lstm.batch_first
    assert_runs_as(torch, lstm, module.rnn)
    found = read(path)["model"]
    assert found.name == "torch.nn.parallel.data_parallel.DataParallel"
    torch.save(module.rnn, path, _use_new_zipfile_serialization=not legacy)
    assert_runs_as(torch, lstm_cy.load(path), module.rnn)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_archives_are_read(torch, tmp_path):
    path = tmp_path / "a.pt"
    lstm = torch.nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for made in (torch.jit.script(lstm), torch.jit.trace(lstm, torch.ones(1, 2, 3))):
            made.save(path)
            assert_runs_as(torch, lstms(path, batch_first=True)[""], lstm)


@pytest.mark.parametrize(
    "options", [{"bidirectional": True}, {"num_layers": 2}, {"num_layers": 3, "bidirectional": True}]
)
def test_dynamically_quantized_modules_are_read(torch, tmp_path, options):
    """The weights are those that PyTorch multiplies by; it also rounds the input and h in each step."""
    path = tmp_path / "a.pt"
    module = torch.nn.Sequential(torch.nn.LSTM(7, 17, batch_first=True, **options))
    x = torch.randn(3, 11, 7)
    for dtype, most in ((torch.qint8, 0.04), (torch.float16, 1e-3)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            narrow = torch.ao.quantization.quantize_dynamic(module, {torch.nn.LSTM}, dtype=dtype)
            torch.save(narrow.state_dict(), path)
            found = lstms(path, batch_first=True)["0."]
            torch.save(narrow, path)
            assert_same(lstms(path)["0."].parameters, found.parameters)
        expected = narrow(x)[0].detach().numpy()
        assert np.abs(found(x.numpy())[0] - expected).max() < most
        step = max(np.abs(array).max() for array in found.parameters.values()) / 127
        for name, tensor in module[0].state_dict().items():
            assert np.abs(found.parameters[name] - tensor.numpy()).max() <= 0.6 * step


def test_packed_weights_that_do_not_determine_the_directions_are_refused(torch, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.nn.Sequential(torch.nn.LSTM(5, 5, bidirectional=True))
        narrow = torch.ao.quantization.quantize_dynamic(module, {torch.nn.LSTM}, dtype=torch.qint8)
        torch.save(narrow.state_dict(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="two layers, or two directions of one layer"):
        lstms(tmp_path / "a.pt")


def test_bare_pickles_are_read(torch, tmp_path):
    module = torch_lstm(torch, 3, 5)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(module.state_dict()))
    assert_runs_as(torch, lstms(path)[""], module)
    path.write_bytes(pickle.dumps({name: tensor.numpy() for name, tensor in module.state_dict().items()}))
    assert_runs_as(torch, lstms(path)[""], module)


# LSTMs among tensors


def state(prefix="", sizes=(3, 5, 1), **options):
    return to_state_dict(LSTM(*sizes, seed=0, **options), prefix)


def test_every_lstm_is_found_by_its_prefix():
    cell = {name.removesuffix("_l0"): array for name, array in state(sizes=(2, 4)).items()}
    found = lstms(
        {
            **state("encoder.rnn.", (3, 5, 2), bidirectional=True),
            **state("decoder.", bias=False),
            **{"cell." + name: array for name, array in cell.items()},
            **state("half_"),
            "head.weight": np.ones((2, 5)),
            "step": 3,
        },
        batch_first=True,
    )
    assert list(found) == ["encoder.rnn.", "decoder.", "cell.", "half_"]
    layers = [
        LSTM(3, 5, 2, bidirectional=True, batch_first=True),
        LSTM(3, 5, bias=False, batch_first=True),
        LSTM(2, 4, batch_first=True),
        LSTM(3, 5, batch_first=True),
    ]
    assert [layer.config for layer in found.values()] == [layer.config for layer in layers]
    assert_same(found["decoder."].parameters, state(bias=False))
    assert_same(found["cell."].parameters, state(sizes=(2, 4)))


def test_the_order_of_the_tensors_does_not_matter():
    layer = LSTM(3, 5, 2, bidirectional=True, proj_size=2, seed=0)
    arrays = dict(sorted(layer.state_dict().items(), reverse=True))
    assert_same(lstms(arrays)[""].parameters, layer.parameters)


def test_several_state_dicts_in_one_checkpoint():
    both = {"model": state("rnn."), "ema": [{"rnn.": 1}, state("rnn.")], "other": state("lstm.")}
    assert list(lstms(both)) == ["model/rnn.", "ema/1/rnn.", "lstm."]
    with pytest.raises(ValueError, match="two LSTMs would be called 'a/b/'"):
        lstms({"a/b": state(), "a": {"b": state()}})
    assert lstms({}) == {}


def test_the_arrays_of_a_mapping_are_copied():
    arrays = state()
    layer = lstms(arrays)[""]
    assert all(array.flags.writeable for array in arrays.values())
    arrays["weight_ih_l0"][:] = 0
    assert np.abs(layer.parameters["weight_ih_l0"]).min() > 0


@pytest.mark.parametrize(
    ("kinds", "dtype"),
    [(["f2"], "f4"), (["f4"], "f4"), (["f8"], "f8"), (["f4", "f8"], "f8"), (["f2", "f4"], "f4"), ([">f4"], "f4")],
)
def test_the_dtype_is_the_widest_of_the_tensors(kinds, dtype):
    arrays = {name: array.astype(kinds[index % len(kinds)]) for index, (name, array) in enumerate(state().items())}
    layer = lstms(arrays)[""]
    assert layer.dtype == np.dtype(dtype)
    assert_same(layer.parameters, {name: array.astype(dtype) for name, array in arrays.items()})


def without(*names, **changes):
    arrays = {**state(sizes=(3, 5, 2), bidirectional=True), **changes}
    return {"rnn." + name: array for name, array in arrays.items() if name not in names}


@pytest.mark.parametrize(
    ("arrays", "messages"),
    [
        (without("weight_ih_l0"), ["rnn.weight_ih_l0 is missing"]),
        (without("weight_hh_l1"), ["rnn.weight_hh_l1 (20, 5) is missing"]),
        (
            without("bias_hh_l1_reverse", "weight_ih_l1", bias_ih_l0=np.ones(19)),
            [
                "bias_hh_l1_reverse (20,) is missing",
                "weight_ih_l1 (20, 10) is missing",
                "bias_ih_l0 has shape (19,), exp",
            ],
        ),
        (without(*(name for name in without() if "l0" in name), weight_ih_l3=np.ones((20, 10))), ["only [0, 1, 3]"]),
        ({"weight_ih_l1": np.ones((20, 3)), "weight_hh_l1": np.ones((20, 5))}, ["weight_ih_l0 is missing"]),
        ({**state(), "weight_ih_l99999": np.ones((20, 5))}, ["only [0, 99999]", "weight_hh_l99999 (20, 5) is missing"]),
        ({**state(), "weight_ih_l100000": np.ones(1)}, ["weight_ih_l100000 looks like part of an LSTM"]),
        ({**state(), "weight_ih_l00": np.ones(1)}, ["weight_ih_l00 looks like part of an LSTM"]),
        ({**state(), "weight_hh_l0_raw": np.ones(1)}, ["weight_hh_l0_raw looks like part of an LSTM"]),
        (
            {"parametrizations.weight_hh_l0.original0": np.ones(1), "rnn.weight_hr_l0_v": np.ones(1)},
            ["parametrizations.weight_hh_l0.original0 looks like", "rnn.weight_hr_l0_v looks like"],
        ),
        (LSTM(3, 5, peepholes=True, layer_norm=True).state_dict(), ["peephole_l0 looks like", "layer_norm_l0 looks"]),
        ({**state(), "weight_ih": np.ones((20, 3))}, ["tensors of both an LSTM and an LSTMCell"]),
        ({"g.weight_ih_l0": np.ones((15, 3)), "g.weight_hh_l0": np.ones((15, 5))}, ["g.weight_hh_l0 has", "of a GRU"]),
        ({"weight_ih_l0": np.ones((5, 3)), "weight_hh_l0": np.ones((5, 5))}, ["that of a plain RNN"]),
        (
            {"weight_ih": np.ones((15, 3)), "weight_hh": np.ones((15, 5))},
            ["weight_hh has shape (15, 5), that of a GRU"],
        ),
        ({"weight_ih_l0": np.ones((20, 3)), "weight_hh_l0": np.ones((20, 4))}, ["or weight_hr with it"]),
        ({**state(), "weight_hr_l0": np.ones((5, 6))}, ["weight_ih_l0 has shape (20, 3), expected (24, 3)"]),
        ({**state(sizes=(3, 5, 2)), "weight_hr_l1": np.ones((4, 5))}, ["weight_hr_l1 has shape (4, 5), expected none"]),
        ({**state(), "weight_hr_l0": np.ones(5)}, ["weight_hr_l0 has shape (5,), expected 2 axes"]),
        ({"weight_ih_l0": np.ones(()), "weight_hh_l0": np.ones((20, 5))}, ["weight_ih_l0 has shape (), expected 2"]),
        ({"weight_ih_l0": np.ones((0, 3)), "weight_hh_l0": np.ones((0, 0))}, ["hidden_size: expected at least 1"]),
        ({"weight_ih_l0": np.ones((20, 0)), "weight_hh_l0": np.ones((20, 5))}, ["input_size: expected at least 1"]),
        ({**state(), "bias_hh_l0": np.ones(20, int)}, ["expected weights of float32,", "bias_hh_l0 of int64"]),
        (LSTM(3, 5, seed=0).quantize("int8").stored(), ["weight_ih_l0_scale looks like part of an LSTM"]),
        (LSTM(3, 5, seed=0).quantize("bf16").stored(), ["weight_ih_l0 of uint16, weight_hh_l0 of uint16"]),
        (
            {"a": state("x."), "b": {"y.weight_ih_l0": np.ones((1, 1))}, "c": [{"z.bias_hh": np.ones(3)}]},
            ["y.weight_hh_l0 is missing", "z.weight_ih is missing"],
        ),
    ],
)
def test_tensors_that_do_not_make_up_an_lstm_are_named(arrays, messages):
    with pytest.raises(ValueError, match="^source: ") as caught:
        lstms(arrays)
    for message in messages:
        assert message in str(caught.value)


@pytest.mark.parametrize("source", [None, 3, [state()], b"a.pt"[0]])
def test_another_source_is_refused(source):
    with pytest.raises(TypeError, match="source: expected a mapping, a path, bytes or a file"):
        lstms(source)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_a_warning_or_an_error(bad):
    arrays = {**state("a."), **state("b.")}
    arrays["b.bias_ih_l0"][2] = bad
    with pytest.warns(UserWarning, match="source: NaN or infinity in b.bias_ih_l0$"):
        assert list(lstms(arrays)) == ["a.", "b."]
    with pytest.raises(ValueError, match="source: NaN or infinity in b.bias_ih_l0$"):
        lstms(arrays, strict=True)


def test_tensors_of_pytorch_are_accepted(torch):
    for kind in ("float32", "float64", "float16", "bfloat16"):
        module = torch_lstm(torch, 3, 5, 2, proj_size=2).to(getattr(torch, kind))
        (layer,) = lstms(dict(module.named_parameters())).values()
        assert_runs_as(torch, layer, module.double() if kind == "float64" else module.float())


# load


def test_other_contents_are_listed(tmp_path):
    path = tmp_path / "a.npz"
    native.write_npz(path, {**state("a."), **state("b.", bias=False)})
    message = (
        r"one LSTM under PyTorch's names and nothing else; its LSTMs: 'a.', 'b.'; its tensors: "
        r"a.weight_ih_l0 \(20, 3\), .*b.weight_hh_l0 \(20, 5\). lstm_cy.weights.pytorch.lstms gives every LSTM"
    )
    with pytest.raises(ValueError, match=f"^{path}: expected {message}"):
        read_model(path, False)
    native.write_npz(path, {**state("a."), "head.weight": np.ones((2, 5))})
    with pytest.raises(ValueError, match=r"its LSTMs: 'a.'; its tensors: .*head.weight \(2, 5\)"):
        read_model(path, False)
    native.write_npz(path, {f"w{index}": np.ones(1) for index in range(99)})
    with pytest.raises(ValueError, match=r"its LSTMs: none; its tensors: w0 \(1,\), .*, and 49 more"):
        read_model(path, False)


def test_tensors_of_a_file_that_do_not_make_up_an_lstm_are_named(tmp_path):
    native.write_npz(tmp_path / "a.npz", {**state(), "weight_hh_l1": np.ones((20, 5))})
    message = r"tensors that do not make up an LSTM of PyTorch's: weight_ih_l1 \(20, 5\) is missing; .*"
    for read_lstms, advice in ((lstms, "To read other tensors, pass lstms a dict of them$"), (load, "")):
        with pytest.raises(ValueError, match=f"^{tmp_path / 'a.npz'}: {message}{advice}"):
            read_lstms(tmp_path / "a.npz")


# Live modules


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False, "num_layers": 2},
        {"batch_first": True, "bidirectional": True},
        {"num_layers": 3, "dropout": 0.25, "proj_size": 2, "bidirectional": True},
    ],
)
@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
def test_from_a_live_lstm(torch, options, kind):
    module = torch_lstm(torch, 3, 5, **options).to(getattr(torch, kind)).eval()
    layer = lstm_cy.from_torch(module)
    config = LSTM(3, 5, **options, dtype="float64" if kind == "float64" else "float32").config
    assert layer.config == config
    assert_runs_as(torch, layer, module.double() if kind == "float64" else module.float())
    weight = layer.parameters["weight_ih_l0"].copy()
    with torch.no_grad():
        module.weight_ih_l0.zero_()
    assert (layer.parameters["weight_ih_l0"] == weight).all()


def test_from_a_live_cell(torch):
    torch.manual_seed(0)
    for bias in (True, False):
        cell = torch.nn.LSTMCell(3, 5, bias=bias)
        layer = lstm_cy.from_torch(cell)
        assert layer.config == LSTM(3, 5, bias=bias).config
        x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype("f4")
        state = None
        with torch.no_grad():
            for step in torch.from_numpy(x):
                state = cell(step, state)
        y, (_, c) = layer(x)
        assert np.abs(y[-1] - state[0].numpy()).max() <= 5e-6
        assert np.abs(c[0] - state[1].numpy()).max() <= 5e-6


def test_from_a_live_sequential(torch):
    nn = torch.nn
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Embedding(11, 4, padding_idx=0, scale_grad_by_freq=True),
        nn.LSTM(4, 6, 2, dropout=0.5, batch_first=True),
        nn.Dropout(0.3),
        nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2, bias=False)),
    ).eval()
    model = lstm_cy.from_torch(module)
    assert [type(layer) for layer in model.layers] == [Embedding, LSTM, Dropout, Linear, Linear]
    assert (model.layers[1].dropout, model.layers[2].p, model.batch_first) == (0.5, 0.3, True)
    tokens = np.random.default_rng(0).integers(0, 11, (3, 7))
    with torch.no_grad():
        x = module[0](torch.from_numpy(tokens))
        expected = module[3](module[2](module[1](x)[0]))
    assert np.abs(model(tokens)[0] - expected.numpy()).max() <= 5e-6
    assert model.layers[0].parameters["weight"][0].tolist() == [0] * 4  # padding_idx, as in PyTorch


def test_modules_of_other_types_are_named(torch):
    nn = torch.nn

    class Own(nn.LSTM):
        pass

    for module, names in [
        (nn.GRU(2, 3), ["module (GRU)"]),
        (Own(2, 3), ["module (Own)"]),
        (
            nn.Sequential(nn.ReLU(), nn.LSTM(2, 3), nn.Sequential(nn.Tanh())),
            ["module[0] (ReLU)", "module[2][0] (Tanh)"],
        ),
    ]:
        with pytest.raises(TypeError, match="module: expected LSTM, LSTMCell, Linear, Embedding, Dropout") as caught:
            lstm_cy.from_torch(module)
        assert all(name in str(caught.value) for name in names)
    for other in (3, None, {"weight_ih_l0": np.ones(1)}, LSTM(2, 3), nn.LSTM):
        with pytest.raises(TypeError, match="module: expected a torch.nn.Module, got"):
            lstm_cy.from_torch(other)


def test_options_that_change_inference_are_refused(torch):
    from torch.nn.utils import prune

    nn = torch.nn
    with pytest.raises(ValueError, match=r"module\[0\]: expected no max_norm, .*, got 1.0"):
        lstm_cy.from_torch(nn.Sequential(nn.Embedding(3, 2, max_norm=1.0)))
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda module, x, y: 2 * y)
    with pytest.raises(ValueError, match=r"expected no forward hooks, .*module\[0\]"):
        lstm_cy.from_torch(nn.Sequential(hooked))
    outer = nn.Sequential(nn.Linear(2, 2))
    outer.register_forward_pre_hook(lambda module, x: x)
    with pytest.raises(ValueError, match="expected no forward hooks"):
        lstm_cy.from_torch(outer)
    pruned = nn.LSTM(2, 3)
    prune.l1_unstructured(pruned, "weight_hh_l0", 0.5)
    with pytest.raises(ValueError, match="expected no forward hooks"):
        lstm_cy.from_torch(pruned)
    normed = torch.nn.utils.parametrizations.weight_norm(nn.LSTM(2, 3), "weight_hh_l0")
    with pytest.raises(TypeError, match="ParametrizedLSTM"):
        lstm_cy.from_torch(normed)
    with pytest.raises(ValueError, match="at least one"):
        lstm_cy.from_torch(nn.Sequential())


def test_without_pytorch_any_module_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TypeError, match="module: expected a torch.nn.Module, got object"):
        lstm_cy.from_torch(object())


# Back to PyTorch


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"bidirectional": True, "proj_size": 2, "dtype": "float64"}, {"batch_first": True}]
)
def test_pytorch_loads_the_state_dict(torch, options):
    layer = LSTM(3, 5, 2, seed=0, **options)
    options = {**options, "dtype": getattr(torch, layer.dtype.name)}
    module = torch.nn.LSTM(3, 5, 2, **options)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in to_state_dict(layer).items()})
    module.batch_first = False
    assert_runs_as(torch, lstms(to_state_dict(layer, "a."))["a."], module)


def test_pytorch_loads_the_state_dict_of_a_sequential(torch):
    nn = torch.nn
    model = Sequential(Embedding(7, 4, seed=1), LSTM(4, 6, seed=2), Dropout(0.1), Linear(6, 7, seed=3))
    module = nn.ModuleDict({"net": nn.Sequential(nn.Embedding(7, 4), nn.LSTM(4, 6), nn.Dropout(0.1), nn.Linear(6, 7))})
    state = to_state_dict(model, "net.")
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    assert_same(lstm_cy.from_torch(module["net"]).parameters, model.parameters)


def test_the_state_dict_is_a_copy():
    layer = LSTM(3, 5, seed=0)
    to_state_dict(layer)["bias_ih_l0"][:] = 7
    assert (layer.parameters["bias_ih_l0"] != 7).all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"reverse": True}, ["reverse=True"]),
        ({"peepholes": True, "layer_norm": True}, ["peepholes=True", "layer_norm=True"]),
        ({"coupled_gates": "f=1-i"}, ["coupled_gates='f=1-i'"]),
        ({"clip": 3.0, "cell_clip": 2.0}, ["clip=3.0", "cell_clip=2.0"]),
        ({"proj_size": 2, "proj_clip": 1.0}, ["proj_clip=1.0"]),
        ({"activations": ("hardsigmoid", "tanh", "tanh")}, ["activations="]),
        ({"activations": (["sigmoid", "tanh", "tanh"], ["sigmoid", "elu", "tanh"]), "bidirectional": True}, ["elu"]),
    ],
)
def test_options_that_pytorch_does_not_have_are_named(options, named):
    layer = LSTM(3, 5, seed=0, **options)
    for model in (layer, Sequential(layer)):
        with pytest.raises(ValueError, match="expected only options of torch.nn.LSTM, got") as caught:
            to_state_dict(model)
        assert all(name in str(caught.value) for name in named)


def test_wrong_models_and_prefixes_are_refused():
    with pytest.raises(TypeError, match="model: expected a layer, got dict"):
        to_state_dict({})
    with pytest.raises(TypeError, match="prefix: expected a string, got NoneType"):
        to_state_dict(LSTM(1, 1), None)


# safetensors


def test_pytorch_reads_our_safetensors_files(torch, safetensors_torch, tmp_path):
    layer = LSTM(3, 5, 2, bidirectional=True, batch_first=True, seed=0)
    save(layer, tmp_path / "a.safetensors")
    module = torch.nn.LSTM(3, 5, 2, bidirectional=True)
    module.load_state_dict(safetensors_torch.load_file(tmp_path / "a.safetensors"))
    again = load(tmp_path / "a.safetensors")
    assert again.config == layer.config
    assert_runs_as(torch, lstms(tmp_path / "a.safetensors")[""], module)


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "bfloat16"])
def test_safetensors_of_pytorch(torch, safetensors_torch, tmp_path, kind):
    module = torch_lstm(torch, 3, 5, bidirectional=True).to(getattr(torch, kind))
    others = {"a": torch.ones(2, dtype=torch.bool), "b": torch.arange(3), "c": torch.empty(0, 2, dtype=torch.bfloat16)}
    tensors = {f"rnn.{name}": tensor for name, tensor in module.state_dict().items()}
    path = tmp_path / "a.safetensors"
    safetensors_torch.save_file({**tensors, **others}, path, {"format": "pt"})
    found = read(path)
    assert found["b"].tolist() == [0, 1, 2]
    assert (found["c"].shape, found["c"].dtype) == ((0, 2), np.float32)
    assert_runs_as(torch, lstms(path)["rnn."], module.double() if kind == "float64" else module.float())
    safetensors_torch.save_file(tensors, path)
    assert_same(read_model(path, True).parameters, lstms(path)["rnn."].parameters)


def test_unsupported_dtypes_are_named(torch, safetensors_torch, tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors_torch.save_file({"w": torch.ones(3).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(ValueError, match=f"^{path}: w: expected one of F64, .* or BF16, got F8_E4M3"):
        read(path)


def test_damaged_safetensors_files_are_refused(torch, safetensors_torch, tmp_path):
    """Truncated, or with a header of 2^60 bytes."""
    path = tmp_path / "a.safetensors"
    tensors = {name: tensor.bfloat16() for name, tensor in torch_lstm(torch, 20, 30).state_dict().items()}
    safetensors_torch.save_file(tensors, path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 1024):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"^{path}: .*eader"):
            read(path)
    path.write_bytes(struct.pack("<Q", 2**60) + whole[8:])
    with pytest.raises(ValueError, match=f"^{path}: .*eader"):
        read(path)


def test_safetensors_is_optional(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    (tmp_path / "a.safetensors").write_bytes(bytes(8))
    with pytest.raises(ImportError, match="pip install safetensors"):
        read(tmp_path / "a.safetensors")


# The documentation


def test_the_examples_that_need_pytorch(torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```py\n(.*?)^```$", (ROOT / "docs" / "formats.md").read_text(), re.MULTILINE | re.DOTALL)
    blocks = [block for block in blocks if "import torch" in block]
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, "formats.md", "exec"), names)


def test_a_repeated_module_becomes_one_layer(torch):
    nn = torch.nn
    linear, other = nn.Linear(3, 3), nn.Linear(3, 3)
    module = nn.Sequential(linear, nn.Sequential(other, linear), nn.Dropout(0.5), linear).eval()
    model = lstm_cy.from_torch(module)
    x = torch.randn(4, 3)
    assert np.abs(model(x.numpy())[0] - module(x).detach().numpy()).max() < 1e-6
    assert model.layers[0] is model.layers[2] is model.layers[4]
    assert len(model.parameters) == 4
    flat = nn.Sequential(linear, other, linear, nn.Dropout(0.5), linear)
    state = to_state_dict(model)
    flat.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    assert state.keys() == flat.state_dict().keys()
