"""Stochastic gradient descent."""

from __future__ import annotations

from deepcore.errors import ArgumentError
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, non_negative


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
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ArgumentError(
                "nesterov needs momentum, and no dampening",
                received=f"momentum={group['momentum']}, dampening={group['dampening']}",
            )

    def apply(self, parameter, gradient, state, group) -> None:
        xp, w, g = parameter.backend, parameter._data, gradient
        own, other = self.scratch(parameter), self.scratch(parameter, 1)
        momentum, dampening, weight_decay = float(group["momentum"]), float(group["dampening"]), group["weight_decay"]
        if group["maximize"]:
            g = xp.negative(g, out=own)
        if weight_decay:
            g = xp.add(g, xp.multiply(w, float(weight_decay), out=other), out=own)
        if momentum:
            b = state.get("momentum_buffer")
            if b is None:
                b = state["momentum_buffer"] = g.copy()
            else:
                xp.multiply(b, momentum, out=b)
                xp.add(b, xp.multiply(g, 1 - dampening, out=other) if dampening else g, out=b)
            g = xp.add(g, xp.multiply(b, momentum, out=other), out=own) if group["nesterov"] else b
        xp.subtract(w, xp.multiply(g, float(group["lr"]), out=other), out=w)
