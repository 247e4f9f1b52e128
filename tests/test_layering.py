"""Imports go down only, and computing code names no array library."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = [
    {"config", "errors", "locks", "missing", "torch_names", "backends"},
    {"backend", "effects"},
    {"kernels"},
    {"random", "printing", "tensor", "predicates", "autograd", "cuda", "legacy", "profiler"},
    {"ops"},
    {"compiler", "fft", "linalg", "signal", "special"},
    {"nn", "optim"},
    {"func"},
    {"distributions"},
    {"amp", "data", "io"},
    {"utils"},
    {"metrics", "plots"},
    {"train"},
    {"sklearn"},
    {"models", "systems"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
#: Inside `kernels`, where names of one layer do not import each other either.
KERNEL_LAYERS = [
    {"math"},
    {"codegen"},
    {"runtime"},
    {"plan", "registry", "update"},
    {"cpu", "cuda"},
    {"compile_worker"},
]
KERNEL_RANK = {name: rank for rank, names in enumerate(KERNEL_LAYERS) for name in names}
#: The package's own face, its version and `python -m` stand above every layer.
TOP = {"__init__", "__main__", "_version", "version"}
COMPUTING = {"random", "printing", "tensor", "autograd", "ops", "compiler", "nn", "optim", "distributions"}
#: Lazy imports (inside a function) that go up: (importing module, imported layer), and why.
UPWARD = {
    ("backend", "kernels"): "a backend looks its kernels up when an op first runs on it",
    ("kernels", "optim"): "the process that compiles in the background imports the optimizers, which define updates",
    ("nn", "io"): "a module's save and load use the file formats",
    ("tensor", "ops"): "NumPy's functions called on a tensor run the ops of the same name",
}
#: The same inside `kernels`.
KERNEL_UPWARD = {
    ("codegen", "compile_worker"): "the background process is started by name",
}
LATE = ["numba", "cupy", "scipy", "sklearn", "matplotlib", "PIL", "tqdm"]


def sources():
    for folder, prefix in ((ROOT / "deepcore", ()), (ROOT / "kernels", ("kernels",))):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield path, (*prefix, *parts)


def named_in(text):
    """Dotted names of deepcore's modules that a string names as a whole, imports, or runs with `python -m`."""
    if re.fullmatch(r"deepcore(\.[a-z_]+)+", text):
        yield text
    for package, name in re.findall(r"\bfrom (deepcore[\w.]*) import (\w+)", text):
        yield f"{package}.{name}"
    yield from re.findall(r"(?:^|; |\n)import (deepcore[\w.]*)", text)
    yield from re.findall(r"(?:^|\s)-m (deepcore[\w.]*)", text)  # and `"-m", "deepcore.cli"` is a name as a whole


def imports(tree, package):
    """(line, absolute dotted name, whether it is inside a function, whether for type checkers only)."""

    def walk(node, lazy, typing):
        for child in ast.iter_child_nodes(node):
            inside = lazy or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            checking = typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield child.lineno, alias.name, lazy, typing
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else ()
                module = ".".join([*base, *([child.module] if child.module else [])])
                for alias in child.names:
                    yield child.lineno, f"{module}.{alias.name}", lazy, typing
            yield from walk(child, inside, checking)

    yield from walk(tree, False, False)


def strings(tree):
    """The same of names in strings, which count as lazy."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for name in named_in(node.value):
                yield node.lineno, name, True, False


def layer_of(parts):
    return parts[0] if parts[0] in RANK else None


MODULES = [pytest.param(path, parts, id="/".join(parts)) for path, parts in sources()]


def parsed(path, parts):
    package = ("deepcore", *parts[:-1])
    tree = ast.parse(path.read_text())
    return [*imports(tree, package), *strings(tree)]


def violations(path, parts):
    mine = layer_of(parts)
    for line, name, lazy, typing in parsed(path, parts):
        pieces = name.split(".")
        if pieces[0] != "deepcore" or typing:
            continue
        target = pieces[1] if len(pieces) > 1 else ""
        if target not in RANK:
            # `import deepcore`, `from deepcore import Tensor`: everything, so allowed above the layers only.
            if RANK[mine] <= RANK["compiler"] and not lazy:
                yield f"{path.name}:{line} imports the package's face, {name}"
            continue
        if RANK[target] > RANK[mine] and not (lazy and (mine, target) in UPWARD):
            yield f"{path.name}:{line} {mine} imports {name}, which is above it" + (" (lazily)" if lazy else "")
        elif target == mine == "kernels":
            own, other = parts[1], pieces[2] if len(pieces) > 2 else ""
            if own == other or own == "__init__" or (lazy and (own, other) in KERNEL_UPWARD):
                continue
            if other not in KERNEL_RANK or KERNEL_RANK[other] >= KERNEL_RANK[own]:
                yield f"{path.name}:{line} kernels.{own} imports {name}, which is above it or beside it"


@pytest.mark.parametrize("path, parts", MODULES)
def test_imports_go_down(path, parts):
    if len(parts) == 1 and parts[0] in TOP:
        return
    assert layer_of(parts) is not None, f"{'/'.join(parts)} is in no layer: place it in LAYERS"
    assert parts[0] != "kernels" or parts[1] in {"__init__", *KERNEL_RANK}, (
        f"{'/'.join(parts)}: place it in KERNEL_LAYERS"
    )
    assert not list(violations(path, parts))


def test_kernels_have_no_import_circles():
    modules = {".".join(("deepcore", *parts)).removesuffix(".__init__"): (path, parts) for path, parts in sources()}
    edges = {
        name: {
            module
            for _, imported, _, _ in imports(ast.parse(path.read_text()), ("deepcore", *parts[:-1]))
            for module in (imported, imported.rpartition(".")[0])
            if module in modules and module != name
        }
        for name, (path, parts) in modules.items()
        if name.startswith("deepcore.kernels.")
    }
    leaves = True
    while leaves:
        leaves = {name for name, targets in edges.items() if not targets & edges.keys()}
        edges = {name: targets for name, targets in edges.items() if name not in leaves}
    assert not edges


@pytest.mark.parametrize("path, parts", [m for m in MODULES if m.values[1][0] in COMPUTING])
def test_computing_code_names_no_array_library(path, parts):
    named = [
        f"line {line}: {name}"
        for line, name, lazy, typing in parsed(path, parts)
        if name.split(".")[0] in {"numpy", "cupy"} and not typing
    ]
    assert not named, "use the backend, and dtypes from deepcore.backend.dtypes"


def test_the_walk_sees_violations(tmp_path):
    """The rules above find what they look for."""
    bad = tmp_path / "tensor.py"
    bad.write_text(
        "import numpy as np\nfrom deepcore import nn\nfrom . import ops\ndef f():\n    from deepcore.train import Trainer\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from deepcore.cli import main\n"
    )
    found = list(violations(bad, ("tensor",)))
    assert [f.split()[0] for f in found] == ["tensor.py:2", "tensor.py:3", "tensor.py:5"]
    bad = tmp_path / "gemm.py"
    bad.write_text(
        "from deepcore.kernels import plan, register\nfrom deepcore.kernels.cuda import gemm\n"
        "from deepcore.kernels.cpu.rows import TILE\ncode = 'import sys; from deepcore.kernels import compile_worker'\n"
        "name = 'deepcore.nn'\nimport deepcore.kernels.compile_worker\n"
        "import importlib\nio = importlib.import_module('deepcore.io')\nrun(['python', '-m', 'deepcore.cli'])\n"
        "command = f'{python} -m deepcore.train --help'\ndef f():\n    from deepcore.nn import Linear\n"
    )
    found = [f.split()[0].partition(":")[2] for f in violations(bad, ("kernels", "cpu", "gemm"))]
    assert sorted(found, key=int) == ["1", "2", "4", "5", "6", "8", "9", "10", "12"]


def test_upward_list_is_used():
    used = set()
    for path, parts in sources():
        for _, name, lazy, _ in parsed(path, parts):
            pieces = name.split(".")
            if lazy and pieces[0] == "deepcore" and len(pieces) > 1:
                used.add((layer_of(parts), pieces[1]))
                if parts[0] == pieces[1] == "kernels" and len(pieces) > 2:
                    used.add((parts[1], pieces[2]))
    allowed = {*UPWARD, *KERNEL_UPWARD}
    assert allowed <= used, f"no longer needed: {allowed - used}"


def test_import_loads_nothing_heavy():
    code = f"import sys, deepcore; print([m for m in {LATE!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
