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


class Others:
    """What share of the machine's processors other processes take, from now on."""

    def __init__(self):
        self.start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """(seconds of all processes, of this one and its children that ended, of the processors)."""
        try:
            with open("/proc/stat", encoding="ascii") as file:
                ticks = [int(n) / os.sysconf("SC_CLK_TCK") for n in file.readline().split()[1:9]]
        except (OSError, ValueError):
            return None
        own = os.times()
        # user, nice, system, idle, iowait, irq, softirq, steal: what the host takes is no process of ours either.
        return sum(ticks) - ticks[3] - ticks[4], sum(own[:4]), sum(ticks)

    def share(self) -> float | None:
        """None where it cannot be known."""
        now = self._now()
        if self.start is None or now is None:
            return None
        busy, own, all_ = (b - a for a, b in zip(self.start, now))
        return max(0.0, busy - own) / max(all_, 1e-9)


def describe() -> dict[str, str]:
    facts = dc.get_backend("cpu").info()
    versions = {}
    for package in ("numpy", "numba", "llvmlite", "torch", "jax", "scikit-learn", "cupy"):
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


def family() -> str:
    """By what figures are kept apart: a machine's vectors."""
    from deepcore.kernels.cpu import gemm_tables  # here, so that `compare` can measure revisions from before that room

    return gemm_tables.family() or "others"


def _vectors(features: str) -> str:
    found = features.split()
    if any(name.startswith("AVX512") for name in found):
        return "AVX-512"
    return next((name for name in ("AVX2", "ASIMD", "NEON") if name in found), "no vectors known")
