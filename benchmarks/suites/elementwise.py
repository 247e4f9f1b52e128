"""Elementwise functions on float32 at three sizes, results in memory that is used again, against NumPy, PyTorch and a copy.

deepcore keeps the memory of results by itself; NumPy and PyTorch are given `out=` wherever they take it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import peaks
import peers
from contest import Contest, array

import deepcore as dc

SIZES = (10_000, 1_000_000, 16_000_000)


class Map(NamedTuple):
    """The same function three times, `numpy(out, *arrays)` and `torch(torch, out, *tensors)` writing to `out`.

    `inputs`: how many arrays it reads. `bound`: whether memory, and not arithmetic, limits large ones.
    """

    deepcore: Callable
    numpy: Callable | None
    torch: Callable
    inputs: int = 1
    bound: bool = False
    positive: bool = False


def ufunc(name: str, torch_name: str | None = None, **settings) -> Map:
    return Map(
        getattr(dc, torch_name or name),
        lambda out, *x: getattr(np, name)(*x, out=out),
        lambda torch, out, *x: getattr(torch, torch_name or name)(*x, out=out),
        **settings,
    )


def gradient(name: str, *arguments, bound: bool = False, **params) -> Map:
    """Of (g, x), x being what the function was given or what it gave."""
    torch_name = {"relu": "threshold"}.get(name, name)
    return Map(
        lambda g, x: peers.fused(f"{name}_grad")(g, x, **params),
        None,
        lambda torch, out, g, x: peers.backward(f"{torch_name}_backward")(g, x, *arguments, out),
        inputs=2,
        bound=bound,
    )


def sigmoid(out, x):
    np.negative(x, out=out)
    np.exp(out, out=out)
    np.add(out, 1.0, out=out)
    return np.divide(1.0, out, out=out)


def silu(out, x):
    return np.multiply(sigmoid(out, x), x, out=out)


MAPS = {
    "add": ufunc("add", inputs=2, bound=True),
    "mul": ufunc("multiply", "mul", inputs=2, bound=True),
    "exp": ufunc("exp"),
    "expm1": ufunc("expm1"),
    "log": ufunc("log", positive=True),
    "log1p": ufunc("log1p", positive=True),
    "tanh": ufunc("tanh"),
    "sigmoid": Map(dc.sigmoid, sigmoid, lambda torch, out, x: torch.sigmoid(x, out=out)),
    "erf": Map(dc.erf, None, lambda torch, out, x: torch.erf(x, out=out)),
    "relu": Map(
        dc.relu,
        lambda out, x: np.maximum(x, 0.0, out=out),
        lambda torch, out, x: torch.clamp_min(x, 0.0, out=out),
        bound=True,
    ),
    "gelu": Map(dc.gelu, None, lambda torch, out, x: torch._C._nn.gelu(x, out=out)),
    "silu": Map(dc.silu, silu, lambda torch, out, x: torch._C._nn.silu(x, out=out)),
    "softplus": Map(
        dc.softplus,
        lambda out, x: np.logaddexp(0.0, x, out=out),
        lambda torch, out, x: torch._C._nn.softplus(x, out=out),
    ),
    "tanh gradient": gradient("tanh", bound=True),
    "sigmoid gradient": gradient("sigmoid", bound=True),
    "relu gradient": gradient("relu", 0.0, bound=True),
    "gelu gradient": gradient("gelu"),
    "silu gradient": gradient("silu"),
    "softplus gradient": gradient("softplus", 1.0, 20.0, beta=1.0, threshold=20.0),
}


def make(side: str, name: str, size: int):
    one = MAPS[name]
    if side == "copy":
        return peaks.copy(size, 4.0 * (one.inputs + 1) * size)
    x = [array(size, seed=i) for i in range(one.inputs)]
    if one.positive:
        x = [np.abs(each) + np.float32(1e-3) for each in x]
    if side == "deepcore":
        call = partial(one.deepcore, *map(dc.from_numpy, x))
        call()  # Absent where a revision has no such gradient
        return call
    out = np.empty(size, "f")
    if side == "torch":
        return partial(one.torch, peers.torch(), peers.torch().from_numpy(out), *map(peers.shared, x))
    return partial(one.numpy, out, *x)


CONTESTS = [
    Contest(
        "elementwise",
        f"{name} {size:,}",
        partial(make, name=name, size=size),
        ("deepcore", "torch", "copy") if one.numpy is None else ("deepcore", "numpy", "torch", "copy"),
        4.0 * (one.inputs + 1) * size,
        "byte",
        long=size > 1_000_000,
        facts={"op": name, "size": size, "bound": one.bound},
    )
    for name, one in MAPS.items()
    for size in SIZES
]
