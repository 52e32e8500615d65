"""Hostile .pt, .h5 and .keras files for hostile.py: many opcodes, nested groups, large configurations."""

import io
import json
import struct
import zipfile

KINDS = {}


def kind(function):
    KINDS[function.__name__] = function
    return function


def zipped(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return out.getvalue()


def pt(pickle):
    return ".pt", zipped(archive__data_dot_pkl=pickle, archive__version="3\n", archive__data__0=bytes(64))


@kind
def pt_flood(rng, n):
    once = rng.choice((b"]0", b"(]e", b"]\x94a", b"N", b"}", b"(l", b"K\1", b"X\1\0\0\0a", b"\x8a\1\1",
        b"r\xff\xff\xff\x7f", b")\x85", b"(", b"2",
                       b"\x8f", b"cos\nsystem\n0", b"F1.5\n", b"G?\xf0\0\0\0\0\0\0", b"I1\n", b"\x8c\1a\x94", b"U\1a",
                       b"1(", b"t("))  # fmt: skip
    return pt(b"\x80\x04](" + once * (2 * n) + b"e.")


@kind
def pt_nested(rng, n):
    begin, end = rng.choice(((b"]", b"a"), (b"(", b"t"), (b"", b"\x85"), (b"}K\0", b"s")))
    return pt(b"\x80\x02" + begin * n + b"N" + end * n + b".")


@kind
def pt_shared(rng, n):
    """Each list holds the previous one twice: 2**n leaves."""
    n = min(n, 200)
    steps = b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(n))
    return pt(b"\x80\x02]q\0" + steps + b".")


@kind
def pt_keys(rng, n):
    """A dict whose keys have the same hash, are unhashable, or very long."""
    n = min(n, 150_000)
    keys = rng.choice((
        [b"\x8a\x08" + struct.pack("<q", (i * (2**61 - 1)) % 2**62) for i in range(n)], [b"]"] * n, [b"N"] * n,
        [b"X" + struct.pack("<I", n) + b"a" * n], [b")" + b"\x85" * 50] * min(n, 10_000),
    ))  # fmt: skip
    return pt(b"\x80\x02}(" + b"".join(key + b"N" for key in keys) + b"u.")


@kind
def pt_numbers(rng, n):
    once = rng.choice((b"I" + b"9" * n + b"\n", b"L" + b"9" * n + b"L\n", b"\x8b" + struct.pack("<i",
        n) + b"\x7f" * n, b"F" + b"9" * n + b"\n",
                       b"X" + struct.pack("<I", 4 * n) + b"\xf0\x9f\x98\x80" * n, b"V" + b"\\u0000" * n + b"\n",
                       b"S'" + b"\\x00" * n + b"'\n"))  # fmt: skip
    return pt(b"\x80\x02](" + once * rng.choice((1, 1, 10)) + b"e.")


@kind
def pt_tensors(rng, n):
    """Many views of one storage, with strides and sizes beyond it, or with repeated elements."""
    n = min(n, 20_000)
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\x10tQ"
    size = b"(" + rng.choice((b"K\1" * 40, b"K\x10", b"J\xff\xff\xff\x7fK\1", b"M\xff\xff" * 2, b"K\0" * 3)) + b"t"
    stride = b"(" + rng.choice((b"K\0" * 40, b"K\1", b"K\0K\0", b"K\0" * 3)) + b"t"
    one = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\0"
        + size
        + stride
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )
    pairs = b"".join(b"X\4\0\0\0" + b"%04x" % (i % 65536) + one for i in range(n))
    return pt(b"\x80\x02}(" + pairs + b"u.")


class Hdf5:
    """HDF5 in its oldest form: symbol tables, heaps of names, messages."""

    def __init__(self):
        self.content = bytearray(96)

    def put(self, data):
        address = len(self.content)
        self.content += data + b"\0" * (-len(data) % 8)
        return address

    def object(self, messages):
        body = b"".join(struct.pack("<HHB3x", kind, len(text), 0) + text for kind, text in messages)
        return self.put(struct.pack("<BxHII4x", 1, len(messages) % 65536, 1, len(body)) + body)

    def dataset(self, size=0):
        number = bytes.fromhex("11201f000400000000002000170800177f000000")
        space = struct.pack("<BBB5xQ", 1, 1, 0, size)
        return self.object([(1, space), (3, number), (8, struct.pack("<BBQQ", 3, 1, 2**64 - 1, 4 * size))])

    def group(self, entries, names, size, fan=1000):
        """Add a group of `entries`, (offset of the name, address), whose names are `size` bytes at `names`."""
        heap = self.put(b"HEAP" + struct.pack("<4xQQQ", size, 2**64 - 1, names))
        nodes = []
        for at in range(0, max(len(entries), 1), fan):
            part = entries[at : at + fan]
            rows = b"".join(struct.pack("<QQI4x16x", name, address, 0) for name, address in part)
            nodes.append(self.put(b"SNOD" + struct.pack("<BBH", 1, 0, len(part)) + rows))
        links = struct.pack("<Q", 0) + b"".join(struct.pack("<QQ", address, 0) for address in nodes)
        tree = self.put(b"TREE" + struct.pack("<BBHQQ", 0, 0, len(nodes) % 65536, 2**64 - 1, 2**64 - 1) + links)
        return self.object([(17, struct.pack("<QQ", tree, heap))])

    def finished(self, root):
        end = len(self.content)
        self.content[:96] = b"\x89HDF\r\n\x1a\n" + struct.pack(
            "<5B3BHHIQQQQQQI4x16x", 0, 0, 0, 0, 0, 8, 8, 0, 4, 16, 0, 0, 2**64 - 1, end, 2**64 - 1, 0, root, 0
        )
        return bytes(self.content)


def as_file(rng, content):
    """Return an .h5 file, or a .keras file that contains it."""
    if rng.random() < 0.5:
        return ".h5", content
    return ".keras", zipped(
        metadata_dot_json='{"keras_version": "3.0.0"}', config_dot_json="{}", model_dot_weights_dot_h5=content
    )


@kind
def h5_nested(rng, n):
    file, length = Hdf5(), rng.choice((1, 100, 3000))
    long, short = file.put(b"n" * length + b"\0" * 8), file.put(b"".join(b"%07d\0" % i for i in range(min(n, 4000))))
    group = file.group([(8 * i, file.dataset()) for i in range(min(n, 4000))], short, 8 * min(n, 4000))
    for _ in range(min(n, 20_000)):
        group = file.group([(0, group)], long, length + 8)
    return as_file(rng, file.finished(group))


@kind
def h5_shared(rng, n):
    """Each group holds the previous one twice."""
    file = Hdf5()
    names = file.put(b"a\0\0\0\0\0\0\0b\0\0\0\0\0\0\0")
    group = file.group([(0, file.dataset())], names, 16)
    for _ in range(min(n, 300)):
        group = file.group([(0, group), (8, group)], names, 16)
    return as_file(rng, file.finished(group))


@kind
def h5_wide(rng, n):
    file, n = Hdf5(), min(n, 60_000)
    names = file.put(b"".join(b"%07d\0" % i for i in range(n)))
    one = file.dataset()
    addresses = [one if rng.random() < 0.5 else file.dataset(rng.choice((0, 1, 2**40))) for _ in range(n)]
    return as_file(
        rng, file.finished(file.group([(8 * i, address) for i, address in enumerate(addresses)], names, 8 * n))
    )


@kind
def h5_many_messages(rng, n):
    file = Hdf5()
    once = rng.choice(((0, b""), (12, bytes(8)), (16, struct.pack("<QQ", 96, 40)), (17, bytes(16)), (1, bytes(8))))
    return as_file(rng, file.finished(file.object([once] * min(n, 60_000))))


@kind
def keras_configurations(rng, n):
    layer = {"class_name": "Dense", "config": {"name": "a", "units": 1}}
    config = rng.choice((
        lambda: {"class_name": "Sequential", "config": {"layers": [layer] * min(n, 100_000)}},
        lambda: {"class_name": "Functional", "config": {"layers": [{**layer, "name": f"l{i}",
        "inbound_nodes": [[[f"l{i - 1}", 0, 0, {}]]]}
                 for i in range(min(n, 50_000))], "input_layers": [["l0", 0, 0]], "output_layers": [["l1", 0, 0]]}},
        lambda: {"class_name": "a" * n, "config": {}}, lambda: {"class_name": "Sequential",
        "config": {"layers": [{"class_name": "a" * n}] * 9}},
        lambda: {"class_name": "Sequential", "config": {"layers": [{"class_name": f"A{i}",
        "config": {"a" * 99: i}} for i in range(min(n, 50_000))]}},
    ))()  # fmt: skip
    text = json.dumps(config)
    if rng.random() < 0.2:
        text = '{"class_name": "Sequential", "config": {"layers": [' * n + "]}}" * n
    return ".keras", zipped(
        metadata_dot_json='{"keras_version": "3.0.0"}',
        config_dot_json=text,
        model_dot_weights_dot_h5=Hdf5().finished(0),
    )
