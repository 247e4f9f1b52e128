"""Metrics of recognised text: word and character error rate."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from deepcore.errors import ArgumentError, ShapeError
from deepcore.metrics.base import Metric, once


def edit_distance(output: Sequence[Hashable], target: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and substitutions that make `target` of `output` (Levenshtein)."""
    if len(output) > len(target):
        output, target = target, output
    numbers: dict[Hashable, int] = {}
    short, long = (
        np.array([numbers.setdefault(item, len(numbers)) for item in items], np.int64) for items in (output, target)
    )
    steps = np.arange(len(short) + 1)
    row = steps.copy()
    for i, item in enumerate(long, 1):
        below = np.empty_like(row)
        below[0] = i
        np.minimum(row[1:] + 1, row[:-1] + (short != item), out=below[1:])
        # An insertion costs 1 a step to the right, so the running minimum of (cost - position) has them all.
        row = np.minimum.accumulate(below - steps) + steps
    return int(row[-1])


class _ErrorRate(Metric):
    mode = "min"

    def reset(self) -> None:
        self.errors = self.count = 0

    def update(self, output: str | Sequence, target: str | Sequence) -> None:
        """Texts, or lists of texts; a text may also be a list of its tokens."""
        outputs = [output] if isinstance(output, str) else list(output)
        targets = [target] if isinstance(target, str) else list(target)
        if len(outputs) != len(targets):
            raise ShapeError(
                "there is not one output for each target", expected=f"{len(targets)} texts", received=str(len(outputs))
            )
        for one, other in zip(outputs, targets):
            pieces, reference = self._split(one), self._split(other)
            self.errors += edit_distance(pieces, reference)
            self.count += len(reference)

    def _split(self, text) -> Sequence[Hashable]:
        if isinstance(text, str):
            return self.split(text)
        if isinstance(text, (list, tuple)):
            return text
        raise ArgumentError(
            f"{self.name} compares texts",
            received=type(text).__name__,
            fix="decode class numbers first: tokenizer.decode(numbers)",
        )

    def compute(self) -> float:
        if not self.count:
            return float("nan") if not self.errors else float("inf")
        return self.errors / self.count

    @staticmethod
    def split(text: str) -> Sequence[Hashable]:
        raise NotImplementedError


class WordErrorRate(_ErrorRate):
    """(substitutions + deletions + insertions) / words of the targets, over all texts; words are parted by white space."""

    @staticmethod
    def split(text: str) -> Sequence[Hashable]:
        return text.split()


class CharErrorRate(_ErrorRate):
    """(substitutions + deletions + insertions) / characters of the targets, over all texts."""

    @staticmethod
    def split(text: str) -> Sequence[Hashable]:
        return list(text)


def word_error_rate(output, target) -> float:
    """Edits of words / words of the targets: two texts, or two lists of them."""
    return once(WordErrorRate(), output, target)


def char_error_rate(output, target) -> float:
    """Edits of characters / characters of the targets: two texts, or two lists of them."""
    return once(CharErrorRate(), output, target)
