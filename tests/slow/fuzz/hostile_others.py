"""Hostile pickles, JSON, Keras models and protobuf for hostile.py, for the readers of other programs' files."""

import json
import struct

from hostile_graphs import field, raw
from hostile_trees import Hdf5, zipped
from mutations_binary import varint

KINDS = {}


def kind(function):
    KINDS[function.__name__] = function
    return function


def as_pickle(rng, content):
    """Return a bare pickle, a file before PyTorch 1.6, or one in a ZIP archive."""
    form = rng.randrange(3)
    if form == 0:
        return ".pkl", b"\x80\x02" + content
    if form == 1:
        start = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\0."
        return ".pt", start + b"\x80\x02" + content + b"\x80\x02]."
    return ".pt", zipped(archive__data_dot_pkl=b"\x80\x02" + content, archive__version="3\n")


@kind
def pickle_memo_bomb(rng, n):
    """Each value holds the one before twice, or many times."""
    times, depth = rng.choice((2, 10, 1000)), min(n, 5000)
    close = rng.choice((b"t", b"l", b"\x90", b"\x91"))
    begin = b"\x8f(" if close == b"\x90" else b"("
    return as_pickle(rng, b"]q\0" + b"".join(begin + b"h\0" * times + close + b"q\0" for _ in range(depth)) + b".")


@kind
def pickle_of_itself(rng, n):
    inside = rng.choice((b"]q\0h\0a", b"}q\0X\1\0\0\0ah\0s", b"cos\nsystem\nq\0)\x81q\1}X\1\0\0\0ah\1sb"))
    return as_pickle(rng, b"(" + inside * min(n, 50_000) + b"l.")


@kind
def pickle_deep(rng, n):
    once, end = rng.choice(((b"(", b"t"), (b"(", b"l"), (b"}X\1\0\0\0a", b"s"), (b"cos\nsystem\n", b"\x85R")))
    n = min(n, 100_000)
    return as_pickle(rng, once * n + b"N" + end * n + b".")


@kind
def pickle_long(rng, n):
    n = min(n, 3_000_000)
    numbers = (
        b"\x8b" + struct.pack("<I", n) + b"\x7f" * n,
        b"\x8b" + struct.pack("<I", 2**31 - 1),
        b"L" + b"9" * n + b"L\n",
        b"I" + b"9" * n + b"\n",
        b"F1e" + b"9" * n + b"\n",
    )
    return as_pickle(rng, rng.choice(numbers) + b".")


@kind
def pickle_calls(rng, n):
    """Calls of opaque objects, of their results, and with the results as arguments."""
    call = rng.choice((b")R", b"\x85R", b")\x81", b"}b", b"X\1\0\0\0a\x93", b"\x85R}b", b"N\x86R"))
    return as_pickle(rng, b"cos\nsystem\n" + call * min(n, 100_000) + b".")


@kind
def pickle_arrays(rng, n):
    """Arrays and tensors of sizes that the file does not hold."""
    size = rng.choice((n, 2**31 - 1, -1, 0))
    shape = b"(" + (b"J" + struct.pack("<i", size)) * rng.choice((1, 3, 33, 1000)) + b"t"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R(K\1" + shape
    array += b"cnumpy\ndtype\nX\2\0\0\0f8\x89\x88\x87R\x89C\1xtb"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpu"
    tensor += b"J" + struct.pack("<i", size) + b"tQK\0" + shape + shape + b"\x89ccollections\nOrderedDict\n)RtR"
    return as_pickle(rng, b"(" + rng.choice((array, tensor)) * min(n, 1000) + b"l.")


AMPS = (
    '{"architecture": "LSTM", "version": "0.5.4", "config": {"input_size": %s, "hidden_size": %s, "num_layers": %s}, '
    '"weights": %s}',
    '{"in_shape": [null, null, %s], "layers": [{"type": "lstm", "activation": "", "shape": [null, null, %s], '
    '"weights": [%s, %s]}]}',
    '{"model_data": {"unit_type": "LSTM", "input_size": %s, "hidden_size": %s, "output_size": 1, "num_layers": %s}, '
    '"state_dict": {"rec.weight_ih_l0": %s}}',
)


@kind
def json_numbers(rng, n):
    values = ("1e999", "-1e999", "NaN", "Infinity", "9" * min(n, 4000), "0." + "1" * n, "-0", "1.0", "true", "null")
    values += ('"\\ud800"', "[]", "{}", str(n), str(2**63), "1")
    wide = rng.choice(("[" + ",".join([rng.choice(values)] * n) + "]", "[" * n + "]" * n, '{"a":' * n + "1" + "}" * n))
    return rng.choice((".nam", ".json", ".aidax")), (
        rng.choice(AMPS) % (rng.choice(values), rng.choice(values), rng.choice(values), wide)
    ).encode()


@kind
def json_keys(rng, n):
    """Keys that repeat, lone surrogates, long keys, and many keys."""
    key = rng.choice(('"architecture"', '"\\ud800"', '"' + "a" * n + '"', '"\\u0000"', '"weights"'))
    keys = [key if rng.random() < 0.5 else f'"{index}"' for index in range(min(n, 100_000))]
    return ".nam", ("{" + ",".join(f"{key}: 1" for key in keys) + ', "architecture": "LSTM"}').encode()


@kind
def json_not_text(rng, n):
    bad = rng.choice((b"\xff", b"\x00", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\"))
    return ".json", rng.choice((b'{"architecture": "', b"{", b'{"layers": ["')) + bad * n + b'"}'


@kind
def protobuf_varints(rng, n):
    """Numbers that are too long or do not end, groups in groups, and fields of other types."""
    end = b"\x80" * n if rng.random() < 0.5 else b"\xff" * n + b"\x01"
    group = b"\x0b" * n + (b"\x0c" * n if rng.random() < 0.5 else b"")
    packed = field(1, b"\xff" * n) + field(9, b"\x01" * n)  # sizes of a tensor, and its raw bytes
    choices = (
        lambda: raw(end),
        lambda: raw(group),
        lambda: raw(field(5, packed)),
        lambda: raw(field(5, field(4, b"\x00" * (4 * n + 1)) + field(2, b"\x01"))),
        lambda: raw((b"\x08\x01" + b"\x0d\0\0\0\0") * n),  # nodes as numbers
        lambda: (".onnx", b"\x08\x08\x3a" + varint(2**62)),
        lambda: (".onnx", field(7, field(7, b"")) * min(n, 30_000)),
    )
    return rng.choice(choices)()


@kind
def keras_graphs(rng, n):
    """Functional models with cycles, thousands of calls, models in models, and sizes that do not fit."""
    n = min(n, 20_000)
    start = {"class_name": "InputLayer", "name": "x", "config": {"name": "x"}, "inbound_nodes": []}

    def layer(kind, name, *before, **options):
        nodes = [[[one, 0, 0, {}] for one in before]]
        return {"class_name": kind, "name": name, "config": {"name": name, **options}, "inbound_nodes": nodes}

    def model(layers, last="z"):
        ends = {"input_layers": [["x", 0, 0]], "output_layers": [[last, 0, 0]]}
        return {"class_name": "Functional", "config": {"name": "m", "layers": [start, *layers], **ends}}

    def distributed(depth):
        inner = model([layer("Activation", "z", "x", activation="tanh")])
        for _ in range(min(depth, 90)):
            inner = model([layer("TimeDistributed", "z", "x", layer=inner)])
        return inner

    many = list(range(n))
    made = rng.choice((
        lambda: model([layer("Add", f"a{i}", f"a{(i + 1) % n}", "x") for i in many], "a0"),
        lambda: model([layer("Add", f"a{i}", *([f"a{i - 1}"] if i else ["x"])) for i in many], f"a{n - 1}"),
        lambda: model([layer("Concatenate", "z", *["x"] * n)]),
        lambda: model([{**layer("LSTM", "z", "x", units=n), "inbound_nodes": [[["x", 0, 0, {}]]] * n}]),
        lambda: model([layer("LSTM", "z", "x", units=2**40, activation="tanh", recurrent_activation="sigmoid")]),
        lambda: model([layer("Permute", "z", "x", dims=many)]),
        lambda: model([layer("Reshape", "z", "x", target_shape=[2**31] * min(n, 40))]),
        lambda: model([layer("Softmax", "z", "x", axis=many)]),
        lambda: model([layer("GetItem", "z", "x")]),
        lambda: distributed(n),
    ))()  # fmt: skip
    content = Hdf5().finished(0)
    members = {"metadata_dot_json": '{"keras_version": "3.0.0"}', "config_dot_json": json.dumps(made)}
    return ".keras", zipped(**members, model_dot_weights_dot_h5=content)
