"""Text as tokens: a vocabulary of characters, and texts to learn from."""

import sysconfig
from pathlib import Path

import numpy as np

from .checks import int_array, positive_int

#: packages of the standard library that are read after its top-level modules
_PACKAGES = ("asyncio", "collections", "email", "http", "importlib", "json", "logging", "urllib")


class Vocabulary:
    """The characters a model knows, and a number for each.

    Token 0 is the unknown symbol: every character that is not in the vocabulary, written as U+FFFD. The
    others are numbered from 1 in the order of their code points: the same characters give the same numbers.

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

    unknown = 0

    def __init__(self, characters):
        _check_str("characters", characters)
        known = np.unique(_code_points(characters))
        self._codes = np.concatenate([[0xFFFD], known[known != 0xFFFD]])

    @classmethod
    def from_text(cls, text, min_count=1):
        """The vocabulary of the characters that occur in `text` at least `min_count` times."""
        _check_str("text", text)
        counts = np.bincount(_code_points(text))
        return cls(_from_code_points(np.flatnonzero(counts >= positive_int("min_count", min_count))))

    @classmethod
    def from_json(cls, value):
        """The vocabulary whose `to_json` gave `value`; ValueError if it is of another kind."""
        if not isinstance(value, dict) or not isinstance(value.get("characters"), str):
            raise ValueError(f"vocabulary: expected {{'characters': str}}, got {value!r:.80}")
        return cls(value["characters"])

    def to_json(self):
        """What `from_json` takes: a dict for JSON, at home in a model's metadata."""
        return {"characters": self.characters}

    @property
    def characters(self):
        """The known characters in the order of their tokens, which begin at 1."""
        return _from_code_points(self._codes[1:])

    def __len__(self):
        """The number of tokens, the unknown symbol among them."""
        return len(self._codes)

    def encode(self, text):
        """The tokens of `text`: an intp array (len(text),)."""
        _check_str("text", text)
        codes = _code_points(text)
        # the first code is out of order: search the others, and compare with what was found
        tokens = np.searchsorted(self._codes[1:], codes, side="right")
        return np.where(self._codes[tokens] == codes, tokens, self.unknown)

    def decode(self, tokens):
        """The text of `tokens`, an integer array of one axis; ValueError for a token that there is not."""
        tokens = int_array("tokens", tokens)
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(self):
            raise ValueError(f"tokens: expected 0 to {len(self) - 1}, got {tokens.min()} to {tokens.max()}")
        return _from_code_points(self._codes[tokens])

    def __eq__(self, other):
        return isinstance(other, Vocabulary) and self.characters == other.characters

    def __hash__(self):
        return hash(self.characters)

    def __repr__(self):
        return f"Vocabulary({self.characters!r})"


def _check_str(name, value):
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a str, got {type(value).__name__}")


# Whole texts as arrays of code points; lone surrogates, which os.fsdecode makes, pass through.
def _code_points(text):
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.intp)


def _from_code_points(codes):
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def read_text(path):
    """The text of the file `path`, in UTF-8.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is empty or not UTF-8; the message names the file and the first byte that is wrong.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not text:
        raise ValueError(f"{path}: the file is empty")
    return text


def standard_library_text(limit=None):
    """The sources of Python's own standard library, a text found on every machine.

    Parameters
    ----------
    limit : int, optional
        At most so many characters.

    Returns
    -------
    str
        The public top-level modules in the order of their names, then those of a few packages without their
        tests; the same text each time on the same Python. Files that are not UTF-8 are passed over.

    Raises
    ------
    FileNotFoundError
        This Python has no sources beside it.
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


def _standard_library_files():
    folder = Path(sysconfig.get_path("stdlib"))
    # names that begin with _ are left out: some of those files are written when Python is built
    yield from sorted(folder.glob("[a-z]*.py"))
    for package in _PACKAGES:
        for path in sorted(folder.joinpath(package).rglob("*.py")):
            if not {"test", "tests"} & set(path.relative_to(folder).parts):
                yield path


def columns(tokens, batch_size):
    """A continuous text cut into `batch_size` columns that are read side by side.

    Column b + 1 goes on where column b ends, so that truncated back-propagation, which carries the state from
    one window of steps to the next, carries it along the text.

    Parameters
    ----------
    tokens : array_like of int, shape (N,)
        The text.
    batch_size : int
        The number of columns B.

    Returns
    -------
    x, y : ndarray of intp, shape (T, B), T = (N - 1) // B
        Tokens and, for each, the token that follows it. Fresh arrays; up to B tokens at the end are not used.

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


def unigram_entropy(tokens):
    """The entropy in nats of one token drawn from `tokens`, a non-empty integer array of one axis.

    No model that looks at single tokens only can have a smaller loss on them.

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


def _one_axis(tokens):
    tokens = int_array("tokens", tokens)
    if tokens.ndim != 1:
        raise ValueError(f"tokens: expected shape (N,), got {tokens.shape}")
    return tokens
