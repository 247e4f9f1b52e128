"""Adafactor."""

from __future__ import annotations

import math

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, finite, is_number, non_negative


@OPTIMIZERS.register
class Adafactor(Optimizer):
    """w ← w · (1 - lr · weight_decay) - α · u / max(1, RMS(u) / d), u = g / √v, whose state of a matrix is a row and a column.

        g ← -g                                                  (maximize)
        β = 1 - t^beta2_decay,  ρ = min(lr, 1/√t),  α = ρ · max(eps[1], RMS(w))
        r ← β·r + (1 - β) · mean of g² over columns,  c ← β·c + (1 - β) · mean of g² over rows
        v = r · c / mean(r)                                     (vectors: v ← β·v + (1 - β)·g²)

    at step t, RMS(x) = √mean(x²); v is at least eps[0]², and eps[0] None is the parameter's machine epsilon.
    (Shazeer and Stern, 2018)
    """

    takes_complex = False

    state_names = ("step", "row_var", "col_var", "variance")

    def __init__(
        self,
        params,
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "beta2_decay": beta2_decay,
                "eps": tuple(eps),
                "d": d,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
        )

    def validate(self, group) -> None:
        non_negative(group, "lr", "weight_decay")
        finite(group, "beta2_decay", "d")
        eps = group["eps"]
        if group["beta2_decay"] > 0:
            raise ArgumentError("beta2_decay is at most 0", received=f"beta2_decay={group['beta2_decay']!r}")
        if group["d"] < 1:
            raise ArgumentError("d is at least 1", received=f"d={group['d']!r}")
        if len(eps) != 2 or not all(e is None or (is_number(e) and e >= 0) for e in eps) or eps[1] is None:
            raise ArgumentError("eps are two numbers", expected="(None or ≥ 0, ≥ 0)", received=repr(eps))

    def init(self, parameter):
        xp, w = parameter.backend, parameter._data
        if w.ndim < 2:
            return {"step": 0, "variance": xp.zeros_like(w)}
        return {
            "step": 0,
            "row_var": xp.zeros((*w.shape[:-1], 1), dtype=w.dtype),
            "col_var": xp.zeros((*w.shape[:-2], 1, w.shape[-1]), dtype=w.dtype),
        }

    def apply(self, parameter, gradient, state, group) -> None:
        xp, weight = parameter.backend, parameter._data
        if not weight.size:
            return
        real = dt.float32 if weight.dtype.itemsize == 2 else weight.dtype
        w, g = weight.astype(real, copy=False), gradient.astype(real, copy=False)
        least, floor = group["eps"]
        least = dt.finfo(weight.dtype).eps if least is None else float(least)
        state["step"] += 1
        rest = state["step"] ** float(group["beta2_decay"])
        lr = float(group["lr"])
        rate = xp.maximum(_rms(xp, w), float(floor)) * min(lr, 1 / math.sqrt(state["step"]))
        if group["maximize"]:
            g = -g
        square = g * g
        if weight.ndim < 2:
            v = _moved(state["variance"], square, rest)
        else:
            row = _moved(state["row_var"], xp.sum(square, (-1,), True) / weight.shape[-1], rest)
            column = _moved(state["col_var"], xp.sum(square, (-2,), True) / weight.shape[-2], rest)
            mean = xp.sum(row, (row.ndim - 2,), True) / weight.shape[-2]
            v = row * column / xp.maximum(mean, least)
        update = g / xp.sqrt(xp.maximum(v, least * least))
        rate = rate / xp.maximum(_rms(xp, update) / float(group["d"]), 1.0)
        weight[...] = w * (1 - lr * float(group["weight_decay"])) - rate * update


def _rms(xp, x):
    """√mean(x²) as a 0-d array."""
    return xp.sqrt(xp.sum(x * x) / x.size)


def _moved(state, value, rest: float):
    """state ← state + rest · (value - state), in place; the new value."""
    wide = state.astype(value.dtype, copy=False)
    new = wide + rest * (value - wide) if rest < 0.5 else value - (1 - rest) * (value - wide)
    state[...] = new
    return new
