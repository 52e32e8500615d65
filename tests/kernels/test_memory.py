"""Working memory that is used again."""

import mmap
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from lstm_cy import LSTM
from lstm_cy._kernels.runtime.memory import Buffer, cached_bytes

MAX_CACHED = 64 * 2**20


def test_buffers_are_aligned_and_do_not_overlap():
    pieces = [np.frombuffer(Buffer(size), np.uint8) for size in (0, 1, 63, 64, 65, 4096, 40_000, 40_000, 1_000_003)]
    for number, piece in enumerate(pieces):
        assert piece.flags.writeable
        assert piece.size == 0 or piece.ctypes.data % 64 == 0
        piece[:] = number
    for number, piece in enumerate(pieces):
        assert (piece == number).all()


def flags_of(address):
    """Return the flags of the mapping that an address is in, as the Linux kernel lists them."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if bounds:
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    return []


def takes_advice():
    """Return whether the system keeps advice for huge pages where it is asked directly; emulators may not."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return False
    piece = mmap.mmap(-1, 2**22)
    try:
        piece.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        return False
    return "hg" in flags_of(np.frombuffer(piece, np.uint8).ctypes.data)


def test_large_buffers_are_in_huge_pages():
    huge = 2**21
    buffers = [np.frombuffer(Buffer(size), np.uint8) for size in (huge - 64, huge, 2 * huge + 5, 5 * huge - 1)]
    assert [buffer.ctypes.data % huge for buffer in buffers[1:]] == [0, 0, 0]
    assert buffers[0].ctypes.data % 64 == 0
    for number, buffer in enumerate(buffers):
        buffer[[0, -1]] = number
    assert [buffer[[0, -1]].tolist() for buffer in buffers] == [[number] * 2 for number in range(4)]
    if takes_advice():
        for buffer in buffers[1:]:
            whole = buffer.size // huge * huge
            assert "hg" in flags_of(buffer.ctypes.data)
            assert "hg" in flags_of(buffer.ctypes.data + whole - 1)


@pytest.fixture
def empty_cache():
    """A buffer as large as the whole cache evicts the others; it is then in use itself."""
    Buffer(MAX_CACHED)
    everything = Buffer(MAX_CACHED)
    assert cached_bytes() == 0
    yield
    del everything


def test_released_memory_is_used_again(empty_cache):
    piece = np.frombuffer(Buffer(31_000_000), np.uint8)
    address = piece.ctypes.data
    view = piece[10:20]
    del piece
    other = np.frombuffer(Buffer(31_000_000), np.uint8)  # a view still refers to the first one
    assert other.ctypes.data != address
    del view
    assert cached_bytes() == 31_000_000
    again = np.frombuffer(Buffer(30_900_000), np.uint8)
    assert again.ctypes.data == address
    assert cached_bytes() == 0
    assert np.frombuffer(Buffer(15_000_000), np.uint8).ctypes.data != address  # too large for half the size


def test_the_cache_stays_within_its_limit():
    for size in (10_000, 40_000, 3_000_000, 20_000_000, 50_000_000, 70_000_000):
        for number in (1, 3, 70):
            pieces = [Buffer(size) for _ in range(number)]
            del pieces
            assert cached_bytes() <= MAX_CACHED
    huge = Buffer(2 * MAX_CACHED)
    before = cached_bytes()
    del huge
    assert cached_bytes() == before


def test_threads_never_share_a_buffer():
    wrong = []

    def work(number):
        for turn in range(300):
            piece = np.frombuffer(Buffer(40_000 + 1000 * (turn % 7)), np.uint16)
            piece[:] = number
            if (piece != number).any():
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_later_calls_do_not_write_to_the_memory_of_a_tape_in_use():
    lstm = LSTM(8, 64, seed=0)
    x = np.random.default_rng(0).standard_normal((100, 16, 8))
    y, _, tape = lstm.forward(x)
    expected = lstm.backward(tape, y)
    for seed in range(5):
        other, _, later = lstm.forward(np.random.default_rng(seed).standard_normal((100, 16, 8)))
        lstm.backward(later, other)
    again = lstm.backward(tape, y)
    assert np.array_equal(again.x, expected.x)
    for name, gradient in expected.parameters.items():
        assert np.array_equal(again.parameters[name], gradient)
