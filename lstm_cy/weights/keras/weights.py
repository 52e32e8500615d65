"""The weights of a Keras model, found by their paths (.keras) or names (.h5, live)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ..faults import listed, shortened

if TYPE_CHECKING:
    from collections.abc import Collection

    from ...typing import Parameters
    from ..budget import Budget


class Location(NamedTuple):
    """The location of a layer and its weights in a model."""

    name: str  # its name in the model, used in error messages
    path: str  # its path in a .keras file
    group: str  # its group in an .h5 file, that of the outermost layer that contains it
    inside: tuple[str, ...]  # names of the layers inside that one, down to this one


class WeightsByPath:
    """The weights of a .keras file: numbered, in one group for each layer."""

    flips_kernels = False

    def __init__(self, arrays: Parameters, names: dict[tuple[str, str], str]) -> None:
        self._arrays, self._names = arrays, names

    def take(self, location: Location, kinds: list[str], path: str, layer_names: Collection[str]) -> Parameters:
        """Remove the weights `kinds`, which are numbered in this order, and return them as {kind: array}."""
        name = self._names.get((f"{location.path}/vars", "name"), location.name)
        if name != location.name:
            raise ValueError(
                f"{location.path}: expected the weights of {location.name}, got those of {shortened(name, 200)}"
            )
        numbered = {kind: f"{location.path}{path}/vars/{number}" for number, kind in enumerate(kinds)}
        missing = [f"{name} ({kind})" for kind, name in numbered.items() if name not in self._arrays]
        if missing:
            raise ValueError(f"{location.name}: expected {', '.join(kinds)}, found no {', '.join(missing)}")
        return {kind: self._arrays.pop(name) for kind, name in numbered.items()}

    def arrays(self) -> Parameters:
        """Return the remaining arrays by name."""
        return dict(self._arrays)

    def unused(self) -> list[str]:
        return [name for name in self._arrays if "seed_generator" not in name.split("/")]


class WeightsByName:
    """The weights of an .h5 file or a live model: {outermost layer: {name such as "lstm/lstm_cell/kernel": array}}."""

    def __init__(self, arrays: dict[str, Parameters], budget: Budget, flips_kernels: bool = False) -> None:
        self._budget, self.flips_kernels = budget, flips_kernels
        self._arrays = {(group, name): array for group, inside in arrays.items() for name, array in inside.items()}
        # {(group, an inner layer or None, kind): names}
        self._names: dict[tuple[str, str | None, str], list[str]] = {}
        for group, name in self._arrays:
            *layers, last = name.split("/")
            for layer in {None, *layers}:
                self._names.setdefault((group, layer, last.partition(":")[0]), []).append(name)

    def take(self, location: Location, kinds: list[str], path: str, layer_names: Collection[str]) -> Parameters:
        """Remove the weights whose names end in `kinds` and contain all enclosing layers; return them as {kind: array}.

        `layer_names` are the possible names of one more layer in between, if there is one.
        """
        found = {}
        for kind in kinds:
            names = self._names.get((location.group, location.inside[-1] if location.inside else None, kind), [])
            self._budget.objects(1 + len(names), "its weights")
            names = [name for name in names if _matches(name.split("/"), location.inside, layer_names)]
            if len(names) != 1 or (location.group, names[0]) not in self._arrays:
                raise ValueError(f"{location.name}: expected one {kind}, got {listed(names) or 'none'}")
            found[kind] = self._arrays.pop((location.group, names[0]))
        return found

    def arrays(self) -> Parameters:
        """Return the remaining arrays by name."""
        return {f"{group}/{name}": array for (group, name), array in self._arrays.items()}

    def unused(self) -> list[str]:
        return [f"{group}: {name}" for group, name in self._arrays if "seed_generator" not in name.split("/")]


def _matches(parts: list[str], inside: tuple[str, ...], layer_names: Collection[str]) -> bool:
    return set(inside) <= set(parts) and (not layer_names or not set(layer_names).isdisjoint(parts))


#: the weights of a model
Weights: TypeAlias = WeightsByPath | WeightsByName
