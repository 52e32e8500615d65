"""Units whose weights are set by hand are found by what they do; areas and losses agree with their definitions."""

import json

import numpy as np
import pytest

from lstm_cy import LSTM, Embedding, Linear, Residual, Sequential, reference
from lstm_cy.text import Bytes, Vocabulary, Words
from lstm_cy.trace import explain, text_features

SYMBOLS = "()[].abcd?\n"
VOCABULARY = Vocabulary(SYMBOLS)
OPEN = 12.0


def planted_text(lines, seed=0):
    """Return lines with brackets of two kinds, well nested, and a letter that is asked for at the end."""
    rng, text = np.random.default_rng(seed), []
    for _ in range(lines):
        letter, line, stack = "abcd"[rng.integers(4)], "", []
        at = rng.integers(0, 20)
        for position in range(rng.integers(25, 40)):
            draw = rng.random()
            if position == at:
                line += letter
            elif draw < 0.2 and len(stack) < 3:
                stack.append(rng.integers(2))
                line += "(["[stack[-1]]
            elif draw < 0.45 and stack:
                line += ")]"[stack.pop()]
            else:
                line += "."
        text.append(line + "".join(")]"[kind] for kind in reversed(stack)) + f"?{letter}\n")
    return "".join(text)


def planted_model():
    """Return a model whose unit 0 counts open brackets, 1 the characters of a line, 2 keeps a letter, 3 sees a "?"."""
    n, H = len(VOCABULARY), 6
    code = {symbol: int(VOCABULARY.encode(symbol)[0]) for symbol in SYMBOLS}
    rng = np.random.default_rng(0)
    gates = {name: 0.3 * rng.standard_normal((H, n)) for name in "ifgo"}  # units 4 and 5 are left at random
    bias = {name: np.zeros(H) for name in "ifgo"}
    for name in "ifgo":
        gates[name][:4] = 0
    bias["i"][:4], bias["f"][:4], bias["o"][:4] = (-OPEN, OPEN, -OPEN, OPEN), (OPEN, OPEN, OPEN, -OPEN), OPEN
    for symbol in "()[]":
        gates["i"][0, code[symbol]] = 2 * OPEN
        gates["g"][0, code[symbol]] = 0.3 if symbol in "([" else -0.3
    bias["g"][1] = 0.02
    gates["f"][1, code["\n"]] = -2 * OPEN
    for symbol, value in zip("abcd", (3, 0.5, -0.5, -3), strict=True):
        gates["i"][2, code[symbol]], gates["f"][2, code[symbol]] = 2 * OPEN, -2 * OPEN
        gates["g"][2, code[symbol]] = value
    gates["g"][3, code["?"]] = 3
    lstm = LSTM(n, H, seed=0)
    lstm.load_state_dict(
        {
            "weight_ih_l0": np.concatenate([gates[name] for name in "ifgo"]),
            "weight_hh_l0": np.zeros((4 * H, H)),
            "bias_ih_l0": np.concatenate([bias[name] for name in "ifgo"]),
            "bias_hh_l0": np.zeros(4 * H),
        }
    )
    embedding, linear = Embedding(n, n, seed=0), Linear(H, n, seed=0)
    embedding.load_state_dict({"weight": np.eye(n)})
    weight, constant = np.zeros((n, H)), np.zeros(n)
    for symbol, toward, less in zip("abcd", (30, 12, -12, -30), (11, 0, 0, 11), strict=True):
        weight[code[symbol], 2], weight[code[symbol], 3], constant[code[symbol]] = toward, 50, -30 - less
    linear.load_state_dict({"weight": weight, "bias": constant})
    return Sequential(embedding, lstm, linear)


@pytest.fixture(scope="module")
def found():
    text = planted_text(400)
    keeps = np.array([symbol == "?" for symbol in text])
    return explain(planted_model(), text, vocabulary=VOCABULARY, features={"asked": keeps})


@pytest.mark.parametrize(
    ("feature", "unit"),
    [
        ("bracket depth above 0", 0),
        ("bracket depth above 1", 0),
        ("a line, after its 20th character", 1),
        ("the last letter was 'a'", 2),
        ("a question mark", 3),
        ("asked", 3),
    ],
)
def test_the_planted_unit_is_found(found, feature, unit):
    best, second = found.following(feature)[:2]
    assert best[0] == unit and best[2] > 0.98 and second[2] < best[2]


def test_each_planted_unit_is_described_by_its_feature(found):
    assert "bracket depth" in found.units[0].feature and found.units[0].sign == 1
    assert "of a line" in found.units[1].feature or "a line, after" in found.units[1].feature
    assert found.units[2].feature.startswith("the last letter was")
    assert found.units[3].feature in ("asked", "a question mark") and found.units[3].auc > 0.99
    assert min(found.units[2].change, found.units[3].change) > 0.01
    assert all(abs(found.units[unit].change) < 1e-6 for unit in (0, 1, 4, 5))  # the head does not read them


def test_tables_and_data(found):
    lines = found.table(2).splitlines()
    assert lines[1].split() == ["unit", "AUC", "signal", "follows", "loss", "when", "frozen"]
    assert {line.split()[0] for line in lines[2:]} == {"2", "3"}
    data = json.loads(json.dumps(found.as_dict()))
    assert data["tokens"] == found.tokens and len(data["units"]) == 6
    assert [one["name"] for one in data["features"]] == found.features
    assert np.shape(data["auc"]["cell"]) == (6, len(found.features))
    assert data["units"][2]["feature"].startswith("the last letter was")


def test_the_areas_are_those_of_all_pairs():
    text = planted_text(120, seed=3)
    model = Sequential(Embedding(12, 5, seed=1), LSTM(5, 4, seed=2), Linear(4, 12, seed=3))
    found = explain(model, text, vocabulary=VOCABULARY, frozen=False)
    assert found.loss is None and found.units[0].change is None
    rows = 16
    length = len(text) // rows
    tokens = VOCABULARY.encode(text)[: rows * length].reshape(rows, length)
    trace = model.trace(tokens.T)
    features = text_features(text)
    for name in ("a letter", "inside quotes", "bracket depth above 0", "a full stop"):
        truth = features[name][: rows * length].reshape(rows, length)[rows // 2 :].T
        index = found.features.index(name)
        for signal, values in enumerate((trace.cell, trace.hidden)):
            for unit in range(4):
                high, low = values[:, rows // 2 :, unit][truth], values[:, rows // 2 :, unit][~truth]
                if not len(high):
                    assert np.isnan(found.auc[signal, unit, index])
                    continue
                order = np.sort(low)
                wins = np.searchsorted(order, high, "left") + np.searchsorted(order, high, "right")
                assert found.auc[signal, unit, index] == pytest.approx(wins.mean() / 2 / len(low), abs=3e-3)


@pytest.mark.parametrize("options", [{}, {"proj_size": 3}, {"num_layers": 2, "batch_first": True}], ids=repr)
def test_a_frozen_unit_is_one_whose_h_is_held_at_its_mean(options):
    text = planted_text(60, seed=5)
    model = Sequential(
        Embedding(12, 5, seed=1), LSTM(5, 4, seed=2, **options), Linear(options.get("proj_size", 4), 12, seed=3)
    )
    found = explain(model, text, vocabulary=VOCABULARY, layer=0)
    rows = 16
    length = len(text) // rows
    tokens = VOCABULARY.encode(text)[: rows * length]
    lstm, unit = model.parts[1], 2
    own = {name[:-3]: np.float64(array) for name, array in lstm.parameters.items() if name.endswith("_l0")}
    weights = own["weight_ih"], own["weight_hh"], own["bias_ih"] + own["bias_hh"]
    project = own.get("weight_hr")
    table = np.float64(model.parts[0].parameters["weight"])

    def steps(ids, h, c, held=None):
        """Yield h before the projection, and after it, of each step of one row."""
        for token in ids:
            i, f, g, o = np.split(table[token] @ weights[0].T + h @ weights[1].T + weights[2], 4)
            c = reference.sigmoid(f) * c + reference.sigmoid(i) * np.tanh(g)
            inner = reference.sigmoid(o) * np.tanh(c)
            if held is not None:
                inner[unit] = held
            h = inner if project is None else project @ inner
            yield inner, h

    P = 4 if project is None else 3
    first_half = tokens.reshape(rows, length)[: rows // 2]
    mean = np.mean([inner[unit] for row in first_half for inner, _ in steps(row, np.zeros(P), np.zeros(4))])
    start = rows // 2 * length
    count = len(tokens) - start - 1
    cut = max(1, min(rows, count // 400))
    nats, length = [], count // cut
    for row in range(cut):
        first = start + row * length
        ids = tokens[first - 200 : first + length]
        begin = np.zeros(4)
        begin[unit] = mean
        begin = begin if project is None else project @ begin
        h = np.array([h for _, h in steps(ids, begin, np.zeros(4), mean)], np.float32)
        if lstm.num_layers == 2:
            upper = LSTM(4, 4, seed=0)
            upper.load_state_dict(
                {name.replace("_l1", "_l0"): a for name, a in lstm.parameters.items() if name.endswith("_l1")}
            )
            h = upper(h)[0]
        logits = np.float64(model.parts[2](h))[200:]
        target = tokens[first + 1 : first + length + 1]
        norm = np.log(np.exp(logits).sum(axis=-1))
        nats.append(norm - logits[np.arange(length), target])
    assert found.loss_tokens == cut * length
    assert found.units[unit].loss == pytest.approx(np.mean(nats), abs=1e-5)
    assert found.units[unit].change == pytest.approx(found.units[unit].loss - found.loss)


def test_narrow_models_bytes_and_words():
    text = planted_text(80)
    model = planted_model()
    narrow = model.quantize("bf16")
    plain, rounded = (explain(one, text, vocabulary=VOCABULARY) for one in (model, narrow))
    assert rounded.units[2].feature == plain.units[2].feature
    assert rounded.units[2].change == pytest.approx(plain.units[2].change, abs=0.02)
    letters = "aé(b) " * 60
    assert explain(_random(256), letters, vocabulary=Bytes(), frozen=False).tokens == 420
    words = Words.from_text("one two (three) four. " * 30, min_count=1)
    assert explain(_random(len(words)), "one two (three) four. " * 30, vocabulary=words).loss > 0


def _random(n):
    return Sequential(Embedding(n, 3, seed=0), LSTM(3, 3, seed=0), Linear(3, n, seed=0))


def test_features_of_code():
    text = 'f(a, [1])\n    "x" # it\'s\n\n"""don\'t"""\n'
    found = text_features(text)
    assert len(found) >= 40 and all(array.shape == (len(text),) for array in found.values())

    for name, part in {
        "bracket depth above 0": "(a, [1]",
        "innermost bracket [": "[1",
        'inside "..."': '"x',
        "a comment after #": "# it's",
        "inside triple quotes": '"""don\'t',
        "the indentation of a line": "    ",
        "a number": "1",
    }.items():
        first = text.index(part)
        assert np.flatnonzero(found[name]).tolist() == list(range(first, first + len(part))), name
    assert all(not array.size for array in text_features("").values())


def test_match_finds_where_a_unit_does_the_same():
    model = planted_model()
    text = ".(.).[..].a..?a\n...[....].(.).\n"
    trace = model.trace(VOCABULARY.encode(text))
    on = trace.span_units((1, 2))
    assert any(one.unit == 0 and one.sign == 1 for one in on)
    places = trace.match((1, 2), units=[0])
    assert [(one.first, one.last) for one in places] == [(26, 27), (5, 7), (19, 23)]  # the most alike first
    assert places[0].as_dict() == {"row": 0, "first": 26, "last": 27, "units": [0]}
    other = trace.match((1, 2), VOCABULARY.encode("..(.)...."), units=[0])
    assert [(one.first, one.last) for one in other] == [(2, 3)]
    assert trace.match((1, 2), model.trace(VOCABULARY.encode("..(.)....")), units=[0]) == other
    with pytest.raises(ValueError, match="units: expected units that are on"):
        trace.match((1, 2), units=[3])
    with pytest.raises(ValueError, match="signal: expected"):
        trace.match((1, 2), signal="gate")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"vocabulary": None}, ValueError, "vocabulary: expected one"),
        ({"text": 5}, TypeError, "text: expected str or bytes"),
        ({"text": "..a"}, ValueError, "text: expected at least 64 characters"),
        ({"layer": 1}, ValueError, "layer: expected"),
        ({"features": {"x": [True]}}, ValueError, "expected shape"),
        ({"model": Sequential(Linear(3, 3))}, ValueError, "expected a model with an LSTM"),
        ({"model": Sequential(Embedding(12, 3), LSTM(3, 3, bidirectional=True))}, ValueError, "runs forwards"),
        ({"model": Sequential(Embedding(12, 3), Residual(LSTM(3, 3)))}, ValueError, "no part of another layer"),
        ({"model": Sequential(Embedding(12, 3), LSTM(3, 3))}, ValueError, "predicts the next token"),
    ],
)
def test_wrong_arguments_are_refused(change, error, message):
    arguments = {"model": _random(12), "text": planted_text(20), "vocabulary": VOCABULARY} | change
    with pytest.raises(error, match=message):
        explain(arguments.pop("model"), arguments.pop("text"), **arguments)
