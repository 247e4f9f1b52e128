"""The data sets an experiment file can name. A function's arguments are the keys of its [data] table."""

from __future__ import annotations

import csv
import io
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepcore.errors import ArgumentError, DataError, suggest
from deepcore.io.files import open_regular
from deepcore.io.idx import read_idx
from deepcore.nn.registry import Registry

SOURCES = Registry("data set")


@dataclass
class Samples:
    """Inputs (N, *shape) float32, and class numbers (N,) int64 or values (N, K) float32."""

    inputs: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass
class Data:
    """What a data set gives. `unit`: the value in its own files that is 1.0 in the inputs, if they are scaled."""

    train: Samples
    test: Samples | None
    classes: tuple[str, ...] | None
    unit: float | None = None


#: Data set → those of its arguments that are paths.
PATHS: dict[str, tuple[str, ...]] = {}


def source(name: str, *paths: str):
    """Decorator: experiment files may name this data set; `paths` are its arguments that are paths. It takes `folder`,
    which relative paths start from, and `classification`, whether the loss wants class numbers, beside the keys of
    the file."""

    def add(function):
        SOURCES[name], PATHS[name] = function, paths
        return function

    return add


@source("digits")
def digits(*, folder: Path | None = None, classification: bool = True) -> Data:
    """The bundled 8×8 digits of UCI: 1,437 to train on, 360 to test on, inputs (1, 8, 8) in [0, 1]."""
    from deepcore import data

    train, test = (_samples(data.digits(split, backend="cpu"), classification) for split in ("train", "test"))
    return Data(train, test, classes=tuple("0123456789"), unit=16.0)


@source("mnist", "root")
def mnist(
    train: str = "train",
    test: str | None = "test",
    root: str | None = None,
    download: bool = True,
    *,
    folder: Path | None = None,
    classification: bool = True,
) -> Data:
    """MNIST, inputs (1, 28, 28) in [0, 1]. `train` and `test` are splits such as "train[:50000]" or "test[8000:]";
    `root` is the folder of the IDX files (default: `mnist` in DEEPCORE_DATA, then the user's cache)."""
    from deepcore import data

    where = None if root is None else _path(root, folder)

    def part(split: str) -> Samples:
        return _samples(data.mnist(where, split, download, backend="cpu"), classification)

    return Data(part(train), None if test is None else part(test), classes=tuple("0123456789"), unit=255.0)


@source("csv", "train", "test")
def csv_file(
    train: str,
    test: str | None = None,
    test_fraction: float = 0.2,
    target: int | str = -1,
    *,
    folder: Path | None = None,
    classification: bool = True,
) -> Data:
    """A table with a sample in each row. `target`: the column to learn, by number (from 0; -1 is the last) or by the
    name in the first row. Without a `test` file, `test_fraction` of the rows, the same in every run, are set aside."""
    features, labels = _read_table(_path(train, folder), target)
    held = None if test is None else _read_table(_path(test, folder), target)
    if held is not None and held[0].shape[1] != features.shape[1]:
        raise DataError(
            "the two CSV files differ in columns",
            received=f"{features.shape[1]} features in {train!r}, {held[0].shape[1]} in {test!r}",
        )
    inputs = [features] if held is None else [features, held[0]]
    columns = [labels] if held is None else [labels, held[1]]
    if not classification:
        return _split(inputs, [_numbers(column, target) for column in columns], None, test_fraction, None)
    names = tuple(sorted({name for column in columns for name in column}, key=_natural))
    number = {name: i for i, name in enumerate(names)}
    targets = [np.array([number[name] for name in column], np.int64) for column in columns]
    return _split(inputs, targets, names, test_fraction, None)


@source("npy", "inputs", "targets", "test_inputs", "test_targets")
def npy(
    inputs: str,
    targets: str,
    test_inputs: str | None = None,
    test_targets: str | None = None,
    test_fraction: float = 0.2,
    *,
    folder: Path | None = None,
    classification: bool = True,
) -> Data:
    """Arrays written by numpy.save: inputs (N, …) and class numbers (N,) or values (N,) or (N, K). Eight-bit inputs
    become fractions of 255."""
    paths = [(inputs, targets), (test_inputs, test_targets)]
    return _from_arrays(paths, _read_npy, test_fraction, folder, classification)


@source("idx", "images", "labels", "test_images", "test_labels")
def idx(
    images: str,
    labels: str,
    test_images: str | None = None,
    test_labels: str | None = None,
    test_fraction: float = 0.2,
    *,
    folder: Path | None = None,
    classification: bool = True,
) -> Data:
    """IDX files as MNIST's, plain or gzip: images (N, H, W), which become (N, 1, H, W), and labels (N,)."""
    paths = [(images, labels), (test_images, test_labels)]
    data = _from_arrays(paths, read_idx, test_fraction, folder, classification)
    for part in (data.train, data.test):
        if part is not None and part.inputs.ndim == 3:
            part.inputs = part.inputs[:, None]
    return data


# -- shared ------------------------------------------------------------------------------------------
def load(part, folder: Path | None, classification: bool) -> Data:
    """The data of a [data] table, in the shape it asks for."""
    data: Data = SOURCES[part.type](**part.arguments, folder=folder, classification=classification)
    data.classes = data.classes if classification else None
    for samples in (data.train, data.test):
        if samples is None:
            continue
        if len(samples) == 0:
            raise DataError(f"the data set {part.type!r} has no samples in one of its parts", where=str(part.at.path))
        if not np.isfinite(samples.inputs).all():
            raise DataError(f"the data set {part.type!r} has values that are not finite", fix="fill in missing values")
        if part.shape is not None:
            have = samples.inputs.shape[1:]
            if math.prod(have) != math.prod(part.shape):
                raise part.at.key("shape").error(
                    "the samples have another size", expected=f"{math.prod(have)} values, as in shape {list(have)}",
                    received=f"{list(part.shape)}",
                )  # fmt: skip
            samples.inputs = samples.inputs.reshape(len(samples), *part.shape)
    return data


def relocated(part, folder: Path | None):
    """A [data] table whose relative paths start from `folder`."""
    arguments = dict(part.arguments)
    for name in PATHS[part.type]:
        path = Path(arguments[name]).expanduser() if name in arguments else None
        if path is not None and folder is not None and not path.is_absolute():
            arguments[name] = str((folder / path).resolve())
    return replace(part, arguments=arguments)


def _path(name: str, folder: Path | None) -> Path:
    path = Path(name).expanduser()
    path = path if path.is_absolute() or folder is None else folder / path
    if not path.exists():
        near = os.listdir(path.parent) if path.parent.is_dir() else []
        fix = suggest(path.name, near) if near else f"there is no folder {path.parent} either"
        raise DataError(f"there is no file {str(path)!r}", fix=fix)
    return path


def _samples(dataset, classification: bool) -> Samples:
    inputs, labels = (t.numpy() for t in dataset.tensors)
    return Samples(inputs, labels if classification else labels[:, None].astype(np.float32))


def _from_arrays(paths, read, fraction: float, folder: Path | None, classification: bool) -> Data:
    inputs, targets, unit = [], [], None
    for input_name, target_name in paths:
        if (input_name is None) != (target_name is None):
            raise ArgumentError("test inputs and test targets come together", received="only one of the two")
        if input_name is None:
            continue
        x, y = read(_path(input_name, folder)), read(_path(target_name, folder))
        if x.ndim < 2 or y.ndim == 0 or len(x) != len(y):
            raise DataError(
                "inputs and targets do not belong together",
                expected="(N, …) and (N,) or (N, K)",
                received=f"{x.shape} in {input_name!r}, {y.shape} in {target_name!r}",
            )
        if x.dtype == np.uint8:
            x, unit = x.astype(np.float32) / np.float32(255), 255.0
        inputs.append(x.astype(np.float32, copy=False))
        targets.append(_class_numbers(y, target_name) if classification else _values(y))
    classes = tuple(str(i) for i in range(1 + max(int(y.max()) for y in targets))) if classification else None
    return _split(inputs, targets, classes, fraction, unit)


def _class_numbers(y: np.ndarray, name: str) -> np.ndarray:
    if y.ndim != 1 or len(y) == 0 or y.dtype.kind not in "iu" or y.min() < 0:
        raise DataError(
            f"{name!r} does not hold class numbers",
            expected="whole numbers from 0 on, shape (N,)",
            received=f"{y.dtype} {y.shape}",
        )
    return y.astype(np.int64)


def _values(y: np.ndarray) -> np.ndarray:
    y = y.astype(np.float32)
    return y[:, None] if y.ndim == 1 else y


def _split(inputs: list, targets: list, classes, fraction: float, unit: float | None) -> Data:
    """Train and test as given, or test set aside: the same samples in every run, each class with its share."""
    if len(inputs) == 2:
        parts = [Samples(x, y) for x, y in zip(inputs, targets)]
        return Data(parts[0], parts[1], classes, unit)
    if not 0 <= fraction < 1:
        raise ArgumentError("test_fraction is a share of the samples", expected="0 ≤ f < 1", received=f"{fraction}")
    (x,), (y,) = inputs, targets
    test = np.zeros(len(x), bool)
    order = np.random.default_rng(0).permutation(len(x))
    if classes is not None:
        order = order[np.argsort(y[order], kind="stable")]
    rank = np.arange(len(x))
    count = round(fraction * len(x))
    test[order] = (rank + 1) * count // max(len(x), 1) > rank * count // max(len(x), 1)
    return Data(Samples(x[~test], y[~test]), Samples(x[test], y[test]) if count else None, classes, unit)


def _read_npy(path: Path) -> np.ndarray:
    from deepcore.io import readers

    return readers._read_npy(str(path))


def _read_table(path: Path, target: int | str) -> tuple[np.ndarray, list[str]]:
    """(features, the target column as text) of a CSV file."""
    with open_regular(path) as file:
        raw = file.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{str(path)!r} is not text in UTF-8", fix="save it again as UTF-8") from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((mark for mark in (",", ";", "\t") if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(c.strip() for c in row)]
    except csv.Error as error:
        raise DataError(f"{str(path)!r} cannot be read as CSV: {error}") from None
    if not rows:
        raise DataError(f"{str(path)!r} holds no rows")
    named = target in rows[0][1] if isinstance(target, str) else False
    names = rows.pop(0)[1] if named or all(_number(cell) is None for cell in rows[0][1]) else None
    if not rows:
        raise DataError(f"{str(path)!r} holds no rows below its column names")
    width = len(names) if names else len(rows[0][1])
    if isinstance(target, str):
        if names is None or target not in names:
            fix = suggest(target, names) if names else "the file has no column names: give the column's number"
            raise DataError(f"{str(path)!r} has no column {target!r}", fix=fix)
        column = names.index(target)
    elif -width <= target < width:
        column = target % width
    else:
        raise DataError(f"{str(path)!r} has no column {target}", expected=f"0 to {width - 1}")
    features, labels = np.empty((len(rows), width - 1), np.float32), []
    for i, (line, row) in enumerate(rows):
        if len(row) != width:
            raise DataError(f"{str(path)!r}, line {line}: {len(row)} columns", expected=f"{width}, as in the first row")
        labels.append(row.pop(column))
        if not labels[-1]:
            raise DataError(
                f"{str(path)!r}, line {line}: the target is missing", fix="fill it in, or leave out the row"
            )
        values = [_number(cell) for cell in row]
        if None in values:
            bad = row[values.index(None)]
            raise DataError(f"{str(path)!r}, line {line}: {bad!r} is not a number", fix="only the target may be text")
        with np.errstate(over="ignore"):  # an infinite value is reported by load
            features[i] = values
    return features, labels


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _numbers(cells: list[str], target) -> np.ndarray:
    values: list[Any] = [_number(cell) for cell in cells]
    if None in values:
        raise DataError(
            f"the target {target!r} is not a number: {cells[values.index(None)]!r}",
            fix="a loss on classes, such as CrossEntropyLoss, takes text",
        )
    return np.array(values, np.float32)[:, None]


def _natural(name: str) -> tuple:
    number = _number(name)
    return (0, number, name) if number is not None and math.isfinite(number) else (1, 0.0, name)
