"""Adam and AdamW."""

from __future__ import annotations

import math

from deepcore.kernels.update import Update, maximum, sqrt
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, betas_in_range, non_negative


def _moments(w, g, m, v, sign, decay, beta1, rest1, beta2, rest2):
    """The updated running mean and mean square of the gradient."""
    g = sign * g
    g = g + decay * w if decay != 0.0 else g
    # Interpolate from the nearer end, so that beta1 = 0 gives g exactly.
    m = m + rest1 * (g - m) if beta1 > 0.5 else g - beta1 * (g - m)
    return m, beta2 * v + rest2 * (g * g)


def adam(w, g, m, v, sign, decay, shrink, beta1, rest1, beta2, rest2, rate, eps):
    """`rate` and `eps` include the bias corrections: lr · m̂ / (√v̂ + eps) with one division."""
    m, v = _moments(w, g, m, v, sign, decay, beta1, rest1, beta2, rest2)
    return shrink * w - rate * (m / (sqrt(v) + eps)), m, v


def amsgrad(w, g, m, v, largest, sign, decay, shrink, beta1, rest1, beta2, rest2, rate, eps):
    m, v = _moments(w, g, m, v, sign, decay, beta1, rest1, beta2, rest2)
    largest = maximum(largest, v)
    return shrink * w - rate * (m / (sqrt(largest) + eps)), m, v, largest


_ADAM = Update(adam, "exp_avg", "exp_avg_sq")
_AMSGRAD = Update(amsgrad, "exp_avg", "exp_avg_sq", "max_exp_avg_sq")


@OPTIMIZERS.register
class Adam(Optimizer):
    """w ← w - lr · m̂ / (√v̂ + eps), from the running moments of the gradient g at step t:

        g ← -g (maximize);  g ← g + weight_decay · w
        m ← β₁·m + (1 - β₁)·g,    m̂ = m / (1 - β₁ᵗ)
        v ← β₂·v + (1 - β₂)·g²,   v̂ = v / (1 - β₂ᵗ)   (amsgrad: of the largest v so far)

    (Kingma and Ba, 2015; amsgrad: Reddi et al., 2018)
    """

    state_names = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    decoupled = False

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
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
                "amsgrad": amsgrad,
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
        return _AMSGRAD if group["amsgrad"] else _ADAM

    def scalars(self, group, step):
        beta1, beta2 = (float(beta) for beta in group["betas"])
        lr, weight_decay = float(group["lr"]), float(group["weight_decay"])
        root = math.sqrt(1 - beta2**step)
        return {
            "sign": -1.0 if group["maximize"] else 1.0,
            "decay": 0.0 if self.decoupled else weight_decay,
            "shrink": 1 - lr * weight_decay if self.decoupled else 1.0,
            "beta1": beta1,
            "rest1": 1 - beta1,
            "beta2": beta2,
            "rest2": 1 - beta2,
            "rate": lr * root / (1 - beta1**step),
            "eps": float(group["eps"]) * root,
        }


@OPTIMIZERS.register
class AdamW(Adam):
    """Adam whose weight decay leaves the moments alone: w ← w · (1 - lr · weight_decay) before Adam's update.

    (Loshchilov and Hutter, 2019)
    """

    decoupled = True

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
