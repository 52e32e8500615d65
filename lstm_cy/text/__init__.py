"""Text as tokens: vocabularies of characters, words and bytes, and texts for training."""

from .corpus import columns, read_bytes, read_text, standard_library_text, unigram_entropy
from .vocabulary import LEVELS, Bytes, Vocabulary, Words, vocabulary_from_json

__all__ = [
    "LEVELS",
    "Bytes",
    "Vocabulary",
    "Words",
    "columns",
    "read_bytes",
    "read_text",
    "standard_library_text",
    "unigram_entropy",
    "vocabulary_from_json",
]
