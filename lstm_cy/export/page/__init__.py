"""A page that shows the gates of a model while it reads: one HTML file that loads nothing; `GateTrace.to_html`."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib import resources
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from ...checks import int_within, one_of, shown
from ...trace.explanation import Explanation
from ...trace.layout import FIELDS
from ...trace.selection import token_texts, unit_numbers
from .. import web

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...trace.gates import GateTrace
    from ...trace.predictions import Predictions
    from ...trace.recording import Source
    from ...typing import Array, ArrayLike, Ints

TITLES = {"en": "The gates of an LSTM", "zh": "LSTM 的门"}
#: the languages of the page's words, words.json
LANGUAGES = tuple(TITLES)
#: a page holds the arrays of so many steps at most; a longer one would be slow to open
MOST_STEPS = 2000
#: gradients are stored for so many steps before each prediction
MOST_DISTANCE = 128
#: the views that a note may stand in, and what the text can be coloured by
VIEWS = (
    "reading",
    "step",
    "predictions",
    "memory",
    "gradient",
    "explanation",
    "units",
    "span",
    "experiment",
    "training",
    "comparison",
)
COLOURS = ("cell", "forget", "input", "output", "hidden", "contribution", "gradient")
#: rows of a batch in which the gradients of steps are computed together
ROWS = 64
PAGE = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main id="page"><noscript>{noscript}</noscript></main>
<script type="application/json" id="data">{data}</script>
<script type="module">{module}</script>
</body>
</html>
"""
#: JavaScript ends a line at these, and a <script> at the first of them
_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def write_page(
    path: str,
    trace: GateTrace,
    alone: GateTrace,
    source: Source | None,
    symbols: Sequence[object] | None,
    tokens: Sequence[object] | None,
    *,
    row: int,
    title: str | None,
    language: str,
    gradients: bool,
    units: int | Sequence[int],
    explanation: Explanation | None,
    checkpoints: Mapping[str, GateTrace],
    compare: Mapping[str, ArrayLike],
    notes: Sequence[Mapping[str, object]],
) -> None:
    """Implement `GateTrace.to_html`; `alone` is the trace of the row alone, `source` what the trace was made from."""
    language = one_of("language", language, LANGUAGES)
    T, H = alone.cell.shape
    chosen = [int(unit) for unit in unit_numbers(alone, min(units, H) if isinstance(units, Integral) else units)]
    if T > MOST_STEPS:
        raise ValueError(f"trace: expected at most {MOST_STEPS} steps for a page, got {T}")
    read = None if source is None else _tokens(source, row)
    model, reason = _described(source, alone, read)
    names = None if symbols is None else [str(symbol) for symbol in symbols]
    if names is not None and read is not None and max(read, default=0) >= len(names):
        raise ValueError(f"symbols: expected one for each token of the model, got {len(names)}")
    if names is not None and model is not None and len(names) != model["tokens"]:
        raise ValueError(f"symbols: expected {model['tokens']}, one for each token of the model, got {len(names)}")
    if tokens is None and names is not None and read is not None:
        tokens = [names[token] for token in read]
    texts = token_texts(alone, tokens) or [str(step) for step in range(T)]
    module = web.wasm() if model is not None else None
    predicted = _predictions(trace, row) if gradients or model is None else None
    data = {
        "title": title or TITLES[language],
        "language": language,
        "texts": texts + [""] * (T - len(texts)),
        "symbols": names,
        "tokens": read,
        "model": model,
        "reason": reason,
        "wasm": None if module is None else base64.b64encode(module).decode(),
        "layer": 0 if source is None else source.layer,
        "units": H,
        "most": MOST_STEPS,
        "reverse": alone.reverse,
        "zoneout": alone.zoneout,
        "reset": [int(step) for step in np.flatnonzero(alone.reset)],
        "arrays": None if model is not None else {name: _encoded(getattr(alone, name)) for name in FIELDS},
        "initial": _encoded(alone.initial_cell),
        "salient": chosen,
        "predictions": None if model is not None else predicted and _best(predicted, names, read),
        "gradients": _gradients(source, read or [], predicted) if gradients and source and model else None,
        "explanation": None if explanation is None else _explained(explanation, H),
        "checkpoints": [_checkpoint(str(label), each, chosen, H) for label, each in checkpoints.items()],
        "compare": {str(label): _norms(str(label), norms) for label, norms in compare.items()},
        "notes": [_note(f"notes[{index}]", note, T, H) for index, note in enumerate(notes)],
    }
    with open(path, "w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.write(document(data))


def document(data: Mapping[str, Any]) -> str:
    """Return the text of a page."""
    style, module = _file("page.css"), web.module() + _file("page.js")
    words = json.loads(_file("words.json"))[data["language"]]
    policy = (
        "default-src 'none'",
        f"script-src {_hash(module)} 'wasm-unsafe-eval'",
        f"style-src {_hash(style)}",
        "img-src blob: data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return PAGE.format(
        language=data["language"],
        policy="; ".join(policy),
        title=html.escape(data["title"]),
        style=style,
        noscript=html.escape(words["noscript"]),
        data=as_script_data({**data, "words": words}),
        module=module,
    )


def _described(source: Source | None, alone: GateTrace, tokens: list[int] | None) -> tuple[dict[str, Any] | None, str]:
    """Return the description of the model that the page runs; or None, and why the page runs none."""
    if source is None:
        return None, "the trace was read from a file, which holds no model"
    if tokens is None or alone.reverse or not alone.valid.all() or alone.reset.any() or any(source.states):
        return None, "the page runs models that read tokens, all of them, forwards, from their initial state"
    try:
        model = web.describe(source.model)
    except (TypeError, ValueError) as error:
        return None, str(error)
    return (model, "") if model["tokens"] else (None, "the model reads no tokens")


def _tokens(source: Source, row: int) -> list[int] | None:
    """Return the tokens that the row of a model read, or None if it read numbers."""
    x = source.x
    if not np.issubdtype(x.dtype, np.integer):
        return None
    return [int(token) for token in (x if x.ndim == 1 else x[row] if source.model.batch_first else x[:, row])]


def _predictions(trace: GateTrace, row: int) -> Predictions | None:
    """Return what the model predicts at each step, or None if it predicts nothing."""
    try:
        return trace.predictions(row=row)
    except (TypeError, ValueError):
        return None


def _best(predicted: Predictions, names: list[str] | None, read: list[int] | None) -> list[list[list[float]]]:
    """Return the most probable outputs of each step [[output, probability], ...].

    If the outputs are tokens, and the next one that was read is not among them, it is added with its rank from 1.
    """
    best: list[list[list[float]]] = predicted.as_dict()["best"]
    if names is None or read is None or len(names) != predicted.probability.shape[1]:
        return best
    for odds, found, token in zip(predicted.probability, best, read[1:], strict=False):  # nothing follows the last
        if token not in [k for k, _ in found]:
            rank = 1 + int(np.flatnonzero(np.argsort(-odds, kind="stable") == token)[0])
            found.append([token, float(odds[token]), rank])
    return best


def _gradients(source: Source, read: list[int], predicted: Predictions | None) -> dict[str, Any] | None:
    """Return the norms of the gradients of each step's most probable output, with respect to what was read.

    Element (t, d) is the gradient of the output of step t with respect to step t - d, d < MOST_DISTANCE. The steps'
    outputs are those of the rows of a batch, each of which reads the same tokens.
    """
    if predicted is None:
        return None
    T, model, best = len(read), source.model, [int(output) for output in predicted.best]
    reach = min(T, MOST_DISTANCE)
    found = np.zeros((T, reach), np.float32)
    for first in range(0, T, ROWS):
        steps = np.arange(first, min(first + ROWS, T))
        length = steps[-1] + 1
        tokens = np.repeat(np.array(read[:length])[None], len(steps), axis=0)
        trace = model.trace(tokens if model.batch_first else tokens.T, layer=source.layer)
        gradient = trace.gradient(_outputs_of(steps, best, model.batch_first), target=0)
        for row, step in enumerate(steps):
            behind = gradient.norms(row)["embedding"][max(step + 1 - reach, 0) : step + 1][::-1]
            found[step, : len(behind)] = behind
    return {"reach": reach, "norms": _encoded(found)}


def _outputs_of(steps: Ints, best: list[int], batch_first: bool) -> Callable[..., tuple[float, Array]]:
    """Return a loss whose gradient is that of each row's output best[step] at its own step."""

    def loss(y: Array, target: Array, **_: Any) -> tuple[float, Array]:
        dy = np.zeros_like(y)
        by_row = dy if batch_first else dy.swapaxes(0, 1)
        for row, step in enumerate(steps):
            by_row[row, step, best[step]] = 1
        return float((y * dy).sum()), dy

    return loss


def _explained(explanation: Explanation, H: int) -> dict[str, Any]:
    """Return what each unit follows, and the losses without it."""
    if not isinstance(explanation, Explanation):
        raise TypeError(f"explanation: expected what lstm_cy.trace.explain returns, got {shown(explanation)}")
    if len(explanation.units) != H:
        raise ValueError(f"explanation: expected one of the traced layer, of {H} units, got {len(explanation.units)}")
    rows = [{name: _finite(value) for name, value in one._asdict().items()} for one in explanation.units]
    numbers = {name: _finite(getattr(explanation, name)) for name in ("loss", "tokens", "loss_tokens")}
    return numbers | {"units": rows}


def _finite(value: Any) -> Any:
    """Return None for a number that JSON cannot hold."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _checkpoint(label: str, trace: GateTrace, chosen: list[int], H: int) -> dict[str, Any]:
    """Return the cells of some units of a trace of one row at some time of the training.

    They are the units that the page shows, if the trace has as many as this one; else the first eight.
    """
    if trace.cell.ndim != 2:
        raise ValueError(f"checkpoints: expected traces of one sequence, got {shown(trace)} for {label!r}")
    width = trace.cell.shape[1]
    units = chosen if width == H else list(range(min(8, width)))
    cell = trace.cell[:MOST_STEPS, units]
    return {"label": label, "steps": len(cell), "units": units, "cell": _encoded(cell)}


def _norms(label: str, norms: ArrayLike) -> list[float]:
    array = np.asarray(norms, np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"compare: expected norms (T,), finite numbers from 0, got {shown(norms)} for {label!r}")
    return [float(norm) for norm in array]


def _note(name: str, note: Mapping[str, object], T: int, H: int) -> dict[str, Any]:
    """Return a note after its checks."""
    known = ("title", "text", "view", "unit", "step", "colour")
    if not isinstance(note, Mapping):
        raise TypeError(f"{name}: expected a mapping, got {shown(note)}")
    if unknown := [key for key in note if key not in known]:
        raise ValueError(f"{name}: expected keys among {', '.join(known)}, got {unknown[0]!r}")
    for key in ("title", "text"):
        if not isinstance(note.get(key), str):
            raise TypeError(f"{name}: expected a text for {key!r}, got {shown(note.get(key))}")
    found: dict[str, Any] = {"title": note["title"], "text": note["text"]}
    found["view"] = one_of(f"{name}['view']", note.get("view", "reading"), VIEWS)
    for key, size in (("unit", H), ("step", T)):
        if key in note:
            found[key] = int_within(f"{name}[{key!r}]", note[key], 0, size - 1)
    if "colour" in note:
        found["colour"] = one_of(f"{name}['colour']", note["colour"], COLOURS)
    return found


def as_script_data(data: Mapping[str, Any]) -> str:
    """Return JSON that may stand in a <script>: no text in it can end the element or a line."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).translate(_UNSAFE)


def _encoded(array: Array) -> str:
    """Return float32 numbers as base64; NaN, of steps that were not read, stays NaN."""
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()


def _hash(text: str) -> str:
    """Return a source of a content security policy: the element that has exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _file(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text("utf-8")
