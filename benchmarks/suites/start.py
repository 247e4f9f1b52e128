"""Fresh processes: importing, and training with an empty and with a filled kernel cache."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from contest import Absent, Contest

ROOT = Path(__file__).resolve().parents[2]


#: Installed packages have their bytecode, so every side keeps it, whatever the environment says of that.
BYTECODE = tempfile.mkdtemp(prefix="deepcore-bytecode-")
atexit.register(shutil.rmtree, BYTECODE, ignore_errors=True)


def start(*arguments: str, **environment: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": BYTECODE, **environment}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run([sys.executable, *arguments], env=env, check=True, stdout=subprocess.DEVNULL)


def importing(side: str):
    module = {"python alone": "", "deepcore": "deepcore"}.get(side, side)
    if module and importlib.util.find_spec(module) is None:
        raise Absent(f"{module} is not installed")
    return lambda: start("-c", f"import {module}" if module else "pass")


class Cache:
    """A folder for kernels, filled or emptied before each call, and gone with the side."""

    def __init__(self, filled: bool):
        self.filled = filled
        self.folder = tempfile.mkdtemp(prefix="deepcore-benchmark-")

    def __call__(self) -> None:
        if not self.filled:
            shutil.rmtree(os.path.join(self.folder, "kernels"), ignore_errors=True)
        run = os.path.join(self.folder, "run")
        kernels = os.path.join(self.folder, "kernels")
        start("-m", "deepcore", "train", "--epochs", "1", "--backend", "cpu", "--out", run, DEEPCORE_CACHE=kernels)
        shutil.rmtree(run, ignore_errors=True)

    def __del__(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def training(side: str):
    return Cache(side == "deepcore, full cache")


CONTESTS = [
    Contest(
        "start",
        "import",
        importing,
        ("deepcore", "python alone", "numpy", "torch"),
        baseline="python alone",
        process=True,
    ),
    Contest(
        "start",
        "deepcore train --epochs 1",
        training,
        ("deepcore, full cache", "deepcore, empty cache"),
        baseline="deepcore, full cache",
        process=True,
        long=True,
    ),
]
