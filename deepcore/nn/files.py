"""`model.save` and `load`: the state dict, and a description of the layers from which the model can be built.

A description names registered classes and plain arguments only: nothing in a file is ever run.

    {"layer": "Sequential", "modules": {"0": {"layer": "Linear", "arguments": {"in_features": 2, …}}, "1": {"same_as": "0"}}}
"""

from __future__ import annotations

import json
import os
from typing import Any

from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, ConfigError, DeepcoreError, FileFormatError, StateDictError
from deepcore.nn import init
from deepcore.nn.module import Module
from deepcore.nn.registry import LAYERS
from deepcore.tensor import from_raw

_KEY = "deepcore.model"
_FILE_OF_STATE = "deepcore.state"


def describe(model: Module) -> dict[str, Any] | None:
    """The description of a model made of registered layers, or None for any other."""
    try:
        return _describe(model, "", {})
    except ArgumentError:
        return None


def _describe(module: Module, path: str, seen: dict[Module, str]) -> dict[str, Any]:
    if module in seen:
        return {"same_as": seen[module]}
    name = type(module).__name__
    if LAYERS.get(name) is not type(module):
        raise ArgumentError(f"{name} is not a registered layer")
    seen[module] = path
    if getattr(module, "structural", False):
        parts = {}
        for key, child in module._modules.items():
            if child is None:
                raise ArgumentError(f"{name} has an empty place")
            parts[key] = _describe(child, f"{path}.{key}" if path else key, seen)
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
    """The model a description describes, without values: `ConfigError` for what is not registered."""
    with init.skip_init():
        return _build(description, "", {})


def _build(description, path: str, made: dict[str, Module]) -> Module:
    if not isinstance(description, dict):
        raise ConfigError("a layer is described by a table", where=path, received=type(description).__name__)
    if "same_as" in description:
        same = description["same_as"]
        if not isinstance(same, str) or same not in made:
            raise ConfigError(f"layer {path!r} is to be the same as one that does not come before it")
        return made[same]
    name = str(description.get("layer"))
    cls = LAYERS[name]
    if getattr(cls, "structural", False):
        module = cls()
        made[path] = module
        parts = description.get("modules", {})
        if not isinstance(parts, dict):
            raise ConfigError("the modules of a layer are described by a table", where=path)
        for key, part in parts.items():
            module.add_module(key, _build(part, f"{path}.{key}" if path else key, made))
        return module
    arguments = description.get("arguments", {})
    if not isinstance(arguments, dict) or arguments.keys() & {"backend", "dtype"}:
        raise ConfigError("the arguments of a layer are described by a table", where=path, received=repr(arguments))
    try:
        module = LAYERS.build(name, **arguments)
    except ConfigError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        reason = error.problem if isinstance(error, DeepcoreError) else error
        raise ConfigError(f"{name} cannot be built from {str(arguments)[:200]}: {reason}", where=path) from None
    made[path] = module
    return module


def _tied(model: Module) -> list[list[str]]:
    """Groups of state names that are one parameter, apart from those of shared modules."""
    groups: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                groups.setdefault(id(parameter), []).append(f"{path}.{name}" if path else name)
    return [names for names in groups.values() if len(names) > 1]


def save(model: Module, path) -> None:
    """`model.save(path)`."""
    from deepcore.io import checkpoint

    note: dict[str, Any] = {"class": type(model).__name__}
    description = describe(model)
    if description is not None:
        note |= {"model": description, "tied": _tied(model)}
    checkpoint.save(model.state_dict(), path, metadata={_KEY: json.dumps(note)})


def _read(path) -> tuple[dict[str, Any], dict[str, str]]:
    from deepcore.io import safetensors

    arrays, metadata = safetensors.load_with_metadata(path)
    if _FILE_OF_STATE in metadata and arrays:
        raise FileFormatError(
            f"{os.fsdecode(path)!r} holds nested state, not a model's state dict",
            fix="dc.load(path) reads it; deepcore.io.load_checkpoint(path, model=model) a training checkpoint",
        )
    return arrays, metadata


def load_into(model: Module, path) -> Module:
    """`model.load(path)`: all entries or none."""
    arrays, _ = _read(path)
    model.load_state_dict({name: from_raw(array, get_backend("cpu")) for name, array in arrays.items()})
    return model


def load_new(owner: type[Module], path, backend=None) -> Module:
    """`Model.load(path)`: build what the file describes, on the default backend, in the file's dtypes."""
    arrays, metadata = _read(path)
    name = os.fsdecode(path)
    try:
        note = json.loads(metadata.get(_KEY, "{}"))
        if not isinstance(note, dict):
            raise ValueError("it is not a table")
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{name!r} has a description of a model that cannot be read: {error}") from None
    if "model" not in note:
        saved = note.get("class")
        raise StateDictError(
            f"{name!r} does not say how to build the model"
            + (f" ({saved} is not a registered layer)" if saved else ""),
            expected="a model made of registered layers only",
            fix=f"model = {saved or owner.__name__}(…); model.load(path)",
        )
    try:
        model = build(note["model"])
    except RecursionError:
        raise FileFormatError(f"{name!r} describes a model that is nested too deeply") from None
    if not isinstance(model, owner):
        raise StateDictError(
            f"{name!r} holds a {type(model).__name__}, not a {owner.__name__}", fix=f"{type(model).__name__}.load(path)"
        )
    xp = get_backend(backend)
    model.load_state_dict({key: from_raw(xp.from_host(a), xp) for key, a in arrays.items()}, assign=True)
    _tie(model, note.get("tied", []), name)
    return model


def _tie(model: Module, groups, name: str) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for group in groups if isinstance(groups, list) else ():
        if not isinstance(group, list) or not all(isinstance(key, str) and key in parameters for key in group):
            raise FileFormatError(f"{name!r} ties parameters that the model does not have")
        for key in group[1:]:
            if parameters[key].shape != parameters[group[0]].shape:
                raise FileFormatError(f"{name!r} ties parameters of different shapes: {group[0]} and {key}")
            path, _, own = key.rpartition(".")
            setattr(model.get_submodule(path), own, parameters[group[0]])
