"""CTC decoding in chunks: the same labels and scores as all at once."""

import numpy as np
import pytest

from lstm_cy import CTCDecoder, ctc_beam, ctc_greedy


def scores_of(seed, steps=40, classes=5):
    return np.random.default_rng(seed).normal(size=(steps, classes)) * 2


def chunks(scores, seed):
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(scores) + 1, 7))
    return np.split(scores, cuts)


@pytest.mark.parametrize("blank", [0, 4])
@pytest.mark.parametrize("seed", range(5))
def test_greedy_chunks_equal_the_whole(seed, blank):
    scores, decoder = scores_of(seed), CTCDecoder(blank=blank)
    added = [decoder.feed(chunk) for chunk in chunks(scores, seed)]
    expected = ctc_greedy(scores, blank=blank)
    np.testing.assert_array_equal(np.concatenate(added), expected)
    np.testing.assert_array_equal(decoder.labels, expected)
    assert decoder.labels.dtype == np.intp


@pytest.mark.parametrize("options", [{}, {"max_classes": 2}, {"language_model": lambda prefix, label: -0.3 * label}])
@pytest.mark.parametrize("seed", range(4))
def test_beam_chunks_equal_the_whole(seed, options):
    scores, decoder = scores_of(seed), CTCDecoder(6, blank=1, **options)
    so_far = 0
    for chunk in chunks(scores, seed):
        result = decoder.feed(chunk)
        so_far += len(chunk)
        expected = ctc_beam(scores[:so_far], beam_width=6, blank=1, **options)
        assert [(labels.tolist(), score) for labels, score in result] == [(a.tolist(), b) for a, b in expected]
    np.testing.assert_array_equal(decoder.labels, expected[0][0])


def test_a_beam_whose_labels_are_all_excluded_stays_empty():
    decoder = CTCDecoder(3, language_model=lambda prefix, label: -np.inf)
    never_blank = np.full((3, 3), 0.0)
    never_blank[:, 0] = -np.inf
    assert decoder.feed(never_blank) == [] == decoder.feed(np.zeros((2, 3)))
    assert decoder.labels.size == 0


@pytest.mark.parametrize("width", [None, 4])
def test_a_decoder_can_begin_again(width):
    decoder, scores = CTCDecoder(width), scores_of(0)
    decoder.feed(scores)
    labels = decoder.labels
    decoder.reset()
    assert decoder.labels.size == 0
    decoder.feed(scores)
    np.testing.assert_array_equal(decoder.labels, labels)


@pytest.mark.parametrize("width", [None, 4])
def test_refused_chunks_change_nothing(width):
    decoder, scores = CTCDecoder(width), scores_of(0)
    decoder.feed(scores[:20])
    labels = decoder.labels
    bad = scores.copy()
    bad[3, 2] = np.nan
    for chunk, error in [(scores[:, :3], ValueError), (scores[0], ValueError), (bad, ValueError), ("x", TypeError)]:
        with pytest.raises(error, match="scores"):
            decoder.feed(chunk)
    np.testing.assert_array_equal(decoder.labels, labels)
    decoder.feed(scores[20:])
    np.testing.assert_array_equal(
        decoder.labels, ctc_greedy(scores) if width is None else ctc_beam(scores, beam_width=4)[0][0]
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"beam_width": 0}, ValueError, "beam_width"),
        ({"blank": -1}, ValueError, "blank"),
        ({"max_classes": 3}, ValueError, "beam_width: expected a number together"),
        ({"beam_width": 2, "language_model": 3}, TypeError, "language_model"),
    ],
)
def test_options_refused(options, error, message):
    with pytest.raises(error, match=message):
        CTCDecoder(**options)
    with pytest.raises(ValueError, match="blank"):
        CTCDecoder(blank=9).feed(np.zeros((2, 3)))
