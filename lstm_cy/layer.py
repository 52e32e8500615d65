"""What every layer has: named parameters that are handed out read-only and replaced as a whole."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .checks import float_array, generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self

    from .typing import Array, ArrayLike, Bools, DTypeLike, Parameters, Seed


class Gradients(NamedTuple):
    """What a backward pass returns.

    Attributes
    ----------
    x : ndarray or None
        Gradient with respect to the input, in its shape; None where the input is not differentiable (tokens).
    state : tuple, list or None
        (dh0, dc0) of an LSTM; a list with one such pair for each LSTM of a Sequential; else None.
    parameters : dict
        One array for each parameter, under its name.
    """

    x: Array | None
    state: Any
    parameters: Parameters


class Layer:
    """A layer: parameters under names, and a configuration from which it can be built anew.

    The parameters are one snapshot, replaced as a whole and never written to: a call that runs while they are
    replaced finishes with those it began with, and a tape can tell whether it is out of date.
    """

    #: constructor arguments, as JSON can hold them
    config: dict[str, Any]
    #: whether `valid`, called with the layer's input, gives the steps that are no padding
    masks = False
    dtype: np.dtype[Any] | None
    _parameters: Parameters
    _is_blank = False
    #: what `load` found beside the weights, and what `quantize` measured; not of every layer
    metadata: dict[str, Any]
    report: dict[Any, Any] | None

    if TYPE_CHECKING:  # what every layer has, each with arguments and results of its own

        def __call__(self, *args: Any, **keywords: Any) -> Any: ...
        def forward(self, *args: Any, **keywords: Any) -> Any: ...
        def backward(self, *args: Any, **keywords: Any) -> Any: ...
        def valid(self, x: ArrayLike) -> Bools: ...

    @classmethod
    def blank(cls, *sizes: Any, **options: Any) -> Self:
        """A layer that is about to get all its parameters by `load_state_dict` or `restore`: none are drawn or packed.

        Until then it has their names, shapes and dtypes, and cannot be called.
        """
        layer = cls.__new__(cls)
        layer._is_blank = True
        layer.__init__(*sizes, **options)  # type: ignore[misc]  # a subclass may have other arguments
        del layer._is_blank
        return layer

    def _generator(self, seed: Seed) -> Any:
        """What draws the first parameters; of a blank layer nothing, which spares importing NumPy's."""
        return None if self._is_blank else generator("seed", seed)

    def _begin(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        draw: Callable[[], Parameters],
        dtypes: Mapping[str, DTypeLike] | None = None,
    ) -> None:
        """Take the first parameters: what `draw` gives, {name: array}, or of a blank layer only their `shapes`.

        `dtypes`, {name: dtype}, where it is not the layer's.
        """
        self._parameters = {}
        if self._is_blank:
            for name, shape in shapes.items():
                self._parameters[name] = np.broadcast_to(np.zeros((), (dtypes or {}).get(name, self.dtype)), shape)
        else:
            self._adopt(draw())

    @property
    def parameters(self) -> Parameters:
        """{name: read-only array}: the current parameters. Change them with `load_state_dict`."""
        return dict(self._parameters)

    def state_dict(self) -> Parameters:
        """Copies of the parameters, under PyTorch's names.

        Returns
        -------
        dict of str to ndarray
            To be changed as you like.
        """
        return {name: array.copy() for name, array in self._parameters.items()}

    def load_state_dict(self, mapping: Mapping[str, ArrayLike], strict: bool = True) -> None:
        """Replace the parameters by those in `mapping`.

        Parameters
        ----------
        mapping : mapping of str to array_like
            Arrays in the parameters' shapes; they are copied and converted to the layer's dtype.
        strict : bool
            If False, names that are missing or unknown are passed over. Shapes are always checked.

        Raises
        ------
        KeyError
            Names are missing or unknown; all of them, and all wrong shapes, are listed.
        ValueError
            Shapes are wrong; all of them are listed.

        Whatever is raised, the layer stays as it was.
        """
        self._check_writable()
        self._adopt({name: array.copy() for name, array in self._fitting(mapping, self._parameters, strict).items()})

    def _fitting(self, mapping: Mapping[str, ArrayLike], current: Parameters, strict: bool) -> Parameters:
        """The arrays of `mapping` that `current` has too, in its dtypes; raises as `load_state_dict` does."""
        names = [name for name in current if name in mapping]
        given = {name: float_array(name, mapping[name], current[name].dtype) for name in names}
        names = [f"missing: {name} {array.shape}" for name, array in current.items() if name not in given]
        names += [f"unknown: {name}" for name in mapping if name not in current]
        shapes = [
            f"misshaped: {name}: expected {current[name].shape}, got {array.shape}"
            for name, array in given.items()
            if array.shape != current[name].shape
        ]
        if strict and names:
            raise KeyError(f"state_dict does not fit {type(self).__name__}: " + "; ".join(names + shapes))
        if shapes:
            raise ValueError(f"state_dict does not fit {type(self).__name__}: " + "; ".join(shapes))
        return given

    def replace_parameters(self, arrays: Parameters) -> None:
        """Take over arrays without a copy, for optimizers, which have just made them.

        Parameters
        ----------
        arrays : dict of str to ndarray
            Of the parameters' shapes and dtype; they become read-only and belong to the layer. Names that are not given
            keep their arrays.
        """
        self._check_writable()
        self._adopt(arrays)

    def stored(self) -> Parameters:
        """{name: read-only array}: what a file holds; the parameters, but narrow weights in their narrow form."""
        return dict(self._parameters)

    def restore(self, arrays: Parameters, copy: bool = True) -> None:
        """Take arrays as `stored` gives them, or copies; raises as `load_state_dict` does, also for another dtype."""
        current = self.stored()
        wrong = [
            f"{name}: expected {current[name].dtype}, got {array.dtype}"
            for name, array in arrays.items()
            if name in current and array.dtype.kind != current[name].dtype.kind
        ]
        if wrong:
            raise ValueError(f"arrays do not fit {type(self).__name__}: " + "; ".join(wrong))
        arrays = self._fitting(arrays, current, True)
        self._adopt({name: array.copy() for name, array in arrays.items()} if copy else arrays)

    def _check_writable(self) -> None:
        """Raise if the parameters cannot be changed."""

    def _adopt(self, arrays: Parameters) -> None:
        """What `replace_parameters` does; for arrays as `stored` gives them."""
        for array in arrays.values():
            array.flags.writeable = False
        parameters = {**self._parameters, **arrays}
        # At once: whoever copies the layer meanwhile gets what belongs together.
        self.__dict__.update(_parameters=parameters, **self._packed(parameters))

    def _packed(self, parameters: Parameters) -> dict[str, Any]:
        """What the kernels need of new parameters, as attributes of the layer."""
        return {}

    def _check_fresh(self, made_with: object, current: object) -> None:
        """Raise unless what a tape was made with is what the layer has now."""
        if made_with is not current:
            raise RuntimeError(
                "tape: the parameters have changed since the forward pass that made it; run forward again"
            )

    def __copy__(self) -> Self:
        """Another layer with the same parameters, which they share until one of them gets others."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        """To pickle, and to copy deeply: built anew, the weights packed for the machine that does it."""
        return _rebuilt, (type(self), self.config, self.stored()), self._remarks()

    def _remarks(self) -> dict[str, Any]:
        """What users or `quantize` have said of it."""
        return {name: vars(self)[name] for name in ("metadata", "report") if name in vars(self)}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.config.items())
        return f"{type(self).__name__}({arguments})"


class Composite(Layer):
    """A layer made of layers: their parameters are its own, named "<part>.<parameter>".

    A layer may be several of the parts: its parameters are there once, under the name of its first use. A subclass sets
    `_parts`, {name: layer}, before it uses any of this.
    """

    _parts: dict[str, Layer]

    def _owners(self) -> dict[int, str]:
        """{id of a layer: the name of its first use}, in order."""
        owners: dict[int, str] = {}
        for part, layer in self._parts.items():
            owners.setdefault(id(layer), part)
        return owners

    @property
    def _parameters(self) -> Parameters:  # type: ignore[override]  # set through its parts
        return self._named(lambda layer: layer.parameters)

    def stored(self) -> Parameters:
        """{name: read-only array}: what a file holds; the parameters, but narrow weights in their narrow form."""
        return self._named(lambda layer: layer.stored())

    def _named(self, arrays_of: Callable[[Layer], Parameters]) -> Parameters:
        """What `arrays_of` gives for each layer, under the model's names."""
        return {
            f"{part}.{name}": array
            for part in self._owners().values()
            for name, array in arrays_of(self._parts[part]).items()
        }

    def _summed(self, gradients: Iterable[tuple[str, Parameters]]) -> Parameters:
        """The gradients of all parts under the model's names; those of a layer with several uses are added up."""
        owners, total = self._owners(), dict.fromkeys(self._parameters)
        for part, own in gradients:
            for name, array in own.items():
                name = f"{owners[id(self._parts[part])]}.{name}"
                so_far = total[name]
                with np.errstate(over="ignore", invalid="ignore"):  # the sum itself shows what is not finite
                    total[name] = array if so_far is None else so_far + array
        return {name: array for name, array in total.items() if array is not None}

    def _check_writable(self) -> None:
        for layer in self._parts.values():
            layer._check_writable()

    def _adopt(self, arrays: Parameters) -> None:
        """Take over `arrays`, each layer its own."""
        for part in self._owners().values():
            prefix = f"{part}."
            own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            if own:
                self._parts[part]._adopt(own)

    def __copy__(self) -> Self:
        other = super().__copy__()
        copies = {id(layer): copy(layer) for layer in self._parts.values()}
        other._parts = {part: copies[id(layer)] for part, layer in self._parts.items()}
        return other


def _rebuilt(kind: type[Layer], config: dict[str, Any], arrays: Parameters) -> Layer:
    """A layer of this kind and configuration, with copies of `arrays`."""
    layer = kind.blank(**config)
    layer.restore(arrays)
    return layer
