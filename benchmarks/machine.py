"""The machine and versions a figure belongs to."""

from __future__ import annotations

import importlib.metadata
import platform

import deepcore as dc


def describe() -> dict[str, str]:
    facts = dc.get_backend("cpu").info()
    versions = {}
    for package in ("numpy", "numba", "torch", "cupy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": f"{facts['processor']}, {facts['processors']} processors",
        "blas": facts["blas"],
        "python": platform.python_version(),
        "system": platform.system(),
        "deepcore": dc.__version__,
        **versions,
    }
