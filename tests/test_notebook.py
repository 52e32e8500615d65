"""Display in notebooks."""

import pickle

import pytest

from lstm_cy.notebook import html_table, show_as_picture


def test_tables_escape_what_they_show():
    shown = html_table("<b>", [("a&b", 1, "<script>")], header=("x", "<y>", ""))
    assert shown == (
        "<table><caption>&lt;b&gt;</caption><tr><th>x</th><th>&lt;y&gt;</th><th></th></tr>"
        "<tr><th>a&amp;b</th><td>1</td><td>&lt;script&gt;</td></tr></table>"
    )


def test_figures_display_as_png_and_can_be_pickled():
    figure = show_as_picture(pytest.importorskip("matplotlib.figure").Figure())
    figure.subplots().plot([1, 2])
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert pickle.loads(pickle.dumps(figure))._repr_png_().startswith(b"\x89PNG")
