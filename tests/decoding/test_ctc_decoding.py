"""CTC decoding: the likeliest alignment, and prefix beam search."""

import sys
import tracemalloc
from itertools import groupby, product

import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp, softmax

from lstm_cy import ctc, ctc_beam, ctc_greedy
from lstm_cy.decoding import ctc as ctc_decoding


def ctc_scores(*shape, seed=0):
    return np.random.default_rng(seed).normal(scale=2.0, size=shape)


def every_labelling(scores, blank, weight=lambda prefix, label: 0.0):
    """Return [(labels, score)], the best first, from a sum over all alignments of scores (T, V)."""
    steps, classes = scores.shape
    logs, found = log_softmax(scores, axis=1), {}
    for path in product(range(classes), repeat=steps):
        labels = tuple(label for label, _ in groupby(path) if label != blank)
        found.setdefault(labels, []).append(logs[np.arange(steps), list(path)].sum())
    weighed = {
        labels: logsumexp(terms) + sum(weight(labels[:i], label) for i, label in enumerate(labels))
        for labels, terms in found.items()
    }
    return sorted(((labels, score) for labels, score in weighed.items() if score > -np.inf), key=lambda pair: -pair[1])


def assert_same_labellings(found, expected):
    assert [tuple(labels.tolist()) for labels, _ in found] == [labels for labels, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=1e-12)
    assert all(labels.dtype == np.intp and type(score) is float for labels, score in found)


@pytest.mark.parametrize("blank", [0, 1, 2])
@pytest.mark.parametrize("steps", [0, 1, 2, 4, 6])
def test_a_wide_beam_finds_every_labelling_and_its_probability(steps, blank):
    scores = ctc_scores(steps, 3, seed=steps)
    found = ctc_beam(scores, beam_width=1000, blank=blank)
    assert_same_labellings(found, every_labelling(scores, blank))
    assert logsumexp([score for _, score in found]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("blank", [0, 3])
def test_a_language_model_weighs_each_label_after_its_prefix(blank):
    scores = ctc_scores(5, 4, seed=2)
    table = np.random.default_rng(3).normal(size=(6, 4))
    table[0, 2] = table[1, 1] = -np.inf  # 2 must not come first, nor 1 second
    calls = []

    def weight(prefix, label):
        calls.append((prefix, label))
        return table[len(prefix), label]

    found = ctc_beam(scores, beam_width=2000, blank=blank, language_model=weight)
    assert len(set(calls)) == len(calls)
    assert blank not in {label for _, label in calls}
    assert {type(part) for pair in calls for part in (pair[1], *pair[0])} == {int}
    assert_same_labellings(found, every_labelling(scores, blank, weight))
    nothing = ctc_beam(scores, language_model=lambda prefix, label: -np.inf)
    assert_same_labellings(nothing, [((), log_softmax(scores, axis=1)[:, 0].sum())])


def test_the_beam_is_empty_if_no_labels_are_possible():
    scores = np.array([[-np.inf, 0.0, 0.0], [0.0, 0.0, 0.0]])  # a blank is impossible, and the model excludes labels
    assert ctc_beam(scores, language_model=lambda prefix, label: -np.inf) == []


def plain_prefix_search(scores, width):
    """Return the result of the textbook's prefix beam search with blank 0."""
    beam = {(): [1.0, 0.0]}  # {prefix: [probability of ending in a blank, in its last label]}
    for step in softmax(scores, axis=1):
        grown = {}
        for prefix, (in_blank, in_label) in beam.items():
            grown.setdefault(prefix, [0, 0])[0] += (in_blank + in_label) * step[0]
            for label in range(1, len(step)):
                again = prefix[-1:] == (label,)
                grown.setdefault((*prefix, label), [0, 0])[1] += (in_blank if again else in_blank + in_label) * step[
                    label
                ]
            if prefix:
                grown.setdefault(prefix, [0, 0])[1] += in_label * step[prefix[-1]]
        beam = dict(sorted(grown.items(), key=lambda item: -sum(item[1]))[:width])
    return [(prefix, np.log(sum(both))) for prefix, both in beam.items()]


@pytest.mark.parametrize("width", [1, 2, 4, 30])
@pytest.mark.parametrize("seed", range(3))
def test_a_narrow_beam_keeps_the_best_prefixes_of_each_step(seed, width):
    scores = ctc_scores(12, 5, seed=seed)
    found = ctc_beam(scores, beam_width=width)
    assert len(found) == width
    assert_same_labellings(found, plain_prefix_search(scores, width))
    for labels, score in found:
        assert score <= -ctc(scores, labels)[0] + 1e-12  # alignments through dropped prefixes are missed


@pytest.mark.parametrize("width", [1, 2, 7])
@pytest.mark.parametrize("kind", ["normal", "ties", "impossible"])
def test_leaving_out_classes_that_cannot_matter_keeps_every_bit(kind, width):
    rng = np.random.default_rng(width)
    for blank in (0, 4, 29):
        scores = ctc_scores(25, 30, seed=blank)
        if kind == "ties":
            scores = rng.integers(0, 2, (25, 30)).astype(float)
        if kind == "impossible":
            scores[rng.random((25, 30)) < 0.8] = -np.inf
            scores[np.arange(25), rng.integers(0, 30, 25)] = 0
        found = ctc_beam(scores, beam_width=width, blank=blank)
        expected = ctc_beam(scores, beam_width=width, blank=blank, max_classes=29)
        assert [(labels.tolist(), score) for labels, score in found] == [(ls.tolist(), score) for ls, score in expected]


def test_the_candidates_of_a_step_do_not_depend_on_the_number_of_classes(monkeypatch):
    sizes, largest = [], ctc_decoding.largest

    def recorded(values, most):
        sizes.append(len(values))
        return largest(values, most)

    monkeypatch.setattr(ctc_decoding, "largest", recorded)
    ctc_beam(ctc_scores(6, 5000), beam_width=4)
    assert sorted(set(sizes) - {5000}) == [1 + 5, 4 + 4 * 5]  # one prefix, then four, with five classes each


@pytest.mark.parametrize("offset", [1e3, -1e3])
def test_an_offset_of_a_step_changes_no_result_of_ctc_beam(offset):
    scores = np.random.default_rng(0).normal(size=(6, 4))
    shifted = scores.copy()
    shifted[2] += offset
    for (labels, score), (expected, of_expected) in zip(ctc_beam(shifted), ctc_beam(scores), strict=True):
        assert labels.tolist() == expected.tolist()
        assert score == pytest.approx(of_expected, abs=1e-9)


def test_max_classes_keeps_the_likeliest_of_a_step_for_the_language_model():
    scores, calls = ctc_scores(6, 40, seed=5), set()

    def weight(prefix, label):
        calls.add((prefix, label))
        return 0.1 * label

    found = ctc_beam(scores, beam_width=5, max_classes=3, language_model=weight)
    likeliest = {int(label) for step in scores for label in 1 + np.argsort(-step[1:])[:3]}
    assert {label for _, label in calls} <= likeliest
    assert {label for labels, _ in found for label in labels.tolist()} <= likeliest
    assert len(calls) <= 3 * 5 * 6
    # by hand: at the only step, 2 and 3 are likelier than 1, which the language model favours
    scores = np.log([[0.1, 0.2, 0.4, 0.3]])
    found = ctc_beam(scores, max_classes=2, language_model=lambda prefix, label: 10.0 if label == 1 else 0.0)
    assert [labels.tolist() for labels, _ in found] == [[2], [3], []]
    assert np.exp([score for _, score in found]) == pytest.approx([0.4, 0.3, 0.1])


def test_a_language_model_is_called_once_per_pair_and_its_values_take_linear_memory():
    def peak(steps):
        calls = []

        def weight(prefix, label):
            calls.append(hash((prefix, label)))
            return -0.5

        scores = ctc_scores(steps, 12, seed=6)
        tracemalloc.start()
        try:
            ctc_beam(scores, beam_width=6, language_model=weight)
            held = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(calls) == len(set(calls))
        return held - sys.getsizeof(calls) - 36 * len(calls)

    short, long = peak(150), peak(600)
    assert long < 5 * short  # with prefixes held as tuples it is more than ten times as much


def test_greedy_follows_the_likeliest_alignment():
    path = [0, 1, 1, 0, 1, 2, 2, 0, 0, 3]
    assert ctc_greedy(np.eye(4)[path]).tolist() == [1, 1, 2, 3]
    assert ctc_greedy(np.eye(4)[path], blank=1).tolist() == [0, 0, 2, 0, 3]
    assert ctc_greedy(np.eye(4)[path], 5).tolist() == [1, 1]
    assert ctc_greedy(np.eye(4)[path], 0).tolist() == []
    assert ctc_greedy(np.eye(4)[path]).dtype == np.intp
    # the likeliest alignment does not give the likeliest labels: three alignments give 1, one gives none
    scores = np.log([[0.6, 0.4], [0.6, 0.4]])
    assert ctc_greedy(scores).tolist() == []
    labels, score = ctc_beam(scores)[0]
    assert labels.tolist() == [1]
    assert np.exp(score) == pytest.approx(0.64)


@pytest.mark.parametrize("batch_first", [False, True])
def test_rows_of_a_batch_are_decoded_independently_up_to_their_lengths(batch_first):
    scores, lengths = ctc_scores(7, 4, 5, seed=4), np.array([7, 0, 3, 5], np.uint8)
    alone = [scores[:length, row].copy() for row, length in enumerate(lengths)]
    for row, length in enumerate(lengths):
        scores[length:, row] = np.nan
    given = scores.swapaxes(0, 1) if batch_first else scores
    greedy = ctc_greedy(given, lengths, batch_first=batch_first)
    beams = ctc_beam(given, lengths, beam_width=6, batch_first=batch_first)
    for row, own in enumerate(alone):
        assert greedy[row].tolist() == ctc_greedy(own).tolist()
        assert [(*labels, score) for labels, score in beams[row]] == [
            (*labels, score) for labels, score in ctc_beam(own, beam_width=6)
        ]
    assert beams[1] == [(pytest.approx([]), 0.0)]


@pytest.mark.parametrize("decode", [ctc_greedy, ctc_beam])
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.zeros(3),), {}, ValueError, r"scores: expected shape \(T, B, V\) or \(T, V\), got \(3,\)"),
        ((np.zeros(3),), {"batch_first": True}, ValueError, r"scores: expected shape \(B, T, V\) or"),
        ((np.zeros((3, 2), complex),), {}, TypeError, "scores: expected real numbers"),
        (([[0.0, np.nan]],), {}, ValueError, "scores: expected no NaN, got some in row 0"),
        ((np.zeros((3, 0)),), {}, ValueError, "blank: expected one of the classes"),
        ((np.zeros((3, 2)), None), {"blank": 2}, ValueError, "blank: expected one of the classes 0 to 1, got 2"),
        ((np.zeros((3, 2)), 4), {}, ValueError, "lengths: expected 0 to T = 3, got 4"),
        ((np.zeros((3, 2, 2)), [1, 4]), {}, ValueError, "lengths: expected 0 to T = 3, got 4 at row 1"),
        ((np.zeros((3, 2, 2)), [1]), {}, ValueError, r"lengths: expected shape \(B,\) = \(2,\)"),
        ((np.zeros((3, 2, 2)), [1.0, 1.0]), {}, TypeError, "lengths: expected integers"),
        ((np.zeros((3, 2, 2)),), {"batch_first": 1}, TypeError, "batch_first: expected True or False"),
    ],
)
def test_ctc_decoding_refuses(decode, arguments, options, error, message):
    with pytest.raises(error, match=message):
        decode(*arguments, **options)


@pytest.mark.parametrize(
    ("scores", "options", "error", "message"),
    [
        ([[0.0, np.inf]], {}, ValueError, "scores: expected numbers or -inf with a finite largest one at each step"),
        ([[0.0, 0.0], [-np.inf] * 2], {}, ValueError, "scores: expected numbers or -inf .* got none in row 0"),
        ([[0.0, 0.0]], {"beam_width": 0}, ValueError, "beam_width: expected at least 1"),
        ([[0.0, 0.0]], {"beam_width": 2.0}, TypeError, "beam_width: expected an integer"),
        ([[0.0, 0.0]], {"max_classes": 0}, ValueError, "max_classes: expected at least 1"),
        ([[0.0, 0.0]], {"max_classes": 1.5}, TypeError, "max_classes: expected an integer"),
        ([[0.0, 0.0]], {"language_model": 3}, TypeError, "language_model: expected a callable"),
        ([[0.0, 0.0]], {"language_model": lambda *_: "x"}, TypeError, "language_model: expected a number, got 'x'"),
        ([[0.0, 0.0]], {"language_model": lambda *_: 1j}, TypeError, "language_model: expected a number, got 1j"),
        ([[0.0, 0.0]], {"language_model": lambda *_: np.zeros(2)}, TypeError, "language_model: expected a number"),
        (
            [[0.0, 0.0]],
            {"language_model": lambda *_: np.inf},
            ValueError,
            r"language_model: .* in \[-inf, inf\), got inf",
        ),
        (
            [[0.0, 0.0, 0.0]],
            {"language_model": lambda prefix, label: np.inf if label == 2 else -1.0},
            ValueError,
            r"language_model: .* in \[-inf, inf\), got inf",
        ),
        ([[0.0, 0.0]], {"language_model": lambda *_: 10**400}, ValueError, "language_model: expected a number that"),
        (np.zeros((4, 3)), {"language_model": lambda *_: 1.7e308}, ValueError, "language_model: .* beyond float64"),
        ([[0.0, 0.0]], {"language_model": lambda *_: np.nan}, ValueError, "language_model: expected a number"),
        ([[0.0, 0.0]], {"language_model": lambda *_: None}, TypeError, "language_model: expected a number"),
    ],
)
def test_ctc_beam_refuses(scores, options, error, message):
    with pytest.raises(error, match=message):
        ctc_beam(scores, **options)
