"""The data of `fit`, `evaluate` and `predict` as batches on the trainer's backend."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepcore import random
from deepcore.autograd import no_grad
from deepcore.autograd.trees import tree_map
from deepcore.backend import Backend
from deepcore.backend import dtypes as dt
from deepcore.data import DataLoader, IterableDataset, Subset, TensorDataset
from deepcore.data.collate import collate, to_backend
from deepcore.errors import ArgumentError, BackendError, DataError, DTypeError
from deepcore.nn import Embedding
from deepcore.nn.notify import warn_user
from deepcore.tensor import Tensor, as_tensor, from_raw, tensor
from deepcore.train.state import PreserveModes
from deepcore.train.stream import Batches, is_stream

DEFAULT_BATCH = 32
_KINDS = (
    "a DataLoader, a Dataset, a tuple (x, y) of arrays or tensors, a list of samples (x, y), or an iterable of batches "
    "(x, y)"
)
_PLAIN = (bool, int, float, np.number, np.bool_)


# -- data to a loader ------------------------------------------------------------------------------------
@dataclass
class Pair:
    """Inputs and targets as Keras's verbs take them: x and y, each a column or several, and weights of the samples."""

    x: Any
    y: Any
    weight: Any = None

    def __post_init__(self):
        several = isinstance(self.weight, Mapping) or (
            isinstance(self.weight, (tuple, list)) and any(map(is_array, self.weight))
        )
        if several:
            raise ArgumentError(
                "sample_weight is one column, whose weights hold for all outputs",
                received=f"a {type(self.weight).__name__} of {len(self.weight)}",
                fix="one array; loss_weights of the Trainer weigh outputs",
            )

    def columns(self) -> tuple:
        return (self.x, self.y) if self.weight is None else (self.x, self.y, self.weight)


def as_loader(
    data, batch_size: int | None, shuffle: bool, backend: Backend, dtype, inputs=None, steps: int | None = None
) -> DataLoader:
    """A DataLoader over data of any kind; a DataLoader is returned unchanged.

    A tuple, or a list of arrays, contains columns (x, …, y); a column is an array, a tensor, a list of numbers or arrays,
    a table with `to_numpy()`, or a tuple or dict of columns. A list of tuples contains samples. Floating NumPy numbers
    become `dtype` (the model's), because NumPy defaults to float64. With `inputs`, `data` may be inputs without a target:
    a list of arrays, one per sample, is then one column unless the model takes as many inputs. An iterable without
    items by index, or a function that returns one, gives batches; an iterator needs a number of `steps`.
    """
    if isinstance(data, DataLoader):
        if data.backend is not None and data.backend is not backend:
            raise BackendError(
                f"the loader gives batches on {data.backend}, and the model is on {backend}",
                fix=f'DataLoader(…, backend="{backend}"), or Trainer(…, backend="{data.backend}")',
            )
        return data
    if isinstance(data, Mapping) and inputs is not None:
        data = (data,)
    if isinstance(data, Mapping):
        raise ArgumentError(
            "a dict does not say which of its entries is the target",
            expected=_KINDS,
            received=f"a dict with {_keys(data)}",
            fix="a tuple: (data[…], data[…])",
        )
    if isinstance(data, Iterator) and steps is None and inputs is None:
        raise ArgumentError(
            f"a {type(data).__name__} can be read only once, and training reads its data in every epoch",
            expected=_KINDS,
            fix="the list of its samples, list(…), an IterableDataset whose __iter__ begins anew, or, where it gives "
            "batches (x, y), steps_per_epoch (of validation data validation_steps)",
        )
    if is_stream(data):
        if batch_size is not None:
            raise ArgumentError("batch_size does nothing here: the data is batches already", fix="leave it out")
        return DataLoader(Batches(data, dtype), None, backend=backend)
    if isinstance(data, Pair):
        data = Columns(data.columns(), dtype, data.weight is not None)
        columns = None
    else:
        columns = _columns(data, inputs)
    if columns is not None:
        data = Columns(columns, dtype)
    elif isinstance(data, IterableDataset):
        shuffle = False
    elif not (hasattr(data, "__len__") and hasattr(data, "__getitem__")) or isinstance(data, (str, bytes)):
        raise ArgumentError(f"data is {_KINDS}", received=type(data).__name__)
    return DataLoader(data, DEFAULT_BATCH if batch_size is None else batch_size, shuffle, backend=backend)


def split(data, fraction: float, dtype) -> tuple[Subset, Subset]:
    """(the first samples, the last `fraction` of them) of arrays or a dataset, in their order."""
    if not isinstance(fraction, float) or not 0 < fraction < 1:
        raise ArgumentError("validation_split is a fraction of the samples", expected="0 < fraction < 1",
                            received=repr(fraction))  # fmt: skip
    columns = data.columns() if isinstance(data, Pair) else _columns(data, None)
    if columns is not None:
        data = Columns(columns, dtype, isinstance(data, Pair) and data.weight is not None)
    elif isinstance(data, (DataLoader, IterableDataset)) or not (
        hasattr(data, "__len__") and hasattr(data, "__getitem__")
    ):
        raise ArgumentError(
            "validation_split divides arrays, or a dataset with samples by index",
            received=type(data).__name__,
            fix="validation_data=…, of its own",
        )
    count = len(data)
    first = math.floor(count * (1 - fraction))
    if not 0 < first < count:
        raise DataError(
            f"validation_split={fraction} leaves no sample on one side",
            received=f"{count} samples",
            fix="another fraction",
        )
    return Subset(data, np.arange(first)), Subset(data, np.arange(first, count))


def is_weighted(loader: DataLoader) -> bool:
    """Whether the last part of the loader's batches is weights of the samples."""
    dataset = loader.dataset
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return getattr(dataset, "weighted", False)


def length_of(loader: DataLoader) -> int | None:
    """The batches of a pass, or None where the dataset does not tell how many samples it has."""
    try:
        return len(loader)
    except TypeError:
        return None


def _keys(data: Mapping) -> str:
    return ", ".join(f"{str(name)[:40]!r}" for name in list(data)[:4])


def is_array(value) -> bool:
    """Whether `value` is an array, a tensor, or a table or a column of one; lists are not."""
    return isinstance(value, (Tensor, np.ndarray)) or any(
        hasattr(value, name) for name in ("__cuda_array_interface__", "to_numpy", "__dlpack__", "toarray")
    )


def is_column(value) -> bool:
    """Whether `value` is an array, or a list that can only be one: inputs or targets without the other."""
    return is_array(value) or (type(value) is list and bool(value) and isinstance(value[0], (list, str, *_PLAIN)))


def _columns(data, inputs) -> tuple | None:
    """The columns of the data, or None where it gives samples by index."""
    if is_array(data):
        return (data,)
    if isinstance(data, tuple):
        return data
    if type(data) is not list or not data:
        return None
    if any(map(is_array, data)):
        samples = len({tuple(part.shape) for part in data if hasattr(part, "shape")}) == 1 == len({*map(type, data)})
        one_column = inputs is not None and samples and not inputs.accepts_count(len(data))
        return (_stack(data, "x"),) if one_column else tuple(data)
    if all(isinstance(sample, tuple) for sample in data):
        rows = [tuple([np.asarray(p) if type(p) is list and _of_numbers(p) else p for p in s]) for s in data]
        return tuple(collate(rows, range(len(rows))))
    return (data,) if is_column(data) else None


def _of_numbers(values: list) -> bool:
    return all(_of_numbers(v) if type(v) is list else isinstance(v, _PLAIN) for v in values)


class Columns(TensorDataset):
    """A TensorDataset whose batches have the structure of its columns; `weighted`: the last one is weights of samples."""

    def __init__(self, columns: tuple, dtype, weighted: bool = False):
        self.weighted = weighted
        tensors: list[Tensor] = []
        lengths: dict[str, int] = {}
        rows = next((_length(c) for c in columns if not isinstance(c, Mapping) and not _holds_arrays(c)), None)

        def add_column(column, name: str):
            if isinstance(column, Mapping):
                return {key: add_column(item, f"{name}[{key!r}]") for key, item in column.items()}
            if _holds_arrays(column) and (isinstance(column, tuple) or len(column) != rows):  # else a list of rows
                positions = [add_column(item, f"{name}[{i}]") for i, item in enumerate(column)]
                return type(column)(positions) if len(positions) > 1 else positions[0]
            tensors.append(_tensor(column, dtype, name))
            lengths[name] = tensors[-1].shape[0] if tensors[-1].ndim else 0
            return len(tensors) - 1

        inputs = len(columns) - 1 - weighted
        names = [*(f"x{i + 1}" if inputs > 1 else "x" for i in range(inputs)), "y"] if columns[1:] else ["x"]
        names += ["sample_weight"] * weighted
        self.positions = tuple([add_column(column, name) for column, name in zip(columns, names, strict=True)])
        self._flat = all(isinstance(position, int) for position in self.positions)
        if len(set(lengths.values())) > 1:
            shapes = ", ".join(f"{name} {t.shape}" for name, t in zip(lengths, tensors))
            *leading, last = lengths
            raise DataError(
                f"{', '.join(leading)} and {last} differ in length",
                expected="a row for each sample",
                received=shapes,
                fix=_length_fix(lengths, tensors),
            )
        super().__init__(*tensors)

    def get_batch(self, indices: np.ndarray):
        batch = super().get_batch(indices)
        return batch if self._flat else tree_map(batch.__getitem__, self.positions)


def _length_fix(lengths: dict[str, int], tensors: list[Tensor]) -> str:
    samples = list(lengths.values())[-1]
    for (name, length), t in zip(lengths.items(), tensors):
        if length != samples and t.ndim == 2 and t.shape[1] == samples:
            return f"{name}.T, if its columns are the samples"
    return "check how each was selected: a filter or a split belongs to all of them"


def _length(column) -> int | None:
    shape = getattr(column, "shape", None)
    return (shape[0] if shape else None) if shape is not None else len(column) if hasattr(column, "__len__") else None


def _holds_arrays(column) -> bool:
    return isinstance(column, (tuple, list)) and any(is_array(item) or isinstance(item, Mapping) for item in column)


def _tensor(value, dtype, name: str) -> Tensor:
    if hasattr(value, "to_numpy"):
        value = _table(value, name)
    elif hasattr(value, "toarray"):
        raise DataError(f"{name} is a sparse {type(value).__name__}", fix=f"{name}.toarray()")
    elif isinstance(value, (list, tuple)):
        value = _stack(value, name)
    elif not hasattr(value, "shape"):
        raise ArgumentError(f"{name} is a {type(value).__name__}", expected="an array, a tensor or a list of numbers")
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OUSTMm":
            value = _numbers(value, name)
        if value.dtype.kind == "f":
            return as_tensor(value, dtype, backend="cpu")
    return as_tensor(value)


def _stack(rows, name: str) -> Any:
    if rows and all(isinstance(row, Tensor) for row in rows):
        return collate(rows, range(len(rows)), name)
    try:
        return np.asarray(rows)
    except ValueError:
        raise DataError(f"the rows of {name} differ in length", fix="pad or cut them to one length") from None


def _table(table, name: str) -> np.ndarray:
    """The numbers of a DataFrame or Series, of any library."""
    values = np.asarray(table.to_numpy())
    if values.dtype.kind == "O":
        text = [c for c in getattr(table, "columns", ()) if not _is_numeric(np.asarray(table[c]))]
        if text:
            shown = [str(c) for c in text[:5]]
            raise DataError(
                f"{name} has columns that do not hold numbers alone: {', '.join(shown)}{', …' if text[5:] else ''}",
                fix=f"{name}.drop(columns={shown}), fillna() for missing values, or pandas.get_dummies({name}, dtype=float)"
                " for categories",
            )
    return values


def _is_numeric(values: np.ndarray) -> bool:
    return values.dtype.kind in "biuf" or all(isinstance(v, _PLAIN) for v in values.flat)


def _numbers(values: np.ndarray, name: str) -> np.ndarray:
    """An object array of numbers in a numeric dtype. Errors: `DataError` for text, dates and anything else."""
    if values.dtype.kind == "O" and _is_numeric(values):
        plain = np.array(values.tolist())
        if plain.dtype.kind in "biuf" and plain.shape == values.shape:
            return plain
    odd = next((v for v in values.flat if not isinstance(v, _PLAIN)), None)
    if isinstance(odd, (str, bytes)):
        raise text_error(name, odd)
    raise DataError(
        f"{name} does not hold numbers",
        received=f"an array of dtype {values.dtype} with {odd!r:.60}",
        fix=f"{name}.astype('float32'), once what is missing is filled in",
    )


def text_error(name: str, example) -> DataError:
    if name != "y":
        return DataError(f"{name} is text, and models take numbers", received=f"values such as {str(example)!r:.60}")
    return DataError(
        "the labels are text, and losses take class numbers",
        received=f"labels such as {str(example)!r:.60}",
        fix="classes, y = numpy.unique(y, return_inverse=True); classes[outputs.numpy().argmax(1)] are the labels of "
        "outputs",
    )


def model_dtype(model):
    """The dtype of the model's first floating parameter."""
    return next((p.dtype for p in model.parameters() if dt.is_floating(p.dtype)), dt.default_float)


# -- batches to a model's arguments ------------------------------------------------------------------------
class Inputs:
    """A model's inputs in batches (input, …, target): their number and dtype.

    Inputs of a dtype that the model rejects are converted to the model's, with one warning; the first batch decides.
    """

    def __init__(self, model, backend: Backend, warned: set, class_weight: Mapping | None = None):
        self.model, self.backend, self.warned = model, backend, warned
        self.names = _names(model)
        declared = getattr(model, "input_names", None)
        self.minimum: int
        self.maximum: float
        self.minimum, self.maximum = (len(self.names),) * 2 if declared is not None else _positional(model)
        self._convert: bool | None = None
        self._class_weights = None if class_weight is None else _class_weights(class_weight)

    @property
    def weighs_classes(self) -> bool:
        """Whether samples are weighed by their classes."""
        return self._class_weights is not None

    def accepts_count(self, count: int) -> bool:
        return self.minimum <= count <= self.maximum

    def split(self, batch, loader: DataLoader | None = None) -> tuple[tuple, Any, Tensor | None]:
        """(inputs, target, weights of the samples or None) of a batch (input, …, target) of a loader."""
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise DataError(
                "a batch to train or evaluate on is a tuple (input, …, target)",
                received=f"a tuple of {len(batch)}"
                if isinstance(batch, (tuple, list))
                else f"a {type(batch).__name__}",
                fix="give pairs: fit((x, y)), or a Dataset whose items are (x, y)",
            )
        *inputs, target = to_backend(tuple(batch), self.backend)
        weight = None
        if loader is not None and len(inputs) > 1 and (is_weighted(loader) or self._ends_in_weights(loader, inputs)):
            weight, target = target, inputs.pop()
            weight = weight.to(dt.float32) if isinstance(weight, Tensor) else tensor(weight, dt.float32, self.backend)
        if self._class_weights is not None:
            factors = self._of_classes(target)
            weight = factors if weight is None else weight * factors
        if type(target) is list and target and isinstance(target[0], (str, bytes)):
            raise text_error("y", target[0])
        return self._arguments(inputs), target, weight

    def _ends_in_weights(self, loader: DataLoader, inputs: list) -> bool:
        """Whether a batch of an iterable is (x, y, sample_weight), as in Keras, and not (input, input, target)."""
        if not isinstance(loader.dataset, Batches) or len(inputs) != 2:
            return False
        return isinstance(inputs[0], (tuple, list, Mapping)) or self.accepts_count(1)

    def _of_classes(self, target) -> Tensor:
        """The class weight of each sample."""
        if not isinstance(target, Tensor) or not target.ndim:
            raise ArgumentError(
                "class_weight is for one target of classes", received=type(target).__name__, fix="sample_weight"
            )
        xp, labels = target.backend, target._data
        if labels.ndim > 1:
            labels = labels.argmax(1) if labels.shape[1] > 1 else labels[:, 0]
        table = xp.from_host(self._class_weights)
        last = table.shape[0] - 1  # of classes without a weight of their own
        labels = xp.where((labels < 0) | (labels > last), last, labels).astype(np.int64)
        return from_raw(table[labels], xp)

    def inputs_of(self, batch, columns: bool) -> tuple:
        """The inputs of a batch whose last part may be a target, which is left out where the model does not need it.

        Errors: `ArgumentError` for `columns` where the model also accepts the last part.
        """
        if not isinstance(batch, (tuple, list)):
            batch = (batch,)
        parts = list(to_backend(tuple(batch), self.backend))
        inputs = self._spread(parts[:-1])
        if len(parts) > 1 and self.accepts_count(len(inputs)):
            if columns and self.accepts_count(len(parts)) and len(inputs) == len(parts) - 1:
                raise ArgumentError(
                    f"the last of {len(parts)} arrays may be an input or a target",
                    expected=f"inputs that forward takes: {self._count()}",
                    fix=f"leave the target out; or give {len(parts) + 1} arrays, the last of which is the target",
                )
            parts.pop()
        return self._arguments(parts)

    def _arguments(self, inputs: list) -> tuple:
        inputs = self._spread(inputs)
        if not self.accepts_count(len(inputs)):
            named = len(inputs) == 1 and isinstance(inputs[0], Mapping)
            raise DataError(
                f"{type(self.model).__name__}.forward takes {self._count()} input(s), and a batch has {len(inputs)}",
                received=f"a dict with {_keys(inputs[0])}" if named else None,
                fix=f"name the dict's entries as forward does: {', '.join(map(repr, self.names[:8]))}"
                if named and self.names
                else "a tuple of the model's inputs and the target: (x, …, y)",
            )
        if self._convert is None:
            self._convert = self._needs_conversion(inputs)
        return tuple(tree_map(self._convert_leaf, inputs) if self._convert else inputs)

    def _spread(self, inputs: list) -> list:
        """The inputs of a model with several, unpacked from one tuple, list or dict (in the order of forward)."""
        if len(inputs) != 1 or self.maximum <= 1:
            return inputs
        (container,) = inputs
        if type(container) in (tuple, list) and self.accepts_count(len(container)):
            return list(container)
        if isinstance(container, Mapping) and self.accepts_count(len(container)):
            names = self.names[: len(container)]
            if container.keys() == set(names):
                return [container[name] for name in names]
        return inputs

    def _count(self) -> str:
        if self.maximum == self.minimum:
            return str(self.minimum)
        return f"{self.minimum} or more" if self.maximum == math.inf else f"{self.minimum} to {self.maximum:.0f}"

    def _convert_leaf(self, leaf):
        return leaf.to(self.dtype) if isinstance(leaf, Tensor) else leaf

    def _needs_conversion(self, inputs: list) -> bool:
        """Whether the model rejects the dtype of the inputs, and accepts its own."""
        self.dtype = model_dtype(self.model)
        other_dtypes = {t.dtype for t in leaves(inputs) if t.dtype != self.dtype}
        indexed = any(isinstance(m, Embedding) for m in self.model.modules())
        if not other_dtypes or (indexed and all(dt.is_integer(dtype) for dtype in other_dtypes)):
            return False
        first = tree_map(lambda t: from_raw(t._data[:1], t.backend) if isinstance(t, Tensor) and t.ndim else t, inputs)
        if self._accepts(first) or not self._accepts(tree_map(self._convert_leaf, first)):
            return False
        names = ", ".join(sorted(map(dt.name_of, other_dtypes - self.warned)))
        self.warned |= other_dtypes
        if names:
            hint = "; 8-bit values train better as fractions: x / 255" if np.dtype(np.uint8) in other_dtypes else ""
            warn_user(
                f"the inputs are {names}, and the model computes in {dt.name_of(self.dtype)}: they are converted, number "
                f"by number{hint}"
            )
        return True

    def _accepts(self, inputs) -> bool:
        """Whether the model accepts inputs of these dtypes."""
        rng_state = random.get_rng_state()
        try:
            with no_grad(), PreserveModes(self.model):
                self.model.eval()
                self.model(*inputs)
        except DTypeError:
            return False
        except Exception:  # not about dtypes: the step raises it again, with its position
            return True
        finally:
            random.set_rng_state(rng_state)
        return True


def _class_weights(class_weight) -> np.ndarray:
    """The weight of each class from 0 on, and a last 1 for all further ones."""
    if not isinstance(class_weight, Mapping):
        raise ArgumentError("class_weight is a dict {class: weight}", received=type(class_weight).__name__)
    for label, weight in class_weight.items():
        number = isinstance(label, (int, np.integer)) and not isinstance(label, bool) and label >= 0
        if not number or isinstance(weight, bool) or not isinstance(weight, _PLAIN) or not weight >= 0:
            raise ArgumentError(
                "class_weight maps class numbers, from 0 on, to weights of at least 0",
                received=f"{label!r}: {weight!r}",
            )
    table = np.ones(max(class_weight, default=-1) + 2, np.float32)
    for label, weight in class_weight.items():
        table[label] = weight
    return table


def _names(model) -> tuple[str, ...]:
    """The positional parameters of a model's forward, or the names that the model declares."""
    declared = getattr(model, "input_names", None)
    if declared is not None:
        return tuple(declared)
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple([p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD])


def _positional(model) -> tuple[int, float]:
    """The minimum and maximum number of tensors that a model's forward takes by position."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return 0, math.inf
    minimum, maximum = 0, 0.0
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            maximum = math.inf
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            needed = p.default is p.empty
            optional = p.default is None and (p.annotation is p.empty or "Tensor" in str(p.annotation))
            minimum, maximum = minimum + needed, maximum + (needed or optional)
    return minimum, maximum


def leaves(value):
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)


def samples_in(batch) -> int:
    """The first dimension of the batch's first tensor."""
    for leaf in leaves(batch):
        if leaf.ndim:
            return leaf.shape[0]
    return 1


def concatenate(parts: list):
    """Outputs of batches as one, along the first dimension, item by item in tuples and dicts."""
    first = parts[0]
    if isinstance(first, Tensor):
        xp = first.backend
        return Tensor(xp.concatenate([part._data for part in parts]) if len(parts) > 1 else first._data, xp)
    if isinstance(first, dict):
        return {key: concatenate([part[key] for part in parts]) for key in first}
    if isinstance(first, (tuple, list)):
        joined = [concatenate([part[i] for part in parts]) for i in range(len(first))]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    raise ArgumentError(
        "predict joins tensors, and tuples, lists and dicts of them",
        received=f"a model that returns {type(first).__name__}",
    )
