"""One sigmoid neuron, trained with the true gradient and with the shortcut that many tutorials print.

With z = w·x + b, a = σ(z) and the squared error E = (a - y)², the chain rule gives

    dE/dw = dE/da · da/dz · dz/dw = 2(a - y) · a(1 - a) · x.

The shortcut leaves out the sigmoid's slope a(1 - a). The slope is at most ¼, so the shortcut steps at least four times
as far and looks better on one neuron. But 2(a - y)·x is not the gradient of the squared error: it is, up to the factor
2, that of the cross-entropy, whose derivative cancels the slope. With a hidden layer behind it the two mean different
things, and only a true gradient passes a gradient check.
"""

from __future__ import annotations

import deepcore as dc

X = dc.tensor([0.5, -0.2, 0.1], dtype=dc.float64)
W = dc.tensor([0.4, 0.3, 0.7], dtype=dc.float64)
B = dc.tensor(-0.5, dtype=dc.float64)
TARGET = 0.8


def preactivation(w, b):
    return w @ X + b


def output(w, b):
    return dc.sigmoid(preactivation(w, b))


def error(w, b):
    return (output(w, b) - TARGET) ** 2


def true_gradient(w, b):
    return dc.grad(error, argnums=(0, 1))(w, b)


def shortcut(w, b):
    delta = 2 * (output(w, b) - TARGET)  # no a(1 - a)
    return delta * X, delta


def train(gradient, steps: int = 100, lr: float = 0.01) -> float:
    """The neuron's output after `steps` steps of gradient descent."""
    w, b = W, B
    for _ in range(steps):
        dw, db = gradient(w, b)
        w, b = w - lr * dw, b - lr * db
    return output(w, b).item()


def main() -> None:
    print(f"z = {preactivation(W, B).item():.2f}")
    print(f"output {output(W, B).item():.4f}, squared error {error(W, B).item():.5f}")
    print(f"after 100 steps, true gradient: {train(true_gradient):.4f}")
    print(f"after 100 steps, shortcut:      {train(shortcut):.4f}")
    a = output(W, B).item()
    ratio = (shortcut(W, B)[1] / true_gradient(W, B)[1]).item()
    print(f"the shortcut's first step is {ratio:.2f} times as long: 1 / (a(1 - a)) = {1 / (a * (1 - a)):.2f}")


if __name__ == "__main__":
    main()
