"""Files of torch.save that are made byte by byte: the format is read, and hostile files are refused."""

import os
import pickle
import re
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from common import assert_same, peak_of, torch_lstm

from lstm_cy import LSTM
from lstm_cy.weights.pytorch import Opaque, lstms, read, read_model

ROOT = Path(__file__).parents[3]
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def dumps(value):
    """Return a value's opcodes, without the beginning and the end of a pickle."""
    return pickle.dumps(value, 2)[2:-1]


def storage(key="0", kind="torch FloatStorage", count=6):
    module, name = kind.split(" ")
    return b"(" + dumps("storage") + f"c{module}\n{name}\n".encode() + dumps(key) + dumps("cpu") + dumps(count) + b"tQ"


def tensor(size=(2, 3), stride=(3, 1), offset=0, **options):
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage(**options)
        + dumps(offset)
        + dumps(size)
        + dumps(stride)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def with_metadata(metadata):
    return tensor()[: -len(b"tR")] + dumps(metadata) + b"tR"


def untyped(dtype, count):
    """Return the opcodes of a tensor of one element over `count` bytes."""
    return (
        b"ctorch._utils\n_rebuild_tensor_v3\n("
        + storage(kind="torch.storage UntypedStorage", count=count)
        + dumps(0)
        + dumps((1,)) * 2
        + b"\x89ccollections\nOrderedDict\n)Rctorch\n"
        + dtype
        + b"\ntR"
    )


SIX = np.arange(6, dtype=np.float32)


def write(path, opcodes, records=None, compression=zipfile.ZIP_STORED, folder="a/", **others):
    """Write a file in the format of torch.save, with any content."""
    records = {"0": SIX} if records is None else records
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.filterwarnings("ignore", "Duplicate name")
        archive.writestr(folder + "data.pkl", b"\x80\x02" + opcodes + b".")
        for key, content in records.items():
            archive.writestr(f"{folder}data/{key}", bytes(content))
        for name, content in others.items():
            archive.writestr(folder + name, content)
    return path


def numpy_array(shape, code="f8", content=bytes(8)):
    """Return the opcodes of an array of NumPy."""
    dtype = b"cnumpy\ndtype\n" + dumps((code, False, True)) + b"R" + dumps((3, "<", None)) + b"b"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n)R(K\1"
        + dumps(shape)
        + dtype
        + b"\x89B"
        + struct.pack("<I", len(content))
        + content
        + b"tb"
    )


def mapping(**tensors):
    """Return the opcodes of a dict."""
    return b"}(" + b"".join(dumps(name) + opcodes for name, opcodes in tensors.items()) + b"u"


def write_lstm(path):
    """Write a file of an LSTM with I = 1 and H = 2, without PyTorch."""
    shapes = {"weight_ih_l0": (8, 1), "weight_hh_l0": (8, 2), "bias_ih_l0": (8,), "bias_hh_l0": (8,)}
    arrays = {name: np.random.default_rng(0).standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    tensors = {
        name: tensor(array.shape, tuple(step // 4 for step in array.strides), key=name, count=array.size)
        for name, array in arrays.items()
    }
    return write(path, mapping(**tensors), {name: array.tobytes() for name, array in arrays.items()})


def assert_refused(path, message):
    """Check that `read` refuses the file by name, in little memory."""

    def assert_refused_at_once():
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")

    assert peak_of(assert_refused_at_once) < 100_000_000


def test_the_crafted_file_is_read(tmp_path):
    path = write(tmp_path / "a.pt", mapping(w=tensor()))
    assert_same(read(path), {"w": SIX.reshape(2, 3)})
    assert read(write(path, tensor((3, 2), (1, 3)))).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert read(write(path, tensor((2,), (2,), 1))).tolist() == [1, 3]
    assert read(write(path, tensor((), (), 5))).tolist() == 5
    assert read(write(path, tensor((1, 6), (2**62, 1)))).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert read(write(path, tensor((4,), (0,), 3))).tolist() == [3, 3, 3, 3]
    assert read(write(path, tensor((0, 2**40), (1, 1)))).shape == (0, 2**40)
    for metadata in (None, {}):
        assert read(write(path, with_metadata(metadata))).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read(write(path, untyped(b"int16", 6), {"0": b"\x02\x01" + bytes(4)})).tolist() == [258]
    assert lstms(write_lstm(path))[""].config == LSTM(1, 2).config


def test_the_largest_of_everything_is_read(tmp_path):
    """One more of each is refused."""
    path = tmp_path / "a.pt"
    assert read(write(path, tensor((1,) * 32, (1,) * 32))).shape == (1,) * 32
    assert read(write(path, tensor((1, 6), (2**63 - 1, 1)))).shape == (1, 6)
    assert_refused(write(path, tensor((1, 6), (2**63, 1))), "expected an offset, sizes and strides of 0 to")
    elements = (8 * SIX.nbytes + (1 << 20)) // 4
    assert read(write(path, tensor((elements,), (0,)))).size == elements
    assert_refused(write(path, tensor((elements + 1,), (0,))), "more than 8 times the 24 bytes")
    for key in (2**60 - 1, 1 - 2**60):
        assert read(write(path, b"}" + dumps(key) + b"Ns")) == {key: None}
    for key in (2**60, -(2**60)):
        assert_refused(write(path, b"}" + dumps(key) + b"Ns"), "a dict's key is a int")
    assert str(read(write(path, b"]" * 65 + b"a" * 64))) == "[" * 65 + "]" * 65
    assert_refused(write(path, b"]" * 66 + b"a" * 65), "nested deeper than 64, or in itself")
    assert read(write(path, b"N", version=b"10     \n")) is None
    assert_refused(write(path, b"N", version=b"10      \n"), "version has 9 bytes; at most 8 are read")
    length = (8 << 20) - len(b"\x80\x02X1234.")
    assert len(read(write(path, b"X" + struct.pack("<I", length) + b"a" * length))) == length
    assert_refused(write(path, b"X" + struct.pack("<I", length + 1) + b"a" * (length + 1)), "at most 8388608 are read")
    assert read(write(path, b"C\0")) == b""


def test_pytorch_reads_the_crafted_file(torch, tmp_path):
    path = write(tmp_path / "a.pt", mapping(w=tensor((3, 2), (1, 3))), byteorder=b"little", version=b"3\n")
    assert torch.load(path)["w"].tolist() == read(path)["w"].tolist()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("Float", "f4"),
        ("Double", "f8"),
        ("Half", "f2"),
        ("Short", "i2"),
        ("Long", "i8"),
        ("Char", "i1"),
        ("Byte", "u1"),
    ],
)
def test_the_byte_order_of_the_file_is_respected(tmp_path, kind, dtype):
    for order, sign in ((b"little", "<"), (b"big", ">")):
        opcodes = tensor((3,), (1,), kind=f"torch {kind}Storage", count=3)
        path = write(tmp_path / "a.pt", opcodes, {"0": np.array([1, -2, 3]).astype(sign + dtype)}, byteorder=order)
        assert read(path).tolist() == np.array([1, -2, 3]).astype(dtype).tolist()
        assert read(path).dtype == np.dtype(dtype)
    opcodes = tensor((2,), (1,), kind="torch BFloat16Storage", count=2)
    path = write(tmp_path / "a.pt", opcodes, {"0": b"\x3f\x80\xc0\x00"}, byteorder=b"big")
    assert read(path).tolist() == [1, -2]


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (tensor(offset=1), "offset 1, size .* lead to element 6; it has 6"),
        (tensor((7,), (1,)), "lead to element 6; it has 6"),
        (tensor((2, 3), (4, 1)), "lead to element 6; it has 6"),
        (tensor((2, 3), (2**61, 1)), "lead to element 2305843009213693954; it has 6"),
        (tensor((2**62,), (4,)), "lead to element"),
        (tensor((2**32, 2**32), (1, 1)), "lead to element"),
        (tensor((2**63,), (0,)), "expected an offset, sizes and strides of 0 to"),
        (tensor((2,), (-1,), 1), "expected an offset, sizes and strides of 0 to"),
        (tensor((-1,), (1,)), "expected an offset, sizes and strides of 0 to"),
        (tensor(offset=-1), "expected an offset, sizes and strides of 0 to"),
        (tensor(offset=10**5000), "expected an offset, sizes and strides of 0 to"),
        (tensor(offset=None), "expected an offset, sizes and strides of 0 to"),
        (tensor((True,), (1,)), "expected an offset, sizes and strides of 0 to"),
        (tensor((2.0,), (1,)), "expected an offset, sizes and strides of 0 to"),
        (tensor((2, 3), (3,)), "two tuples of one length"),
        (tensor([2, 3], [3, 1]), "two tuples of one length"),
        (tensor((1,) * 33, (1,) * 33), "a tensor of 33 axes; at most 32"),
        (tensor((0, 2**62, 2**62), (1, 1, 1)), "dimension|too big|too large"),
        (tensor((10**7,), (0,)), "tensors take 40000000 bytes, more than 8 times the 24 bytes"),
        (tensor((2**40,), (0,)), "bytes, more than 8 times the 24 bytes"),
        (b"(" + tensor((6,), (1,)) + b"q\x05" + b"h\x05" * 100_000 + b"t", "more than 8 times the 24 bytes"),
        (tensor(count=7), "storage '0': 7 elements of float32 take 28 bytes, its record holds 24"),
        (tensor(count=5), "storage '0': 5 elements of float32 take 20 bytes, its record holds 24"),
        (tensor(count=-6), "its record holds 24"),
        (tensor(count=2**62), "its record holds 24"),
        (tensor(kind="torch DoubleStorage"), "6 elements of float64 take 48 bytes, its record holds 24"),
        (tensor(count="6"), "a persistent id that is not a tensor's storage"),
        (tensor(key=0), "a persistent id that is not a tensor's storage"),
        (with_metadata({"neg": True}), "a tensor that is conjugated, negated or has other metadata"),
        (with_metadata("neg"), "a tensor that is conjugated, negated or has other metadata"),
        (tensor(key="1"), "record 'data/1' is missing"),
        (tensor(key="../data.pkl"), "record 'data/../data.pkl' is missing"),
        (tensor(key="x" * 9999), "record 'data/xxx.* is missing"),
        (mapping(a=tensor(), b=tensor(kind="torch IntStorage")), "tensors of float32 and of int32 share it"),
        (dumps("storage") + b"Q", "a persistent id that is not a tensor's storage"),
        (storage(), "a storage where a value should be"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "with other arguments than a tensor's"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n)R", "with other arguments than a tensor's"),
        (b"ctorch._utils\n_rebuild_parameter\n)R", "with other arguments than a parameter's"),
        (b"ctorch\nSize\n)R", "with other arguments than a size"),
        (b"ctorch\ndevice\n)R", "with other arguments than a device"),
        (b"c_codecs\nencode\n" + dumps(("a", "rot13")) + b"R", "with other arguments than bytes"),
        (dumps("os.system") + b")R", "a call of a value that cannot be called"),
        (b"N)R", "a call of a value that cannot be called"),
    ],
)
def test_false_descriptions_of_tensors_are_refused(tmp_path, opcodes, message):
    assert_refused(write(tmp_path / "a.pt", opcodes), message)


def test_bytes_that_are_no_whole_number_of_elements_are_refused(tmp_path):
    path = write(tmp_path / "a.pt", untyped(b"int32", 6), {"0": bytes(6)})
    assert_refused(path, "storage '0': its record of 6 bytes is not a multiple of int32")


class Exploit:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("exploit", "name"),
    [
        (Exploit(os.system, "touch exploited"), "posix.system"),
        (Exploit(eval, "open('exploited', 'w')"), "builtin(s|__).eval"),
        (Exploit(exec, "open('exploited', 'w')"), "builtin(s|__).exec"),
        (Exploit(getattr, "a", "upper"), "builtin(s|__).getattr"),
        (Exploit(Path.touch, Path("exploited")), "builtin(s|__).getattr|pathlib"),
    ],
    ids=["system", "eval", "exec", "getattr", "touch"],
)
def test_no_code_is_executed(tmp_path, monkeypatch, exploit, name, protocol):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"weight_ih_l0": exploit}, protocol)
    found = read(write(tmp_path / "a.pt", content[2:-1]))["weight_ih_l0"]
    assert isinstance(found, Opaque) and re.match(name, found.name) and found.arguments
    with pytest.raises(ValueError, match="weight_ih_l0: expected a dense tensor, got Opaque"):
        lstms(tmp_path / "a.pt")
    assert not Path("exploited").exists()


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (b"\x82\x01", "opcode EXT1 is not among those"),
        (b"L" + b"9" * 100_000 + b"L\n", "damaged: an integer of 100000 digits"),
        (b"Pid\n", "a persistent id that is not a tensor's storage is refused"),
        (b"S'a\n", "a string without quotes"),
        (b"I12", "a line is expected at byte 3"),
        (b"Nb", "BUILD at byte 3 refers to a missing value"),
        (b"N}b", "attributes of a NoneType"),
        (b"}]Ns", "a dict's key is a list"),
        (b"\x8f(]\x90", "a set's element is a list"),
        (b"}(" + b"".join(dumps(k + 0.5) + b"N" for k in range(2001)) + b"u", "a dict's key is a float"),
        (b"N)\x81", "a call of a value that cannot be called"),
        (b"(o", "a call of a value that cannot be called"),
        (b"cnumpy\ndtype\n" + dumps(("f8", False, True)) + b"R", "an unfinished array where a value should be"),
        (b"cnumpy.core.multiarray\n_reconstruct\n)R", "an unfinished array where a value should be"),
        (b"cnumpy.core.multiarray\n_reconstruct\n)RNb", "another state than an array's"),
        (numpy_array((2**62, 4)), "takes .* bytes, got 8"),
        (numpy_array((-1,)), "another shape"),
        (numpy_array((1,), "f4"), "takes 4 bytes, got 8"),
        (b"\xff", "unknown"),
        (b"NN\x93", "a name that is not a string"),
        (b"Nr\xff\xff\xff\xffh\x01", "BINGET at byte 8 refers to a missing value"),
        (b"q\x01", "BINPUT at byte 2 refers to a missing value"),
        (b"\x94", "MEMOIZE at byte 2 refers to a missing value"),
        (b"t", "TUPLE at byte 2 refers to a missing value"),
        (b"N\x86", "TUPLE2 at byte 3 refers to a missing value"),
        (b"N(\x85", "TUPLE1 at byte 4 refers to a missing value"),
        (b"s", "SETITEM at byte 2 refers to a missing value"),
        (b"}(Nu", "SETITEMS at byte 5 refers to a missing value"),
        (b"", "STOP|unfinished"),
        (b"NN", "unfinished"),
        (b"(N", "unfinished"),
        (b"Na", "APPEND at byte 3 refers to a missing value"),
        (b"NNa", "expected a list to add to, got a NoneType"),
        (b"]NNs", "expected a dict to add to, got a list"),
        (b"}" + dumps(2**61 - 1) + b"Ns", "a dict's key is a int"),
        (b"\x8d" + struct.pack("<Q", 2**60) + b"abc", "expected 1152921504606846976 bytes .* remain"),
        (b"\x8e" + struct.pack("<Q", 2**63 + 5) + b"abc", "expected 9223372036854775813 bytes .* remain"),
        (b"X\xff\xff\xff\xffabc", "expected 4294967295 bytes .* remain"),
        (b"\x8b\xff\xff\xff\x7fabc", "expected 2147483647 bytes .* remain"),
        (b"\x8b\xff\xff\xff\xffabc", "expected -1 bytes"),
        (b"X\x02\0\0\0a", "exhausted before seeing STOP"),  # the last byte of the file is part of the text
        (b"X\x03\0\0\0a", "expected 3 bytes at byte 7, where 2 remain"),
        (b"J\1\0", "damaged: truncated, 4 bytes are expected at byte 3"),
        (b"ctorch", "damaged: truncated, two lines are expected at byte 3"),
        (b"ctorch\nSize", "damaged: truncated, two lines are expected at byte 3"),
        (b"\x95" + struct.pack("<Q", 2**62), "STOP|unfinished"),
        (b"X\x01\x00\x00\x00\xff", "utf-8"),
        (b"]" * 100_000 + b"a" * 99_999, "nested deeper than 64, or in itself"),
        (b")" + b"\x85" * 200_000, "nested deeper than 64, or in itself"),
        (b")" + b"\x85" * 200_000 + b"}" + dumps("a") + b"Ns", "unfinished"),
        (b"}" + b")" + b"\x85" * 200_000 + b"Ns", "a dict's key is a tuple"),
        (b"(" * 300_000, "unfinished"),
        (b"}" * 600_000, "its pickle: would take more than 800000 objects"),
        (b"]q\x01h\x01a", "nested deeper than 64, or in itself"),
        (b"}q\x01" + dumps("a") + b"h\x01s", "nested deeper than 64, or in itself"),
        (b")" + b"q\x01h\x01\x86" * 40, "its values: would take more than .* objects"),
        (b"X" + struct.pack("<I", 9 << 20) + b"a" * (9 << 20), "data.pkl has 94.* bytes; at most 8388608 are read"),
    ],
)
def test_damaged_and_hostile_pickles_are_refused(tmp_path, opcodes, message):
    assert_refused(write(tmp_path / "a.pt", opcodes), message)


def test_a_nine_byte_memo_bomb_is_refused(tmp_path):
    """Python's unpickler allocates memory by the number in this opcode."""
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02Nr\x00\x00\x00\x08")
    assert_refused(tmp_path / "a.pt", "exhausted before seeing STOP")
    assert peak_of(lambda: read(write(tmp_path / "a.pt", b"Nr\x00\x00\x00\x08"))) < 1 << 20


def test_changed_pickles_cause_at_most_a_value_error(tmp_path):
    """Any bytes give a value or a ValueError."""
    whole = (
        mapping(w=tensor(), v=tensor((3,), (2,)), p=dumps([1, 2.5, ("a", None), {"b": True}, 10**20]))
        + b"ctorch\nSize\n(K\x01tR0"
    )
    rng = np.random.default_rng(0)
    path = tmp_path / "a.pt"
    for _ in range(1500):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(len(content))] = rng.choice([rng.integers(256), *b"(0u}]tRQb.ehqN\x85\x93"])
        write(path, bytes(content))
        try:
            read(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")


def test_every_prefix_is_refused(tmp_path):
    path = write_lstm(tmp_path / "a.pt")
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert_refused(path, "truncated, or not a PyTorch file")


def test_a_file_truncated_at_any_kilobyte_is_refused(torch, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(torch_lstm(torch, 40, 60).state_dict(), path)
    whole = path.read_bytes()
    assert len(whole) > 90_000
    for size in range(0, len(whole), 1024):
        path.write_bytes(whole[:size])
        for use in (read, lstms):
            with pytest.raises(ValueError, match=f"^{path}: truncated"):
                use(path)


def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    path = write_lstm(tmp_path / "a.pt")
    whole, arrays = path.read_bytes(), read(path)
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 0x41]) + whole[index + 1 :])
        try:
            found = read(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
        else:
            assert_same(found, arrays)


def test_other_archives_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    for content, message in [
        (b"", "truncated, or not a PyTorch file"),
        (b"hello", "truncated, or not a PyTorch file"),
        (LEGACY, "exhausted before seeing STOP"),
        (LEGACY + b"\x80\x02M\xe8\x03.", "legacy format version 1000; known is 1001"),
        (b"PK\5\6" + bytes(18), "expected one folder with data.pkl"),
    ]:
        path.write_bytes(content)
        assert_refused(path, message)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("b/data.pkl", b"N.")
    assert_refused(path, "expected one folder with data.pkl")
    assert_refused(write(path, tensor(), {}), "record 'data/0' is missing")
    assert_refused(write(path, tensor(), byteorder=b"middle"), "byteorder: expected b'little' or b'big', got b'middle'")
    assert_refused(write(path, tensor(), byteorder=b"little" * 1000), "byteorder has 6000 bytes; at most 8 are read")
    for version in (b"0", b"11\n", b"-1", b"one", b"", b"\xb2"):
        assert_refused(write(path, tensor(), version=version), "format version .*; known are 1 to 10")


def test_hostile_archives_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    assert_refused(
        write(path, tensor(), {"0": bytes(100_000_000)}, zipfile.ZIP_DEFLATED), "compressed; only uncompressed"
    )
    assert_refused(
        write(path, tensor(), {"0": os.urandom(24)}, zipfile.ZIP_DEFLATED), "compressed; only uncompressed files"
    )
    for name in ("../x", "../../etc/passwd", "data/..", "\\..\\x"):
        assert_refused(write(path, tensor(), **{name: b"x"}), "member .*: its name is a path out of the archive")
    assert_refused(write(path, tensor(), folder="/a/"), "expected one folder")
    assert_refused(write(path, tensor(), **{"data/0": b"x"}), "member 'a/data/0' occurs twice")


def test_members_inside_members_are_refused(tmp_path):
    """Two entries of the directory share bytes, with correct headers."""

    def header(name, content):
        return struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, len(content), len(content), len(name), 0) + name

    def entry(name, content, offset):
        sizes = zipfile.crc32(content), len(content), len(content), len(name)
        return struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, *sizes, 0, 0, 0, 0, 0, offset) + name

    inner, pickled = b"x" * 24, b"\x80\x02N."
    outer = header(b"a/data/1", inner) + inner
    body = header(b"a/data/0", outer) + outer + header(b"a/data.pkl", pickled) + pickled
    second = len(header(b"a/data/0", outer))
    directory = (
        entry(b"a/data/0", outer, 0)
        + entry(b"a/data/1", inner, second)
        + entry(b"a/data.pkl", pickled, body.index(b"PK\3\4", second + 1))
    )
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 3, 3, len(directory), len(body), 0)
    (tmp_path / "a.pt").write_bytes(body + directory + end)
    assert_refused(tmp_path / "a.pt", "member 'a/data/1' shares bytes with another")


def test_reading_takes_little_more_memory_than_the_file(tmp_path):
    array = np.ones(5_000_000, np.float32)
    path = write(tmp_path / "a.pt", tensor(array.shape, (1,), count=array.size), {"0": array})
    assert peak_of(lambda: read(path)) < 20_000_000 + (4 << 20)


def test_a_missing_file_is_an_oserror(tmp_path):
    for use in (read, lstms):
        with pytest.raises(FileNotFoundError):
            use(tmp_path / "a.pt")


def test_load_gives_the_only_lstm(tmp_path):
    path = write_lstm(tmp_path / "a.pt")
    model = read_model(path, False)
    assert model.config == LSTM(1, 2).config
    assert_same(model.parameters, read(path))


def test_torch_is_not_imported(tmp_path):
    script = (
        "import sys; from lstm_cy.weights.pytorch import lstms; sys.modules['torch'] = None;"
        f"print(lstms({str(write_lstm(tmp_path / 'a.pt'))!r})[''].hidden_size)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout == "2\n"
