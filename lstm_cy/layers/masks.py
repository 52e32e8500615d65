"""The random masks of one forward pass of an LSTM in training: recurrent dropout, zoneout and weight drop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ..typing import Array, Parameters
    from .batch import Batch
    from .recurrent import Recurrent


class Masks(NamedTuple):
    """What a forward pass has drawn, besides dropout between layers.

    Attributes
    ----------
    steps : None or list of (recurrent, zone_h, zone_c)
        Uint8 arrays of each layer, or None, as the drivers take them.
    weights : dict of str to ndarray
        Factors of recurrent weights: 0, or 1 / (1 - weight_drop).
    """

    steps: list[tuple[Array | None, Array | None, Array | None]] | None
    weights: Parameters


#: nothing is drawn
NO_MASKS = Masks(None, {})


def draw(lstm: Recurrent, batch: Batch, rng: Any) -> Masks:
    """Draw the masks that the options of `lstm` need, each from numbers like those of the Dropout layer."""
    width_h, width_c = lstm.output_size, lstm.num_directions * lstm.hidden_size
    zone_h, zone_c = lstm.zoneout
    # one mask for all steps: a batch with one step
    once = (batch.B, 1, width_h) if batch.batch_first else (1, batch.B, width_h)
    steps = None
    if lstm.recurrent_dropout or zone_h or zone_c:
        steps = [
            (
                _kept(rng, once, lstm.recurrent_dropout) if lstm.recurrent_dropout else None,
                1 - _kept(rng, batch.shape(width_h), zone_h) if zone_h else None,
                1 - _kept(rng, batch.shape(width_c), zone_c) if zone_c else None,
            )
            for _ in range(lstm.num_layers)
        ]
    weights = {}
    if lstm.weight_drop:
        for name, shape in lstm.recurrent_shapes().items():
            # The count and not the shape: a generator for the rows of several processes must not see rows here.
            keep = _kept(rng, int(np.prod(shape)), lstm.weight_drop).reshape(shape)
            weights[name] = keep * lstm.dtype.type(scale_of(lstm.weight_drop))
    return Masks(steps, weights)


def scale_of(p: float) -> float:
    """Return the factor of what dropout with this probability keeps."""
    return 1 / (1 - p) if p < 1 else 0.0


def _kept(rng: Any, shape: Any, p: float) -> Any:
    """Return a uint8 array that is 0 with probability p, else 1."""
    return (rng.random(shape, dtype=np.float32) >= p).view(np.uint8)
