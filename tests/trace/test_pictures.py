"""Panels, languages and predictions of the pictures of a trace; what a unit wrote and how long it kept it."""

import json

import numpy as np
import pytest

from lstm_cy import LSTM, Activation, Embedding, GateTrace, Linear, Sequential
from lstm_cy.trace.words import LANGUAGES


@pytest.fixture
def pictures():
    """Use Matplotlib without a screen."""
    pytest.importorskip("matplotlib").use("Agg")


def text_model(**options):
    return Sequential(
        Embedding(5, 4, seed=0), LSTM(4, 8, seed=1, **options), Linear(options.get("proj_size", 8), 5, seed=2)
    )


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def test_every_panel_in_both_languages(pictures, tmp_path):
    tokens, target = [0, 1, 2, 3, 4, 0], [1, 2, -100, 4, 0, 1]
    model = text_model()
    trace = model.trace(tokens)
    names = ["prediction", "written", "hidden", "cell", "forget", "input", "candidate", "output"]
    for language, words in LANGUAGES.items():
        assert set(words) == set(LANGUAGES["en"])
        figure = trace.plot(
            "ab c\nd", panels=names, units=3, outputs="abcde", target=target, language=language, steps=(1, 5)
        )
        figure.savefig(tmp_path / "panels.png")
        found = titles(figure)
        drawn = [*names[1:], "prediction"]
        assert [one.partition(" (")[0] for one in found] == [words[name].partition(" (")[0] for name in drawn]
    written, hidden = figure.axes[:2]
    units = [int(label.get_text().split()[-1]) for label in written.get_yticklabels()]
    assert np.allclose(written.collections[0].get_array(), trace.written()[1:][:, units].T)
    assert np.allclose(hidden.collections[0].get_array(), trace.hidden[1:][:, units].T)
    for axes in figure.axes[:8]:  # the tokens and a guide line at each of them, in every panel
        assert [label.get_text() for label in axes.get_xticklabels()] == ["b", "␣", "c", "⏎", "d"]
        assert sum(len(line.get_xdata()) == 2 and line.get_xdata()[0] == 3 for line in axes.get_lines()) == 1
    logits = model(tokens)[0].astype(np.float64)
    probability = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    panel = figure.axes[7]
    np.testing.assert_allclose(panel.collections[0].get_array(), probability[1:].T, rtol=0, atol=1e-6)
    right = logits.argmax(axis=-1) == target
    signs = {int(text.get_position()[0]): text.get_text() for text in panel.texts}
    assert signs == {t: "✓" if right[t] else "✗" for t in (1, 3, 4, 5)}


def test_predictions_as_data():
    model, x = text_model(), np.array([[0, 1, 2], [3, 4, 0]]).T
    trace = model.trace(x)
    found = trace.predictions("abcde", [1, -100, 3], row=1)
    logits = model(x)[0][:, 1].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found.probability, expected, rtol=0, atol=1e-6)
    data = json.loads(json.dumps(found.as_dict(top=2)))
    assert data["best"][0][0] == [int(logits[0].argmax()), pytest.approx(expected[0].max(), abs=1e-6)]
    assert data["target"] == [1, None, 3] and data["right"][1] is None
    assert found.share_right == np.mean([logits[0].argmax() == 1, logits[2].argmax() == 3])
    softmax = Sequential(*model.parts, Activation("softmax")).trace(x).predictions(row=1)
    logarithms = Sequential(*model.parts, Activation("logsoftmax")).trace(x).predictions(row=1)
    np.testing.assert_allclose(softmax.probability, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(logarithms.probability, expected, rtol=0, atol=1e-6)
    assert softmax.labels == ["0", "1", "2", "3", "4"] and np.isnan(softmax.share_right)


@pytest.mark.parametrize("reverse", [False, True])
def test_memories_agree_with_retention(reverse):
    lstm = LSTM(3, 6, reverse=reverse, forget_bias=2.0, seed=0)
    x = np.random.default_rng(0).standard_normal((20, 2, 3))
    mask = np.random.default_rng(1).random((20, 2)) < 0.8
    steps = {"mask": mask} if reverse else {"mask": mask, "reset": np.arange(20)[:, None] == [[9, 30]]}
    trace = lstm.trace(x, **steps)
    found = trace.memories(row=1, units=[4, 2], share=0.4, most=3)
    assert [one.unit for one in found] == [4, 4, 4, 2, 2, 2]
    written, order = np.nan_to_num(trace.written()[:, 1]), np.arange(20)[:: -1 if reverse else 1]
    for unit in (4, 2):
        own = [one for one in found if one.unit == unit]
        assert {one.step for one in own} == set(np.argsort(-np.abs(written[:, unit]))[:3].tolist())
        for one in own:
            assert one.value == pytest.approx(written[one.step, unit])
            after = order[order.tolist().index(one.step) :]
            left = [trace.retention(one.step, int(t))[1, unit] for t in after]
            lost = next((k for k, share in enumerate(left) if share < 0.4), len(left))
            assert one.until == after[lost - 1] and one.left == pytest.approx(left[lost - 1], rel=1e-5)
    assert json.loads(json.dumps(found[0].as_dict()))["unit"] == 4


def test_the_picture_of_memories(pictures, tmp_path):
    trace = text_model().trace([0, 1, 2, 3, 4, 0, 1])
    figure = trace.plot_memories("abcdeab", units=[3, 1], at=5, most=2, steps=(1, 6))
    figure.savefig(tmp_path / "memories.png")
    first, second, parts = figure.axes[:3]
    assert "unit 3" in first.get_title(loc="left") and "unit 1" in second.get_title(loc="left")
    dots = [tuple(np.ravel(line.get_data())) for line in first.get_lines() if line.get_marker() == "o"]
    expected = [(one.step, one.value) for one in trace.memories(units=[3], most=2) if one.step >= 1]
    assert np.allclose(dots, expected)
    shares = np.zeros((7, 8))
    shares[:6] = trace.contribution(5)[1:]
    assert np.allclose(parts.collections[0].get_array(), shares[1:, [3, 1]].T)
    assert "step 5" in parts.get_title(loc="left")
    backwards = LSTM(3, 6, reverse=True, seed=0).trace(np.ones((5, 3))).plot_memories(language="zh")
    assert "从右向左读" in backwards.axes[3].get_xlabel()


def test_a_projected_hidden_state_has_rows_of_its_own(pictures):
    trace = text_model(proj_size=3).trace([0, 1, 2])
    figure = trace.plot(panels=["hidden"], units=[1, 2])
    assert np.allclose(figure.axes[0].collections[0].get_array(), trace.hidden[:, [1, 2]].T)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda trace: trace.plot(panels="cell"), TypeError, "panels: expected a sequence"),
        (lambda trace: trace.plot(panels=["gates"]), ValueError, "panels: expected"),
        (lambda trace: trace.plot(panels=[]), ValueError, "panels: expected at least one"),
        (lambda trace: trace.plot(target=[1, 2, 3]), ValueError, "outputs, target: expected None"),
        (lambda trace: trace.plot(language="fr"), ValueError, "language: expected"),
        (lambda trace: trace.predictions("ab"), ValueError, "outputs: expected K = 5"),
        (lambda trace: trace.predictions(target=[1, 2]), ValueError, "target: expected shape"),
        (lambda trace: trace.predictions(target=[1, 2, 5]), ValueError, "target: expected 0 to K - 1 = 4"),
        (lambda trace: trace.plot_memories(at=3), ValueError, "at: expected"),
        (lambda trace: trace.memories(share=2), ValueError, "share: expected"),
        (lambda trace: GateTrace(**trace.to_dict()).predictions(), ValueError, "predictions: expected a trace"),
        (lambda trace: LSTM(3, 4).trace(np.ones((3, 3))).predictions(), ValueError, "got an LSTM"),
    ],
)
def test_wrong_arguments_are_refused(call, error, message, pictures):
    with pytest.raises(error, match=message):
        call(text_model().trace([0, 1, 2]))
