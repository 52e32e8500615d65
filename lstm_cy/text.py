"""Text as tokens: vocabularies of characters, words and bytes, and texts for training."""

from __future__ import annotations

import codecs
import re
import sysconfig
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import file_path, int_array, positive_int, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import AnyStr, Self

    from .typing import Array, ArrayLike, FilePath, Ints

#: packages of the standard library that are read after its top-level modules
_PACKAGES = ("asyncio", "collections", "email", "http", "importlib", "json", "logging", "urllib")


class _Tokens:
    """Base class of the vocabularies."""

    unknown: Any = 0

    if TYPE_CHECKING:  # defined by each of them

        def __len__(self) -> int: ...
        def split(self, text: Any) -> Any: ...
        def encode(self, text: Any) -> Ints: ...
        def decode(self, tokens: ArrayLike) -> str: ...

    def missing(self, text: Any) -> list[str]:
        """Return the characters or words of a text that are not in the vocabulary.

        Parameters
        ----------
        text : str

        Returns
        -------
        list of str
            Each once, in the order of the text.
        """
        symbols = self.split(text)
        return list(dict.fromkeys(symbols[i] for i in np.flatnonzero(self.encode(text) == self.unknown)))

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """Decode tokens one by one.

        Parameters
        ----------
        tokens : iterable of int

        Yields
        ------
        str
            Each piece as soon as it is complete.
        """
        for token in _iterable("tokens", tokens):
            yield self.decode([token])

    def _checked(self, tokens: ArrayLike) -> Ints:
        tokens = _one_axis(tokens)
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(self):
            raise ValueError(f"tokens: expected 0 to {len(self) - 1}, got {tokens.min()} to {tokens.max()}")
        return tokens


class Vocabulary(_Tokens):
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
        _check_str("characters", characters)
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
        _check_str("text", text)
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
        _check_str("text", text)
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


class Words(_Tokens):
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
        words = list(_iterable("words", words))
        for word in words:
            _check_str("words", word)
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
        _check_str("text", text)
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


class Bytes(_Tokens):
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
        _check_str("text", text)
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
        for token in _iterable("tokens", tokens):
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


def _iterable(name: str, value: Any) -> Any:
    try:
        return iter(value)
    except TypeError:
        raise TypeError(f"{name}: expected an iterable, got {shown(value)} ({type(value).__name__})") from None


def _check_str(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a str, got {type(value).__name__}")


def _code_points(text: str) -> Array:
    """Return the code points of a text as an array, including lone surrogates, which os.fsdecode makes."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.intp)


def _from_code_points(codes: Array) -> str:
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def read_text(path: FilePath) -> str:
    """Return the text of a file in UTF-8.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    str

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is empty or not UTF-8; the message names the file and the first wrong byte.
    """
    try:
        text = Path(file_path("path", path)).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 text: {error.reason} at byte {error.start}; any file can be read as bytes"
        ) from None
    return _filled(path, text)


def read_bytes(path: FilePath) -> bytes:
    """Return the content of a file as bytes.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    bytes

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is empty.
    """
    return _filled(path, Path(file_path("path", path)).read_bytes())


def _filled(path: FilePath, content: AnyStr) -> AnyStr:
    if not content:
        raise ValueError(f"{path}: the file is empty")
    return content


def standard_library_text(limit: int | None = None) -> str:
    """Return the sources of Python's standard library, a text that every machine has.

    Parameters
    ----------
    limit : int, optional
        The largest number of characters.

    Returns
    -------
    str
        The public top-level modules in the order of their names, then those of a few packages without their
        tests; the same text each time on the same Python. Files that are not UTF-8 are skipped.

    Raises
    ------
    FileNotFoundError
        The sources of this Python's standard library are not installed.
    """
    limit = None if limit is None else positive_int("limit", limit)
    parts, length = [], 0
    for path in _standard_library_files():
        try:
            parts.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        length += len(parts[-1])
        if limit is not None and length >= limit:
            break
    if not length:
        raise FileNotFoundError(f"no sources of the standard library in {sysconfig.get_path('stdlib')}")
    return "".join(parts)[:limit]


def _standard_library_files() -> Iterator[Path]:
    folder = Path(sysconfig.get_path("stdlib"))
    # names that start with _ are left out: some of those files are generated when Python is built
    yield from sorted(folder.glob("[a-z]*.py"))
    for package in _PACKAGES:
        for path in sorted(folder.joinpath(package).rglob("*.py")):
            if not {"test", "tests"} & set(path.relative_to(folder).parts):
                yield path


def columns(tokens: ArrayLike, batch_size: int) -> tuple[Ints, Ints]:
    """Cut a continuous text into `batch_size` columns that are read in parallel.

    Column b + 1 continues where column b ends. Truncated back-propagation, which carries the state from one window
    of steps to the next, therefore carries it along the text.

    Parameters
    ----------
    tokens : array_like of int, shape (N,)
        The text.
    batch_size : int
        The number of columns B.

    Returns
    -------
    x, y : ndarray of intp, shape (T, B), T = (N - 1) // B
        The tokens, and for each the token that follows it. New arrays; up to B tokens at the end are not used.

    Raises
    ------
    ValueError
        The text is too short: T would be 0.

    Examples
    --------
    >>> x, y = columns([0, 1, 2, 3, 4, 5, 6], 2)
    >>> x.T
    array([[0, 1, 2],
           [3, 4, 5]])
    >>> y.T
    array([[1, 2, 3],
           [4, 5, 6]])
    """
    tokens, batch_size = _one_axis(tokens), positive_int("batch_size", batch_size)
    steps = (len(tokens) - 1) // batch_size
    if steps < 1:
        raise ValueError(f"tokens: {len(tokens)} are too few for {batch_size} columns")
    used = steps * batch_size
    x, y = (tokens[first : first + used].reshape(batch_size, steps).T.copy() for first in (0, 1))
    return x, y


def unigram_entropy(tokens: ArrayLike) -> float:
    """Return the entropy of one token drawn from `tokens`.

    This is the smallest possible loss on them for a model that ignores the context.

    Parameters
    ----------
    tokens : array_like of int (N,)
        At least one.

    Returns
    -------
    float
        In nats.

    Examples
    --------
    >>> round(unigram_entropy([0, 1, 0, 1]), 4)
    0.6931
    """
    tokens = _one_axis(tokens)
    if not len(tokens):
        raise ValueError("tokens: expected at least one")
    counts = np.unique(tokens, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _one_axis(tokens: ArrayLike) -> Ints:
    tokens = int_array("tokens", tokens)
    if tokens.ndim != 1:
        raise ValueError(f"tokens: expected shape (N,), got {tokens.shape}")
    return tokens
