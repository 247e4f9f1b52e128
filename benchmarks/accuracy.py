"""How far results are from float64's (from 80 bits or more for float64's own), beside PyTorch's.

Elementwise errors are in units in the last place of the true value. Those of sums of many terms are in units of
eps · Σ|terms|, or of eps times the largest true value of a row, as the case says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import peers
from contest import Absent

import deepcore as dc
from deepcore.nn import functional as F

COUNT = 20_000
_ROOT_HALF = 0.7071067811865476


# -- true values ------------------------------------------------------------------------------------------------------


def _each(function: Callable) -> Callable:
    return np.vectorize(function, otypes=[np.float64])


def _precise(formula: Callable) -> Callable:
    """formula(mpmath, x) of float64, as long double."""
    try:
        import mpmath
    except ImportError:
        raise Absent("mpmath is not installed") from None

    def one(x):
        with mpmath.workprec(120):
            value = formula(mpmath, mpmath.mpf(float(x)))
            high = float(value)
            return np.longdouble(high) + (np.longdouble(float(value - high)) if math.isfinite(high) else 0)

    return lambda x: np.array([one(v) for v in x], np.longdouble)


def _erfc_half(x: float) -> float:
    return 0.5 * math.erfc(-x * _ROOT_HALF)


def _gelu_slope(x: float) -> float:
    return _erfc_half(x) + x * math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi) if abs(x) < 1e100 else float(x > 0)


def _silu_slope(x):
    y, far = sigmoid(x), sigmoid(-x)
    return y * (1.0 + x * far)


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def softplus(x):
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


class Function(NamedTuple):
    """`true` of float64, for float32's results; `precise` of long double, or a formula for mpmath, for float64's own.

    `gradient`: (function, PyTorch's further arguments, deepcore's) whose gradient it is, of (1, x). `terms`: Σ|terms| of a
    sum that passes through zero, in whose units its errors are.
    """

    true: Callable
    precise: Callable
    domain: str = "all"
    mpmath: bool = False
    gradient: tuple = ()
    terms: Callable | None = None


FUNCTIONS = {
    "exp": Function(np.exp, np.exp),
    "expm1": Function(np.expm1, np.expm1),
    "log": Function(np.log, np.log, "positive"),
    "log1p": Function(np.log1p, np.log1p, "above -1"),
    "tanh": Function(np.tanh, np.tanh),
    "sigmoid": Function(sigmoid, sigmoid),
    "erf": Function(_each(math.erf), lambda mp, x: mp.erf(x), mpmath=True),
    "gelu": Function(_each(lambda x: x * _erfc_half(x)), lambda mp, x: x * mp.erfc(-x / mp.sqrt(2)) / 2, mpmath=True),
    "silu": Function(lambda x: x * sigmoid(x), lambda x: x * sigmoid(x)),
    "softplus": Function(softplus, softplus),
    "gelu gradient": Function(
        _each(_gelu_slope),
        lambda mp, x: mp.erfc(-x / mp.sqrt(2)) / 2 + x * mp.npdf(x),
        mpmath=True,
        gradient=("gelu", (), {}),
        terms=_each(lambda x: _erfc_half(x) + abs(x) * math.exp(-0.5 * min(x * x, 1500.0)) / math.sqrt(2 * math.pi)),
    ),
    "silu gradient": Function(
        _silu_slope,
        _silu_slope,
        gradient=("silu", (), {}),
        terms=lambda x: sigmoid(x) * (1.0 + np.abs(x) * sigmoid(-x)),
    ),
    "softplus gradient": Function(
        sigmoid, sigmoid, gradient=("softplus", (1.0, 20.0), {"beta": 1.0, "threshold": 20.0})
    ),
}
# Where functions change course: overflow, underflow, zeros, and where formulas are pieced together.
_EDGES = {
    "float32": [88.72, -87.33, -103.97, 1e-45, 1.1754944e-38, 9.01, 17.32, 20.0, 5.9, 3.9, 0.5, 0.625, 2**-12, 1.0, 14.5],
    "float64": [709.78, -708.39, -745.1, 5e-324, 2.2e-308, 19.06, 36.7, 37.4, 5.9, 26.5, 0.5, 0.625, 2**-27, 1.0, 38.5],
}  # fmt: skip
INPUTS = ("random", "large", "tiny", "adversarial")


def inputs(kind: str, dtype: str, domain: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    if kind == "random":
        x = 3.0 * rng.standard_normal(count)
    elif kind == "large":
        x = rng.choice([-1.0, 1.0], count) * np.exp(rng.uniform(math.log(8.0), math.log(120.0), count))
    elif kind == "tiny":
        x = rng.choice([-1.0, 1.0], count) * np.exp2(rng.uniform(-140 if dtype == "float32" else -1060, -3, count))
    else:
        edges = np.array(_EDGES[dtype])
        near = np.repeat(edges, count // (2 * len(edges))) * (
            1.0 + 1e-3 * rng.standard_normal(count // (2 * len(edges)) * len(edges))
        )
        x = np.concatenate([near, -near, edges, -edges, [0.0, -0.0]])
    if domain == "positive":
        x = np.abs(x)
    elif domain == "above -1":
        x = np.where(x > -1, x, -1 / (1 + np.abs(x)))
    return x.astype(dtype)


def ulps(got: np.ndarray, true: np.ndarray, terms: np.ndarray | None = None) -> float:
    """The largest distance in units in the last place of the true values, or of what is given for them."""
    with np.errstate(all="ignore"):
        rounded = true.astype(got.dtype)
    odd = ~np.isfinite(rounded)
    # The largest number and infinity are neighbours.
    edge = odd & np.isfinite(got) & (np.abs(got) == np.finfo(got.dtype).max)
    if not np.array_equal(got[odd & ~edge], rounded[odd & ~edge], equal_nan=True):
        return math.inf
    with np.errstate(under="ignore"):
        measure = rounded if terms is None else np.maximum(np.abs(rounded), terms.astype(got.dtype))
    unit = np.spacing(np.abs(measure[~odd])).astype(true.dtype)
    distance = np.abs(got[~odd].astype(true.dtype) - true[~odd]) / unit
    return float(distance.max(initial=0.0)) if not np.isnan(distance).any() else math.inf


def elementwise(name: str, dtype: str, kind: str) -> dict[str, float]:
    one = FUNCTIONS[name]
    x = inputs(kind, dtype, one.domain, 2_000 if dtype == "float64" and one.mpmath else COUNT)
    with np.errstate(all="ignore"):
        if dtype == "float32":
            true = one.true(x.astype(np.float64))
        elif np.finfo(np.longdouble).nmant < 60:
            raise Absent("no floating-point numbers longer than float64 here")
        else:
            true = (_precise(one.precise) if one.mpmath else one.precise)(x.astype(np.longdouble))
        terms = one.terms(x.astype(np.float64)) if one.terms else None
    errors = {"deepcore": ulps(_own(name)(dc.from_numpy(x)).numpy(), true, terms)}
    with_torch(errors, lambda torch: ulps(_torch(torch, name)(torch.from_numpy(x)).numpy(), true, terms))
    return errors


def _own(name: str) -> Callable:
    if not FUNCTIONS[name].gradient:
        return getattr(dc, name)
    function, _, params = FUNCTIONS[name].gradient
    return lambda x: peers.fused(f"{function}_grad")(dc.ones_like(x), x, **params)


def _torch(torch, name: str) -> Callable:
    if not FUNCTIONS[name].gradient:
        return getattr(torch, name, None) or getattr(torch.nn.functional, name)
    function, arguments, _ = FUNCTIONS[name].gradient
    return lambda x: peers.backward(f"{function}_backward")(torch.ones_like(x), x, *arguments, torch.empty_like(x))


def with_torch(errors: dict[str, float], measure: Callable) -> None:
    try:
        torch = peers.torch()
    except Absent:
        return
    errors["torch"] = measure(torch)


# -- functions of rows ------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A function of a matrix: deepcore's, PyTorch's, the true one in float64 and what its errors are measured by."""

    deepcore: Callable
    torch: Callable
    true: Callable
    scale: Callable


def true_log_softmax(x):
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def true_layer_norm(x):
    c = x - x.mean(1, keepdims=True)
    return c / np.sqrt((c * c).mean(1, keepdims=True) + 1e-5)


def _largest(x, true):
    return np.abs(true).max(-1, keepdims=True)


ROWS = {
    "sum": Row(dc.sum, lambda t, x: x.sum(), np.sum, lambda x, true: np.abs(x).sum()),
    "sum of rows": Row(lambda x: x.sum(0), lambda t, x: x.sum(0), lambda x: x.sum(0), lambda x, true: np.abs(x).sum(0)),
    "softmax": Row(
        lambda x: dc.softmax(x, 1),
        lambda t, x: t.softmax(x, 1),
        lambda x: np.exp(true_log_softmax(x)),
        lambda x, true: np.maximum(true, np.finfo("f").tiny),
    ),
    "log_softmax": Row(
        lambda x: dc.log_softmax(x, 1),
        lambda t, x: t.log_softmax(x, 1),
        true_log_softmax,
        lambda x, true: np.maximum(np.abs(true), np.abs(x).max()),
    ),
    "layer_norm": Row(
        lambda x: F.layer_norm(x, x.shape[1]),
        lambda t, x: t.nn.functional.layer_norm(x, x.shape[1:]),
        true_layer_norm,
        _largest,
    ),
    "matmul": Row(
        lambda x: x @ x.T,
        lambda t, x: x @ x.T,
        lambda x: x @ x.T,
        lambda x, true: np.maximum(np.abs(x) @ np.abs(x).T, np.finfo("f").tiny),
    ),
}  # fmt: skip


def matrix(kind: str) -> np.ndarray:
    rng = np.random.default_rng(9)
    x = rng.standard_normal((64, 3000))
    if kind == "large":
        x *= 1e3
    elif kind == "tiny":
        x *= 1e-12
    elif kind == "adversarial":  # far from zero, with terms of very different size
        x = 1e4 + x * np.exp2(rng.integers(-12, 12, x.shape))
    return x.astype("f")


def rows(name: str, dtype: str, kind: str) -> dict[str, float]:
    one, x = ROWS[name], matrix(kind)
    wide = x.astype(np.float64)
    true = one.true(wide)
    unit = np.finfo("f").eps * one.scale(wide, true)

    def error(got) -> float:
        return float((np.abs(got.numpy().astype(np.float64) - true) / unit).max())

    errors = {"deepcore": error(one.deepcore(dc.from_numpy(x)))}
    with_torch(errors, lambda torch: error(one.torch(torch, torch.from_numpy(x))))
    return errors


CASES: dict[str, Callable[[], dict[str, float]]] = {
    f"{name} {dtype} {kind}": partial(measure, name, dtype, kind)
    for measure, names, dtypes in ((elementwise, FUNCTIONS, ("float32", "float64")), (rows, ROWS, ("float32",)))
    for name in names
    for dtype in dtypes
    for kind in INPUTS
}
