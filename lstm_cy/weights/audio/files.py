"""Files of amplifier models: the keys of the JSON object decide which format it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..faults import check_finite, naming
from . import guitarml, nam, rtneural
from .document import read_document

if TYPE_CHECKING:
    from ...layers.sequential import Sequential
    from ...typing import Array, FileSource
    from ..inputs import Input


def read(source: FileSource | Input, strict: bool) -> tuple[Sequential, dict[str, Any]]:
    """Return (model, metadata) of a file of Neural Amp Modeler, RTNeural, AIDA-X or GuitarML."""
    model, metadata, _ = read_with_case(source, strict)
    return model, metadata


def read_with_case(
    source: FileSource | Input, strict: bool
) -> tuple[Sequential, dict[str, Any], tuple[Array, Array] | None]:
    """Return (model, metadata, (input, output) that are stored with the model or None)."""
    document, budget = read_document(source)
    with naming(source):
        form = next((form for is_it, form in _FORMATS if is_it(document)), None)
        if form is None:
            raise ValueError("a JSON object, but no model of Neural Amp Modeler, RTNeural, AIDA-X or GuitarML")
        model, metadata = form.model_of(document, budget)
        check_finite(str(source), model.parameters, strict)
        return model, metadata, rtneural.stored_case(document) if form is rtneural else None


_FORMATS: tuple[Any, ...] = (
    (nam.is_nam, nam),
    (rtneural.is_rtneural, rtneural),
    (guitarml.is_guitarml, guitarml),
)
