"""Mutations of files: of any bytes, or of a format's lengths, names and offsets, with corrected checksums."""

import io
import json
import re
import struct
import warnings
import zipfile

from mutations_anywhere import EDGES, anywhere
from mutations_binary import hdf5, pickled, protobuf

_AHEAD = "[" * 2000 + "]" * 2000
#: values that may replace any part of a JSON text
JSON = (None, True, False, 0, 1, -1, 2, 3, 0.5, -0.0, 1e308, float("nan"), float("inf"), 10**18, 2**31, 2**63, 10**30,
        10**400, "", "x", "é", "\ud800", "\0", "\x1b[2J", "a" * 300, "1", "LSTM", "Sequential", "float32", "float16",
        "f8",
        "O", "V4", "(,)f4", "f4,f4", "relu", "softmax", [], [1], [[]], [None], {}, {"a": 1}, {"type": "LSTM"},
        {"class_name": "LSTM", "config": {}}, "same", "NaN", json.loads(_AHEAD[1900:2100]))  # fmt: skip
NPY = ("{}", "{'descr': '<f4'}", "0", "(", "{'descr': '|O', 'fortran_order': False, 'shape': (3,)}", "{'descr': '<f4', "
       "'fortran_order': True, 'shape': (2, 3), }", "['a'] * 3",
       "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
       "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "{'descr': '<f4', 'fortran_order': 0, 'shape': 3}",
       "{'descr': '<M8[s]', 'fortran_order': False, 'shape': ()}",
       "{'descr': '(,)f4', 'fortran_order': False, 'shape': ()}",
       "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
       "(" * 150 + ")" * 150)  # fmt: skip


def damage(rng, data, name, others):
    """Return `data` of the seed `name` after one to four mutations; `others` gives files to splice in."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        matching = mutations_of(data)
        chosen = rng.choice(matching) if matching and rng.random() < 0.7 else anywhere
        try:
            data = chosen(rng, data, others)
        except Exception:
            data = anywhere(rng, data, others)  # earlier damage may have made the format invalid
    return data


def mutations_of(data):
    """Return the mutations for the format that `data` begins with."""
    if data[:4] == b"PK\3\4":
        return (zipped,)
    if data[:4] == b"\x89HDF":
        return (hdf5,)
    if data[:6] == b"\x93NUMPY":
        return (npy,)
    if data[:1] == b"\x80" and data[1:2] < b"\x06":
        return (pickled,)
    if data[8:9] == b"{":
        return (tensors,)
    if data[:1] == b"{":
        return (as_json,)
    if data[:1] in (b"\x08", b"\x0a", b"\x3a"):
        return (protobuf,)
    return ()


def zipped(rng, data, others):
    """Damage a member and correct its checksum; or rename, remove, duplicate, compress or move it."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = [(info.filename, file.read(info), info.compress_type) for info in file.infolist()[:200]]
    index = rng.randrange(len(members))
    name, content, packed = members[index]
    kind = rng.randrange(20)
    if kind < 14:
        content = damage(rng, content, name, others)
    elif kind == 14:
        name = rng.choice(
            (members[rng.randrange(len(members))][0], "", "../x", "a/" * 100, name + "x", name[1:], "é\0x")
        )
    elif kind == 15:
        packed = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    elif kind == 16:
        members.append(members[index])
    elif kind == 17:
        members.insert(0, members.pop())
    elif kind == 18:
        content = members[rng.randrange(len(members))][1]
    members[index : index + 1] = [] if kind == 19 else [(name, content, packed)]
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as file:
        warnings.simplefilter("ignore")
        for name, content, packed in members:
            info = zipfile.ZipInfo(name or "x", (1980, 1, 1, 0, 0, 0))
            info.compress_type = packed
            file.writestr(info, content)
    return out.getvalue()


def npy(rng, data, others):
    """Change the text of an array's header, or a word of it, and correct its length."""
    start = 10 if data[6] == 1 else 12
    (length,) = struct.unpack_from("<H" if start == 10 else "<I", data, 8)
    text, rest = data[start : start + length].decode("latin-1").strip(), data[start + length :]
    kind = rng.randrange(4)
    if kind == 0:
        text = rng.choice(NPY)
    elif kind == 1:
        text = re.sub(
            r"'descr': '[^']*'",
            f"'descr': '{rng.choice(('<f8', '<f2', '>f4', '|i1', '<u8', '<c8', '|S4', '<U1', '|O', '|V4', '?', 'x'))}'",
            text,
        )
    elif kind == 2:
        found = list(re.finditer(r"\d+", text[text.index("shape") :]))
        if found:
            one, shift = rng.choice(found), text.index("shape")
            text = text[: one.start() + shift] + str(rng.choice(EDGES)) + text[one.end() + shift :]
    else:
        return (
            data[: start + length] + damage(rng, rest, "", others) if b"{" in rest[:1] else anywhere(rng, data, others)
        )
    content = text.encode("latin-1", "replace") + b"\n"
    return data[:8] + struct.pack("<H" if start == 10 else "<I", len(content) % 65536) + content + rest


def tensors(rng, data, others):
    """Change the JSON of a safetensors file and correct its length."""
    (length,) = struct.unpack_from("<Q", data)
    return framed(as_json(rng, data[8 : 8 + length], others), data[8 + length :])


def framed(text, rest):
    return struct.pack("<Q", len(text)) + text + rest


def as_json(rng, data, others):
    """Change, remove, duplicate or move a value in a JSON text; strings in it may be JSON too."""
    tree = changed(rng, json.loads(data))
    text = json.dumps(tree)
    if rng.random() < 0.03:
        text = text.replace("[]", _AHEAD, 1) if "[]" in text else '{"a":' * 3000 + text + "}" * 3000
    return text.encode()


def changed(rng, tree):
    locations = list(_locations(tree))[:5000]
    if not locations:
        return rng.choice(JSON)
    container, key = rng.choice(locations)
    value, kind = container[key], rng.randrange(12)
    if isinstance(value, str) and value[:1] == "{" and kind < 10:
        container[key] = json.dumps(changed(rng, json.loads(value)))
    elif kind < 4:
        container[key] = rng.choice(JSON)
    elif kind == 4:
        del container[key]
    elif kind == 5 and isinstance(value, int | float):
        container[key] = rng.choice(
            (*EDGES, -value, value + 1, value - 1, value * 2, str(value), [value], value + 0.5, bool(value))
        )
    elif kind < 8:
        other, where = rng.choice(locations)
        if where in other if isinstance(other, dict) else where < len(other):
            container[key], other[where] = json.loads(json.dumps(other[where])), json.loads(json.dumps(value))
    elif kind == 8 and isinstance(container, dict):
        container[rng.choice((str(rng.choice(JSON))[:50], rng.choice(locations)[1] if rng.random() < 0.5 else "x"))] = (
            value
        )
    elif kind == 9 and isinstance(container, list):
        container.extend([value] * rng.choice((1, 3, 100)))
    elif kind == 10 and isinstance(value, list):
        value.append(rng.choice(JSON))
    else:
        container[key] = [value]
    return tree


def _locations(tree):
    """Yield (container, key) of each nested value."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _locations(tree[key])
