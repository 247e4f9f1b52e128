"""Stochastic gradient descent."""

from __future__ import annotations

from deepcore.errors import ArgumentError
from deepcore.kernels.update import Update
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, finite, non_negative


def plain(w, g, sign, decay, lr):
    g = sign * g
    g = g + decay * w if decay != 0.0 else g
    return (w - lr * g,)


def momentum(w, g, b, sign, decay, keep, take, ahead, lr):
    g = sign * g
    g = g + decay * w if decay != 0.0 else g
    b = keep * b + take * g
    d = g + ahead * b if ahead != 0.0 else b
    return w - lr * d, b


_PLAIN, _MOMENTUM = Update(plain), Update(momentum, "momentum_buffer")


@OPTIMIZERS.register
class SGD(Optimizer):
    """w ← w - lr · d, with the direction d made from the gradient g in these steps:

        g ← -g                             (maximize)
        g ← g + weight_decay · w
        b ← momentum · b + (1 - dampening) · g   (b = g at the first step)
        d = g + momentum · b (nesterov), or b; g itself when momentum is 0

    (Robbins and Monro, 1951; Polyak, 1964; Sutskever et al., 2013)
    """

    state_names = ("momentum_buffer",)

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def validate(self, group) -> None:
        non_negative(group, "lr", "momentum", "weight_decay")
        finite(group, "dampening")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ArgumentError(
                "nesterov needs momentum, and no dampening",
                received=f"momentum={group['momentum']}, dampening={group['dampening']}",
            )

    def update(self, group) -> Update:
        return _MOMENTUM if group["momentum"] else _PLAIN

    def scalars(self, group, step):
        momentum, first = float(group["momentum"]), step == 1
        return {
            "sign": -1.0 if group["maximize"] else 1.0,
            "decay": float(group["weight_decay"]),
            "keep": 0.0 if first else momentum,
            "take": 1.0 if first else 1 - float(group["dampening"]),
            "ahead": momentum if group["nesterov"] else 0.0,
            "lr": float(group["lr"]),
        }
