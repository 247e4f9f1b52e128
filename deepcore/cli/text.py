"""Lines of text as numbers of words or characters; the vocabulary is saved in a run's input.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepcore.data import text
from deepcore.errors import DataError, FileFormatError

TOKENS = ("word", "character")
ENCODINGS = ("utf-8", "latin-1")
#: Token 0 is padding, 1 any token that is not in the vocabulary.
PADDING, UNKNOWN, FIRST = 0, 1, 2
_LONGEST = 1 << 16
_SPECIALS = ("<padding>", "<unknown>")


@dataclass
class Text:
    """Encodes lines as numbers of tokens (N, length) int64: a line's first `length`, then padding.

    A token is a word or a mark between words ("word"), or one character ("character"). A line without tokens is one
    unknown token. `lowercase`: capitals are small letters. `encoding`: of files.
    """

    vocabulary: tuple[str, ...]
    length: int
    tokens: str = "word"
    lowercase: bool = True
    encoding: str = "utf-8"

    @property
    def size(self) -> int:
        """How many tokens there are, with padding and the unknown one."""
        return FIRST + len(self.vocabulary)

    @classmethod
    def fit(cls, lines: Iterable[str], length: int | None, most: int, least: int, **options) -> Text:
        """The vocabulary of the training lines: up to `most` tokens that occur `least` times, the most frequent first.

        length: that of a line in tokens; None for the longest line's.
        """
        encoder = cls((), 1, **options)
        longest = 0

        def split(line: str) -> list[str]:
            nonlocal longest
            tokens = encoder.split(line)
            longest = max(longest, len(tokens))
            return tokens

        vocabulary = text.Vocabulary.from_texts(lines, split, least, most, specials=(), unknown=None)
        if not len(vocabulary):
            raise DataError(
                f"no {encoder.tokens} of the training lines occurs {least} times" if longest else "there is no text",
                fix="min_count = 1" if longest else None,
            )
        encoder.vocabulary = tuple(vocabulary)
        encoder.length = min(max(longest, 1), _LONGEST) if length is None else length
        return encoder

    def split(self, line: str) -> list[str]:
        """The tokens of a line."""
        line = line.lower() if self.lowercase else line
        return text.split_words(line) if self.tokens == "word" else list(line.strip())

    def encode(self, lines: Sequence[str] | np.ndarray) -> np.ndarray:
        """The lines' tokens (N, length)."""
        vocabulary = text.Vocabulary(self.vocabulary, _SPECIALS, _SPECIALS[UNKNOWN])
        rows = [vocabulary.encode(self.split(line)[: self.length] or [_SPECIALS[UNKNOWN]]) for line in lines]
        if not rows:
            return np.full((0, self.length), PADDING, np.int64)
        return text.pad_sequences(rows, self.length, PADDING)

    def read(self, path) -> np.ndarray:
        """The lines of a file, each a sample. Errors: `DataError` for an empty file, `FileFormatError` for other encodings."""
        lines = read_lines(path, self.encoding)
        if not lines:
            raise DataError(f"{str(path)!r} has no lines", expected="a text in each line")
        return self.encode(lines)

    @classmethod
    def parse(cls, table: dict[str, Any]) -> Text:
        """Inverse of `dataclasses.asdict`; ValueError or TypeError for invalid values."""
        encoder = cls(**table)
        encoder.vocabulary = tuple(encoder.vocabulary)
        if not all(isinstance(token, str) for token in encoder.vocabulary) or type(encoder.lowercase) is not bool:
            raise ValueError("a vocabulary lists texts, and lowercase is true or false")
        if len(set(encoder.vocabulary)) < len(encoder.vocabulary):
            raise ValueError("a vocabulary lists each token once")
        if type(encoder.length) is not int or not 0 < encoder.length <= _LONGEST:
            raise ValueError(f"a line has 1 to {_LONGEST} tokens")
        if encoder.tokens not in TOKENS or encoder.encoding not in ENCODINGS:
            raise ValueError("text has no such tokens or encoding")
        return encoder


def read_lines(path, encoding: str) -> list[str]:
    """The lines of a file; an error names the key of [data] that helps."""
    try:
        return text.read_lines(path, encoding)
    except FileFormatError as error:
        if encoding == "utf-8" and "UTF-8" in error.problem:
            error.fix = f'{error.fix}; for a run to train: encoding = "latin-1" in [data]'
        raise


def read_samples(path, encoding: str) -> tuple[list[str], list[str]]:
    """(labels, texts) of a file or a folder; see `data.text.read_labelled`."""
    return text.read_labelled(path, encoding, read_lines)
