"""The C of each part of a model: its weights, its state and the statements of its step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import packing, rows
from .chain import Add, Cell, Function, Linear, Lookup, Part
from .packing import padded
from .program import literal
from .templates import activations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..typing import Array
    from .program import Program


def emit(part: Part, program: Program, x: str) -> str:
    """Add a part, whose input is the C expression `x`, to a program; return the expression of its output."""
    program.inputs.append(x)
    return _EMIT[type(part)](part, program, x)


def _lookup(part: Lookup, program: Program, x: str) -> str:
    tokens, outputs = part.table.shape
    program.title.append(f"Embedding {tokens} -> {outputs}")
    table = program.weights(f"Embedding: the vectors of {tokens} tokens", part.table)
    if part.masks:
        program.needs.add("FLAGS")
        program.is_flagged = True
        program.step.append(f"flag = {x} == 0 ? LSTM_PADDING : LSTM_PRESENT; /* token 0 */")
    return f"{table} + (size_t){x} * {outputs}"


def _linear(part: Linear, program: Program, x: str) -> str:
    outputs, inputs = part.weight.shape
    program.title.append(f"Linear {inputs} -> {outputs}")
    program.needs.add("LINEAR")
    weights = program.weights(f"Linear {inputs} -> {outputs}", packing.linear(part.bias, part.weight))
    y = program.space(f"y{len(program.title) - 1}", padded(outputs))
    program.step += [
        f"/* Linear {inputs} -> {outputs} */",
        f"lstm_linear({outputs}, {weights}, {inputs}, {x}, 0, NULL, {y});",
    ]
    return y


def _add(part: Add, program: Program, x: str) -> str:
    program.title.append("+ input")
    program.needs.add("ADD")
    y = program.space(f"y{len(program.title) - 1}", padded(part.outputs))
    program.step += [
        "/* Residual: the sum with the input of its first layer */",
        f"lstm_sum_of({part.outputs}, {x}, {program.inputs[part.first]}, {y});",
    ]
    return y


def _activation(part: Function, program: Program, x: str) -> str:
    program.title.append(part.name)
    y = program.space(f"y{len(program.title) - 1}", padded(part.size))
    call = f"{_vector_function(part, program)}({part.size}, {y});"
    if part.name == "logsoftmax":
        call = call.replace(");", f", {program.space('space', padded(part.size))});")
    copy = f"memcpy({y}, {x}, {part.size} * sizeof(float));"
    program.with_denormals(f"/* Activation {part.name} */", copy, call)
    return y


def _vector_function(part: Function, program: Program) -> str:
    """Return the name of the C function that computes an activation in place."""
    if part.name in activations.ELEMENTWISE:
        return _function(program, activations.ELEMENTWISE, (part.name, part.alpha, part.beta))
    program.needs |= activations.VECTORWISE[part.name]
    return {"softmax": "lstm_softmax", "logsoftmax": "lstm_log_softmax", "gelu": "lstm_gelu"}[part.name]


def _layer(part: Cell, program: Program, x: str) -> str:
    number = program.cells
    program.cells += 1
    size = f"{part.inputs} -> {part.units}" + (f" -> {part.outputs}" if part.hr is not None else "")
    title = f"{'int8 ' * part.is_narrow}LSTM {size}"
    program.title.append(title)
    both = program.state(f"h{number}", padded(part.outputs), 2, f"layer {number}, {title}: the last h at [now]")
    c = program.state(f"c{number}", padded(part.units), 1, "its cell")
    h, following = f"{both}[now]", f"{both}[1 - now]"
    if part.initial is not None:
        for name, array, target in zip("hc", part.initial, (f"{both}[0]", c), strict=True):
            initial = program.weights(f"layer {number}: the initial {name}", array)
            program.reset.append(f"memcpy({target}, {initial}, {array.size} * sizeof(float));")
    program.step.append(f"/* layer {number}: {title} */")
    begin = len(program.step)
    if part.is_plain:
        program.needs.add("LSTM")
        assert not isinstance(part.ih, tuple) and not isinstance(part.hh, tuple)
        packed = packing.plain_cell(part.units, part.bias, part.ih, part.hh)
        weights = program.weights(f"layer {number}, {title}: panels of 8 units", packed)
        sums = "NULL"
        if x == "x":
            sums, program.block = "sums", (part.units, part.inputs, weights)
            program.needs.add("BLOCK")
        program.step.append(
            f"lstm_layer({part.units}, {part.inputs}, {weights}, {x}, {h}, {c}, {following}, now, {sums});"
        )
    else:
        program.step += _cell(part, program, number, x, h, following, c)
    if program.is_flagged:
        statements = ["    " + line for line in program.step[begin:]]
        keep = f"    memcpy({following}, {h}, {part.outputs} * sizeof(float));"
        program.step[begin:] = ["if (flag == LSTM_PRESENT) {", *statements, "} else {", keep, "}"]
    return following


def _cell(part: Cell, program: Program, number: int, x: str, h: str, following: str, c: str) -> Iterator[str]:
    """Give the statements of an LSTM layer with options, or with int8 weights."""
    units = part.units
    z = program.space("z", 4 * padded(units))
    yield from _sums(part, program, number, x, h, z)
    if any(part.zoneout):
        old = program.space("old", padded(units))
        yield f"memcpy({old}, {c}, {units} * sizeof(float));"
    hidden = following if part.hr is None else program.space("hidden", padded(units))
    options = [_by_gate(array, units) for array in (part.peepholes, part.norm, part.bias if _norm(part) else None)]
    given = [array for array in options if array is not None]
    weights = "w"
    if given:
        weights = program.weights(f"layer {number}: peepholes, scales, biases of the gates", np.concatenate(given))
    yield f"{_cell_function(part, program)}({units}, {weights}, {z}, {c}, {hidden});"
    if part.hr is not None:
        program.needs.add("LINEAR")
        weights = program.weights(f"layer {number}: the projection", packing.linear(None, part.hr))
        yield f"lstm_linear({part.outputs}, {weights}, {units}, {hidden}, 0, NULL, {following});"
        if part.proj_clip is not None:
            program.needs |= {"BOUNDED", "CLIP"}
            yield f"lstm_clip({part.outputs}, {literal(part.proj_clip)}, {following});"
    if any(part.zoneout):
        program.needs.add("ZONEOUT")
        yield f"lstm_mix({part.outputs}, {literal(part.zoneout[0])}, {h}, {following});"
        yield f"lstm_mix({units}, {literal(part.zoneout[1])}, {old}, {c});"


def _norm(part: Cell) -> bool:
    return part.norm is not None


def _by_gate(array: Array | None, units: int) -> Array | None:
    return None if array is None else packing.gates(array, units)


def _sums(part: Cell, program: Program, number: int, x: str, h: str, z: str) -> Iterator[str]:
    """Give the statements that compute the sums of the gates."""
    columns = 4 * padded(part.units)
    bias = None if _norm(part) else _by_gate(part.bias, part.units)  # else it is added after normalising
    if isinstance(part.ih, tuple):
        if bias is None:
            yield f"memset({z}, 0, sizeof {z});"
        else:
            weights = program.weights(f"layer {number}: biases", bias)
            yield f"memcpy({z}, {weights}, {columns} * sizeof(float));"
        for name, weight, factors in ("input", part.ih, x), ("recurrent", part.hh, h):
            yield from _int8_product(program, f"layer {number}: {name} weights", weight, part.units, factors, z)
    else:
        program.needs.add("LINEAR")
        assert not isinstance(part.hh, tuple)
        packed = packing.linear(bias, packing.gates(part.ih, part.units), packing.gates(part.hh, part.units))
        weights = program.weights(f"layer {number}: input and recurrent weights", packed)
        yield f"lstm_linear({columns}, {weights}, {part.inputs}, {x}, {part.outputs}, {h}, {z});"


def _int8_product(program: Program, title: str, weight: object, units: int, x: str, z: str) -> Iterator[str]:
    """Give the statements that add an int8 product, in segments that have a scale each."""
    assert isinstance(weight, tuple)
    program.needs.add("INT8")
    values, scales = (packing.gates(array, units) for array in weight)
    at_scales = program.weights(f"{title}: scales", scales)
    inputs = values.shape[1]
    space = program.space("space", padded(min(inputs, packing.SEGMENT)))
    quantised = program.space("quantised", padded(min(inputs, packing.SEGMENT)), "int16_t")
    for first in range(0, inputs, packing.SEGMENT):
        count = min(inputs - first, packing.SEGMENT)
        at_values = program.int8_weights(title, packing.int8(values[:, first : first + count]))
        source = x if first == 0 else f"{x} + {first}"
        yield f"lstm_add_int8({len(values)}, {at_scales}, {at_values}, {count}, {source}, {space}, {quantised}, {z});"


def _cell_function(part: Cell, program: Program) -> str:
    """Add the function that computes the cell from the gates' sums; return its name."""
    gate, candidate, cell = (_function(program, activations.GATES, function) for function in part.activations)
    vectors = "for (k = 0; k < units; k += LSTM_LANES)"
    one_minus = "lstm_store({0} + k, lstm_all(1.0f) - lstm_load({1} + k));"
    lines = [
        *_prepared(part, program, "i", 0),
        *([] if part.coupling == "f=1-i" else _prepared(part, program, "f", 1)),
        *_prepared(part, program, "g", 2),
    ]
    if part.coupling != "i=1-f":
        lines.append(f"{gate}(units, i);")
    if part.coupling != "f=1-i":
        lines.append(f"{gate}(units, f);")
    lines.append(f"{candidate}(units, g);")
    if part.coupling is not None:
        lines += [vectors, "    " + one_minus.format(*("fi" if part.coupling == "f=1-i" else "if"))]
    lines += [
        vectors + " {",
        "    lstm_vector cell = lstm_fma(lstm_load(f + k), lstm_load(c + k), lstm_load(i + k) * lstm_load(g + k));",
    ]
    if part.cell_clip is not None:
        program.needs.add("BOUNDED")
        lines.append(f"    cell = lstm_bounded(cell, {literal(part.cell_clip)});")
    lines += ["    lstm_store(c + k, cell);", "    lstm_store(h + k, cell);", "}"]
    lines += [*_prepared(part, program, "o", 3), f"{gate}(units, o);", f"{cell}(units, h);"]
    lines += [vectors, "    lstm_store(h + k, lstm_load(o + k) * lstm_load(h + k));"]
    return program.function("cell", CELL.replace("@LINES@", "\n".join("    " + line for line in lines)))


def _prepared(part: Cell, program: Program, gate: str, index: int) -> Iterator[str]:
    """Give the statements between a gate's sums and its activation."""
    peepholes = 3 if part.peepholes is not None else 0
    if part.peepholes is not None and gate != "g":
        program.needs.add("PEEPHOLE")
        yield f"lstm_peephole(units, {_at('ifo'.index(gate))}, c, {gate});"
    if part.norm is not None:
        program.needs |= {"ROOT", "NORMALIZE"}
        bias = "NULL" if part.bias is None else _at(peepholes + 4 + index)
        yield f"lstm_normalize(units, {_at(peepholes + index)}, {bias}, {gate});"
    if part.clip is not None:
        program.needs |= {"BOUNDED", "CLIP"}
        yield f"lstm_clip(units, {literal(part.clip)}, {gate});"


def _at(index: int) -> str:
    """Return the C expression of the weights of a gate, or of a peephole."""
    return f"w + {index} * padded" if index else "w"


def _function(program: Program, table: dict[str, str], function: tuple[str, float, float]) -> str:
    """Add the C function of an activation; return its name."""
    name, alpha, beta = function
    program.needs |= {*activations.NEEDS.get(name, ()), *(["AT_MOST"] if "at_most" in table[name] else [])}
    statements = table[name].format(alpha=literal(alpha), beta=literal(beta))
    more = "\n        lstm_vector more;" if "more" in statements else ""
    text = activations.FUNCTION.format(
        title=name,
        name="{name}",
        more=more,
        statements="\n".join("        " + line for line in statements.splitlines()),
    )
    return program.function(name, text)


_EMIT: dict[type, Callable[[Any, Program, str], str]] = {
    Lookup: _lookup,
    Linear: _linear,
    Add: _add,
    Function: _activation,
    Cell: _layer,
    **rows.EMIT,
}

#: the cell of a layer with options; `w` are the peepholes, scales and biases of the gates that it has
CELL = r"""
/* c and h of a layer from the sums z of its gates */
static void {name}(size_t units, const float *w, float *z, float *c, float *h)
{
    const size_t padded = (units + 7) / 8 * 8;
    float *const i = z, *const f = z + padded, *const g = z + 2 * padded, *const o = z + 3 * padded;
    size_t k;
    (void)w;
@LINES@
}
"""
