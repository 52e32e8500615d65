"""The losses of the epochs: as text, a table and a picture."""

import sys
from fractions import Fraction

import numpy as np
import pytest

from lstm_cy.training import History


def test_repr_of_a_history():
    assert repr(History()) == "History(epochs=0, best_epoch=None)"
    assert repr(History([2.0, 1.0], [], [0.1, 0.1])) == "History(epochs=2, loss=1, best_epoch=1)"
    history = History([2.0, 1.0], [0.5, 0.75], [0.1, 0.1])
    assert repr(history) == "History(epochs=2, loss=1, validation=0.75, best_epoch=0)"


def test_a_history_holds_lists_of_numbers():
    for name in ("loss", "validation", "seconds"):
        for bad in ("sigmoid", None, 3, (1.0,), np.ones(2)):
            with pytest.raises(TypeError, match=f"{name}: expected a list of numbers"):
                History(**{name: bad})
        for bad in (["a"], [None], [1j], [[1.0]], [10**400], [np.timedelta64(1, "s")]):
            with pytest.raises(TypeError, match=rf"{name}\[0\]: expected a number"):
                History(**{name: bad})
    history = History([Fraction(1, 2), np.float32(2), 3, np.float64(np.nan), np.inf])
    assert [type(value) for value in history.loss] == [float] * 5
    assert repr(history) == "History(epochs=5, loss=inf, best_epoch=0)"


def test_a_history_in_a_notebook():
    assert "<th>epoch</th>" in History()._repr_html_()
    history = History([3.0, 2.0, 1.0], [3.0, np.nan, 4.0], [0.1, 0.2, 0.3])
    html = history._repr_html_()
    assert "<tr><th>1 (best)</th><td>3</td><td>3</td><td>0.1</td></tr>" in html
    assert "<tr><th>2</th><td>2</td><td>nan</td><td>0.2</td></tr>" in html
    html = History([3.0, 2.0], [3.0], [0.1, 0.2])._repr_html_()
    assert "<tr><th>2</th><td>2</td><td></td><td>0.2</td></tr>" in html
    long = History([float(value) for value in range(1000)], [], [0.1] * 1000)
    html = long._repr_html_()
    assert "<th>1 (best)</th>" in html and "<th>1000</th>" in html and len(html) < 3000


def test_a_history_as_a_picture():
    pytest.importorskip("matplotlib")
    figure = History([3.0, 2.0, 1.0], [3.0, 1.5, 4.0], [0.1] * 3).plot(title="a $ and another $")
    (axes,) = figure.axes
    training, validation, best = axes.get_lines()
    np.testing.assert_array_equal(training.get_xydata(), [[1, 3], [2, 2], [3, 1]])
    np.testing.assert_array_equal(validation.get_xydata(), [[1, 3], [2, 1.5], [3, 4]])
    assert list(best.get_xdata()) == [2, 2]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation", "best epoch: 2"]
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(History([1.0], [], [0.1]).plot().axes[0].get_lines()) == 2
    with pytest.raises(ValueError, match="at least one epoch, got none"):
        History().plot()


def test_a_picture_needs_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="History.plot needs Matplotlib: pip install matplotlib"):
        History([1.0], [], [0.1]).plot()
