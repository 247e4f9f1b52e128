"""RAdam."""

from __future__ import annotations

import math

from deepcore.kernels.update import Update, sqrt
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, betas_in_range, non_negative


def radam(w, g, m, v, sign, decay, shrink, beta1, rest1, beta2, rest2, rate, rectified, eps):
    """`rate` and `rectified`, 0 in the first steps, include the bias corrections."""
    g = sign * g
    g = g + decay * w if decay != 0.0 else g
    m = m + rest1 * (g - m) if beta1 > 0.5 else g - beta1 * (g - m)
    v = beta2 * v + rest2 * (g * g)
    d = rectified * (m / (sqrt(v) + eps)) if rectified != 0.0 else rate * m
    return shrink * w - d, m, v


_RADAM = Update(radam, "exp_avg", "exp_avg_sq")


@OPTIMIZERS.register
class RAdam(Optimizer):
    """Adam whose rate is rectified while the mean square is of few gradients: w ← w - lr · r · m̂ / (√v + eps) · √(1 - β₂ᵗ).

        g ← -g (maximize);  g ← g + weight_decay · w, or with decoupled_weight_decay w ← w · (1 - lr · weight_decay)
        m ← β₁·m + (1 - β₁)·g,  m̂ = m / (1 - β₁ᵗ);  v ← β₂·v + (1 - β₂)·g²
        ρ∞ = 2/(1 - β₂) - 1,  ρ = ρ∞ - 2t·β₂ᵗ/(1 - β₂ᵗ),  r² = (ρ - 4)(ρ - 2)·ρ∞ / ((ρ∞ - 4)(ρ∞ - 2)·ρ)

    at step t; where ρ ≤ 5, w ← w - lr · m̂. (Liu et al., 2020)
    """

    state_names = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
        )

    def validate(self, group) -> None:
        non_negative(group, "lr", "eps", "weight_decay")
        betas_in_range(group)

    def init(self, parameter):
        xp, w = parameter.backend, parameter._data
        return {"step": 0, "exp_avg": xp.zeros_like(w), "exp_avg_sq": xp.zeros_like(w)}

    def update(self, group) -> Update:
        return _RADAM

    def scalars(self, group, step):
        beta1, beta2 = (float(beta) for beta in group["betas"])
        lr, weight_decay = float(group["lr"]), float(group["weight_decay"])
        decoupled = group["decoupled_weight_decay"]
        rate, left = lr / (1 - beta1**step), 1 - beta2**step
        final = 2 / (1 - beta2) - 1
        length = final - 2 * step * beta2**step / left
        rectified = 0.0
        if length > 5:
            square = (length - 4) * (length - 2) * final / ((final - 4) * (final - 2) * length)
            rectified = rate * math.sqrt(square * left)
        return {
            "sign": -1.0 if group["maximize"] else 1.0,
            "decay": 0.0 if decoupled else weight_decay,
            "shrink": 1 - lr * weight_decay if decoupled else 1.0,
            "beta1": beta1,
            "rest1": 1 - beta1,
            "beta2": beta2,
            "rest2": 1 - beta2,
            "rate": rate,
            "rectified": rectified,
            "eps": float(group["eps"]),
        }
