"""Damage to bytes: anywhere, or where a format keeps its lengths, names and offsets. Choices come from a random.Random."""

import io
import json
import pickletools
import re
import struct
import warnings
import zipfile

#: numbers that are often one too many
EDGES = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 1000, 32767, 65535, 65536, 10**6, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
         2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
_AHEAD = "[" * 2000 + "]" * 2000
#: what may stand anywhere in a JSON text
JSON = (None, True, False, 0, 1, -1, 2, 3, 0.5, -0.0, 1e308, float("nan"), float("inf"), 10**18, 2**31, 2**63, 10**30,
        10**400, "", "x", "é", "\ud800", "\0", "\x1b[2J", "a" * 300, "1", "LSTM", "Sequential", "float32", "float16", "f8",
        "O", "V4", "(,)f4", "f4,f4", "relu", "softmax", [], [1], [[]], [None], {}, {"a": 1}, {"type": "LSTM"},
        {"class_name": "LSTM", "config": {}}, "same", "NaN", json.loads(_AHEAD[1900:2100]))  # fmt: skip
NPY = ("{}", "{'descr': '<f4'}", "0", "(", "{'descr': '|O', 'fortran_order': False, 'shape': (3,)}", "{'descr': '<f4', "
       "'fortran_order': True, 'shape': (2, 3), }", "['a'] * 3", "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
       "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "{'descr': '<f4', 'fortran_order': 0, 'shape': 3}",
       "{'descr': '<M8[s]', 'fortran_order': False, 'shape': ()}", "{'descr': '(,)f4', 'fortran_order': False, 'shape': ()}",
       "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", "(" * 150 + ")" * 150)  # fmt: skip


def damage(rng, data, name, others):
    """`data` of the seed `name` after one to four mutations; `others` are what may be spliced in."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        aware = aware_of(data)
        chosen = rng.choice(aware) if aware and rng.random() < 0.7 else anywhere
        try:
            data = chosen(rng, data, others)
        except (ValueError, IndexError, KeyError, struct.error, zipfile.BadZipFile, OSError, EOFError, RuntimeError,
                RecursionError, NotImplementedError, OverflowError, AttributeError, TypeError):  # fmt: skip
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


def anywhere(rng, data, others):
    """Bytes changed without a thought of what they are."""
    data = bytearray(data or b"\0")
    size = len(data)
    at = rng.randrange(size)
    kind = rng.randrange(9)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at : at + rng.choice((1, 1, 2, 4))] = bytes(
            rng.choice((0, 255, 127, 128, rng.randrange(256))) for _ in range(1)
        )
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        del data[at : at + rng.choice((1, 2, 8, 64, size // 2))]
    elif kind == 4:
        data[at:at] = data[at : at + rng.choice((1, 8, 64, 1024))]
    elif kind == 5:
        other = others(rng)
        data[at:] = other[min(at, len(other)) if rng.random() < 0.5 else rng.randrange(len(other)) :]
    elif kind == 6:
        other = others(rng)
        start, length = rng.randrange(len(other)), rng.choice((1, 4, 16, 256))
        data[at : at + length] = other[start : start + length]
    else:
        number(rng, data, at)
    return bytes(data)


def number(rng, data, at):
    """An integer of 1 to 8 bytes becomes another: an edge, or near what it was."""
    form = rng.choice("<>") + rng.choice("BHIQ"[: len(data).bit_length()])
    width = struct.calcsize(form)
    at = min(at, max(len(data) - width, 0))
    (old,) = struct.unpack_from(form, data, at)
    value = rng.choice((*EDGES, len(data), old + 1, old - 1, old * 2, old // 2, -old))
    struct.pack_into(form, data, at, value % (1 << 8 * width))


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
    """A value somewhere in a JSON text changes, goes, comes twice, or changes places; texts inside may be JSON again."""
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


def pickled(rng, data, others):
    """An opcode is left out, comes twice, changes places or its argument; or one that does something comes in."""
    steps = [(code.name, place) for code, _, place in pickletools.genops(data)]
    cuts = [place for _, place in steps] + [len(data)]
    parts = [data[begin:end] for begin, end in zip(cuts, cuts[1:], strict=False)]
    at, to, kind = rng.randrange(len(parts)), rng.randrange(len(parts)), rng.randrange(7)
    if kind == 0:
        del parts[at]
    elif kind == 1:
        parts[at : at + 1] *= rng.choice((2, 3, 50))
    elif kind == 2:
        parts[at], parts[to] = parts[to], parts[at]
    elif kind == 3:
        part = bytearray(parts[at])
        number(rng, part, rng.randrange(len(part)))
        parts[at] = bytes(part)
    elif kind == 4:
        parts.insert(at, rng.choice(OPCODES))
    elif kind == 5:
        parts[at:at] = parts[to : to + rng.choice((1, 2, 5, 20))]
    else:
        parts[at] = parts[to]
    return b"".join(parts)


OPCODES = (b"0", b"1", b"2", b"(", b")", b"]", b"}", b"a", b"b", b"e", b"s", b"t", b"u", b"R", b"Q", b"N", b"\x85", b"\x86",
           b"\x87", b"\x88", b"\x89", b"\x8f", b"\x90", b"\x91", b"\x92", b"\x93", b"\x94", b"h\0", b"q\0", b"j\xff\xff\xff\x7f",
           b"r\xff\xff\xff\xff", b"cos\nsystem\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
           b"I1\n", b"I" + b"9" * 50 + b"\n", b"L-1L\n", b"F1e999\n", b"Fnan\n", b"G\x7f\xf0\0\0\0\0\0\0", b"X\1\0\0\0x", b"K\0",
           b"J\xff\xff\xff\xff", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8a\xff" + b"\x7f" * 255, b"\x8c\1x", b"U\1x",
           b"S'a'\n", b"V\\ud800\n", b"Pid\n", b"\x80\x02", b"\x95" + b"\xff" * 8, b"\x97", b"\x82\1", b"i os\nx\n", b"o", b"d",
           b"l", b"g1\n", b"p1\n", b"B\1\0\0\0x", b"\x8e\1\0\0\0\0\0\0\0x", b"\x96\1\0\0\0\0\0\0\0x")  # fmt: skip


def hdf5(rng, data, others):
    """A field of eight aligned bytes gets what another has, or an edge; or a message's type, size and flags change."""
    out, words = bytearray(data), len(data) // 8
    for _ in range(rng.choice((1, 1, 2, 3))):
        marks = [m.start() for m in re.finditer(rb"TREE|HEAP|SNOD|GCOL|OHDR|\{\"", data)] or [0]
        near = rng.choice(marks) // 8 + rng.randrange(-4, 24) if rng.random() < 0.7 else rng.randrange(words)
        at = 8 * (max(near, 0) % words)
        kind = rng.randrange(5)
        if kind == 0:
            source = 8 * rng.randrange(words)
            out[at : at + 8] = data[source : source + 8]
        elif kind == 1:
            value = rng.choice((*EDGES, *marks, len(data), len(data) - 8, at, 8 * rng.randrange(words)))
            struct.pack_into("<Q", out, at, value % (1 << 64))
        elif kind == 2:
            struct.pack_into(
                "<HHB", out, at, rng.randrange(24), rng.choice((0, 8, 16, 24, 40, 65528, 65535)), rng.choice((0, 1, 2))
            )
        elif kind == 3:
            number(rng, out, at)
        else:  # in the text of the configuration, without changing its length
            words_in_text = list(re.finditer(rb'(?<=[:\[] )(\d+|true|false|null|"\w+")(?=[,}\]])', data))
            if words_in_text:
                one = rng.choice(words_in_text)
                size = one.end() - one.start()
                fits = [
                    v
                    for v in (b"0", b"1", b"9" * size, b"null", b"true", b'""', b"[]", b"{}", b"-1", b"1e99")
                    if len(v) <= size
                ]
                out[one.start() : one.end()] = rng.choice(fits).ljust(size)
    return bytes(out)


def protobuf(rng, data, others):
    """A field somewhere goes, comes twice, changes its number or value; all lengths around it are right."""
    fields = parsed(data)
    if not fields:
        return anywhere(rng, data, others)
    every = list(_fields(fields))
    holder, at = rng.choice(every)
    other, to = rng.choice(every)
    field, kind = holder[at], rng.randrange(12)
    number_, wire, value = field
    if kind == 0:
        del holder[at]
    elif kind == 1:
        holder[at:at] = [field] * rng.choice((1, 2, 100))
    elif kind == 2:
        holder[at] = (rng.randrange(1, 32), wire, value)
    elif kind == 3:
        holder[at] = (number_, *other[to][1:])
    elif kind == 4:
        holder.insert(at, other[to])
    elif wire == 0:
        holder[at] = (number_, 0, rng.choice((*EDGES, value + 1, max(value - 1, 0), rng.randrange(20))) % (1 << 64))
    elif wire == 2 and isinstance(value, bytes):
        strings = [h[i][2] for h, i in every if isinstance(h[i][2], bytes)]
        holder[at] = (
            number_,
            2,
            rng.choice((anywhere(rng, value, others) if value else b"\0", rng.choice(strings), b"")),
        )
    else:
        holder.append(field)
    return packed(fields)


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def packed(fields):
    parts = []
    for number_, wire, value in fields:
        content = packed(value) if isinstance(value, list) else value
        body = varint(content) if wire == 0 else varint(len(content)) + content if wire == 2 else content
        parts.append(varint(number_ << 3 | wire) + body)
    return b"".join(parts)


def parsed(data, depth=0):
    """[(number, wire type, value)], with lists where the bytes of a field are fields again; None if they are not."""
    at, fields = 0, []

    def number_at(at):
        value = shift = 0
        while True:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128 or shift > 63:
                return value, at

    try:
        while at < len(data):
            key, at = number_at(at)
            wire = key & 7
            if key >> 3 == 0 or key >> 3 > 100 or wire in (3, 4, 6, 7):
                return None
            if wire == 0:
                value, at = number_at(at)
            else:
                size, at = number_at(at) if wire == 2 else (8 if wire == 1 else 4, at)
                value, at = bytes(data[at : at + size]), at + size
                if at > len(data):
                    return None
                if wire == 2 and size > 1 and depth < 12:
                    value = parsed(value, depth + 1) or value
            fields.append((key >> 3, wire, value))
    except IndexError:
        return None
    return fields


def _fields(fields):
    for at, (_, _, value) in enumerate(fields):
        yield fields, at
        if isinstance(value, list):
            yield from _fields(value)
