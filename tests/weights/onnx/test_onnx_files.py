"""Files of ONNX: tensors of every type, external data; truncated, damaged and hostile files."""

import os
import subprocess
import sys
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import lstm_cy
from lstm_cy.weights import gate_order
from lstm_cy.weights.budget import LARGEST_DEPTH
from lstm_cy.weights.inspect import describe
from lstm_cy.weights.onnx import from_onnx, lstms, to_onnx
from lstm_cy.weights.onnx.layers import LstmNode, layer_bytes
from lstm_cy.weights.onnx.proto import DTYPES as TENSOR_DTYPES

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import (  # noqa: E402
    FLOAT,
    constant,
    integers,
    model,
    node,
    plain_lstm,
    weights_of,
)

# Files, external data


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("number", TENSOR_DTYPES)
def test_tensors_of_every_type(number, raw):
    dtype = TENSOR_DTYPES[number]
    array = np.array([[0, 1, 100], [1, 0, 255 if dtype.kind == "u" else -128]]).astype(dtype)
    tensor = numpy_helper.from_array(array, "w")
    if not raw:
        bits_of = array.view(np.uint16) if dtype.name == "float16" else array
        tensor = helper.make_tensor("w", number, array.shape, (array if number == 10 else bits_of).ravel().tolist())
    assert tensor.HasField("raw_data") == raw
    made = model([node("Identity", ["w"])], types={"y": number})
    made.graph.initializer.append(tensor)
    (y,) = from_onnx(made).run({})
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, array)


@pytest.mark.parametrize("size", [-1, "?", "", " ", "None", "-1"])
def test_an_unknown_size_is_none(size):
    proto = model([node("Identity", ["x"])], [("x", [size, size, 2])])
    for entry in proto.graph.input[0].type.tensor_type.shape.dim[:2]:  # the helper leaves out an empty name
        if isinstance(size, str):
            entry.dim_param = size
    run = from_onnx(proto)
    assert run.inputs[0].shape == (None, None, 2)
    run.run({"x": np.ones((5, 3, 2))})


def test_a_size_of_0_is_declared():
    run = from_onnx(model([node("Identity", ["x"])], [("x", [0, 2])]))
    assert run.inputs[0].shape == (0, 2)
    assert run.run({"x": np.ones((0, 2))})[0].shape == (0, 2)
    with pytest.raises(ValueError, match=r"x: expected shape \(0, 2\), got \(1, 2\)"):
        run.run({"x": np.ones((1, 2))})


def test_inputs_that_are_no_arrays_of_known_numbers_are_refused():
    values = [helper.make_tensor_value_info("x", kind, None) for kind in (TensorProto.COMPLEX64, 99)]
    values.append(helper.make_tensor_sequence_value_info("x", FLOAT, None))
    for value, kind in zip(values, ("COMPLEX64", "99", "sequence_type"), strict=True):
        proto = model([node("Identity", ["x"])], ["x"])
        proto.graph.input[0].CopyFrom(value)
        with pytest.raises(ValueError, match=f"value 'x': expected an array of numbers or strings, got {kind}$"):
            from_onnx(proto)


def test_sizes_with_the_same_name_must_be_equal():
    run = from_onnx(model([node("Identity", ["x"])], [("x", ["N", "N"])]))
    with pytest.raises(ValueError, match=r"x: expected shape \('N', 'N'\)"):
        run.run({"x": np.ones((5, 3))})


def test_paths_bytes_and_protos_are_read(tmp_path):
    weights = weights_of(np.random.default_rng(13), 1, 3, 5)
    proto = model([plain_lstm("WR")], ["x"], weights=weights)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    x = np.ones((4, 2, 3), np.float32)
    results = [from_onnx(given).run({"x": x}) for given in (proto, path, str(path), path.read_bytes())]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    assert lstm_cy.from_onnx is from_onnx
    with pytest.raises(TypeError, match="model: expected a path, bytes or an onnx.ModelProto, got int"):
        from_onnx(3)
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "missing.onnx")


def test_the_largest_file(monkeypatch):
    proto = model([node("Identity", ["x"])], ["x"])
    size = proto.ByteSize()
    for limit in (size, size - 1):
        monkeypatch.setattr("lstm_cy.weights.onnx.proto.LARGEST_FILE", limit)
        for given in (proto, proto.SerializeToString()):
            if limit == size:
                from_onnx(given)
                continue
            with pytest.raises(ValueError, match=f"^model: {size} bytes; an ONNX file has at most {limit}$"):
                from_onnx(given)


def test_names_of_at_most_100_characters_are_given_whole():
    for name, shown in ((99 * "n" + "'", f'"{99 * "n"}\'"'), (100 * "n" + "'", r"'n*\.\.\. \(.* more characters\)'")):
        with pytest.raises(ValueError, match=f"no node gives output {shown}$"):
            from_onnx(model([node("Relu", ["x"])], ["x"], [name]))


def test_files_are_read_without_the_library_onnx(tmp_path):
    """In another process, where neither onnx nor protobuf can be imported."""
    path, weights = tmp_path / "model.onnx", weights_of(np.random.default_rng(13), 1, 3, 5)
    nodes = [constant("axis", value_ints=[1]), plain_lstm("WRB", outputs=["directions"])]
    proto = model([*nodes, node("Squeeze", ["directions", "axis"])], ["x"], weights=weights)
    path.write_bytes(proto.SerializeToString())
    program = (
        "import sys; sys.modules.update(onnx=None, google=None); import numpy, lstm_cy; "
        "from lstm_cy.weights import inspect, onnx; "
        "path = sys.argv[1]; print(*inspect.describe(path)); (lstm,) = onnx.lstms(path).values(); "
        "(y,) = lstm_cy.load(path).run({'x': numpy.ones((4, 2, 3), 'f4')}); "
        "print((y == lstm(numpy.ones((4, 2, 3)))[0]).all())"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("True\n"), done.stderr


def test_the_library_that_writes_files_is_named_if_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="pip install onnx"):
        to_onnx(lstm_cy.LSTM(3, 5))


@pytest.fixture
def external(tmp_path):
    """(path, change): a model with weights in weights.bin; `change` edits entries of W and rewrites the model."""
    weights = weights_of(np.random.default_rng(14), 1, 3, 5)
    proto = model([plain_lstm("WR")], ["x"], weights={name: weights[name] for name in "WR"})
    folder = tmp_path / "model"
    folder.mkdir()
    offset = 0
    with open(folder / "weights.bin", "wb") as file:
        for tensor in proto.graph.initializer:
            entries = {"location": "weights.bin", "offset": str(offset), "length": str(len(tensor.raw_data))}
            offset += file.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)

    def change(**entries):
        for entry in proto.graph.initializer[0].external_data:
            entry.value = entries.pop(entry.key, entry.value)
        for key, value in entries.items():
            proto.graph.initializer[0].external_data.add(key=key, value=value)
        (folder / "model.onnx").write_bytes(proto.SerializeToString())

    change()
    return folder / "model.onnx", change, weights


def test_external_data_in_the_models_folder_are_read(external, monkeypatch):
    path, _, weights = external
    for given in (path, "model.onnx"):
        monkeypatch.chdir(path.parent)
        (lstm,) = lstms(given).values()
        np.testing.assert_array_equal(
            lstm.parameters["weight_ih_l0"], gate_order.reorder(weights["W"][0], gate_order.ONNX)
        )
    from_onnx(path)
    with pytest.raises(ValueError, match="tensor 'W': its data are in another file; pass the path"):
        lstms(path.read_bytes())


BAD_EXTERNAL = [
    ({"location": "../secret"}, "only files in the model's own folder"),
    ({"location": "/etc/passwd"}, "only files in the model's own folder"),
    ({"location": "inner/weights.bin"}, "only files in the model's own folder"),
    ({"location": ".."}, "only files in the model's own folder"),
    ({"location": "."}, "only files in the model's own folder"),
    ({"location": ""}, "only files in the model's own folder"),
    ({"location": "w\0"}, "only files in the model's own folder"),
    ({"location": "link"}, "it is a link"),
    ({"location": "pipe"}, "it is not a file"),
    ({"location": "inner"}, "it is not a file"),
    ({"location": "missing"}, "No such file"),
    ({"offset": "401"}, "240 bytes at 401 of 'weights.bin', which has 640"),
    ({"offset": str(2**60)}, "which has 640"),
    ({"offset": "-1"}, "external data of 240 bytes at -1"),
    ({"offset": "1e2"}, "external data of 240 bytes at 1e2"),
    ({"offset": "9" * 5000}, "external data of 240 bytes"),
    ({"length": "241"}, "external data of 241 bytes at 0, 240 are expected"),
    ({"length": str(2**60)}, "240 are expected"),
    ({"basepath": "/"}, "'basepath': '/'"),
]


@pytest.mark.parametrize(("entries", "message"), BAD_EXTERNAL)
def test_other_external_data_are_refused(external, entries, message):
    path, change, _ = external
    folder = path.parent
    (folder.parent / "secret").write_bytes(bytes(1000))
    (folder / "inner").mkdir()
    (folder / "inner" / "weights.bin").write_bytes(bytes(1000))
    (folder / "link").symlink_to("weights.bin")
    os.mkfifo(folder / "pipe")
    change(**entries)
    for read in (lstms, from_onnx):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "tensor 'W'" in str(caught.value)


def test_a_link_is_refused_if_opening_would_follow_it(external, monkeypatch):
    path, change, _ = external
    (path.parent / "link").symlink_to("weights.bin")
    change(location="link")
    monkeypatch.delattr(os, "O_NOFOLLOW")  # as on Windows
    monkeypatch.setattr("lstm_cy.weights.onnx.proto._READ", os.O_RDONLY)
    with pytest.raises(ValueError, match="it is a link"):
        lstms(path)


def test_many_tensors_over_one_file_do_not_fill_the_memory(tmp_path):
    """Equal tensors over one file are read once; the sum of all may not be more than the file has."""
    proto = model([node("Relu", ["x"])], ["x"])
    (tmp_path / "w.bin").write_bytes(bytes(4 << 20))
    for number in range(200):
        tensor = proto.graph.initializer.add(name=f"w{number}", dims=[1 << 20], data_type=FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    assert guarded(lambda: from_onnx(path)) < 20 << 20
    for number, tensor in enumerate(proto.graph.initializer):
        tensor.dims[0] = (1 << 20) - number
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match="of them not yet used"):
        from_onnx(path)


# Truncated, damaged and hostile files


def guarded(function):
    """Return the peak memory of Python and NumPy; fail if the function hangs."""
    tracemalloc.start()
    started = time.perf_counter()
    try:
        function()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.perf_counter() - started < 10  # detects a hang; speed is measured elsewhere
    return peak


def assert_refused(proto, message):
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    for read in (lstms, from_onnx):

        def assert_refused_by_one(read=read):
            with pytest.raises(ValueError, match=message) as caught:
                read(data)
            assert str(caught.value).startswith("model: ")

        assert guarded(assert_refused_by_one) < 100 << 20


def test_every_prefix_is_refused(tmp_path):
    weights = weights_of(np.random.default_rng(15), 1, 30, 30)
    data = model([plain_lstm("WRB")], ["x"], weights=weights).SerializeToString()
    path = tmp_path / "model.onnx"
    for size in [*range(0, len(data), 1024), *range(1, 40), *range(len(data) - 40, len(data))]:
        path.write_bytes(data[:size])
        for read in (lstms, from_onnx):
            with pytest.raises(ValueError, match="truncated, or not an ONNX model") as caught:
                read(path)
            assert str(path) in str(caught.value)


def test_damaged_bytes_cause_at_most_a_value_error():
    weights = weights_of(np.random.default_rng(16), 1, 2, 2)
    data = model([plain_lstm("WRB")], ["x"], weights=weights).SerializeToString()
    rng = np.random.default_rng(17)
    for _ in range(400):
        damaged = bytearray(data)
        for index in rng.integers(0, len(data), 2):
            damaged[index] = rng.integers(0, 256)
        for read in (lstms, from_onnx):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    read(bytes(damaged))
                except ValueError as error:
                    assert str(error).startswith("model: ")


def test_invalid_graphs_are_refused():
    relu = node("Relu", ["a"], ["b"], name="relu")
    assert_refused(
        model([relu, node("Relu", ["b"], ["a"])], outputs=["a"]), "node 'relu' .*'a' is made by a later node: a cycle"
    )
    assert_refused(model([node("Relu", ["a"], ["a"])], outputs=["a"]), "'a' is made by a later node: a cycle")
    assert_refused(model([relu], outputs=["b"]), r"node 'relu' \(Relu\): its input 'a' is given by nothing")
    assert_refused(model([relu, relu], ["a"], ["b"]), "value 'b' is given twice")
    assert_refused(model([relu], ["a", "a"], ["b"]), "value 'a' is given twice")
    assert_refused(model([relu], ["a"], ["c"]), "no node gives output 'c'")
    assert_refused(model([], ["a"], ["a"], opset=6), "operators of version 6; versions 7 to 28")
    assert_refused(model([], ["a"], ["a"], opset=99), "operators of version 99; versions 7 to 28")
    assert_refused(model([node("Relu", ["a"] * 1000)], ["a"]), "expected 1 to 1 inputs")
    assert_refused(
        model([node("Transpose", ["w"], perm=[0, 0])], weights={"w": np.ones((2, 2))}),
        "perm: expected each of 2 axes once",
    )
    assert_refused(model([node("Concat", ["a", "a"])], ["a"]), r"\(Concat\): attribute 'axis' is missing")
    assert_refused(
        model([node("Gather", ["", "a"])], ["a"]), r"\(Gather\): input 0 is left out, which this operator needs"
    )
    assert_refused(model([node("Relu", ["a"], ["b", "c"])], ["a"]), r"\(Relu\): expected at most 1 outputs, got 2")
    proto = model([node("Relu", ["w"])], ["w"])
    one, where = (numpy_helper.from_array(np.ones(1, dtype), "w") for dtype in (np.float32, np.int64))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(one, where, [3]))
    assert_refused(proto, "sparse tensors are not supported")
    assert_refused(b"\x0d\0\0\0", "truncated, or not an ONNX model: it ends too early")
    assert_refused(b"", "truncated, or not an ONNX model")
    assert_refused(b"not an ONNX model at all", "truncated, or not an ONNX model")


def test_tensors_with_wrong_sizes_are_refused():
    def with_tensor(**fields):
        proto = model([node("Relu", ["w"])])
        tensor = proto.graph.initializer.add(name="w", data_type=fields.pop("data_type", FLOAT))
        tensor.dims.extend(fields.pop("dims", [1]))
        for name, value in fields.items():
            if isinstance(value, list):
                getattr(tensor, name).extend(value)
            else:
                setattr(tensor, name, value)
        return proto

    assert_refused(with_tensor(dims=[2**60], raw_data=bytes(4)), "tensor 'w': shape .* elements, the file holds 1")
    assert_refused(with_tensor(dims=[2**40, 2**40]), "the file holds 0")
    assert_refused(with_tensor(dims=[-1], raw_data=bytes(4)), r"tensor 'w': shape \(-1,\)")
    assert_refused(with_tensor(dims=[-1, -1], raw_data=bytes(4)), r"tensor 'w': shape \(-1, -1\)")
    assert_refused(with_tensor(dims=[1], raw_data=bytes(5)), "the file holds 1.25")
    assert_refused(with_tensor(dims=[2], float_data=[1.0]), "the file holds 1")
    assert_refused(with_tensor(dims=[1] * 100, raw_data=bytes(4)), "tensor 'w': 100 dimensions; at most 64")
    assert_refused(with_tensor(dims=[2**62] * 10_000), "tensor 'w': 10000 dimensions; at most 64")
    assert_refused(with_tensor(dims=[2**50, 0], raw_data=b""), "its other axes would take")
    from_onnx(with_tensor(dims=[1] * 64, raw_data=bytes(4)))
    assert_refused(with_tensor(dims=[1] * 65, raw_data=bytes(4)), "tensor 'w': 65 dimensions; at most 64")
    from_onnx(with_tensor(dims=[2**28, 0], raw_data=b""))
    assert_refused(with_tensor(dims=[2**28 + 1, 0], raw_data=b""), "its other axes would take")
    assert_refused(with_tensor(data_type=0), "type UNDEFINED")
    assert_refused(with_tensor(data_type=8), r"tensor 'w': shape \(1,\) does not fit its 0 strings")
    assert_refused(with_tensor(data_type=99), "type 99")
    proto = with_tensor(raw_data=bytes(4))
    proto.graph.initializer[0].segment.begin = 1
    assert_refused(proto, "segments are not supported")


def test_strings_must_be_in_their_own_field():
    proto = model([node("Identity", ["w"])])
    tensor = proto.graph.initializer.add(name="w", data_type=TensorProto.STRING, dims=[1], string_data=[b"a"])
    assert from_onnx(proto).run({})[0].tolist() == ["a"]
    tensor.raw_data = b"a"
    assert_refused(proto, "tensor 'w': expected strings in string_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    assert_refused(proto, "tensor 'w': expected strings in string_data")


def test_attributes_that_give_no_plain_value_are_refused():
    one, where = (numpy_helper.from_array(np.ones(1, dtype)) for dtype in (np.float32, np.int64))
    proto = model([node("Constant", [], name="few", sparse_value=helper.make_sparse_tensor(one, where, [3]))])
    assert_refused(proto, r"node 'few' \(Constant\): attribute 'sparse_value' is of a type that is not supported")
    proto = model([node("Transpose", ["x"], name="swap", perm=[1, 0])], ["x"])
    (attribute,) = proto.graph.node[0].attribute
    attribute.ref_attr_name = "perm"  # an attribute of the function around the node
    assert_refused(proto, r"node 'swap' \(Transpose\): attribute 'perm' is of a type that is not supported")
    attribute.ClearField("ref_attr_name")
    from_onnx(proto)
    proto.graph.node[0].attribute.append(attribute)
    assert_refused(proto, r"node 'swap' \(Transpose\): attribute 'perm' occurs twice")


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("ConstantOfShape", ["n"], ["W"])], {"n": integers(2**20, 2**20)}),
        ([node("Expand", ["one", "n"], ["W"])], {"n": integers(2**20, 2**20), "one": np.ones(1, np.float32)}),
        ([node("Tile", ["one", "n"], ["W"])], {"n": integers(2**40), "one": np.ones(1, np.float32)}),
        ([node("Range", ["zero", "n", "one"], ["W"])], {"n": np.int64(2**50), "one": np.int64(1), "zero": np.int64(0)}),
        ([node("Pad", ["one", "n"], ["W"])], {"n": integers(0, 2**40), "one": np.ones(1, np.float32)}),
        ([node("Add", ["a", "b"], ["W"])], {"a": np.ones((2**15, 1)), "b": np.ones((1, 2**15))}),
        ([node("Gather", ["a", "b"], ["W"])], {"a": np.ones((1, 2**15)), "b": np.zeros(2**15, np.int64)}),
        (
            [
                node("Concat", ["v0" if k == 0 else f"v{k}"] * 8, ["W" if k == 9 else f"v{k + 1}"], axis=0)
                for k in range(10)
            ],
            {"v0": np.ones(1000, np.float32)},
        ),
    ],
    ids=lambda value: value[0].op_type if isinstance(value, list) else "",
)
def test_constant_folding_is_limited(nodes, weights):
    """The constant is not folded: `lstms` raises, and `from_onnx` leaves it to the run, which refuses it too."""
    weights = {**weights, "R": np.ones((1, 4, 1), np.float32)}
    proto = model([*nodes, plain_lstm("WR")], ["x"], weights=weights)

    def assert_refused_by_one():
        with pytest.raises(ValueError, match="W = 'W': not constant, or over the limit of constant folding"):
            lstms(proto)

    assert guarded(assert_refused_by_one) < 100 << 20
    from_onnx(proto)


def repeated_lstm(count, I, H, **changes):
    """Return LSTM nodes whose weights are one folded tensor each."""
    nodes = []
    for name, shape in (("W", [1, 4 * H, I]), ("R", [1, 4 * H, H])):
        nodes += [constant(f"{name}_shape", value_ints=shape), node("ConstantOfShape", [f"{name}_shape"], [name])]
    for k in range(count):
        options = {key: values[k] for key, values in changes.items()}
        nodes.append(plain_lstm("WR", outputs=[f"y{k}"], name=f"lstm{k}", **options))
    return model(nodes, ["x"], [f"y{k}" for k in range(count)])


def test_nodes_with_the_same_weights_share_layers(monkeypatch):
    made = []
    layer = LstmNode.layer
    monkeypatch.setattr(LstmNode, "layer", lambda *arguments: made.append(1) or layer(*arguments))
    proto = repeated_lstm(30, 1000, 2)
    run = from_onnx(proto)
    assert len(made) == 1
    results = run.run({"x": np.ones((3, 2, 1000))})
    assert all((result == results[0]).all() for result in results)
    found = lstms(proto)
    assert len(made) == 2
    parameters = [lstm.parameters["weight_ih_l0"] for lstm in found.values()]
    assert all(np.shares_memory(array, parameters[0]) for array in parameters)
    found["lstm0"].load_state_dict({name: array + 1 for name, array in found["lstm0"].parameters.items()})
    assert not found["lstm1"].parameters["weight_ih_l0"].any()  # each layer still belongs to the caller alone
    made.clear()
    from_onnx(repeated_lstm(3, 5, 2, clip=[1.0, 2.0, 1.0]))
    assert len(made) == 2


def test_layers_are_charged_to_the_budget(monkeypatch):
    """Layers over the budget are made when the graph runs, and `lstms` raises; weights in the file have no limit."""
    made = []
    layer = LstmNode.layer
    monkeypatch.setattr(LstmNode, "layer", lambda *arguments: made.append(1) or layer(*arguments))
    proto = repeated_lstm(300, 100_000, 1, clip=[1.0 + k for k in range(300)])
    with pytest.raises(ValueError, match="^model: its layers: would take more than .* the limit for a file of"):
        lstms(proto)
    assert 0 < len(made) < 100
    made.clear()
    run = from_onnx(proto)
    assert len(made) < 100
    (y,) = run.run({"x": np.ones((3, 2, 100_000), np.float32)}, outputs=["y299"])
    assert y.shape == (3, 1, 2, 1)
    made.clear()
    weights = weights_of(np.random.default_rng(19), 1, 500_000, 4)
    lstms(model([plain_lstm("WR")], ["x"], weights=weights).SerializeToString())
    assert made == [1]


@pytest.mark.parametrize(
    ("D", "I", "H", "numbers"),
    [
        # 4H (I + H + 2) parameters, twice, and as many packed, with H rounded up to a multiple of 16
        (1, 3, 5, 4 * 5 * 10 + 4 * 5 * 10 + 4 * 16 * 10),
        (2, 1, 16, 2 * (4 * 16 * 19 + 4 * 16 * 19 + 4 * 16 * 19)),
        (1, 40, 17, 4 * 17 * 59 + 4 * 17 * 59 + 4 * 32 * 59),
    ],
)
@pytest.mark.parametrize(("dtype", "width"), [("float16", 4), ("float32", 4), ("float64", 8)])
def test_the_memory_of_a_layer(D, I, H, numbers, dtype, width):
    weights = [array.astype(dtype) for array in weights_of(np.random.default_rng(0), D, I, H).values()]
    assert layer_bytes(weights) == width * numbers
    assert layer_bytes([None, weights[1]]) == layer_bytes([weights[0], weights[1][0]]) == 0


def varint(number):
    result = b""
    while number > 127:
        result += bytes([number & 127 | 128])
        number >>= 7
    return result + bytes([number])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def file_of(graph, before=b""):
    """Return a file with this content of its graph, without the library onnx, which might change it."""
    return before + field(7, graph) + bytes.fromhex("42021011")


COSTLY = {
    "nodes": file_of(b"\x0a\0" * 100_000),
    "tensors": file_of(b"\x2a\0" * 100_000),
    "inputs": file_of(b"\x5a\0" * 100_000),
    "properties": file_of(b"", b"\x72\0" * 300_000),
    "names": file_of(field(1, b"\x0a\0" * 300_000)),
    "attributes": file_of(field(1, b"\x2a\0" * 150_000)),
    "integers of an attribute": file_of(field(1, field(5, field(8, bytes(900_000))))),
    "dimensions": file_of(field(5, field(1, bytes(900_000)))),
    "strings": file_of(field(5, b"\x32\0" * 300_000)),
    "pieces of numbers": file_of(field(5, field(5, b"\1") * 100_000)),
    "opsets": file_of(b"", b"\x42\0" * 300_000),
    "functions": file_of(b"", field(25, b"\x3a\0" * 50_000)),
    "numbers in many bytes": file_of(b"", (b"\x88" + b"\x80" * 8 + b"\0\0") * 50_000),
}


@pytest.mark.parametrize("kind", COSTLY)
def test_costly_small_files_are_refused_before_they_are_made(kind):
    message = "model: its (nodes and tensors|numbers): would take more than 800000 objects, the limit for a file of"
    with pytest.raises(ValueError, match=message):
        from_onnx(COSTLY[kind])


def test_packed_integers_are_charged_as_memory():
    with pytest.raises(ValueError, match="model: its numbers: would take more than .* bytes of memory"):
        from_onnx(file_of(field(5, field(7, bytes(20_000_000)))))


def test_texts_must_be_utf_8():
    for content in (field(1, field(4, b"\xff")), field(5, field(8, b"\xed\xa0\x80"))):
        with pytest.raises(ValueError, match="truncated, or not an ONNX model: 'utf-8' codec can't decode"):
            from_onnx(file_of(content))
    with pytest.raises(ValueError, match="utf-8"):
        from_onnx(file_of(field(1, field(4, b"n" * 100_000 + b"\xff"))))
    assert from_onnx(file_of(field(10, b"a page of text in Latin-1: \xe9"))).inputs == ()  # a doc_string is not decoded


def test_a_sparse_file_is_not_read_completely(tmp_path):
    path = tmp_path / "model.onnx"
    for begin in (b"", bytes.fromhex("0808 3a 9cfc a0cb 05"), b"PK\3\4", b"some text"):
        with open(path, "wb") as file:
            file.write(begin)
            file.truncate(1_500_000_000)

        def assert_refused_by_one():
            with pytest.raises(ValueError, match="truncated, or not an ONNX model") as caught:
                from_onnx(path)
            assert str(path) in str(caught.value)

        assert guarded(assert_refused_by_one) < 1 << 20


def test_a_pipe_is_read(tmp_path):
    path = tmp_path / "pipe.onnx"
    os.mkfifo(path)
    data = model([node("Relu", ["x"])], ["x"]).SerializeToString()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(path.write_bytes, data)
        assert from_onnx(path).run({"x": [-1.0]})[0] == [0]
        writing.result()


def test_too_many_nodes_and_too_deep_graphs_are_refused():
    identity = [node("Identity", ["x" if k == 0 else f"v{k}"], [f"v{k + 1}"]) for k in range(40_000)]
    with pytest.raises(ValueError, match="model: its nodes and tensors: would take more than 800000 objects"):
        from_onnx(model(identity, ["x"], ["v1"]).SerializeToString())
    proto = model([], ["x"], ["x"])
    graph = proto.graph
    for _ in range(LARGEST_DEPTH + 2):  # the last stays empty
        choice = graph.node.add(op_type="If", input=["x"])
        graph = choice.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
    for given in (proto, proto.SerializeToString()):
        with pytest.raises(ValueError, match="model: graphs inside graphs: nested deeper than 64 levels"):
            from_onnx(given)


def test_functions_that_replace_operators_are_refused():
    proto = model([node("Relu", ["x"])], ["x"])
    proto.functions.append(
        helper.make_function("", "Relu", ["x"], ["y"], [node("Neg", ["x"])], [helper.make_opsetid("", 17)])
    )
    assert_refused(proto, "functions that replace ONNX's operators: Relu")


def test_an_lstm_inside_a_function_is_refused():
    proto = model([node("Mine", ["x"], domain="mine")], ["x"])
    inside = [node("Relu", ["x"], ["z"]), node("LSTM", ["z", "z", "z"])]
    proto.functions.append(helper.make_function("mine", "Mine", ["x"], ["y"], inside, [helper.make_opsetid("", 17)]))
    with pytest.raises(ValueError, match="function 'Mine' has an LSTM; onnx.inliner"):
        lstms(proto)


def test_the_description_of_a_file_escapes_control_characters_in_names(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(model([node("Identity", ["a\x1b[2Jb"])], [("a\x1b[2Jb", [1])]), path)
    lines = describe(path)
    assert any(r"a\x1b[2Jb" in line for line in lines)
    assert not any("\x1b" in line for line in lines)
