"""Gradient descent on one weight, beside the closed form of its path."""

from __future__ import annotations

import deepcore as dc


def descend(loss, w: float, lr: float, steps: int):
    """(weights, losses, gradients) of plain gradient descent; step n goes from weights[n] to weights[n + 1]."""
    weights, losses, gradients = [w], [], []
    parameter = dc.tensor(w, dtype=dc.float64)
    for _ in range(steps):
        value, gradient = dc.value_and_grad(loss)(parameter)
        parameter = parameter - lr * gradient
        weights.append(parameter.item())
        losses.append(value.item())
        gradients.append(gradient.item())
    return weights, losses, gradients


def product_loss(w, x: float = 2.0, label: float = 6.0):
    """½(wx - y)²: its gradient is (wx - y)x, so with lr 0.1 w ← 0.6 w + 1.2, and wₙ = 3 + 2·0.6ⁿ from w₀ = 5."""
    return 0.5 * (w * x - label) ** 2


def parabola(w):
    """(w - 1)²: its gradient is 2(w - 1), so with lr 0.01 wₙ = 1 + 4·0.98ⁿ from w₀ = 5."""
    return (w - 1) ** 2


def main() -> None:
    weights, losses, gradients = descend(product_loss, 5.0, lr=0.1, steps=10)
    print("½(wx - y)², x = 2, y = 6, lr 0.1")
    print(f"w = 5: loss {losses[0]:.2f}, gradient {gradients[0]:.2f}; next w = {weights[1]:.2f}, loss {losses[1]:.2f}")
    for n in (2, 5, 10):
        print(f"w_{n} = {weights[n]:.6f}, 3 + 2·0.6ⁿ = {3 + 2 * 0.6**n:.6f}")
    weights, losses, _ = descend(parabola, 5.0, lr=0.01, steps=40)
    print("(w - 1)², lr 0.01")
    print(f"loss before the 40th update {losses[39]:.6f}")
    print(f"w_40 = {weights[40]:.6f}, 1 + 4·0.98ⁿ = {1 + 4 * 0.98**40:.6f}")


if __name__ == "__main__":
    main()
