"""Adamax."""

from __future__ import annotations

from deepcore.kernels.update import Update, maximum
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, betas_in_range, non_negative


def adamax(w, g, m, largest, sign, decay, beta1, rest1, beta2, eps, rate):
    g = sign * g
    g = g + decay * w if decay != 0.0 else g
    m = m + rest1 * (g - m) if beta1 > 0.5 else g - beta1 * (g - m)
    largest = maximum(beta2 * largest, maximum(g, -g) + eps)
    return w - rate * (m / largest), m, largest


_ADAMAX = Update(adamax, "exp_avg", "exp_inf")


@OPTIMIZERS.register
class Adamax(Optimizer):
    """w ← w - lr / (1 - β₁ᵗ) · m / u, Adam with the largest gradient in place of the mean square, at step t:

        g ← -g (maximize);  g ← g + weight_decay · w
        m ← β₁·m + (1 - β₁)·g
        u ← max(β₂·u, |g| + eps)

    (Kingma and Ba, 2015)
    """

    state_names = ("step", "exp_avg", "exp_inf")

    def __init__(
        self,
        params,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "maximize": maximize},
        )

    def validate(self, group) -> None:
        non_negative(group, "lr", "eps", "weight_decay")
        betas_in_range(group)

    def init(self, parameter):
        xp, w = parameter.backend, parameter._data
        return {"step": 0, "exp_avg": xp.zeros_like(w), "exp_inf": xp.zeros_like(w)}

    def update(self, group) -> Update:
        return _ADAMAX

    def scalars(self, group, step):
        beta1, beta2 = (float(beta) for beta in group["betas"])
        return {
            "sign": -1.0 if group["maximize"] else 1.0,
            "decay": float(group["weight_decay"]),
            "beta1": beta1,
            "rest1": 1 - beta1,
            "beta2": beta2,
            "eps": float(group["eps"]),
            "rate": float(group["lr"]) / (1 - beta1**step),
        }
