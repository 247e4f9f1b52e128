"""What the examples that run with deepcore or with PyTorch have in common."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deepcore.errors import DataError, MissingDependencyError


def library_called(name: str):
    """The module `deepcore` or `torch`."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingDependencyError(f"{name} is not installed", fix=f"pip install {name}") from None


def real_data(name: str) -> Path:
    """A file, or a folder whose name ends with /, in the folder that DEEPCORE_DATA names."""
    if "DEEPCORE_DATA" not in os.environ:
        raise DataError("DEEPCORE_DATA is not set", fix=f"export DEEPCORE_DATA=the folder that has {name}")
    return Path(os.environ["DEEPCORE_DATA"]) / name


def compiled(library, function):
    """`function` as one program, with deepcore; PyTorch runs as it is, without waiting for its compiler."""
    return library.compile(function) if library.__name__ == "deepcore" else function


def train_for(seconds: float, step: Callable[[int, float], float], count: int, unit: str, rate: str = ".0f") -> int:
    """Call `step(number, share)`, which returns a loss, until the time is up, once at least; the number of steps.

    `share` is that of the time that has passed. Every five seconds the mean loss is printed, and how many times `count` of
    `unit` came in a second, in the format `rate`.
    """
    start, said, passed, steps, losses = time.perf_counter(), 0.0, 0.0, 0, []
    while not steps or passed < seconds:
        losses.append(step(steps, passed / seconds if seconds else 0.0))
        steps += 1
        passed = time.perf_counter() - start
        if passed - said >= 5 or passed >= seconds:
            print(
                f"{passed:5.0f} s  step {steps:5}  loss {np.mean(losses):.4f}  {steps * count / passed:{rate}} {unit}/s",
                flush=True,
            )
            said, losses = passed, []
    return steps
