"""Rprop."""

from __future__ import annotations

from deepcore.errors import ArgumentError
from deepcore.kernels.update import Update, maximum, sign
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, non_negative


def rprop(w, g, prev, size, direction, minus, plus, least, most_negated):
    g = direction * g
    turn = sign(g * prev)
    up, down = maximum(turn, 0.0), maximum(-turn, 0.0)
    size = maximum(size * (plus * up + minus * down + (1.0 - up - down)), least)
    size = -maximum(-size, most_negated)
    g = g * (1.0 - down)
    return w - sign(g) * size, g, size


_RPROP = Update(rprop, "prev", "step_size")


@OPTIMIZERS.register
class Rprop(Optimizer):
    """w ← w - sign(g) · s, each element with its own step size s, at first lr. For gradients of the whole data set.

        g ← -g                                        (maximize)
        s ← clamp(s · etas[1], *step_sizes)           where g has the sign of the gradient before
        s ← clamp(s · etas[0], *step_sizes), g ← 0    where it has the other sign

    (Riedmiller and Braun, 1993)
    """

    state_names = ("step", "prev", "step_size")

    def __init__(
        self,
        params,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        maximize: bool = False,
    ):
        super().__init__(params, {"lr": lr, "etas": tuple(etas), "step_sizes": tuple(step_sizes), "maximize": maximize})

    def validate(self, group) -> None:
        non_negative(group, "lr")
        etas, sizes = group["etas"], group["step_sizes"]
        if len(etas) != 2 or not 0 < etas[0] < 1 < etas[1]:
            raise ArgumentError("etas shrink and grow a step", expected="0 < etas[0] < 1 < etas[1]", received=str(etas))
        if len(sizes) != 2 or not 0 <= sizes[0] <= sizes[1]:
            raise ArgumentError(
                "step_sizes are the least and the largest", expected="0 ≤ least ≤ largest", received=str(sizes)
            )

    def init(self, parameter):
        xp, w = parameter.backend, parameter._data
        size = xp.full_like(w, float(self.group_of(parameter)["lr"]))
        return {"step": 0, "prev": xp.zeros_like(w), "step_size": size}

    def update(self, group) -> Update:
        return _RPROP

    def scalars(self, group, step):
        minus, plus = (float(eta) for eta in group["etas"])
        least, most = (float(size) for size in group["step_sizes"])
        return {
            "direction": -1.0 if group["maximize"] else 1.0,
            "minus": minus,
            "plus": plus,
            "least": least,
            "most_negated": -most,
        }
