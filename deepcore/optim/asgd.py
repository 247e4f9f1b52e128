"""Averaged stochastic gradient descent."""

from __future__ import annotations

from deepcore.kernels.update import Update, run_update
from deepcore.ops.parts import real_array
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, finite, non_negative


def asgd(w, g, mean, sign, decay, shrink, eta, mu):
    g = sign * g
    g = g + decay * w if decay != 0.0 else g
    w = shrink * w - eta * g
    return w, mean + mu * (w - mean) if mu != 1.0 else w


_ASGD = Update(asgd, "ax")


@OPTIMIZERS.register
class ASGD(Optimizer):
    """w ← w · (1 - lambd · η) - η · g, with the average `ax` of w in the state, at step t:

        g ← -g (maximize);  g ← g + weight_decay · w
        ax ← ax + μ · (w - ax)
        then η = lr / (1 + lambd · lr · t)^alpha,  μ = 1 / max(1, t - t0);  at first η = lr, μ = 1

    (Polyak and Juditsky, 1992)
    """

    state_names = ("step", "eta", "mu", "ax")

    def __init__(
        self,
        params,
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay, "maximize": maximize},
        )

    def validate(self, group) -> None:
        non_negative(group, "lr", "weight_decay")
        finite(group, "lambd", "alpha", "t0")

    def init(self, parameter):
        ax = parameter.backend.zeros_like(parameter._data)
        return {"step": 0, "eta": float(self.group_of(parameter)["lr"]), "mu": 1.0, "ax": ax}

    def apply(self, parameter, gradient, state, group) -> None:
        lr, lambd, alpha, t0 = (float(group[name]) for name in ("lr", "lambd", "alpha", "t0"))
        state["step"] += 1
        scalars = {
            "sign": -1.0 if group["maximize"] else 1.0,
            "decay": float(group["weight_decay"]),
            "shrink": 1 - lambd * state["eta"],
            "eta": state["eta"],
            "mu": state["mu"],
        }
        xp = parameter.backend
        arrays = [real_array(xp, array) for array in (parameter._data, gradient, state["ax"])]
        run_update(xp, _ASGD, scalars, *arrays)
        state["eta"] = lr / (1 + lambd * lr * state["step"]) ** alpha
        state["mu"] = 1 / max(1, state["step"] - t0)
