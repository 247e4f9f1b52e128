"""An elementwise op of one's own: a scalar Python function, compiled for both devices, with its gradient.

The snake activation (Ziyin, Hartwig & Ueda, NeurIPS 2020) is x + sin²(a·x)/a, and its derivative 1 + sin(2a·x). A network of
ReLUs continues a sine beyond its training data by a line; with the snake it can go on waving.
"""

from __future__ import annotations

import math

import deepcore as dc
from deepcore import nn


@dc.kernel
def snake(x, a):
    s = math.sin(a * x)
    return x + s * s / a


@snake.gradient  # checked against finite differences here
def slope(x, a):
    t = a * x
    return 1 + math.sin(2 * t), (t * math.sin(2 * t) - math.sin(t) ** 2) / a**2


class Snake(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.a = nn.Parameter(dc.ones(width))

    def forward(self, x):
        return snake(x, self.a)


def network(activation) -> nn.Module:
    return nn.Sequential(nn.Linear(1, 64), activation(64), nn.Linear(64, 64), activation(64), nn.Linear(64, 1))


def errors(activation, steps: int = 2000) -> tuple[float, float]:
    """Mean squared errors of sin(2x) on [-3, 3], where the network was trained, and on [3, 5]."""
    dc.manual_seed(0)
    model = network(activation)
    optimizer = dc.optim.Adam(model.parameters(), lr=3e-3)
    x = dc.linspace(-3, 3, 256)[:, None]

    @dc.compile
    def step(x):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), dc.sin(2 * x))
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(steps):
        loss = step(x)
    beyond = dc.linspace(3, 5, 100)[:, None]
    with dc.no_grad():
        return loss.item(), nn.functional.mse_loss(model(beyond), dc.sin(2 * beyond)).item()


def main() -> None:
    for name, activation in (("ReLU", lambda width: nn.ReLU()), ("snake", Snake)):
        inside, beyond = errors(activation)
        print(f"{name:<6} error where it was trained {inside:.5f}, beyond {beyond:.4f}")


if __name__ == "__main__":
    main()
