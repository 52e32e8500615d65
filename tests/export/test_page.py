"""The page of a trace: what a reader sees in Chromium is what the library computes."""

import json
import math
import re

import numpy as np
import pytest
from browser import opened

from lstm_cy import LSTM, Activation, Embedding, GateTrace, Linear, Sequential, load
from lstm_cy.cli import main
from lstm_cy.text import Vocabulary
from lstm_cy.trace import Explanation, explain

SYMBOLS = [*"abcdefghijklmnopqrstuvwxyz 1().:#</>&\"'\n", "\u2028", "門"]
TEXT = "def f(a):\n  return \"a</script><script>alert(1)</script>\" & 'b'\u2028 # 門 (a(b)c) end"
FIELDS = ("forget", "input", "candidate", "cell", "output", "hidden")
#: what the page shows is computed in float32 by another module
CLOSE = {"rtol": 0, "atol": 2e-6}


def text_model(units=100, **options):
    model = Sequential(
        Embedding(len(SYMBOLS), 12, seed=0),
        LSTM(12, units, seed=1, **options),
        Linear(options.get("proj_size", units), len(SYMBOLS), seed=2),
    )
    for layer, scale in zip(model.layers, (4, 1, 6), strict=True):  # the odds of an untrained model are all alike
        layer.load_state_dict({name: scale * array for name, array in layer.state_dict().items()})
    return model


def tokens_of(text):
    return [SYMBOLS.index(character) for character in text]


class Page:
    """A page that a reader looks at."""

    def __init__(self, browser, path):
        self.driver = browser.driver
        browser.open(path.as_uri(), "return document.documentElement.dataset.ready")
        self.browser = browser

    def do(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def value(self, selector, name="value"):
        return float(self.do(f"return document.querySelector(arguments[0]).dataset.{name}", selector))

    def set(self, name, value):
        script = """const it = document.getElementById(arguments[0]);
            if (it.type === "checkbox") it.checked = arguments[1]; else it.value = arguments[1];
            for (const kind of ["input", "change"]) it.dispatchEvent(new Event(kind, { bubbles: true }));"""
        self.do(script, name, value)

    def click(self, selector):
        self.do("document.querySelector(arguments[0]).click()", selector)

    def point_at(self, step):
        self.do("document.getElementById(arguments[0]).dispatchEvent(new PointerEvent('pointerenter'))", f"at{step}")

    def drag(self, first, last):
        script = """const [first, last] = [...arguments].map((id) => document.getElementById(id));
            first.dispatchEvent(new PointerEvent("pointerdown", { bubbles: true, buttons: 1 }));
            last.dispatchEvent(new PointerEvent("pointerenter", { buttons: 1 }));"""
        self.do(script, f"at{first}", f"at{last}")

    def press(self, key, shift=False):
        script = """const [key, shiftKey] = arguments;
            const event = new KeyboardEvent("keydown", { key, shiftKey, bubbles: true });
            document.getElementById("text").dispatchEvent(event);"""
        self.do(script, key, shift)

    def text(self, selector):
        return self.do("return document.querySelector(arguments[0]).textContent", selector)

    def each(self, selector, expression):
        """Return an expression of every element `it` of a selector."""
        return self.do(f"return [...document.querySelectorAll(arguments[0])].map((it) => {expression})", selector)

    def data(self, selector, name):
        return json.loads(self.do("return document.querySelector(arguments[0]).dataset[arguments[1]]", selector, name))

    def assert_step(self, trace, step, unit):
        for name in FIELDS:
            assert self.value(f"#value-{name}") == pytest.approx(
                float(getattr(trace, name)[step, unit]), rel=0, abs=2e-6
            )


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = opened(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def made(browser, tmp_path_factory):
    """Return (model, trace, page) of a page with everything in it."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    model = text_model()
    trace = model.trace(tokens_of(TEXT))
    checkpoints = {f"epoch {epoch}": text_model(8 + epoch).trace(tokens_of(TEXT)) for epoch in (1, 2)}
    compare = {"LSTM": 0.9 ** np.arange(40), "plain RNN": 0.4 ** np.arange(40)}
    trace.to_html(path, SYMBOLS, title='a < b & "c"', checkpoints=checkpoints, compare=compare)
    assert path.stat().st_size < 1.5e6
    page = Page(browser, path)
    yield model, trace, page, checkpoints
    assert not browser.complaints()


def number_of(text):
    return float(text.replace("−", "-"))


def odds_of(model, tokens):
    scores = np.asarray(model(np.array(tokens))[0], np.float64)[-1]
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


def test_texts_are_data(made):
    _, _, page, _ = made
    assert page.driver.title == 'a < b & "c"' and page.text("h1") == page.driver.title
    shown = page.each("#text span", "it.textContent).join(''")
    assert shown.replace("↵\n", "\n") == TEXT
    assert page.do("return document.querySelectorAll('script').length") == 2


def test_gates_and_predictions_of_a_step(made):
    model, trace, page, _ = made
    sixth = 0
    for step, unit in ((0, 3), (1, 4), (17, 99), (len(TEXT) - 1, 0)):
        page.set("unit", unit)
        page.press("Home")
        for _ in range(step):
            page.press("ArrowRight")
        page.assert_step(trace, step, unit)
        odds = odds_of(model, tokens_of(TEXT[: step + 1]))
        value = "Number(it.querySelector('[data-value]').dataset.value)"
        rows = page.each("#odds tr", f"[Number(it.dataset.output), {value}]")
        order = np.argsort(-odds, kind="stable").tolist()
        following = [SYMBOLS.index(letter) for letter in TEXT[step + 1 : step + 2]]
        beyond = [k for k in following if k not in order[:5]]  # a sixth row
        assert [k for k, _ in rows] == order[:5] + beyond
        assert page.each("#odds tr.now", "Number(it.dataset.output)") == following
        assert page.each("#odds tr.now", "Number(it.dataset.rank)") == [order.index(k) + 1 for k in following]
        sixth += len(beyond)
        np.testing.assert_allclose([share for _, share in rows], odds[[k for k, _ in rows]], **CLOSE)
    assert sixth


def test_typed_text_is_computed_at_once(made):
    model, _, page, _ = made
    page.set("typed", "(b)\nz€門")
    assert "€" in page.text("#unknown")
    page.set("unit", 41)
    page.assert_step(model.trace(tokens_of("(b)\nz門")), 5, 41)
    page.set("typed", "")
    assert page.text("#text") == ""
    page.click("#original")
    assert page.text("#unknown") == ""


def test_where_the_cell_and_the_gradient_come_from(made):
    model, trace, page, _ = made
    page.press("Escape")
    page.set("unit", 7)
    page.point_at(30)
    expected = trace.contribution(30)
    parts = page.data("#memory", "parts")
    assert [step for step, _ in parts] == list(range(30, -1, -1))
    np.testing.assert_allclose([value for _, value in parts], expected[:0:-1, 7], **CLOSE)
    assert page.value("#sum", "initial") == pytest.approx(float(expected[0, 7]), abs=2e-6)
    assert page.value("#sum") == pytest.approx(float(trace.cell[30, 7]), abs=2e-6)
    kept = np.cumprod(trace.forget[31:, 7].astype(np.float64))
    assert page.value("#until") == 30 + (kept >= 0.5).tolist().index(False)
    shown = expected[max(0, 31 - 100) + 1 :, 7]
    ends = page.each("#memory .scale text", "Number(it.dataset.value)")
    assert ends[0] == 0 and len(ends) > 1
    assert min(abs(ends[1] - shown.max()), abs(ends[1] - shown.min())) < 2e-6
    best = int(odds_of(model, tokens_of(TEXT[:31])).argmax())
    norms = trace.gradient((30, best)).norms()["embedding"]
    gradient = page.data("#gradient", "parts")
    np.testing.assert_allclose([norm for _, norm in gradient], norms[30::-1], rtol=1e-5, atol=1e-9)


def test_how_long_what_a_step_added_stays(made):
    """The words name the step and its character, the line below the text covers it, and the legend names the line."""
    _, trace, page, _ = made
    page.press("Escape")
    kinds = set()
    for unit in range(12):
        page.set("unit", unit)
        added = trace.input[:, unit].astype(np.float64) * trace.candidate[:, unit]
        worth = np.abs(added) > 0.01 * np.abs(trace.cell[:, unit]).max()
        for step in [*(~worth).nonzero()[0][:2], *worth.nonzero()[0][:3]]:
            page.point_at(step)
            assert page.value("#until", "written") == pytest.approx(added[step], abs=2e-6)
            until, words = int(page.value("#until")), page.text("#until")
            assert words.startswith("This step added") and ("almost nothing" in words) == (not worth[step])
            expected = range(step, until + 1) if worth[step] and until > step else []
            assert page.each("#text .kept", "it.id") == [f"at{t}" for t in expected]
            assert (f"what step {step} added" in page.text("#legend")) == bool(expected)
            if worth[step] and step + 1 < until < len(TEXT) - 1:
                assert f"{until - step} steps later, at step {until} (the character “" in words
            kinds.add((bool(worth[step]), min(until - step, 2)))
    assert len(kinds) > 2


def test_numbers_are_never_a_zero_with_a_sign(made):
    _, trace, page, _ = made
    page.press("Escape")
    for unit in range(0, 100, 20):
        page.set("unit", unit)
        for step in (0, 20, 50):
            page.point_at(step)
            for name in FIELDS:
                value = float(getattr(trace, name)[step, unit])
                close = {"rel": 0.051, "abs": 0} if abs(value) < 0.01 else {"abs": 5.1e-4}
                assert number_of(page.text(f"#value-{name}")) == pytest.approx(value, **close)
            assert not re.search(r"[−-]0(?:\.0*)?(?![.\d])", page.text("main"))


def test_the_legend_of_the_colours(made):
    _, trace, page, _ = made
    page.set("unit", 5)
    for name in ("forget", "input", "output"):
        page.set("colour", name)
        assert page.text("#scale") == "0, closed1, open"
    for name in ("cell", "hidden"):
        page.set("colour", name)
        ends = re.fullmatch(r"(−.*), below zero0(.*), above zero", page.text("#scale")).groups()
        most = np.abs(getattr(trace, name)[:, 5]).max()
        assert [number_of(end) for end in ends] == pytest.approx([-most, most], abs=5.1e-4)
    page.set("colour", "gradient")
    norms = [norm for _, norm in page.data("#gradient", "parts")]
    assert number_of(page.text("#scale")[1:]) == pytest.approx(max(norms), abs=5.1e-4)
    page.set("colour", "cell")


def test_the_text_is_coloured(made):
    _, trace, page, _ = made
    page.press("Escape")
    page.set("unit", 5)
    page.point_at(40)
    values = {name: getattr(trace, name)[:, 5] for name in ("cell", "forget", "output", "hidden")}
    values["contribution"] = np.zeros(len(TEXT))
    values["contribution"][:41] = trace.contribution(40)[1:, 5]
    for name, expected in values.items():
        page.set("colour", name)
        found = page.each("#text span", "Number(it.dataset.value)")
        np.testing.assert_allclose(found, expected, **CLOSE)
        depths = page.each("#text span", "Number(it.style.getPropertyValue('--depth'))")
        most = 1 if name in ("forget", "output") else np.abs(expected).max()
        np.testing.assert_allclose(depths, 0.75 * np.abs(expected) / most, atol=1e-4)
    page.set("colour", "cell")


def test_units_of_a_span_and_other_places(made):
    _, trace, page, _ = made
    found = 0
    for first, last in ((4, 8), (18, 19), (50, 60), (60, 66)):
        page.drag(first, last)
        expected = trace.span_units((first, last))
        shown = page.each("#span-units button", "({ ...it.dataset })")
        assert [(int(one["unit"]), int(one["sign"])) for one in shown] == [
            (one.unit, one.sign) for one in expected[:12]
        ]
        np.testing.assert_allclose(
            [float(one["margin"]) for one in shown], [one.margin for one in expected[:12]], atol=1e-4
        )
        if not expected:
            continue
        found += 1
        page.click("#span-units button")  # the clearest
        places = page.each("#places button", "[Number(it.dataset.first), Number(it.dataset.last)]")
        matches = trace.match((first, last), units=[expected[0].unit])
        assert sorted(places) == sorted([one.first, one.last] for one in matches)
    assert found > 1
    page.press("Home")
    page.press("ArrowRight", shift=True)
    assert page.each("#text [aria-selected=true]", "it.id") == [
        "at0",
        "at1",
    ]


def test_one_gate_at_a_time(made):
    _, trace, page, _ = made
    page.set("unit", 12)
    page.press("End")
    hidden = "return [...document.querySelectorAll('#step tbody tr')].map((row) => row.className)"
    page.click("#next")
    assert page.do(hidden) == ["now", *["later"] * 5]
    for _ in range(3):
        page.click("#next")
    assert page.do(hidden) == ["", "", "", "now", "later", "later"]
    last = len(TEXT) - 1
    words = page.text("#value-cell") + " " + page.text("#step tr.now td")
    numbers = [number_of(number) for number in re.findall(r"−?[\d.]+(?:e[−+]\d+)?", words)]
    expected = [
        trace.cell[last, 12],
        trace.forget[last, 12],
        trace.cell[last - 1, 12],
        trace.input[last, 12],
        trace.candidate[last, 12],
    ]
    np.testing.assert_allclose(numbers, expected, atol=6e-4)
    page.click("#all")
    assert page.do(hidden) == [""] * 6


def written_on(model, tokens, step, unit, change=None):
    """Return what the model writes after `step`, with a change of one unit, computed step by step from the formulas."""
    embedding, lstm, linear = model.layers
    weights = {name: array.astype(np.float64) for name, array in lstm.state_dict().items()}
    H = lstm.hidden_size
    h, c = np.zeros(H), np.zeros(H)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def advance(token, changing):
        nonlocal h, c
        old = c.copy()
        if changing and "cell" in change and not advance.edited:
            old[unit] = change["cell"]
            advance.edited = True
        z = weights["weight_ih_l0"] @ embedding.state_dict()["weight"][token] + weights["weight_hh_l0"] @ h
        z += weights["bias_ih_l0"] + weights["bias_hh_l0"]
        gates = dict(zip(("input", "forget", "candidate", "output"), z.reshape(4, H), strict=True))
        gates = {name: np.tanh(part) if name == "candidate" else sigmoid(part) for name, part in gates.items()}
        if changing and change.get("gate"):
            gates[change["gate"]][unit] = change["value"]
        c = gates["forget"] * old + gates["input"] * gates["candidate"]
        h = gates["output"] * np.tanh(c)
        if changing and change.get("off"):
            h[unit] = 0
        return int((linear.state_dict()["weight"] @ h + linear.state_dict()["bias"]).argmax())

    advance.edited = False
    for token in tokens[:step]:
        advance(token, False)
    best, text = advance(tokens[step], change is not None), ""
    for _ in range(60):
        text += SYMBOLS[best]
        best = advance(best, change is not None)
    return text


def test_a_change_and_what_follows(made):
    model, _, page, _ = made
    tokens, step, unit = tokens_of(TEXT), 20, 31
    page.press("Home")
    for _ in range(step):
        page.press("ArrowRight")
    page.set("unit", unit)
    usual = written_on(model, tokens, step, unit)
    changes = (
        {"gate": "forget", "value": 3.0},
        {"cell": 25.0},
        {"off": True},
        {"gate": "input", "value": 5.0, "off": True},
    )
    differ = 0
    for change in changes:
        page.set("gate", change.get("gate", ""))
        page.set("held", change.get("value", 1))
        page.set("edited", change.get("cell", ""))
        page.set("off", change.get("off", False))
        page.click("#try")
        changed = written_on(model, tokens, step, unit, change)
        assert (page.text("#as-is"), page.text("#with-change")) == (usual, changed)
        differ += changed != usual
    assert differ
    for name, value in (("gate", ""), ("edited", ""), ("off", False)):
        page.set(name, value)
    page.click("#try")
    assert page.text("#as-is") == usual and not page.do("return document.getElementById('with-change')")
    page.click("#original")  # nothing is held any more
    page.set("unit", unit)
    page.assert_step(model.trace(tokens), len(tokens) - 1, unit)


def test_checkpoints_and_comparison(made):
    *_, page, checkpoints = made
    for index, (label, trace) in enumerate(checkpoints.items()):
        page.set("checkpoint", index)
        assert page.text("#label") == label
        np.testing.assert_array_equal(np.float32(page.data("#cells", "values")), trace.cell[:, :8].ravel())
    ends = page.each("#comparison polyline", "it.getAttribute('points').split(' ').at(-1)")
    heights = [float(end.split(",")[1]) for end in ends]
    powers = [39 * math.log10(0.9), 39 * math.log10(0.4)]
    assert heights[1] - heights[0] == pytest.approx((powers[0] - powers[1]) / 16 * 180, rel=0.01)


def test_picture_is_saved(made, tmp_path):
    _, _, page, _ = made
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.click("#save")
    path = tmp_path / "lstm-units.svg"
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page.driver, 20).until(lambda _: path.exists() and path.stat().st_size)
    picture = path.read_text()
    assert picture.startswith("<svg") and picture.count("<rect") > 8 * 50


def test_what_each_unit_follows(browser, tmp_path):
    """The table has the library's numbers, is sorted by a click, and selects a unit; notes show what they name."""
    text = TEXT * 40
    vocabulary = Vocabulary("".join(sorted(set(text))))
    K = len(vocabulary)
    model = Sequential(Embedding(K, 8, seed=0), LSTM(8, 12, seed=1), Linear(12, K, seed=2))
    found = explain(model, text, vocabulary=vocabulary, features={"a < b": [letter == "a" for letter in text]})
    trace = model.trace(vocabulary.encode(TEXT))
    note = {"title": "<i>A</i> unit", "text": "& its gate", "unit": 9, "step": 20, "colour": "forget"}
    elsewhere = {"title": "More", "text": "of it", "view": "explanation"}
    symbols = [vocabulary.decode([token]) for token in range(K)]
    checkpoints = {"one": trace, "two": trace}
    options = {"units": [3, 11], "explanation": found, "notes": [note, elsewhere], "checkpoints": checkpoints}
    trace.to_html(tmp_path / "page.html", symbols, **options)
    page = Page(browser, tmp_path / "page.html")

    def table():
        return page.each("#explained tbody tr", "[...it.children].map((cell) => cell.textContent)")

    def expected(key, reverse):
        rows = sorted(found.units, key=key, reverse=reverse)
        return [[one.unit, f"{one.auc:.3f}", pytest.approx(one.change, abs=5.1e-5), f"{one.loss:.4f}"] for one in rows]

    orders = {
        None: (lambda one: (one.change, -one.unit), True),
        "unit": (lambda one: one.unit, True),
        "auc": (lambda one: (one.auc, -one.unit), True),
        "loss": (lambda one: (one.loss, -one.unit), True),
    }
    for column, order in orders.items():
        if column:
            page.click(f"#by-{column}")
            assert page.do("return document.activeElement.id") == f"by-{column}"
        shown = [[unit, auc, change, loss] for unit, _, _, auc, change, loss in table()]
        shown = [[int(unit), auc, number_of(change), loss] for unit, auc, change, loss in shown]
        assert shown == expected(*order)
        sorted_by = page.each("#explained th[aria-sort=descending]", "it.id")
        assert sorted_by == [f"column-{column or 'change'}"]
    page.click("#by-feature")
    assert [row[1] for row in table()] == sorted((one.feature for one in found.units), key=str.lower)
    page.click("#by-feature")
    assert page.each("#explained th[aria-sort=descending]", "it.id") == ["column-feature"]
    for click in ("#explained tbody tr[data-unit='5'] td", "#explained tbody tr[data-unit='5'] button"):
        page.set("unit", 2)
        page.click(click)
        page.assert_step(trace, len(TEXT) - 1, 5)
        assert page.each("#explained tr.now", "it.dataset.unit") == ["5"]
        one = found.units[5]
        assert one.feature in page.text("#purpose") and f"AUC {one.auc:.3f}" in page.text("#purpose")
        change = number_of(re.search(r"changes by (\S+)", page.text("#purpose"))[1])
        assert change == pytest.approx(one.change, abs=5.1e-5)
    page.set("typed", "(b)")
    page.click(".notes button")  # shows the stored text again
    page.assert_step(trace, 20, 9)
    assert page.text(".notes h3") == note["title"] and page.text("#explanation .note p") == "of it"
    assert page.do("return document.getElementById('colour').value") == "forget"
    assert page.each("#salient button", "it.textContent") == ["3", "11"]
    np.testing.assert_array_equal(np.float32(page.data("#cells", "values")), trace.cell[:, [3, 11]].ravel())
    assert not browser.complaints()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_pages_without_a_model(browser, tmp_path, language):
    """A trace of a file, of numbers, of rows that end early, or of the second direction: what is stored is shown."""
    model = Sequential(
        LSTM(3, 9, seed=0, bidirectional=True, zoneout=(0.0, 0.3)), Linear(18, 2, seed=0), Activation("softmax")
    )
    x = np.random.default_rng(0).standard_normal((12, 2, 3))
    trace = model.trace(x, lengths=[12, 7], direction=1)
    path = tmp_path / "page.html"
    trace.to_html(path, row=1, tokens="ab cd e", language=language)
    page = Page(browser, path)
    page.set("unit", 4)
    page.press("Home")
    page.press("ArrowRight")
    for name in FIELDS:
        assert page.value(f"#value-{name}") == pytest.approx(float(getattr(trace, name)[1, 1, 4]), rel=0, abs=2e-6)
    parts = page.data("#memory", "parts")  # of a row of seven steps that is read from its end
    assert [step for step, _ in parts] == list(range(1, 12))
    np.testing.assert_allclose([value for _, value in parts], trace.contribution(1)[:0:-1, 1, 4], **CLOSE)
    odds = model(x, lengths=[12, 7])[0][1, 1]
    assert page.value("#odds [data-value]") == pytest.approx(float(odds.max()), abs=2e-6)
    assert not page.do("return document.getElementById('typed')")
    assert page.do("return document.documentElement.lang") == language
    trace.to_npz(tmp_path / "trace.npz")
    GateTrace(**np.load(tmp_path / "trace.npz")).to_html(path)
    page = Page(browser, path)
    page.assert_step(
        GateTrace(
            **{name: getattr(trace, name)[:, 0] for name in (*FIELDS, "valid", "reset")},
            initial_cell=trace.initial_cell[0],
        ),
        11,
        page.do("return Number(document.getElementById('unit').value)"),
    )
    assert not browser.complaints()


def test_what_follows_in_a_page_that_runs_no_model(tmp_path):
    """The token that follows is stored with its rank where it is not among the five most probable."""
    model = Sequential(
        Embedding(len(SYMBOLS), 4, seed=0), LSTM(4, 5, seed=1, bidirectional=True), Linear(10, 42, seed=2)
    )
    path, tokens = tmp_path / "page.html", tokens_of(TEXT)
    trace = model.trace(tokens)
    trace.to_html(path, SYMBOLS)
    found = json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"))[1])
    assert found["model"] is None
    odds = trace.predictions().probability
    beyond = 0
    for t, row in enumerate(found["predictions"]):
        order = np.argsort(-odds[t], kind="stable").tolist()
        extra = [k for k in tokens[t + 1 : t + 2] if k not in order[:5]]
        assert [k for k, *_ in row] == order[:5] + extra
        assert row[5:] == [[k, pytest.approx(float(odds[t, k])), order.index(k) + 1] for k in extra]
        beyond += len(extra)
    assert beyond


def test_refusals(tmp_path):
    trace = text_model(3).trace([0, 1, 2])
    path = tmp_path / "page.html"
    nothing = Explanation([], [], np.zeros((2, 0, 0)), np.zeros(0), None, 0, 0)
    for message, arguments, keywords in (
        ("symbols: expected 42, one for each token of the model, got 3", ["abc"], {}),
        ("symbols: expected one for each token of the model, got 1", ["a"], {}),
        ("tokens: expected T = 3 of them, got 1", [None, "a"], {}),
        ("language: expected 'en' or 'zh', got 'xx'", [SYMBOLS], {"language": "xx"}),
        ("compare: expected norms", [SYMBOLS], {"compare": {"a": [1, np.nan]}}),
        (
            "checkpoints: expected traces of one sequence",
            [SYMBOLS],
            {"checkpoints": {"a": LSTM(1, 2, seed=0).trace(np.ones((3, 2, 1)))}},
        ),
        ("row: expected", [SYMBOLS], {"row": 1}),
        ("units: expected", [SYMBOLS], {"units": [3]}),
        ("explanation: expected one of the traced layer, of 3 units, got 0", [SYMBOLS], {"explanation": nothing}),
        ("notes[0]: expected keys among title,", [SYMBOLS], {"notes": [{"title": "a", "text": "b", "units": 1}]}),
        ("notes[0]['step']: expected", [SYMBOLS], {"notes": [{"title": "a", "text": "b", "step": 3}]}),
        ("notes[0]['view']: expected", [SYMBOLS], {"notes": [{"title": "a", "text": "b", "view": "x"}]}),
        ("notes[0]['colour']: expected", [SYMBOLS], {"notes": [{"title": "a", "text": "b", "colour": "red"}]}),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            trace.to_html(path, *arguments, **keywords)
    for message, keywords in (
        ("explanation: expected what lstm_cy.trace.explain returns, got", {"explanation": {}}),
        ("notes[0]: expected a mapping, got", {"notes": ["a"]}),
        ("notes[0]: expected a text for 'text', got None", {"notes": [{"title": "a"}]}),
    ):
        with pytest.raises(TypeError, match=re.escape(message)):
            trace.to_html(path, SYMBOLS, **keywords)
    with pytest.raises(ValueError, match="at most 2000 steps"):
        text_model(1).trace([0] * 2001).to_html(path, SYMBOLS)
    assert not path.exists()


def test_command(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat. " * 200)
    model, page = tmp_path / "model.npz", tmp_path / "page.html"
    main(["train", "--text", str(text), "--output", str(model), "--hidden", "8", "--epochs", "1", "--layers", "1"])
    options = ["--units", "2", "--explain", str(text)]
    main(["trace", str(model), "--text", "the cat", "--html", str(page), *options])
    assert f"a page in {page}" in capsys.readouterr().out
    found = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text())[1])
    assert found["texts"] == list("the cat") and len(found["symbols"]) == load(model).vocabulary_size
    assert len(found["salient"]) == 2 and len(found["explanation"]["units"]) == 8
    assert main(["trace", str(model), "--text", "the cat", *options])
    assert "--explain: expected --html" in capsys.readouterr().err
