"""Mutations of bytes of any format, by a random.Random."""

import struct

#: numbers at common limits
EDGES = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 1000, 32767, 65535, 65536, 10**6, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
         2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip


def anywhere(rng, data, others):
    """Change bytes without regard to the format."""
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
    """Replace an integer of 1 to 8 bytes by a limit or by a number near it."""
    form = rng.choice("<>") + rng.choice("BHIQ"[: len(data).bit_length()])
    width = struct.calcsize(form)
    at = min(at, max(len(data) - width, 0))
    (old,) = struct.unpack_from(form, data, at)
    value = rng.choice((*EDGES, len(data), old + 1, old - 1, old * 2, old // 2, -old))
    struct.pack_into(form, data, at, value % (1 << 8 * width))
