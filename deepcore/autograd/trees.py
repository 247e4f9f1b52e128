"""Trees of tensors: tuples, lists, dicts and named tuples, nested; None is a tree without leaves, as in JAX."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple


def tree_map(f, tree):
    """`tree` with f(leaf) for each leaf; None is a structure without leaves, as in JAX."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        mapped = copy.copy(tree)  # keeps the order, and attributes of a subclass
        mapped.update((k, tree_map(f, v)) for k, v in tree.items())
        return mapped
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(tree_map(f, v) for v in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(tree_map(f, v) for v in tree)
    return f(tree)


class Structure(NamedTuple):
    """A tree without its leaves. `kind`: the container's type, or None for a leaf; `keys`: those of a dict."""

    kind: Any
    keys: tuple = ()
    parts: tuple[Structure, ...] = ()

    def __str__(self) -> str:
        if self.kind is None:
            return "*"
        if self.kind is type(None):
            return "None"
        parts = [f"{key!r}: {part}" for key, part in zip(self.keys, self.parts)] or list(map(str, self.parts))
        if issubclass(self.kind, dict):
            return "{" + ", ".join(parts) + "}"
        if issubclass(self.kind, list):
            return "[" + ", ".join(parts) + "]"
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


LEAF = Structure(None)


def flatten(tree) -> tuple[list, Structure]:
    """The leaves of a tree, and its structure; dicts are equal whatever the order of their keys."""
    leaves: list = []
    return leaves, _collect(tree, leaves)


def _collect(tree, leaves: list) -> Structure:
    if tree is None:
        return Structure(type(None))
    if isinstance(tree, dict):
        try:
            keys = tuple(sorted(tree))
        except TypeError:  # keys of several types
            keys = tuple(tree)
        return Structure(type(tree), keys, tuple(_collect(tree[key], leaves) for key in keys))
    if isinstance(tree, (list, tuple)):
        return Structure(type(tree), (), tuple(_collect(part, leaves) for part in tree))
    leaves.append(tree)
    return LEAF


def unflatten(structure: Structure, leaves) -> Any:
    """The tree of this structure with these leaves."""
    return _filled(structure, iter(leaves))


def _filled(structure: Structure, leaves: Iterator) -> Any:
    kind = structure.kind
    if kind is None:
        return next(leaves)
    if kind is type(None):
        return None
    parts = [_filled(part, leaves) for part in structure.parts]
    if issubclass(kind, dict):
        tree = kind()
        tree.update(zip(structure.keys, parts))
        return tree
    return kind(*parts) if hasattr(kind, "_fields") else kind(parts)


def paths(structure: Structure, prefix: str = "") -> list[str]:
    """How each leaf is reached: `[0]['h']`."""
    if structure.kind is None:
        return [prefix]
    keys = structure.keys or range(len(structure.parts))
    return [path for key, part in zip(keys, structure.parts) for path in paths(part, f"{prefix}[{key!r}]")]
