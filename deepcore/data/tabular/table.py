"""A table of numbers and categories, from a CSV file or a pandas DataFrame."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepcore.errors import ArgumentError, DataError, suggest
from deepcore.io.tables import TableFile, TextColumn, number_in

KINDS = ("auto", "number", "category")


class Table:
    """Columns of numbers (NaN where missing), columns of categories (code -1 where missing), a target and ids.

    numbers (N, K) float32 with `number_names`; categories: name → `TextColumn(codes (N,), categories)`; target: (N,)
    float32, a `TextColumn`, or None; ids: a text for each row, or None. `Table.read_csv` and `Table.from_pandas` make
    one, `TableEncoder` makes inputs of it.
    """

    def __init__(
        self,
        numbers: np.ndarray,
        number_names: Sequence[str],
        categories: dict[str, TextColumn],
        target: np.ndarray | TextColumn | None = None,
        target_name: str | None = None,
        ids: Sequence[str] | None = None,
        source: str = "the table",
    ):
        self.numbers, self.number_names = np.asarray(numbers), tuple(number_names)
        self.categories, self.target, self.target_name = dict(categories), target, target_name
        self.ids = None if ids is None else list(ids)
        self.source = source
        lengths = {len(self.numbers), *(len(column.codes) for column in self.categories.values())}
        if self.numbers.ndim != 2 or self.numbers.shape[1] != len(self.number_names) or len(lengths) > 1:
            raise DataError(
                "the columns of a table do not belong together",
                expected="numbers (N, K), a name for each of K, and N codes in each column of categories",
                received=f"{self.numbers.shape}, {len(self.number_names)} names, {sorted(lengths)} rows",
            )

    @classmethod
    def read_csv(
        cls,
        path,
        numbers: Sequence[str | int] | None = None,
        categories: Sequence[str | int] = (),
        target: str | int | None = None,
        id: str | int | None = None,
        missing: str = "keep",
        missing_values: Sequence[str] = (),
        target_kind: str = "auto",
        header: bool | None = None,
    ) -> Table:
        """Columns of a CSV file, by name, or by number from 0 where the file has no names; see `io.tables` for the format.

        numbers: columns of numbers; None: all that are nothing else. categories: columns of text (or of numbers that are
        names, such as a postcode). target: the column to learn; target_kind: "number", "category", or "auto", which is
        "number" if all its cells are. id: a column that names the rows, and is no input.
        missing: "keep" (NaN and code -1, which `TableEncoder` then fills), or "error" for empty cells, with line and column.
        missing_values: texts that stand for what is missing, such as "?", beside empty cells and, of numbers, nan, na, n/a,
        null and none.
        header: whether the first row has names; None: if none of its cells is a number.

        Errors: `DataError` for a column that is not there or named twice, text among numbers (with line and column), and
        a target that is missing; `FileFormatError` for a file that is no table.
        """
        if missing not in ("keep", "error"):
            raise ArgumentError(
                "missing is 'keep' or 'error'",
                received=repr(missing),
                fix="TableEncoder(missing='mean') fills what is missing",
            )
        if target_kind not in KINDS:
            raise ArgumentError(f"target_kind is one of {', '.join(map(repr, KINDS))}", received=repr(target_kind))
        for text in missing_values:
            if not isinstance(text, str) or not text or number_in(text.encode()) is not None:
                raise ArgumentError(
                    "missing_values are texts that are not numbers",
                    received=repr(text),
                    fix="table.numbers[table.numbers == -999] = numpy.nan, for numbers that mean missing",
                )
        named = [c for c in (*(numbers or ()), *categories, target, id) if isinstance(c, str)]
        file = TableFile(path, header, named)
        texts = [file.column(c) for c in categories]
        others = {name: None if c is None else file.column(c) for name, c in (("target", target), ("id", id))}
        taken = [*texts, *(c for c in others.values() if c is not None)]
        if numbers is None:
            columns = [c for c in range(file.width) if c not in taken]
        else:
            columns = [file.column(c) for c in numbers]
        every = [*columns, *taken]
        for column in every:
            if every.count(column) > 1:
                raise ArgumentError(
                    f"{file.label(column)} is chosen twice",
                    fix="list it once, among numbers or categories, or as target or id",
                )
        target_column, id_column = others["target"], others["id"]
        is_number = target_column is not None and _is_number(file, target_column, target_kind, missing_values)
        read_numbers = [*columns, *([target_column] if target_column is not None and is_number else [])]
        read_texts: dict[int, Sequence[str] | None] = dict.fromkeys(texts)
        if target_column is not None and not is_number:
            read_texts[target_column] = None
        if id_column is not None:
            read_texts[id_column] = None

        def number_fix(wrong: list[int]) -> str:
            listed = json.dumps([file.names[c] if file.names else c for c in wrong], ensure_ascii=False)
            if wrong == [target_column]:
                return "target_kind='category'"
            return f"categories={listed} for columns of text, or numbers=[…] without them"

        table = file.read(
            read_numbers,
            read_texts,
            missing={*columns, *texts} if missing == "keep" else (),
            number_fix=number_fix,
            missing_fix=lambda column: (
                "fill it in, or leave out the row"
                + (
                    ""
                    if column in (target_column, id_column)
                    else "; or missing='keep', and TableEncoder(missing='mean')"
                )
            ),
            distinct=() if id_column is None else (id_column,),
            missing_texts=missing_values,
        )
        if not len(table):
            raise DataError(f"{file.path!r} holds no rows")
        by_column = dict(zip(read_texts, table.texts))
        names = [file.names[c] if file.names else str(c) for c in range(file.width)]
        goal: np.ndarray | TextColumn | None = None
        if target_column is not None:
            goal = table.numbers[:, -1] if is_number else _sorted(by_column[target_column])
        return cls(
            table.numbers[:, : len(columns)],
            [names[c] for c in columns],
            {names[c]: _sorted(by_column[c]) for c in texts},
            goal,
            None if target_column is None else names[target_column],
            None if id_column is None else by_column[id_column].categories,
            repr(file.path),
        )

    @classmethod
    def from_pandas(
        cls,
        frame,
        numbers: Sequence[Any] | None = None,
        categories: Sequence[Any] | None = None,
        target=None,
        id=None,
        target_kind: str = "auto",
    ) -> Table:
        """Columns of a pandas DataFrame, by name.

        numbers, categories: None for all that are nothing else: columns of numbers and booleans, and the others, whose
        values become text. Missing are None, NaN, NA and NaT. target, id, target_kind: as for `read_csv`.
        Errors: `DataError` as there, with column and row.
        """
        if target_kind not in KINDS:
            raise ArgumentError(f"target_kind is one of {', '.join(map(repr, KINDS))}", received=repr(target_kind))
        available = list(frame.columns)
        special = [c for c in (target, id) if c is not None]
        chosen = [*(numbers or ()), *(categories or ()), *special]
        for column in chosen:
            if column not in available:
                fix = suggest(str(column), map(str, available[:1000]))
                raise DataError(f"the frame has no column {column!r}", fix=fix)
            if available.count(column) > 1:
                raise DataError(f"the frame has several columns {column!r}", fix="rename all but one")
            if chosen.count(column) > 1:
                raise ArgumentError(f"column {column!r} is chosen twice", fix="list it once")
        free = [c for c in available if c not in chosen]
        if numbers is None:
            numbers = [c for c in free if frame[c].dtype.kind in "iufb"] if categories is None else free
        if categories is None:
            categories = [c for c in free if c not in numbers and frame[c].dtype.kind not in "iufb"]
        values = [_frame_numbers(frame, c) for c in numbers]
        goal: np.ndarray | TextColumn | None = None
        if target is not None:
            as_number = target_kind == "number" or (target_kind == "auto" and frame[target].dtype.kind in "iuf")
            goal = _frame_numbers(frame, target) if as_number else _frame_texts(frame, target)
            absent = np.isnan(goal) if isinstance(goal, np.ndarray) else goal.codes < 0
            if absent.any():
                raise DataError(
                    f"the target {target!r} is missing in row {int(np.flatnonzero(absent)[0])}",
                    fix=f"frame.dropna(subset=[{target!r}])",
                )
        rows = len(frame)
        return cls(
            np.stack(values, axis=1) if values else np.empty((rows, 0), np.float32),
            [str(c) for c in numbers],
            {str(c): _frame_texts(frame, c) for c in categories},
            goal,
            None if target is None else str(target),
            None if id is None else [str(value) for value in frame[id]],
            "the frame",
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, index) -> Table:
        """The rows at `index`: numbers, a mask or a slice. For parts to train and to test on."""
        take = np.arange(len(self))[index]
        goal = self.target
        if isinstance(goal, TextColumn):
            goal = TextColumn(goal.codes[take], goal.categories)
        elif goal is not None:
            goal = goal[take]
        return Table(
            self.numbers[take],
            self.number_names,
            {name: TextColumn(c.codes[take], c.categories) for name, c in self.categories.items()},
            goal,
            self.target_name,
            None if self.ids is None else [self.ids[i] for i in take.tolist()],
            self.source,
        )

    def column(self, name: str) -> np.ndarray:
        """The values of a column: float32, or an array of text with None where missing. Errors: `DataError`."""
        if name == self.target_name and self.target is not None:
            goal = self.target
            return goal if isinstance(goal, np.ndarray) else _texts(goal)
        if name in self.number_names:
            return self.numbers[:, self.number_names.index(name)]
        if name in self.categories:
            return _texts(self.categories[name])
        names = [*self.number_names, *self.categories, *([self.target_name] if self.target_name else [])]
        raise DataError(f"{self.source} has no column {name!r}", fix=suggest(str(name), names))

    def __repr__(self) -> str:
        goal = "" if self.target_name is None else f", target {self.target_name!r}"
        return (
            f"Table({len(self)} rows: {len(self.number_names)} of numbers, {len(self.categories)} of categories{goal})"
        )


def natural(name: str) -> tuple:
    """A sorting key: numbers by value, before other texts."""
    number = number_in(name.encode())
    return (0, number, name) if number is not None and math.isfinite(number) else (1, 0.0, name)


def sorted_categories(text: TextColumn) -> tuple[tuple[str, ...], np.ndarray]:
    """(categories in natural order, codes in that order) of a column of text; empty cells remain -1."""
    names = sorted(text.categories, key=natural)
    number = {name: i for i, name in enumerate(names)}
    order = np.array([number[name] for name in text.categories] + [-1], np.int32)
    return tuple(names), order[text.codes]


def _sorted(text: TextColumn) -> TextColumn:
    names, codes = sorted_categories(text)
    return TextColumn(codes, names)


def _texts(column: TextColumn) -> np.ndarray:
    return np.array([*column.categories, None], object)[column.codes]


def _is_number(file: TableFile, column: int, kind: str, missing_values: Sequence[str]) -> bool:
    if kind != "auto":
        return kind == "number"
    try:
        file.read([column], missing=(column,), missing_texts=missing_values)
    except DataError as error:
        if "not a number" in error.problem:
            return False
        raise
    return True


def _frame_numbers(frame, column) -> np.ndarray:
    series = frame[column]
    try:
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise DataError(
            f"column {column!r} of the frame is not numbers",
            received=f"dtype {series.dtype}",
            fix=f"categories=[{column!r}], or frame[{column!r}] = pandas.to_numeric(…)",
        ) from None
    with np.errstate(over="ignore"):
        out = values.astype(np.float32)
    wrong = np.isinf(out)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"column {column!r} of the frame has a number that is infinite, or too large for float32",
            received=f"{values[row]} in row {row}",
            fix="correct it, or leave out the row",
        )
    return out


def _frame_texts(frame, column) -> TextColumn:
    series = frame[column]
    absent = series.isna().to_numpy(dtype=bool)
    texts = [None if gone else str(value) for value, gone in zip(series.tolist(), absent.tolist())]
    number: dict[str, int] = {}
    codes = np.array([-1 if t is None else number.setdefault(t, len(number)) for t in texts], np.int32)
    return _sorted(TextColumn(codes, tuple(number)))
