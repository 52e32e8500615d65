"""The instruction set, the engine and the threads in use.

They are chosen once, or set by environment variables; `using` chooses for the layers built in a block.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import importlib
import importlib.util
import os
import platform
import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, overload

import numpy as np

from ._kernels.runtime.memory import cached_bytes
from .checks import one_of, positive_int, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

ENGINES = ("blas", "packed")
#: the precisions of an LSTM's products in training
PRECISIONS = ("float32", "bf16")
_MOST_THREADS = 2**31 - 1  # the kernels count them in int


@functools.cache
def _kernel_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"lstm_cy._kernels.{name}")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"lstm_cy's compiled part is missing ({error.name} in {os.path.dirname(__file__)}). In a source folder "
            "compile it first: pip install -e ."
        ) from error


@functools.cache
def available_instruction_sets() -> list[str]:
    """Return the names of the kernels that were built and that this processor can run, the plainest first."""
    supported = _kernel_module("runtime.cpu").instruction_sets()
    return [name for name in supported if importlib.util.find_spec(f"lstm_cy._kernels.isa.{name}")]


class _Choice(NamedTuple):
    """The choice of `using`; None: the choice of the enclosing block, or of the environment."""

    engine: str | None = None
    isa: str | None = None
    precision: str | None = None


_choice: contextvars.ContextVar[_Choice] = contextvars.ContextVar("lstm_cy.config.using", default=_Choice())  # noqa: B039


@contextlib.contextmanager
def using(
    *, engine: str | None = None, isa: str | None = None, precision: Literal["float32", "bf16"] | None = None
) -> Iterator[None]:
    """Choose the engine and the instruction set of the layers built in a ``with`` block, or the precision of training.

    The previous choice returns at its end, also after an error. Blocks can be nested. The choice applies only in the
    thread, or the asyncio task, that entered the block.

    Parameters
    ----------
    engine : None, "auto", "packed" or "blas"
        None leaves it as it is; "auto" selects the one that was measured faster with the instruction set.
    isa : None or str
        One of `available_instruction_sets`; None leaves it as it is.
    precision : None, "float32" or "bf16"
        That of the products of every `LSTM.forward` called in the block without a precision of its own, and of
        `LSTM.backward` for it; None leaves it as it is.

    Yields
    ------
    None

    Raises
    ------
    TypeError, ValueError
        A name that is not a str, or that this machine cannot run; nothing has changed.

    Notes
    -----
    A layer's parameters are packed for one engine and instruction set when they are set: when it is built, loaded or
    unpickled, and at each step of an optimizer. It computes with them wherever it is called, so train inside the block.

    Examples
    --------
    >>> from lstm_cy import LSTM, config
    >>> with config.using(engine="packed", isa="base"):
    ...     lstm = LSTM(3, 5, seed=0)
    ...     config.engine(), config.instruction_set()
    ('packed', 'base')
    >>> y, _ = lstm([[1.0, 2.0, 3.0]])  # with packed products of plain code
    """
    outer = _choice.get()
    names = {"engine": ("auto", *ENGINES), "isa": available_instruction_sets(), "precision": PRECISIONS}
    for argument, value in (("engine", engine), ("isa", isa), ("precision", precision)):
        if value is not None:
            _expect_name(argument, value, names[argument])
    token = _choice.set(_Choice(engine or outer.engine, isa or outer.isa, precision or outer.precision))
    try:
        yield
    finally:
        _choice.reset(token)


def _expect_name(argument: str, value: object, names: Sequence[str]) -> None:
    """Raise unless `value` is one of `names`."""
    if not isinstance(value, str):
        raise TypeError(f"{argument}: expected None or one of {', '.join(names)}, got {type(value).__name__}")
    if value not in names:
        raise ValueError(f"{argument}: expected None or one of {', '.join(names)} on this machine, got {value!r}")


@functools.cache
def _environment() -> _Choice:
    """Return the values of LSTM_CY_ENGINE and LSTM_CY_ISA, or their defaults; they are read once."""
    isa = os.environ.get("LSTM_CY_ISA", "")
    available = available_instruction_sets()
    if isa and isa not in available:
        raise ValueError(f"LSTM_CY_ISA: expected one of {', '.join(available)} on this machine, got {isa!r}")
    engine = os.environ.get("LSTM_CY_ENGINE", "auto")
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"LSTM_CY_ENGINE: expected auto, {' or '.join(ENGINES)}, got {engine!r}")
    return _Choice(engine, isa or available[-1])


def instruction_set() -> str:
    """Return the instruction set in use: the one named by `using` or LSTM_CY_ISA, or the widest available.

    Returns
    -------
    str
        One of `available_instruction_sets`.
    """
    return _choice.get().isa or cast(str, _environment().isa)


def engine() -> str:
    """Return the engine in use: the one named by `using` or LSTM_CY_ENGINE, else the one that was measured faster.

    "packed" was faster at every shape with AVX2 and AVX-512, "blas" without them (docs/performance.md).

    Returns
    -------
    str
        "packed" or "blas".
    """
    chosen = _choice.get().engine or cast(str, _environment().engine)
    if chosen != "auto":
        return chosen
    has_vectors, has_fma = _kernel_module(f"isa.{instruction_set()}").vectors()
    return "packed" if has_vectors and has_fma else "blas"


def precision() -> str:
    """Return the precision of an LSTM's products in training.

    Returns
    -------
    {"float32", "bf16"}
        The one named by `using`; "float32" outside its blocks.
    """
    return _choice.get().precision or "float32"


def kernels() -> object:
    """Return the table of compiled functions of the instruction set in use, as a capsule."""
    return _kernel_module(f"isa.{instruction_set()}").kernels()


def blas() -> object:
    """Return the table of BLAS products, as a capsule, which imports SciPy; None with engine "packed"."""
    return _kernel_module("runtime.blas").blas() if engine() == "blas" else None


def _threads_from_environment() -> int:
    text = os.environ.get("LSTM_CY_NUM_THREADS", "1")
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(_MOST_THREADS)) and int(text)):
        raise ValueError(f"LSTM_CY_NUM_THREADS: expected a positive integer, got {shown(text)}")
    return _thread_count("LSTM_CY_NUM_THREADS", int(text))


def _thread_count(name: str, value: object) -> int:
    """Return `value` as a number of threads, checked."""
    count = positive_int(name, value)
    if count > _MOST_THREADS:
        raise ValueError(f"{name}: expected at most {_MOST_THREADS}, got {shown(count)}")
    return count


_num_threads = _threads_from_environment()


def set_num_threads(n: int) -> None:
    """Set how many threads of its own the library may use in a call without ``threads=``.

    Engine "blas" computes in the calling thread, for any setting; BLAS may add threads of its own, which
    OPENBLAS_NUM_THREADS or the package threadpoolctl control.

    Parameters
    ----------
    n : int
        At least 1. A call uses no more than there are processors for it.
    """
    global _num_threads
    _num_threads = _thread_count("n", n)


def get_num_threads() -> int:
    """Return the number of threads set by `set_num_threads` or LSTM_CY_NUM_THREADS; 1 unless one of them was used.

    Returns
    -------
    int
    """
    return _num_threads


def processors() -> int:
    """Return the number of processors that the calling thread may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_of(threads: int | None) -> int:
    """Return the threads that a call may use: its argument `threads`, or the setting, at most one a processor."""
    count = _num_threads if threads is None else _thread_count("threads", threads)
    return count if count == 1 else min(count, processors())


def get_include() -> str:
    """Return the folder of lstm_cy.h, for compilers of C and C++ extensions that step models.

    Returns
    -------
    str

    Examples
    --------
    >>> import os, lstm_cy
    >>> os.listdir(lstm_cy.get_include())
    ['lstm_cy.h']
    """
    return os.path.join(os.path.dirname(__file__), "include")


@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show the configuration: instruction set, engine, BLAS and its threads, the library's threads, versions.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print it, or return it as a dict.

    Returns
    -------
    None or dict

    Examples
    --------
    >>> import lstm_cy
    >>> lstm_cy.show_config("dicts")["threads"]
    1
    """
    one_of("mode", mode, ("stdout", "dicts"))
    found = _configuration()
    if mode == "dicts":
        return found
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:{width}}  {value}")
    return None


def _configuration() -> dict[str, Any]:
    import scipy

    from . import __version__

    return {
        "lstm_cy": __version__,
        "instruction set": instruction_set(),
        "available": ", ".join(available_instruction_sets()),
        "vectors": _vectors(),
        "engine": engine(),
        "threads": get_num_threads(),
        "working memory": f"{cached_bytes() / 1e6:.1f} MB kept for the next call",
        "bounds checks": _kernel_module("runtime.cpu").bounds_checks(),
        "BLAS": _blas_name(scipy),
        "BLAS threads": _blas_threads(scipy),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "SciPy": scipy.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
    }


def _vectors() -> str:
    width, has_fma = _kernel_module(f"isa.{instruction_set()}").vectors()
    if not width:
        return "none: this compiler has no vectors for this processor, and the packed kernels are slow"
    return f"{width} bytes{', fused multiply-add' if has_fma else ''}"


def _blas_name(scipy: ModuleType) -> str:
    details = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{details['name']} {details['version']}"


def _blas_threads(scipy: Any) -> Any:
    """Return the number of threads of the OpenBLAS in SciPy's wheels; it is not known for another BLAS."""
    from pathlib import Path  # importing it takes a fifth of NumPy's time, and `import lstm_cy` does not need it

    for library in Path(scipy.__file__).parent.with_name("scipy.libs").glob("*openblas*"):
        opened = ctypes.CDLL(str(library))
        for name in ("scipy_openblas_get_num_threads", "scipy_openblas_get_num_threads64_", "openblas_get_num_threads"):
            if hasattr(opened, name):
                return getattr(opened, name)()
    return "unknown (not SciPy's bundled OpenBLAS)"
