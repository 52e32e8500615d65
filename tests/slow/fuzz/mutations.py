"""Damage to files: anywhere, or where a format keeps its lengths, names and offsets; checksums are right again."""

import io
import json
import re
import struct
import warnings
import zipfile

from mutations_anywhere import EDGES, anywhere
from mutations_binary import hdf5, pickled, protobuf

_AHEAD = "[" * 2000 + "]" * 2000
#: what may stand anywhere in a JSON text
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
    """`data` of the seed `name` after one to four mutations; `others` are what may be spliced in."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        aware = aware_of(data)
        chosen = rng.choice(aware) if aware and rng.random() < 0.7 else anywhere
        try:
            data = chosen(rng, data, others)
        except Exception:
            data = anywhere(rng, data, others)  # after earlier damage it is not what it looks like
    return data


def aware_of(data):
    """Mutations that know what `data` begins like."""
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
    """A member is damaged and gets its right checksum; or it is renamed, left out, there twice, packed, or moved."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = [(info.filename, file.read(info), info.compress_type) for info in file.infolist()[:200]]
    at = rng.randrange(len(members))
    name, content, packed = members[at]
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
        members.append(members[at])
    elif kind == 17:
        members.insert(0, members.pop())
    elif kind == 18:
        content = members[rng.randrange(len(members))][1]
    members[at : at + 1] = [] if kind == 19 else [(name, content, packed)]
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as file:
        warnings.simplefilter("ignore")
        for name, content, packed in members:
            info = zipfile.ZipInfo(name or "x", (1980, 1, 1, 0, 0, 0))
            info.compress_type = packed
            file.writestr(info, content)
    return out.getvalue()


def npy(rng, data, others):
    """The header of an array: its text, or a word of it; what it says of its length is right."""
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
    """A safetensors file: its JSON changes, and what it says of the length of that is right."""
    (length,) = struct.unpack_from("<Q", data)
    return framed(as_json(rng, data[8 : 8 + length], others), data[8 + length :])


def framed(text, rest):
    return struct.pack("<Q", len(text)) + text + rest


def as_json(rng, data, others):
    """A value somewhere in a JSON text changes, goes, comes twice or moves; texts inside may be JSON again."""
    tree = changed(rng, json.loads(data))
    text = json.dumps(tree)
    if rng.random() < 0.03:
        text = text.replace("[]", _AHEAD, 1) if "[]" in text else '{"a":' * 3000 + text + "}" * 3000
    return text.encode()


def changed(rng, tree):
    places = list(_places(tree))[:5000]
    if not places:
        return rng.choice(JSON)
    holder, key = rng.choice(places)
    value, kind = holder[key], rng.randrange(12)
    if isinstance(value, str) and value[:1] == "{" and kind < 10:
        holder[key] = json.dumps(changed(rng, json.loads(value)))
    elif kind < 4:
        holder[key] = rng.choice(JSON)
    elif kind == 4:
        del holder[key]
    elif kind == 5 and isinstance(value, int | float):
        holder[key] = rng.choice(
            (*EDGES, -value, value + 1, value - 1, value * 2, str(value), [value], value + 0.5, bool(value))
        )
    elif kind < 8:
        other, where = rng.choice(places)
        if where in other if isinstance(other, dict) else where < len(other):
            holder[key], other[where] = json.loads(json.dumps(other[where])), json.loads(json.dumps(value))
    elif kind == 8 and isinstance(holder, dict):
        holder[rng.choice((str(rng.choice(JSON))[:50], rng.choice(places)[1] if rng.random() < 0.5 else "x"))] = value
    elif kind == 9 and isinstance(holder, list):
        holder.extend([value] * rng.choice((1, 3, 100)))
    elif kind == 10 and isinstance(value, list):
        value.append(rng.choice(JSON))
    else:
        holder[key] = [value]
    return tree


def _places(tree):
    """(holder, key) of each value below."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])
