"""A confusion matrix as text, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepcore.errors import ArgumentError, ShapeError, printable
from deepcore.metrics.base import host


def check_matrix(matrix, classes: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """The matrix as a square array, and a name for each of its classes."""
    array = host(matrix)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ShapeError("a confusion matrix is square", received=str(array.shape))
    names = [str(i) for i in range(len(array))] if classes is None else [printable(name) for name in classes]
    if len(names) != len(array):
        raise ArgumentError(f"{len(names)} names for {len(array)} classes", fix=f"classes=names[:{len(array)}]")
    return array, names


def format_confusion_matrix(matrix, classes: Sequence[str] | None = None) -> str:
    """The matrix as text: true classes down, predicted ones across, precision and recall at the edges.

    Columns stand two spaces apart, or one where the lines would be wider than 80.
    """
    array, names = check_matrix(matrix, classes)
    right, true, predicted = (a.tolist() for a in (np.diag(array), array.sum(axis=1), array.sum(axis=0)))
    body = [[str(count) if count else "." for count in row] for row in array.tolist()]
    bottom = [_percent(r, p) for r, p in zip(right, predicted, strict=True)]
    widths = [max(map(len, column)) for column in zip(names, bottom, *body, strict=True)]
    head = max(map(len, ["precision %", *names]))
    gap = 2 if head + sum(widths) + 2 * len(widths) + 13 <= 80 else 1

    def line(first: str, cells: list[str], last: str) -> str:
        padded = "".join(" " * gap + cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return f"{first.rjust(head)} |{padded} |{last.rjust(9)}"

    rule = "-" * (head + 1) + "+" + "-" * (sum(widths) + gap * len(widths) + 1) + "+" + "-" * 9
    return "\n".join(
        [
            " " * head + " |  predicted",
            line("true", names, "recall %"),
            rule,
            *(line(n, cells, _percent(r, t)) for n, cells, r, t in zip(names, body, right, true, strict=True)),
            rule,
            line("precision %", bottom, _percent(sum(right), sum(true))),
        ]
    )


def _percent(part: int, whole: int) -> str:
    return "-" if not whole else "100" if part == whole else f"{100 * part / whole:.1f}"
