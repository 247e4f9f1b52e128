"""The data sets an experiment file can name. A function's arguments are the keys of its [data] table."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deepcore.cli import text as texts
from deepcore.cli.columns import ENCODINGS, MISSING, Column, Columns
from deepcore.data.tabular import natural
from deepcore.errors import ArgumentError, DataError, suggest
from deepcore.io.idx import read_idx
from deepcore.io.npy import read_npy
from deepcore.io.tables import Table, TableFile, number_in
from deepcore.nn.registry import Registry

SOURCES = Registry("data set")


@dataclass
class Samples:
    """Inputs (N, *shape) float32, or of text (N, length) int64, and class numbers (N,) int64 or values (N, K) float32."""

    inputs: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass
class Data:
    """The data of a data set. `unit`: the value in its own files that is 1.0 in the inputs, if they are scaled.
    `columns`: the table columns of the inputs, if they come from a table. `text`: their vocabulary, if they are text."""

    train: Samples
    test: Samples | None
    classes: tuple[str, ...] | None
    unit: float | None = None
    columns: Columns | None = None
    text: texts.Text | None = None


#: Data set → the names of its arguments that are paths.
PATHS: dict[str, tuple[str, ...]] = {}


def source(name: str, *paths: str):
    """Decorator: register a data set for experiment files; `paths` names its arguments that are paths. Beside the keys of
    the file it takes `folder`, the base of relative paths, and `classification`, whether the loss takes class numbers."""

    def register(function):
        SOURCES[name], PATHS[name] = function, paths
        return function

    return register


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
    ignore: Sequence[int | str] = (),
    categories: Sequence[int | str] = (),
    encoding: str = "one-hot",
    missing: str = "error",
    header: bool | None = None,
    *,
    folder: Path | None = None,
    classification: bool = True,
) -> Data:
    """A table with a sample in each row. Columns are given by number (from 0; -1 is the last) or by the name in the first
    row.

    target: the column to learn. ignore: columns to leave out, such as an id. categories: columns of text to use as
    inputs, by encoding: "one-hot" (one input per text) or "codes" (its number). All others are numbers.
    missing: "error" raises for empty cells; "mean" replaces a missing number by the mean of the training data, and gives a
    missing text no category. The target is never missing.
    header: whether the first row is names; left out, it is names if none of its cells is a number.
    Without a `test` file, `test_fraction` of the rows, the same in every run, are the test data.
    """
    _check_choice("encoding", encoding, ENCODINGS)
    _check_choice("missing", missing, MISSING)
    expected_names = [column for column in (target, *ignore, *categories) if isinstance(column, str)]
    file = TableFile(_path(train, folder), header, expected_names)
    target_column, ignored, texts = (
        file.column(target),
        [file.column(c) for c in ignore],
        [file.column(c) for c in categories],
    )
    for column in (*ignored, *texts):
        if column == target_column or (column in ignored and column in texts):
            role = "the target" if column == target_column else "to be left out and of categories"
            raise ArgumentError(f"{file.label(column)} is {role}", fix="list it once, under ignore or categories")
    named = file.names or (None,) * file.width
    features = [
        Column(i, named[i], () if i in texts else None)
        for i in range(file.width)
        if i != target_column and i not in ignored
    ]
    if not features:
        raise DataError(f"{file.path!r} has no column but the target", expected="a column of numbers or categories")
    columns = Columns(features, file.width, target_column, named[target_column], encoding, missing)
    tables = [columns.read_training(file, classification, learn=True)]
    if test is not None:
        test_file = TableFile(_path(test, folder), header, [name for name in named if name])
        tables.append(columns.read_training(test_file, classification, learn=False))
    inputs = [columns.encode(table) for table in tables]
    names, targets = _targets(tables, classification)
    data = _split(inputs, targets, names, test_fraction, None)
    columns.average(data.train.inputs)
    for part in (data.train, data.test):
        if part is not None:
            columns.fill(part.inputs)
    data.columns = columns
    return data


def _targets(tables: list[Table], classification: bool) -> tuple[tuple[str, ...] | None, list[np.ndarray]]:
    """(the classes' names, the class numbers (N,)) of the last columns of text, or (None, the last numbers (N, 1))."""
    if not classification:
        return None, [table.numbers[:, -1:] for table in tables]
    last = [table.texts[-1] for table in tables]
    names = tuple(sorted({name for text in last for name in text.categories}, key=natural))
    number = {name: i for i, name in enumerate(names)}
    return names, [np.array([number[name] for name in text.categories], np.int64)[text.codes] for text in last]


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
    return _from_arrays(paths, read_npy, test_fraction, folder, classification)


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
    """IDX files like MNIST's, plain or gzip: images (N, H, W), which become (N, 1, H, W), and labels (N,)."""
    paths = [(images, labels), (test_images, test_labels)]
    data = _from_arrays(paths, read_idx, test_fraction, folder, classification)
    for part in (data.train, data.test):
        if part is not None and part.inputs.ndim == 3:
            part.inputs = part.inputs[:, None]
    return data


@source("text", "train", "test")
def text_lines(
    train: str,
    test: str | None = None,
    test_fraction: float = 0.2,
    tokens: str = "word",
    length: int | None = None,
    max_vocabulary: int = 20_000,
    min_count: int = 2,
    lowercase: bool = True,
    encoding: str = "utf-8",
    *,
    folder: Path | None = None,
    classification: bool = True,
) -> Data:
    """Texts with labels, as numbers of tokens (N, length); 0 is padding.

    train, test: a file with `label<TAB>text` in each line, or a folder with a file for each class, a text in each line,
    or a folder for each class, a text in each file. For a loss on values, labels are numbers.
    tokens: "word" (and the marks between words) or "character". length: of a text in tokens, longer ones are cut; left
    out, that of the longest to train on. max_vocabulary, min_count: the most frequent tokens of the training data that
    occur so often; all others are one unknown token. encoding: "utf-8" or "latin-1".
    Without `test`, `test_fraction` of the texts, the same in every run, are the test data.
    """
    _check_choice("tokens", tokens, texts.TOKENS)
    _check_choice("encoding", encoding, texts.ENCODINGS)
    for name, value in (("length", length), ("max_vocabulary", max_vocabulary), ("min_count", min_count)):
        if value is not None and not 1 <= value <= 1 << 16:
            raise ArgumentError(f"{name} is 1 to 65,536", received=str(value))
    inputs, labels = [], []
    for name in (train,) if test is None else (train, test):
        path = _path(name, folder)
        found, lines = texts.read_samples(path, encoding)
        if not lines:
            raise DataError(
                f"{str(path)!r} has no texts", expected="label<TAB>text in each line, or a file for each class"
            )
        inputs.append(np.array(lines, object))
        labels.append(found)
    names = tuple(sorted(set(labels[0]), key=natural))
    targets = [_label_numbers(found, names) if classification else _label_values(found) for found in labels]
    data = _split(inputs, targets, names if classification else None, test_fraction, None)
    data.text = texts.Text.fit(
        data.train.inputs, length, max_vocabulary, min_count, tokens=tokens, lowercase=lowercase, encoding=encoding
    )
    for part in (data.train, data.test):
        if part is not None:
            part.inputs = data.text.encode(part.inputs)
    return data


def _label_numbers(labels: list[str], names: tuple[str, ...]) -> np.ndarray:
    number = {name: i for i, name in enumerate(names)}
    for label in labels:
        if label not in number:
            raise DataError(
                f"the test data have a class {label!r} that is not in the training data", fix=suggest(label, names)
            )
    return np.array([number[label] for label in labels], np.int64)


def _label_values(labels: list[str]) -> np.ndarray:
    values = [number_in(label.encode()) for label in labels]
    for label, value in zip(labels, values):
        if value is None or not math.isfinite(value):
            raise DataError(
                "a label is not a number",
                received=repr(label),
                fix="a loss on classes, such as CrossEntropyLoss, takes text",
            )
    return np.array(values, np.float32)[:, None]


# -- shared ------------------------------------------------------------------------------------------
def load(part, folder: Path | None, classification: bool) -> Data:
    """The data of a [data] table, in its `shape`."""
    data: Data = SOURCES[part.type](**part.arguments, folder=folder, classification=classification)
    data.classes = data.classes if classification else None
    if data.text is not None and (part.shape is not None or part.normalize != "none"):
        key = "normalize" if part.shape is None else "shape"
        raise part.at.key(key).error(f"text has no {key}", fix=f"leave out {key}")
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
    """A [data] table whose relative paths are resolved against `folder`."""
    arguments = dict(part.arguments)
    for name in PATHS[part.type]:
        path = Path(arguments[name]).expanduser() if name in arguments else None
        if path is not None and folder is not None and not path.is_absolute():
            arguments[name] = str((folder / path).resolve())
    return replace(part, arguments=arguments)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ArgumentError(f"{name} is one of {', '.join(map(repr, choices))}", received=repr(value))


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
    """Given train and test data, or a stratified split: the same samples in every run, each class with its share."""
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
