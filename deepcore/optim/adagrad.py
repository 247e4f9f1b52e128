"""Adagrad."""

from __future__ import annotations

from deepcore.errors import non_negative as checked
from deepcore.kernels.update import Update, sqrt
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, non_negative


def adagrad(w, g, total, sign, decay, rate, eps):
    g = sign * g
    g = g + decay * w if decay != 0.0 else g
    total = total + g * g
    return w - rate * (g / (sqrt(total) + eps)), total


_ADAGRAD = Update(adagrad, "sum")


@OPTIMIZERS.register
class Adagrad(Optimizer):
    """w ← w - lr / (1 + (t - 1) · lr_decay) · g / (√s + eps), s the sum of the squares of all gradients, at step t:

        g ← -g (maximize);  g ← g + weight_decay · w
        s ← s + g²,  at first `initial_accumulator_value`

    (Duchi et al., 2011)
    """

    state_names = ("step", "sum")

    def __init__(
        self,
        params,
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ):
        checked("initial_accumulator_value", initial_accumulator_value)
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "eps": eps,
                "maximize": maximize,
            },
        )

    def validate(self, group) -> None:
        non_negative(group, "lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    def init(self, parameter):
        start = float(self.defaults["initial_accumulator_value"])
        return {"step": 0, "sum": parameter.backend.full_like(parameter._data, start)}

    def update(self, group) -> Update:
        return _ADAGRAD

    def scalars(self, group, step):
        return {
            "sign": -1.0 if group["maximize"] else 1.0,
            "decay": float(group["weight_decay"]),
            "rate": float(group["lr"]) / (1 + (step - 1) * float(group["lr_decay"])),
            "eps": float(group["eps"]),
        }
