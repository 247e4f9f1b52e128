"""Muon."""

from __future__ import annotations

import math

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, ShapeError
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, finite, non_negative

_ADJUSTMENTS = (None, "original", "match_rms_adamw")


@OPTIMIZERS.register
class Muon(Optimizer):
    """w ← w · (1 - lr · weight_decay) - lr · a · O(d), for matrices: the hidden layers' weights. Others go to AdamW.

        b ← momentum · b + (1 - momentum) · g
        d = momentum · b + (1 - momentum) · g  (nesterov), or b
        O(d) ≈ U Vᵀ of d = U S Vᵀ, by `ns_steps` steps of Newton and Schulz in bfloat16:
            X = d / max(‖d‖, eps);  X ← p·X + (q·A + r·A²) X,  A = X Xᵀ,  (p, q, r) = ns_coefficients

    a is √max(1, rows/columns) by default ("original"), 0.2·√max(rows, columns) with adjust_lr_fn="match_rms_adamw".
    (Jordan et al., 2024; Liu et al., 2025)
    """

    takes_complex = False

    state_names = ("momentum_buffer",)

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_coefficients": tuple(ns_coefficients),
                "eps": eps,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
            },
        )

    def validate(self, group) -> None:
        non_negative(group, "lr", "weight_decay", "momentum", "eps")
        finite({str(i): x for i, x in enumerate(group["ns_coefficients"])}, "0", "1", "2")
        steps, adjustment = group["ns_steps"], group["adjust_lr_fn"]
        if isinstance(steps, bool) or not hasattr(steps, "__index__") or not 0 < steps < 100:
            raise ArgumentError("ns_steps is a whole number from 1 to 99", received=f"ns_steps={steps!r}")
        if adjustment not in _ADJUSTMENTS:
            raise ArgumentError('adjust_lr_fn is "original" or "match_rms_adamw"', received=repr(adjustment))
        for i, p in enumerate(group["params"]):
            if p.ndim != 2:
                raise ShapeError(
                    f"Muon updates matrices, and parameter {i} of the group is none",
                    received=f"shape {p.shape}",
                    fix="Muon([p for p in parameters if p.ndim == 2]), and AdamW for the others",
                )

    def init(self, parameter):
        return {"momentum_buffer": parameter.backend.zeros_like(parameter._data)}

    def apply(self, parameter, gradient, state, group) -> None:
        xp, weight = parameter.backend, parameter._data
        real = dt.float32 if weight.dtype.itemsize == 2 else weight.dtype
        w, g = weight.astype(real, copy=False), gradient.astype(real, copy=False)
        momentum, lr = float(group["momentum"]), float(group["lr"])
        buffer = momentum * state["momentum_buffer"].astype(real, copy=False) + (1 - momentum) * g
        state["momentum_buffer"][...] = buffer
        direction = momentum * buffer + (1 - momentum) * g if group["nesterov"] else buffer
        p, q, r = (float(x) for x in group["ns_coefficients"])
        turned = _orthogonal(xp, direction, p, q, r, float(group["eps"]), int(group["ns_steps"])).astype(real)
        rows, columns = weight.shape
        adjusted = math.sqrt(max(1, rows / columns))
        if group["adjust_lr_fn"] == "match_rms_adamw":
            adjusted = 0.2 * math.sqrt(max(rows, columns))
        weight[...] = w * (1 - lr * float(group["weight_decay"])) - lr * adjusted * turned


def _orthogonal(xp, x, p: float, q: float, r: float, eps: float, steps: int):
    """The matrix as float32 with its singular values near 1, computed in bfloat16: products in float32, rounded once."""

    def rounded(a):
        return a.astype(dt.bfloat16).astype(dt.float32)

    flat = x.shape[0] > x.shape[1]
    x = rounded(x.T if flat else x)
    norm = rounded(xp.sqrt(xp.sum(x * x)))
    x = rounded(x / xp.maximum(norm, eps))
    for _ in range(steps):
        gram = rounded(xp.matmul(x, xp.ascontiguousarray(x.T)))
        x = rounded(p * x + xp.matmul(rounded(q * gram + r * xp.matmul(gram, gram)), x))
    return x.T if flat else x
