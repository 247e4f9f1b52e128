"""The arguments of `fit` and `evaluate` in Keras's form and in deepcore's, as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deepcore.data import DataLoader, IterableDataset
from deepcore.errors import ArgumentError, DataError
from deepcore.train import feed
from deepcore.train.stream import is_stream


def resolve(inputs: feed.Inputs, train, validation, x, y, validation_data, sample_weight, verb: str) -> tuple[Any, Any]:
    """(training data, validation data) of a call.

    The second positional argument is validation data, or, after inputs alone, their targets.
    """
    if x is not None:
        if train is not None:
            raise ArgumentError(f"{verb}: x is given twice, by position and by name", fix="leave one out")
        train = x
    if train is None:
        raise ArgumentError(f"{verb} needs data", expected=f"{verb}(x, y), or {verb}((x, y))")
    if y is None and validation is not None and _are_targets(inputs, train, validation):
        y, validation = validation, None
    if y is not None or sample_weight is not None:
        train = _pair(inputs, train, y, sample_weight, verb)
    elif x is not None and isinstance(train, Mapping):
        raise ArgumentError(f"{verb}(x=…) needs the targets of a dict of inputs", fix=f"{verb}(x=…, y=…)")
    if validation_data is not None:
        if validation is not None:
            raise ArgumentError("validation and validation_data mean the same thing", fix="leave one out")
        validation = validation_data
        if isinstance(validation, (tuple, list)) and len(validation) in (2, 3) and not _are_samples(validation):
            columns = [*validation, None][:3]
            validation = feed.Pair(_inputs(inputs, columns[0]), *columns[1:])
    return train, validation


def check_settings(settings: tuple, inputs: feed.Inputs, train, second) -> None:
    """Raise unless the third and fourth positional arguments of `fit` are epochs and batch_size."""
    keras = second is not None and _are_targets(inputs, train, second)
    if keras or len(settings) > 2:
        raise ArgumentError(
            "fit takes its settings by name"
            + (": Keras has batch_size before epochs, and deepcore epochs before batch_size" if keras else ""),
            received=f"{len(settings) + 2} positional arguments",
            fix="fit(x, y, epochs=…, batch_size=…)",
        )


def _are_samples(data) -> bool:
    return isinstance(data, list) and all(isinstance(sample, tuple) for sample in data)


def _pair(inputs: feed.Inputs, x, y, weight, verb: str) -> feed.Pair:
    if y is None:  # weights of a tuple (input, …, target)
        if not isinstance(x, tuple) or len(x) < 2:
            raise ArgumentError(
                "sample_weight is for arrays (x, y)",
                received=type(x).__name__,
                fix="weights as the last part of each batch of an iterable: (x, y, sample_weight)",
            )
        x, y = (x[0] if len(x) == 2 else x[:-1]), x[-1]
    if isinstance(x, (DataLoader, IterableDataset)) or is_stream(x) or not _is_columns(x):
        raise ArgumentError(
            f"{verb}: the targets are in the data already", received=f"a {type(x).__name__}, and y", fix=f"{verb}(data)"
        )
    return feed.Pair(_inputs(inputs, x), y, weight)


def _inputs(inputs: feed.Inputs, x):
    """Several inputs in a list as a tuple: a list may also be the rows of one."""
    if type(x) is list and any(map(feed.is_array, x)) and inputs.maximum > 1 and inputs.accepts_count(len(x)):
        return tuple(x)
    return x


def _is_columns(value) -> bool:
    """Whether a value is an array, or a tuple, list or dict of several."""
    if isinstance(value, Mapping):
        return bool(value) and all(map(_is_columns, value.values()))
    if isinstance(value, tuple) or (type(value) is list and any(map(feed.is_array, value))):
        return bool(value) and all(map(_is_columns, value))
    return feed.is_column(value)


def _are_targets(inputs: feed.Inputs, first, second) -> bool:
    """Whether the second argument is the targets of the first, and not validation data."""
    if not _is_columns(first) or not _is_columns(second):
        return False
    several = isinstance(first, tuple) or (type(first) is list and any(map(feed.is_array, first)))
    if several:  # (x, y), or several inputs
        return inputs.accepts_count(len(first)) and (
            isinstance(second, Mapping) or feed.is_array(second) or not inputs.accepts_count(len(first) - 1)
        )
    if isinstance(second, (tuple, list)) and any(map(feed.is_array, second)):
        length = _rows(first)
        return all(_rows(column) == length for column in second)
    return True


def _rows(columns) -> int | None:
    """The samples of a column, or of the first of several."""
    while isinstance(columns, Mapping) or (isinstance(columns, (tuple, list)) and any(map(feed.is_array, columns))):
        columns = next(iter(columns.values() if isinstance(columns, Mapping) else columns))
    shape = getattr(columns, "shape", None)
    return len(columns) if shape is None else shape[0] if shape else None


def check_pairs(train, validation) -> None:
    """Raise for inputs without their targets."""
    for name, data in (("training", train), ("validation", validation)):
        if feed.is_column(data):
            raise DataError(
                f"{name} data is a tuple (x, y): inputs and targets",
                received=f"one {type(data).__name__}",
                fix="fit(x, y)" if name == "training" else "fit(…, validation=(x, y))",
            )


def frequency(validation_freq) -> int | frozenset[int]:
    """`validation_freq`, checked: a number of epochs, or the epochs, from 1."""
    values = [validation_freq] if isinstance(validation_freq, int) else validation_freq
    right = isinstance(values, Iterable) and not isinstance(values, str)
    numbers = list(values) if right else []
    if not numbers or any(isinstance(n, bool) or not hasattr(n, "__index__") or n < 1 for n in numbers):
        raise ArgumentError(
            "validation_freq is a number of epochs, or a list of epochs from 1", received=repr(validation_freq)
        )
    return validation_freq if isinstance(validation_freq, int) else frozenset(numbers)
