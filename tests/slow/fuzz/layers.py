"""Random layers, compared with lstm_cy.reference and with themselves.

    python tests/slow/fuzz/layers.py FOUND --count 10000

Each case makes an LSTM with random options, sizes, weights and input. Its result must equal the reference. With
engine packed it must be bit-identical for the whole sequence, in chunks, step by step, for each row alone, on more
threads, and with NaN in values that must not be read. Gradients must be bit-identical on more threads.
"""

import sys
from pathlib import Path

import numpy as np
from runner import Cases, Finding, main

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import itertools

from common import TOLERANCE, bits, every_gradient, largest_error, reference_lstm

from lstm_cy import LSTM, config
from lstm_cy.layers.activations import DEFAULTS

#: unbounded functions amplify rounding, so layers with them are only compared with themselves
UNBOUNDED = {"affine", "relu", "leakyrelu", "elu", "softplus", "thresholdedrelu", "scaledtanh"}


class Layers(Cases):
    seconds, bytes = 60.0, 4_000_000_000
    label = text = ""

    def run(self, rng, index):
        engine, isa = rng.choice(("packed", "packed", "blas")), rng.choice(config.available_instruction_sets())
        options = draw(rng)
        self.text = f"LSTM(**{options}), engine {engine}, isa {isa}"
        with config.using(engine=engine, isa=isa):
            lstm = LSTM(**options)
        scale = rng.choice((0.5, 1.0, 2.0, 8.0))
        numbers = np.random.default_rng(index)
        lstm.load_state_dict(
            {n: scale * numbers.uniform(-1, 1, a.shape) / np.sqrt(lstm.hidden_size) for n, a in lstm.parameters.items()}
        )
        case = Case(lstm, numbers, rng, T=rng.choice((0, 1, 2, 5, 13, 40)), B=rng.choice((0, 1, 1, 2, 3, 7, 17)))
        self.text += f", T {case.T}, B {case.B}, {sorted(case.keywords)}"
        got = flat(lstm(case.x, case.state, **case.keywords))
        self.label = engine
        if scale < 8 and case.bounded and case.T * case.B < 200:
            self.same_as_reference(case, got)
        if engine == "packed":
            case.check_bits(got)
        case.check_threads(got)
        return f"{engine}, {'reference' if case.bounded else 'bits'}"

    def same_as_reference(self, case, got):
        expected = reference_lstm(case.lstm, case.x, case.state, **case.keywords)
        worst = max(largest_error(array, right) for array, right in zip(got, expected, strict=True))
        if not worst <= 200 * TOLERANCE[case.lstm.dtype.name]:
            raise Finding("differs from the reference", f"by {worst:.3g}: {self.text}")

    def keep(self, folder, name):
        return self.text


def draw(rng):
    """Return random options of an LSTM."""
    sizes = (1, 2, 3, 5, 8, 15, 16, 17, 33, 64, 70)
    options = {
        "input_size": rng.choice(sizes),
        "hidden_size": rng.choice(sizes),
        "num_layers": rng.choice((1, 1, 1, 2, 3)),
    }
    for name in ("bias", "batch_first", "bidirectional"):
        options[name] = rng.random() < 0.5
    options["reverse"] = not options["bidirectional"] and rng.random() < 0.2
    options["dtype"] = rng.choice(("float32", "float64"))
    options["seed"] = rng.randrange(1000)
    if rng.random() < 0.6:
        options["peepholes"], options["layer_norm"] = rng.random() < 0.4, rng.random() < 0.3
        options["coupled_gates"] = rng.choice((None, None, "f=1-i", "i=1-f"))
        for name in ("clip", "cell_clip"):
            options[name] = rng.choice((None, None, 0.3, 2.0))
        if rng.random() < 0.4:
            options["proj_size"] = rng.choice([p for p in (1, 2, 7, 16, 31) if p < options["hidden_size"]] or [0])
            options["proj_clip"] = rng.choice((None, 0.2)) if options["proj_size"] else None
        if rng.random() < 0.5:
            options["activations"] = tuple(rng.choice(list(DEFAULTS)) for _ in range(3))
    return options


class Case:
    """A layer with an input, a state and the keywords of its call."""

    def __init__(self, lstm, numbers, rng, T, B):
        self.lstm, self.rng, self.T, self.B = lstm, rng, T, B
        self.x = numbers.standard_normal((T, B, lstm.input_size)).astype(lstm.dtype)
        layers = lstm.num_layers * lstm.num_directions
        widths = lstm.proj_size or lstm.hidden_size, lstm.hidden_size
        self.state = tuple(numbers.standard_normal((layers, B, width)).astype(lstm.dtype) for width in widths)
        self.forwards = not lstm.bidirectional and not lstm.reverse
        self.keywords, kind = {}, rng.randrange(4)
        if kind == 1:
            self.keywords["lengths"] = numbers.integers(0, T + 1, B)
        elif kind == 2:
            self.keywords["mask"] = numbers.random((T, B)) < 0.7
        if self.forwards and rng.random() < 0.3:
            self.keywords["reset"] = numbers.random((T, B)) < 0.2
        names = {
            entry[0].lower() if isinstance(entry, tuple) else entry.lower()
            for triple in lstm.activations
            for entry in triple
        }
        self.bounded = not names & UNBOUNDED
        if lstm.batch_first:
            self.x, self.keywords = (
                self.x.swapaxes(0, 1),
                {n: k if n == "lengths" else k.T for n, k in self.keywords.items()},
            )
        self.axis = 1 if lstm.batch_first else 0

    def steps(self, begin, end):
        """Return x and the keywords from step `begin` to `end`."""
        cut = (slice(None),) * self.axis + (slice(begin, end),)
        keywords = {
            n: np.clip(k - begin, 0, end - begin) if n == "lengths" else k[cut] for n, k in self.keywords.items()
        }
        return self.x[cut], keywords

    def rows(self, rows):
        cut = (slice(None),) * (1 - self.axis) + (rows,)
        keywords = {n: k[rows] if n == "lengths" else k[cut] for n, k in self.keywords.items()}
        return self.x[cut], tuple(part[:, rows] for part in self.state), keywords

    def check_bits(self, got):
        call = self.lstm.__call__
        for row in range(min(self.B, 3)):
            x, state, keywords = self.rows(slice(row, row + 1))
            alone = flat(call(x, state, **keywords))
            self.expect(
                "alone", alone, [got[0].take([row], 1 - self.axis), *(part[:, row : row + 1] for part in got[1:])]
            )
        if self.forwards and self.T > 1:
            self.check_chunks(got, [self.rng.randrange(1, self.T)])
            self.check_chunks(got, range(1, self.T))
        self.check_unread(got)

    def check_chunks(self, got, bounds):
        state, parts, ends = self.state, [], [0, *bounds, self.T]
        for begin, end in itertools.pairwise(ends):
            x, keywords = self.steps(begin, end)
            y, state = self.lstm(x, state, **keywords)
            parts.append(y)
        self.expect(f"in {len(parts)} chunks", [np.concatenate(parts, self.axis), *state], got)

    def check_unread(self, got):
        """Check that NaN after the lengths, or at masked steps, does not change the result."""
        x, steps_first = self.x.copy(), None
        view = x.swapaxes(0, 1) if self.axis else x
        if "lengths" in self.keywords:
            steps_first = np.arange(self.T)[:, np.newaxis] >= self.keywords["lengths"]
        elif "mask" in self.keywords:
            steps_first = ~(self.keywords["mask"].T if self.axis else self.keywords["mask"])
        if steps_first is not None:
            view[steps_first] = np.nan
            self.expect("with NaN in padding", flat(self.lstm(x, self.state, **self.keywords)), got)

    def check_threads(self, got):
        threads = self.rng.choice((2, 3, 5))
        if self.lstm.parameters["weight_hh_l0"].size and self.T:
            again = flat(self.lstm(self.x, self.state, **self.keywords, threads=threads))
            self.expect(f"on {threads} threads", again, got)
            gradients = [self.gradients(number) for number in (1, threads)]
            self.expect(f"gradients on {threads} threads", *([*every_gradient(g).values()] for g in gradients))

    def gradients(self, threads):
        y, state, tape = self.lstm.forward(self.x, self.state, **self.keywords, threads=threads, rng=0)
        return self.lstm.backward(tape, np.ones_like(y), state)

    def expect(self, what, got, right):
        if bits(*got) != bits(*right):
            worst = max(largest_error(a, b) for a, b in zip(got, right, strict=True))
            raise Finding(f"other bits {what.split(' on ')[0].strip('0123456789 ')}", f"{what}: {worst:.3g}")


def flat(result):
    y, (h, c) = result
    return y, h, c


if __name__ == "__main__":
    main(Layers, __doc__)
