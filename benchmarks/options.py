"""Options of training: regularisation, optimizers, frozen layers, weights, masks and gaps."""

import numpy as np

from lstm_cy import (
    LSTM,
    ActivationRegularization,
    AdamW,
    Embedding,
    Linear,
    RMSprop,
    Sequential,
    cross_entropy,
    fit,
    mse,
)

from .common import REPEAT

STEPS, ROWS, SIZE, TOKENS = 50, 16, 64, 100


def numbers(*shape):
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


OPTIONS_OF_LSTM = {
    "none": {},
    "recurrent_dropout": {"recurrent_dropout": 0.25},
    "zoneout": {"zoneout": (0.05, 0.2)},
    "weight_drop": {"weight_drop": 0.25},
    "learn_initial_state": {"learn_initial_state": True},
}


class Regularised:
    """Forward and backward of an LSTM."""

    params = (tuple(OPTIONS_OF_LSTM),)
    param_names = ("option",)
    repeat = REPEAT

    def setup(self, option):
        self.lstm = LSTM(SIZE, SIZE, seed=0, **OPTIONS_OF_LSTM[option])
        self.x = numbers(STEPS, ROWS, SIZE)
        self.check(option)

    def check(self, option):
        """Raise if the gradients are not those of a layer without the option, or are where they should not be."""
        plain = LSTM(SIZE, SIZE, seed=0)
        plain.load_state_dict({name: self.lstm.parameters[name] for name in plain.parameters})
        y, _, tape = plain.forward(self.x)
        same = np.array_equal(plain.backward(tape, y).x, self.run().x)
        if same != (option in ("none", "learn_initial_state")):
            raise AssertionError(f"{option}: unexpected gradients")

    def run(self):
        y, _, tape = self.lstm.forward(self.x, rng=1)
        return self.lstm.backward(tape, y)

    def time_forward_and_backward(self, option):
        self.run()


OPTIMIZERS = {
    "AdamW": (AdamW, {}),
    "AdamW, groups": (AdamW, {"groups": [{"parameters": "weight_*", "lr": 1e-7}], "decay_biases": False}),
    "RMSprop": (RMSprop, {}),
    "RMSprop, centered, momentum": (RMSprop, {"centered": True, "momentum": 0.9}),
}


class Step:
    """An optimizer's step: from gradients to new, packed parameters."""

    params = (tuple(OPTIMIZERS), (16, 256))
    param_names = ("optimizer", "H")
    repeat = REPEAT

    def setup(self, option, size):
        kind, options = OPTIMIZERS[option]
        model = LSTM(size, size, seed=0)
        self.optimizer = kind(model, 1e-6, **options)
        self.grads = {name: numbers(*array.shape) for name, array in model.parameters.items()}

    def time_step(self, option, size):
        self.optimizer.step(self.grads)


class LanguageModel:
    """An epoch of `fit`."""

    params = (("plain", "tied", "penalties", "frozen LSTM", "accumulate"),)
    param_names = ("option",)
    repeat = REPEAT

    def setup(self, option):
        embedding = Embedding(TOKENS, SIZE, seed=0)
        self.model = Sequential(
            embedding,
            LSTM(SIZE, SIZE, 2, seed=1),
            *([ActivationRegularization(2.0, 1.0)] if option == "penalties" else []),
            Linear(SIZE, TOKENS, tied=embedding if option == "tied" else None, seed=2),
        )
        frozen = ["0.*", "1.*"] if option == "frozen LSTM" else ()
        self.optimizer = AdamW(self.model, 1e-6, frozen=frozen)
        tokens = np.random.default_rng(1).integers(0, TOKENS, (STEPS + 1, 4 * ROWS))
        self.data, self.accumulate = (tokens[:-1], tokens[1:]), 2 if option == "accumulate" else 1

    def time_epoch(self, option):
        fit(
            self.model,
            self.data,
            loss=cross_entropy,
            optimizer=self.optimizer,
            epochs=1,
            batch_size=ROWS,
            accumulate=self.accumulate,
            progress=False,
        )


class Data:
    """An epoch of `fit` with weights, masks, gaps and batches that are read ahead."""

    params = (("plain", "sample_weight", "mask", "gaps", "prefetch"),)
    param_names = ("option",)
    repeat = REPEAT

    def setup(self, option):
        self.model = Sequential(LSTM(8, SIZE, seed=0), Linear(SIZE, 2, seed=1))
        self.optimizer = AdamW(self.model, 1e-6)
        x = numbers(STEPS, 4 * ROWS, 8)
        self.data = {"x": x, "y": x[..., :2].copy()}
        self.arguments = {"gaps": {"gaps": True}, "prefetch": {"prefetch": 2}}.get(option, {})
        if option == "sample_weight":
            self.data["sample_weight"] = np.ones(x.shape[:2])
        if option == "mask":
            self.data["mask"] = x[..., 0] > -1
        if option == "gaps":
            x[x < -2] = np.nan

    def time_epoch(self, option):
        fit(
            self.model,
            self.data,
            loss=mse,
            optimizer=self.optimizer,
            epochs=1,
            batch_size=ROWS,
            progress=False,
            **self.arguments,
        )
