"""Inputs of a network from a table, by what was seen of the training data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from deepcore.backend import Backend
from deepcore.data.dataset import TensorDataset
from deepcore.data.tabular.table import Table
from deepcore.errors import ArgumentError, DataError, StateDictError, suggest
from deepcore.io.tables import TextColumn
from deepcore.tensor import as_tensor

ENCODINGS = ("one-hot", "codes")
STRATEGIES = ("error", "mean", "median", "most_frequent")
UNKNOWN = ("error", "ignore")


def write_codes(out: np.ndarray, codes: np.ndarray, encoding: str) -> None:
    """Write codes (N,) into inputs: "one-hot" (N, categories) of zeros, no 1 for a code of -1; "codes" (N, 1) as they are."""
    if encoding == "codes":
        out[:, 0] = codes
    else:
        rows = np.flatnonzero(codes >= 0)
        out[rows, codes[rows]] = 1


class TableEncoder:
    """Encodes tables as inputs (N, features) float32: `fit` on the training table, then `transform` that and others.

    A number is one input, (x - mean)/std of the training rows with `standardize` (std of all rows, not one less; a constant
    column: 1). A category is one input for each text of the training rows, 1 for its own ("one-hot"), or its number from
    0 ("codes", for an embedding).
    missing: "error"; "mean" or "median" of the training rows, or a number, for numbers, while a missing category is none
    (zeros, or -1); "most_frequent": the most frequent value, also of categories. indicators: one more input, 0 or 1, for
    each column that had missing values in training.
    unknown: a category that was not in training is an error, or none ("ignore").

    >>> encoder = TableEncoder(missing="mean", standardize=True).fit(train)
    >>> loader = DataLoader(encoder.dataset(train), 32, shuffle=True)
    >>> answers = model(dc.tensor(encoder.transform(new)))

    `state_dict` has what was fitted as numbers and texts. Columns of other tables are matched by name.
    Errors: `DataError` for columns that are absent, what is missing, and unknown categories, with column and row.
    """

    def __init__(
        self,
        encoding: str = "one-hot",
        missing: str | float = "error",
        standardize: bool = False,
        indicators: bool = False,
        unknown: str = "error",
    ):
        if encoding not in ENCODINGS:
            raise ArgumentError(f"encoding is one of {', '.join(map(repr, ENCODINGS))}", received=repr(encoding))
        is_value = isinstance(missing, (int, float)) and not isinstance(missing, bool) and math.isfinite(missing)
        if not is_value and missing not in STRATEGIES:
            raise ArgumentError(
                f"missing is one of {', '.join(map(repr, STRATEGIES))}, or a number", received=repr(missing)
            )
        if unknown not in UNKNOWN:
            raise ArgumentError("unknown is 'error' or 'ignore'", received=repr(unknown))
        if indicators and missing == "error":
            raise ArgumentError("indicators need a strategy for what is missing", fix="missing='mean'")
        self.encoding, self.missing, self.unknown = encoding, missing, unknown
        self.standardize, self.indicators = bool(standardize), bool(indicators)
        #: Name → {"fill", "mean", "std", "indicator"} of numbers, {"categories", "fill", "indicator"} of categories.
        self.numbers: dict[str, dict[str, Any]] = {}
        self.categories: dict[str, dict[str, Any]] = {}
        self.classes: tuple[str, ...] | None = None

    # -- fitting ------------------------------------------------------------------------------------------
    def fit(self, table: Table) -> TableEncoder:
        """Learn fills, means, deviations and categories from `table`. Returns the encoder."""
        if not len(table):
            raise DataError("there are no rows to fit an encoder to")
        numbers = {name: self._fit_number(table, name, i) for i, name in enumerate(table.number_names)}
        categories = {name: self._fit_category(table, name, column) for name, column in table.categories.items()}
        if not numbers and not categories:
            raise DataError(f"{table.source} has no column but the target", expected="numbers or categories")
        self.numbers, self.categories = numbers, categories
        self.classes = tuple(table.target.categories) if isinstance(table.target, TextColumn) else None
        return self

    def _fit_number(self, table: Table, name: str, i: int) -> dict[str, Any]:
        values = table.numbers[:, i].astype(np.float64)
        present = values[~np.isnan(values)]
        if not present.size:
            raise DataError(f"column {name!r} of {table.source} has no value", fix="leave it out of numbers")
        if self.missing == "error":
            self._check_missing(table, name, np.isnan(values))
        fill = 0.0
        if self.missing == "mean":
            fill = float(present.mean())
        elif self.missing == "median":
            fill = float(np.median(present))
        elif self.missing == "most_frequent":
            unique, counts = np.unique(present, return_counts=True)
            fill = float(unique[counts.argmax()])
        elif not isinstance(self.missing, str):
            fill = float(self.missing)
        std = float(present.std())
        # Rounding leaves a constant column a spread of the order of its precision.
        constant = std <= 10 * np.finfo(np.float64).eps * max(abs(float(present.mean())), 1e-300)
        return {
            "fill": fill,
            "mean": float(present.mean()),
            "std": 1.0 if constant else std,
            "indicator": bool(self.indicators and present.size < values.size),
        }

    def _fit_category(self, table: Table, name: str, column: TextColumn) -> dict[str, Any]:
        counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.categories))
        used = np.flatnonzero(counts)
        if not used.size:
            raise DataError(f"column {name!r} of {table.source} has no value", fix="leave it out of categories")
        if self.missing == "error":
            self._check_missing(table, name, column.codes < 0)
        fill = int(counts[used].argmax()) if self.missing == "most_frequent" else -1
        indicator = bool(self.indicators and (column.codes < 0).any())
        return {"categories": [column.categories[i] for i in used], "fill": fill, "indicator": indicator}

    def _check_missing(self, table: Table, name: str, absent: np.ndarray) -> None:
        if absent.any():
            row = int(np.flatnonzero(absent)[0])
            raise DataError(
                f"column {name!r} of {table.source} has {int(absent.sum())} missing values",
                received=f"the first in row {row}" + ("" if table.ids is None else f", id {table.ids[row]!r}"),
                fix="TableEncoder(missing='mean'), or 'median', 'most_frequent', or a number",
            )

    # -- encoding -----------------------------------------------------------------------------------------
    @property
    def feature_names(self) -> list[str]:
        """The name of each input: `age`, `port=C`, `age is missing`."""
        names = []
        for name, fitted in self.numbers.items():
            names += [name, *([f"{name} is missing"] if fitted["indicator"] else [])]
        for name, fitted in self.categories.items():
            names += [name] if self.encoding == "codes" else [f"{name}={text}" for text in fitted["categories"]]
            names += [f"{name} is missing"] if fitted["indicator"] else []
        return names

    def transform(self, table: Table) -> np.ndarray:
        """The inputs (N, features) of a table, in the order of `feature_names`."""
        self._check_fitted()
        self._check_columns(table)
        out = np.zeros((len(table), len(self.feature_names)), np.float32)
        offset = 0
        for name, fitted in self.numbers.items():
            values = table.numbers[:, table.number_names.index(name)].astype(np.float64)
            absent = np.isnan(values)
            if self.missing == "error":
                self._check_missing(table, name, absent)
            values[absent] = fitted["fill"]
            if self.standardize:
                values = (values - fitted["mean"]) / fitted["std"]
            out[:, offset] = values
            offset += 1
            if fitted["indicator"]:
                out[:, offset] = absent
                offset += 1
        for name, fitted in self.categories.items():
            column = table.categories[name]
            codes = self._codes(table, name, column, fitted["categories"])
            absent = column.codes < 0
            if self.missing == "error":
                self._check_missing(table, name, absent)
            codes[absent] = fitted["fill"]
            width = 1 if self.encoding == "codes" else len(fitted["categories"])
            write_codes(out[:, offset : offset + width], codes, self.encoding)
            offset += width
            if fitted["indicator"]:
                out[:, offset] = absent
                offset += 1
        return out

    def _codes(self, table: Table, name: str, column: TextColumn, categories: list[str]) -> np.ndarray:
        """The codes of a column's texts in the training categories, -1 for none."""
        number = {text: i for i, text in enumerate(categories)}
        order = np.array([number.get(text, -2) for text in column.categories] + [-1], np.int32)
        codes = order[column.codes]
        strange = codes == -2
        if strange.any() and self.unknown == "error":
            row = int(np.flatnonzero(strange)[0])
            text = column.categories[column.codes[row]]
            raise DataError(
                f"column {name!r} of {table.source} has a category that was not in the training data",
                expected=suggest(text, categories),
                received=f"{text!r} in row {row}",
                fix="TableEncoder(unknown='ignore') gives it no category",
            )
        codes[strange] = -1
        return codes

    def encode_target(self, table: Table) -> np.ndarray:
        """Class numbers (N,) int64 of a target of categories, values (N, 1) float32 of one of numbers."""
        self._check_fitted()
        goal = table.target
        if goal is None:
            raise DataError(f"{table.source} has no target", fix="Table.read_csv(path, target=…)")
        if isinstance(goal, TextColumn) != (self.classes is not None):
            raise DataError(
                "the target is of another kind than in training",
                expected="categories" if self.classes is not None else "numbers",
                fix="target_kind='category' or 'number' for both tables",
            )
        if not isinstance(goal, TextColumn):
            return goal.astype(np.float32)[:, None]
        number = {text: i for i, text in enumerate(self.classes or ())}
        for text in goal.categories:
            if text not in number and (goal.codes == goal.categories.index(text)).any():
                raise DataError(
                    f"{table.source} has a class {text!r} that was not in the training data",
                    fix=suggest(text, number),
                )
        return np.array([number.get(text, -1) for text in goal.categories], np.int64)[goal.codes]

    def dataset(self, table: Table, backend: str | Backend | None = None) -> TensorDataset:
        """The inputs of a table, and its target where it has one, as tensors; with the names of classes."""
        arrays = [self.transform(table)]
        if table.target is not None:
            arrays.append(self.encode_target(table))
        tensors = [as_tensor(array, backend=backend) for array in arrays]
        return TensorDataset(*tensors, classes=self.classes if table.target is not None else None)

    def _check_fitted(self) -> None:
        if not self.numbers and not self.categories:
            raise ArgumentError("the encoder has seen no table", fix="encoder.fit(train)")

    def _check_columns(self, table: Table) -> None:
        for kind, wanted, available in (
            ("numbers", self.numbers, table.number_names),
            ("categories", self.categories, table.categories),
        ):
            absent = [name for name in wanted if name not in available]
            if absent:
                raise DataError(
                    f"{table.source} lacks {len(absent)} of the {len(wanted)} columns of {kind} that were fitted",
                    expected=", ".join(map(repr, list(wanted)[:20])),
                    received=f"no column {absent[0]!r}",
                    fix=suggest(absent[0], available),
                )

    # -- state --------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """What was fitted, and the arguments: dicts, lists, numbers and texts alone, so that JSON can hold it."""
        return {
            "encoding": self.encoding,
            "missing": self.missing,
            "standardize": self.standardize,
            "indicators": self.indicators,
            "unknown": self.unknown,
            "numbers": {name: dict(fitted) for name, fitted in self.numbers.items()},
            "categories": {
                name: {**fitted, "categories": list(fitted["categories"])} for name, fitted in self.categories.items()
            },
            "classes": None if self.classes is None else list(self.classes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`. Errors: `StateDictError`."""
        if not isinstance(state, Mapping) or set(state) != set(self.state_dict()):
            received = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise StateDictError(
                "this is not the state of a TableEncoder",
                expected=", ".join(self.state_dict()),
                received=str(received),
            )
        try:
            fresh = TableEncoder(
                state["encoding"], state["missing"], state["standardize"], state["indicators"], state["unknown"]
            )
            numbers = {
                str(name): {
                    "fill": _finite(f["fill"]),
                    "mean": _finite(f["mean"]),
                    "std": _finite(f["std"]),
                    "indicator": bool(f["indicator"]),
                }
                for name, f in state["numbers"].items()
            }
            categories: dict[str, dict[str, Any]] = {
                str(name): {
                    "categories": [str(text) for text in f["categories"]],
                    "fill": int(f["fill"]),
                    "indicator": bool(f["indicator"]),
                }
                for name, f in state["categories"].items()
            }
            for fitted in categories.values():
                if not -1 <= fitted["fill"] < len(fitted["categories"]):
                    raise ValueError("the fill of a category is one of its numbers")
            classes = None if state["classes"] is None else tuple(str(text) for text in state["classes"])
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            reason = getattr(error, "problem", None) or str(error)
            raise StateDictError(f"the state of a TableEncoder is damaged: {reason}") from None
        vars(self).update(vars(fresh))
        self.numbers, self.categories, self.classes = numbers, categories, classes

    def __repr__(self) -> str:
        return (
            f"TableEncoder({self.encoding!r}, missing={self.missing!r}, standardize={self.standardize}: "
            f"{len(self.numbers)} of numbers, {len(self.categories)} of categories)"
        )


def _finite(value) -> float:
    value = float(value)
    if not math.isfinite(value):
        raise ValueError("a number is not finite")
    return value
