"""Network: what all estimators share: the network, its training, its outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from ..checks import flag, number, positive_int, shown
from ..layers.dropout import Dropout
from ..layers.linear import Linear
from ..layers.lstm import LSTM
from ..layers.readout import Readout
from ..layers.sequential import Sequential
from ..training.fitting import fit
from ..training.optimizers import Adam

if TYPE_CHECKING:
    from ..training.history import History
    from ..typing import Array, Data, Ints, Loss

#: rows in each call of predict, so that memory is bounded
ROWS = 256


class Network(BaseEstimator):
    """Base class of the estimators: an LSTM, a Readout of its last valid step, a Linear; and their training."""

    def _build(self, inputs: int, outputs: int, bidirectional: bool = False, steps: bool = False) -> Sequential:
        """Return a new network, from features to `outputs` numbers for each row, or with `steps` for each step."""
        rng = np.random.default_rng(self._draw_seed())
        dropout = number("dropout", self.dropout, 0.0, 1.0)
        num_layers = positive_int("num_layers", self.num_layers)
        lstm = LSTM(
            inputs,
            self.hidden_size,
            num_layers,
            batch_first=True,
            dropout=dropout if num_layers > 1 else 0.0,
            bidirectional=bidirectional,
            seed=rng,
        )
        head = Linear(lstm.output_size, outputs, seed=rng)
        if steps:
            return Sequential(lstm, Dropout(dropout), head)
        return Sequential(lstm, Readout(bidirectional=bidirectional, batch_first=True), Dropout(dropout), head)

    def _draw_seed(self) -> int:
        """Return a seed drawn from random_state."""
        try:
            return int(check_random_state(self.random_state).randint(2**31))
        except ValueError:
            raise ValueError(
                f"random_state: expected None, an integer or a numpy.random.RandomState, got {shown(self.random_state)}"
            ) from None

    def _train(
        self,
        model: Sequential,
        data: Data,
        loss: Loss,
        epochs: int,
        validation: Data | None = None,
        optimizer: Adam | None = None,
        earlier: int = 0,
    ) -> History:
        """Train `model`, with early stopping if there are validation data; return fit's History.

        `earlier` is the number of epochs before, so that each has its own order of rows.
        """
        return fit(
            model,
            data,
            loss=loss,
            optimizer=Adam(model, lr=self.lr) if optimizer is None else optimizer,
            epochs=epochs,
            batch_size=self.batch_size,
            validation=validation,
            patience=None if validation is None else self.patience,
            clip_norm=self.clip_norm,
            seed=self._draw_seed() + earlier,
            progress=flag("verbose", self.verbose),
            precision=self.precision,
        )


def outputs_of(model: Sequential, x: Array, lengths: Ints | None = None) -> Array:
    """Return the outputs of `model` for the rows of x."""
    parts = []
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        parts.append(model(x[rows], lengths=None if lengths is None else lengths[rows])[0])
    return np.concatenate(parts)
