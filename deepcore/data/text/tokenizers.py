"""Texts to numbers of characters or words, and back."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from deepcore.data.text.vocabulary import SPECIALS, Vocabulary
from deepcore.errors import ArgumentError, StateDictError


@functools.cache
def _word_pattern() -> re.Pattern:
    # Python's \w lacks combining marks, which are inside words in many scripts.
    marks = [c for c in range(0x300, 0x1F000) if unicodedata.category(chr(c))[0] == "M"]
    marks += range(0xE0100, 0xE01F0)
    runs: list[list[int]] = []
    for c in marks:
        if runs and c == runs[-1][1] + 1:
            runs[-1][1] = c
        else:
            runs.append([c, c])
    ranges = "".join(f"{chr(first)}-{chr(last)}" for first, last in runs)
    word = rf"[\w{ranges}\u200c\u200d]"
    return re.compile(rf"\w{word}*(?:['’]\w{word}*)*|[^\w\s]")


def split_words(text: str) -> list[str]:
    """Words, of any script, with apostrophes inside, and every mark between them: "don't stop." is don't, stop and the dot."""
    return _word_pattern().findall(text)


class Tokenizer:
    """Texts to numbers by a vocabulary: a subclass defines `split(text)` and `join(tokens)`.

    lowercase: small letters. normalize: a Unicode form such as "NFC", so that é of one or two code points is one token;
    None: as it is.
    """

    def __init__(self, vocabulary: Vocabulary, lowercase: bool = False, normalize: str | None = "NFC"):
        if not isinstance(vocabulary, Vocabulary):
            raise ArgumentError(
                f"a {type(self).__name__} takes a Vocabulary",
                received=type(vocabulary).__name__,
                fix=f"{type(self).__name__}.from_texts(texts)",
            )
        if normalize not in (None, "NFC", "NFD", "NFKC", "NFKD"):
            raise ArgumentError("normalize is None or a Unicode form such as 'NFC'", received=repr(normalize))
        self.vocabulary, self.lowercase, self.normalize = vocabulary, bool(lowercase), normalize

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        min_freq: int = 1,
        max_tokens: int | None = None,
        specials: Sequence[str] = SPECIALS,
        unknown: str | None = "<unk>",
        **options,
    ):
        """A tokenizer with the vocabulary of `texts`; see `Vocabulary.from_texts`."""
        bare = cls(Vocabulary((), specials, unknown), **options)
        bare.vocabulary = Vocabulary.from_texts(texts, bare.tokenize, min_freq, max_tokens, specials, unknown)
        return bare

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text."""
        if not isinstance(text, str):
            raise ArgumentError("a tokenizer takes texts", received=type(text).__name__)
        if self.normalize is not None:
            text = unicodedata.normalize(self.normalize, text)  # type: ignore[arg-type]
        return self.split(text.lower() if self.lowercase else text)

    def split(self, text: str) -> list[str]:
        raise NotImplementedError(f"{type(self).__name__} must define split(text)")

    def join(self, tokens: Sequence[str]) -> str:
        """A text of tokens."""
        raise NotImplementedError(f"{type(self).__name__} must define join(tokens)")

    def encode(self, text: str) -> np.ndarray:
        """The numbers of a text's tokens, (L,) int64."""
        return self.vocabulary.encode(self.tokenize(text))

    __call__ = encode

    def decode(self, indices, skip_specials: bool = True) -> str:
        """The text of numbers; `skip_specials` leaves out padding and the like."""
        return self.join(self.vocabulary.decode(indices, skip_specials))

    def __len__(self) -> int:
        return len(self.vocabulary)

    def state_dict(self) -> dict[str, Any]:
        """Texts, lists of them, and flags."""
        return {**self.vocabulary.state_dict(), "lowercase": self.lowercase, "normalize": self.normalize}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]):
        """The inverse of `state_dict`. Errors: `StateDictError`."""
        vocabulary = Vocabulary.from_state_dict(state)
        try:
            return cls(vocabulary, state.get("lowercase", False), state.get("normalize"))
        except ArgumentError as error:
            raise StateDictError(error.problem, received=error.received) from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.vocabulary!r}, lowercase={self.lowercase})"


class CharTokenizer(Tokenizer):
    """Each character is a token; `decode` restores a text of characters in the vocabulary exactly."""

    def split(self, text: str) -> list[str]:
        return list(text)

    def join(self, tokens: Sequence[str]) -> str:
        return "".join(tokens)


class WordTokenizer(Tokenizer):
    """Words and the marks between them are tokens (`split_words`); `decode` joins them by blanks."""

    def split(self, text: str) -> list[str]:
        return split_words(text)

    def join(self, tokens: Sequence[str]) -> str:
        return " ".join(tokens)
