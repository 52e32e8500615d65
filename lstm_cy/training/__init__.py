"""Training: `fit` with its data, losses, optimizers, checkpoints and history."""

import importlib
from typing import TYPE_CHECKING

_HOME = {
    "fit": "fitting",
    "History": "history",
    "read_history": "checkpoint",
    "Team": "team",
}

__all__ = ["History", "Team", "fit", "read_history"]

if TYPE_CHECKING:
    from .checkpoint import read_history as read_history
    from .fitting import fit as fit
    from .history import History as History
    from .team import Team as Team
else:

    def __getattr__(name):
        if name in _HOME:
            return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
