"""Whole training steps, and the first step in a fresh process, against PyTorch and JAX.

`torch.compile` compiles the forward and the loss; "deepcore" and "jax.jit" compile the step. "fma peak" takes the time
of the step's matrix products alone at the rate of multiply-adds in registers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import peaks
import peers
import workloads
from contest import Absent, Contest
from workloads import WORKLOADS

from deepcore.autograd import detect_anomaly
from deepcore.config import settings

HERE = Path(__file__).resolve().parents[1]
SIDES = ("deepcore", "deepcore eager", "torch eager", "torch.compile", "jax.jit", "fma peak")
#: How else convolutions can be done.
CHANNELS_LAST = ("torch eager, channels-last", "torch.compile, channels-last")
QUICK = ("xor", "mlp_s")

_compiled = ""  # the workload of what torch.compile keeps
_looked: tuple = ("", None)  # a workload, and a step of it


def make(side: str, name: str):
    global _compiled
    if side == "fma peak":
        return peaks.fma(WORKLOADS[name].work)
    if not side.startswith("torch.compile"):
        return workloads.training(side, name)
    if name != _compiled:
        peers.torch()._dynamo.reset()  # each contest its own compilation
        _compiled = name
    step = workloads.training(side, name)
    try:
        step()
    except Exception as error:  # no C++ compiler, above all
        raise Absent(f"torch.compile: {str(error).strip().splitlines()[0]}") from None
    return step


class FirstStep:
    """A process that returns the seconds of its first step, without imports and building. What it caches is in a folder of
    its own, filled or emptied before each call, and gone with the side."""

    def __init__(self, side: str, name: str, filled: bool):
        self.arguments = [sys.executable, str(HERE / "workloads.py"), side, name]
        self.filled = filled
        self.folder = tempfile.mkdtemp(prefix="deepcore-benchmark-")
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(HERE.parent),
            "DEEPCORE_NUM_THREADS": str(settings.threads),
            "DEEPCORE_CACHE": os.path.join(self.folder, "kernels"),
            "TORCHINDUCTOR_CACHE_DIR": os.path.join(self.folder, "inductor"),
            "TORCHINDUCTOR_COMPILE_THREADS": str(settings.threads),
        }

    def __call__(self) -> float:
        if not self.filled:
            for folder in os.scandir(self.folder):
                shutil.rmtree(folder)
        done = subprocess.run(self.arguments, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return float(done.stdout.split()[-1])

    def __del__(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def first_step(side: str, name: str, filled: bool):
    if side == "jax.jit":
        peers.jax()
    elif side == "torch.compile":
        peers.torch()
        if shutil.which(os.environ.get("CXX", "g++")) is None:
            raise Absent("torch.compile: no C++ compiler")
    return FirstStep(side, name, filled)


def looked_at(side: str, name: str):
    """Steps with NaN checks or without: many at a time, so that switching the checks on is no part of a step. Both sides
    train one model on one batch: where those lie in memory can matter more than the checks."""
    global _looked
    if name != _looked[0]:
        _looked = name, workloads.training("deepcore", name)
    step, steps = _looked[1], range(100 if name in QUICK else 8)

    def run():
        for _ in steps:
            step()

    def looking():
        with detect_anomaly():
            run()

    return looking if side.endswith("detect_anomaly") else run, 1 / len(steps)


CONTESTS = [
    Contest(
        "training",
        name,
        partial(make, name=name),
        (*SIDES[:-2], *(CHANNELS_LAST if one.images else ()), *SIDES[-2:]),
        one.work,
        "flop",
        group="step",
        long=name not in QUICK,
    )
    for name, one in WORKLOADS.items()
] + [
    Contest(
        "training",
        f"first step of {name}, {'full' if filled else 'empty'} cache",
        partial(first_step, name=name, filled=filled),
        ("deepcore", "torch.compile") if filled else ("deepcore", "torch.compile", "jax.jit"),
        group="first step",
        process=True,
        long=True,
        facts={"workload": name, "cache": "full" if filled else "empty"},
    )
    for name in ("mlp_s", "deep")
    for filled in (False, True)
]
CONTESTS += [
    Contest(
        "training",
        f"{name}, checked for NaN",
        partial(looked_at, name=name),
        ("deepcore", "deepcore, detect_anomaly"),
        group="checked",
        long=name not in QUICK,
        facts={"workload": name},
    )
    for name, one in WORKLOADS.items()
    if not one.images and not one.embedded
]
