"""Experiment files: TOML that names registered data sets, layers, a loss, an optimizer and a schedule.

    [data]       type = a data set, its arguments, and shape, normalize
    [[layers]]   type = a layer, its arguments, and lr_factor, weight_decay_factor
    [loss]       type = a loss, its arguments
    [optimizer]  type = an optimizer, its arguments
    [schedule]   type = a learning-rate schedule, its arguments; stepped once an epoch (the table may be left out)
    [train]      epochs, batch_size, seed, backend (or device), clip_grad_norm, drop_last, save_every, keep, best,
                 validation_split, validation_freq; early_stopping and checkpoint: tables of the arguments of
                 `EarlyStopping` and `ModelCheckpoint`, as early_stopping = { patience = 5, restore_best_weights = true }

Argument names are those of the constructors. Arguments that a layer can infer from its input (`in_features`,
`num_features`, for text `num_embeddings`) may be left out, and so may `batch_first`, which is true. Nothing in a file is ever imported or run.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from deepcore.cli.sources import SOURCES
from deepcore.errors import ArgumentError, ConfigError, DeepcoreError, non_negative, suggest
from deepcore.io.files import decode_utf8, open_regular
from deepcore.nn import LAYERS, LOSSES
from deepcore.nn.registry import Registry, fits, hints_of, shown, worded
from deepcore.optim import OPTIMIZERS, SCHEDULERS

SECTIONS = ("data", "layers", "loss", "optimizer", "schedule", "train")
#: Arguments that are inferred from a layer's input, and the dimension that gives them.
INFERRED = {
    "in_features": -1,
    "num_features": 1,
    "in_channels": 1,
    "normalized_shape": -1,
    "input_size": -1,
    "d_model": -1,
    "max_len": -2,
}
_MAX_BYTES = 1 << 15  # the parser reads half a megabyte a second of deeply structured text
_MAX_DEPTH = 32  # of brackets in brackets, and of the parts of a dotted key
#: Strings and comments, whose dots and brackets are not structure. Unterminated quotes match too: retrying them would
#: take quadratic time.
_TOML_TEXT = re.compile(
    r'''"""(?:\\.|[^\\])*?(?:"""|\\?\Z)|"(?:\\.|[^"\\\n])*+"?|'{3}.*?(?:'{3}|\Z)|'[^'\n]*+'?|#[^\n]*''',
    re.DOTALL,
)
NORMALIZE = ("none", "all", "feature")


@dataclass(frozen=True)
class Place:
    """A key of a file: `digits.toml: layers[2].p`."""

    file: str
    path: str = ""

    def key(self, name: str) -> Place:
        return Place(self.file, f"{self.path}.{name}" if self.path else name)

    def item(self, index: int) -> Place:
        return Place(self.file, f"{self.path}[{index}]")

    @contextlib.contextmanager
    def converted(self) -> Iterator[None]:
        """Context manager: an `ArgumentError` of a constructor becomes an error of this key."""
        try:
            yield
        except ArgumentError as error:
            lines = {"expected": error.expected, "received": error.received, "fix": error.fix}
            raise self.error(error.problem, **lines) from None

    def error(self, problem: str, **lines) -> ConfigError:
        return ConfigError(problem, where=f"{self.file}: {self.path}" if self.path else self.file, **lines)


@dataclass(frozen=True)
class Part:
    """A registered class by name, with its arguments."""

    type: str
    arguments: dict[str, Any]
    at: Place

    def table(self) -> dict[str, Any]:
        return {"type": self.type, **self.arguments}


@dataclass(frozen=True)
class LayerPart(Part):
    """A layer. A factor is one number, or one per parameter name, and multiplies the optimizer's lr or weight_decay."""

    lr_factor: float | dict[str, float] = 1.0
    weight_decay_factor: float | dict[str, float] = 1.0

    def factors(self, parameter: str) -> tuple[float, float]:
        """(lr factor, weight-decay factor) of the layer's parameter of this name."""
        first, second = (
            f.get(parameter, 1.0) if isinstance(f, dict) else f for f in (self.lr_factor, self.weight_decay_factor)
        )
        return first, second

    def table(self) -> dict[str, Any]:
        factors = {"lr_factor": self.lr_factor, "weight_decay_factor": self.weight_decay_factor}
        return super().table() | {name: value for name, value in factors.items() if value != 1.0}


@dataclass(frozen=True)
class DataPart(Part):
    """A data set. `shape`: of one sample, if not the set's own. `normalize`: subtract the training data's mean and
    divide by its standard deviation, over all values ("all") or per feature ("feature")."""

    shape: tuple[int, ...] | None = None
    normalize: str = "none"

    def table(self) -> dict[str, Any]:
        options = {"normalize": self.normalize} | ({} if self.shape is None else {"shape": list(self.shape)})
        return super().table() | options


@dataclass(frozen=True)
class TrainPart:
    """The training settings. `clip_grad_norm` bounds the norm of all gradients; `drop_last` leaves out a smaller last
    batch. `save_every` (seconds), `keep` and `best`: the checkpoints to write and keep, as in `Trainer`.
    `validation_split`: the fraction of the training samples, drawn by the seed, that are validated on after every
    `validation_freq` epochs. `early_stopping`, `checkpoint`: arguments of the callbacks, whose file is in the run's folder."""

    epochs: int = 20
    batch_size: int = 32
    seed: int = 0
    backend: str | None = None
    clip_grad_norm: float | None = None
    drop_last: bool = False
    save_every: float = 60.0
    keep: int = 0
    best: str | None = None
    validation_split: float | None = None
    validation_freq: int = 1
    early_stopping: dict[str, Any] | None = None
    checkpoint: dict[str, Any] | None = None

    def table(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value is not False}


@dataclass(frozen=True)
class Config:
    """A complete, validated experiment: every name is registered and every value has the right type."""

    name: str
    data: DataPart
    layers: tuple[LayerPart, ...]
    loss: Part
    optimizer: Part
    schedule: Part | None
    train: TrainPart = field(default_factory=TrainPart)
    at: Place = Place("config")
    folder: Path | None = None

    def table(self) -> dict[str, Any]:
        """The tables of an experiment file that gives the same experiment."""
        out: dict[str, Any] = {"data": self.data.table(), "layers": [layer.table() for layer in self.layers]}
        out |= {"loss": self.loss.table(), "optimizer": self.optimizer.table()}
        if self.schedule is not None:
            out["schedule"] = self.schedule.table()
        return out | {"train": self.train.table()}

    def with_train(self, **changes) -> Config:
        """The same experiment with other [train] values; None leaves a value unchanged."""
        options = {name: value for name, value in changes.items() if value is not None}
        return replace(self, train=_train({**self.train.table(), **options}, Place("command line")))

    def with_data_set(self, name: str) -> Config:
        """The same experiment on another data set, with that set's own defaults."""
        at = Place("command line", "--data")
        try:
            _check_arguments(SOURCES[name], {}, at, f"data set {name}")
        except ConfigError as error:
            raise at.error(error.problem, fix=f'write it into an experiment file: [data], type = "{name}"') from None
        return replace(self, data=replace(self.data, type=name, arguments={}, shape=None, at=at))


def read(path) -> Config:
    """Read an experiment file. Errors: `ConfigError`, which names the file and the key."""
    path = Path(path)
    place = Place(str(path))
    if path.suffix.lower() in (".csv", ".tsv"):
        raise ConfigError(
            f"{str(path)!r} is a table, and CONFIG an experiment file",
            expected="a TOML file",
            fix=f'one with [data], type = "csv", train = "{path.name}" and target = "the column to learn"',
        )
    try:
        with open_regular(path) as file:
            text = decode_utf8(file.read(_MAX_BYTES + 1), str(path))
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise ConfigError(f"there is no file {str(path)!r}", fix=suggest(path.name, near) if near else None) from None
    except DeepcoreError as error:
        raise ConfigError(error.problem, expected="a TOML file", received=error.received, fix=error.fix) from None
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error}", expected="a TOML file") from None
    if len(text) > _MAX_BYTES:
        raise ConfigError(f"{str(path)!r} is longer than {_MAX_BYTES:,} bytes", expected="a TOML file")
    return parse(text, place, name=path.stem, folder=path.resolve().parent)


def parse(text: str, at: Place, name: str, folder: Path | None = None) -> Config:
    """The experiment in a TOML text."""
    _check_structure(text, at)
    try:
        table = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise at.error(f"this is not TOML: {error}", fix="see https://toml.io; text is written in quotes") from None
    except RecursionError:
        raise at.error("this is nested too deeply") from None
    return checked(table, at, name, folder)


def _check_structure(text: str, at: Place) -> None:
    """Raise for nesting on which the parser would take quadratic time and memory."""
    bare = _TOML_TEXT.sub('""', text)
    depth = deepest = 0
    for mark in re.findall(r"[\[\]{}]", bare):
        depth = depth + 1 if mark in "[{" else max(depth - 1, 0)
        deepest = max(deepest, depth)
    parts = 1 + max(part.count(".") for part in re.split(r"[=\n,{}\[\]]", bare))
    if max(deepest, parts) > _MAX_DEPTH:
        raise at.error(
            f"this is nested too deeply: {max(deepest, parts):,} levels", expected=f"at most {_MAX_DEPTH} levels"
        )


def checked(table: dict[str, Any], at: Place, name: str, folder: Path | None = None) -> Config:
    """The experiment in the tables of a file."""
    for key in table:
        if key not in SECTIONS:
            raise at.key(key).error(f"there is no section {key!r}", fix=suggest(key, SECTIONS))
    for key in ("data", "layers", "loss", "optimizer"):
        if key not in table:
            raise at.error(f"the section {key!r} is missing", fix=f"[[{key}]]" if key == "layers" else f"[{key}]")
    schedule = table.get("schedule")
    train = _train(_table(table.get("train", {}), at.key("train")), at.key("train"))
    return Config(
        name,
        _data(table["data"], at.key("data")),
        _layers(table["layers"], at.key("layers")),
        _part(LOSSES, table["loss"], at.key("loss")),
        _part(OPTIMIZERS, table["optimizer"], at.key("optimizer"), excluded=("params",)),
        None if schedule is None else _schedule(schedule, at.key("schedule"), train),
        train,
        at,
        folder,
    )


# -- sections ---------------------------------------------------------------------------------------
def _table(value, at: Place) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise at.error(f"{at.path} is a table", expected=f"[{at.path}]", received=shown(value))
    return dict(value)


def _take_type(registry: Registry, table: dict[str, Any], at: Place) -> str:
    name = table.pop("type", None)
    if name is None:
        raise at.error(f"the {registry.kind} has no type", expected=f"type = {suggest('', registry)}")
    if not isinstance(name, str) or name not in registry:
        raise at.key("type").error(f"there is no {registry.kind} named {name!r}", fix=suggest(str(name), registry))
    return name


def _part(registry: Registry, value, at: Place, excluded: Collection[str] = (), optional: Collection[str] = ()) -> Part:
    table = _table(value, at)
    name = _take_type(registry, table, at)
    return Part(name, _check_arguments(registry[name], table, at, f"{registry.kind} {name}", excluded, optional), at)


def _schedule(value, at: Place, train: TrainPart) -> Part:
    return _part(SCHEDULERS, value, at, excluded=("optimizer", "last_epoch"), optional=("T_max",))


def _data(value, at: Place) -> DataPart:
    table = _table(value, at)
    shape, normalize = table.pop("shape", None), table.pop("normalize", "none")
    if shape is not None and not (fits(shape, tuple[int, ...]) and shape and min(shape) > 0):
        raise at.key("shape").error("shape lists the sizes of one sample", expected="[1, 8, 8]", received=shown(shape))
    if normalize not in NORMALIZE:
        raise at.key("normalize").error(
            f"there is no normalisation {shown(normalize)}", fix=suggest(str(normalize), NORMALIZE)
        )
    name = _take_type(SOURCES, table, at)
    extra = ("shape", "normalize", "type")
    arguments = _check_arguments(SOURCES[name], table, at, f"data set {name}", extra_keys=extra)
    return DataPart(name, arguments, at, None if shape is None else tuple(shape), normalize)


def _layers(value, at: Place) -> tuple[LayerPart, ...]:
    if not isinstance(value, list):
        raise at.error("layers are a list of tables", expected="[[layers]], once per layer", received=shown(value))
    if not value:
        raise at.error("there are no layers", fix="[[layers]], once per layer")
    return tuple(_layer(item, at.item(i)) for i, item in enumerate(value))


def _layer(value, at: Place) -> LayerPart:
    table = _table(value, at)
    factors = {
        key: _factor(table.pop(key), at.key(key)) for key in ("lr_factor", "weight_decay_factor") if key in table
    }
    name = _take_type(LAYERS, table, at)
    cls = LAYERS[name]
    if getattr(cls, "structural", False):
        raise at.key("type").error(f"{name} holds other layers", fix="list the layers themselves, one after the other")
    extra = ("lr_factor", "weight_decay_factor", "type")
    arguments = _check_arguments(
        cls, table, at, f"layer {name}", optional={*INFERRED, "num_embeddings"}, extra_keys=extra
    )
    return LayerPart(name, arguments, at, **factors)


def _factor(value, at: Place) -> float | dict[str, float]:
    numbers = value.values() if isinstance(value, dict) else [value]
    if not all(fits(v, float) and v >= 0 for v in numbers):
        raise at.error(
            f"{at.path.rpartition('.')[2]} multiplies a setting of the optimizer",
            expected="a number ≥ 0, or one per parameter: { weight = 1, bias = 2 }",
            received=shown(value),
        )
    return {k: float(v) for k, v in value.items()} if isinstance(value, dict) else float(value)


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": (lambda v: v >= 1, "at least 1"),
    "batch_size": (lambda v: v >= 1, "at least 1"),
    "seed": (lambda v: 0 <= v < 1 << 63, "0 or more"),
    "save_every": (lambda v: v >= 0, "0 or more"),
    "keep": (lambda v: v >= 0, "0 or more"),
    "validation_split": (lambda v: 0 < v < 1, "between 0 and 1"),
    "validation_freq": (lambda v: v >= 1, "at least 1"),
}


def _train(table: dict[str, Any], at: Place) -> TrainPart:
    if "device" in table:  # a synonym of backend
        if "backend" in table:
            raise at.key("device").error("backend and device mean the same thing", fix="leave one of them out")
        table = {"backend" if key == "device" else key: value for key, value in table.items()}
    callbacks = {key: table.pop(key) for key in ("early_stopping", "checkpoint") if key in table}
    arguments = _check_arguments(TrainPart, table, at, "section train", extra_keys=("early_stopping", "checkpoint"))
    for key, value in arguments.items():
        if key in _RANGES and value is not None and not _RANGES[key][0](value):
            raise at.key(key).error(f"{key} is out of range", expected=_RANGES[key][1], received=shown(value))
    if "clip_grad_norm" in arguments:
        try:
            non_negative("clip_grad_norm", arguments["clip_grad_norm"], zero=False)
        except ArgumentError as error:
            problem, expected, received = error.problem, error.expected, error.received
            raise at.key("clip_grad_norm").error(problem, expected=expected, received=received) from None
    validates = arguments.get("validation_split") is not None
    for key, value in callbacks.items():
        arguments[key] = _callback(key, value, at.key(key), validates)
    if str(arguments.get("best", "")).startswith("val_") and not validates:
        raise _needs_validation(at.key("best"), arguments["best"])
    return TrainPart(**arguments)


def _callback(key: str, value, at: Place, validates: bool) -> dict[str, Any]:
    """The checked arguments of a callback of the section train."""
    from deepcore.train import EarlyStopping, ModelCheckpoint  # here, as predict needs no training code

    cls = {"early_stopping": EarlyStopping, "checkpoint": ModelCheckpoint}[key]
    table = _check_arguments(cls, _table(value, at), at, key, extra_keys=())
    path = table.get("filepath")
    if path is not None and (Path(path).is_absolute() or ".." in Path(path).parts or not Path(path).name):
        raise at.key("filepath").error(
            "the file is in the run's folder",
            expected='a name such as "weights-{epoch:02d}.safetensors"',
            received=shown(path),
        )
    monitor = table.get("monitor", "val_loss")
    watches = key == "early_stopping" or table.get("save_best_only", False)
    if watches and monitor.startswith("val_") and not validates:
        raise _needs_validation(at.key("monitor"), monitor)
    with at.converted():
        cls(**table)
    return table


def _needs_validation(at: Place, name: str) -> ConfigError:
    return at.error(
        f"{name} needs validation data", fix=f'validation_split = 0.1 in [train], or "{name.removeprefix("val_")}"'
    )


# -- arguments against a signature --------------------------------------------------------------------
def _check_arguments(
    function: Callable,
    table: dict[str, Any],
    at: Place,
    description: str,
    excluded: Collection[str] = (),
    optional: Collection[str] = (),
    extra_keys: Collection[str] = ("type",),
) -> dict[str, Any]:
    """Return `table` if its keys are arguments of `function`, except `excluded` ones, and its values have the right types."""
    hidden = {*excluded, "backend", "device", "dtype"} if function is not TrainPart else set()
    hidden |= {"folder", "classification"} if function in SOURCES.values() else set()
    parameters = {
        name: p
        for name, p in inspect.signature(function).parameters.items()
        if name not in hidden and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    hints = hints_of(function)
    for key, value in table.items():
        if key not in parameters:
            hint = suggest(key, [*parameters, *extra_keys])
            raise at.key(key).error(f"{description} has no argument {key!r}", fix=hint)
        hint = hints.get(key, Any)
        if not fits(value, hint):
            problem, expected = f"{key} has the wrong type", worded(hint)
            if fits(_with_finite_numbers(value), hint):  # the type is right
                is_ = "holds a number that is" if isinstance(value, list) else "is"
                problem, expected = f"{key} {is_} {'NaN' if 'nan' in repr(value) else 'infinite'}", "a finite number"
            raise at.key(key).error(problem, expected=expected, received=shown(value))
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in table and n not in optional]
    if missing:
        raise at.error(f"{description} needs {', '.join(missing)}", fix=f"{missing[0]} = …")
    return table


def _with_finite_numbers(value):
    """`value` with NaN and infinity replaced by 0, also in lists."""
    if isinstance(value, list):
        return [_with_finite_numbers(v) for v in value]
    return 0.0 if isinstance(value, float) and not math.isfinite(value) else value


# -- writing ------------------------------------------------------------------------------------------
def dumps(table: Mapping[str, Any]) -> str:
    """TOML text of tables of plain values, and lists of such tables."""
    lines: list[str] = []
    for section, content in table.items():
        tables, head = (content, f"[[{section}]]") if isinstance(content, list) else ([content], f"[{section}]")
        for table_ in tables:
            lines += ["", head, *(f"{key} = {_toml(value)}" for key, value in table_.items())]
    return "\n".join(lines[1:]) + "\n"


def _toml(value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(str(key))} = {_toml(v)}" for key, v in value.items()) + " }"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in text) + '"'
