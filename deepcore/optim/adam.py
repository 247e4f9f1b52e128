"""Adam and AdamW."""

from __future__ import annotations

import math

from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, betas_in_range, non_negative


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

    def apply(self, parameter, gradient, state, group) -> None:
        xp, w, g = parameter.backend, parameter._data, gradient
        own, other = self.scratch(parameter), self.scratch(parameter, 1)
        m, v = state["exp_avg"], state["exp_avg_sq"]
        beta1, beta2 = (float(beta) for beta in group["betas"])
        lr, weight_decay = float(group["lr"]), float(group["weight_decay"])
        step = state["step"] = state["step"] + 1
        if group["maximize"]:
            g = xp.negative(g, out=own)
        if weight_decay and self.decoupled:
            xp.multiply(w, 1 - lr * weight_decay, out=w)
        elif weight_decay:
            g = xp.add(g, xp.multiply(w, weight_decay, out=other), out=own)
        xp.subtract(g, m, out=other)
        if beta1 > 0.5:
            xp.add(m, xp.multiply(other, 1 - beta1, out=other), out=m)
        else:  # the same sum from its other end, so that beta1 = 0 gives g itself
            xp.subtract(g, xp.multiply(other, beta1, out=other), out=m)
        xp.multiply(g, g, out=other)
        xp.multiply(other, 1 - beta2, out=other)
        xp.multiply(v, beta2, out=v)
        xp.add(v, other, out=v)
        if group["amsgrad"]:
            largest = state.get("max_exp_avg_sq")
            if largest is None:
                largest = state["max_exp_avg_sq"] = xp.zeros_like(w)
            v = xp.maximum(largest, v, out=largest)
        xp.sqrt(v, out=other)
        xp.divide(other, math.sqrt(1 - beta2**step), out=other)
        xp.add(other, float(group["eps"]), out=other)
        xp.divide(m, other, out=other)
        xp.multiply(other, lr / (1 - beta1**step), out=other)
        xp.subtract(w, other, out=w)


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
