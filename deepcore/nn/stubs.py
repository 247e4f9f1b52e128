"""Writes the type stubs of registered functions, layers, losses and optimizers, for editors and type checkers.

`python -m deepcore.nn.stubs` rewrites those of `ops.stubs`, and `_names.pyi` in `nn`, `nn/functional`, `optim` and
`optim/lr_scheduler`; with
`--check` it only reports whether they are up to date.
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


_NN, _OPTIM = Path(nn.__file__).parent, Path(optim.__file__).parent
#: The registries of each file.
NAMES: tuple[tuple[tuple[Mapping, ...], Path], ...] = (
    ((nn.LAYERS, nn.LOSSES), _NN / "_names.pyi"),
    ((FUNCTIONAL,), _NN / "functional" / "_names.pyi"),
    ((optim.OPTIMIZERS,), _OPTIM / "_names.pyi"),
    ((optim.SCHEDULERS,), _OPTIM / "lr_scheduler" / "_names.pyi"),
)


def files() -> dict[Path, str]:
    """The text of every file."""
    return {**stubs.files(), **{file: _names(*registries) for registries, file in NAMES}}


if __name__ == "__main__":
    sys.exit(stubs.main(sys.argv[1:], files(), "deepcore.nn.stubs"))
