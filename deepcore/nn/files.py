"""`model.save` and `load`: the state dict, and a description of the layers from which the model can be built.

A description names registered classes and plain arguments only: nothing in a file is ever run.

    {"layer": "Sequential", "modules": {"0": {"layer": "Linear", "arguments": {"in_features": 2, …}}, "1": {"same_as": "0"}}}
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, ConfigError, DeepcoreError, FileFormatError, StateDictError
from deepcore.nn import init
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LAYERS
from deepcore.tensor import from_raw

_KEY = "deepcore.model"
_FILE_OF_STATE = "deepcore.state"
MAX_DEPTH = 64  # of nested modules: each level takes several Python frames
MAX_MODULES = 100_000  # a module at two paths counts twice
_MAX_TEXT = 1 << 24


def describe(model: Module) -> dict[str, Any] | None:
    """The description of a model made of registered layers, at most MAX_DEPTH deep, or None for any other."""
    try:
        return _describe(model, "", {}, 0)
    except ArgumentError:
        return None


def _describe(module: Module, path: str, paths: dict[Module, str], depth: int) -> dict[str, Any]:
    if module in paths:
        return {"same_as": paths[module]}
    name = type(module).__name__
    if LAYERS.get(name) is not type(module):
        raise ArgumentError(f"{name} is not a registered layer")
    if depth > MAX_DEPTH:
        raise ArgumentError(f"modules are nested deeper than {MAX_DEPTH} levels")
    paths[module] = path
    if getattr(module, "structural", False):
        parts = {}
        for key, child in module._modules.items():
            if child is None:
                raise ArgumentError(f"{name} has an empty place")
            parts[key] = _describe(child, f"{path}.{key}" if path else key, paths, depth + 1)
        return {"layer": name, "modules": parts}
    arguments = {key: _plain(value) for key, value in module.constructor_arguments().items()}
    return {"layer": name, "arguments": arguments}


def _plain(value):
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    raise ArgumentError(f"a {type(value).__name__} is not a plain argument")


def build(description: dict[str, Any]) -> Module:
    """The model that a description specifies, without values.

    Errors: `ConfigError` for unregistered layers, for arguments of other types than the layer's, and for a
    description that is not a tree of at most MAX_DEPTH levels and MAX_MODULES modules.
    """
    with init.skip_init():
        return _Builder().build(description, "", 0)


class _Builder:
    def __init__(self) -> None:
        #: Path to a finished module and the number of modules under it, itself included.
        self._finished: dict[str, tuple[Module, int]] = {}
        self._count = 0

    def build(self, description, path: str, depth: int) -> Module:
        if not isinstance(description, dict):
            raise ConfigError("a layer is described by a table", where=path, received=type(description).__name__)
        if depth > MAX_DEPTH:
            raise ConfigError(f"the layers are nested deeper than {MAX_DEPTH} levels")
        if "same_as" in description:
            same = description["same_as"]
            if not isinstance(same, str) or same not in self._finished:  # a parent of this layer is not finished
                raise ConfigError(f"layer {path!r} is to be the same as one that does not come before it")
            module, count = self._finished[same]
            self._add(count)
            return module
        name = description.get("layer")
        if not isinstance(name, str) or len(name) > 100:
            raise ConfigError("a layer is described by its name", where=path, received=reprlib.repr(name))
        before = self._count
        self._add(1)
        structural = getattr(LAYERS[name], "structural", False)
        module = self._structure(name, description, path, depth) if structural else _layer(name, description, path)
        self._finished[path] = module, self._count - before
        return module

    def _structure(self, name: str, description: dict, path: str, depth: int) -> Module:
        module = LAYERS[name]()
        parts = description.get("modules", {})
        if not isinstance(parts, dict):
            raise ConfigError("the modules of a layer are described by a table", where=path)
        for key, part in parts.items():
            child = self.build(part, f"{path}.{key}" if path else key, depth + 1)
            try:
                module.add_module(key, child)
            except ArgumentError as error:
                raise ConfigError(error.problem, where=path, received=reprlib.repr(key)) from None
        return module

    def _add(self, count: int) -> None:
        self._count += count
        if self._count > MAX_MODULES:
            raise ConfigError(f"there are more than {MAX_MODULES:,} modules")


def _layer(name: str, description: dict, path: str) -> Module:
    arguments = description.get("arguments", {})
    if not isinstance(arguments, dict) or arguments.keys() & {"backend", "device", "dtype"}:
        raise ConfigError(
            "the arguments of a layer are described by a table", where=path, received=reprlib.repr(arguments)
        )
    try:
        return LAYERS.build(name, **arguments)
    except ConfigError as error:
        error.where = path
        raise
    except Exception as error:  # anything a constructor raises for unexpected values
        reason = error.problem if isinstance(error, DeepcoreError) else error
        raise ConfigError(f"{name} cannot be built from {reprlib.repr(arguments)}: {reason}", where=path) from None


def _tied(model: Module) -> list[list[str]]:
    """Groups of state names of one tied parameter, except those of shared modules."""
    groups: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                groups.setdefault(id(parameter), []).append(f"{path}.{name}" if path else name)
    return [names for names in groups.values() if len(names) > 1]


def save(model: Module, path, wait: bool = True):
    """`model.save(path)`; with wait=False, as `dc.save`, in the background."""
    from deepcore.io import checkpoint

    note: dict[str, Any] = {"class": type(model).__name__}
    description = describe(model)
    if description is not None:
        note |= {"model": description, "tied": _tied(model)}
    return checkpoint.save(model.state_dict(), path, metadata={_KEY: json.dumps(note)}, wait=wait)


def _read_file(path) -> tuple[dict[str, Any], dict[str, str]]:
    from deepcore.io import checkpoint, safetensors

    name = os.fsdecode(path)
    checkpoint.writer.wait_for(name)
    with safetensors.open_file(path) as file:
        if _FILE_OF_STATE in file.metadata and len(file):
            raise FileFormatError(
                f"{name!r} holds nested state, not a model's state dict",
                fix="dc.load(path) reads it; deepcore.io.load_checkpoint(path, model=model) a training checkpoint",
            )
        checkpoint.check_dtypes({key: info.dtype for key, info in file.select().items()}, name)
        return file.load(), file.metadata


def load_into(model: Module, path) -> Module:
    """`model.load(path)`: all entries or none."""
    arrays, _ = _read_file(path)
    model.load_state_dict({name: from_raw(array, get_backend("cpu")) for name, array in arrays.items()})
    return model


def load_new(owner: type[Module], path, backend=None) -> Module:
    """`Model.load(path)`: build what the file describes, on the default backend, in the file's dtypes.

    Errors: `FileFormatError` for a damaged file, also where its description cannot be built or does not fit its
    tensors; `StateDictError` for a file without a description, or of another class.
    """
    arrays, metadata = _read_file(path)
    name = os.fsdecode(path)
    note = _note(metadata.get(_KEY, "{}"), name)
    if "model" not in note:
        class_name = note.get("class")
        class_name = class_name if isinstance(class_name, str) and class_name.isidentifier() else None
        why = "its layers are not all registered ones, or nested too deeply"
        if class_name and class_name not in LAYERS:
            why = f"{class_name} is not a registered layer"
        raise StateDictError(
            f"{name!r} does not say how to build the model" + (f" ({why})" if class_name else ""),
            expected="a model made of registered layers only",
            fix=f"model = {class_name or owner.__name__}(…); model.load(path)",
        )
    with _as_file_error(name):
        model = build(note["model"])
    if not isinstance(model, owner):
        raise StateDictError(
            f"{name!r} holds a {type(model).__name__}, not a {owner.__name__}", fix=f"{type(model).__name__}.load(path)"
        )
    xp = get_backend(backend)
    with _as_file_error(name):
        _tie(model, note.get("tied", []))
        model.load_state_dict({key: from_raw(xp.from_host(a), xp) for key, a in arrays.items()}, assign=True)
    return model


def _note(text: str, name: str) -> dict[str, Any]:
    """The JSON object in a file's metadata that describes the model."""
    fault = None
    # A parsed list takes 30 times its two bytes, and a layer has at most three tables and lists.
    if len(text) > _MAX_TEXT or text.count("{") + text.count("[") > 10_000 + 4 * text.count('"layer"'):
        fault = "it is too large"
    try:
        note = {} if fault else json.loads(text)
        if not isinstance(note, dict):
            fault = "it is not a table"
    except (ValueError, RecursionError) as error:
        fault = str(error)
    if fault:
        raise FileFormatError(f"{name!r} has a description of a model that cannot be read: {fault}", fix=_FIX)
    return note


_FIX = "take another copy, or save the model again; its tensors alone: dc.load(path)"


@contextmanager
def _as_file_error(name: str) -> Iterator[None]:
    """Convert errors of building or loading the model of a file to `FileFormatError`."""
    try:
        yield
    except (ConfigError, StateDictError) as error:
        raise FileFormatError(
            f"{name!r} describes a model that cannot be built: {error.problem}",
            expected=error.expected,
            received=error.received,
            where=error.where and f"layer {error.where!r}",
            fix=error.fix if isinstance(error, ConfigError) and error.fix else _FIX,
        ) from None


def _tie(model: Module, groups) -> None:
    """Tie the parameters of each group of names."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if not isinstance(groups, list):
        raise ConfigError("the tied parameters are lists of names", received=reprlib.repr(groups))
    for group in groups:
        if not isinstance(group, list) or not all(isinstance(key, str) and key in parameters for key in group):
            raise ConfigError("it ties parameters that the model does not have", received=reprlib.repr(group))
        for key in group[1:]:
            if parameters[key].shape != parameters[group[0]].shape:
                raise ConfigError(f"it ties parameters of different shapes: {group[0]!r} and {key!r}")
            path, _, name = key.rpartition(".")
            setattr(model.get_submodule(path), name, parameters[group[0]])
