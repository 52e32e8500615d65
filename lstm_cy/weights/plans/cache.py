"""The plans of a graph, by the shapes of its inputs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import config
from .builder import Builder
from .operations import Packs
from .values import TooLarge

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
        self._plans: dict[Any, Plan | None] = {}  # None: too large, the steps are run one by one
        self._lock = threading.RLock()

    def run(
        self, names: list[str], steps: Sequence[tuple[Any, set[str]]], values: dict[str, Array], limit: int
    ) -> list[Array] | None:
        """Return outputs, new arrays; None if a plan would take more memory than allowed.

        Parameters
        ----------
        names : list of str
            Of the outputs.
        steps : sequence of (Step, set of str)
            Those that they need, with the values that no later one needs.
        values : dict of str to ndarray
            The inputs.
        limit : int
            Most bytes of a run.
        """
        key = (*names, *map(_key, values.values()))
        arrays = [*values.values()]
        plan = self._plans.get(key)
        if plan is not None:
            return plan.run(arrays) if plan.peak <= limit else None
        with self._lock:
            if key not in self._plans:  # unless another thread has made it
                plan = self._make(names, steps, values, limit)
                while len(self._plans) >= MOST_PLANS:
                    del self._plans[next(iter(self._plans))]
                self._plans[key] = plan
                return None if plan is None else plan.first_results(arrays)
            plan = self._plans[key]
        return None if plan is None or plan.peak > limit else plan.run(arrays)

    def find(self, names: list[str], values: dict[str, Array]) -> Plan | None:
        """Return the plan for these inputs if there is one."""
        return self._plans.get((*names, *map(_key, values.values())))

    def _make(
        self, names: list[str], steps: Sequence[tuple[Any, set[str]]], values: dict[str, Array], limit: int
    ) -> Plan | None:
        if self._packs is None:
            with config.using(isa=self._isa):
                self._packs = Packs(config.kernels())
        try:
            with np.errstate(all="ignore"):  # infinity and NaN are valid results
                return Builder(self._packs, limit).build(self._graph, steps, names, values)
        except TooLarge:
            return None


def _key(array: Array) -> Any:
    """Return what plans depend on: the shape, or the value of a whole number."""
    return array.item() if array.ndim == 0 and array.dtype.kind in "iub" else array.shape
