"""RMSprop."""

from __future__ import annotations

from deepcore.kernels.update import Update, sqrt
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, non_negative


def _gradient(w, g, sign, decay):
    g = sign * g
    return g + decay * w if decay != 0.0 else g


def rmsprop(w, g, square, sign, decay, alpha, rest, eps, lr):
    g = _gradient(w, g, sign, decay)
    square = alpha * square + rest * (g * g)
    return w - lr * (g / (sqrt(square) + eps)), square


def rmsprop_momentum(w, g, square, b, sign, decay, alpha, rest, eps, momentum, lr):
    g = _gradient(w, g, sign, decay)
    square = alpha * square + rest * (g * g)
    b = momentum * b + g / (sqrt(square) + eps)
    return w - lr * b, square, b


def rmsprop_centered(w, g, square, mean, sign, decay, alpha, rest, eps, lr):
    g = _gradient(w, g, sign, decay)
    square = alpha * square + rest * (g * g)
    mean = mean + rest * (g - mean)
    return w - lr * (g / (sqrt(square - mean * mean) + eps)), square, mean


def rmsprop_centered_momentum(w, g, square, mean, b, sign, decay, alpha, rest, eps, momentum, lr):
    g = _gradient(w, g, sign, decay)
    square = alpha * square + rest * (g * g)
    mean = mean + rest * (g - mean)
    b = momentum * b + g / (sqrt(square - mean * mean) + eps)
    return w - lr * b, square, mean, b


#: By (centered, with momentum).
_UPDATES = {
    (False, False): Update(rmsprop, "square_avg"),
    (False, True): Update(rmsprop_momentum, "square_avg", "momentum_buffer"),
    (True, False): Update(rmsprop_centered, "square_avg", "grad_avg"),
    (True, True): Update(rmsprop_centered_momentum, "square_avg", "grad_avg", "momentum_buffer"),
}


@OPTIMIZERS.register
class RMSprop(Optimizer):
    """w ← w - lr · b, from a running mean square of the gradient g:

        g ← -g (maximize);  g ← g + weight_decay · w
        v ← alpha · v + (1 - alpha) · g²
        centered: m ← alpha · m + (1 - alpha) · g, and v - m² in place of v below
        b ← momentum · b + g / (√v + eps)

    (Tieleman and Hinton, 2012; centered: Graves, 2013)
    """

    state_names = ("step", "square_avg", "momentum_buffer", "grad_avg")

    def __init__(
        self,
        params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
            },
        )

    def validate(self, group) -> None:
        non_negative(group, "lr", "alpha", "eps", "weight_decay", "momentum")

    def init(self, parameter):
        return {"step": 0, "square_avg": parameter.backend.zeros_like(parameter._data)}

    def update(self, group) -> Update:
        return _UPDATES[bool(group["centered"]), group["momentum"] > 0]

    def scalars(self, group, step):
        alpha = float(group["alpha"])
        return {
            "sign": -1.0 if group["maximize"] else 1.0,
            "decay": float(group["weight_decay"]),
            "alpha": alpha,
            "rest": 1 - alpha,
            "eps": float(group["eps"]),
            "momentum": float(group["momentum"]),
            "lr": float(group["lr"]),
        }
