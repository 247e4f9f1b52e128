"""The columns of a table that a network takes, and their encoding in training; saved in a run's input.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepcore.data import tabular
from deepcore.data.tabular import sorted_categories
from deepcore.errors import DataError, suggest
from deepcore.io.tables import Table, TableFile

ENCODINGS = tabular.ENCODINGS
MISSING = ("error", "mean")
_MAX_INPUTS = 1 << 24


@dataclass
class Column:
    """A column of the training file. `categories`: its texts, if it is text. `mean`: the substitute for a missing number,
    if there is one."""

    number: int
    name: str | None = None
    categories: tuple[str, ...] | None = None
    mean: float | None = None


@dataclass
class Columns:
    """Encodes a table's columns as inputs (N, inputs), in the order of the training file.

    A number is one input. A text is one input per category, 1 for the row's own and 0 for the others ("one-hot"), or one
    input, the category's number from 0 ("codes"). With `missing` "mean", a missing number is the mean of the training
    data, and a missing text no category: zeros, or -1.

    width, target, target_name: the number of columns of the training file, and the column that was learned.
    """

    features: list[Column]
    width: int
    target: int
    target_name: str | None = None
    encoding: str = "one-hot"
    missing: str = "error"

    @property
    def inputs(self) -> int:
        return sum(self._inputs(column) for column in self.features)

    def _inputs(self, column: Column) -> int:
        return 1 if column.categories is None or self.encoding == "codes" else len(column.categories)

    # -- from a file --------------------------------------------------------------------------------------
    def read(self, path) -> np.ndarray:
        """The inputs of a table with the training file's columns or only its features; matched by name where it has names.

        Errors: those of `TableFile`, and `DataError` for columns that are missing.
        """
        file = TableFile(path, expected_names=[column.name for column in self.features if column.name])
        positions = self.positions(file)
        untrained = 'fill it in, or leave out the row; or train with missing = "mean" in [data]'
        table = file.read(
            self._of_kind(positions, text=False),
            {
                position: column.categories
                for position, column in zip(positions, self.features)
                if column.categories is not None
            },
            missing=set(positions) if self.missing == "mean" else (),
            number_fix=lambda columns: "correct it, or leave out the row",
            missing_fix=lambda column: untrained,
        )
        inputs = self.encode(table)
        self.fill(inputs)
        return inputs

    def read_training(self, file: TableFile, text: bool, learn: bool) -> Table:
        """The features of `file`, with the target last among the columns of its kind: text if `text`, else numbers.

        learn: collect the categories from it; else it must have no others.
        """
        positions, target = self.positions(file), self._target_in(file)
        numbers = self._of_kind(positions, text=False)
        texts: dict[int, Sequence[str] | None] = {
            position: None if learn else column.categories
            for position, column in zip(positions, self.features)
            if column.categories is not None
        }
        if text:
            texts[target] = None
        else:
            numbers.append(target)

        def number_fix(columns: list[int]) -> str:
            if columns == [target]:
                return "a loss on classes, such as CrossEntropyLoss, takes text"
            names = [file.names[c] if file.names else c for c in columns if c != target]
            listed = json.dumps(names, ensure_ascii=False)
            return f"categories = {listed} in [data] makes inputs of text, ignore = {listed} leaves it out"

        def missing_fix(column: int) -> str:
            filled = "" if column == target else ', or set missing = "mean" in [data]'
            return f"fill it in, or leave out the row{filled}"

        filled = set(positions) if self.missing == "mean" else set()
        table = file.read(numbers, texts, filled, number_fix, missing_fix)
        if learn:
            for column, text_column in zip(self._texts(), table.texts):
                column.categories, text_column.codes = sorted_categories(text_column)
                if not column.categories:
                    raise self._no_value(column)
        return table

    def positions(self, file: TableFile) -> list[int]:
        """The column of `file` for each feature."""
        names = [column.name for column in self.features if column.name is not None]
        if file.names is not None and len(names) == len(self.features):
            missing = [name for name in names if name not in file.names]
            if missing:
                raise DataError(
                    f"{file.path!r} lacks {len(missing)} of the {len(names)} columns that the network takes",
                    expected=", ".join(map(repr, names[:20])) + (", …" if len(names) > 20 else ""),
                    received=f"no column {missing[0]!r}",
                    fix=suggest(missing[0], file.names[:1000]),
                )
            return [file.column(name) for name in names]
        if file.width == self.width:
            return [column.number for column in self.features]
        if file.width == len(self.features):
            return list(range(file.width))
        if file.width == self.width - 1:
            return [column.number - (column.number > self.target) for column in self.features]
        widths = sorted({len(self.features), self.width - 1, self.width})
        raise DataError(
            f"{file.path!r} has another number of columns than the training data",
            expected=" or ".join(map(str, widths)),
            received=f"{file.width}",
            fix="give the columns of the training data, in their order, with or without the target",
        )

    def _target_in(self, file: TableFile) -> int:
        if self.target_name is not None and file.names is not None:
            return file.column(self.target_name)
        if file.width != self.width:
            raise DataError(
                f"{file.path!r} has another number of columns than the training data",
                expected=f"{self.width}, one of them the target",
                received=f"{file.width}",
            )
        return self.target

    def _of_kind(self, positions: Sequence[int], text: bool) -> list[int]:
        return [
            position for position, column in zip(positions, self.features) if (column.categories is not None) == text
        ]

    def _texts(self) -> list[Column]:
        return [column for column in self.features if column.categories is not None]

    @staticmethod
    def _no_value(column: Column) -> DataError:
        column_id = column.number if column.name is None else column.name
        return DataError(
            f"column {column_id!r} has no value in the training data",
            fix=f"leave it out: ignore = {json.dumps([column_id], ensure_ascii=False)}",
        )

    def encode(self, table: Table) -> np.ndarray:
        """Inputs (N, inputs) float32; missing numbers are NaN."""
        if all(column.categories is None for column in self.features):
            return table.numbers[:, : len(self.features)]
        inputs = np.zeros((len(table), self.inputs), np.float32)
        numbers, texts, offset = 0, iter(table.texts), 0
        for column in self.features:
            if column.categories is None:
                inputs[:, offset] = table.numbers[:, numbers]
                numbers += 1
            else:
                codes, width = next(texts).codes, self._inputs(column)
                tabular.write_codes(inputs[:, offset : offset + width], codes, self.encoding)
            offset += self._inputs(column)
        return inputs

    def average(self, inputs: np.ndarray) -> None:
        """Compute the substitutes for missing numbers, the means of the training inputs."""
        if self.missing != "mean":
            return
        for column, offset in self._numbers():
            present = inputs[:, offset][~np.isnan(inputs[:, offset])]
            if not len(present):
                raise self._no_value(column)
            column.mean = float(np.float32(present.mean(dtype=np.float64)))

    def fill(self, inputs: np.ndarray) -> None:
        """Replace missing numbers by the means."""
        for column, offset in self._numbers():
            if column.mean is not None:
                values = inputs[:, offset]
                values[np.isnan(values)] = column.mean

    def _numbers(self) -> Iterator[tuple[Column, int]]:
        """Each column of numbers, and the index of its input."""
        offset = 0
        for column in self.features:
            if column.categories is None:
                yield column, offset
            offset += self._inputs(column)

    # -- from JSON ----------------------------------------------------------------------------------------
    @classmethod
    def parse(cls, table: dict[str, Any]) -> Columns:
        """Inverse of `dataclasses.asdict`; ValueError or TypeError for invalid values."""
        columns = cls(**{**table, "features": [Column(**column) for column in table["features"]]})
        numbers = [column.number for column in columns.features]
        valid = type(columns.width) is int and type(columns.target) is int and 0 <= columns.target < columns.width
        valid = valid and (columns.target_name is None or isinstance(columns.target_name, str))
        if (
            not valid
            or columns.encoding not in ENCODINGS
            or columns.missing not in MISSING
            or len(set(numbers)) < len(numbers)
        ):
            raise ValueError("columns have no such numbers, encoding or missing")
        for column in columns.features:
            if type(column.number) is not int or not 0 <= column.number < columns.width:
                raise ValueError(f"there is no column {column.number}")
            if column.name is not None and not isinstance(column.name, str):
                raise ValueError("a column's name is text")
            if column.categories is not None:
                column.categories = tuple(str(name) for name in column.categories)
            column.mean = None if column.mean is None else float(column.mean)
        if not 0 < columns.inputs <= _MAX_INPUTS:
            raise ValueError("columns make no inputs")
        return columns
