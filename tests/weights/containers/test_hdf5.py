"""The HDF5 reader, compared with the HDF5 library; other features are refused, and the work is bounded."""

import io
import random
import struct
import tracemalloc

import numpy as np
import pytest

from lstm_cy.weights.budget import Budget
from lstm_cy.weights.containers import hdf5

h5py = pytest.importorskip("h5py")


def written(fill, **options):
    """Return the bytes of a file that `fill` has filled."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as file:
        fill(file)
    return buffer.getvalue()


def compact(file):
    """Write an array whose bytes are in its header."""
    options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((4,))
    h5py.h5d.create(file.id, b"compact", h5py.h5t.IEEE_F32LE, space, dcpl=options).write(
        h5py.h5s.ALL, h5py.h5s.ALL, np.arange(4, dtype=np.float32)
    )


def plain(file):
    rng = np.random.default_rng(0)
    for dtype in ("<f2", "<f4", "<f8", ">f4", ">f8", "i1", "<i4", ">i8", "u1", "<u8"):
        file[f"types/{dtype}"] = (rng.standard_normal((3, 5)) * 50).astype(dtype)
    file["shapes/scalar"] = np.float32(2.5)
    file["shapes/empty"] = np.empty((0, 3), np.float32)
    file["shapes/of 32 axes"] = np.ones((1,) * 32, np.float32)
    file["shapes/deep/er/cube"] = rng.standard_normal((2, 3, 4))
    for index in range(300):  # more than fit in one node of the tree
        file[f"many/{index}"] = np.full(2, index, np.float32)
    compact(file)
    file.create_group("nothing")
    file.attrs["text"] = "plain, é 😀"
    file.attrs["bytes"] = b"as in Keras 2"
    file.attrs["fixed"] = np.bytes_(b"of a fixed size")
    file.attrs["long"] = "long " * 50_000
    file.attrs["numbers"] = np.arange(5)
    for index in range(30):  # so that the header has a continuation
        file["types"].attrs[f"attribute {index}"] = f"{index}"


def read(data, **options):
    return hdf5.read(io.BytesIO(data), Budget("a.h5", len(data)), **options)


def test_files_of_the_hdf5_library_are_read():
    data = written(plain)
    arrays, texts = read(data, texts=["text", "bytes", "fixed", "long", "attribute 7", "attribute 29"])
    expected = {}
    with h5py.File(io.BytesIO(data)) as file:
        file.visititems(
            lambda path, entry: expected.update({path: entry[()]} if isinstance(entry, h5py.Dataset) else {})
        )
    assert sorted(arrays) == sorted(expected)
    for path, array in expected.items():
        assert arrays[path].dtype == array.dtype
        assert arrays[path].shape == array.shape
        assert arrays[path].tobytes() == array.tobytes()
    assert texts == {
        ("", "text"): "plain, é 😀",
        ("", "bytes"): "as in Keras 2",
        ("", "fixed"): "of a fixed size",
        ("", "long"): "long " * 50_000,
        ("types", "attribute 7"): "7",
        ("types", "attribute 29"): "29",
    }
    assert "many/0" not in read(data, skip=["many"])[0]


def soft(file):
    file["a"] = np.ones(3, np.float32)
    file["b"] = h5py.SoftLink("/a")


def external_link(file):
    file["b"] = h5py.ExternalLink("/etc/hostname", "/a")


def external_data(file):
    file.create_dataset("b", (4,), "u1", external=[("/etc/hostname", 0, 4)])


def virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "a", (4,))
    file.create_virtual_dataset("b", layout)


def references(file):
    file["a"] = np.ones(3)
    file["b"] = np.array([file["a"].ref], h5py.ref_dtype)


def compound(file):
    file["b"] = np.zeros(3, "f4,i4")


def cycle(file):
    file["a/b"] = file["/"]


def twice(file):
    file["a"] = np.ones(3, np.float32)
    file["b"] = file["a"]


def number_for_text(file):
    file.attrs["text"] = 3


def texts_for_text(file):
    file.attrs["text"] = ["a", "b"]


REFUSED = {
    soft: "'b' is a link",
    external_link: "links to other files",
    external_data: "'b': data in another file",
    virtual: "chunked or virtual",
    lambda file: file.create_dataset("b", data=np.zeros(10_000_000, "f4"), compression="gzip"): "'b': compressed",
    lambda file: file.create_dataset("b", data=np.zeros(100), chunks=(10,)): "chunked",
    lambda file: file.create_dataset("b", (2**40, 2**20), "f4"): "'b': .* 4611686018427387904 bytes at .* are not",
    references: "'b': expected numbers",
    compound: "'b': expected numbers",
    lambda file: file.create_dataset("b", data="text"): "'b': expected numbers",
    lambda file: file.create_dataset("b", data=h5py.Empty("f4")): "'b': expected an array",
    lambda file: file.__setitem__("b", np.dtype("f4")): "'b': neither a group nor an array",
    cycle: "two references to",
    twice: "two references to",
    number_for_text: "attribute 'text': expected one text",
    texts_for_text: "attribute 'text': expected one text",
}


@pytest.mark.parametrize("fill", REFUSED, ids=lambda fill: fill.__name__)
def test_unsupported_features_are_refused(fill):
    with pytest.raises(ValueError, match=REFUSED[fill]):
        read(written(fill), texts=["text"])


def test_later_formats_are_refused():
    with pytest.raises(ValueError, match="later format"):
        read(written(soft, libver="latest"))
    with pytest.raises(ValueError, match="'a': .* later format"):
        read(written(lambda file: file.create_group("a", track_order=True)))


def test_every_prefix_is_refused():
    data = written(plain)
    for size in (*range(200), *range(200, len(data), 512), len(data) - 1):
        with pytest.raises(ValueError, match="truncated"):
            read(data[:size])


def test_changed_bytes_are_refused_or_give_arrays_of_the_file():
    data, rng = written(plain), random.Random(0)
    nonzero = [offset for offset, byte in enumerate(data) if byte]
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 2, 5, 20))):
            offset, width = rng.choice(nonzero), rng.choice((1, 4, 8))
            changed[offset : offset + width] = rng.choice((b"\xff" * width, bytes(width), rng.randbytes(width)))
        try:
            arrays, _ = read(bytes(changed[: len(data)]), texts=["text", "fixed", "long"])
        except ValueError:
            continue
        assert sum(array.nbytes for array in arrays.values()) <= len(data)


def array_and_text(file):
    file["a"] = np.arange(1, 100, dtype=np.float32)
    file.attrs["text"] = "some text"


def two_arrays(file):
    file["a"], file["b"] = np.ones(3), np.ones(3)


#: the message for a file of which some bytes, before or after a place, are changed
DAMAGED = {
    "damaged: an invalid tree node": (array_and_text, b"TREE", 4, b"\1"),  # its kind
    "'many': damaged: an invalid tree node": (plain, b"TREE\0\1", 5, b"\2"),  # its height
    "an attribute of version 4": (array_and_text, b"text\0", -8, b"\4"),
    "damaged: no GCOL at": (array_and_text, b"GCOL", 0, b"X"),
    "'a': damaged: a message that is too short": (  # the array's type is left out
        array_and_text,
        bytes.fromhex("11201f0004000000"),
        -8,
        b"\0",
    ),
    "'a': a shared message": (array_and_text, bytes.fromhex("11201f0004000000"), -4, b"\2"),
    "damaged: two entries with the same name": (two_arrays, b"a" + bytes(7) + b"b\0", 8, b"a"),
    "damaged: no object 1 in the heap at": (array_and_text, b"GCOL", 8, struct.pack("<Q", 31)),
    "'compact': damaged: an array that goes beyond its header": (
        compact,
        np.arange(4, dtype=np.float32).tobytes(),
        -2,
        b"\xff\xff",
    ),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_a_damaged_structure_is_refused(message):
    fill, place, offset, changed = DAMAGED[message]
    data = bytearray(written(fill))
    read(data, texts=["text"])
    start = data.index(place) + offset
    assert data[start : start + len(changed)] != changed
    data[start : start + len(changed)] = changed
    with pytest.raises(ValueError, match=message):
        read(data, texts=["text"])


def test_the_longest_name():
    array = np.ones(3, np.float32)
    assert list(read(written(lambda file: file.create_dataset("n" * 1023, data=array)))[0]) == ["n" * 1023]
    with pytest.raises(ValueError, match="damaged: invalid name"):
        read(written(lambda file: file.create_dataset("n" * 1024, data=array)))


def test_shapes_of_both_versions():
    for beginning in (b"\1\2\0\0" + bytes(4), b"\2\2\0\1"):
        assert hdf5._shape(beginning + struct.pack("<2Q", 3, 5)) == (3, 5)
        with pytest.raises(ValueError, match="damaged: a message that is too short"):
            hdf5._shape(beginning + struct.pack("<2Q", 3, 5)[:-1])


def test_an_object_at_the_end_of_its_heap_is_read():
    data = bytearray(written(array_and_text))
    struct.pack_into("<Q", data, data.index(b"GCOL") + 8, 32)  # bytes of the heap
    assert read(data, texts=["text"])[1] == {("", "text"): "some text"}


def test_a_file_that_ends_while_it_is_read_is_refused():
    array = np.arange(1, 100, dtype=np.float32)
    data = written(lambda file: file.create_dataset("a", data=array))
    assert data.endswith(array.tobytes())
    for end, name in ((len(data) - 1, "'a'"), (data.index(b"TREE") + 2, "'/'")):
        with pytest.raises(ValueError, match=f"HDF5 object {name}: truncated while it was read"):
            hdf5.read(io.BytesIO(data[:end]), Budget("a.h5", len(data)))


def test_a_cyclic_heap_ends():
    """The HDF5 library loops forever on an object of size 0."""
    data = bytearray(written(lambda file: file.attrs.update(text="x" * 100, other="y")))
    heap = data.index(b"GCOL") + 16
    struct.pack_into("<H6xQ", data, heap, 7, 2**64 - 24)
    with pytest.raises(ValueError, match="damaged"):
        read(bytes(data), texts=["text", "other"])


def test_work_is_bounded():
    """Every text walks through a heap of tiny objects."""

    def fill(file):
        for index in range(300):
            file.attrs[f"a{index}"] = "" if index else "x" * 100_000

    data = bytearray(written(fill))
    start = data.index(b"x" * 100_000)
    for offset in range(start, start + 99_000, 16):
        struct.pack_into("<H6xQ", data, offset, 9999, 0)
    struct.pack_into("<Q", data, start - 8, 0)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="a.h5: its texts: would take more than|damaged"):
            read(bytes(data), texts=[f"a{index}" for index in range(300)])
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"hello" * 100, bytes(4096)])
def test_other_files_are_refused(content):
    with pytest.raises(ValueError, match="truncated|not an HDF5 file|damaged"):
        read(content)
