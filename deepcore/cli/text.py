"""Lines of text as numbers of words or characters; the vocabulary is saved in a run's input.json."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepcore.errors import DataError, FileFormatError
from deepcore.io.files import decode_utf8, open_regular

TOKENS = ("word", "character")
ENCODINGS = ("utf-8", "latin-1")
#: Token 0 is padding, 1 any token that is not in the vocabulary.
PADDING, UNKNOWN, FIRST = 0, 1, 2
_LONGEST = 1 << 16
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


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
        text = cls((), 1, **options)
        counts: Counter[str] = Counter()
        longest = 1
        for line in lines:
            tokens = text.split(line)
            counts.update(tokens)
            longest = max(longest, len(tokens))
        frequent = sorted((token for token, count in counts.items() if count >= least), key=lambda t: (-counts[t], t))
        if not frequent:
            raise DataError(
                f"no {text.tokens} of the training lines occurs {least} times" if counts else "there is no text",
                fix="min_count = 1" if counts else None,
            )
        text.vocabulary = tuple(frequent[:most])
        text.length = min(longest, _LONGEST) if length is None else length
        return text

    def split(self, line: str) -> list[str]:
        """The tokens of a line."""
        line = line.lower() if self.lowercase else line
        return _WORD.findall(line) if self.tokens == "word" else list(line.strip())

    def encode(self, lines: Sequence[str] | np.ndarray) -> np.ndarray:
        """The lines' tokens (N, length)."""
        number = {token: i for i, token in enumerate(self.vocabulary, FIRST)}
        out = np.full((len(lines), self.length), PADDING, np.int64)
        for row, line in zip(out, lines):
            numbers = [number.get(token, UNKNOWN) for token in self.split(line)[: self.length]] or [UNKNOWN]
            row[: len(numbers)] = numbers
        return out

    def read(self, path) -> np.ndarray:
        """The lines of a file, each a sample. Errors: `DataError` for an empty file, `FileFormatError` for other encodings."""
        lines = read_lines(path, self.encoding)
        if not lines:
            raise DataError(f"{str(path)!r} has no lines", expected="a text in each line")
        return self.encode(lines)

    @classmethod
    def parse(cls, table: dict[str, Any]) -> Text:
        """Inverse of `dataclasses.asdict`; ValueError or TypeError for invalid values."""
        text = cls(**table)
        text.vocabulary = tuple(text.vocabulary)
        if not all(isinstance(token, str) for token in text.vocabulary) or type(text.lowercase) is not bool:
            raise ValueError("a vocabulary lists texts, and lowercase is true or false")
        if len(set(text.vocabulary)) < len(text.vocabulary):
            raise ValueError("a vocabulary lists each token once")
        if type(text.length) is not int or not 0 < text.length <= _LONGEST:
            raise ValueError(f"a line has 1 to {_LONGEST} tokens")
        if text.tokens not in TOKENS or text.encoding not in ENCODINGS:
            raise ValueError("text has no such tokens or encoding")
        return text


def read_lines(path, encoding: str) -> list[str]:
    """The lines of a file, without their ends; the empty one after the last end is none."""
    with open_regular(path) as file:
        content = file.read()
    if encoding == "latin-1":
        text = content.decode("latin-1")
    else:
        try:
            text = decode_utf8(content, str(path))
        except FileFormatError as error:
            error.fix = f'{error.fix}; for a run to train: encoding = "latin-1" in [data]'
            raise
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def read_samples(path: Path, encoding: str) -> tuple[list[str], list[str]]:
    """(labels, texts) of a file or a folder.

    A file has `label<TAB>text` in each line. A folder has the texts by class: in files, a text in each line, or in
    folders, with a text in each file. Classes are named as these, without ".txt". Empty lines are left out.
    """
    labels: list[str] = []
    texts: list[str] = []
    if not path.is_dir():
        for number, line in enumerate(read_lines(path, encoding), 1):
            label, tab, text = line.partition("\t")
            if not line.strip():
                continue
            if not tab or not label.strip():
                raise DataError(
                    f"{str(path)!r} has a line without a label",
                    expected="label<TAB>text",
                    received=f"line {number}, {line[:40]!r}",
                    fix="give a folder with a file of texts for each class, or write a tab after each label",
                )
            labels.append(label.strip())
            texts.append(text)
        return labels, texts
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if entry.is_dir():
            files = sorted(file for file in entry.iterdir() if file.is_file() and not file.name.startswith("."))
            found = [" ".join(read_lines(file, encoding)) for file in files]
        else:
            found = read_lines(entry, encoding)
        found = [text for text in found if text.strip()]
        labels += [entry.name.removesuffix(".txt")] * len(found)
        texts += found
    return labels, texts
