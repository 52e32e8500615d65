"""A model as one C99 file, or as WebAssembly, for programs without Python."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import numpy as np

from ..checks import file_path, flag, shown
from ..streaming.stepper import Stepper
from ..weights.files import replacing
from .chain import parts_of
from .source import Source
from .templates.wasm import EXPORTS
from .webassembly import compiled, required_compiler

if TYPE_CHECKING:
    from ..layers.base import Layer
    from ..typing import Array, FilePath

#: steps of the self test
STEPS = 100


def c99(
    model: Layer,
    path: FilePath,
    *,
    name: str | None = None,
    weights: FilePath | None = None,
    self_test: bool = False,
) -> None:
    """Write a model as one C99 file, which needs no Python, no heap and no libm.

    Parameters
    ----------
    model : LSTM, QuantizedLSTM or Sequential
        Any float32 model that a Stepper can be made of, with float32 or int8 weights.
    path : str or PathLike
        The file to write, such as ``amp.h``.
    name : None or str
        What the names in it begin with: letters, digits and underscores. None: the file's name without its suffix, with
        underscores for other characters.
    weights : None or str or PathLike
        A second file, for the weights; `lstm_init` then takes their address. None: they are arrays in the C file.
    self_test : bool
        Whether to add a program that compares 100 steps with the library's numbers.

    Raises
    ------
    TypeError, ValueError
        The model cannot be exported, or an argument is wrong; the message says why. Nothing is written.
    OSError
        A file cannot be written.

    Notes
    -----
    The C file says how to use it. On a target with fma its results are those of the library with engine "packed", to
    the bit.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from lstm_cy import LSTM, Linear, Sequential
    >>> from lstm_cy.export import c99
    >>> amp = Sequential(LSTM(1, 24, seed=0), Linear(24, 1, seed=0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "amp.h")
    ...     c99(amp, path)
    ...     "int amp_run(amp_state *state, size_t steps, const float *x, float *y);" in path.read_text()
    True
    """
    path = file_path("path", path)
    flag("self_test", self_test)
    stem, _ = os.path.splitext(os.path.basename(path))
    prefix = _prefix(stem) if name is None else _checked(name)
    if weights is not None:
        weights = file_path("weights", weights)
        if os.path.realpath(weights) == os.path.realpath(path):
            raise ValueError(f"weights: expected another file than path, got {shown(weights)}")
    source = Source(parts_of(model), weights is not None)
    text = source.text(prefix, _file_name(path, prefix), _test_of(model, source) if self_test else None)
    if weights is not None:
        with replacing(weights) as file:
            file.write(source.weights_file())
    with replacing(path) as file:
        file.write(text.encode("ascii"))


def wasm(model: Layer, folder: FilePath, *, name: str = "model") -> None:
    """Write a model as WebAssembly, with a JavaScript module that runs it in a browser or in Node.

    Parameters
    ----------
    model : LSTM, QuantizedLSTM or Sequential
        Any float32 model that a Stepper can be made of, with float32 or int8 weights.
    folder : str or PathLike
        The folder for the files, which is made if it does not exist: ``NAME.js``, ``NAME.wasm`` with the weights in it,
        and ``NAME.relaxed.wasm``, which is faster where the browser has relaxed SIMD.
    name : str
        The files' name without suffix: letters, digits and underscores.

    Raises
    ------
    TypeError, ValueError
        The model cannot be exported, or an argument is wrong; the message says why. Nothing is written.
    ImportError
        There is no compiler for WebAssembly; the message says what to install.
    RuntimeError
        The compiler failed; the message has its first error.
    OSError
        A file cannot be written.

    Notes
    -----
    The JavaScript file says how to use it. The environment variable LSTM_CY_WASM_CC names a compiler; otherwise a clang
    that can compile for wasm32 is used, or zig, from the package ``ziglang``.
    """
    folder = file_path("folder", folder)
    name = _checked(name)
    source = Source(parts_of(model), False)
    compiler = required_compiler()
    text = source.text(name, f"{name}.h", more=EXPORTS)
    macros = {"IMPLEMENTATION": 1, "BLOCK": 16}
    flags = [*(f"-D{name.upper()}_{macro}={value}" for macro, value in macros.items()), "-Wl,--export=__heap_base"]
    try:
        contents = {
            f"{name}.wasm": compiled(text, compiler, *flags),
            f"{name}.relaxed.wasm": compiled(text, compiler, *flags, "-mrelaxed-simd"),
        }
    except subprocess.CalledProcessError as error:
        first = next(filter(None, error.stderr.splitlines()), "no message")
        raise RuntimeError(f"{compiler[0]}: {first}") from None
    contents[f"{name}.js"] = source.javascript(name).encode("ascii")
    os.makedirs(folder, exist_ok=True)
    for file_name, content in contents.items():
        with replacing(os.path.join(folder, file_name)) as file:
            file.write(content)


def _prefix(stem: str) -> str:
    """Return the beginning of C names from a file's name."""
    stem = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")
    return f"m_{stem}" if stem[:1].isdigit() else stem or "model"


def _checked(name: str) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", name, re.ASCII):
        raise ValueError(f"name: expected letters, digits and single underscores, a letter first, got {shown(name)}")
    return name


def _file_name(path: str, prefix: str) -> str:
    """Return the file's name for comments: another one where it has characters that C could take for something else."""
    base = os.path.basename(path)
    return base if re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", base, re.ASCII) else f"{prefix}.h"


def _test_of(model: Layer, source: Source) -> tuple[Array, Array]:
    """Return the input and the output of a self test: (STEPS, I), or (STEPS,) tokens, and (STEPS, O)."""
    # small multiples of powers of two, which C constants give exactly
    count = STEPS if source.tokens else STEPS * source.inputs
    numbers = np.arange(count) * 2654435761 % 2**32
    x: Array
    if source.tokens:
        x = numbers // 7 % source.tokens
    else:
        x = np.float32((numbers // 2**16 - 2**15) / 2**14).reshape(STEPS, -1)
    stepper = Stepper(model)  # type: ignore[arg-type]  # it is a model that can be stepped
    return x, np.stack([stepper.step(x_t) for x_t in x])
