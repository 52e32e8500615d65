"""The plans of a graph, by the shapes of its inputs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import config
from .builder import Builder
from .operations import Packs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...typing import Array
    from .plan import Plan

#: most plans of a graph; beyond it the one that was used least recently is dropped
MOST_PLANS = 16


class Plans:
    """The plans of a graph, for the instruction set in use when it is made; several threads may use it at once.

    Parameters
    ----------
    graph : Graph
    """

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._isa = config.instruction_set()
        self._packs: Packs | None = None
        self._plans: dict[Any, Plan] = {}
        self._lock = threading.RLock()

    def run(self, names: list[str], steps: Sequence[tuple[Any, set[str]]], values: dict[str, Array]) -> list[Array]:
        """Return the outputs with these names, new arrays; `steps` are those that they need."""
        key = self._key(names, values)
        plan = self._plans.get(key)
        if plan is None:
            return self._first_run(key, names, steps, values)
        return plan.run([*values.values()])

    def get(self, names: list[str], steps: Sequence[tuple[Any, set[str]]], values: dict[str, Array]) -> Plan:
        """Return the plan for these inputs."""
        key = self._key(names, values)
        if key not in self._plans:
            self._first_run(key, names, steps, values)
        return self._plans[key]

    def _key(self, names: list[str], values: dict[str, Array]) -> tuple[Any, ...]:
        return (
            *names,
            *[x.item() if x.ndim == 0 and x.dtype.kind in "iub" else x.shape for x in values.values()],
        )

    def _first_run(
        self, key: Any, names: list[str], steps: Sequence[tuple[Any, set[str]]], values: dict[str, Array]
    ) -> list[Array]:
        with self._lock:
            if key in self._plans:  # another thread has made it
                return self._plans[key].run([*values.values()])
            if self._packs is None:
                with config.using(isa=self._isa):
                    self._packs = Packs(config.kernels())
            with np.errstate(all="ignore"):  # infinity and NaN are valid results
                plan = Builder(self._packs).build(self._graph, steps, names, values)
            while len(self._plans) >= MOST_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = plan
        return plan.first_results()
