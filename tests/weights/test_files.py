"""Files are replaced atomically, keep their permissions, and leave no temporary files."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest

from lstm_cy import LSTM, load, save
from lstm_cy.weights import files
from lstm_cy.weights.containers.npz import write_npz

posix = pytest.mark.skipif(os.name != "posix", reason="permissions and locks of POSIX")
SUFFIXES = [".npz", ".safetensors", ".onnx"]


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    """Give os.umask and restore the umask afterwards."""
    old = os.umask(0o022)
    yield os.umask
    os.umask(old)


@posix
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mode", [0o600, 0o664, 0o400])
def test_a_replaced_file_keeps_its_permissions(tmp_path, umask, suffix, mode):
    if suffix != ".npz":
        pytest.importorskip(suffix[1:])
    path = tmp_path / f"a{suffix}"
    save(LSTM(2, 3), path)
    assert mode_of(path) == 0o644
    path.chmod(mode)
    umask(0o027)
    save(LSTM(2, 3), path)
    assert mode_of(path) == mode


@posix
def test_a_new_file_follows_the_umask(tmp_path, umask):
    umask(0o077)
    write_npz(tmp_path / "a.npz", {})
    assert mode_of(tmp_path / "a.npz") == 0o600


@posix
def test_a_private_file_is_private_during_the_write(tmp_path, umask):
    path = tmp_path / "a.npz"
    path.touch(0o600)
    with files.replacing(path):
        (temporary,) = tmp_path.glob(".lstm_cy-*.tmp")
        assert mode_of(temporary) == 0o600


KILLED = """
import os, signal, sys
import numpy as np
from lstm_cy.weights.containers.npz import write_npz
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
write_npz(sys.argv[1], {"w": np.zeros(1000)})
"""


@posix
def test_temporary_files_of_a_killed_process_are_removed_by_the_next_write(tmp_path):
    path = tmp_path / "a.npz"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)])
    assert ended.returncode == -signal.SIGKILL
    assert len([*tmp_path.glob(".lstm_cy-*.tmp")]) == 1
    write_npz(tmp_path / "b.npz", {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.npz"]


@posix
def test_temporary_files_in_use_are_not_removed(tmp_path):
    with files.replacing(tmp_path / "a.npz") as file:
        file.write(b"content")
        write_npz(tmp_path / "b.npz", {})
    assert (tmp_path / "a.npz").read_bytes() == b"content"


@posix
def test_a_temporary_file_removed_before_its_lock_is_created_again(tmp_path, monkeypatch):
    """Another process may remove the temporary file between its creation and its lock."""
    locked, removed = files._locked, []

    def late(descriptor):
        if not removed:
            removed.extend(tmp_path.glob(".lstm_cy-*.tmp"))
            removed[0].unlink()
        return locked(descriptor)

    monkeypatch.setattr(files, "_locked", late)
    write_npz(tmp_path / "a.npz", {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz"]
    assert removed


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted by Linux's /proc")
def test_no_file_stays_open(tmp_path):
    write_npz(tmp_path / "a.npz", {})
    before = len(os.listdir("/proc/self/fd"))
    for index in range(5):
        (tmp_path / f".lstm_cy-{index:016x}.tmp").touch()
        write_npz(tmp_path / "a.npz", {})
    assert len(os.listdir("/proc/self/fd")) <= before


def test_without_locks_temporary_files_are_removed_after_a_day(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)  # as on Windows
    monkeypatch.setattr("time.time", lambda: 2_000_000)
    for age in (24 * 3600, 24 * 3600 + 1):
        left = tmp_path / f".lstm_cy-{age:016x}.tmp"
        left.touch()
        os.utime(left, (0, 2_000_000 - age))
    write_npz(tmp_path / "a.npz", {"w": np.ones(3)})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [f".lstm_cy-{24 * 3600:016x}.tmp", "a.npz"]
    assert os.path.getsize(tmp_path / "a.npz") > 100


@posix
def test_other_files_are_not_removed(tmp_path):
    for name in (".lstm_cy-0123.tmp", "x.tmp", ".lstm_cy-0123456789abcdeg.tmp"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / ".lstm_cy-0123456789abcdef.tmp")
    (tmp_path / ".lstm_cy-0123456789abcdee.tmp").symlink_to("x.tmp")
    write_npz(tmp_path / "a.npz", {})
    assert len([*tmp_path.iterdir()]) == 6


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_an_error_for_a_full_disk_names_the_file(tmp_path, monkeypatch, where):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.npz"
    with pytest.raises(OSError, match="No space left") as caught, files.replacing(path) as file:
        if where == "write":
            full()
        file.write(b"content")
        monkeypatch.setattr(os, where, full)
    assert caught.value.filename == str(path)
    assert not [*tmp_path.iterdir()]


def test_an_error_for_a_long_name_names_the_given_path(tmp_path):
    path = tmp_path / ("x" * 300 + ".npz")
    with pytest.raises(OSError, match="too long") as caught:
        save(LSTM(2, 3), path)
    assert (caught.value.filename, caught.value.filename2) == (str(path), None)


@pytest.mark.parametrize("use", [lambda path: save(LSTM(2, 3), path), load])
@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("a\0.npz", ValueError, r"path: .*a\\x00.npz"),
        (3, TypeError, "path: expected a path.* or a file that is open for .*ing, got .*int"),
    ],
)
def test_invalid_paths_are_refused(use, path, error, message):
    with pytest.raises(error, match=message):
        use(path)


def test_bytes_are_content_not_a_path():
    with pytest.raises(TypeError, match="path: expected a path or a file that is open for writing, got bytes"):
        save(LSTM(2, 3), b"a.npz")
    with pytest.raises(ValueError, match="its first bytes, b'a.npz', are those of no format"):
        load(b"a.npz")


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_metadata_nested_too_deep_are_refused_and_no_file_is_written(tmp_path, suffix):
    if suffix != ".npz":
        pytest.importorskip(suffix[1:])
    circular = []
    circular.append(circular)
    for metadata, error, message in [
        ({"a": nested(5000)}, ValueError, "metadata: .*nested"),
        ({"a": nested(930)}, ValueError, "metadata: .*nested"),
        ({"a": circular}, TypeError, "metadata: .*[Cc]ircular"),
        ({"a": 10**5000}, TypeError, "metadata: "),
        ({"a": np.float32(1)}, TypeError, "metadata: "),
    ]:
        with pytest.raises(error, match=message):
            save(LSTM(2, 3), tmp_path / f"a{suffix}", metadata)
    assert not [*tmp_path.iterdir()]


def test_metadata_that_can_be_saved_can_be_loaded(tmp_path):
    metadata = {"deep": nested(500), "text": "\udc80\0\x1b", "words": [f"word {index}" for index in range(200_000)]}
    save(LSTM(2, 3), tmp_path / "a.npz", metadata)
    assert load(tmp_path / "a.npz").metadata == metadata


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("character", ["a", '"', "中"])
def test_the_longest_metadata_that_can_be_saved_can_be_loaded(tmp_path, suffix, character):
    if suffix != ".npz":
        pytest.importorskip(suffix[1:])
    written = len(json.dumps(character)) - 2
    metadata = {"text": character * (((16 << 20) - 1000) // written)}
    save(LSTM(2, 3), tmp_path / f"a{suffix}", metadata)
    assert load(tmp_path / f"a{suffix}").metadata == metadata


def test_metadata_with_too_many_values_are_refused_by_save(tmp_path):
    with pytest.raises(ValueError, match="metadata: .* more than 800000 objects"):
        save(LSTM(2, 3), tmp_path / "a.npz", {"a": [0] * 800_001})
