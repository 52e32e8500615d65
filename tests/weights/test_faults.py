"""Messages about files: they name the file, and names from it are safe to print."""

import zipfile

import pytest

from lstm_cy.weights.budget import LimitExceeded
from lstm_cy.weights.faults import ForeignFile, counted, listed, naming, shortened


def test_names_from_files_are_safe_in_messages():
    assert listed(["a", "b\n", "c"], most=2) == "a, b\\n, and 1 more"
    assert listed(["a", "b\n"], most=2) == "a, b\\n"
    assert shortened("abc\x07", 3) == "abc... (1 more characters)"
    assert shortened("abc", 3) == "abc"
    assert shortened("\x07") == "\\x07"


def test_numbers_have_their_nouns():
    assert [counted(number, "byte") for number in (0, 1, 2)] == ["0 bytes", "1 byte", "2 bytes"]


@pytest.mark.parametrize("error", [zipfile.BadZipFile, EOFError, OverflowError, UnicodeError])
def test_faults_of_a_file_name_it(error):
    with pytest.raises(ValueError, match=r"^a\\x07.npz: [a-z]*'?damaged") as caught, naming("a\x07.npz"):
        raise error("damaged")
    assert caught.value.__suppress_context__


def test_deep_files_name_themselves():
    with pytest.raises(ValueError, match=r"^a: nested too deep to be read here$"), naming("a"):
        raise RecursionError


@pytest.mark.parametrize("error", [LimitExceeded, ForeignFile, OSError, KeyError])
def test_other_errors_are_unchanged(error):
    with pytest.raises(error) as caught, naming("a"):
        raise error("as it is")
    assert caught.value.args == ("as it is",)
