"""Split text into pieces of words, which are learned from text."""

import re
from collections import Counter
from itertools import pairwise

# A word with the space before it; digits, signs and other spaces by themselves.
_WORDS = re.compile(r" ?[^\W\d_]+|.", re.DOTALL)


def learn_pieces(texts, merges):
    """Return all characters of the texts, and the pieces made by joining the most frequent neighbours `merges` times.

    Sennrich, Haddow and Birch, Neural machine translation of rare words with subword units, 2016, algorithm 1.

    >>> learn_pieces(["two, twenty-two"], 2)
    [' ', ',', '-', 'e', 'n', 'o', 't', 'w', 'y', 'tw', 'two']
    """
    counts = Counter(word for text in texts for word in _WORDS.findall(text))
    words = {tuple(word): count for word, count in counts.items()}
    pieces = sorted({sign for word in words for sign in word})
    for _ in range(merges):
        neighbours = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                neighbours[pair] += count
        if not neighbours:
            break
        best = max(neighbours, key=lambda pair: (neighbours[pair], pair))
        pieces.append("".join(best))
        joined = Counter()
        for word, count in words.items():
            joined[_join(word, best)] += count
        words = joined
    return pieces


def _join(word, pair):
    """Return `word` with each occurrence of `pair` joined into one piece."""
    if pair not in pairwise(word):
        return word
    out, i = [], 0
    while i < len(word):
        if word[i : i + 2] == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return tuple(out)


class Tokens:
    """Numbers for the directions and the pieces; 0 marks the beginning and the end of a text.

    >>> tokens = Tokens(["en->fr"], ["a", "b", "ab"])
    >>> tokens.source("en->fr", "abba"), tokens.target("ab")
    ([1, 4, 3, 2], [4])
    >>> tokens.split("abba")
    ['ab', 'b', 'a']
    """

    edge = 0

    def __init__(self, tags, pieces):
        self.tags, self.pieces = list(tags), list(pieces)
        self._number = {text: number for number, text in enumerate([*self.tags, *self.pieces], 1)}
        longest_first = sorted(self.pieces, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def __len__(self):
        return 1 + len(self._number)

    def split(self, text):
        """Split `text` into pieces, each the longest that fits; a ValueError names unknown characters."""
        unknown = sorted(set(text) - set(self.pieces))
        if unknown:
            raise ValueError(
                f"the model has never seen {', '.join(map(repr, unknown))}; "
                f"it knows {''.join(sorted(piece for piece in self.pieces if len(piece) == 1))!r}"
            )
        return self._pattern.findall(text)

    def source(self, tag, text):
        """Return the encoder's input: the direction, then the pieces."""
        return [self._number[tag], *self.target(text)]

    def target(self, text):
        """Return the decoder's output: the pieces."""
        return [self._number[piece] for piece in self.split(text)]

    def text(self, tokens):
        """Return the text of the decoder's output; a token that is no piece becomes a question mark."""
        first = 1 + len(self.tags)
        return "".join(self.pieces[token - first] if token >= first else "?" for token in tokens)
