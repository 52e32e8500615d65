"""What each unit of a layer follows: the result of `explain`, and its table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import one_of, positive_int

if TYPE_CHECKING:
    from ..typing import Array

#: the values of a unit that are compared with features
SIGNALS = ("cell", "hidden")


class UnitExplanation(NamedTuple):
    """What a unit follows.

    Attributes
    ----------
    unit : int
    feature : str
        The feature that it follows best, chosen on the first half of the text.
    signal : {"cell", "hidden"}
        Which of its values does so.
    sign : int
        1 if the value is high where the feature is true, -1 if it is low there.
    auc : float
        On the held-out half: the probability that the value, times sign, is higher at a random character where the
        feature is true than at one where it is false; 0.5 is chance.
    others : list of (feature, auc)
        The next best features.
    loss : float or None
        The loss while the unit's h is held at its mean, in nats a token; None if it was not measured.
    change : float or None
        How much higher that is than the loss of the whole model.
    """

    unit: int
    feature: str
    signal: str
    sign: int
    auc: float
    others: list[tuple[str, float]]
    loss: float | None
    change: float | None


class Explanation:
    """What the units of one layer follow; made by `explain`.

    Attributes
    ----------
    units : list of UnitExplanation
        By unit.
    features : list of str
    auc : ndarray (2, H, F)
        For "cell" and "hidden", each unit and feature: the area under the curve on the held-out half, not turned by
        sign: below 0.5 where the value is low when the feature is true. NaN where the feature never changes.
    frequency : ndarray (F,)
        The share of the held-out half in which each feature is true.
    loss : float or None
        Of the whole model on the tokens with which the units' losses were measured, in nats a token.
    tokens, loss_tokens : int
        How many tokens were read, and how many of the held-out half the losses were measured on.
    """

    def __init__(
        self,
        units: list[UnitExplanation],
        features: list[str],
        auc: Array,
        frequency: Array,
        loss: float | None,
        tokens: int,
        loss_tokens: int,
    ) -> None:
        self.units, self.features, self.auc, self.frequency = units, features, auc, frequency
        self.loss, self.tokens, self.loss_tokens = loss, tokens, loss_tokens

    def __repr__(self) -> str:
        return f"Explanation(units={len(self.units)}, features={len(self.features)}, tokens={self.tokens})"

    def following(self, feature: str) -> list[tuple[int, str, float]]:
        """Return the units by how well they follow a feature on the held-out half.

        Parameters
        ----------
        feature : str

        Returns
        -------
        list of (unit, signal, auc)
            Of each unit the better signal; the auc is turned by its sign, so it is at least 0.5. The best comes first.
        """
        index = self.features.index(one_of("feature", feature, self.features))
        turned = 0.5 + np.abs(np.nan_to_num(self.auc[:, :, index], nan=0.5) - 0.5)
        signal = turned.argmax(axis=0)
        best = turned.max(axis=0)
        order = np.argsort(-best, kind="stable")
        return [(int(unit), SIGNALS[signal[unit]], float(best[unit])) for unit in order]

    def as_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON can hold.

        Returns
        -------
        dict
            "auc" is {signal: (H, F)}, None where it is NaN.
        """
        tables = {
            name: [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in table]
            for name, table in zip(SIGNALS, self.auc, strict=True)
        }
        return {
            "tokens": self.tokens,
            "loss": self.loss,
            "loss_tokens": self.loss_tokens,
            "features": [
                {"name": name, "frequency": float(share)}
                for name, share in zip(self.features, self.frequency, strict=True)
            ],
            "units": [unit._asdict() | {"others": [list(other) for other in unit.others]} for unit in self.units],
            "auc": tables,
        }

    def table(self, most: int | None = None) -> str:
        """Return a table in plain text, the units whose loss rises most first.

        Parameters
        ----------
        most : None or int
            The number of units; None for all.

        Returns
        -------
        str
        """
        key = (lambda one: one.auc) if self.loss is None else (lambda one: one.change or 0.0)
        units = sorted(self.units, key=key, reverse=True)[: None if most is None else positive_int("most", most)]
        lines = [("unit", "AUC", "signal", "follows", "loss when frozen")]
        for one in units:
            loss = "" if one.loss is None else f"{one.loss:.4f} ({one.change:+.4f})"
            signal = ("" if one.sign > 0 else "-") + one.signal
            lines.append((str(one.unit), f"{one.auc:.3f}", signal, one.feature, loss))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        right = {0, 1, 4}
        rows = [
            "  ".join(
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        head = f"{self.tokens} tokens, {len(self.features)} features"
        if self.loss is not None:
            head += f"; loss of the whole model {self.loss:.4f} nats a token, on {self.loss_tokens} held-out tokens"
        return "\n".join([head, *rows])
