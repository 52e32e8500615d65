"""The formats of files: one record for each, with all that the library does with such files.

A record imports the modules of its format when they are used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..checks import file_path, one_of
from ..printable import printable
from . import native
from .faults import ForeignFile
from .inputs import Input

if TYPE_CHECKING:
    from typing import IO, TypeAlias

    from ..layers.base import Layer
    from ..typing import FilePath
    from .comparisons import Comparison
    from .sources import Source

    #: where a model is written: a path, or a file that is open for writing
    Target: TypeAlias = FilePath | IO[bytes]


class Format:
    """A format of files.

    Attributes
    ----------
    suffixes : tuple of str
        The suffixes by which it is recognised, in lower case.
    is_written : bool
        Whether `write` and `comparisons` are implemented.
    has_inputs : bool
        Whether `write` takes the options `states` and `lengths`.
    """

    suffixes: tuple[str, ...]
    is_written = has_inputs = False

    def read(self, path: Input, strict: bool, own: native.Own) -> tuple[Any, dict[str, Any]]:
        """Return (model, metadata); see `weights.load`."""
        raise NotImplementedError

    def write(self, model: Layer, path: Target, metadata: dict[str, Any] | None, **inputs: bool) -> None:
        """Write a model; see `weights.save`."""
        raise NotImplementedError

    def describe(self, path: Input) -> list[str]:
        """Describe the contents in lines; see `weights.inspect.describe`."""
        raise NotImplementedError

    def source(self, path: Input, name: str | None, batch_first: bool) -> Source:
        """Return the model, or one LSTM by its name; see `weights.convert.read`."""
        raise NotImplementedError

    def comparisons(self, path: str, model: Layer) -> list[Comparison]:
        """Return comparisons of a model with the file that `write` made of it."""
        raise NotImplementedError


class _PyTorch(Format):
    """Files of torch.save."""

    suffixes: tuple[str, ...] = (".pt", ".pth", ".ckpt", ".bin")

    def read(self, path: Input, strict: bool, own: native.Own) -> tuple[Any, dict[str, Any]]:
        from .pytorch.files import read_model

        return read_model(path, strict), {}

    def describe(self, path: Input) -> list[str]:
        from . import descriptions

        return descriptions.of_pytorch(path)

    def source(self, path: Input, name: str | None, batch_first: bool) -> Source:
        from . import sources

        return sources.of_pytorch(path, name, batch_first)


class _Own(_PyTorch):
    """The library's own files; those without a header have tensors under PyTorch's names."""

    suffixes = (".npz", ".safetensors")
    is_written = True

    def read(self, path: Input, strict: bool, own: native.Own) -> tuple[Any, dict[str, Any]]:
        try:
            return native.read_model(path, strict, own)
        except ForeignFile:
            return super().read(path, strict, own)

    def write(self, model: Layer, path: Target, metadata: dict[str, Any] | None, **inputs: bool) -> None:
        native.write_model(model, path, metadata, inputs.get("safetensors"))

    def describe(self, path: Input) -> list[str]:
        from . import descriptions

        try:
            return descriptions.of_own(path)
        except ForeignFile:
            return super().describe(path)

    def source(self, path: Input, name: str | None, batch_first: bool) -> Source:
        from . import sources

        try:
            return sources.of_own(path, name)
        except ForeignFile:
            return super().source(path, name, batch_first)

    def comparisons(self, path: str, model: Layer) -> list[Comparison]:
        from . import comparisons

        def reread() -> float:
            return comparisons.reread_difference(native.read_model(path, False)[0], model)

        return [comparisons.Comparison("lstm_cy, reading it again", reread)]


class _Keras(Format):
    """Models of Keras."""

    suffixes = (".keras", ".h5", ".hdf5")

    def read(self, path: Input, strict: bool, own: native.Own) -> tuple[Any, dict[str, Any]]:
        from .keras.model import read_model

        return read_model(path, strict), {}

    def describe(self, path: Input) -> list[str]:
        from . import descriptions

        return descriptions.of_keras(path)

    def source(self, path: Input, name: str | None, batch_first: bool) -> Source:
        from . import sources

        return sources.of_keras(path, name)


class _Onnx(Format):
    """ONNX graphs."""

    suffixes = (".onnx",)
    is_written = has_inputs = True

    def read(self, path: Input, strict: bool, own: native.Own) -> tuple[Any, dict[str, Any]]:
        from .onnx.graph import from_onnx

        model = from_onnx(path.path_or_bytes(), strict)
        return model, native.metadata_of(path, model.properties)

    def write(self, model: Layer, path: Target, metadata: dict[str, Any] | None, **inputs: bool) -> None:
        from .onnx.export import write_model

        write_model(model, path, metadata, **inputs)

    def describe(self, path: Input) -> list[str]:
        from . import descriptions

        return descriptions.of_onnx(path.path_or_bytes())

    def source(self, path: Input, name: str | None, batch_first: bool) -> Source:
        from . import sources

        return sources.of_onnx(path.path_or_bytes(), name)

    def comparisons(self, path: str, model: Layer) -> list[Comparison]:
        from . import comparisons
        from .onnx.graph import from_onnx

        return [
            comparisons.Comparison("ONNX Runtime", lambda: comparisons.onnxruntime_difference(path, model)),
            comparisons.Comparison(
                "lstm_cy, reading it again", lambda: comparisons.graph_difference(from_onnx(path), model)
            ),
        ]


class _Audio(Format):
    """Models of guitar amplifiers."""

    is_written = True

    def _module(self) -> Any:
        """Return the module that writes the format."""
        raise NotImplementedError

    def read(self, path: Input, strict: bool, own: native.Own) -> tuple[Any, dict[str, Any]]:
        from .audio import files

        return files.read(path, strict)

    def write(self, model: Layer, path: Target, metadata: dict[str, Any] | None, **inputs: bool) -> None:
        self._module().write(model, path, native.checked_metadata(model, metadata))

    def describe(self, path: Input) -> list[str]:
        from . import descriptions

        return descriptions.of_audio(*self.read(path, False, {}))

    def source(self, path: Input, name: str | None, batch_first: bool) -> Source:
        from . import sources

        return sources.of_audio(path, name)

    def comparisons(self, path: str, model: Layer) -> list[Comparison]:
        from . import comparisons

        def reread() -> float:
            return comparisons.reread_difference(self.read(Input(path), False, {})[0], model)

        return [comparisons.Comparison("lstm_cy, reading it again", reread)]


class _Nam(_Audio):
    """Models of Neural Amp Modeler."""

    suffixes = (".nam",)

    def _module(self) -> Any:
        from .audio import nam

        return nam


class _RTNeural(_Audio):
    """Models of RTNeural, AIDA-X and GuitarML."""

    suffixes = (".json", ".aidax")

    def _module(self) -> Any:
        from .audio import rtneural

        return rtneural


#: every format, in the order in which messages list their suffixes
_OWN, _PYTORCH, _KERAS, _ONNX, _NAM, _RTNEURAL = _Own(), _PyTorch(), _Keras(), _Onnx(), _Nam(), _RTNeural()
FORMATS = (_OWN, _PYTORCH, _KERAS, _ONNX, _NAM, _RTNEURAL)
#: the values of the argument `format`, which are also those of `marks.kind_of`
NAMES: dict[str, Format] = {
    "npz": _OWN,
    "safetensors": _OWN,
    "pytorch": _PYTORCH,
    "keras": _KERAS,
    "onnx": _ONNX,
    "nam": _NAM,
    "json": _RTNEURAL,
}
# Formats whose files have the same mark; their reader decides.
_ALIKE = {"nam": "json"}


def of(source: Input, format: str | None = None) -> Format:
    """Return the format of a file: by its first bytes or, where they have no mark, by `format` or the suffix.

    Raises
    ------
    ValueError
        `format` is none of `NAMES` or differs from the mark, or there is neither mark, `format` nor known suffix; or
        the file is of a format that is recognised and not read.
    """
    from .marks import kind_of

    given = None if format is None else one_of("format", format, NAMES)
    kind = kind_of(source)
    if kind is not None:
        if given is not None and _ALIKE.get(given, given) != kind:
            raise ValueError(f"{printable(source)}: a file of format {kind}, not of format {given}")
        return NAMES[given or kind]
    if given is not None:
        return NAMES[given]
    known = {suffix: form for form in FORMATS for suffix in form.suffixes}
    suffix = os.path.splitext(source.name)[1].lower()
    if suffix not in known:
        *others, last = known
        raise ValueError(
            f"{printable(source)}: its first bytes, {source.beginning(8)!r}, are those of no format that is read; "
            f"format='onnx' (--format onnx) names one that has no mark, and so does a name ending in "
            f"{', '.join(others)} or {last}"
        )
    return known[suffix]


def to_write(target: Target, format: str | None = None) -> tuple[Format, str]:
    """Return the format of a file to write, and its name in `NAMES`: `format`, the suffix, or "npz" without a name."""
    written = {name: form for name, form in NAMES.items() if form.is_written}
    if format is not None:
        name = one_of("format", format, written)
        return written[name], name
    if not isinstance(target, str | os.PathLike):
        target = getattr(target, "name", "")
        if not isinstance(target, str) or not os.path.splitext(target)[1]:
            return _OWN, "npz"
    path = file_path("path", target)
    known = {suffix: form for form in FORMATS if form.is_written for suffix in form.suffixes}
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in known:
        *others, last = known
        raise ValueError(f"path: expected a file ending in {', '.join(others)} or {last}, got {path!r}")
    name = suffix.removeprefix(".")
    return known[suffix], name if name in NAMES else "json"
