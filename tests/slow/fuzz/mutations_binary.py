"""Mutations of binary formats for mutations.py: pickles, HDF5 files and protobuf messages."""

import itertools
import pickletools
import re
import struct

from mutations_anywhere import EDGES, anywhere, number


def pickled(rng, data, others):
    """Remove, repeat or swap opcodes, change an argument, or insert an opcode."""
    steps = [(code.name, offset) for code, _, offset in pickletools.genops(data)]
    cuts = [offset for _, offset in steps] + [len(data)]
    parts = [data[begin:end] for begin, end in itertools.pairwise(cuts)]
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


OPCODES = (b"0", b"1", b"2", b"(", b")", b"]", b"}", b"a", b"b", b"e", b"s", b"t", b"u", b"R", b"Q", b"N", b"\x85",
    b"\x86",
           b"\x87", b"\x88", b"\x89", b"\x8f", b"\x90", b"\x91", b"\x92", b"\x93", b"\x94", b"h\0", b"q\0",
           b"j\xff\xff\xff\x7f",
           b"r\xff\xff\xff\xff", b"cos\nsystem\n", b"ccollections\nOrderedDict\n",
           b"ctorch._utils\n_rebuild_tensor_v2\n",
           b"I1\n", b"I" + b"9" * 50 + b"\n", b"L-1L\n", b"F1e999\n", b"Fnan\n", b"G\x7f\xf0\0\0\0\0\0\0",
           b"X\1\0\0\0x", b"K\0",
           b"J\xff\xff\xff\xff", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8a\xff" + b"\x7f" * 255, b"\x8c\1x",
           b"U\1x",
           b"S'a'\n", b"V\\ud800\n", b"Pid\n", b"\x80\x02", b"\x95" + b"\xff" * 8, b"\x97", b"\x82\1", b"i os\nx\n",
           b"o", b"d",
           b"l", b"g1\n", b"p1\n", b"B\1\0\0\0x", b"\x8e\1\0\0\0\0\0\0\0x", b"\x96\1\0\0\0\0\0\0\0x")  # fmt: skip


def hdf5(rng, data, others):
    """Replace eight aligned bytes by others or by a limit; or change a message's type, size and flags."""
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
        else:  # in the text of the configuration, with the same length
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
    """Remove or repeat a field, or change its number or value, and correct all enclosing lengths."""
    fields = parsed(data)
    if not fields:
        return anywhere(rng, data, others)
    every = list(_fields(fields))
    container, at = rng.choice(every)
    other, to = rng.choice(every)
    field, kind = container[at], rng.randrange(12)
    number_, wire, value = field
    if kind == 0:
        del container[at]
    elif kind == 1:
        container[at:at] = [field] * rng.choice((1, 2, 100))
    elif kind == 2:
        container[at] = (rng.randrange(1, 32), wire, value)
    elif kind == 3:
        container[at] = (number_, *other[to][1:])
    elif kind == 4:
        container.insert(at, other[to])
    elif wire == 0:
        container[at] = (number_, 0, rng.choice((*EDGES, value + 1, max(value - 1, 0), rng.randrange(20))) % (1 << 64))
    elif wire == 2 and isinstance(value, bytes):
        strings = [h[i][2] for h, i in every if isinstance(h[i][2], bytes)]
        container[at] = (
            number_,
            2,
            rng.choice((anywhere(rng, value, others) if value else b"\0", rng.choice(strings), b"")),
        )
    else:
        container.append(field)
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
    """Return [(number, wire type, value)], where the value of nested fields is such a list; None for other bytes."""
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
