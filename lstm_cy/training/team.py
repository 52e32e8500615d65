"""Team: what several processes that train one model do together, here for a single one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from typing import Self

    from ..layers.base import Layer
    from ..typing import Array, Parameters
    from .history import History
    from .optimizers import Optimizer


class Team:
    """The processes that train together: here a single one, in the subclass `DataParallel` several."""

    #: whether this process shows progress and writes the checkpoint
    first = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        pass

    def begin(
        self, settings: dict[str, Any], model: Layer, optimizer: Optimizer, history: History, best: Any
    ) -> tuple[History, Any]:
        """Give all processes the first one's model and optimizer; return its (history, best)."""
        return history, best

    def generator(self, seed: list[int], batch_axis: int) -> np.random.Generator:
        """Return an epoch's generator for the row order and dropout; rows are on `batch_axis` of the dropout masks."""
        return np.random.default_rng(seed)

    def share(self, rows: int) -> slice:
        """Return this process's slice of a batch of `rows` rows."""
        return slice(0, rows)

    def use(self, rows: int) -> None:
        """Draw the random numbers that follow for a batch of `rows` rows."""

    def count(self, target: Array, keywords: dict[str, Any]) -> float | None:
        """Return the weight of `target` in the mean ``loss(prediction, target, **keywords)``; None: not known here.

        Only ratios of weights matter.
        """
        return None

    def mean(self, value: float, count: float, gradients: Parameters | None = None) -> tuple[float, float, Any]:
        """Return the mean of all processes' losses and gradients, weighted by `count`, and the sum of the counts.

        Parameters
        ----------
        value, count : float
            The loss of this process's share, and how much it counts.
        gradients : dict, optional
            {name: array}; ignored if `count` is 0.

        Returns
        -------
        value, count : float
            Both 0 if every process's count is 0.
        gradients : dict, or None if there were none
        """
        return value, count, gradients

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true in any process."""
        return flag
