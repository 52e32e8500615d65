"""ZIP archives with false directories: each check of the reader separately."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest

from lstm_cy.weights.budget import Budget, LimitExceeded
from lstm_cy.weights.containers import zip as archives
from lstm_cy.weights.containers.npz import read_npz
from lstm_cy.weights.faults import naming

DATA = b"0123456789abcdef" * 4


def local(name, data, **changed):
    fields = {"signature": b"PK\3\4", "crc": zlib.crc32(data), "size": len(data), "name": name} | changed
    name = fields["name"].encode()
    return (
        struct.pack(
            "<4s5H3I2H",
            fields["signature"],
            20,
            0,
            0,
            0,
            0,
            fields["crc"],
            fields["size"],
            fields["size"],
            len(name),
            0,
        )
        + name
    )


def entry(name, data, offset, **changed):
    fields = {"crc": zlib.crc32(data), "size": len(data), "flags": 0, "method": 0, "extra": b""} | changed
    stored = fields.get("stored", fields["size"])
    return (
        struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 20, 20, fields["flags"], fields["method"], 0, 0, fields["crc"], stored,
            fields["size"], len(name.encode()), len(fields["extra"]), 0, 0, 0, 0, offset,
        )
        + name.encode()
        + fields["extra"]
    )  # fmt: skip


def finished(body, entries, count=None):
    directory = b"".join(entries)
    count = len(entries) if count is None else count
    return body + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)


def two(**changed):
    """Return an archive with the members a and b; `changed` are false values of b in the directory."""
    body = local("a", DATA) + DATA
    offset = len(body)
    body += local("b", DATA) + DATA
    return finished(body, [entry("a", DATA, 0), entry("b", DATA, **{"offset": offset} | changed)])


def members(content):
    file = io.BytesIO(content)
    found = archives.members(file, Budget("a.zip", len(content)), "an archive")
    return {name: member.read(1000) for name, member in found.items()}


def assert_refused(content, message):
    with pytest.raises((ValueError, EOFError, zipfile.BadZipFile), match=message):
        members(content)


def test_archives_of_zipfile_are_read():
    assert members(two()) == {"a": DATA, "b": DATA}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        written.writestr("folder/é.txt", b"one")
        with written.open("two", "w", force_zip64=True) as member:
            member.write(b"2")
    assert members(buffer.getvalue()) == {"folder/é.txt": b"one", "two": b"2"}
    assert zipfile.ZipFile(io.BytesIO(two())).read("b") == DATA  # zipfile reads the crafted archives too


def test_members_with_the_same_bytes_are_refused():
    """Their sizes add up to less than the file, so no other check finds them."""
    header = local("a", DATA)
    padding = bytes(10 * len(DATA))  # belongs to no member
    body = header + DATA + padding
    content = finished(body, [entry("a", DATA, 0), entry("b", DATA, 0)])
    assert_refused(content, "member 'b': damaged: its header has another name")
    inner = local("b", b"xy") + b"xy"  # a whole member inside the bytes of another
    outer = inner + bytes(30)
    body = local("a", outer) + outer + padding
    content = finished(body, [entry("a", outer, 0), entry("b", b"xy", len(local("a", outer)))])
    assert_refused(content, "member 'b' shares bytes with another")


@pytest.mark.parametrize("shared", [1, 2, 20, 29])
def test_members_that_overlap_by_some_bytes_are_refused(shared):
    """The end of a's data is the beginning of b's header."""
    second = local("b", DATA) + DATA
    data = DATA + second[:shared]
    body = local("a", data) + DATA + second + bytes(200)
    offset = len(local("a", data)) + len(DATA)
    found = finished(body, [entry("a", data, 0), entry("b", DATA, offset)])
    assert_refused(found, "member 'b' shares bytes with another")


def test_adjacent_members_are_read_in_any_order():
    body = local("a", DATA) + DATA
    offset = len(body)
    body += local("b", DATA) + DATA
    content = finished(body, [entry("b", DATA, offset), entry("a", DATA, 0)])
    assert members(content) == {"a": DATA, "b": DATA}


def test_a_member_that_reaches_into_the_directory_is_refused():
    longer = len(DATA) + 20
    body = local("a", DATA, size=longer) + DATA
    assert_refused(finished(body, [entry("a", DATA, 0, size=longer, crc=0)]), "a member reaches into the ZIP directory")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (two(offset=0), "member 'b': damaged: its header has another name"),
        (two(offset=5), "member 'b': damaged: its header is not where the directory says"),
        (two(offset=10**6), "member 'b': its offset, 1000000, is not in the file"),
        (two(offset=len(two())), "member 'b': its offset, .*, is not in the file"),
        (two(offset=len(two()) - 1), "member 'b': truncated"),
        (two(size=10**6), "sizes add up to more than the file"),
        (two(stored=3), "member 'b': compressed"),
        (two(method=8), "member 'b': compressed"),
        (two(method=12), "member 'b': compressed"),
        (two(method=14), "member 'b': compressed"),
        (two(flags=1), "member 'b': encrypted"),
        (two(flags=64), "member 'b': encrypted"),
        (two(crc=1), "its checksum does not match"),
        (two(size=2**32 - 1, stored=2**32 - 1), "a size is not in its ZIP directory"),
        (two(offset=2**32 - 1), "a size is not in its ZIP directory"),
        (two(offset=2**32 - 1, extra=struct.pack("<HHQ", 1, 8, 2**64 - 1)), "is not in the file"),
        (two(size=2**32 - 1, stored=64, extra=struct.pack("<HHQ", 1, 8, 65)), "member 'b': compressed"),
        (finished(local("a", DATA) + DATA, [entry("a", DATA, 0)], count=2), "1 members where there should be 2"),
        (finished(local("a", DATA) + DATA, [entry("a", DATA, 0)[:-1]]), "another name than the directory"),
        (finished(local("a", DATA) + DATA, [entry("a", DATA, 0), entry("", DATA, 0)[:-1]]), "ends within an entry"),
        (two(offset=2**32 - 1, extra=struct.pack("<HHQHH", 1, 8, 0, 1, 0)), "a size is not in its ZIP directory"),
        (finished(b"", [b"PK\1\3" + bytes(42)]), "its ZIP directory has an entry without a signature"),
        (b"x" + two(), "its ZIP directory is not before its end"),
        (two() + b"x", "truncated, or not an archive"),
        (two()[1:], "its ZIP directory is not before its end"),
    ],
)
def test_false_directories_are_refused(content, message):
    assert_refused(content, message)


@pytest.mark.parametrize("name", ["../a", "/a", "b/../../a", "b\\a", "a\0b"])
def test_paths_out_of_the_archive_are_refused(name):
    assert_refused(finished(local(name, DATA) + DATA, [entry(name, DATA, 0)]), "its name is a path out of the archive")


def test_numbers_of_64_bits_are_read():
    extra = struct.pack("<HHHHQQ", 7, 0, 1, 16, len(DATA), len(DATA))
    body = local("a", DATA) + DATA
    content = finished(body, [entry("a", DATA, 0, size=2**32 - 1, extra=extra)])
    assert members(content) == {"a": DATA}


def test_a_member_without_a_name_is_read():
    """Its entry is the shortest, and nothing follows it in the directory."""
    assert members(finished(local("", DATA) + DATA, [entry("", DATA, 0)])) == {"": DATA}


def test_the_largest_directory(monkeypatch):
    length = len(entry("a", DATA, 0)) + len(entry("b", DATA, 0))
    monkeypatch.setattr(archives, "_MAX_DIRECTORY", length)
    assert list(members(two())) == ["a", "b"]
    monkeypatch.setattr(archives, "_MAX_DIRECTORY", length - 1)
    assert_refused(two(), f"a ZIP directory of {length} bytes; at most {length - 1} are read")


def test_bytes_that_a_member_does_not_have_are_not_read():
    def opened(length=None):
        file = io.BytesIO(two())
        found = archives.members(file, Budget("a.zip", len(two())), "an archive")
        file.truncate(length)
        return found["b"]

    whole = np.empty(len(DATA), np.uint8)
    opened(len(two())).fill(whole)
    assert whole.tobytes() == DATA
    with pytest.raises(EOFError, match="truncated"):
        opened(len(two())).fill(np.empty(len(DATA) + 1, np.uint8))
    shortened = two().rindex(DATA) + 10  # as if another program had written to the file
    with pytest.raises(EOFError, match="truncated"):
        opened(shortened).fill(whole)
    with pytest.raises(EOFError, match="truncated"):
        opened(shortened).read(len(DATA))


def test_errors_of_damaged_files_begin_with_the_name():
    for error, message in (
        (RecursionError("maximum depth"), "a.npz: nested too deep to be read here"),
        (OverflowError("too large"), "a.npz: too large"),
        (EOFError("truncated"), "a.npz: truncated"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"), naming("a.npz"):
            raise error


def test_a_directory_of_64_bits_is_read():
    """Its record before the one at the end of the archive overrides that."""
    whole = two()
    start, end = whole.index(b"PK\1\2"), len(whole) - 22
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, end - start, start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    last = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    assert members(whole[:end] + record + locator + last) == {"a": DATA, "b": DATA}


def test_too_many_members_are_refused_before_they_are_read(tmp_path):
    array = io.BytesIO()
    np.save(array, np.zeros(0, np.float32))
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as written:
        for index in range(13_000):
            written.writestr(f"{index}.npy", array.getvalue())
    with pytest.raises(LimitExceeded, match=f"^{path}: its members: would take more than 800000 objects"):
        read_npz(path)
