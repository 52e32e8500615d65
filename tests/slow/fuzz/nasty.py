"""Wrong values for arguments, and values that are nearly right."""

import decimal
import fractions
import functools
import io

import numpy as np


class OnPurpose(Exception):
    """Raised by the objects below; it may reach the caller."""


def _raises(*_, **__):
    raise OnPurpose("raised by an argument")


class Hostile:
    """Every operation raises."""

    __len__ = __iter__ = __getitem__ = __float__ = __int__ = __index__ = __bool__ = __array__ = __call__ = _raises
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __add__ = __radd__ = __fspath__ = __contains__ = keys = items = _raises
    __hash__ = object.__hash__


class Inconsistent:
    """Has a length without items, and another value at each call."""

    n = 0

    def __len__(self):
        self.n += 1
        return self.n

    def __getitem__(self, index):
        raise IndexError(index)

    def __index__(self):
        self.n += 1
        return self.n


class Int(int):
    """An int whose comparisons are wrong."""

    def __lt__(self, other):
        return False

    __gt__ = __le__ = __ge__ = __lt__
    __hash__ = int.__hash__


class Array(np.ndarray):
    """A subclass of ndarray."""


class WrongArray:
    """Its __array__ returns a list."""

    def __array__(self, dtype=None, copy=None):
        return [1, 2]


def _list_in_itself():
    items = []
    items.append(items)
    return items


def _deep_list():
    items = []
    for _ in range(5000):
        items = [items]
    return items


def _dict_in_itself():
    items = {}
    items["a"] = items
    return items


#: values for any argument; a callable without arguments makes a new one
POOL = (
    None, True, False, 0, 1, -1, 2, 3, 5, 64, 10**6, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**62, 2**63 - 1,
        2**63, 2**64,
    -(2**63), -(2**64), 10**400, -(10**400), 10**5000, 0.0, -0.0, 0.5, 1.0, 1.5, -1.0, 1e-320, 1e39, 1e300,
    float("nan"), float("inf"),
    float("-inf"), 1j, complex("nan"), "", "x", "0", "1", "é", "\ud800", "\0", "\x1b[31m", "a" * 300, "sigmoid",
        "float32", "O",
    b"", b"x", bytearray(b"xyz"), (), (1,), (1, 2), (None, None), (1, 2, 3), ("a", 1.0), (("sigmoid", 1.0),) * 3,
    object(),
    Ellipsis, NotImplemented, int, float, np.ndarray, type, len, print, lambda: None, lambda *a, **k: None, Hostile(),
        Inconsistent(),
    WrongArray(), OnPurpose(), Int(3), decimal.Decimal("0.5"), decimal.Decimal("nan"), fractions.Fraction(1, 2),
    np.float16(0.5), np.float32("nan"), np.float64(2), np.longdouble("1e4000"), np.int8(-1), np.uint64(2**64 - 1),
    np.bool_(True),
    np.complex64(1j), np.str_("x"), np.datetime64("2026-01-01"), np.timedelta64(1, "s"), np.datetime64("NaT"),
    slice(None),
    range(3), range(10**9), frozenset((1, 2)), memoryview(b"abcd"), np.dtype("f4"), np.dtype([("a", "f4")]),
        np.random.default_rng(0),
    np.random.RandomState(0), lambda: iter(()), lambda: (i for i in (1, 2)), lambda: [], lambda: [1, 2], lambda: [0.5,
    None],
    lambda: [[1, 2], [3]], lambda: [[]], lambda: {}, lambda: {"a": 1}, lambda: {1: 2}, lambda: {"weight": np.ones(1)},
    _list_in_itself, _deep_list,
    _dict_in_itself, lambda: [object()], lambda: set(), lambda: io.BytesIO(b"x"), lambda: io.StringIO("x"),
        lambda: functools.partial(len),
    lambda: np.zeros(0), lambda: np.zeros((0, 0, 0), "f4"), lambda: np.zeros(()), lambda: np.ones(3),
    lambda: np.ones((2, 2)),
    lambda: np.ones((2, 2, 2, 2)), lambda: np.ones((1,) * 40), lambda: np.array(["a", "b"]),
    lambda: np.array([object()]),
    lambda: np.array([None, 1.0]), lambda: np.array([1, 2**40]), lambda: np.array([-1]), lambda: np.array([2**64 - 1],
    "u8"),
    lambda: np.array([1j]), lambda: np.zeros(3, [("a", "f4"), ("b", "i2")]), lambda: np.array(["2026-01-01"], "M8[D]"),
    lambda: np.zeros(3, "V3"), lambda: np.broadcast_to(np.float32(1), (2**20, 2**20)), lambda: np.matrix([[1.0, 2.0]]),
)  # fmt: skip


def value(rng, original):
    """Return a random value for an argument whose correct value is `original`."""
    if rng.random() < 0.55:
        similar = nearly_right(rng, original)
        if similar is not None:
            return similar[0]
    chosen = rng.choice(POOL)
    if getattr(chosen, "__name__", "") in ("<lambda>", "_list_in_itself", "_deep_list", "_dict_in_itself"):
        try:
            return chosen()
        except TypeError:
            return chosen
    return chosen


def nearly_right(rng, original):
    """Return (value,), which differs from `original` in one respect; None for other types."""
    if isinstance(original, np.ndarray):
        return (array(rng, original),)
    if isinstance(original, bool):
        return (rng.choice((not original, int(original), np.bool_(original), "True", None, 0.0)),)
    if isinstance(original, int):
        return (rng.choice((
            original + 1, original - 1, -original, float(original), str(original), np.int16(original % 32768),
            np.array(original), original * 7, np.array([original]), [original], Int(original), original + 0.5,
            np.float32(original), bool(original),
        )),)  # fmt: skip
    if isinstance(original, float):
        return (
            rng.choice(
                (
                    -original,
                    original * 2,
                    int(original),
                    str(original),
                    np.float32(original),
                    1 / (original or 1),
                    [original],
                    -original - 1,
                )
            ),
        )
    if isinstance(original, str):
        return (
            rng.choice(
                (
                    original.upper(),
                    original + "x",
                    original[:-1],
                    original.encode(),
                    [original],
                    original + "\0",
                    np.str_(original),
                    " " + original,
                )
            ),
        )
    if isinstance(original, tuple | list) and original:
        items, at = list(original), rng.randrange(len(original))
        kind = rng.randrange(6)
        if kind < 3:
            items[at] = value(rng, items[at])
        elif kind == 3:
            del items[at]
        elif kind == 4:
            items.insert(at, items[at])
        return (tuple(items) if rng.random() < 0.5 else items,)
    if isinstance(original, dict) and original:
        items, key = dict(original), rng.choice(list(original))
        kind = rng.randrange(4)
        if kind < 2:
            items[key] = value(rng, items[key])
        elif kind == 2:
            items[rng.choice((1, "", "x", None, str(key).upper()))] = items.pop(key)
        else:
            del items[key]
        return (items,)
    return None


def array(rng, original):
    """Return an array like `original` with another dtype, order, shape or class, or with other values."""
    kind = rng.randrange(14)
    with np.errstate(all="ignore"):
        if kind == 0:
            return original.astype(
                rng.choice(
                    ("f2", "f4", "f8", ">f4", ">f8", "g", "c8", "O", "i1", "u1", "i8", ">i4", "u8", "?", "U", "S")
                )
            )
        if kind == 1:
            return np.asfortranarray(original)
        if kind == 2:
            return np.repeat(original, 2, axis=-1)[..., ::2] if original.ndim else original
        if kind == 3:
            return original[::-1] if original.ndim else original
        if kind == 4:
            return original[..., np.newaxis]
        if kind == 5:
            return original[0] if original.ndim and len(original) else original
        if kind == 6:
            return (
                np.concatenate([original, original], axis=rng.randrange(original.ndim)) if original.ndim else original
            )
        if kind == 7:
            return original[:0] if original.ndim else original
        if kind == 8:
            return np.ma.masked_array(original, rng.random() < 0.5)
        if kind == 9:
            return original.view(Array)
        if kind == 10:
            return original.tolist()
        if kind == 11:
            packed = np.zeros(original.size, np.dtype([("pad", "u1"), ("a", original.dtype)]))["a"].reshape(
                original.shape
            )  # not aligned
            packed[...] = original
            return packed
        changed = original.copy()
        if changed.size:
            edges = (
                (np.nan, np.inf, -np.inf, 1e38, -1e30, 1e-42)
                if changed.dtype.kind == "f"
                else (-1, 0, 10**6, 2**31, 2**62)
            )
            changed.flat[rng.randrange(changed.size)] = (
                rng.choice(edges) if changed.dtype.kind in "fi" else not changed.flat[0]
            )
        if kind == 12:
            changed.setflags(write=False)
        return changed
