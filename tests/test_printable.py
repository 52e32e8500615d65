"""Text from files is printed without effect on a terminal."""

import pytest

from lstm_cy.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2028", "\\u2028"),
        ("\udc80", "\\udc80"),
        ("中文 é 👩‍👩‍👧", "中文 é 👩‍👩‍👧"),
        (b"x", "b'x'"),
    ],
)
def test_control_characters_are_escaped(text, shown):
    assert printable(text) == shown


def test_kept_characters_are_not_escaped():
    assert printable("a\n\x1b", keep="\n\t") == "a\n\\x1b"
