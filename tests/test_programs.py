"""Whole programs in the style of PyTorch's tutorials and small repositories: one source, both libraries, equal results.

A file in `tests/programs` is run with `torch` and, with nothing but its imports changed, with `deepcore`. Its `main()`
returns what it computed; what it prints must be equal as text. Floats agree within `RTOL` of the greatest number of their
array, 1e-5 in float32 and 1e-9 in float64 unless the file says otherwise. Where a program has a function `train_step`, a
compiled one gives the bits of the eager one.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from deepcore.kernels.runtime import threadpool

FOLDER = Path(__file__).with_name("programs")
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
STEPS = [name for name in NAMES if "def train_step(" in (FOLDER / f"{name}.py").read_text(encoding="utf-8")]
DEVICE = re.compile(r"^device = torch\.device\(.*$", flags=re.M)
#: Every third of those that choose a device runs on the stand-in, too; autocasting has no rules for it.
ON_GPU = [name for name in NAMES if DEVICE.search((FOLDER / f"{name}.py").read_text(encoding="utf-8"))]
ON_GPU = [name for name in ON_GPU if name != "mixed_precision"][::3]


def run(name: str, package: str, device: str = "", compiled: bool = False):
    """(what `main()` returned, what was printed, its module)."""
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    if device:
        source = DEVICE.sub(f'device = torch.device("{device}")', source)
    if compiled:
        source = re.sub(r"^( *)(def train_step\()", r"\1@torch.compile\n\1\2", source, flags=re.M)
    if package != "torch":
        source = re.sub(r"^import torch$", f"import {package} as torch", source, flags=re.M)
        source = re.sub(r"^(import|from) torch\b", rf"\1 {package}", source, flags=re.M)
    module = types.ModuleType(f"{package}_{name}")
    sys.modules[module.__name__] = module  # as dataclasses need
    library = importlib.import_module(package)
    threads = library.get_num_threads()
    if package == "torch":
        library.set_num_threads(1)  # beside other tests, its idle threads wait for cores
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(source, str(FOLDER / f"{name}.py"), "exec"), vars(module))
            results = module.main()
    finally:
        library.set_num_threads(threads)
        library.set_default_dtype(library.float32)
        library.set_printoptions(profile="default")
        del sys.modules[module.__name__]
    return results, printed.getvalue(), module


def spelling(text: str) -> str:
    """Printed text without the libraries' names before dtypes and functions."""
    return re.sub(r"\b(torch|dc)\.", "", text)


def plain(value):
    """Tensors as NumPy arrays, at any depth."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def check(mine, other, rtol: float | None, where: str = "result"):
    """`mine` equals `other`, floats within `rtol`."""
    if isinstance(other, dict):
        assert list(mine) == list(other), where
        for key in other:
            check(mine[key], other[key], rtol, f"{where}[{key!r}]")
    elif isinstance(other, list) and other and not all(isinstance(v, float) for v in other):
        assert len(mine) == len(other), where
        for i, (a, b) in enumerate(zip(mine, other)):
            check(a, b, rtol, f"{where}[{i}]")
    elif isinstance(other, np.ndarray | float | list) and np.asarray(other).dtype.kind == "f":
        a, b = np.asarray(mine), np.asarray(other)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), where
        if rtol is None:  # Python's floats come from tensors of float32 mostly
            rtol = 1e-9 if isinstance(other, np.ndarray) and b.dtype == np.float64 else 1e-5
        finite = np.abs(b[np.isfinite(b)])
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * finite.max(initial=0), err_msg=where)
    elif isinstance(other, np.ndarray):
        assert mine.dtype == other.dtype, where
        np.testing.assert_array_equal(mine, other, err_msg=where)
    else:
        assert type(mine) is type(other) and mine == other, f"{where}: {mine!r}, {other!r}"


@pytest.mark.parametrize("name", NAMES)
def test_programs(name):
    """Both libraries: equal numbers, equal text."""
    pytest.importorskip("torch")
    mine, printed, module = run(name, "deepcore")
    other, expected, _ = run(name, "torch")
    assert mine and spelling(printed) == spelling(expected)
    check(plain(mine), plain(other), getattr(module, "RTOL", None))


@pytest.mark.parametrize("name", STEPS)
def test_compiled_programs(name):
    """A compiled `train_step` gives the eager one's bits; a fallback would be a warning, which is an error here."""
    mine, _, module = run(name, "deepcore", compiled=True)
    step = getattr(module, "train_step", None)
    if step is not None and threadpool.can_prepare():
        assert step.runs and not step.faults
    np.testing.assert_equal(plain(mine), plain(run(name, "deepcore")[0]))


@pytest.mark.parametrize("name", ON_GPU)
def test_programs_on_a_gpu(name):
    """The stand-in as `device`: the results of the CPU."""
    mine, _, module = run(name, "deepcore", "standin")
    check(plain(mine), plain(run(name, "deepcore")[0]), getattr(module, "RTOL", None))
