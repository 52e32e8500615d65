"""The text of an exported C file, from the parts of a model."""

from __future__ import annotations

import re
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from .chain import Cell, Lookup, Normalize, sizes_of
from .parts import emit
from .program import Program, literal
from .templates import (
    activations,
    functions,
    int8,
    interface,
    linear,
    lstm,
    rows,
    self_test,
    variants,
    vectors,
    wasm,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..typing import Array
    from .chain import Part

#: the version of a file of weights
FORMAT = 1
#: pieces of C in their order in the file; those that are not always there have the names of `Program.needs`
_PIECES = {
    "VECTORS": vectors.VECTORS,
    "DENORMALS": vectors.DENORMALS,
    "EXP": functions.EXP,
    "BOUNDED": functions.BOUNDED,
    "MAGNITUDE": functions.MAGNITUDE,
    "EXPONENTIAL": functions.EXPONENTIAL,
    "LOG1P": functions.LOG1P,
    "AT_MOST": activations.AT_MOST,
    "EXPONENTIALS": activations.EXPONENTIALS,
    "SUMS": activations.SUMS,
    "SOFTMAX": activations.SOFTMAX,
    "DOUBLES": rows.DOUBLES,
    "LOG_SOFTMAX": rows.LOG_SOFTMAX,
    "GELU": rows.GELU,
    "SCALE": rows.SCALE,
    "LAYER_NORM": rows.LAYER_NORM,
    "FLAGS": rows.FLAGS,
    "EMPTY": rows.EMPTY,
    "MASK": rows.MASK,
    "RUNNING_MAX": rows.RUNNING_MAX,
    "RUNNING_MEAN": rows.RUNNING_MEAN,
    "WINDOW": rows.WINDOW,
    "REMEMBER": rows.REMEMBER,
    "WINDOW_MAX": rows.WINDOW_MAX,
    "WINDOW_MEAN": rows.WINDOW_MEAN,
    "LINEAR": linear.LINEAR,
    "CONVOLUTION": rows.CONVOLUTION,
    "ADD": linear.ADD,
    "LSTM": lstm.LSTM,
    "BLOCK": lstm.BLOCK,
    "ROOT": variants.ROOT,
    "NORMALIZE": variants.NORMALIZE,
    "PEEPHOLE": variants.PEEPHOLE,
    "ZONEOUT": variants.ZONEOUT,
    "CLIP": variants.CLIP,
    "INT8": int8.INT8,
}


class Source:
    """A model's parts, and the texts that they become."""

    def __init__(self, parts: list[Part], apart: bool) -> None:
        self.apart = apart
        self.tokens = len(parts[0].table) if isinstance(parts[0], Lookup) else 0
        self.program = program = Program()
        output = "x"
        for part in parts:
            output = emit(part, program, output)
        self.output = output
        self.inputs, self.outputs = sizes_of(parts[0])[0], sizes_of(parts[-1])[1]
        self.is_exact = any(
            isinstance(part, Normalize) or (isinstance(part, Cell) and part.is_sensitive) for part in parts
        )
        self.floats = np.concatenate([np.zeros(0, np.float32), *(array for _, array in program.floats)])
        self.bytes = np.concatenate([np.zeros(0, np.int8), *(array for _, array in program.bytes)])
        #: a number for the layers and their sizes and options, which weights apart must have too
        self.layout = zlib.crc32("\n".join(program.members + program.step + list(program.functions)).encode())

    def weights_file(self) -> bytes:
        """Return the content of a file of weights: eight numbers, the floats and the bytes, little-endian."""
        payload = self.floats.astype("<f4").tobytes() + self.bytes.tobytes()
        sizes = self.floats.size, self.bytes.size
        return struct.pack("<4s7I", b"LSTW", 0x01020304, FORMAT, self.layout, *sizes, zlib.crc32(payload), 0) + payload

    def text(self, prefix: str, file_name: str, test: tuple[Array, Array] | None = None, more: str = "") -> str:
        """Return the C file, with the steps of a self test, and `more` functions behind the others."""
        program = self.program
        pieces = [interface.HEADER, *(text for name, text in _PIECES.items() if self._needs(name))]
        pieces += [text.replace("{name}", name) for text, name in program.functions.items()]
        pieces += [interface.FUNCTIONS, interface.INIT_APART if self.apart else interface.INIT]
        if test is not None:
            pieces.append(self_test.SELF_TEST)
        pieces += [more, interface.END]
        words = self._words(file_name) | ({} if test is None else self._test_words(*test))
        text = "".join(pieces)
        conditions = {
            "tokens": self.tokens,
            "apart": self.apart,
            "block": self.program.block,
            "flags": "FLAGS" in self.program.needs,
            "late": self.program.is_late,
        }
        for condition, holds in conditions.items():
            text = re.sub(rf"^\[{condition}\](.*\n)", r"\1" if holds else "", text, flags=re.MULTILINE)
        text = _replaced(text, words)
        text = re.sub(r"\n{3,}", "\n\n", text)
        text = re.sub(r"\blstm_(?!cy\b)", f"{prefix}_", text)
        return re.sub(r"\bLSTM_", f"{prefix.upper()}_", text).lstrip()

    def javascript(self, name: str) -> str:
        """Return the JavaScript module that calls this network in WebAssembly, from the file `name`.wasm."""
        sizes = {"NAME": name, "JS_INPUTS": "0" if self.tokens else str(self.inputs), "JS_TOKENS": str(self.tokens)}
        sizes["JS_X"] = "a token" if self.tokens else f"{self.inputs} numbers"
        return _replaced(wasm.JAVASCRIPT, self._words("") | sizes)

    def _needs(self, piece: str) -> bool:
        return piece in self.program.needs or piece in ("VECTORS", "DENORMALS", "EXP")

    def _words(self, file_name: str) -> dict[str, str]:
        """Return the text of each word between two @."""
        program, tokens = self.program, self.tokens
        work = {name: f"{kind} {name}[{size}];" for name, (kind, size) in program.work.items()}
        element = "int32_t" if tokens else "float"
        size = 4 * self.floats.size + self.bytes.size
        return {
            "FILE": file_name,
            "VERSION": __version__,
            "TITLE": " -> ".join(["x", *(f"[{title}]" for title in program.title), "y"]),
            "WITH": "" if self.apart else " and the weights",
            "ARGUMENTS": ", weights, size" if self.apart else "",
            "PARAMETERS": ", const void *weights, size_t size" if self.apart else "",
            "X_SAMPLE": "token" if tokens else "x",
            "X_COMMENT": f"int32_t token, 0 to {tokens - 1}" if tokens else f"float x[{self.inputs}]",
            "INPUTS": str(self.inputs),
            "INPUTS_COMMENT": "the number of tokens" if tokens else "numbers of a step's input",
            "OUTPUTS": str(self.outputs),
            "MEMBERS": _lines(program.members),
            "WORK": _lines(list(work.values())),
            "STATE_BYTES": str(4 + program.state_bytes + program.work_bytes),
            "WEIGHT_BYTES": str(size + 32 * self.apart),
            "X_STEP": "a token" if tokens else "x[LSTM_INPUTS]",
            "X_RUN": "tokens x[steps]" if tokens else "x[steps * LSTM_INPUTS]",
            "MAY_BE": "; y may be x" if not tokens and self.inputs == self.outputs else "",
            "LATE": interface.LATE if program.is_late else "",
            "X_TYPE": "int32_t " if tokens else "const float *",
            "X_ELEMENT": element,
            "X_AT_K": "x[k]" if tokens else "x + k * LSTM_INPUTS",
            "X_ADDRESS": "&x" if tokens else "x",
            "WEIGHTS": "" if self.apart else self._arrays(),
            "RESET": _lines(program.reset),
            "STEP": _lines(program.step),
            "SAVED_PARAMETER": ", unsigned saved" if "SAVED" in program.needs else "",
            "SAVED": ", saved" if "SAVED" in program.needs else "",
            "SUMS_PARAMETER": ", const float *sums" if program.block else "",
            "NO_SUMS": ", NULL" if program.block else "",
            "BLOCK_UNITS": str(program.block[0] if program.block else 0),
            "BLOCK_ARGUMENTS": "{}, {}, state->{}".format(*program.block) if program.block else "",
            "Y": self.output,
            "Q": "lstm_int8" if self.bytes.size else "NULL",
            "EXACT": str(int(self.is_exact)),
            "FORMAT": str(FORMAT),
            "LAYOUT": str(self.layout),
            "FLOATS": str(self.floats.size),
            "BYTES": str(self.bytes.size),
            "SIZE": str(size + 32),
        }

    def _arrays(self) -> str:
        """Return the weights as C arrays."""
        arrays = [_array("static const float lstm_weights[]", self.program.floats, literal, 8)]
        if self.bytes.size:
            arrays.append(_array("static const signed char lstm_int8[]", self.program.bytes, str, 24))
        return "\n".join(arrays)

    def _test_words(self, x: Array, y: Array) -> dict[str, str]:
        """Return the words of the self test."""
        size = 32 + 4 * self.floats.size + self.bytes.size
        return {
            "TEST_X": _numbers(x.ravel(), str if self.tokens else literal, 8),
            "TEST_Y": _numbers(y.ravel().view(np.uint32), "0x{:08x}u".format, 8),
            "STEPS": str(len(y)),
            "X_AT_STEP": "lstm_test_x[step]" if self.tokens else "lstm_test_x + step * LSTM_INPUTS",
            "TEST_INIT": self_test.TEST_INIT_APART.replace("@SIZE@", str(size)) if self.apart else self_test.TEST_INIT,
            "MAIN_PARAMETERS": "int count, char **arguments" if self.apart else "void",
            "WEIGHTS_ARGUMENT": " WEIGHTS" if self.apart else "",
        }


def _replaced(text: str, words: dict[str, str]) -> str:
    """Return a text with the words between two @ replaced."""
    return re.sub(r"@([A-Z_0-9]+)@", lambda match: words[match[1]], text)


def _lines(statements: list[str]) -> str:
    return "\n".join("    " + statement for statement in statements)


def _array(declaration: str, parts: list[tuple[str, Array]], form: Callable[[Any], str], columns: int) -> str:
    """Return a C array of the numbers of some arrays, each below its comment."""
    lines = [declaration + " = {"]
    for comment, array in parts:
        lines += [f"    /* {comment} */", _numbers(array, form, columns)]
    return "\n".join([*lines, "};", ""])


def _numbers(array: Array, form: Callable[[Any], str], columns: int) -> str:
    """Return numbers as C constants, so many in a line."""
    texts = [form(number) for number in array.tolist()]
    return "\n".join("    " + ", ".join(texts[k : k + columns]) + "," for k in range(0, len(texts), columns))
