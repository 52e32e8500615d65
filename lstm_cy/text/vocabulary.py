"""Vocabularies: characters, words and bytes as tokens."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import positive_int, shown
from .tokens import Tokens, check_str, iterable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from ..typing import Array, ArrayLike, Ints


class Vocabulary(Tokens):
    """The characters that a model knows, with a number for each.

    Token 0 is the unknown symbol: it stands for every character outside the vocabulary, and is decoded as U+FFFD.
    The others are numbered from 1 in the order of their code points: the same characters give the same numbers.

    Parameters
    ----------
    characters : str
        The characters; order and repetition do not matter.

    Examples
    --------
    >>> vocabulary = Vocabulary.from_text("banana")
    >>> vocabulary
    Vocabulary('abn')
    >>> vocabulary.encode("nab!")
    array([3, 1, 2, 0])
    >>> vocabulary.decode([3, 1, 2, 0])
    'nab\N{REPLACEMENT CHARACTER}'
    """

    unit = "character"

    def __init__(self, characters: str) -> None:
        check_str("characters", characters)
        known = np.unique(_code_points(characters))
        self._codes = np.concatenate([[0xFFFD], known[known != 0xFFFD]])

    @classmethod
    def from_text(cls, text: str, min_count: int = 1, size: int | None = None) -> Self:
        """Return the vocabulary of the characters of a text.

        Parameters
        ----------
        text : str
        min_count : int
            Only characters that occur at least this often.
        size : int, optional
            The largest number of tokens, including the unknown symbol; the most frequent characters are taken.

        Returns
        -------
        Vocabulary
        """
        check_str("text", text)
        counts = np.bincount(_code_points(text))
        counts[counts < positive_int("min_count", min_count)] = 0
        counts[0xFFFD:0xFFFE] = 0  # the unknown symbol
        chosen = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        return cls(_from_code_points(chosen[: _known(size)]))

    @staticmethod
    def split(text: str) -> str:
        """Split a text into the pieces that become tokens.

        Parameters
        ----------
        text : str

        Returns
        -------
        str
            The text itself: its characters.
        """
        return text

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Return the vocabulary whose `to_json` returned `value`.

        Parameters
        ----------
        value : dict

        Returns
        -------
        Vocabulary

        Raises
        ------
        ValueError
            It does not describe such a vocabulary.
        """
        if not isinstance(value, dict) or not isinstance(value.get("characters"), str):
            raise ValueError(f"vocabulary: expected {{'characters': str}}, got {shown(value)}")
        return cls(value["characters"])

    def to_json(self) -> dict[str, Any]:
        """Return a dict for `from_json`, which a model's metadata can hold.

        Returns
        -------
        dict
            Only values that JSON can hold.
        """
        return {"characters": self.characters}

    @property
    def characters(self) -> str:
        """The known characters in the order of their tokens, which start at 1."""
        return _from_code_points(self._codes[1:])

    def __len__(self) -> int:
        """Return the number of tokens, including the unknown symbol."""
        return len(self._codes)

    def encode(self, text: str) -> Ints:
        """Return the tokens of a text.

        Parameters
        ----------
        text : str

        Returns
        -------
        ndarray of intp (N,)
            One for each character.
        """
        check_str("text", text)
        codes = _code_points(text)
        # the first code is out of order: search the others, and compare the codes found
        tokens = np.searchsorted(self._codes[1:], codes, side="right")
        return np.where(self._codes[tokens] == codes, tokens, self.unknown)

    def decode(self, tokens: ArrayLike) -> str:
        """Return the text of tokens.

        Parameters
        ----------
        tokens : array_like of int (N,)

        Returns
        -------
        str

        Raises
        ------
        ValueError
            A token is out of range.
        """
        return _from_code_points(self._codes[self._checked(tokens)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.characters == other.characters

    def __hash__(self) -> int:
        return hash(self.characters)

    def __repr__(self) -> str:
        return f"Vocabulary({self.characters!r})"


# In this order: a word with the space before it, another visible character with that space, white space up to it.
_WORD = re.compile(r" ?[^\W\u3040-\u30ff\u3400-\u9fff]+| ?\S|\s+(?!\S)|\s")


class Words(Tokens):
    """The words that a model knows, with a number for each.

    A word is a run of letters, digits and underscores, or one other visible character, in both cases with one space
    before it if there is one; or a run of white space up to that space. Each Chinese character and each Japanese kana
    is a word. Joined, the words of a text are the text.

    Token 0 is the unknown word, decoded as U+FFFD; the others are numbered from 1 in the order of their code points.

    Parameters
    ----------
    words : iterable of str
        The words; order and repetition do not matter.

    Examples
    --------
    >>> Words.split("if not x:\\n    return")
    ['if', ' not', ' x', ':', '\\n   ', ' return']
    >>> vocabulary = Words.from_text("a rose is a rose is a rose", size=3)
    >>> vocabulary
    Words([' is', ' rose'])
    >>> vocabulary.encode(" rose is red")
    array([2, 1, 0])
    >>> vocabulary.decode([2, 1, 0])
    ' rose is\N{REPLACEMENT CHARACTER}'
    """

    unit = "word"

    def __init__(self, words: Iterable[str]) -> None:
        words = list(iterable("words", words))
        for word in words:
            check_str("words", word)
        self._words = ["\ufffd", *sorted(set(words) - {"\ufffd"})]
        self._tokens = {word: token for token, word in enumerate(self._words)}

    @classmethod
    def from_text(cls, text: str, min_count: int = 1, size: int | None = 10_000) -> Self:
        """Return the vocabulary of the words of a text.

        Parameters
        ----------
        text : str
        min_count : int
            Only words that occur at least this often.
        size : int or None
            The largest number of tokens, including the unknown word; the most frequent words are taken, and of equally
            frequent ones those that come first in the text. None: no limit.

        Returns
        -------
        Words
        """
        counts = Counter(cls.split(text))
        counts.pop("\ufffd", None)
        least = positive_int("min_count", min_count)
        return cls(word for word, count in counts.most_common(_known(size)) if count >= least)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Return the vocabulary whose `to_json` returned `value`.

        Parameters
        ----------
        value : dict

        Returns
        -------
        Words

        Raises
        ------
        ValueError
            It does not describe such a vocabulary.
        """
        words = value.get("words") if isinstance(value, dict) else None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"vocabulary: expected {{'words': [str, ...]}}, got {shown(value)}")
        return cls(words)

    def to_json(self) -> dict[str, Any]:
        """Return a dict for `from_json`, which a model's metadata can hold.

        Returns
        -------
        dict
            Only values that JSON can hold.
        """
        return {"words": self.words}

    @property
    def words(self) -> list[str]:
        """The known words in the order of their tokens, which start at 1."""
        return self._words[1:]

    def __len__(self) -> int:
        """Return the number of tokens, including the unknown word."""
        return len(self._words)

    @staticmethod
    def split(text: str) -> list[str]:
        """Split a text into the pieces that become tokens.

        Parameters
        ----------
        text : str

        Returns
        -------
        list of str
            Joined, they are the text.
        """
        check_str("text", text)
        return _WORD.findall(text)

    def encode(self, text: str) -> Ints:
        """Return the tokens of a text.

        Parameters
        ----------
        text : str

        Returns
        -------
        ndarray of intp (N,)
            One for each word.
        """
        return np.array([self._tokens.get(word, self.unknown) for word in self.split(text)], np.intp)

    def decode(self, tokens: ArrayLike) -> str:
        """Return the text of tokens.

        Parameters
        ----------
        tokens : array_like of int (N,)

        Returns
        -------
        str

        Raises
        ------
        ValueError
            A token is out of range.
        """
        return "".join([self._words[token] for token in self._checked(tokens)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Words) and self._words == other._words

    def __hash__(self) -> int:
        return hash(tuple(self._words))

    def __repr__(self) -> str:
        return f"Words({self.words!r})"


class Bytes(Tokens):
    """The 256 bytes, each with its value as its number: no byte is unknown, and any file can be read.

    Texts are UTF-8. Bytes that are not UTF-8 become lone surrogates in a str, as with `os.fsdecode` (PEP 383), so that
    ``decode(encode(data)).encode("utf-8", "surrogateescape")`` is `data` for any bytes.

    Examples
    --------
    >>> Bytes().encode("né")
    array([110, 195, 169])
    >>> Bytes().decode([110, 195, 169, 255])
    'né\\udcff'
    >>> list(Bytes().pieces([110, 195, 169]))  # é is yielded after its second byte
    ['n', 'é']
    """

    unit = "byte"
    unknown = None

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Return the vocabulary whose `to_json` returned `value`.

        Parameters
        ----------
        value : dict

        Returns
        -------
        Bytes

        Raises
        ------
        ValueError
            It does not describe such a vocabulary.
        """
        if value != {"bytes": 256}:
            raise ValueError(f"vocabulary: expected {{'bytes': 256}}, got {shown(value)}")
        return cls()

    def to_json(self) -> dict[str, Any]:
        """Return a dict for `from_json`, which a model's metadata can hold.

        Returns
        -------
        dict
            Only values that JSON can hold.
        """
        return {"bytes": 256}

    def __len__(self) -> int:
        return 256

    @staticmethod
    def split(text: str | bytes) -> bytes:
        """Split a text into the pieces that become tokens.

        Parameters
        ----------
        text : str or bytes

        Returns
        -------
        bytes
        """
        if isinstance(text, bytes | bytearray):
            return bytes(text)
        check_str("text", text)
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:  # a surrogate that represents no byte
            wrong = text[error.start]
            raise ValueError(f"text: expected characters or bytes, got {wrong!a} at {error.start}") from None

    def encode(self, text: str | bytes) -> Ints:
        """Return the tokens of a text.

        Parameters
        ----------
        text : str or bytes

        Returns
        -------
        ndarray of intp (N,)
            One for each byte.
        """
        return np.frombuffer(self.split(text), np.uint8).astype(np.intp)

    def decode(self, tokens: ArrayLike) -> str:
        """Return the text of tokens.

        Parameters
        ----------
        tokens : array_like of int (N,)

        Returns
        -------
        str

        Raises
        ------
        ValueError
            A token is out of range.
        """
        return self._checked(tokens).astype(np.uint8).tobytes().decode("utf-8", "surrogateescape")

    def missing(self, text: str | bytes) -> list[str]:
        """Return an empty list, because no byte is unknown.

        Parameters
        ----------
        text : str or bytes

        Returns
        -------
        list
        """
        return []

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """Decode tokens one by one.

        Parameters
        ----------
        tokens : iterable of int

        Yields
        ------
        str
            A character after its last byte.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        for token in iterable("tokens", tokens):
            if piece := decoder.decode(self._checked([token]).astype(np.uint8).tobytes()):
                yield piece
        if piece := decoder.decode(b"", final=True):
            yield piece

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bytes)

    def __hash__(self) -> int:
        return hash(Bytes)

    def __repr__(self) -> str:
        return "Bytes()"


#: the vocabulary of each level
LEVELS: dict[str, Any] = {"characters": Vocabulary, "words": Words, "bytes": Bytes}


def vocabulary_from_json(value: Any) -> Vocabulary | Words | Bytes:
    """Return the vocabulary, of any level, whose ``to_json`` returned `value`.

    Parameters
    ----------
    value : dict

    Returns
    -------
    Vocabulary, Words or Bytes

    Examples
    --------
    >>> vocabulary_from_json({"words": ["b", "a"]})
    Words(['a', 'b'])
    """
    for level, kind in LEVELS.items():
        if isinstance(value, dict) and level in value:
            found: Vocabulary | Words | Bytes = kind.from_json(value)
            return found
    raise ValueError(f"vocabulary: expected one of {', '.join(LEVELS)}, got {shown(value)}")


def _known(size: int | None) -> int | None:
    """Return the number of known symbols in a vocabulary of `size` tokens."""
    return None if size is None else positive_int("size", size) - 1


def _code_points(text: str) -> Array:
    """Return the code points of a text as an array, including lone surrogates, which os.fsdecode makes."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.intp)


def _from_code_points(codes: Array) -> str:
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
