"""The model: log-mel energies to spoken words, with an LSTM and CTC."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lstm_cy import LSTM, Linear, Sequential, ctc_beam, pad

from .audio import INPUTS, SHORTEST, STEP, RunningMean, disturbed, features, log_mel, read_wav, varied


def build(words, hidden, streaming, seed=0):
    """Return two bidirectional layers, or forward ones for streaming, and a Linear to scores of the blank and words."""
    lstm = LSTM(INPUTS, hidden, 2, bidirectional=not streaming, dropout=0.2, seed=seed)
    return Sequential(lstm, Linear(lstm.output_size, 1 + words, seed=seed + 1))


def batches(spoken, paths, words, streaming, batch_size, seed):
    """Return a callable for `lstm_cy.fit` that yields an epoch's batches, of rows with similar lengths.

    Each epoch varies the sounds, as if there were many more voices, and adds other noise. The first epoch goes from the
    shortest sentences to the longest, which makes the beginning easier (D. Amodei et al., Deep Speech 2, 2016).
    """
    sizes = np.array([path.stat().st_size for path in paths])

    def of_epoch(epoch):
        rng = np.random.default_rng([seed, epoch])
        order = np.argsort(sizes * rng.uniform(0.9, 1.1, len(sizes)))
        groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        for place in rng.permutation(len(groups)) if epoch else range(len(groups)):
            group = groups[place]
            sounds = [disturbed(varied(read_wav(paths[i]), rng), rng) for i in group]
            x, lengths = pad([features(sound, streaming) for sound in sounds])
            y, _ = pad([[1 + words.index(word) for word in spoken[i].words] for i in group], batch_first=True)
            yield x, y, lengths

    return of_epoch


def ahead(of_epoch):
    """Return the same batches, each made in another thread while the previous one is used."""

    def batches_ahead(epoch):
        made = of_epoch(epoch)
        with ThreadPoolExecutor(1) as maker:
            following = maker.submit(next, made, None)
            while (batch := following.result()) is not None:
                following = maker.submit(next, made, None)
                yield batch

    return batches_ahead


def transcripts(model, sounds):
    """Return the likeliest words of each sound; the model's metadata lists the words."""
    x, lengths = pad([features(sound, model.metadata["streaming"]) for sound in sounds])
    scores, _ = model(x, lengths=lengths)
    words = model.metadata["words"]
    return [tuple(words[label - 1] for label in found[0][0]) for found in ctc_beam(scores, lengths, beam_width=8)]


def word_errors(said, heard):
    """Return the least number of words to insert, delete or replace (V. Levenshtein, 1966)."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        before, row = row, [i]
        for j, other in enumerate(heard, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != other)))
    return row[-1]


def word_error_rate(model, spoken, paths, batch_size=32, **options):
    """Return word errors / spoken words, for utterances with the noise of `disturbed` with these options."""
    rng, errors = np.random.default_rng(0), 0
    for start in range(0, len(spoken), batch_size):
        part = slice(start, start + batch_size)
        heard = transcripts(model, [disturbed(read_wav(path), rng, **options) for path in paths[part]])
        errors += sum(word_errors(one.words, other) for one, other in zip(spoken[part], heard, strict=True))
    return errors / sum(len(utterance.words) for utterance in spoken)


class Listener:
    """Recognise words in a stream of samples, as soon as the model outputs them."""

    def __init__(self, model):
        self.stepper, self.words = model.stepper(), model.metadata["words"]
        self.waiting, self.mean = np.empty(0, np.float32), RunningMean()
        self.last = 0

    def hear(self, samples):
        """Yield for each step of the model that the samples complete: the word that begins there, or None."""
        self.waiting = np.concatenate([self.waiting, samples])
        while len(self.waiting) >= SHORTEST:
            scores = self.stepper.step(self.mean.subtract(log_mel(self.waiting[:SHORTEST]))[0])
            self.waiting = self.waiting[STEP:]
            label = int(scores.argmax())
            begins = label not in (0, self.last)
            self.last = label
            yield self.words[label - 1] if begins else None
