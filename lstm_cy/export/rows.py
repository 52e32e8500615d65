"""The C of the parts without recurrent weights: normalisations, padding, and windows of the last steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import packing
from .chain import Last, Mask, Normalize, Padding, Running, Scale, Window, sizes_of
from .packing import padded
from .program import literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from .chain import Part
    from .program import Program


def _result(part: Part, program: Program, title: str) -> str:
    """Add a word to the title, and working memory for a part's output; return its C expression."""
    program.title.append(title)
    return program.space(f"y{len(program.title) - 1}", _room(part))


def _held(part: Part, program: Program, title: str, comment: str) -> str:
    """Add a word to the title, and a member of the state for a part's output; return its C expression."""
    program.title.append(title)
    return program.state(f"y{len(program.title) - 1}", _room(part), 1, f"{title}: {comment}")


def _room(part: Part) -> int:
    """Return the numbers of memory for a part's output: of convolutions each group is rounded up to whole units."""
    outputs = sizes_of(part)[1]
    share = outputs // len(part.maps) if isinstance(part, Window) and part.maps else outputs
    return padded(outputs - share + padded(share))


def _scale(part: Scale, program: Program, x: str) -> str:
    y = _result(part, program, "BatchNormalization")
    program.needs.add("SCALE")
    weights = program.weights("BatchNormalization: weight, bias, mean, factor", np.concatenate(part))
    call = f"lstm_scale({len(part.weight)}, {weights}, {x}, {y});"
    program.with_denormals("/* BatchNormalization */", call)
    return y


def _normalize(part: Normalize, program: Program, x: str) -> str:
    y = _result(part, program, "LayerNormalization")
    program.needs |= {"SUMS", "LAYER_NORM"}
    weights = program.weights("LayerNormalization: weight, bias", np.concatenate([part.weight, part.bias]))
    call = f"lstm_layer_norm({len(part.weight)}, {literal(part.eps)}, {weights}, {x}, {y});"
    program.with_denormals("/* LayerNormalization */", call)
    return y


def _mask(part: Mask, program: Program, x: str) -> str:
    y = _result(part, program, "Masking")
    program.needs |= {"FLAGS", "MASK"}
    program.is_flagged = True
    call = f"flag = lstm_mask({part.size}, {literal(part.value)}, flag, {x}, {y});"
    program.with_denormals("/* Masking */", call)
    return y


def _padding(part: Padding, program: Program, x: str) -> str:
    y = program.space(f"padded{len(program.title) - 1}", padded(part.size))
    program.step += [
        "if (flag == LSTM_PADDING || flag == LSTM_ABSENT_PADDING)",
        f"    memset({y}, 0, sizeof {y});",
        "else",
        f"    memcpy({y}, {x}, {part.size} * sizeof(float));",
    ]
    return y


def _last(part: Last, program: Program, x: str) -> str:
    y = _held(part, program, "Readout", "the last output")
    program.step += [
        "/* Readout */",
        "if (flag == LSTM_PRESENT)",
        f"    memcpy({y}, {x}, {part.size} * sizeof(float));",
    ]
    if part.zero:
        program.step += ["else if (flag == LSTM_PADDING)", f"    memset({y}, 0, sizeof {y});"]
    return y


def _running(part: Running, program: Program, x: str) -> str:
    mean, size = part.kind == "average", part.size
    number = program.windows
    program.windows += 1
    y = _held(part, program, f"GlobalPooling1D {part.kind}", "the last output")
    steps = program.number(f"steps{number}", 0, "its number of steps", "double")
    program.needs.add("RUNNING_MEAN" if mean else "RUNNING_MAX")
    if mean:
        sums = program.state(f"sums{number}", size, 1, "their sums", "double")
        call = f"lstm_running_mean({size}, &{steps}, {sums}, {x}, {y});"
    else:
        call = f"lstm_running_max({size}, &{steps}, {x}, {y});"
    condition = ["if (flag == LSTM_PRESENT)"] if program.is_flagged else []
    program.with_denormals(f"/* GlobalPooling1D {part.kind} */", *condition, "    " * len(condition) + call)
    return y


def _window(part: Window, program: Program, x: str) -> str:
    number = program.windows
    program.windows += 1
    name = "Conv1D" if part.kind == "convolution" else f"Pooling1D {part.kind}"
    title = f"{name} {part.inputs} -> {part.outputs}, {part.size} steps"
    is_every_step = part.is_steady and not program.is_flagged
    y = _result(part, program, title) if is_every_step else _held(part, program, title, "the last output")
    statements, remember = _of_window(part, program, number, x, y)
    if not part.is_steady:
        statements = _at_strides(part, program, number, statements)
    statements += remember
    if program.is_flagged:
        statements = ["if (flag < LSTM_ABSENT) {", *_inside(statements), "}"]
    if not part.is_steady:
        program.needs |= {"FLAGS", "EMPTY"}
        program.is_flagged = program.is_late = True
        statements += ["if (flag >= LSTM_ABSENT)", f"    flag = state->begun{number} ? LSTM_ABSENT : LSTM_EMPTY;"]
    if part.kind == "convolution":
        program.step += [f"/* {title} */", *statements]
    else:
        program.with_denormals(f"/* {title} */", *statements)
    return y


def _of_window(part: Window, program: Program, number: int, x: str, y: str) -> tuple[list[str], list[str]]:
    """Return the statements that compute the output of a window, and those that keep the input for later ones."""
    statements, remember, window = [], [], x
    if part.size > 1:
        program.needs |= {"WINDOW", "REMEMBER"}
        comment = f"the inputs of its last {part.before} steps, a ring"
        past = program.state(f"past{number}", part.before * part.inputs, 1, comment)
        oldest = program.number(f"oldest{number}", 0, "the first of them")
        window = program.space("window", part.size * part.inputs)
        sizes = f"{part.inputs}, {part.size}, {part.dilation}"
        statements.append(f"lstm_window({sizes}, {past}, (size_t){oldest}, {x}, {window});")
        remember.append(f"lstm_remember({part.inputs}, {part.before}, {past}, &{oldest}, {x});")
    if part.kind == "convolution":
        statements.append(_convolution(part, program, window, y))
    else:
        program.needs.add("WINDOW_MAX" if part.kind == "max" else "WINDOW_MEAN")
        function = {"max": "lstm_window_max", "average": "lstm_window_mean"}[part.kind]
        statements.append(f"{function}({part.inputs}, {part.size}, {window}, {y});")
    return statements, remember


def _convolution(part: Window, program: Program, window: str, y: str) -> str:
    """Return the statement that multiplies a window by the weights."""
    program.needs |= {"LINEAR", "CONVOLUTION"}
    packed = [packing.linear(bias, weight) for weight, bias in part.maps]
    weights = program.weights(f"Conv1D {part.inputs} -> {part.outputs}", np.concatenate(packed))
    groups = len(part.maps)
    inputs, outputs = part.size * part.inputs // groups, part.outputs // groups
    return f"lstm_convolution({groups}, {outputs}, {packed[0].size}, {weights}, {inputs}, {window}, {y});"


def _at_strides(part: Window, program: Program, number: int, statements: list[str]) -> list[str]:
    """Return statements that compute an output where a window ends, and mark the other steps."""
    wait = program.number(f"wait{number}", part.wait, "the steps before its next output")
    begun = program.number(f"begun{number}", 0, "whether there has been one")
    return [
        f"if ({wait} > 0) {{",
        f"    {wait}--;",
        "    flag = LSTM_ABSENT;",
        "} else {",
        *_inside([*statements, f"{wait} = {part.stride - 1};", f"{begun} = 1;"]),
        "}",
    ]


def _inside(statements: list[str]) -> list[str]:
    """Return statements as those of a block."""
    return ["    " + line for line in statements]


EMIT: dict[type, Callable[[Any, Program, str], str]] = {
    Scale: _scale,
    Normalize: _normalize,
    Mask: _mask,
    Padding: _padding,
    Last: _last,
    Running: _running,
    Window: _window,
}
