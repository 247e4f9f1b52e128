"""A module's forward with other parameters and buffers than its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from deepcore.errors import ArgumentError, ArgumentTypeError, suggest
from deepcore.nn.modules.module import Module
from deepcore.tensor import Tensor, changes


def functional_call(
    module: Module, parameter_and_buffer_dicts, args: Any = None, kwargs: dict | None = None, *, tie_weights: bool = True,
    strict: bool = False,
):  # fmt: skip
    """module(*args, **kwargs) with the tensors of a dict, or several, in place of its parameters and buffers by name.

    Names that are missing keep the module's own, and names that it lacks are left out; with `strict` both raise. The module is unchanged afterwards; what its forward
    writes into a buffer goes to the tensor passed in. `args` may be one argument that is no tuple. `tie_weights`: where the
    module has one parameter under several names, a tensor for one of them takes the place of all.

    As `torch.func.functional_call`.
    """
    dicts = parameter_and_buffer_dicts
    dicts = tuple(dicts) if isinstance(dicts, (tuple, list)) else (dicts,)
    tensors: dict[str, Tensor] = {}
    for one in dicts:
        if not isinstance(one, dict):
            raise ArgumentTypeError(
                "functional_call takes a dict of tensors by name, or several", received=type(one).__name__
            )
        twice = tensors.keys() & one.keys()
        if twice:
            raise ArgumentError("functional_call: a name is in two of the dicts", received=", ".join(sorted(twice)))
        tensors.update(one)
    if args is None:
        args = ()
    elif not isinstance(args, tuple):
        args = (args,)
    with replaced(module, tensors, tie_weights, strict):
        return module(*args, **(kwargs or {}))


@contextlib.contextmanager
def replaced(module: Module, tensors: dict[str, Tensor], tie_weights: bool = True, strict: bool = False) -> Iterator:
    """Inside, the module has these tensors as its parameters and buffers."""
    places = _places(module)
    unknown = [name for name in tensors if name not in places]
    if unknown and strict:
        raise ArgumentError(
            f"functional_call: {type(module).__name__} has no parameter or buffer {unknown[0]!r}",
            fix=suggest(unknown[0], list(places)),
        )
    full = {name: t for name, t in tensors.items() if name in places}
    if tie_weights:
        by_tensor = {id(_at(places[name])): t for name, t in full.items()}
        for name, place in places.items():
            own = _at(place)
            if own is None or id(own) not in by_tensor:
                continue
            tied = by_tensor[id(own)]
            if full.setdefault(name, tied) is not tied:
                raise ArgumentError(
                    f"functional_call: {name!r} is another name of a tensor that is replaced by a different one",
                    fix="tie_weights=False, or the same tensor under both names",
                )
    missing = [name for name in places if name not in full]
    if strict and missing:
        raise ArgumentError("functional_call: tensors are missing", received=", ".join(missing), fix="strict=False")
    before = {name: _at(places[name]) for name in full}
    try:
        for name, t in full.items():
            _put(places[name], t)
        yield
    finally:
        for name, own in before.items():
            now = _at(places[name])
            if name in tensors and now is not full[name]:  # a buffer that the forward assigned
                tensors[name] = now
            _put(places[name], own)


def _places(module: Module) -> dict[str, tuple[Module, str, str]]:
    """(module, table, name) of each parameter and buffer by its path."""
    found = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for table in ("_parameters", "_buffers"):
            for name in part.__dict__[table]:
                found[f"{prefix}.{name}" if prefix else name] = part, table, name
    return found


def _at(place: tuple[Module, str, str]):
    part, table, name = place
    return part.__dict__[table][name]


def _put(place: tuple[Module, str, str], t) -> None:
    part, table, name = place
    part.__dict__[table][name] = t
    if name in part.__dict__:
        part.__dict__[name] = t
    changes.count += 1
