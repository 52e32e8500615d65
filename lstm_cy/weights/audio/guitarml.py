"""The JSON of GuitarML's programs, written by Automated-GuitarAmpModelling; read only.

"model_data" has the sizes of a SimpleRNN and its "skip", and "state_dict" its tensors under PyTorch's names: an nn.LSTM
`rec` and an nn.Linear `lin`, whose output gets the first inputs added.

Source: CoreAudioML/networks.py of Automated-GuitarAmpModelling; Wright et al., Real-Time Guitar Amplifier Emulation
with Deep Learning, 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...layers.linear import Linear
from ...layers.lstm import LSTM
from ...layers.residual import Residual
from ...layers.sequential import Sequential
from ..faults import listed, shortened
from .document import array_of, count, entry, shape_of
from .parts import LSTM_COST, filled

if TYPE_CHECKING:
    from ..budget import Budget


def is_guitarml(document: dict[str, Any]) -> bool:
    """Return whether a JSON object is a model of GuitarML's programs."""
    return {"model_data", "state_dict"} <= document.keys()


def model_of(document: dict[str, Any], budget: Budget) -> tuple[Sequential, dict[str, Any]]:
    """Return (model, metadata) of a file."""
    data, arrays = entry(document, "model_data", dict), dict(entry(document, "state_dict", dict))
    if data.get("unit_type") != "LSTM":
        raise ValueError(f"model_data: unit_type: expected LSTM, got {shortened(repr(data.get('unit_type')), 80)}")
    I, H, O, L = (
        count(data, name, "model_data: ") for name in ("input_size", "hidden_size", "output_size", "num_layers")
    )
    budget.objects(LSTM_COST * len(arrays), "its layers")
    skip = data.get("skip") or 0
    if skip not in (0, O) or O > I:
        raise ValueError(f"model_data: skip: expected 0 or the number of outputs, {O}, got {shortened(repr(skip), 80)}")
    if len(arrays) < L:
        raise ValueError(f"model_data: num_layers: expected at most {len(arrays)}, as many as tensors, got {L}")
    parts = []
    for prefix, blank in (
        ("rec.", lambda bias: LSTM.blank(I, H, L, bias=bias, batch_first=True)),
        ("lin.", lambda bias: Linear.blank(H, O, bias=bias)),
    ):
        own = {name.removeprefix(prefix): arrays.pop(name) for name in [*arrays] if name.startswith(prefix)}
        checked = {name: array_of(value, shape_of(value), prefix + name) for name, value in own.items()}
        held = sum(array.size for array in checked.values())
        needed = 4 * H * (I + L * H) if prefix == "rec." else H * O
        if needed > held:  # before a layer of that size is made
            raise ValueError(f"{prefix}: the sizes in model_data need {needed} weights, the file holds {held}")
        parts.append(filled(blank(any(name.startswith("bias") for name in checked)), checked))
    if arrays:
        raise ValueError(f"state_dict: expected tensors of rec and lin, got {listed(arrays)}")
    metadata = document.get("metadata")
    model = Sequential(Residual(*parts)) if skip else Sequential(*parts)
    return model, metadata if isinstance(metadata, dict) else {}
