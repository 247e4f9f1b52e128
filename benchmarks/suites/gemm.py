"""Matrix products in float32: every shape as it is, and with either operand or both transposed in memory."""

from __future__ import annotations

from functools import partial

import numpy as np
import peaks
import peers
from contest import Absent, Contest, array

import deepcore as dc

SHAPES = [
    (32, 64, 64), (32, 784, 128), (64, 784, 512), (64, 512, 512), (256, 1024, 1024), (1024, 1024, 1024),
    (2048, 2048, 2048), (50176, 64, 64), (8, 64, 3136), (1, 4096, 4096), (127, 255, 63),
]  # fmt: skip
FORMS = {"AB": (False, False), "AtB": (True, False), "ABt": (False, True), "AtBt": (True, True)}
SIDES = ("deepcore", "deepcore kernels", "numpy", "numpy best core", "torch", "fma peak")


def operands(m: int, k: int, n: int, form: str):
    a, b = FORMS[form]
    return array(k, m).T if a else array(m, k), array(n, k, seed=1).T if b else array(k, n, seed=1)


def make(side: str, m: int, k: int, n: int, form: str):
    if side == "fma peak":
        return peaks.fma(2.0 * m * k * n)
    x, y = operands(m, k, n, form)
    if side == "torch":
        torch = peers.torch()
        x, y, out = peers.shared(x), peers.shared(y), torch.empty((m, n))
        return lambda: torch.matmul(x, y, out=out)
    out = np.empty((m, n), "f")
    if side.startswith("numpy"):
        return lambda: np.matmul(x, y, out=out)
    return product(side, x, y, out)


def product(side: str, x, y, out):
    if side == "deepcore":
        cpu = dc.get_backend("cpu")
        return lambda: cpu.matmul(x, y)
    from deepcore.kernels.cpu import gemm

    if gemm.product(x, y, out) is NotImplemented:
        raise Absent("no kernel for this processor")
    return lambda: gemm.product(x, y, out)


CONTESTS = [
    Contest(
        "gemm",
        f"{m}x{k}x{n} {form}",
        partial(make, m=m, k=k, n=n, form=form),
        SIDES,
        2.0 * m * k * n,
        "flop",
        long=m * k * n > 1 << 30 or form != "AB",
        facts={"shape": [m, k, n], "form": form},
    )
    for m, k, n in SHAPES
    for form in FORMS
]
