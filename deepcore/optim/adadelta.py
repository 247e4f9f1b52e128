"""Adadelta."""

from __future__ import annotations

from deepcore.kernels.update import Update, sqrt
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, in_unit_interval, non_negative


def adadelta(w, g, square, moved, sign, decay, rho, rest, eps, lr):
    g = sign * g
    g = g + decay * w if decay != 0.0 else g
    square = rho * square + rest * (g * g)
    step = sqrt(moved + eps) / sqrt(square + eps) * g
    return w - lr * step, square, rho * moved + rest * (step * step)


_ADADELTA = Update(adadelta, "square_avg", "acc_delta")


@OPTIMIZERS.register
class Adadelta(Optimizer):
    """w ← w - lr · d, with running means of the squares of gradients g and of steps d:

        g ← -g (maximize);  g ← g + weight_decay · w
        v ← rho · v + (1 - rho) · g²
        d = √(u + eps) / √(v + eps) · g
        u ← rho · u + (1 - rho) · d²

    (Zeiler, 2012)
    """

    state_names = ("step", "square_avg", "acc_delta")

    def __init__(
        self,
        params,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize})

    def validate(self, group) -> None:
        non_negative(group, "lr", "eps", "weight_decay")
        in_unit_interval(group, "rho")

    def init(self, parameter):
        xp, w = parameter.backend, parameter._data
        return {"step": 0, "square_avg": xp.zeros_like(w), "acc_delta": xp.zeros_like(w)}

    def update(self, group) -> Update:
        return _ADADELTA

    def scalars(self, group, step):
        rho = float(group["rho"])
        return {
            "sign": -1.0 if group["maximize"] else 1.0,
            "decay": float(group["weight_decay"]),
            "rho": rho,
            "rest": 1 - rho,
            "eps": float(group["eps"]),
            "lr": float(group["lr"]),
        }
