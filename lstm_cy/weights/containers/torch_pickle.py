"""A reader of PyTorch's files that needs no PyTorch and executes nothing in them.

Since version 1.6 such a file is a ZIP archive: ``data.pkl`` describes how dicts, lists and tensors are nested;
``data/0``, ``data/1`` and so on are the tensors' bytes. TorchScript's archives have the same parts, and code, which is
not looked at. Older files are several pickles: a number that marks the format, its version, the machine's byte order,
the value, and the keys of the storages; then each storage's number of elements and bytes. A bare pickle is read too.
"""

from __future__ import annotations

import io
import math
import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from ...layers.narrow import widened
from ..budget import Budget
from ..faults import naming
from ..inputs import opened
from .opaque import Opaque
from .pickles import MAX_PICKLE, Machine, check_result
from .zip import members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import BinaryIO, Literal

    from ...typing import Array, FileSource
    from ..inputs import Input
    from .zip import Member

_TENSOR_COST = 16
# Tensors may share bytes; the sum of their sizes may be this many times the bytes in the file.
_MAX_SHARING = 8
_MAX_AXES = 32
_LARGEST = 2**63 - 1

# The first pickle of an older file, in each protocol: a number that marks the format.
_MARKS = (b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"L119547037146038801333356L\n.")
_MARK_BYTES = 2 + 9 + len(_MARKS[1])
_LEGACY_VERSION = 1001
_VERSIONS = range(1, 11)

# PyTorch's types of elements: the NumPy type of their bytes.
_PLAIN = ["float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
_PLAIN += ["complex64", "complex128"]
_BYTES_OF = {name: np.dtype(name) for name in _PLAIN} | {"bfloat16": np.dtype("uint16"), "bool": np.dtype("uint8")}
_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QInt32Storage": "int32",
    "storage.UntypedStorage": "uint8",
    "storage._UntypedStorage": "uint8",
}
_STORAGE_NAME = re.compile(r"torch\.(?:cuda\.)?(\w+)|torch\.(storage\._?UntypedStorage)")
# A persistent id in protocol 0, which is the text of a tuple.
_REFERENCE = re.compile(
    r"\('storage', <class '([\w.]{1,80})'>, '([^']{1,80})', '([^']{0,80})', (\d{1,19})(?:, (None))?\)"
)


def is_legacy(beginning: bytes) -> bool:
    """Return whether the first bytes of a file are those of PyTorch before version 1.6."""
    return any(mark in beginning[:_MARK_BYTES] for mark in _MARKS)


def is_pickle(beginning: bytes) -> bool:
    """Return whether the first bytes of a file are those of a pickle of protocol 2 or later, or of an older file."""
    return is_legacy(beginning) or (beginning[:1] == b"\x80" and beginning[1:2] in (b"\2", b"\3", b"\4", b"\5"))


def read(source: FileSource | Input) -> tuple[Any, Budget]:
    """Return (contents of a PyTorch file, rest of its budget); see `weights.pytorch.read`."""
    with opened(source) as file, naming(source):
        budget = Budget.of(file, source)
        beginning = file.read(_MARK_BYTES)
        file.seek(0)
        if is_legacy(beginning):
            return _read_legacy(file, budget), budget
        if is_pickle(beginning):
            return _read_pickle(file, budget), budget
        return _read_archive(file, budget), budget


def _read_archive(file: BinaryIO, budget: Budget) -> Any:
    """Return the value in an archive of torch.save or of TorchScript."""
    found = members(file, budget, "a PyTorch file", check=_folder, skip=_is_code)
    folder = _folder(found)
    records = _Records({name.removeprefix(folder): member for name, member in found.items()}, budget)
    with naming(f"member {folder + 'data.pkl'!r:.200}"):
        value = _Machine(records, budget).run(records.bytes("data.pkl", MAX_PICKLE))
        _check(value, records.total, budget)
    return value


def _folder(names: Iterable[str]) -> str:
    """Return the folder of all members, with a slash; raise for an archive that is not PyTorch's."""
    folder, *others = {name.partition("/")[0] + "/" for name in names} or [""]
    if others or folder + "data.pkl" not in names:
        raise ValueError("a ZIP archive, but not of PyTorch: expected one folder with data.pkl in it")
    return folder


def _is_code(name: str) -> bool:
    """Return whether a member of an archive is code, which may be compressed and is not looked at."""
    return name.partition("/")[2].startswith("code/") or name.endswith(".debug_pkl")


def _read_legacy(file: BinaryIO, budget: Budget) -> Any:
    """Return the value in a file of PyTorch before version 1.6."""
    value, storages = _legacy_parts(file, budget)
    _check(value, storages.total, budget)
    return value


def _legacy_parts(file: BinaryIO, budget: Budget) -> tuple[Any, _Storages]:
    """Return the value in an older file, unchecked, and its storages."""
    content = file.read(min(budget.size, MAX_PICKLE))
    budget.bytes(len(content), "its pickles")
    storages = _Storages(budget)
    machine = _Machine(storages, budget)
    _, offset = machine.run_from(content, 0)
    version, offset = machine.run_from(content, offset)
    if version != _LEGACY_VERSION:
        raise ValueError(f"legacy format version {version!r:.80}; known is {_LEGACY_VERSION}")
    _, offset = machine.run_from(content, offset)
    value, offset = machine.run_from(content, offset)
    keys, offset = _Machine(None, budget).run_from(content, offset)
    storages.fill(file, offset, keys)
    return value, storages


def _read_pickle(file: BinaryIO, budget: Budget) -> Any:
    """Return the value in a bare pickle."""
    if budget.size > MAX_PICKLE:
        raise ValueError(f"a bare pickle of {budget.size} bytes; at most {MAX_PICKLE} are read: torch.save it instead")
    budget.bytes(budget.size, "its pickle")
    value = _Machine(_OwnStorages(budget), budget).run(file.read())
    _check(value, budget.size, budget)
    return value


def _check(value: Any, total: int, budget: Budget) -> None:
    """Raise for values that are not data, and for tensors that share the `total` bytes of the file too often."""
    size = check_result(value, budget, (_Storage,))
    if size > _MAX_SHARING * total + (1 << 20):
        raise ValueError(
            f"its tensors take {size} bytes, more than {_MAX_SHARING} times the {total} bytes in the file: tensors "
            "that are expanded or shared so often are not read"
        )


def _converted(array: Array, kind: str) -> Array:
    """Return the elements of a storage from their bytes: bfloat16 becomes float32."""
    if kind == "bfloat16":
        return widened(array)
    return array != 0 if kind == "bool" else array


class _Records:
    """The members of the archive, by their names in its folder; each array is read once.

    Attributes
    ----------
    total : int
        Bytes of all tensors' records.
    """

    def __init__(self, members: dict[str, Member], budget: Budget) -> None:
        self._members, self._budget = members, budget
        self._arrays: dict[str, tuple[str, Array]] = {}
        self.total = sum(member.size for name, member in members.items() if name.startswith("data/"))
        version = self.bytes("version", 8) if "version" in members else b"3"
        if not version.strip().isdigit() or int(version) not in _VERSIONS:
            raise ValueError(f"format version {version!r}; known are {_VERSIONS[0]} to {_VERSIONS[-1]}")
        order = self.bytes("byteorder", 8) if "byteorder" in members else b"little"
        if order not in (b"little", b"big"):
            raise ValueError(f"byteorder: expected b'little' or b'big', got {order!r}")
        self._byteorder: Literal["<", ">"] = "<" if order == b"little" else ">"

    def bytes(self, name: str, most: int) -> Any:
        """Return a record's bytes; raise if there are more than `most`."""
        member = self._members[name]
        if member.size > most:
            raise ValueError(f"{name} has {member.size} bytes; at most {most} are read")
        self._budget.bytes(member.size, name)
        return member.read(member.size)

    def declare(self, key: str, kind: str, count: int) -> None:
        """Check that a storage has so many elements."""
        name = f"data/{key}"
        if name not in self._members:
            raise ValueError(f"record {name!r:.80} is missing")
        needed, found = count * _BYTES_OF[kind].itemsize, self._members[name].size
        if needed != found:
            raise ValueError(
                f"storage {key!r:.80}: {count} elements of {kind} take {needed} bytes, its record holds {found}"
            )

    def when_read(self, action: Callable[[], None]) -> None:
        """Run `action`, which needs the storages' bytes."""
        action()

    def array(self, key: str, kind: str) -> Array:
        """Return all elements of a storage as an array of one axis."""
        if key not in self._arrays:
            stored, size = _BYTES_OF[kind].newbyteorder(self._byteorder), self._members[f"data/{key}"].size
            if size % stored.itemsize:
                raise ValueError(f"storage {key!r:.80}: its record of {size} bytes is not a multiple of {kind}")
            # bfloat16 becomes float32; another byte order is converted
            self._budget.bytes(size * (3 if kind == "bfloat16" else 1), "its tensors")
            array = np.empty(size // stored.itemsize, stored)
            with naming(f"record {key!r:.80}"):
                self._members[f"data/{key}"].fill(array)
            self._arrays[key] = kind, _converted(array.astype(_BYTES_OF[kind], copy=False), kind)
        found, array = self._arrays[key]
        if found != kind:
            raise ValueError(f"storage {key!r:.80}: tensors of {found} and of {kind} share it")
        return array


class _Storages:
    """The storages of an older file, whose bytes come after all that refers to them; `fill` reads them.

    Attributes
    ----------
    total : int
        Bytes of all storages.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._arrays: dict[str, tuple[str, Array]] = {}
        self._waiting: list[Callable[[], None]] = []
        self.total = 0

    def declare(self, key: str, kind: str, count: int) -> None:
        """Make the array of a storage with so many elements."""
        if key in self._arrays:
            if self._arrays[key][0] != kind or self._arrays[key][1].size != count:
                raise ValueError(f"storage {key!r:.80}: tensors describe it differently")
            return
        size = count * _BYTES_OF[kind].itemsize
        self.total += size
        if not 0 <= size <= self._budget.size or self.total > self._budget.size:
            raise ValueError(f"damaged: storages of {self.total} bytes in a file of {self._budget.size} bytes")
        self._budget.objects(_TENSOR_COST, "its storages")
        self._budget.bytes(size * (3 if kind == "bfloat16" else 1), "its tensors")
        self._arrays[key] = kind, np.empty(count, _converted(np.empty(0, _BYTES_OF[kind]), kind).dtype)

    def when_read(self, action: Callable[[], None]) -> None:
        """Run `action`, which needs the storages' bytes, when they have been read."""
        self._waiting.append(action)

    def array(self, key: str, kind: str) -> Array:
        """Return all elements of a storage as an array of one axis, which `fill` will set."""
        found, array = self._arrays[key]
        if found != kind:
            raise ValueError(f"storage {key!r:.80}: tensors of {found} and of {kind} share it")
        return array

    def fill(self, file: BinaryIO, offset: int, keys: Any) -> None:
        """Read the storages with these keys, in this order, from `offset`."""
        if type(keys) is not list or not all(isinstance(key, str) for key in keys):
            raise ValueError("damaged: expected a list of its storages' keys")
        if sorted(keys) != sorted(self._arrays):
            raise ValueError("damaged: its list of storages differs from those that its tensors use")
        file.seek(offset)
        for key in keys:
            kind, array = self._arrays[key]
            count = file.read(8)
            if len(count) < 8 or struct.unpack("<q", count)[0] != array.size:
                raise ValueError(f"damaged: storage {key!r:.80} does not begin with its number of elements")
            stored = np.empty(array.size, _BYTES_OF[kind].newbyteorder("<"))
            if array.size and file.readinto(memoryview(stored.data).cast("B")) < stored.nbytes:  # type: ignore[attr-defined]
                raise ValueError(f"truncated: storage {key!r:.80} has fewer than {stored.nbytes} bytes")
            array[...] = _converted(stored.astype(_BYTES_OF[kind], copy=False), kind)
        for action in self._waiting:
            action()

    def take(self, other: _Storages, key: str) -> str:
        """Take over the array of a storage of another file; return its new key."""
        own = str(len(self._arrays))
        self._arrays[own] = other._arrays[key]
        return own


class _OwnStorages(_Storages):
    """The storages of a bare pickle, which are inside of it."""

    def declare(self, key: str, kind: str, count: int) -> None:
        raise ValueError("a bare pickle that refers to a storage outside of it")

    def when_read(self, action: Callable[[], None]) -> None:
        action()


class _Storage:
    """The source of a tensor's bytes: a storage, or `count` elements of it from `first`."""

    label = "a storage"

    def __init__(self, key: str, kind: str, first: int = 0, count: int | None = None) -> None:
        self.key, self.kind, self.first, self.count = key, kind, first, count


class _Machine(Machine):
    """Interprets one of PyTorch's pickles; `storages` is None where a pickle refers to none."""

    def __init__(self, storages: _Records | _Storages | None, budget: Budget) -> None:
        super().__init__(budget)
        self._storages = storages

    def _find(self, module: str, name: str) -> None:
        if module == "torch" and name in _BYTES_OF:
            self.push(f"torch.{name}")  # a dtype
        else:
            super()._find(module, name)

    def referred(self, reference: Any) -> Any:
        """Return the storage, or the class of a module, that a persistent id refers to."""
        if isinstance(reference, str) and (match := _REFERENCE.fullmatch(reference)):
            name, key, location, count, _ = match.groups()
            reference = ("storage", Opaque(name), key, location, int(count))
        match reference:
            case ("module", Opaque() as kind, *_):
                return kind
            case ("storage", Opaque(name=name, arguments=None), str(key), str(), int(count), *view):
                return self._storage(name, key, count, view)
        raise ValueError("a persistent id that is not a tensor's storage is refused")

    def _storage(self, name: str, key: str, count: int, view: list[Any]) -> _Storage:
        kind = _kind_of(name)
        if kind is None:
            raise ValueError(f"{name:.120} is not a type of storage that is read")
        if self._storages is None:
            raise ValueError("a bare pickle that refers to a storage outside of it")
        self._storages.declare(key, kind, count)
        match view:
            case [] | [None]:
                return _Storage(key, kind)
            case [(str(), int(first), int(size))] if min(first, size) >= 0 and first + size <= count:
                return _Storage(key, kind, first, size)
        raise ValueError(f"storage {key!r:.80}: a view of it is not inside of it")

    def set_state(self, value: Opaque, state: Any) -> None:
        match state:
            case (inside, str(name)) if value.name == "torch.ScriptObject":  # of a class that is not Python's
                value.name, value.state = name, inside
            case _:
                super().set_state(value, state)

    def tensor(self, arguments: Any) -> Array:
        """torch._utils._rebuild_tensor_v2: storage, offset, size, stride, requires_grad, hooks[, metadata]."""
        match arguments:
            case (_Storage() as storage, offset, size, stride, _, _, *metadata):
                self._check_metadata(metadata)
                return self._tensor(storage, storage.kind, offset, size, stride)
        raise ValueError("damaged: torch._utils._rebuild_tensor_v2 with other arguments than a tensor's")

    def first_tensor(self, arguments: Any) -> Array:
        """torch._utils._rebuild_tensor: storage, offset, size, stride."""
        match arguments:
            case (_Storage() as storage, offset, size, stride):
                return self._tensor(storage, storage.kind, offset, size, stride)
        raise ValueError("damaged: torch._utils._rebuild_tensor with other arguments than a tensor's")

    def untyped_tensor(self, arguments: Any) -> Array:
        """torch._utils._rebuild_tensor_v3: the same, with the dtype after the hooks."""
        match arguments:
            case (_Storage() as storage, offset, size, stride, _, _, str(dtype), *metadata) if dtype in _DTYPES:
                self._check_metadata(metadata)
                return self._tensor(storage, _DTYPES[dtype], offset, size, stride)
            case (_Storage(), _, _, _, _, _, Opaque(name=name), *_):
                raise ValueError(f"a tensor of {name:.120} is not read")
        raise ValueError("damaged: torch._utils._rebuild_tensor_v3 with other arguments than a tensor's")

    def quantized_tensor(self, arguments: Any) -> Array:
        """torch._utils._rebuild_qtensor: the numbers that the quantized ones stand for, in float32."""
        match arguments:
            case (_Storage() as storage, offset, size, stride, tuple() as quantizer, _, _):
                array = self._tensor(storage, storage.kind, offset, size, stride)
                self._budget.bytes((4 + 2 * 8) * array.size, "its tensors")
                result = np.empty(array.shape, np.float32)
                assert self._storages is not None  # it has made the storage
                self._storages.when_read(lambda: _dequantize(array, quantizer, result))
                return result
        raise ValueError("damaged: torch._utils._rebuild_qtensor with other arguments than a tensor's")

    def _check_metadata(self, metadata: Any) -> None:
        if metadata and metadata[0] is not None and not (type(metadata[0]) is dict and not metadata[0]):
            raise ValueError("a tensor that is conjugated, negated or has other metadata is not read")

    def _tensor(self, source: _Storage, kind: str, offset: Any, size: Any, stride: Any) -> Array:
        storage = f"storage {source.key!r:.80}"
        if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride):
            raise ValueError(f"{storage}: expected size and stride of a tensor, two tuples of one length")
        self._budget.objects(_TENSOR_COST, "its tensors")
        if len(size) > _MAX_AXES:
            raise ValueError(f"{storage}: a tensor of {len(size)} axes; at most {_MAX_AXES} are read")
        if not all(type(number) is int and 0 <= number <= _LARGEST for number in (offset, *size, *stride)):
            raise ValueError(f"{storage}: expected an offset, sizes and strides of 0 to {_LARGEST}")
        assert self._storages is not None  # it has made the storage
        flat = self._storages.array(source.key, kind)
        if source.count is not None:
            flat = flat[source.first : source.first + source.count]
        if math.prod(size) == 0:
            return np.empty(size, flat.dtype)
        last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
        if last >= flat.size:
            raise ValueError(
                f"{storage}: offset {offset}, size {size} and stride {stride} lead to element {last}; "
                f"it has {flat.size}"
            )
        step = flat.itemsize
        # the stride of an axis of size 1 is not used, and may be too large for NumPy
        strides = [step * count if length > 1 else step for length, count in zip(size, stride, strict=True)]
        return np.ndarray(size, flat.dtype, flat, offset * step, strides)

    def parameter(self, arguments: Any) -> Array:
        match arguments:
            case (np.ndarray() as array, bool(), *_):
                return array
        raise ValueError("damaged: torch._utils._rebuild_parameter with other arguments than a parameter's")

    def of_subclass(self, arguments: Any) -> Any:
        """torch._tensor._rebuild_from_type_v2: a function that makes a tensor, a subclass, and the arguments."""
        match arguments:
            case (Opaque() as function, _, tuple() as inside, *_):
                return self._called(function, inside)
        raise ValueError("damaged: torch._tensor._rebuild_from_type_v2 with other arguments than a tensor's")

    def storage_from_bytes(self, arguments: Any) -> Any:
        """torch.storage._load_from_bytes: a storage in a bare pickle, as an older file inside of it."""
        match arguments:
            case (bytes() as content,) if is_legacy(content) and isinstance(self._storages, _OwnStorages):
                value, storages = _legacy_parts(io.BytesIO(content), self._budget)
                if type(value) is _Storage:
                    key = self._storages.take(storages, value.key)
                    return _Storage(key, value.kind, value.first, value.count)
        raise ValueError("damaged: torch.storage._load_from_bytes with other arguments than bytes")

    def first(self, arguments: Any) -> Any:
        """torch.jit._pickle's functions, which change only the types of lists."""
        if not arguments:
            raise ValueError("damaged: a list of TorchScript without arguments")
        return arguments[0]

    def torch_size(self, arguments: Any) -> tuple[int, ...]:
        match arguments:
            case (tuple() as size,):
                return size
        raise ValueError("damaged: torch.Size with other arguments than a size")

    def device(self, arguments: Any) -> str:
        match arguments:
            case (str(kind),):
                return kind
            case (str(kind), int(index)):
                return f"{kind}:{index}"
        raise ValueError("damaged: torch.device with other arguments than a device")


def _kind_of(name: str) -> str | None:
    """Return the type of the elements of a storage by the name of its class; None if it is no storage's."""
    match = _STORAGE_NAME.fullmatch(name)
    return _STORAGES.get(match[1] or match[2]) if match else None


def _dequantize(array: Array, quantizer: tuple[Any, ...], result: Array) -> None:
    """Compute (array - zero point) * scale, for the whole tensor or for each index of an axis."""
    match quantizer:
        case (Opaque(name="torch.per_tensor_affine"), int() | float() as scale, int(zero)):
            scales: Any = float(scale)
            zeros: Any = float(zero)
        case (Opaque(name=name), np.ndarray() as scale, np.ndarray() as zero, int(axis)) if "per_channel" in name:
            if not 0 <= axis < array.ndim or not scale.shape == zero.shape == (array.shape[axis],):
                raise ValueError("damaged: the scales of a quantized tensor do not fit it")
            shape = [1] * array.ndim
            shape[axis] = -1
            scales, zeros = (part.astype(np.float64).reshape(shape) for part in (scale, zero))
        case _:
            raise ValueError("a quantized tensor of another kind than per tensor or per channel is not read")
    with np.errstate(all="ignore"):
        result[...] = (array.astype(np.float64) - zeros) * scales


_DTYPES = {f"torch.{kind}": kind for kind in _BYTES_OF}
_Machine.names = Machine.names | {
    "torch._utils._rebuild_tensor": _Machine.first_tensor,
    "torch._utils._rebuild_tensor_v2": _Machine.tensor,
    "torch._utils._rebuild_tensor_v3": _Machine.untyped_tensor,
    "torch._utils._rebuild_qtensor": _Machine.quantized_tensor,
    "torch._utils._rebuild_parameter": _Machine.parameter,
    "torch._utils._rebuild_parameter_with_state": _Machine.parameter,
    "torch._tensor._rebuild_from_type_v2": _Machine.of_subclass,
    "torch.nn.parameter.Parameter": _Machine.parameter,
    "torch.storage._load_from_bytes": _Machine.storage_from_bytes,
    "torch.Size": _Machine.torch_size,
    "torch.device": _Machine.device,
    "torch.jit._pickle.build_intlist": _Machine.first,
    "torch.jit._pickle.build_doublelist": _Machine.first,
    "torch.jit._pickle.build_boollist": _Machine.first,
    "torch.jit._pickle.build_tensorlist": _Machine.first,
    "torch.jit._pickle.restore_type_tag": _Machine.first,
}
