"""Writes the type stubs of the registered ops for editors and type checkers.

`python -m deepcore.ops.stubs` rewrites `_functions.pyi` (dc.<name>), `_methods.pyi` (Tensor.<name>), `_fft.pyi`, `_linalg.pyi`
and `_special.pyi`; with `--check` it only reports whether they are up to date. The return type of a function is that of its results on its samples.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import sys
from pathlib import Path

from deepcore.backend import dtypes as dt
from deepcore.ops.reduction import ValuesAndIndices
from deepcore.ops.registry import FUNCTIONS, Declared
from deepcore.tensor import Tensor, arange, ones, zeros

_HEADER = "# Written by `python -m deepcore.ops.stubs` from the op registry; not edited by hand.\n"
_IMPORTS = """import builtins
from collections.abc import Sequence
from typing import Any

from deepcore.ops.reduction import ValuesAndIndices
from deepcore.tensor import Tensor

Operand = Tensor | builtins.complex | builtins.float | builtins.int | builtins.bool
"""
# Tensor.float, Tensor.int, … would shadow the builtin types of the same names.
_TYPES = re.compile(r"\b(int|float|bool|str|tuple)\b")
_TENSORS = {
    "input",
    "index",
    "indices",
    "weight",
    "bias",
    "mask",
    "tensor",
    "mat1",
    "mat2",
    "vec",
    "vec2",
    "src",
    "condition",
}
_KINDS = {"other": "Operand", "value": "Operand", "min": "Operand | None", "max": "Operand | None", "equation": "str",
          "tensors": "Sequence[Tensor]", "operands": "Tensor"}  # fmt: skip


#: The modules of functions that are not in `dc` itself.
PLACES = ("fft", "linalg", "special")


class _Make:
    def __call__(self, *shape, low=0.3, high=0.7) -> Tensor:
        order = arange(math.prod(shape), dtype=dt.float64)
        spread = (order * order * 0.6180339887) % 1.0  # so that matrices are not singular
        return (low + (high - low) * spread).reshape(shape)

    def int(self, high, *shape) -> Tensor:
        return zeros(*shape, dtype=dt.int64)

    def bool(self, *shape) -> Tensor:
        return ones(*shape, dtype=dt.bool_)


@functools.cache
def _returns(entry: Declared) -> str:
    kinds = set()
    for sample in entry.examples(_Make()):
        out = entry.function(*sample.args, **sample.kwargs)
        kinds.add(
            "Tensor"
            if isinstance(out, Tensor)
            else "ValuesAndIndices"
            if isinstance(out, ValuesAndIndices)
            else "builtins.tuple[Tensor, ...]"
            if type(out) in (tuple, list)
            else "Any"
        )
    return kinds.pop() if len(kinds) == 1 else "Any"


def _parameters(function, method: bool) -> str:
    parts, star = [], False
    for k, p in enumerate(inspect.signature(function).parameters.values()):
        name = "self" if method and k == 0 else p.name
        if p.kind is p.VAR_POSITIONAL:
            star = True
            parts.append(f"*{name}: {_KINDS.get(name, 'Any')}")
            continue
        if p.kind is p.KEYWORD_ONLY and not star:
            star = True
            parts.append("*")
        annotation = "" if name == "self" else f": {_annotation(p)}"
        default = "" if p.default is p.empty else " = ..." if annotation else "=..."
        parts.append(name + annotation + default)
    return ", ".join(parts)


def _annotation(p: inspect.Parameter) -> str:
    if isinstance(p.annotation, str):
        return _TYPES.sub(r"builtins.\1", p.annotation)
    if p.name in _KINDS:
        return _TYPES.sub(r"builtins.\1", _KINDS[p.name])
    optional = " | None" if p.default is None else ""
    return ("Tensor" + optional) if p.name in _TENSORS else "Any"


def _define(name: str, entry: Declared, returns: str, method: bool) -> str:
    doc = (entry.function.__doc__ or "").strip().splitlines()
    indent = "    " if method else ""
    body = f'{indent}    """{doc[0].strip()}"""\n' if doc else f"{indent}    ...\n"
    return f"{indent}def {name}({_parameters(entry.function, method)}) -> {returns}:\n{body}"


def functions(place: str = "") -> str:
    """The text of `_functions.pyi`, or of the stub of the module `place`."""
    lines = [_HEADER, _IMPORTS]
    for entry in sorted(FUNCTIONS.values(), key=lambda e: e.name):
        for name in entry.names:
            where, _, last = name.rpartition(".")
            if where == place:
                lines.append(_define(last, entry, _returns(entry), method=False))
    return "\n".join(lines)


def methods() -> str:
    """The text of `_methods.pyi`."""
    lines = [
        _HEADER,
        _IMPORTS,
        "class TensorMethods:",
        "    T: Tensor",
        "    mT: Tensor",
        "    mH: Tensor",
        "    H: Tensor",
        "    real: Tensor",
        "    imag: Tensor\n",
    ]
    names = set()
    for entry in sorted(FUNCTIONS.values(), key=lambda e: e.name):
        if entry.method:
            for name in entry.names:
                if "." not in name:
                    names.add(name)
                    lines.append(_define(name, entry, _returns(entry), method=True))
    for name, value in sorted(vars(Tensor).items()):
        if name in names or not inspect.isfunction(value) or value.__module__ == "deepcore.tensor":
            continue
        if name.startswith("__"):
            parameters = "" if len(inspect.signature(value).parameters) == 1 else ", other: Any"
            if name == "__setitem__":
                lines.append("    def __setitem__(self, index: Any, value: Any) -> None: ...")
            else:
                ignore = "  # type: ignore[override]" if name in ("__eq__", "__ne__") else ""
                lines.append(f"    def {name}(self{parameters}) -> Tensor: ...{ignore}")
        else:
            lines.append(f"    def {name}(self, *args: Any, **kwargs: Any) -> Tensor: ...")
    return "\n".join(lines) + "\n"


def files() -> dict[Path, str]:
    """The text of every file."""
    folder = Path(__file__).parent
    places = {folder / f"_{place}.pyi": functions(place) for place in PLACES}
    return {folder / "_functions.pyi": functions(), folder / "_methods.pyi": methods(), **places}


def main(arguments: list[str], files: dict[Path, str], module: str) -> int:
    stale = []
    for file, text in files.items():
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(f"{file.parent.name}/{file.name}")
            if "--check" not in arguments:
                file.write_text(text, encoding="utf-8", newline="\n")
    if stale and "--check" in arguments:
        print(f"out of date: {', '.join(stale)}; run python -m {module}")
        return 1
    print(f"wrote {', '.join(stale)}" if stale else "the stubs are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], files(), "deepcore.ops.stubs"))
