"""Features of text and code: what is true at each character, such as being inside quotes or in a comment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..typing import Array, Bools, Ints

_OPENING, _CLOSING = "([{", ")]}"
_QUOTES = "'\""
_OPERATORS = "+-*/=<>&|^%!~"
_VOWELS = "aeiouAEIOU"
#: letters that have a feature each: the most frequent ones of the text
_COMMON_LETTERS = 4


def text_features(text: str | bytes) -> dict[str, Bools]:
    """Return what is true at each character of a text, or at each byte.

    Parameters
    ----------
    text : str or bytes

    Returns
    -------
    dict of str to ndarray of bool (number of characters,)
        Under names that a reader understands. The character itself counts as read: after an opening bracket the depth
        is 1, and a quote that opens is inside.

    Examples
    --------
    >>> found = text_features("f(x)")
    >>> found["bracket depth above 0"].tolist()
    [False, True, True, False]
    """
    codes = _codes(text)
    marks = _Marks(codes)
    return {**_characters(marks), **_words(marks), **_lines(marks), **_structure(marks), **_times(marks)}


class _Marks:
    """The characters of a text, and where those of each class are."""

    def __init__(self, codes: Ints) -> None:
        self.codes = codes
        self.places = np.arange(len(codes))
        small = np.minimum(codes, 127)
        self.upper = _in(small, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        self.letter = self.upper | _in(small, "abcdefghijklmnopqrstuvwxyz") | (codes > 127)
        self.digit = _in(small, "0123456789")
        self.word = self.letter | self.digit | (codes == ord("_"))
        self.line_end = codes == ord("\n")
        self.blank = _in(small, " \t")
        self.mark = ~self.word & ~self.line_end & ~self.blank & (codes > 32)

    def since(self, where: Bools) -> Ints:
        """Return the number of characters since the last one at which `where` is true; a large one before the first."""
        last = np.maximum.accumulate(np.where(where, self.places, -(1 << 40)))
        return self.places - last

    def position(self, boundary: Bools) -> Ints:
        """Return the position after the last boundary, or after the beginning, counted from 1; 0 at a boundary."""
        return np.minimum(self.since(boundary), self.places + 1)

    def before(self, where: Bools) -> Bools:
        """Return whether `where` is true at the character before."""
        return np.concatenate([[False], where[:-1]])

    def at_last(self, where: Bools, value: Array) -> Array:
        """Return the value at the last character at which `where` is true; zero before the first."""
        last = np.maximum.accumulate(np.where(where, self.places, -1))
        return np.where(last >= 0, value[np.maximum(last, 0)], 0)


def _characters(marks: _Marks) -> dict[str, Bools]:
    codes = marks.codes
    small = np.minimum(codes, 127)
    return {
        "a letter": marks.letter,
        "a capital letter": marks.upper,
        "a vowel": _in(small, _VOWELS),
        "a digit": marks.digit,
        "a space or tab": marks.blank,
        "the end of a line": marks.line_end,
        "a punctuation mark": marks.mark,
        "an opening bracket": _in(small, _OPENING),
        "a closing bracket": _in(small, _CLOSING),
        "a quotation mark": _in(small, _QUOTES),
        "an operator": _in(small, _OPERATORS),
        "a comma, colon or semicolon": _in(small, ",:;"),
        "a full stop": codes == ord("."),
        "a question mark": codes == ord("?"),
        "the same character as before": marks.before(np.ones(len(codes), bool)) & (np.diff(codes, prepend=-1) == 0),
    }


def _words(marks: _Marks) -> dict[str, Bools]:
    position = marks.position(~marks.word)
    inside = marks.word
    first = inside & ~marks.before(marks.word)
    capital = marks.at_last(first, marks.upper.astype(np.int64)).astype(bool)
    numeric = marks.at_last(first, marks.digit.astype(np.int64)).astype(bool)
    return {
        "the first character of a word": first,
        "a word, after its third character": inside & (position > 3),
        "a word, after its sixth character": inside & (position > 6),
        "a word that begins with a capital": inside & capital,
        "a number": inside & numeric,
        "a word after an underscore": inside & (marks.since(marks.codes == ord("_")) < position),
        "between words": ~marks.word,
    } | {
        f"the last letter was {chr(code)!r}": marks.at_last(marks.letter, marks.codes) == code
        for code in _common(marks)
    }


def _common(marks: _Marks) -> list[int]:
    """Return the most frequent letters, from the first half of the text."""
    half = marks.codes[: len(marks.codes) // 2]
    found, counts = np.unique(half[marks.letter[: len(half)]], return_counts=True)
    return [int(code) for code in found[np.argsort(-counts, kind="stable")[:_COMMON_LETTERS]]]


def _lines(marks: _Marks) -> dict[str, Bools]:
    position = marks.position(marks.line_end)
    ink = ~marks.blank & ~marks.line_end
    in_indentation = marks.blank & (marks.position(ink | marks.line_end) == position)
    begins = ink & marks.before(marks.line_end | in_indentation) | ((marks.places == 0) & ink)
    indentation = marks.at_last(begins, position - 1)
    indentation = np.where(in_indentation, position, np.where(marks.line_end, 0, indentation))
    blank_line = marks.line_end & marks.before(marks.line_end)
    common = _common(marks)[:2]
    more = {}
    if len(common) == 2:  # as a counter sees lines of n a's and then n b's
        ahead = np.cumsum((marks.codes == common[0]).astype(np.int64) - (marks.codes == common[1]))
        ahead -= marks.at_last(marks.line_end, ahead)
        more = {f"more {chr(common[0])!r} than {chr(common[1])!r} since the line began": ahead > 0}
    return more | {
        "the first ten characters of a line": ~marks.line_end & (position <= 10),
        "a line, after its 20th character": ~marks.line_end & (position > 20),
        "a line, after its 40th character": ~marks.line_end & (position > 40),
        "an even position in a line": ~marks.line_end & (position % 2 == 0),
        "the indentation of a line": in_indentation,
        "a line indented by 4 or more": indentation >= 4,
        "a line indented by 8 or more": indentation >= 8,
        "within 80 characters after an empty line": marks.since(blank_line) <= 80,
    }


def _structure(marks: _Marks) -> dict[str, Bools]:
    depth, innermost, quote, comment = _scanned(marks)
    return {
        "bracket depth above 0": depth > 0,
        "bracket depth above 1": depth > 1,
        "bracket depth above 2": depth > 2,
        "innermost bracket (": innermost == 1,
        "innermost bracket [": innermost == 2,
        "innermost bracket {": innermost == 3,
        "inside quotes": quote > 0,
        "inside '...'": quote == 1,
        'inside "..."': quote == 2,
        "inside triple quotes": quote == 3,
        "a comment after #": comment,
    }


def _times(marks: _Marks) -> dict[str, Bools]:
    names = {
        "a space": marks.blank,
        "a punctuation mark": marks.mark,
        "a capital letter": marks.upper,
        "a digit": marks.digit,
        "the end of a line": marks.line_end,
    }
    return {f"within 5 characters after {name}": marks.since(where) <= 5 for name, where in names.items()}


def _scanned(marks: _Marks) -> tuple[Ints, Ints, Ints, Bools]:
    """Return (bracket depth, kind of the innermost bracket, kind of quotes, whether in a comment) at each character.

    Kinds are counted from 1, 0 is none; quotes of kind 3 are triple ones. A quotation mark after a word character opens
    nothing: it is an apostrophe. Quotes other than triple ones end with the line, brackets at an empty line.
    """
    codes = marks.codes
    events = np.flatnonzero(_in(np.minimum(codes, 127), _OPENING + _CLOSING + _QUOTES + "#\\\n"))
    letters = [chr(code) for code in codes[events].tolist()]
    after_word = marks.before(marks.word)[events].tolist()
    states = np.zeros((len(events) + 1, 4), np.int64)
    stack: list[int] = []
    quote, triple, comment, escaped, skip = "", False, False, -1, -1
    for number, (place, letter) in enumerate(zip(events.tolist(), letters, strict=True)):
        closing = False
        if place <= skip or place == escaped:
            pass
        elif letter == "\n":
            comment = False
            if quote and not triple:
                quote = ""
            if place and codes[place - 1] == 10 and not quote:
                stack.clear()
        elif comment:
            pass
        elif quote:
            if letter == "\\":
                escaped = place + 1
            elif letter == quote and not triple:
                closing = True
            elif letter == quote and _run(codes, place) >= 3:
                closing, skip = True, place + 2
        elif letter in _QUOTES:
            if not after_word[number]:
                quote = letter
                triple = _run(codes, place) >= 3
                skip = place + 2 if triple else skip
        elif letter == "#":
            comment = True
        elif letter in _OPENING:
            stack.append(1 + _OPENING.index(letter))
        elif letter in _CLOSING and stack:
            stack.pop()
        if closing:
            quote, triple = "", False
        kind = 0 if not quote else 3 if triple else 1 + _QUOTES.index(quote)
        states[number + 1] = len(stack), stack[-1] if stack else 0, kind, comment
    lengths = np.diff(np.concatenate([[0], events, [len(codes)]]))
    depth, innermost, kinds, comments = np.repeat(states, lengths, axis=0).T
    return depth, innermost, kinds, comments.astype(bool)


def _run(codes: Ints, place: int) -> int:
    """Return how often the character at a place is repeated from there on, up to 3."""
    return 1 + sum(bool(np.all(codes[place : place + n] == codes[place])) and place + n <= len(codes) for n in (2, 3))


def _in(codes: Ints, letters: str) -> Bools:
    """Return where codes, at most 127, are among the letters."""
    table = np.zeros(128, bool)
    table[[ord(letter) for letter in letters]] = True
    return table[codes]


def _codes(text: str | bytes) -> Any:
    if isinstance(text, str):
        return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)
    return np.frombuffer(bytes(text), np.uint8).astype(np.int64)
