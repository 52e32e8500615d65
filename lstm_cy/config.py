"""What is in use here: instruction set, engine, threads; chosen once at import, forced by environment variables."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import platform
import sys
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from ._kernels.memory import kept_now
from .checks import positive_int

if TYPE_CHECKING:
    from types import ModuleType

ENGINES = ("blas", "packed")


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
    """The names of the kernels that were built and that this processor can run, the plainest first."""
    supported = _kernel_module("cpu").instruction_sets()
    return [name for name in supported if importlib.util.find_spec(f"lstm_cy._kernels.{name}")]


@functools.cache
def instruction_set() -> str:
    """The instruction set in use: the widest available, or the one that LSTM_CY_ISA names."""
    available = available_instruction_sets()
    forced = os.environ.get("LSTM_CY_ISA", "")
    if forced and forced not in available:
        raise ValueError(f"LSTM_CY_ISA: expected one of {', '.join(available)} on this machine, got {forced!r}")
    return forced or available[-1]


@functools.cache
def engine() -> str:
    """The engine in use: the one that LSTM_CY_ENGINE names, else the one that was measured faster.

    "packed" was faster at every shape with AVX2 and AVX-512, "blas" without them (docs/performance.md).
    """
    forced = os.environ.get("LSTM_CY_ENGINE", "auto")
    if forced not in ("auto", *ENGINES):
        raise ValueError(f"LSTM_CY_ENGINE: expected auto, {' or '.join(ENGINES)}, got {forced!r}")
    if forced != "auto":
        return forced
    return "blas" if instruction_set() == "base" else "packed"


@functools.cache
def kernels() -> object:
    """The table of compiled functions of the instruction set in use, as a capsule."""
    return _kernel_module(instruction_set()).kernels()


@functools.cache
def blas() -> object:
    """The table of BLAS products, as a capsule, or None where engine "packed" needs none; imports SciPy if so."""
    return _kernel_module("blas").blas() if engine() == "blas" else None


def _threads_from_environment() -> int:
    text = os.environ.get("LSTM_CY_NUM_THREADS", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"LSTM_CY_NUM_THREADS: expected a positive integer, got {text!r}")
    return int(text)


_num_threads = _threads_from_environment()


def set_num_threads(n: int) -> None:
    """Set how many threads of its own the library may use in a call that does not say (``threads=``).

    Engine "blas" computes on the calling thread, whatever this is; BLAS may add threads of its own there, which
    OPENBLAS_NUM_THREADS or the package threadpoolctl govern.

    Parameters
    ----------
    n : int
        At least 1.
    """
    global _num_threads
    _num_threads = positive_int("n", n)


def get_num_threads() -> int:
    """The number of threads that `set_num_threads` or LSTM_CY_NUM_THREADS allowed; 1 unless one of them was used.

    Returns
    -------
    int
    """
    return _num_threads


@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Tell what is in use: instruction set, engine, BLAS and its threads, our threads, versions.

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
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode: expected 'stdout' or 'dicts', got {mode!r}")
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
        "engine": engine(),
        "threads": get_num_threads(),
        "working memory": f"{kept_now() / 1e6:.1f} MB kept for the next call",
        "bounds checks": _kernel_module("cpu").bounds_checks(),
        "BLAS": _blas_name(scipy),
        "BLAS threads": _blas_threads(scipy),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "SciPy": scipy.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
    }


def _blas_name(scipy: ModuleType) -> str:
    details = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{details['name']} {details['version']}"


def _blas_threads(scipy: Any) -> Any:
    """The threads of the OpenBLAS that SciPy's wheels bring along; another BLAS is not asked."""
    from pathlib import Path  # costs as much as a fifth of NumPy, and importing the library needs none

    for library in Path(scipy.__file__).parent.with_name("scipy.libs").glob("*openblas*"):
        opened = ctypes.CDLL(str(library))
        for name in ("scipy_openblas_get_num_threads", "scipy_openblas_get_num_threads64_", "openblas_get_num_threads"):
            if hasattr(opened, name):
                return getattr(opened, name)()
    return "unknown (not SciPy's bundled OpenBLAS)"
