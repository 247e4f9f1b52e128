"""Tokens and their numbers."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from deepcore.errors import ArgumentError, DataError, FileFormatError, IndexRangeError, StateDictError
from deepcore.io.files import atomic_write, decode_utf8, open_regular

SPECIALS = ("<pad>", "<unk>")
_MAX_BYTES = 1 << 28


class Vocabulary:
    """Numbers of tokens, from 0 on: first the special ones, then `tokens`, each once.

    unknown: the special token that stands for those that are not in the vocabulary; None: they are errors.

    >>> words = Vocabulary.from_texts(["the cat", "the dog"], str.split)
    >>> words.encode(["the", "cow"])
    array([2, 1])
    """

    def __init__(self, tokens: Iterable[str], specials: Sequence[str] = SPECIALS, unknown: str | None = "<unk>"):
        self.specials, self.unknown = tuple(specials), unknown
        self.tokens: list[str] = [*self.specials, *tokens]
        if not all(isinstance(token, str) for token in self.tokens):
            raise ArgumentError("the tokens of a vocabulary are texts")
        self.indices = {token: i for i, token in enumerate(self.tokens)}
        if len(self.indices) < len(self.tokens):
            twice = next(token for token, count in Counter(self.tokens).items() if count > 1)
            raise ArgumentError("a vocabulary has each token once", received=repr(twice))
        if unknown is not None and unknown not in self.specials:
            raise ArgumentError(
                f"unknown is a special token, and {unknown!r} is none",
                expected=", ".join(map(repr, self.specials)) or "specials",
                fix="unknown=None, where every token must be in the vocabulary",
            )

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str] | Iterable[Sequence[str]],
        split: Callable[[str], Iterable[str]] | None = None,
        min_freq: int = 1,
        max_tokens: int | None = None,
        specials: Sequence[str] = SPECIALS,
        unknown: str | None = "<unk>",
    ) -> Vocabulary:
        """The tokens of texts that occur at least `min_freq` times, the most frequent first, equally frequent ones sorted.

        split: a text to tokens; None: texts are lists of tokens. max_tokens: how many, with the special ones.
        """
        if isinstance(texts, str):
            raise ArgumentError("texts are several", received="one text", fix="Vocabulary.from_texts([text], …)")
        counts: Counter[str] = Counter()
        for text in texts:
            if split is None and isinstance(text, str):
                raise ArgumentError("texts without split are lists of tokens", received="a text", fix="split=str.split")
            counts.update(text if split is None else split(text))  # type: ignore[arg-type]
        for token in specials:
            counts.pop(token, None)
        frequent = sorted((token for token, n in counts.items() if n >= min_freq), key=lambda t: (-counts[t], t))
        room = None if max_tokens is None else max(max_tokens - len(specials), 0)
        return cls(frequent[:room], specials, unknown)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token) -> bool:
        return token in self.indices

    def __iter__(self) -> Iterator[str]:
        return iter(self.tokens)

    def __getitem__(self, token: str) -> int:
        """The number of a token, or that of the unknown one."""
        index = self.indices.get(token)
        if index is None:
            if self.unknown is None:
                raise DataError(
                    f"the vocabulary has no token {token!r}",
                    fix="Vocabulary(…, unknown='<unk>') has a number for all others",
                )
            return self.indices[self.unknown]
        return index

    def encode(self, tokens: Iterable[str]) -> np.ndarray:
        """The numbers of tokens, int64. Errors: `DataError` for one that is not there, without `unknown`."""
        if self.unknown is None:
            return np.array([self[token] for token in tokens], np.int64)
        get, other = self.indices.get, self.indices[self.unknown]
        return np.array([get(token, other) for token in tokens], np.int64)

    def decode(self, indices, skip_specials: bool = False) -> list[str]:
        """The tokens of numbers. Errors: `IndexRangeError`."""
        numbers = np.asarray(indices.numpy() if hasattr(indices, "numpy") else indices).reshape(-1).tolist()
        for number in numbers:
            if not isinstance(number, int) or not 0 <= number < len(self):
                raise IndexRangeError(f"there is no token {number}", expected=f"0 to {len(self) - 1}")
        first = len(self.specials) if skip_specials else 0
        return [self.tokens[number] for number in numbers if number >= first]

    # -- files --------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Texts and lists of them alone."""
        return {
            "tokens": self.tokens[len(self.specials) :],
            "specials": list(self.specials),
            "unknown": self.unknown,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Vocabulary:
        """The inverse of `state_dict`. Errors: `StateDictError`."""
        if not isinstance(state, dict) or not {"tokens", "specials", "unknown"} <= set(state):
            raise StateDictError("this is not the state of a vocabulary", expected="tokens, specials and unknown")
        lists = [state["tokens"], state["specials"]]
        if not all(isinstance(part, (list, tuple)) and all(isinstance(t, str) for t in part) for part in lists):
            raise StateDictError("the tokens of a vocabulary are lists of texts")
        try:
            return cls(state["tokens"], state["specials"], state["unknown"])
        except ArgumentError as error:
            raise StateDictError(error.problem, received=error.received) from None

    def save(self, path) -> None:
        """Write the vocabulary as JSON. Atomic."""
        with atomic_write(path) as file:
            file.write(json.dumps(self.state_dict(), ensure_ascii=False, indent=0).encode())

    @classmethod
    def load(cls, path) -> Vocabulary:
        """Read a vocabulary from JSON. Errors: `FileFormatError`."""
        name = os.fsdecode(path)
        with open_regular(path) as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise FileFormatError(f"{name!r} is too large a vocabulary", expected=f"at most {_MAX_BYTES:,} bytes")
        try:
            return cls.from_state_dict(json.loads(decode_utf8(content, name)))
        except (ValueError, RecursionError) as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(f"{name!r} is not JSON: {error}", fix="Vocabulary.save(path) writes it") from None
        except StateDictError as error:
            raise FileFormatError(f"{name!r} is not a vocabulary: {error.problem}", received=error.received) from None

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tokens, {len(self.specials)} of them special)"
