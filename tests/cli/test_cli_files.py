"""The commands convert and inspect."""

import math
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from running import failure

import lstm_cy.__main__
from lstm_cy import LSTM, Activation, Dropout, Embedding, Linear, Seq2Seq, Sequential, cli, load, save
from lstm_cy.weights import comparisons, gate_order


def shown(capsys, *arguments):
    """Run a command that succeeds in this process; return the lines of its output."""
    assert cli.main(list(map(str, arguments))) == 0
    return capsys.readouterr().out.splitlines()


def beginnings(lines):
    return [line.split(":")[0] for line in lines]


def stacked():
    return LSTM(3, 5, 2, bidirectional=True, seed=0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_convert_between_files_of_ours(folder, capsys):
    pytest.importorskip("safetensors")
    save(stacked(), "a.npz", {"unit": "mm"})
    assert shown(capsys, "convert", "a.npz", "b.safetensors", "--check") == [
        f"b.safetensors: LSTM, {Path('b.safetensors').stat().st_size} bytes",
        "lstm_cy, reading it again: largest difference 0.0e+00",
    ]
    model = load("b.safetensors")
    assert model.metadata == {"unit": "mm"}
    assert np.array_equal(model.parameters["weight_hh_l1_reverse"], stacked().parameters["weight_hh_l1_reverse"])


@pytest.mark.parametrize("options", [[], ["--states"], ["--lengths"], ["--states", "--lengths"]])
def test_convert_to_onnx_and_back(folder, capsys, options):
    pytest.importorskip("onnxruntime")
    save(LSTM(3, 5, bidirectional=True, batch_first=True, seed=0), "a.npz", {"unit": "mm"})
    lines = shown(capsys, "convert", "a.npz", "a.onnx", "--check", *options)
    assert beginnings(lines) == ["a.onnx", "ONNX Runtime", "lstm_cy, reading it again"]
    graph = load("a.onnx")
    inputs = {"--states": {"h0", "c0"}, "--lengths": {"lengths"}}
    assert {value.name for value in graph.inputs} == {"x"}.union(*(inputs[option] for option in options))
    assert graph.metadata == {"unit": "mm"}
    lines = shown(capsys, "convert", "a.onnx", "b.npz", "--check")
    assert beginnings(lines) == ["b.npz", "ONNX Runtime", "lstm_cy, reading it again"]
    assert load("b.npz").config == LSTM(3, 5, bidirectional=True).config  # time is the first axis inside our graphs


@pytest.mark.parametrize("model", [stacked, lambda: LSTM(2, 3, reverse=True, dtype="float64")])
def test_check_finds_gates_in_the_wrong_order(folder, capsys, monkeypatch, model):
    """Writing and reading have the same fault, which only another implementation can detect."""
    pytest.importorskip("onnxruntime")
    save(model(), "a.npz")
    monkeypatch.setattr(gate_order, "ONNX", gate_order.ORDER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # float64
        err = failure(["convert", "a.npz", "a.onnx", "--check"], capsys)
    assert err.endswith("the outputs are more than 0.0001 apart: ONNX Runtime\n")


def test_check_treats_nan_as_a_difference(folder, capsys, monkeypatch):
    save(LSTM(1, 1), "a.npz")
    monkeypatch.setattr(comparisons, "reread_difference", lambda read, model: math.nan)
    assert "more than 0.0001 apart" in failure(["convert", "a.npz", "b.npz", "--check"], capsys)


def test_check_prints_which_framework_is_not_installed(folder, capsys, monkeypatch):
    pytest.importorskip("onnx")
    save(LSTM(1, 1), "a.npz")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    lines = shown(capsys, "convert", "a.npz", "a.onnx", "--check")
    assert lines[1] == "ONNX Runtime: not installed, not compared"
    assert lines[2].startswith("lstm_cy, reading it again: largest difference ")


def test_check_reports_a_framework_that_cannot_run_the_file(folder, capsys, monkeypatch):
    runtime = pytest.importorskip("onnxruntime")

    def fail(*arguments, **keywords):
        raise RuntimeError("no such operator")

    save(LSTM(1, 1), "a.npz")
    monkeypatch.setattr(runtime, "InferenceSession", fail)
    err = failure(["convert", "a.npz", "a.onnx", "--check"], capsys)
    assert "ONNX Runtime cannot run it: no such operator" in err


def test_convert_from_pytorch(folder, capsys):
    torch = pytest.importorskip("torch")
    module = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 5, 2, proj_size=2), "head": torch.nn.Linear(2, 4)})
    torch.save({"epoch": 1, "state": module.state_dict()}, "a.pt")
    for arguments in ([], ["--name=rnn"]):
        err = failure(["convert", "a.pt", "a.npz", *arguments], capsys)
        assert "would be left behind: state/head.weight (4, 2), state/head.bias (4,). With partial (--partial)" in err
        assert not Path("a.npz").exists()
    message = "a.pt: expected the name of one of its LSTMs: 'rnn.'"
    assert message in failure(["convert", "a.pt", "a.npz", "--name=head"], capsys)
    for name in (["--name=rnn"], ["--name=rnn."], []):
        lines = shown(capsys, "convert", "a.pt", "a.npz", "--partial", *name, "--batch-first", "--check")
        assert beginnings(lines) == ["a.npz", "left behind", "PyTorch", "lstm_cy, reading it again"]
        assert lines[1] == "left behind: state/head.weight (4, 2), state/head.bias (4,)"
        assert lines[2].startswith("PyTorch: largest difference ")
    model = load("a.npz")
    assert (model.proj_size, model.batch_first) == (2, True)
    assert np.array_equal(model.parameters["weight_hr_l1"], module["rnn"].weight_hr_l1.detach().numpy())


@pytest.mark.parametrize("name", ["LSTM", "LSTMCell"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_check_lets_pytorch_read_the_file(folder, capsys, name, suffix):
    torch = pytest.importorskip("torch")
    tensors = getattr(torch.nn, name)(3, 5).state_dict()
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(tensors, f"a{suffix}")
    elif suffix == ".npz":
        np.savez("a.npz", **{key: tensor.numpy() for key, tensor in tensors.items()})
    else:
        torch.save(tensors, f"a{suffix}")
    lines = shown(capsys, "convert", f"a{suffix}", "b.npz", "--batch-first", "--check")
    assert lines[1].startswith("PyTorch: largest difference ")
    assert load("b.npz").batch_first


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_convert_from_keras(folder, capsys, monkeypatch, suffix):
    pytest.importorskip("torch")
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
        layers = [keras.layers.Bidirectional(keras.layers.LSTM(4)), keras.layers.Dense(2, "softmax")]
        keras.Sequential([keras.layers.Input((7, 3)), *layers]).save(f"a{suffix}")
    lines = shown(capsys, "convert", f"a{suffix}", "a.npz", "--check")
    assert beginnings(lines) == ["a.npz", "Keras", "lstm_cy, reading it again"]
    lines = shown(capsys, "inspect", f"a{suffix}")
    assert lines[0].endswith("bytes, a model of Keras")
    assert "  0  LSTM(input_size=3, hidden_size=4, batch_first=True, bidirectional=True)" in lines
    assert "gates in the file: i, f, g, o" in lines


def test_convert_takes_a_node_of_a_graph(folder, capsys):
    pytest.importorskip("onnxruntime")
    save(stacked(), "a.npz")
    shown(capsys, "convert", "a.npz", "a.onnx", "--states")
    message = "a.onnx: expected the name of one of its LSTMs: 'l0', 'l1'"
    assert message in failure(["convert", "a.onnx", "b.npz"], capsys)
    assert "would be left behind: 1 LSTM" in failure(["convert", "a.onnx", "b.npz", "--name=l1"], capsys)
    lines = shown(capsys, "convert", "a.onnx", "b.npz", "--name=l1", "--partial", "--check")
    assert lines[1] == "left behind: 1 LSTM"
    assert lines[2].startswith("ONNX Runtime: largest difference ")
    assert load("b.npz").config == LSTM(10, 5, bidirectional=True).config


@pytest.mark.parametrize(
    ("layers", "left"),
    [
        ([Embedding(9, 3), LSTM(3, 5)], "1 Gather"),
        ([LSTM(3, 5), Linear(5, 2)], "1 MatMul, 1 Add"),
        ([LSTM(3, 5), Activation("relu")], "1 Relu"),
    ],
)
def test_other_nodes_of_a_graph_are_left_behind_only_with_partial(folder, capsys, layers, left):
    pytest.importorskip("onnx")
    save(Sequential(*layers), "a.onnx")
    assert f"would be left behind: {left}. " in failure(["convert", "a.onnx", "a.npz"], capsys)
    assert not Path("a.npz").exists()
    assert shown(capsys, "convert", "a.onnx", "a.npz", "--partial")[1] == f"left behind: {left}"
    assert load("a.npz").hidden_size == 5


def test_a_node_is_compared_without_the_rest_of_its_graph(folder, capsys):
    """The LSTM nodes omit outputs, as exporters do, and a Transpose computes the weight of one."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    save(stacked(), "a.npz")
    shown(capsys, "convert", "a.npz", "a.onnx")
    graph = onnx.load("a.onnx")
    nodes = [node for node in graph.graph.node if node.op_type != "Concat"]
    for node in nodes:
        if node.op_type == "LSTM":
            node.output[1:] = ["", ""]
    turned = onnx.helper.make_node("Transpose", ["l1.W.turned"], ["l1.W"], perm=[0, 2, 1])
    (weight,) = (tensor for tensor in graph.graph.initializer if tensor.name == "l1.W")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).swapaxes(1, 2), "l1.W.turned"))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in [turned, *nodes]]
    del graph.graph.node[:], graph.graph.output[1:]
    graph.graph.node.extend(nodes)
    onnx.save(graph, "b.onnx")
    lines = shown(capsys, "convert", "b.onnx", "b.npz", "--name=l1", "--partial", "--check")
    assert lines[2].startswith("ONNX Runtime: largest difference ")


def test_a_node_with_layout_1_is_compared(folder, capsys):
    """ONNX Runtime refuses layout 1; the same node with transposed axes is compared."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    save(LSTM(3, 5, reverse=True, seed=0), "a.npz")
    shown(capsys, "convert", "a.npz", "a.onnx", "--lengths")
    graph = onnx.load("a.onnx")
    graph.graph.node[0].attribute.append(onnx.helper.make_attribute("layout", 1))
    onnx.save(graph, "b.onnx")
    lines = shown(capsys, "convert", "b.onnx", "b.npz", "--check")
    assert lines[1].startswith("ONNX Runtime: largest difference ")
    assert load("b.npz").batch_first


def test_inspect_a_model_of_ours(folder, capsys):
    lstm = LSTM(4, 6, 2, batch_first=True, activations=("hardsigmoid", "tanh", "relu"), seed=0)
    save(Sequential(Embedding(9, 4), lstm, Dropout(0.25), Linear(6, 9)), "a.npz", {"vocabulary": "abc"})
    lines = shown(capsys, "inspect", "a.npz")
    assert lines[:9] == [
        f"a.npz: {Path('a.npz').stat().st_size} bytes, a model of lstm_cy, format version 1",
        "layers",
        "  0  Embedding(num_embeddings=9, embedding_dim=4)",
        "  1  LSTM(input_size=4, hidden_size=6, num_layers=2, batch_first=True, "
        "activations=[[['hardsigmoid', 0.2, 0.5], ['tanh', 0.0, 0.0], ['relu', 0.0, 0.0]]])",
        "  2  Dropout(p=0.25)",
        "  3  Linear(in_features=6, out_features=9)",
        "gates in the file: i, f, g, o",
        "tensors: 11, 723 numbers, 2892 bytes",
        "  0.weight        float32 (9, 4)",
    ]
    assert lines[-1] == "metadata: vocabulary"


def test_inspect_shows_no_control_characters(folder, capsys):
    arrays = {f"\x1b[31m{name}": array for name, array in LSTM(3, 5).parameters.items()}
    np.savez("a.npz", **arrays, **{"\u202eend": np.ones(1)})
    lines = shown(capsys, "inspect", "a.npz")
    assert "  \\x1b[31m  LSTM(input_size=3, hidden_size=5)" in lines
    assert "other tensors: 1, 1 number, 8 bytes" in lines
    assert "  \\u202eend  float64 (1,)" in lines
    save(LSTM(3, 5), "b.npz", {"\x1b]0;title\x07": 1, "a\n  forged": 2})
    assert shown(capsys, "inspect", "b.npz")[-1] == "metadata: \\x1b]0;title\\x07, a\\n  forged"


def test_inspect_every_kind_of_layer(folder, capsys):
    save(Seq2Seq(5, embedding_dim=2, hidden_size=4), "a.npz")
    assert shown(capsys, "inspect", "a.npz")[2].startswith("  Seq2Seq(")


def test_inspect_shows_the_tensors_of_a_file_that_is_not_read(folder, capsys):
    arrays = LSTM(3, 5).state_dict()
    np.savez("a.npz", **arrays | {"weight_hh_l0": np.ones((7, 5))}, head=np.ones(2))
    lines = shown(capsys, "inspect", "a.npz")
    assert lines[1] == "LSTMs"
    assert lines[2].startswith("  not read  tensors that do not make up an LSTM of PyTorch's: weight_hh_l0 has shape")
    assert "  head          float64 (2,)" in lines


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_inspect_a_model_of_keras_with_a_layer_that_is_not_read(folder, capsys, monkeypatch, suffix):
    pytest.importorskip("torch")
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
        layers = [keras.layers.LSTM(4, name="memory"), keras.layers.GroupNormalization(2, name="norm")]
        keras.Sequential([keras.layers.Input((7, 3)), *layers]).save(f"a{suffix}")
    lines = shown(capsys, "inspect", f"a{suffix}")
    assert lines[0].endswith("bytes, a model of Keras that is not read")
    assert ["memory", "LSTM"] in [line.split() for line in lines]
    assert lines[lines.index("not supported") + 1] == "  norm  layer GroupNormalization"
    assert any("float32 (3, 16)" in line for line in lines)


def test_inspect_narrow_weights(folder, capsys):
    save(LSTM(3, 5).quantize("int8"), "a.npz")
    lines = shown(capsys, "inspect", "a.npz")
    assert lines[2] == "  QuantizedLSTM(input_size=3, hidden_size=5, weights='int8')"
    assert "  weight_ih_l0        int8 (20, 3)" in lines


def test_inspect_tensors_under_pytorchs_names(folder, capsys):
    arrays = {f"encoder.rnn.{name}": array for name, array in LSTM(3, 5, seed=0).parameters.items()}
    np.savez("a.npz", **arrays, head=np.ones((2, 5)))
    assert shown(capsys, "inspect", "a.npz")[1:] == [
        "LSTMs",
        "  encoder.rnn.  LSTM(input_size=3, hidden_size=5)",
        "gates in the file: i, f, g, o",
        "their tensors: 4, 200 numbers, 800 bytes",
        "  encoder.rnn.weight_ih_l0  float32 (20, 3)",
        "  encoder.rnn.weight_hh_l0  float32 (20, 5)",
        "  encoder.rnn.bias_ih_l0    float32 (20,)",
        "  encoder.rnn.bias_hh_l0    float32 (20,)",
        "other tensors: 1, 10 numbers, 80 bytes",
        "  head  float64 (2, 5)",
    ]
    np.savez("b.npz", head=np.ones((2, 5)))
    assert "LSTMs: none" in shown(capsys, "inspect", "b.npz")


def test_inspect_a_graph(folder, capsys):
    onnx = pytest.importorskip("onnx")
    save(LSTM(3, 5, 2, peepholes=True, clip=2.0), "a.npz", {"unit": "mm"})
    shown(capsys, "convert", "a.npz", "a.onnx", "--lengths")
    lines = shown(capsys, "inspect", "a.onnx")
    assert lines[0].endswith(f" bytes, an ONNX graph, operators of version 17, by lstm_cy {lstm_cy.__version__}")
    assert lines[1:15] == [
        "inputs",
        "  x        float32 (T, B, 3)",
        "  lengths  int32 (B)",
        "outputs",
        "  y    float32 (T, B, 5)",
        "  h_n  float32 (2, B, 5)",
        "  c_n  float32 (2, B, 5)",
        "LSTM nodes",
        "  l0  LSTM(input_size=3, hidden_size=5, peepholes=True, clip=2.0)",
        "  l1  LSTM(input_size=5, hidden_size=5, peepholes=True, clip=2.0)",
        "gates in the file: i, o, f, g",
        "operators: Concat 2, LSTM 2, Squeeze 2",
        "not supported: none",
        "tensors: 8, 470 numbers, 1880 bytes",
    ]
    assert lines[-1] == "metadata: unit"

    graph = onnx.load("a.onnx")
    graph.graph.node.append(onnx.helper.make_node("Hardmax", ["y"], ["z"], name="hard"))
    graph.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, ["T", None, 5]))
    onnx.save(graph, "b.onnx")
    lines = shown(capsys, "inspect", "b.onnx")
    assert "  z    float32 (T, ?, 5)" in lines
    assert "operators: Concat 2, Hardmax 1, LSTM 2, Squeeze 2" in lines
    assert lines[lines.index("not supported") + 1] == "  Hardmax  1, node 'hard' (Hardmax)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "a.txt"], "No such file or directory: 'a.txt'"),
        (["inspect", "missing.pt"], "No such file or directory: 'missing.pt'"),
        (["inspect", "damaged.npz"], "damaged.npz: truncated"),
        (["convert", "a.npz", "b.txt"], ".nam, .json or .aidax, got 'b.txt'"),
        (["convert", "a.npz", "missing/b.npz"], "No such file or directory: 'missing/b.npz'"),
        (["convert", "a.npz", "b.npz", "--states"], "states (--states) and lengths (--lengths) are inputs"),
        (["convert", "a.npz", "b.npz", "--name=x"], "a.npz: holds a whole model, expected no name (--name), got 'x'"),
        (["convert", "a.npz", "b.npz", "--batch-first"], "batch_first (--batch-first) is only for"),
    ],
)
def test_files_that_cannot_be_converted(folder, capsys, arguments, message):
    save(LSTM(1, 1), "a.npz")
    Path("damaged.npz").write_bytes(b"PK")
    assert message in failure(arguments, capsys)
    assert sorted(path.name for path in folder.iterdir()) == ["a.npz", "damaged.npz"]
