"""Measure tokens per second of a language model that generates text: a Stepper and PyTorch's step loops.

    python benchmarks/generation.py                 # new weights: 100 tokens, embedding 64, 2 LSTM layers of 256
    python benchmarks/generation.py model.npz       # a model of `lstm-cy train`

All have the same weights and take turns on one thread. "steps" reads an existing text; "writing" reads the tokens that
it draws, by the same function and from the same seed. Logits or a text that differ from PyTorch's are an error, and
nothing is timed.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

if not __package__:  # run as a file: for the whole process, and before NumPy is loaded
    os.environ.update(OPENBLAS_NUM_THREADS="1", LSTM_CY_NUM_THREADS="1")
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.common import medians
from lstm_cy import LSTM, Dropout, Embedding, Linear, Sequential, load
from lstm_cy.decoding import sample

#: largest difference between two logits, as a share of the largest logit
TOLERANCE = 1e-4


class Ours:
    """A Stepper."""

    title = "lstm_cy Stepper"

    def __init__(self, model):
        self.stepper = model.stepper()
        self.start, self.step = self.stepper.reset, self.stepper.step


class Torch:
    """The base of PyTorch's writers: the layers, with the model's weights."""

    def __init__(self, model):
        import torch

        torch.set_num_threads(1)
        self.torch = torch
        embedding, self.lstm, linear = (layer for layer in model.layers if not isinstance(layer, Dropout))
        self.embedding = self.twin(torch.nn.Embedding(embedding.num_embeddings, embedding.embedding_dim), embedding)
        self.linear = self.twin(torch.nn.Linear(linear.in_features, linear.out_features), linear)
        self.begin()
        self.step = torch.inference_mode()(self.step)

    def twin(self, module, layer):
        module.load_state_dict({name: self.torch.tensor(array) for name, array in layer.parameters.items()})
        return module


class TorchModule(Torch):
    """nn.LSTM, one step per call."""

    title = "PyTorch nn.LSTM"

    def begin(self):
        lstm = self.lstm
        self.module = self.twin(self.torch.nn.LSTM(lstm.input_size, lstm.hidden_size, lstm.num_layers), lstm)

    def start(self):
        self.state = None

    def step(self, token):
        y, self.state = self.module(self.embedding(self.torch.tensor([token])), self.state)
        return self.linear(y[0]).numpy()


class TorchCells(Torch):
    """An nn.LSTMCell for each layer."""

    title = "PyTorch nn.LSTMCell"

    def begin(self):
        self.cells = []
        for index in range(self.lstm.num_layers):
            suffix = f"_l{index}"
            found = {n.removesuffix(suffix): a for n, a in self.lstm.parameters.items() if n.endswith(suffix)}
            cell = self.torch.nn.LSTMCell(found["weight_ih"].shape[1], self.lstm.hidden_size)
            cell.load_state_dict({name: self.torch.tensor(array) for name, array in found.items()})
            self.cells.append(cell)

    def start(self):
        self.states = [None] * len(self.cells)

    def step(self, token):
        x = self.embedding(self.torch.tensor([token]))
        for index, cell in enumerate(self.cells):
            self.states[index] = cell(x, self.states[index])
            x = self.states[index][0]
        return self.linear(x)[0].numpy()


def stepped(writer, tokens):
    """Return the logits after each of the tokens."""
    writer.start()
    return np.array([writer.step(token) for token in tokens])


def written(writer, length, seed=0):
    """Return `length` tokens, each drawn from the model's logits after the previous token."""
    writer.start()
    rng, tokens = np.random.default_rng(seed), [0]
    for _ in range(length):
        tokens.append(sample(writer.step(tokens[-1]), rng=rng))
    return tokens[1:]


def checked(writers, length):
    """Return the text of the first writer, after a check that the others give the same logits for it."""
    ours = writers[0]
    tokens = written(ours, length)
    expected = stepped(ours, tokens)
    for other in writers[1:]:
        difference = np.abs(stepped(other, tokens) - expected).max() / np.abs(expected).max()
        if not difference <= TOLERANCE:
            raise ArithmeticError(f"{other.title}: logits differ from {ours.title}'s by {difference:.1e}")
        print(f"{other.title}: largest difference of logits {difference:.1e}")
    return tokens


def new_model():
    return Sequential(Embedding(100, 64, seed=0), LSTM(64, 256, 2, seed=1), Linear(256, 100, seed=2))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", help="a model of `lstm-cy train`; default: new weights")
    parser.add_argument("--length", type=int, default=1000, help="tokens written in each turn")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds for each of the two measurements")
    options = parser.parse_args(argv)
    model = load(options.model) if options.model else new_model()
    writers = [kind(model) for kind in (Ours, TorchModule, TorchCells)]
    tokens = checked(writers, options.length)
    measured = [
        medians([partial(function, writer, argument) for writer in writers], options.seconds)
        for function, argument in ((stepped, tokens), (written, options.length))
    ]
    print(f"{'tokens a second':<22}{'steps':>12}{'':>8}{'writing':>12}{'':>8}")
    for index, writer in enumerate(writers):
        columns = [f"{options.length / t[index]:12.0f}{f'{t[0] / t[index]:.2f}x':>8}" for t in measured]
        print(f"{writer.title:<22}{''.join(columns)}")
    return measured


if __name__ == "__main__":
    main()
