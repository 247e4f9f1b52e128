"""The machine and versions a figure belongs to."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import sys

import deepcore as dc


def set_threads(count: int) -> None:
    """The threads of deepcore, of NumPy's BLAS and, where it is imported, of PyTorch."""
    dc.set_num_threads(count)
    blas = dc.get_backend("cpu").blas
    if blas.controllable:
        blas._set(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def describe() -> dict[str, str]:
    facts = dc.get_backend("cpu").info()
    versions = {}
    for package in ("numpy", "numba", "llvmlite", "torch", "cupy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": f"{facts['processor']}, {os.cpu_count()} processors, {_vectors(facts['features'])}",
        "threads": str(dc.get_num_threads()),
        "blas": facts["blas"],
        "python": platform.python_version(),
        "system": platform.system(),
        "deepcore": dc.__version__,
        **versions,
        "date": datetime.date.today().isoformat(),
    }


def _vectors(features: str) -> str:
    found = features.split()
    if any(name.startswith("AVX512") for name in found):
        return "AVX-512"
    return next((name for name in ("AVX2", "ASIMD", "NEON") if name in found), "no vectors known")
