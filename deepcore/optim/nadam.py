"""NAdam."""

from __future__ import annotations

import math

from deepcore.kernels.update import Update, sqrt
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, betas_in_range, non_negative


def nadam(w, g, m, v, sign, decay, shrink, beta1, rest1, beta2, rest2, now, ahead, eps):
    """`now`, `ahead` and `eps` include the bias corrections."""
    g = sign * g
    g = g + decay * w if decay != 0.0 else g
    m = m + rest1 * (g - m) if beta1 > 0.5 else g - beta1 * (g - m)
    v = beta2 * v + rest2 * (g * g)
    return shrink * w - (now * g + ahead * m) / (sqrt(v) + eps), m, v


_NADAM = Update(nadam, "exp_avg", "exp_avg_sq")


@OPTIMIZERS.register
class NAdam(Optimizer):
    """Adam with Nesterov's momentum: w ← w - lr · ((1 - μₜ)/(1 - Πₜ) · g + μₜ₊₁/(1 - Πₜ₊₁) · m) / (√v̂ + eps), at step t:

        g ← -g (maximize);  g ← g + weight_decay · w, or with decoupled_weight_decay w ← w · (1 - lr · weight_decay)
        m ← β₁·m + (1 - β₁)·g;  v ← β₂·v + (1 - β₂)·g²,  v̂ = v / (1 - β₂ᵗ)
        μₜ = β₁ · (1 - ½ · 0.96^(t · momentum_decay)),  Πₜ = μ₁ · … · μₜ

    (Dozat, 2016)
    """

    state_names = ("step", "mu_product", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ):
        #: Π₀, Π₁, … by β₁ and momentum_decay.
        self._products: dict[tuple[float, float], list[float]] = {}
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
        )

    def validate(self, group) -> None:
        non_negative(group, "lr", "eps", "weight_decay", "momentum_decay")
        betas_in_range(group)

    def init(self, parameter):
        xp, w = parameter.backend, parameter._data
        return {"step": 0, "exp_avg": xp.zeros_like(w), "exp_avg_sq": xp.zeros_like(w)}

    def _product(self, group, step: int) -> float:
        """Π at `step`."""
        beta1, decay = float(group["betas"][0]), float(group["momentum_decay"])
        products = self._products.setdefault((beta1, decay), [1.0])
        for t in range(len(products), step + 1):
            products.append(products[-1] * _momentum(beta1, decay, t))
        return products[step]

    def update(self, group) -> Update:
        return _NADAM

    def scalars(self, group, step):
        beta1, beta2 = (float(beta) for beta in group["betas"])
        lr, weight_decay, decay = (float(group[name]) for name in ("lr", "weight_decay", "momentum_decay"))
        root = math.sqrt(1 - beta2**step)
        decoupled = group["decoupled_weight_decay"]
        mu, ahead = _momentum(beta1, decay, step), _momentum(beta1, decay, step + 1)
        return {
            "sign": -1.0 if group["maximize"] else 1.0,
            "decay": 0.0 if decoupled else weight_decay,
            "shrink": 1 - lr * weight_decay if decoupled else 1.0,
            "beta1": beta1,
            "rest1": 1 - beta1,
            "beta2": beta2,
            "rest2": 1 - beta2,
            "now": lr * root * (1 - mu) / (1 - self._product(group, step)),
            "ahead": lr * root * ahead / (1 - self._product(group, step + 1)),
            "eps": float(group["eps"]) * root,
        }

    def state_dict(self):
        """As `Optimizer.state_dict`, with "mu_product" Πₜ, which deepcore computes from the step."""
        saved = super().state_dict()
        for group in saved["param_groups"]:
            for number in group["params"]:
                if number in saved["state"]:
                    entry = saved["state"][number]
                    entry["mu_product"] = self._product(group, entry["step"])
        return saved

    def _load_state(self, number, p, entry, faults):
        return super()._load_state(number, p, {k: v for k, v in entry.items() if k != "mu_product"}, faults)


def _momentum(beta1: float, decay: float, step: int) -> float:
    return beta1 * (1 - 0.5 * 0.96 ** (step * decay))
