"""A reader of pickles of every protocol as data: their opcodes are interpreted, nothing is imported or executed.

Dicts, lists, tuples, sets, numbers, strings, bytes and NumPy's arrays and numbers are made; objects of other classes
become `Opaque` values. Each step takes little memory, and the number of steps is limited.
"""

from __future__ import annotations

import codecs
import math
import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from .opaque import Opaque

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ..budget import Budget

    _T = TypeVar("_T")
    #: from (pickle, offset) to (argument, next offset)
    _Decode = Callable[[bytes, int], tuple[Any, int]]

# In memory a pickle takes many times its own size; a model, even with a vocabulary, needs far less than this.
MAX_PICKLE = 8 << 20
_MAX_DEPTH = 64
# Costs in objects of a step; number of steps or values that are charged at once.
_STEP_COST, _BATCH = 2, 1000
# Cost in objects of an Opaque value, besides that of its steps.
_OPAQUE_COST = 4
# Keys that are tuples or numbers can be chosen so that they collide in a dict; so many are read.
_MAX_ODD_KEYS = 2000
_MAX_AXES = 32
# The dtypes of NumPy's arrays that are made.
_DTYPES = re.compile(r"[biuf][1248]|f16|c8|c16|c32|[SU]\d{1,6}|b1")
_ARRAY_COST = 16


class Machine:
    """Interprets the opcodes of one pickle.

    Parameters
    ----------
    budget : Budget
        The file's budget.
    """

    #: the names that are known, and the methods that stand for a call of each
    names: dict[str, Callable[[Any, Any], Any]]

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []  # the stacks that MARK has saved
        self._memo: dict[int, Any] = {}
        self._odd_keys = 0

    def run(self, content: bytes) -> Any:
        """Return the value that the pickle describes; it must end where `content` does, or before."""
        return self.run_from(content, 0)[0]

    def run_from(self, content: bytes, offset: int) -> tuple[Any, int]:
        """Return (the value of the pickle that begins at `offset`, the offset of its end)."""
        self._stack, self._marked, self._memo = [], [], {}
        steps, charged, end = 0, 0, len(content)
        while offset < end:
            if steps == charged:
                self._budget.objects(_STEP_COST * _BATCH, "its pickle")
                charged += _BATCH
            steps += 1
            opcode = content[offset]
            if opcode == _STOP:
                if len(self._stack) != 1 or self._marked:
                    raise ValueError("damaged: it ends with an unfinished value")
                return self._stack.pop(), offset + 1
            if opcode not in _BY_CODE:
                raise ValueError(f"{_opcode_name(opcode)} is not among those that data need, and is refused")
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

    def pop(self, _: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._items()

    def pop_marked(self, _: object) -> None:
        self._items()

    def duplicate(self, _: object) -> None:
        self.push(self._stack[-1])

    def _items(self) -> list[Any]:
        """Remove and return the items above the mark."""
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _top(self, *kinds: type) -> Any:
        """Return the top of the stack; raise if it is of none of these types."""
        value = self._stack[-1]
        if type(value) not in kinds:
            raise ValueError(f"damaged: expected a {kinds[0].__name__} to add to, got a {type(value).__name__}")
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

    def list_of_marked(self, _: object) -> None:
        items = self._items()
        self.push(items)

    def dict_of_marked(self, _: object) -> None:
        items = self._items()
        self.push({})
        self._set(items)

    def append(self, _: object) -> None:
        value = self._stack.pop()
        self._extend([value])

    def append_marked(self, _: object) -> None:
        items = self._items()
        self._extend(items)

    def _extend(self, items: list[Any]) -> None:
        target = self._top(list, Opaque)
        if type(target) is list:
            target.extend(items)
        else:  # a list of a class of its own
            _part(target, "items", list).extend(items)

    def set_item(self, _: object) -> None:
        value = self._stack.pop()
        self._set([self._stack.pop(), value])

    def set_marked(self, _: object) -> None:
        self._set(self._items())

    def _set(self, items: list[Any]) -> None:
        """Add key, value, key, value, ... to the dict on the stack."""
        target = self._top(dict, Opaque)
        if type(target) is Opaque:  # a dict of a class of its own
            target = _part(target, "entries", dict)
        if len(items) % 2:
            raise IndexError
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._check_key(key, "a dict's key")
            target[key] = value

    def add_marked(self, _: object) -> None:
        items = self._items()
        self._add(self._top(set), items)

    def frozen_set_of_marked(self, _: object) -> None:
        items: set[Any] = set()
        self._add(items, self._items())
        self.push(frozenset(items))

    def _add(self, target: set[Any], items: Any) -> None:
        for item in items:
            self._check_key(item, "a set's element")
            target.add(item)

    def _check_key(self, key: Any, place: str) -> None:
        """Raise for a key whose hash a file could choose, or for which hash() would recurse too deeply."""
        if isinstance(key, (str, bytes, bool, type(None), Opaque)) or (type(key) is int and abs(key) < 2**60):
            return
        simple = type(key) is float or isinstance(key, np.number)
        if type(key) is tuple and len(key) <= 8:
            simple = all(isinstance(part, (str, bytes, bool, int, float, type(None))) for part in key)
        self._odd_keys += 1
        if not simple or self._odd_keys > _MAX_ODD_KEYS:
            raise ValueError(f"{place} is a {type(key).__name__}; strings, integers and a few others are read")

    def put(self, index: int) -> None:
        self._memo[index] = value = self._stack[-1]
        if type(value) is _Unfinished:
            value.places.append(index)

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
        self._budget.objects(_OPAQUE_COST, "its pickle")
        self.push(Opaque(f"{_MODULES.get(module, module)}.{name}"))

    def persistent(self, _: object) -> None:
        """BINPERSID: a reference to something outside of the pickle."""
        self.push(self.referred(self._stack.pop()))

    def persistent_text(self, text: str) -> None:
        """PERSID: the same, with the reference as a text."""
        self.push(self.referred(text))

    def referred(self, reference: Any) -> Any:
        """Return what a persistent id refers to."""
        raise ValueError("a reference to something outside of the pickle is refused")

    def call(self, _: object) -> None:
        """REDUCE: call the counterpart of a known name, not the named function; other names become Opaque values."""
        arguments, function = self._stack.pop(), self._stack.pop()
        self.push(self._called(function, arguments))

    def _called(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Opaque) or type(arguments) is not tuple:
            raise ValueError("damaged: a call of a value that cannot be called")
        if function.arguments is None and function.name in self.names:
            return self.names[function.name](self, arguments)
        self._budget.objects(_OPAQUE_COST, "its pickle")
        return Opaque(function.name, arguments)

    def new_object(self, _: object) -> None:
        """NEWOBJ: an object of a class, made with arguments."""
        self.call(None)

    def new_object_by_name(self, _: object) -> None:
        """NEWOBJ_EX: the same, with arguments by name."""
        named, arguments = self._stack.pop(), self._stack.pop()
        if type(named) is not dict or type(arguments) is not tuple:
            raise ValueError("damaged: arguments of a wrong type")
        self.push(self._called(self._stack.pop(), (*arguments, named) if named else arguments))

    def instance(self, name: str) -> None:
        """INST: an object of a class that is named, from the items above the mark."""
        items = tuple(self._items())
        self.find(name)
        self.push(self._called(self._stack.pop(), items))

    def object_of_marked(self, _: object) -> None:
        """OBJ: an object of a class, the first of the items above the mark."""
        function, *items = self._items() or [None]
        self.push(self._called(function, tuple(items)))

    def build(self, _: object) -> None:
        """BUILD: set the attributes of the object on the stack."""
        state = self._stack.pop()
        value = self._stack[-1]
        if isinstance(value, _Unfinished):
            self._stack[-1] = array = self._finished(value, state)
            for place in value.places:
                self._memo[place] = array
        elif isinstance(value, _DType):
            value.order = state[1] if type(state) is tuple and len(state) > 1 else "|"
        elif isinstance(value, Opaque):
            self.set_state(value, state)
        elif not isinstance(value, (dict, set, np.ndarray)):  # of a subclass, such as an OrderedDict: not needed
            raise ValueError(f"damaged: attributes of a {type(value).__name__}")

    def set_state(self, value: Opaque, state: Any) -> None:
        value.state = state if value.state is None else {**value.state, "attributes": state}

    # The counterparts of functions and classes

    def new_dict(self, arguments: Any) -> dict[Any, Any]:
        """Return a dict for collections.OrderedDict, Counter and defaultdict, from pairs or a dict."""
        found: dict[Any, Any] = {}
        for argument in arguments:
            pairs = argument.items() if type(argument) is dict else argument
            if isinstance(argument, Opaque) or argument is None:  # defaultdict's function
                continue
            if type(argument) not in (dict, list, tuple) or any(
                type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs
            ):
                raise ValueError("damaged: a dict of other arguments than pairs")
            for key, value in pairs:
                self._check_key(key, "a dict's key")
                found[key] = value
        return found

    def new_set(self, arguments: Any) -> set[Any]:
        found: set[Any] = set()
        for argument in arguments:
            if type(argument) not in (list, tuple, set, frozenset):
                raise ValueError("damaged: a set of something that is no list")
            self._add(found, argument)
        return found

    def new_frozen_set(self, arguments: Any) -> frozenset[Any]:
        return frozenset(self.new_set(arguments))

    def new_bytes(self, arguments: Any) -> bytes:
        """Return bytes for bytearray and bytes."""
        match arguments:
            case ():
                return b""
            case (bytes(content),):
                return content
            case (str(text), "latin-1" | "latin1"):
                return _latin1(text)
        raise ValueError("damaged: bytes of other arguments than bytes")

    def new_complex(self, arguments: Any) -> complex:
        match arguments:
            case (int() | float() as real, int() | float() as imaginary):
                return complex(real, imaginary)
        raise ValueError("damaged: a complex number of other arguments than two numbers")

    def encode(self, arguments: Any) -> bytes:
        """_codecs.encode: bytes in protocol 2."""
        match arguments:
            case (str(text), "latin1"):
                return _latin1(text)
        raise ValueError("damaged: _codecs.encode with other arguments than bytes")

    def reconstruct(self, arguments: Any) -> Any:
        """copyreg._reconstructor: an object of protocols 0 and 1."""
        match arguments:
            case (Opaque(name=name), Opaque(name=base), value) if base in ("builtins.object", name):
                return Opaque(name, (), None if base == "builtins.object" else value)
            case (Opaque(name=name), Opaque(), value):
                return Opaque(name, (value,))
        raise ValueError("damaged: copyreg._reconstructor with other arguments than a class's")

    def new_of(self, arguments: Any) -> Any:
        """copyreg.__newobj__: a class and its arguments."""
        if not arguments:
            raise ValueError("damaged: copyreg.__newobj__ without a class")
        return self._called(arguments[0], arguments[1:])

    def dtype(self, arguments: Any) -> _DType:
        match arguments:
            case (str(code), *_):
                return _DType(code)
            case (Opaque(name=name), *_):
                return _DType(name)
        raise ValueError("damaged: numpy.dtype with other arguments than a type's")

    def scalar(self, arguments: Any) -> Any:
        """numpy.core.multiarray.scalar: a dtype, and the bytes of a number."""
        match arguments:
            case (_DType() as dtype, bytes() | str() as content):
                return self._array(dtype, (), content, False)[()]
            case (_DType(), value):  # an object
                return value
        raise ValueError("damaged: a number of NumPy with other arguments than a dtype and bytes")

    def unfinished(self, arguments: Any) -> _Unfinished:
        """numpy.core.multiarray._reconstruct: an array whose content BUILD gives."""
        return _Unfinished()

    def _finished(self, _: _Unfinished, state: Any) -> Any:
        """Return the array whose state BUILD gives."""
        match state:
            case (int(), tuple() as shape, _DType() as dtype, bool() | int() as fortran, bytes() | str() as content):
                return self._array(dtype, shape, content, bool(fortran))
            case (int(), tuple(), _DType(), bool() | int(), list() as values):  # of objects
                return values
        raise ValueError("damaged: an array of NumPy with another state than an array's")

    def array_from_buffer(self, arguments: Any) -> Any:
        """numpy.core.numeric._frombuffer: bytes, a dtype, a shape and an order, in protocol 5."""
        match arguments:
            case (bytes() as content, _DType() as dtype, tuple() as shape, str(order)):
                return self._array(dtype, shape, content, order == "F")
        raise ValueError("damaged: an array of NumPy with other arguments than a buffer's")

    def _array(self, dtype: _DType, shape: Any, content: bytes | str, fortran: bool) -> Any:
        self._budget.objects(_ARRAY_COST, "its arrays")
        if isinstance(content, str):  # written by Python 2
            content = content.encode("utf-8", "surrogatepass")
        if len(shape) > _MAX_AXES or not all(type(size) is int and 0 <= size < 2**63 for size in shape):
            raise ValueError("damaged: an array of NumPy with another shape than up to 32 sizes")
        made = dtype.made()
        if made is None:
            return Opaque("numpy.ndarray", (shape, dtype.code), content)
        size = math.prod(shape)
        if size * made.itemsize != len(content):
            raise ValueError(
                f"damaged: an array of NumPy of shape {shape} and {made} takes {size * made.itemsize} bytes, "
                f"got {len(content)}"
            )
        self._budget.bytes(len(content), "its arrays")
        array = np.frombuffer(content, made).reshape(shape, order="F" if fortran else "C")
        return array.astype(made.newbyteorder("="), copy=True)


class _DType:
    """A dtype of NumPy."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "|"

    def made(self) -> np.dtype[Any] | None:
        """Return the dtype; None if it is of no numbers, flags or texts."""
        code = self.code.lstrip("<>|=")
        if not _DTYPES.fullmatch(code):
            return None
        order = self.order if self.order in ("<", ">") else "="
        try:
            return np.dtype(code).newbyteorder(order)  # type: ignore[arg-type]
        except TypeError:
            return None


class _Unfinished:
    """An array of NumPy before BUILD has given its content, and its places in the memo."""

    def __init__(self) -> None:
        self.places: list[int] = []


def _part(value: Opaque, name: str, kind: type[_T]) -> _T:
    """Return the items or entries of an object whose class is derived from list or dict."""
    if not isinstance(value.state, dict):
        value.state = {}
    part: _T = value.state.setdefault(name, kind())
    return part


def _latin1(text: str) -> bytes:
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        raise ValueError("damaged: bytes with a character above 255") from None


# Modules of Python 2 and their names now.
_MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
    "UserDict": "collections",
}
Machine.names = {
    "collections.OrderedDict": Machine.new_dict,
    "collections.Counter": Machine.new_dict,
    "collections.defaultdict": Machine.new_dict,
    "builtins.dict": Machine.new_dict,
    "builtins.set": Machine.new_set,
    "builtins.frozenset": Machine.new_frozen_set,
    "builtins.bytearray": Machine.new_bytes,
    "builtins.bytes": Machine.new_bytes,
    "builtins.complex": Machine.new_complex,
    "_codecs.encode": Machine.encode,
    "copyreg._reconstructor": Machine.reconstruct,
    "copyreg.__newobj__": Machine.new_of,
    "numpy.dtype": Machine.dtype,
    "numpy._core.multiarray.scalar": Machine.scalar,
    "numpy._core.multiarray._reconstruct": Machine.unfinished,
    "numpy._core.numeric._frombuffer": Machine.array_from_buffer,
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


def _line(convert: Callable[[bytes], Any]) -> _Decode:
    """Return a decoder of a line of text."""

    def decode(content: bytes, offset: int) -> tuple[Any, int]:
        end = content.find(b"\n", offset)
        if end < 0:
            raise ValueError(f"damaged: truncated, a line is expected at byte {offset}")
        return convert(content[offset:end]), end + 1

    return decode


def _integer(content: bytes) -> int:
    return int.from_bytes(content, "little", signed=True)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


def _number(line: bytes) -> Any:
    """Return an integer or, in protocols 0 and 1, a flag."""
    return {b"00": False, b"01": True}.get(line) if line in (b"00", b"01") else _decimal(line)


def _decimal(line: bytes) -> int:
    line = line.removesuffix(b"L")
    if len(line) > 4000:  # the time that int takes grows with the square
        raise ValueError(f"damaged: an integer of {len(line)} digits")
    return int(line)


def _quoted(line: bytes) -> str | bytes:
    """Return a string that Python 2 wrote in quotes."""
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
        raise ValueError("damaged: a string without quotes")
    unescaped, _ = codecs.escape_decode(line[1:-1])
    return _string(unescaped)


def _string(content: bytes) -> str | bytes:
    """Return a string of Python 2, which may be text or bytes."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content


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
    "PROTO": (0x80, _fixed("B"), Machine.ignore),
    "FRAME": (0x95, _fixed("<Q"), Machine.ignore),
    "INT": (ord("I"), _line(_number), Machine.push),
    "BININT": (ord("J"), _fixed("<i"), Machine.push),
    "BININT1": (ord("K"), _fixed("B"), Machine.push),
    "BININT2": (ord("M"), _fixed("<H"), Machine.push),
    "LONG": (ord("L"), _line(_decimal), Machine.push),
    "LONG1": (0x8A, _counted("B", _integer), Machine.push),
    "LONG4": (0x8B, _counted("<i", _integer), Machine.push),
    "FLOAT": (ord("F"), _line(float), Machine.push),
    "BINFLOAT": (ord("G"), _fixed(">d"), Machine.push),
    "STRING": (ord("S"), _line(_quoted), Machine.push),
    "BINSTRING": (ord("T"), _counted("<i", _string), Machine.push),
    "SHORT_BINSTRING": (ord("U"), _counted("B", _string), Machine.push),
    "UNICODE": (ord("V"), _line(lambda line: line.decode("raw-unicode-escape")), Machine.push),
    "SHORT_BINUNICODE": (0x8C, _counted("B", _text), Machine.push),
    "BINUNICODE": (ord("X"), _counted("<I", _text), Machine.push),
    "BINUNICODE8": (0x8D, _counted("<Q", _text), Machine.push),
    "SHORT_BINBYTES": (ord("C"), _counted("B", bytes), Machine.push),
    "BINBYTES": (ord("B"), _counted("<I", bytes), Machine.push),
    "BINBYTES8": (0x8E, _counted("<Q", bytes), Machine.push),
    "BYTEARRAY8": (0x96, _counted("<Q", bytes), Machine.push),
    "NONE": (ord("N"), None, Machine.push),  # pushes the missing argument, None
    "NEWTRUE": (0x88, None, lambda machine, _: machine.push(True)),
    "NEWFALSE": (0x89, None, lambda machine, _: machine.push(False)),
    "EMPTY_TUPLE": (ord(")"), None, lambda machine, _: machine._stack.append(())),
    "EMPTY_LIST": (ord("]"), None, lambda machine, _: machine._stack.append([])),
    "EMPTY_DICT": (ord("}"), None, lambda machine, _: machine._stack.append({})),
    "EMPTY_SET": (0x8F, None, lambda machine, _: machine._stack.append(set())),
    "MARK": (ord("("), None, Machine.mark),
    "POP": (ord("0"), None, Machine.pop),
    "POP_MARK": (ord("1"), None, Machine.pop_marked),
    "DUP": (ord("2"), None, Machine.duplicate),
    "TUPLE": (ord("t"), None, Machine.tuple_of_marked),
    "TUPLE1": (0x85, None, lambda machine, _: machine.tuple_of(1)),
    "TUPLE2": (0x86, None, lambda machine, _: machine.tuple_of(2)),
    "TUPLE3": (0x87, None, lambda machine, _: machine.tuple_of(3)),
    "LIST": (ord("l"), None, Machine.list_of_marked),
    "DICT": (ord("d"), None, Machine.dict_of_marked),
    "APPEND": (ord("a"), None, Machine.append),
    "APPENDS": (ord("e"), None, Machine.append_marked),
    "SETITEM": (ord("s"), None, Machine.set_item),
    "SETITEMS": (ord("u"), None, Machine.set_marked),
    "ADDITEMS": (0x90, None, Machine.add_marked),
    "FROZENSET": (0x91, None, Machine.frozen_set_of_marked),
    "PUT": (ord("p"), _line(_decimal), Machine.put),
    "BINPUT": (ord("q"), _fixed("B"), Machine.put),
    "LONG_BINPUT": (ord("r"), _fixed("<I"), Machine.put),
    "MEMOIZE": (0x94, None, Machine.memoize),
    "GET": (ord("g"), _line(_decimal), Machine.get),
    "BINGET": (ord("h"), _fixed("B"), Machine.get),
    "LONG_BINGET": (ord("j"), _fixed("<I"), Machine.get),
    "GLOBAL": (ord("c"), _two_lines, Machine.find),
    "STACK_GLOBAL": (0x93, None, Machine.find_on_stack),
    "PERSID": (ord("P"), _line(_text), Machine.persistent_text),
    "BINPERSID": (ord("Q"), None, Machine.persistent),
    "REDUCE": (ord("R"), None, Machine.call),
    "NEWOBJ": (0x81, None, Machine.new_object),
    "NEWOBJ_EX": (0x92, None, Machine.new_object_by_name),
    "INST": (ord("i"), _two_lines, Machine.instance),
    "OBJ": (ord("o"), None, Machine.object_of_marked),
    "BUILD": (ord("b"), None, Machine.build),
}
_BY_CODE = {code: (name, decode, action) for name, (code, decode, action) in _OPCODES.items()}


def _opcode_name(code: int) -> str:
    import pickletools

    names = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
    return f"opcode {names[code]}" if code in names else f"unknown opcode {code:#04x}"


def check_result(value: Any, budget: Budget, unwanted: tuple[type, ...] = ()) -> int:
    """Return the bytes of all arrays in a value that a Machine has made.

    Raise for values of `unwanted` types, for lists and dicts in themselves, for deep nesting, and for parts shared so
    often that they would fill the memory. An Opaque value is visited once.
    """
    nodes = size = 0
    seen: set[int] = set()

    def visit(value: Any, depth: int) -> None:
        nonlocal nodes, size
        nodes += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested deeper than {_MAX_DEPTH}, or in itself")
        if nodes % _BATCH == 0:
            budget.objects(_BATCH, "its values")
        if isinstance(value, np.ndarray):
            size += value.nbytes
        elif isinstance(value, dict):
            for part in value.values():
                visit(part, depth + 1)
        elif isinstance(value, (list, tuple)):  # isinstance with a union of types takes twice as long
            for part in value:
                visit(part, depth + 1)
        elif isinstance(value, Opaque):
            if id(value) not in seen:
                seen.add(id(value))
                visit(value.arguments, depth + 1)
                visit(value.state, depth + 1)
        elif isinstance(value, (_DType, _Unfinished, *unwanted)):
            raise ValueError(f"damaged: {getattr(value, 'label', 'an unfinished array')} where a value should be")

    visit(value, 0)
    return size
