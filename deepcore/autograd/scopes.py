"""Where ops come from and what they cost: paths of the modules whose forwards run, and arithmetic of one op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from deepcore import kernels
from deepcore.backend import get_backend


class Scope(NamedTuple):
    """A module by its path below the outermost module whose forward ran: `path` is as in `named_modules`."""

    #: `id` of the outermost module, and the name of its class.
    root: int
    name: str
    path: str

    @property
    def label(self) -> str:
        return self.path or self.name

    def contains(self, other: Scope) -> bool:
        """Whether the other one is this module, or below it."""
        return self.root == other.root and (
            not self.path or self.path == other.path or other.path.startswith(f"{self.path}.")
        )

    def ancestors(self) -> list[Scope]:
        """This module and those it is in, the innermost first."""
        parts = self.path.split(".") if self.path else []
        return [self._replace(path=".".join(parts[:n])) for n in range(len(parts), -1, -1)]


class Scopes:
    """Looks up paths of modules, which are walked once for each outermost one."""

    def __init__(self):
        #: By id of the outermost module: itself, which keeps the id its own, and the paths of its modules by id.
        self._known: dict[int, tuple[Any, dict[int, str]]] = {}

    def of(self, layers: Sequence) -> Scope | None:
        """The scope of the innermost of nested modules, the outermost first; None without any."""
        if not layers:
            return None
        root = layers[0]
        paths = self._paths(root)
        path = paths.get(id(layers[-1]))
        if path is None and layers[-1] is not root:
            self._known.pop(id(root))  # it may have been added since
            paths = self._paths(root)
            path = paths.get(id(layers[-1]))
            if path is None:  # no submodule, as in a plain list: below the one that calls it, by the name of its class
                parent = self.of(layers[:-1])
                assert parent is not None
                path = f"{parent.path}.{type(layers[-1]).__name__}".lstrip(".")
                paths[id(layers[-1])] = path
        return Scope(id(root), type(root).__name__, path or "")

    def _paths(self, root) -> dict[int, str]:
        known = self._known.get(id(root))
        if known is None:
            named = getattr(root, "named_modules", None)
            paths = {id(module): path for path, module in named()} if named is not None else {}
            paths[id(root)] = ""
            known = self._known[id(root)] = root, paths
        return known[1]

    def below(self, outer: Scope | None, scope: Scope | None) -> Scope | None:
        """`scope`, or where its outermost module is part of that of `outer`, the same module by its path from there."""
        if outer is None or scope is None or outer.root == scope.root:
            return scope
        prefix = self._known[outer.root][1].get(scope.root) if outer.root in self._known else None
        if prefix is None:
            return scope
        return outer._replace(path=f"{prefix}.{scope.path}".strip("."))


def arithmetic_of(op, specs: Sequence, results: Sequence[int], params: dict[str, Any]) -> float:
    """Arithmetic operations of an op, as its lowering on the CPU declares them; without one, an operation an element.

    `specs`: those of the operands, as on the CPU; `results`: the numbers of elements of the results. Views have none.
    """
    if op.view is not None:
        return 0
    lowering = op.lowering or kernels.lowering(op.name, get_backend("cpu"))
    if lowering is not None:
        return lowering.cost(specs, params)
    return max([*(spec.size for spec in specs), *results], default=0)
