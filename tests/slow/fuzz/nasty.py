"""Values that nobody should hand to a function, and such as are nearly right."""

import decimal
import fractions
import functools
import io

import numpy as np


class OnPurpose(Exception):
    """What the objects below raise: it may come through."""


def _raises(*_, **__):
    raise OnPurpose("raised by an argument")


class Hostile:
    """Raises at whatever is tried with it."""

    __len__ = __iter__ = __getitem__ = __float__ = __int__ = __index__ = __bool__ = __array__ = __call__ = _raises
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __add__ = __radd__ = __fspath__ = __contains__ = keys = items = _raises
    __hash__ = object.__hash__


class Liar:
    """Has a length and no items, and another number each time."""

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
    """Its array is none."""

    def __array__(self, dtype=None, copy=None):
        return [1, 2]


def _knot():
    knot = []
    knot.append(knot)
    return knot


def _deep():
    deep = []
    for _ in range(5000):
        deep = [deep]
    return deep


def _loop():
    loop = {}
    loop["a"] = loop
    return loop


#: any of these may stand anywhere; a callable of no arguments makes one anew
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
        Liar(),
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
    _knot, _deep,
    _loop, lambda: [object()], lambda: set(), lambda: io.BytesIO(b"x"), lambda: io.StringIO("x"),
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


def value(rng, given):
    """One value for an argument that would have been `given`."""
    if rng.random() < 0.55:
        near = nearly(rng, given)
        if near is not None:
            return near[0]
    chosen = rng.choice(POOL)
    if getattr(chosen, "__name__", "") in ("<lambda>", "_knot", "_deep", "_loop"):
        try:
            return chosen()
        except TypeError:
            return chosen
    return chosen


def nearly(rng, given):
    """(value,), which is `given` but for one thing; None where nothing comes to mind."""
    if isinstance(given, np.ndarray):
        return (array(rng, given),)
    if isinstance(given, bool):
        return (rng.choice((not given, int(given), np.bool_(given), "True", None, 0.0)),)
    if isinstance(given, int):
        return (rng.choice((given + 1, given - 1, -given, float(given), str(given), np.int16(given % 32768),
            np.array(given), given * 7,
                            np.array([given]), [given], Int(given), given + 0.5, np.float32(given), bool(given))),
                            )  # fmt: skip
    if isinstance(given, float):
        return (
            rng.choice(
                (-given, given * 2, int(given), str(given), np.float32(given), 1 / (given or 1), [given], -given - 1)
            ),
        )
    if isinstance(given, str):
        return (
            rng.choice(
                (
                    given.upper(),
                    given + "x",
                    given[:-1],
                    given.encode(),
                    [given],
                    given + "\0",
                    np.str_(given),
                    " " + given,
                )
            ),
        )
    if isinstance(given, tuple | list) and given:
        items, at = list(given), rng.randrange(len(given))
        kind = rng.randrange(6)
        if kind < 3:
            items[at] = value(rng, items[at])
        elif kind == 3:
            del items[at]
        elif kind == 4:
            items.insert(at, items[at])
        return (tuple(items) if rng.random() < 0.5 else items,)
    if isinstance(given, dict) and given:
        items, key = dict(given), rng.choice(list(given))
        kind = rng.randrange(4)
        if kind < 2:
            items[key] = value(rng, items[key])
        elif kind == 2:
            items[rng.choice((1, "", "x", None, str(key).upper()))] = items.pop(key)
        else:
            del items[key]
        return (items,)
    return None


def array(rng, given):
    """An array like `given` in another dtype, order, shape, class or with other numbers in it."""
    kind = rng.randrange(14)
    with np.errstate(all="ignore"):
        if kind == 0:
            return given.astype(
                rng.choice(
                    ("f2", "f4", "f8", ">f4", ">f8", "g", "c8", "O", "i1", "u1", "i8", ">i4", "u8", "?", "U", "S")
                )
            )
        if kind == 1:
            return np.asfortranarray(given)
        if kind == 2:
            return np.repeat(given, 2, axis=-1)[..., ::2] if given.ndim else given
        if kind == 3:
            return given[::-1] if given.ndim else given
        if kind == 4:
            return given[..., np.newaxis]
        if kind == 5:
            return given[0] if given.ndim and len(given) else given
        if kind == 6:
            return np.concatenate([given, given], axis=rng.randrange(given.ndim)) if given.ndim else given
        if kind == 7:
            return given[:0] if given.ndim else given
        if kind == 8:
            return np.ma.masked_array(given, rng.random() < 0.5)
        if kind == 9:
            return given.view(Array)
        if kind == 10:
            return given.tolist()
        if kind == 11:
            packed = np.zeros(given.size, np.dtype([("pad", "u1"), ("a", given.dtype)]))["a"].reshape(
                given.shape
            )  # not aligned
            packed[...] = given
            return packed
        changed = given.copy()
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
