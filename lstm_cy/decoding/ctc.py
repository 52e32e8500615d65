"""The labels of CTC scores: of the likeliest alignment, and the likeliest by prefix beam search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_lengths, flag, float_array, non_negative_int, number, positive_int, real_array, shown
from ..layers.activations import log_softmax
from .beam import largest

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..typing import Array, ArrayLike, Ints

    _LanguageModel = Callable[[tuple[int, ...], int], float]


def ctc_greedy(
    scores: ArrayLike, lengths: ArrayLike | None = None, blank: int = 0, *, batch_first: bool = False
) -> Any:
    """Return the labels of the likeliest class at each step, with repetitions merged and then blanks removed.

    This is the likeliest alignment. Its labels need not be the likeliest ones: `ctc_beam` sums over alignments.

    Parameters
    ----------
    scores : array_like (T, B, V), (B, T, V) with `batch_first`, or (T, V)
        Scores of V classes, before or after a softmax, in the layout of `lstm_cy.ctc`. Not changed.
    lengths : array_like of integers, (B,), or an integer for one sequence, optional
        Steps at and past a row's length are not read.
    blank : int
        The class that stands for no label, 0 to V - 1.
    batch_first : bool
        The first axis is the rows, the second the steps.

    Returns
    -------
    list of B ndarrays of intp (S_b,), or one for one sequence
        The labels of each row.

    Raises
    ------
    TypeError, ValueError
        The scores are not real numbers, or are NaN within a row's length; a shape does not fit; a length or the blank
        is out of range.

    Notes
    -----
    Best path decoding of A. Graves et al., Connectionist temporal classification: labelling unsegmented sequence data
    with recurrent neural networks, 2006, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> ctc_greedy(np.eye(3)[[1, 1, 0, 1, 2, 2]])
    array([1, 1, 2])
    """
    rows, single = _scores_of_rows(scores, lengths, blank, batch_first)
    decoded = [_without_repetitions(row.argmax(axis=1), blank) for row in rows]
    return decoded[0] if single else decoded


def ctc_beam(
    scores: ArrayLike,
    lengths: ArrayLike | None = None,
    beam_width: int = 16,
    blank: int = 0,
    *,
    batch_first: bool = False,
    language_model: _LanguageModel | None = None,
    max_classes: int | None = None,
) -> Any:
    """Return the likeliest labels, summed over their alignments, by prefix beam search.

    Parameters
    ----------
    scores, lengths :
        As for `ctc_greedy`; the scores are logits, or logarithms of the results of a softmax.
    beam_width : int
        The number of prefixes followed at a time. A prefix that is dropped, but would become likely later, is missed.
    blank, batch_first :
        As for `ctc_greedy`.
    language_model : callable, optional
        ``language_model(prefix, label) -> float``, the logarithm of a weight, is added to the score when `label`, an
        int, is appended to `prefix`, a tuple of ints; -inf excludes the label there, as a lexicon does. It is called at
        most once for each such pair of a row.
    max_classes : int, optional
        The number of a step's likeliest classes, without the blank, that may extend a prefix. None: as many as can
        matter. Without a language model these are the `beam_width` + 1 likeliest, with the same result as for all
        classes. With one, which may favour any class, they are all classes: it is called for every label after every
        prefix, and a vocabulary of thousands of word pieces needs a limit of some tens.

    Returns
    -------
    list of B lists of (labels, score), or one such list for one sequence
        At most `beam_width`, the best first. labels is an ndarray of intp (S,); score is the logarithm of the
        probability of all their alignments that were followed, plus the sum of the language model's values. Empty if
        -inf in the scores and from the language model excludes all labels.

    Raises
    ------
    TypeError, ValueError
        As for `ctc_greedy`; scores of +inf, or of only -inf in a step; `beam_width` or `max_classes` is not a positive
        integer; the language model is not a callable, or a value it returns, or their sum, is not a number below +inf.

    Notes
    -----
    A. Graves and N. Jaitly, Towards end-to-end speech recognition with recurrent neural networks, 2014, algorithm 1.
    The alignments of a prefix that end in a blank are summed separately from those that end in its last label: if the
    next class is this label again, it is a new label after a blank, but a repetition otherwise. The time for a row is
    proportional to its steps.

    Examples
    --------
    The blank is the likelier class at each step, but only one of four alignments gives no label:

    >>> import numpy as np
    >>> scores = np.log([[0.6, 0.4], [0.6, 0.4]])
    >>> ctc_greedy(scores).tolist()
    []
    >>> labels, score = ctc_beam(scores)[0]
    >>> labels.tolist(), round(float(np.exp(score)), 4)
    ([1], 0.64)
    """
    rows, single = _scores_of_rows(scores, lengths, blank, batch_first)
    beam_width = positive_int("beam_width", beam_width)
    if language_model is not None and not callable(language_model):
        raise TypeError(f"language_model: expected a callable, got {shown(language_model)}")
    most = None if max_classes is None else positive_int("max_classes", max_classes)
    rows = [_normalized_scores(row, index) for index, row in enumerate(rows)]
    decoded = [_prefix_search(row, beam_width, blank, most, language_model) for row in rows]
    return decoded[0] if single else decoded


def _scores_of_rows(
    scores: ArrayLike, lengths: ArrayLike | None, blank: int, batch_first: bool
) -> tuple[list[Array], bool]:
    """Return the checked scores of each row, (T_b, V), and whether they were passed as one sequence."""
    scores, batch_first = real_array("scores", scores), flag("batch_first", batch_first)
    if scores.ndim not in (2, 3):
        raise ValueError(
            f"scores: expected shape {'(B, T, V)' if batch_first else '(T, B, V)'} or (T, V), got {scores.shape}"
        )
    if non_negative_int("blank", blank) >= scores.shape[-1]:
        raise ValueError(f"blank: expected one of the classes 0 to {scores.shape[-1] - 1}, got {blank}")
    single = scores.ndim == 2
    batch = scores[np.newaxis] if single else scores if batch_first else scores.swapaxes(0, 1)
    rows = list(batch)
    if lengths is not None:
        lengths = check_lengths(lengths, None if single else len(rows), batch.shape[1])
        rows = [row[:length] for row, length in zip(rows, lengths.reshape(-1), strict=True)]
    for index, row in enumerate(rows):
        if np.isnan(row).any():
            raise ValueError(f"scores: expected no NaN, got some in row {index}")
    return rows, single


def _without_repetitions(classes: Ints, blank: int) -> Ints:
    kept = classes != blank
    kept[1:] &= classes[1:] != classes[:-1]
    result: Ints = classes[kept]
    return result


def _normalized_scores(scores: Array, index: int) -> Array:
    """Return the log-probabilities of a row's scores (T, V)."""
    scores = np.array(float_array("scores", scores, np.float64))
    highest = scores.max(axis=1, keepdims=True)
    if not np.isfinite(highest).all():
        raise ValueError(
            f"scores: expected numbers or -inf with a finite largest one at each step, got none in row {index}"
        )
    with np.errstate(over="ignore"):  # a score too far below the highest becomes -inf
        return log_softmax(scores)


def _prefix_search(
    scores: Array, width: int, blank: int, most: int | None, language_model: _LanguageModel | None
) -> list[tuple[Ints, float]]:
    """Return [(labels, score)], the best first, from the log-probabilities (T, V) of one row."""
    search = _Search(width, blank, most, language_model)
    search.feed(scores)
    return search.best()


class _Search:
    """The state of a prefix beam search between two steps."""

    def __init__(self, width: int, blank: int, most: int | None, language_model: _LanguageModel | None) -> None:
        self.width, self.blank, self.most, self.language_model = width, blank, most, language_model
        self.prefixes = _Prefixes(blank)
        self.weights: _Weights | None = None
        # For each prefix, the log-probabilities of its alignments that end in a blank, and that end in its last label.
        self.beam, self.in_blank, self.in_label = [0], np.zeros(1), np.full(1, -np.inf)

    def feed(self, scores: Array) -> None:
        """Search on with the log-probabilities (T, V) of more steps."""
        # `width` + 1 classes are enough without a language model. A class appended to a prefix that ends in another
        # label scores the prefix's score plus the class's log-probability; appended to a prefix that ends in this
        # class, less. Let v be a class that is not among the `width` + 1 likeliest. At least `width` of these differ
        # from the prefix's last label, and appended to the same prefix score at least as much as v. If one of them is
        # merged into a prefix that is already in the beam, that prefix scores at least as much too, because merging
        # only increases its score. Rounding keeps this order, and of equal scores `largest` takes prefixes that stay
        # and likelier classes first. Therefore v cannot be one of the `width` best.
        classes = scores.shape[1]
        if self.language_model is not None and self.weights is None:
            self.weights = _Weights(self.language_model, self.prefixes, classes)
        most = self.most
        if most is None:
            most = self.width + 1 if self.language_model is None else classes
        for step in scores:
            if not self.beam:
                return
            self._step(step, _likeliest_classes(step, self.blank, most))

    def _step(self, step: Array, classes: Ints) -> None:
        """Extend the prefixes by a blank, by a repetition, and by each of `classes`; keep the best."""
        prefixes, beam, weights = self.prefixes, self.beam, self.weights
        in_blank, in_label = self.in_blank, self.in_label
        last = prefixes.last_labels(beam)
        either = np.logaddexp(in_blank, in_label)
        longer = (
            np.where(last[:, np.newaxis] == classes, in_blank[:, np.newaxis], either[:, np.newaxis]) + step[classes]
        )
        # If the extended prefix is already in the beam, the extension is added to it.
        own, parent = prefixes.followed(beam)
        joining = np.where(last[own] == last[parent], in_blank[parent], either[parent]) + step[last[own]]
        if weights is not None:
            longer = _weighed(longer, weights.after(beam, classes))
            joining = _weighed(joining, weights.known([beam[i] for i in parent], last[own]))
        in_blank, in_label = either + step[self.blank], in_label + step[last]
        in_label[own] = np.logaddexp(in_label[own], joining)
        pair, column = np.nonzero(last[own][:, np.newaxis] == classes)
        longer[parent[pair], column] = -np.inf

        sums = np.concatenate([np.logaddexp(in_blank, in_label), longer.ravel()])
        best = largest(sums, self.width)
        stays = best < len(beam)
        self.in_blank = np.where(stays, in_blank.take(best, mode="clip"), -np.inf)
        self.in_label = np.where(stays, in_label.take(best, mode="clip"), sums[best])
        self.beam = prefixes.grown(beam, classes, best)

    def best(self) -> list[tuple[Ints, float]]:
        """Return [(labels, score)], the best first."""
        sums = np.logaddexp(self.in_blank, self.in_label)
        return [(self.prefixes.labels(number), float(score)) for number, score in zip(self.beam, sums, strict=False)]


class CTCDecoder:
    """Decoding of one sequence of CTC scores that arrives in chunks: the labels are those of all scores at once.

    Parameters
    ----------
    beam_width : int, optional
        None: the likeliest class at each step, as `ctc_greedy`; else the beam search of `ctc_beam` with this width.
    blank : int
    language_model, max_classes :
        As for `ctc_beam`; they need a `beam_width`.

    Raises
    ------
    TypeError, ValueError
        As `ctc_beam`.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import CTCDecoder
    >>> scores = np.eye(3)[[1, 1, 0, 1, 2, 2]]
    >>> decoder = CTCDecoder()
    >>> decoder.feed(scores[:3]), decoder.feed(scores[3:5]), decoder.feed(scores[5:])
    (array([1]), array([1, 2]), array([], dtype=int64))
    >>> decoder.labels
    array([1, 1, 2])
    """

    def __init__(
        self,
        beam_width: int | None = None,
        blank: int = 0,
        *,
        language_model: _LanguageModel | None = None,
        max_classes: int | None = None,
    ) -> None:
        self._width = None if beam_width is None else positive_int("beam_width", beam_width)
        self._blank = non_negative_int("blank", blank)
        if language_model is not None and not callable(language_model):
            raise TypeError(f"language_model: expected a callable, got {shown(language_model)}")
        self._most = None if max_classes is None else positive_int("max_classes", max_classes)
        if self._width is None and (language_model is not None or max_classes is not None):
            raise ValueError("beam_width: expected a number together with language_model or max_classes, got None")
        self._language_model = language_model
        self.reset()

    def reset(self) -> None:
        """Begin a new sequence."""
        self._classes: int | None = None
        self._last, self._found = self._blank, np.empty(0, np.intp)
        self._search = (
            None if self._width is None else _Search(self._width, self._blank, self._most, self._language_model)
        )

    def feed(self, scores: ArrayLike) -> Any:
        """Decode the scores of more steps.

        Parameters
        ----------
        scores : array_like (T, V)
            As for `ctc_greedy` or `ctc_beam`; T may be 0, V is that of the first chunk.

        Returns
        -------
        ndarray of intp, or list of (labels, score)
            Without a beam the labels that this chunk adds. With one what `ctc_beam` returns for all chunks so far; a
            later chunk may change it.

        Raises
        ------
        TypeError, ValueError
            As `ctc_greedy` or `ctc_beam`, or V differs. Then the decoder is as before.
        """
        scores = real_array("scores", scores)
        if scores.ndim != 2 or scores.shape[1] != (self._classes or scores.shape[1]):
            raise ValueError(f"scores: expected shape (T, {self._classes or 'V'}), got {scores.shape}")
        (row,), _ = _scores_of_rows(scores, None, self._blank, False)
        if self._search is not None:
            normalized = _normalized_scores(row, 0) if len(row) else np.empty(row.shape)
            self._classes = row.shape[1]
            self._search.feed(normalized)
            return self._search.best()
        self._classes = row.shape[1]
        # A step before the chunk with the class of the last one, so that its repetition is removed.
        classes = np.concatenate([[self._last], row.argmax(axis=1)]).astype(np.intp)
        kept = classes != self._blank
        kept[1:] &= classes[1:] != classes[:-1]
        new: Ints = classes[1:][kept[1:]]
        self._last, self._found = int(classes[-1]), np.concatenate([self._found, new])
        return new

    @property
    def labels(self) -> Ints:
        """The labels of all chunks so far; with a beam the likeliest, none if all are excluded."""
        if self._search is None:
            return self._found.copy()
        best = self._search.best()
        return best[0][0] if best else np.empty(0, np.intp)


def _checked_weights(values: list[Any]) -> Array:
    """Return the checked values of a language model, numbers below infinity, as an array."""
    if set(map(type, values)) == {float}:  # the usual case, checked all at once
        weights = np.array(values)
        if (weights < np.inf).all():
            return weights
    return np.array([number("language_model", value, open_high=True) for value in values])


def _likeliest_classes(step: Array, blank: int, most: int) -> Ints:
    """Return the `most` likeliest classes of a step without the blank, the likeliest first."""
    scores = step.copy()
    scores[blank] = -np.inf
    return largest(scores, most)


def _weighed(scores: Array, weights: Array) -> Array:
    """Return the scores plus the weights of a language model."""
    with np.errstate(over="ignore"):
        sums = scores + weights
    if (sums == np.inf).any():
        raise ValueError("language_model: expected numbers that add up to a finite one, got a sum beyond float64")
    return sums


class _Prefixes:
    """The prefixes of a row as a tree: each has a number, a last label, and the number of its parent prefix.

    A prefix is identified by its number, so that its labels are neither copied nor compared.
    """

    def __init__(self, blank: int) -> None:
        self.parents, self.last = [-1], [blank]  # number 0 is the empty prefix, which ends in no label
        self._numbers: dict[tuple[int, int], int] = {}

    def last_labels(self, beam: list[int]) -> Ints:
        return np.array([self.last[number] for number in beam], np.intp)

    def followed(self, beam: list[int]) -> tuple[Ints, Ints]:
        """Return the beam indices of the prefixes whose parents are in the beam, and the indices of these parents."""
        indices = {number: i for i, number in enumerate(beam)}
        pairs = [(i, indices.get(self.parents[number], -1)) for number, i in indices.items()]
        own, parent = np.array([pair for pair in pairs if pair[1] >= 0], np.intp).reshape(-1, 2).T
        return own, parent

    def grown(self, beam: list[int], classes: Ints, best: Ints) -> list[int]:
        """Return the next beam. `best` are indices in this beam, followed by its extensions, (beam, classes)."""
        labels, result = classes.tolist(), []
        for index in best.tolist():
            if index < len(beam):
                result.append(beam[index])
            else:
                parent, column = divmod(index - len(beam), len(labels))
                result.append(self._longer(beam[parent], labels[column]))
        return result

    def _longer(self, parent: int, label: int) -> int:
        number = self._numbers.setdefault((parent, label), len(self.parents))
        if number == len(self.parents):
            self.parents.append(parent)
            self.last.append(label)
        return number

    def labels(self, number: int) -> Ints:
        """Return all labels of a prefix."""
        labels = []
        while number:
            labels.append(self.last[number])
            number = self.parents[number]
        return np.array(labels[::-1], np.intp)


class _Weights:
    """The values of a language model for labels after prefixes; it is called at most once for each pair."""

    def __init__(self, language_model: _LanguageModel, prefixes: _Prefixes, classes: int) -> None:
        self._language_model, self._prefixes, self._classes = language_model, prefixes, classes
        # For each prefix its labels, and the weights of all classes after it, NaN where not yet computed.
        self._known: dict[int, tuple[tuple[int, ...], Array]] = {}
        self._most = 64

    def after(self, beam: list[int], classes: Ints) -> Array:
        """Return the weights of `classes` after each prefix of a beam, (beam, classes)."""
        table = np.stack([self._row(prefix, classes) for prefix in beam])
        if len(self._known) > self._most:
            self._drop_unreachable(beam)
        return table

    def known(self, beam: list[int], labels: Ints) -> Array:
        """Return the weight of a label after each prefix; the weight must have been computed before."""
        return np.array([self._known[number][1][label] for number, label in zip(beam, labels, strict=True)])

    def _row(self, prefix: int, classes: Ints) -> Array:
        if prefix not in self._known:
            parent = self._prefixes.parents[prefix]
            labels = (*self._known[parent][0], self._prefixes.last[prefix]) if prefix else ()
            self._known[prefix] = labels, np.full(self._classes, np.nan)
        labels, weights = self._known[prefix]
        new = classes[np.isnan(weights[classes])]
        if len(new):
            weights[new] = _checked_weights([self._language_model(labels, label) for label in new.tolist()])
        return weights[classes]

    def _drop_unreachable(self, beam: list[int]) -> None:
        """Drop the prefixes that cannot return to the beam: neither they nor any of their ancestors is in it."""
        reachable = set(beam)
        for prefix in sorted(self._known):  # a prefix has a higher number than its ancestors
            if self._prefixes.parents[prefix] in reachable:
                reachable.add(prefix)
        self._known = {prefix: known for prefix, known in self._known.items() if prefix in reachable}
        self._most = max(64, 2 * len(self._known))
