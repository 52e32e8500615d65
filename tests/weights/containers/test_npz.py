"""Arrays in .npz files: read bit for bit; truncated, damaged and hostile files are refused."""

import io
import os
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from common import assert_same, peak_of

from lstm_cy.weights.containers.npz import read_npz, write_npz

ARRAYS = {
    "0.weight_ih_l0": np.arange(12, dtype=np.float32).reshape(3, 4),
    "Größe": np.array([[1.5, -0.0], [np.nan, np.inf]]),
    "half": np.ones(3, np.float16),
    "int": np.arange(-3, 3),
    "byte": np.frombuffer(b"abc", np.uint8),
    "bool": np.array([True, False]),
    "scalar": np.float32(2.5),
    "empty": np.empty((0, 3), np.float32),
    "big-endian": np.arange(4, dtype=">f8"),
}


def test_arrays_are_read_bit_for_bit(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, ARRAYS)
    read = read_npz(path)
    assert_same(read, ARRAYS)
    assert all(array.flags.writeable for array in read.values())


def test_numpy_reads_our_files_and_we_read_numpys(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, ARRAYS)
    with np.load(path) as file:
        assert_same(dict(file), ARRAYS)
    np.savez(path, fortran=np.asfortranarray(ARRAYS["0.weight_ih_l0"]), strided=np.arange(9)[::2])
    read = read_npz(path)
    assert read["fortran"].tolist() == ARRAYS["0.weight_ih_l0"].tolist()
    assert read["strided"].tolist() == [0, 2, 4, 6, 8]


def test_strided_and_fortran_arrays_are_written_in_order(tmp_path):
    path = tmp_path / "a.npz"
    matrix = ARRAYS["0.weight_ih_l0"]
    write_npz(path, {"fortran": np.asfortranarray(matrix), "strided": matrix[:, ::2], "list": [1, 2]})
    read = read_npz(path)
    assert read["fortran"].tolist() == matrix.tolist()
    assert read["strided"].tolist() == matrix[:, ::2].tolist()
    assert read["list"].tolist() == [1, 2]


def test_the_same_arrays_give_the_same_bytes(tmp_path, monkeypatch):
    write_npz(tmp_path / "a.npz", ARRAYS)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_npz(tmp_path / "b.npz", ARRAYS)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_file_without_arrays(tmp_path):
    write_npz(tmp_path / "a.npz", {})
    assert read_npz(tmp_path / "a.npz") == {}


@pytest.mark.parametrize("array", [np.array([None]), np.array(["a"]), np.ones(2, "c8"), np.zeros(2, "f4,i4")])
def test_only_numbers_and_bools_are_written(tmp_path, array):
    with pytest.raises(TypeError, match="w: expected an array of numbers or bools, got dtype"):
        write_npz(tmp_path / "a.npz", {"w": array})
    assert list(tmp_path.iterdir()) == []


# Atomic replacement


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["numpy.lib.format.write_array", "os.fsync", "os.replace"])
def test_a_failure_leaves_only_the_old_file(tmp_path, monkeypatch, where, error):
    path = tmp_path / "a.npz"
    write_npz(path, {"old": np.ones(3)})
    old = path.read_bytes()

    def fail(*arguments, **keywords):
        raise error

    monkeypatch.setattr(where, fail)
    with pytest.raises(type(error)):
        write_npz(path, {"new": np.zeros(5)})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_the_data_are_on_the_disk_before_the_file_is_renamed(tmp_path, monkeypatch):
    path, events = tmp_path / "a.npz", []

    def record(name):
        original = getattr(os, name)

        def recorded(*arguments):
            if name == "fsync":
                kind = "folder" if stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else "file"
                size = os.fstat(arguments[0]).st_size
                events.append((f"fsync {kind}", size if kind == "file" else None))
            else:
                events.append((name, None))
            return original(*arguments)

        monkeypatch.setattr(os, name, recorded)

    record("fsync")
    record("replace")
    write_npz(path, ARRAYS)
    assert events == [("fsync file", path.stat().st_size), ("replace", None), ("fsync folder", None)]


def test_a_link_stays_a_link_and_a_new_file_has_the_default_mode(tmp_path):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "a.npz"
    link.symlink_to("folder/target.npz")
    write_npz(link, {"a": np.ones(1)})
    assert link.is_symlink()
    usual = tmp_path / "usual"
    usual.touch()
    assert (tmp_path / "folder/target.npz").stat().st_mode == usual.stat().st_mode


def test_an_error_for_a_missing_folder_names_the_given_path(tmp_path):
    path = tmp_path / "missing" / "a.npz"
    with pytest.raises(FileNotFoundError) as caught:
        write_npz(path, {})
    assert caught.value.filename == str(path)


# Truncated, damaged and foreign files


def npy(descr="'<f4'", order="False", shape="(3,)", data=bytes(12), version=b"\x01\x00"):
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + data


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def assert_refused(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_npz(path)
    assert str(path) in str(caught.value)


def test_the_crafted_array_is_read(tmp_path):
    path = archive(tmp_path / "a.npz", [("w.npy", npy())])
    assert read_npz(path)["w"].tolist() == [0, 0, 0]


def test_every_prefix_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, {"weight": np.arange(6.0), "bias": np.ones(2)})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert_refused(path, "truncated, or not an .npz file")


def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {"weight": np.arange(6.0), "bias": np.ones(2)}
    write_npz(path, arrays)
    whole = path.read_bytes()
    for index in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:index] + bytes([whole[index] ^ flip]) + whole[index + 1 :])
            try:
                read = read_npz(path)
            except ValueError as error:
                assert str(path) in str(error)
            else:
                assert_same(read, arrays)


class Exploit:
    def __reduce__(self):
        return Path.touch, (Path("exploited"),)


def object_array():
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([Exploit()]), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(shape="(4,)"), r"shape \(4,\) of float32 takes 16 bytes, the file holds 12"),
        (npy(shape="(2,)"), r"shape \(2,\) of float32 takes 8 bytes, the file holds 12"),
        (npy(shape="(3, 1000000000000)"), "the file holds 12"),
        (npy(shape="(9999999999999999999, 9999999999999999999)"), "the file holds 12"),
        (npy(shape="(0, 9999999999999999999)", data=b""), "allowed dimension|too big"),
        (npy(shape="(-3,)"), "not an array of plain numbers"),
        (npy(shape="(3.0,)"), "not an array of plain numbers"),
        (npy(shape="(" + "1, " * 40 + ")"), "not an array of plain numbers"),
        (npy(shape="(" + "1, " * 99 + "3)"), "dimension"),
        (npy(shape="(" + "9" * 5000 + ",)"), "not an array of plain numbers"),
        (npy(shape="(open('exploited', 'w'),)"), "not an array of plain numbers"),
        (npy(descr="'|O'", data=bytes(24)), "not an array of plain numbers"),
        (npy(descr="'<U3'"), "not an array of plain numbers"),
        (npy(descr="'<c8'"), "not an array of plain numbers"),
        (npy(descr="[('a', '<f4')]"), "not an array of plain numbers"),
        (npy(descr="'<f3'"), "unknown dtype '<f3'"),
        (npy(version=b"\x02\x00"), "not an array in .npy format 1.0"),
        (npy()[:9], "not an array in .npy format 1.0"),
        (npy()[:40], "not an array of plain numbers"),
        (b"", "not an array in .npy format 1.0"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "not an array of plain numbers"),
        (object_array(), "not an array of plain numbers"),
        (b"cos\nsystem\n(S'touch exploited'\ntR.", "not an array in .npy format 1.0"),
    ],
)
def test_a_member_with_a_wrong_header_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "a.npz", [("v.npy", npy()), ("w.npy", content)])

    def assert_refused_at_once():
        assert_refused(path, "member 'w': .*" + message)

    assert peak_of(assert_refused_at_once) < 1 << 20
    assert not Path("exploited").exists()


def test_a_compressed_file_is_refused_before_it_is_decompressed(tmp_path):
    path = archive(tmp_path / "a.npz", [("w.npy", npy(shape="(25000000,)", data=bytes(100_000_000)))], 8)
    assert path.stat().st_size < 200_000
    assert peak_of(lambda: assert_refused(path, "member 'w': compressed; only uncompressed files are read")) < 1 << 20


def test_members_that_share_bytes_are_refused(tmp_path):
    data = os.urandom(400_000)
    path = archive(tmp_path / "a.npz", [("w.npy", npy(shape="(100000,)", data=data))])
    whole = path.read_bytes()
    directory = whole.rindex(b"PK\1\2")
    entry = whole[directory : whole.rindex(b"PK\5\6")]
    many = 200
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, many, many, many * len(entry), directory, 0)
    path.write_bytes(whole[:directory] + many * entry + end)
    assert peak_of(lambda: assert_refused(path, "the members' sizes add up to more than the file")) < 1 << 20


def test_a_repeated_name_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive(tmp_path / "a.npz", [("w.npy", npy()), ("w.npy", npy())])
    assert_refused(path, "member 'w' occurs twice")


def test_a_member_that_is_not_an_array_is_refused(tmp_path):
    assert_refused(archive(tmp_path / "a.npz", [("w.txt", b"hello")]), r"member 'w.txt': not an array \(.npy\)")


def test_an_encrypted_member_is_refused(tmp_path):
    path = archive(tmp_path / "a.npz", [("w.npy", npy())])
    whole = bytearray(path.read_bytes())
    whole[whole.rindex(b"PK\1\2") + 8] |= 1
    path.write_bytes(whole)
    assert_refused(path, "member 'w': encrypted")


@pytest.mark.parametrize("zip64", [False, True])
def test_a_large_directory_is_refused_before_it_is_read(tmp_path, zip64):
    path, entries = tmp_path / "a.npz", 200_000
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"w"
    directory = entries * entry
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 5, 5, 0 if zip64 else len(directory), 0, 0)
    if zip64:  # a second record that overrides the one at the end
        offset = len(directory)
        record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, len(directory), 0)
        end = record + struct.pack("<4sIQI", b"PK\6\7", 0, offset, 1) + end
    path.write_bytes(directory + end)
    assert peak_of(lambda: assert_refused(path, f"a ZIP directory of {len(directory)} bytes")) < 1 << 20


def test_a_misplaced_zip64_record_is_refused(tmp_path):
    path = archive(tmp_path / "a.npz", [("w.npy", npy())])
    whole = path.read_bytes()
    end = whole.rindex(b"PK\5\6")
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, end - whole.rindex(b"PK\1\2"), 0)
    for offset, message in [
        (end, "its ZIP directory is not before its end"),
        (end - 1, "ZIP64 record is not before its end"),
    ]:
        path.write_bytes(whole[:end] + record + struct.pack("<4sIQI", b"PK\6\7", 0, offset, 1) + whole[end:])
        assert_refused(path, message)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(1000), b"PK\5\6", b"\x80\x04K\x01.", npy()])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    assert_refused(path, "truncated, or not an .npz file")


def test_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "a.npz")


def test_reading_takes_little_more_memory_than_the_file(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, {"w": np.ones(5_000_000, np.float32)})
    assert peak_of(lambda: read_npz(path)) < 20_000_000 + (4 << 20)
