"""The model: log-mel energies in, the words that are said out, by an LSTM and CTC."""

import numpy as np

from lstm_cy import LSTM, Linear, Sequential, ctc_beam, pad

from .audio import INPUTS, SHORTEST, STEP, disturbed, features, read_wav
from .voices import WORDS


def build(hidden, streaming, seed=0):
    """Two layers that read both ways, or forward only for streaming; then scores of the blank and the words."""
    lstm = LSTM(INPUTS, hidden, 2, bidirectional=not streaming, dropout=0.2, seed=seed)
    return Sequential(lstm, Linear(lstm.output_size, 1 + len(WORDS), seed=seed + 1))


def batches(spoken, paths, batch_size, seed):
    """For `lstm_cy.fit`: a callable that yields an epoch's batches, noise drawn anew, rows of like lengths together."""
    sizes = np.array([path.stat().st_size for path in paths])

    def of_epoch(epoch):
        rng = np.random.default_rng([seed, epoch])
        order = np.argsort(sizes * rng.uniform(0.9, 1.1, len(sizes)))
        groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        for index in rng.permutation(len(groups)):
            yield batch([spoken[i] for i in groups[index]], [paths[i] for i in groups[index]], rng)

    return of_epoch


def batch(spoken, paths, rng, **options):
    """(x, y, lengths) of some utterances in noise."""
    x, lengths = pad([features(disturbed(read_wav(path), rng, **options)) for path in paths])
    y, _ = pad([utterance.labels for utterance in spoken], batch_first=True)
    return x, y, lengths


def transcripts(model, x, lengths=None):
    """The likeliest words of each row."""
    scores, _ = model(x, lengths=lengths)
    return [words(found[0][0]) for found in ctc_beam(scores, lengths, beam_width=8)]


def words(labels):
    return tuple(WORDS[label - 1] for label in labels)


def word_errors(said, heard):
    """The least number of words to put in, leave out or replace (V. Levenshtein, 1966)."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        before, row = row, [i]
        for j, other in enumerate(heard, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != other)))
    return row[-1]


def word_error_rate(model, spoken, paths, seed=0, batch_size=32, **options):
    """Word errors over words said, of utterances in noise."""
    rng, errors = np.random.default_rng(seed), 0
    for start in range(0, len(spoken), batch_size):
        part = slice(start, start + batch_size)
        x, _, lengths = batch(spoken[part], paths[part], rng, **options)
        heard = transcripts(model, x, lengths)
        errors += sum(word_errors(one.words, other) for one, other in zip(spoken[part], heard, strict=True))
    return errors / sum(len(utterance.words) for utterance in spoken)


class Listener:
    """Hears sound in pieces of any size, and tells words as soon as it knows them."""

    def __init__(self, model):
        self.stepper = model.stepper()
        self.waiting = np.empty(0, np.float32)
        self.last = 0

    def hear(self, samples):
        """Yield for each step of the model that the samples complete: the word that began to be told there, or None."""
        self.waiting = np.concatenate([self.waiting, samples])
        while len(self.waiting) >= SHORTEST:
            scores = self.stepper.step(features(self.waiting[:SHORTEST])[0])
            self.waiting = self.waiting[STEP:]
            label = int(scores.argmax())
            begins = label not in (0, self.last)
            self.last = label
            yield WORDS[label - 1] if begins else None
