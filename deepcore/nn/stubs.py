"""Writes the type stubs of what is registered: functions, layers, losses and optimizers, for editors and type checkers.

`python -m deepcore.nn.stubs` rewrites those of `ops.stubs`, and `_names.pyi` in `nn`, `nn/functional` and `optim`; with
`--check` it only says whether they are up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from deepcore import nn, optim
from deepcore.ops import stubs
from deepcore.ops.registry import FUNCTIONAL, FUNCTIONS

_HEADER = "# Written by `python -m deepcore.nn.stubs` from the registries; not edited by hand.\n"


def _names(*registries: Mapping) -> str:
    """An import of everything registered; functions of ops are typed by the stubs of `ops`."""
    lines = []
    for name, value in (item for registry in registries for item in registry.items()):
        module = "deepcore.ops._functions" if registries == (FUNCTIONAL,) and name in FUNCTIONS else value.__module__
        lines.append(f"from {module} import {name} as {name}")
    return "\n".join([_HEADER, *sorted(lines)]) + "\n"


def files() -> dict[Path, str]:
    """The text of every file."""
    here, optimizers = Path(nn.__file__).parent, Path(optim.__file__).parent
    return {
        **stubs.files(),
        here / "_names.pyi": _names(nn.LAYERS, nn.LOSSES),
        here / "functional" / "_names.pyi": _names(FUNCTIONAL),
        optimizers / "_names.pyi": _names(optim.OPTIMIZERS),
    }


if __name__ == "__main__":
    sys.exit(stubs.main(sys.argv[1:], files(), "deepcore.nn.stubs"))
