"""A reader of PyTorch's files (.pt, .pth) that needs no PyTorch and does not execute the pickle in them.

Such a file is a ZIP archive: ``data.pkl`` describes how dicts, lists and tensors are nested; ``data/0``, ``data/1`` and
so on are the tensors' bytes. This module decodes and interprets the opcodes that plain values need, and only the names
in `_NAMES`. Each step takes little memory, and the number of steps is limited.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from ...layers.narrow import widened
from ..budget import Budget
from ..faults import naming
from .zip import members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Literal, TypeVar

    from ...typing import Array, FilePath
    from .zip import Member

    _T = TypeVar("_T")
    #: from (pickle, offset) to (argument, next offset)
    _Decode = Callable[[bytes, int], tuple[Any, int]]

# In memory a pickle takes many times its own size; a model, even with a vocabulary, needs far less than this.
_MAX_PICKLE = 8 << 20
_MAX_DEPTH = 64
# Costs in objects of a step and a tensor; number of steps or values that are charged at once.
_STEP_COST, _TENSOR_COST, _BATCH = 2, 16, 1000
# Tensors may share bytes; the sum of their sizes may be this many times the bytes in the file.
_MAX_SHARING = 8
_MAX_AXES = 32
_LARGEST = 2**63 - 1

# Files of PyTorch before version 1.6 begin with this number, pickled.
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_BEGINNING = 2 + 9 + len(_LEGACY_MAGIC)
_VERSIONS = range(1, 11)

# PyTorch's types of elements: the NumPy type of their bytes.
_PLAIN = ["float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
_BYTES_OF = {name: np.dtype(name) for name in _PLAIN} | {"bfloat16": np.dtype("uint16"), "bool": np.dtype("uint8")}
_STORAGES = {
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.CharStorage": "int8",
    "torch.ShortStorage": "int16",
    "torch.IntStorage": "int32",
    "torch.LongStorage": "int64",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.storage.UntypedStorage": "uint8",
}


def read(path: FilePath) -> tuple[Any, Budget]:
    """Return (contents of a PyTorch file, rest of its budget); see `weights.pytorch.read`."""
    with open(path, "rb") as file, naming(path):
        budget = Budget.of(file, path)
        _check_beginning(file.read(_BEGINNING))
        found = members(file, budget, "a PyTorch file", check=_folder)
        folder = _folder(found)
        records = _Records({name.removeprefix(folder): member for name, member in found.items()}, budget)
        with naming(f"member {folder + 'data.pkl'!r:.200}"):
            value = _Machine(records, budget).run(records.bytes("data.pkl", _MAX_PICKLE))
            _check_result(value, records.total, budget)
    return value, budget


def _check_beginning(content: bytes) -> None:
    if content.startswith(b"\x80") and _LEGACY_MAGIC in content[:_BEGINNING]:  # after a FRAME since protocol 4
        raise ValueError(
            "in PyTorch's legacy format; only its ZIP format is read: load it in PyTorch, and torch.save it again with "
            "_use_new_zipfile_serialization=True, which is the default since version 1.6"
        )
    if content.startswith(b"\x80"):
        raise ValueError("a bare pickle, which is not read; torch.save a state_dict() instead")


def _folder(names: Iterable[str]) -> str:
    """Return the folder of all members, with a slash; raise for an archive that is not PyTorch's."""
    folder, *others = {name.partition("/")[0] + "/" for name in names} or [""]
    if others or folder + "data.pkl" not in names:
        raise ValueError("a ZIP archive, but not of PyTorch: expected one folder with data.pkl in it")
    if folder + "constants.pkl" in names:
        raise ValueError(
            "a TorchScript archive, which holds code; load it in PyTorch with torch.jit.load and torch.save its "
            "state_dict()"
        )
    return folder


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

    def size(self, key: str) -> int:
        """Return the number of bytes of a storage."""
        name = f"data/{key}"
        if name not in self._members:
            raise ValueError(f"record {name!r:.80} is missing")
        return self._members[name].size

    def array(self, key: str, kind: str) -> Array:
        """Return all elements of a storage as an array of one axis."""
        if key not in self._arrays:
            stored = _BYTES_OF[kind].newbyteorder(self._byteorder)
            if self.size(key) % stored.itemsize:
                raise ValueError(
                    f"storage {key!r:.80}: its record of {self.size(key)} bytes is not a multiple of {kind}"
                )
            # bfloat16 becomes float32; another byte order is converted
            self._budget.bytes(self.size(key) * (3 if kind == "bfloat16" else 1), "its tensors")
            array = np.empty(self.size(key) // stored.itemsize, stored)
            with naming(f"record {key!r:.80}"):
                self._members[f"data/{key}"].fill(array)
            array = array.astype(_BYTES_OF[kind], copy=False)
            if kind == "bfloat16":
                array = widened(array)
            elif kind == "bool":
                array = array != 0
            self._arrays[key] = kind, array
        found, array = self._arrays[key]
        if found != kind:
            raise ValueError(f"storage {key!r:.80}: tensors of {found} and of {kind} share it")
        return array


class _Storage:
    """The source of a tensor's bytes."""

    name = "a storage"

    def __init__(self, key: str, kind: Any) -> None:
        self.key = key
        self.kind = kind


class _Name:
    """A name in a pickle that tensors need."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Machine:
    """Interprets the opcodes of one pickle."""

    def __init__(self, records: _Records, budget: Budget) -> None:
        self._records, self._budget = records, budget
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []  # the stacks that MARK has saved
        self._memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """Return the value that the pickle describes."""
        offset, steps, charged, end = 0, 0, 0, len(content)
        while offset < end:
            if steps == charged:
                self._budget.objects(_STEP_COST * _BATCH, "its pickle")
                charged += _BATCH
            steps += 1
            opcode = content[offset]
            if opcode == _STOP:
                if len(self._stack) != 1 or self._marked:
                    raise ValueError("damaged: it ends with an unfinished value")
                return self._stack.pop()
            if opcode not in _BY_CODE:
                raise ValueError(f"{_opcode_name(opcode)} is not among those that tensors need, and is refused")
            name, decode, action = _BY_CODE[opcode]
            argument, next_offset = None, offset + 1
            if decode is not None:
                argument, next_offset = decode(content, next_offset)
            try:
                action(self, argument)
            except (IndexError, KeyError):  # an empty stack, an unknown entry of the memo
                raise ValueError(f"damaged: {name} at byte {offset} refers to a missing value") from None
            offset = next_offset
        raise ValueError("damaged: exhausted before seeing STOP")

    def ignore(self, argument: object) -> None:
        pass

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def mark(self, _: object) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _items(self) -> list[Any]:
        """Remove and return the items above the mark."""
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _top(self, kind: type[_T]) -> _T:
        """Return the top of the stack; raise if it is not of this type."""
        value = self._stack[-1]
        if type(value) is not kind:
            raise ValueError(f"damaged: expected a {kind.__name__} to add to, got a {type(value).__name__}")
        return value

    def tuple_of_marked(self, _: object) -> None:
        items = self._items()
        self.push(tuple(items))

    def tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        self.push(items)

    def append(self, _: object) -> None:
        value = self._stack.pop()
        self._top(list).append(value)

    def append_marked(self, _: object) -> None:
        items = self._items()
        self._top(list).extend(items)

    def set_item(self, _: object) -> None:
        value = self._stack.pop()
        self._set([self._stack.pop(), value])

    def set_marked(self, _: object) -> None:
        self._set(self._items())

    def _set(self, items: list[Any]) -> None:
        """Add key, value, key, value, ... to the dict on the stack."""
        target = self._top(dict)
        if len(items) % 2:
            raise IndexError
        for key, value in zip(items[::2], items[1::2], strict=True):
            # with other keys a file could choose hashes, or make hash() recurse too deeply
            if not isinstance(key, (str, bool, type(None))) and not (type(key) is int and abs(key) < 2**60):
                raise ValueError(f"a dict's key is a {type(key).__name__}; only strings and integers are read")
            target[key] = value

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self, _: object) -> None:
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        self.push(self._memo[index])

    def find(self, name: str) -> None:
        """GLOBAL: module and name, a space between."""
        module, _, name = name.partition(" ")
        self._find(module, name)

    def find_on_stack(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("damaged: a name that is not a string")
        self._find(module, name)

    def _find(self, module: str, name: str) -> None:
        name = f"{module}.{name}"
        if name.startswith("torch.") and name.removeprefix("torch.") in _BYTES_OF:
            self.push(name)  # a dtype
        elif name in _STORAGES or name in _NAMES:
            self.push(_Name(name))
        else:
            raise ValueError(
                f"{name:.120} is not among the names that tensors need; it is refused, and nothing was executed. If "
                "a whole module was saved, save its state_dict() instead: dense tensors, not quantized"
            )

    def storage(self, _: object) -> None:
        """BINPERSID: PyTorch's reference to a storage, a record of the archive."""
        match self._stack.pop():
            case ("storage", _Name(name=name), str(key), str(), int(count)) if name in _STORAGES:
                kind = _STORAGES[name]
                needed, found = count * _BYTES_OF[kind].itemsize, self._records.size(key)
                if needed != found:
                    raise ValueError(
                        f"storage {key!r:.80}: {count} elements of {kind} take {needed} bytes, its record holds {found}"
                    )
                self.push(_Storage(key, kind))
            case _:
                raise ValueError("a persistent id that is not a tensor's storage is refused")

    def call(self, _: object) -> None:
        """REDUCE: call this module's counterpart of a name, not the named function."""
        arguments, name = self._stack.pop(), self._stack.pop()
        if not isinstance(name, _Name) or name.name not in _NAMES or type(arguments) is not tuple:
            raise ValueError("damaged: a call of a value that cannot be called")
        self.push(_NAMES[name.name](self, arguments))

    def build(self, _: object) -> None:
        """BUILD: the attributes of a state_dict, the versions of its modules. They are ignored."""
        state = self._stack.pop()
        if type(state) is not dict:
            raise ValueError(f"damaged: attributes in a {type(state).__name__}")
        self._top(dict)

    def ordered_dict(self, arguments: Any) -> dict[Any, Any]:
        if arguments:
            raise ValueError("damaged: collections.OrderedDict with arguments")
        return {}

    def tensor(self, arguments: Any) -> Array:
        """torch._utils._rebuild_tensor_v2: storage, offset, size, stride, requires_grad, hooks[, metadata]."""
        match arguments:
            case (_Storage() as storage, offset, size, stride, _, _, *metadata):
                self._check_metadata(metadata)
                return self._tensor(storage.key, storage.kind, offset, size, stride)
        raise ValueError("damaged: torch._utils._rebuild_tensor_v2 with other arguments than a tensor's")

    def untyped_tensor(self, arguments: Any) -> Array:
        """torch._utils._rebuild_tensor_v3: the same, with the dtype after the hooks."""
        match arguments:
            case (_Storage() as storage, offset, size, stride, _, _, str(dtype), *metadata) if dtype in _DTYPES:
                self._check_metadata(metadata)
                return self._tensor(storage.key, _DTYPES[dtype], offset, size, stride)
        raise ValueError("damaged: torch._utils._rebuild_tensor_v3 with other arguments than a tensor's")

    def _check_metadata(self, metadata: Any) -> None:
        if metadata and metadata[0] is not None and not (type(metadata[0]) is dict and not metadata[0]):
            raise ValueError("a tensor that is conjugated, negated or has other metadata is not read")

    def _tensor(self, key: str, kind: Any, offset: Any, size: Any, stride: Any) -> Array:
        storage = f"storage {key!r:.80}"
        if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride):
            raise ValueError(f"{storage}: expected size and stride of a tensor, two tuples of one length")
        self._budget.objects(_TENSOR_COST, "its tensors")
        if len(size) > _MAX_AXES:
            raise ValueError(f"{storage}: a tensor of {len(size)} axes; at most {_MAX_AXES} are read")
        if not all(type(number) is int and 0 <= number <= _LARGEST for number in (offset, *size, *stride)):
            raise ValueError(f"{storage}: expected an offset, sizes and strides of 0 to {_LARGEST}")
        flat = self._records.array(key, kind)
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
            case (np.ndarray() as array, bool(), dict()):
                return array
        raise ValueError("damaged: torch._utils._rebuild_parameter with other arguments than a parameter's")

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

    def encode(self, arguments: Any) -> bytes:
        """_codecs.encode: bytes in protocol 2."""
        match arguments:
            case (str(text), "latin1"):
                return text.encode("latin1")
        raise ValueError("damaged: _codecs.encode with other arguments than bytes")


_DTYPES = {f"torch.{kind}": kind for kind in _BYTES_OF}
_NAMES = {
    "collections.OrderedDict": _Machine.ordered_dict,
    "torch._utils._rebuild_tensor_v2": _Machine.tensor,
    "torch._utils._rebuild_tensor_v3": _Machine.untyped_tensor,
    "torch._utils._rebuild_parameter": _Machine.parameter,
    "torch.Size": _Machine.torch_size,
    "torch.device": _Machine.device,
    "_codecs.encode": _Machine.encode,
}


def _fixed(form: str) -> _Decode:
    """Return a decoder of a number of fixed size."""
    unpack, size = struct.Struct(form).unpack_from, struct.calcsize(form)

    def decode(content: bytes, offset: int) -> tuple[Any, int]:
        if offset + size > len(content):
            raise ValueError(f"damaged: truncated, {size} bytes are expected at byte {offset}")
        return unpack(content, offset)[0], offset + size

    return decode


def _counted(form: str, convert: Callable[[bytes], Any]) -> _Decode:
    """Return a decoder of bytes that follow their count."""
    count = _fixed(form)

    def decode(content: bytes, offset: int) -> tuple[Any, int]:
        size, offset = count(content, offset)
        if not 0 <= size <= len(content) - offset:
            raise ValueError(f"damaged: expected {size} bytes at byte {offset}, where {len(content) - offset} remain")
        return convert(content[offset : offset + size]), offset + size

    return decode


def _integer(content: bytes) -> int:
    return int.from_bytes(content, "little", signed=True)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


def _two_lines(content: bytes, offset: int) -> tuple[str, int]:
    """Decode two lines and join them with a space."""
    module = content.find(b"\n", offset)
    name = content.find(b"\n", module + 1)
    if module < 0 or name < 0:
        raise ValueError(f"damaged: truncated, two lines are expected at byte {offset}")
    return content[offset:name].decode("utf-8").replace("\n", " "), name + 1


# The supported opcodes by their names in pickletools: code, decoder of the argument, action.
_STOP = ord(".")
_OPCODES: dict[str, tuple[int, _Decode | None, Callable[..., None]]] = {
    "PROTO": (0x80, _fixed("B"), _Machine.ignore),
    "FRAME": (0x95, _fixed("<Q"), _Machine.ignore),
    "BININT": (ord("J"), _fixed("<i"), _Machine.push),
    "BININT1": (ord("K"), _fixed("B"), _Machine.push),
    "BININT2": (ord("M"), _fixed("<H"), _Machine.push),
    "LONG1": (0x8A, _counted("B", _integer), _Machine.push),
    "LONG4": (0x8B, _counted("<i", _integer), _Machine.push),
    "BINFLOAT": (ord("G"), _fixed(">d"), _Machine.push),
    "SHORT_BINUNICODE": (0x8C, _counted("B", _text), _Machine.push),
    "BINUNICODE": (ord("X"), _counted("<I", _text), _Machine.push),
    "BINUNICODE8": (0x8D, _counted("<Q", _text), _Machine.push),
    "SHORT_BINBYTES": (ord("C"), _counted("B", bytes), _Machine.push),
    "BINBYTES": (ord("B"), _counted("<I", bytes), _Machine.push),
    "BINBYTES8": (0x8E, _counted("<Q", bytes), _Machine.push),
    "NONE": (ord("N"), None, _Machine.push),  # pushes the missing argument, None
    "NEWTRUE": (0x88, None, lambda machine, _: machine.push(True)),
    "NEWFALSE": (0x89, None, lambda machine, _: machine.push(False)),
    "EMPTY_TUPLE": (ord(")"), None, lambda machine, _: machine._stack.append(())),
    "EMPTY_LIST": (ord("]"), None, lambda machine, _: machine._stack.append([])),
    "EMPTY_DICT": (ord("}"), None, lambda machine, _: machine._stack.append({})),
    "MARK": (ord("("), None, _Machine.mark),
    "TUPLE": (ord("t"), None, _Machine.tuple_of_marked),
    "TUPLE1": (0x85, None, lambda machine, _: machine.tuple_of(1)),
    "TUPLE2": (0x86, None, lambda machine, _: machine.tuple_of(2)),
    "TUPLE3": (0x87, None, lambda machine, _: machine.tuple_of(3)),
    "APPEND": (ord("a"), None, _Machine.append),
    "APPENDS": (ord("e"), None, _Machine.append_marked),
    "SETITEM": (ord("s"), None, _Machine.set_item),
    "SETITEMS": (ord("u"), None, _Machine.set_marked),
    "BINPUT": (ord("q"), _fixed("B"), _Machine.put),
    "LONG_BINPUT": (ord("r"), _fixed("<I"), _Machine.put),
    "MEMOIZE": (0x94, None, _Machine.memoize),
    "BINGET": (ord("h"), _fixed("B"), _Machine.get),
    "LONG_BINGET": (ord("j"), _fixed("<I"), _Machine.get),
    "GLOBAL": (ord("c"), _two_lines, _Machine.find),
    "STACK_GLOBAL": (0x93, None, _Machine.find_on_stack),
    "BINPERSID": (ord("Q"), None, _Machine.storage),
    "REDUCE": (ord("R"), None, _Machine.call),
    "BUILD": (ord("b"), None, _Machine.build),
}
_BY_CODE = {code: (name, decode, action) for name, (code, decode, action) in _OPCODES.items()}


def _opcode_name(code: int) -> str:
    import pickletools

    names = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
    return f"opcode {names[code]}" if code in names else f"unknown opcode {code:#04x}"


def _check_result(value: Any, total: int, budget: Budget) -> None:
    """Raise for values that are not plain, for cycles, and for parts shared so often that they fill the memory."""
    nodes = size = 0

    def visit(value: Any, depth: int) -> None:
        nonlocal nodes, size
        nodes += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested deeper than {_MAX_DEPTH}, or in itself")
        if nodes % _BATCH == 0:
            budget.objects(_BATCH, "its values")
        if isinstance(value, (_Storage, _Name)):
            raise ValueError(f"{value.name} where a value should be")
        if isinstance(value, np.ndarray):
            size += value.nbytes
        elif isinstance(value, dict):
            for part in value.values():
                visit(part, depth + 1)
        elif isinstance(value, (list, tuple)):  # isinstance with a union of types takes twice as long
            for part in value:
                visit(part, depth + 1)

    visit(value, 0)
    if size > _MAX_SHARING * total + (1 << 20):
        raise ValueError(
            f"its tensors take {size} bytes, more than {_MAX_SHARING} times the {total} bytes in the file: tensors "
            "that are expanded or shared so often are not read"
        )
