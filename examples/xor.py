"""XOR: why the tutorial programs fail, what solves it, and backpropagation by hand beside autodiff.

The tutorial programs (sigmoid, squared error, full batch, lr 0.1) are run from many seeds at once: every weight has a
leading dimension for the seed, and the loss is the sum over seeds, so no seed sees another.
"""

from __future__ import annotations

import itertools

import deepcore as dc
from deepcore import nn

INPUTS = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
TARGETS = [[0.0], [1.0], [1.0], [0.0]]


def solved(outputs) -> bool:
    """All four outputs on their side of ½."""
    return bool(((outputs > 0.5) == (dc.tensor(TARGETS) > 0.5)).all().item())


# -- the tutorial programs ----------------------------------------------------------------------------
def uniform_weights(sizes, seed: int):
    """Weights and biases uniform in [0, 1)."""
    g = dc.Generator(seed)
    return [(dc.rand(i, o, generator=g), dc.rand(1, o, generator=g)) for i, o in itertools.pairwise(sizes)]


def small_normal_weights(sizes, seed: int):
    """Weights normal, scaled by 0.1; biases zero."""
    g = dc.Generator(seed)
    return [(0.1 * dc.randn(i, o, generator=g), dc.zeros(1, o)) for i, o in itertools.pairwise(sizes)]


def forward(layers, x):
    """The activations of every layer, the input first."""
    activations = [x]
    for weight, bias in layers:
        activations.append(dc.sigmoid(activations[-1] @ weight + bias))
    return activations


def backward_by_hand(layers, activations, y):
    """The gradients of ½ Σ (a - y)², layer by layer: δ = (a - y)·a(1 - a), then δ ← δWᵀ·a(1 - a)."""
    gradients = []
    delta = activations[-1] - y
    for (weight, _), x, a in zip(layers[::-1], activations[-2::-1], activations[:0:-1]):
        delta = delta * a * (1 - a)
        gradients.append((x.mT @ delta, delta.sum(-2, keepdim=True)))
        delta = delta @ weight.mT
    return gradients[::-1]


def backward_by_autodiff(layers, x, y):
    """The same gradients without the algebra."""

    def loss(layers):
        return 0.5 * ((forward(layers, x)[-1] - y) ** 2).sum()

    return dc.grad(loss)(layers)


def train_tutorial(make_weights, sizes, epochs: int, seeds=range(20), lr: float = 0.1):
    """Outputs (seeds, 4, 1) of the tutorial program after full-batch gradient descent."""
    x, y = dc.tensor(INPUTS), dc.tensor(TARGETS)
    starts = [make_weights(sizes, seed) for seed in seeds]
    layers = [(dc.stack([w for w, _ in layer]), dc.stack([b for _, b in layer])) for layer in zip(*starts)]
    for _ in range(epochs):
        gradients = backward_by_hand(layers, forward(layers, x), y)
        layers = [(w - lr * dw, b - lr * db) for (w, b), (dw, db) in zip(layers, gradients)]
    return forward(layers, x)[-1]


# -- what solves it -----------------------------------------------------------------------------------
def train_recipe(seed: int, epochs: int = 100):
    """Outputs (4, 1) of 2-8-1 with tanh, cross-entropy and Adam.

    Tanh is centred on zero, cross-entropy does not flatten out where the sigmoid does, and Adam's step does not
    shrink with the gradient. The tutorial programs fail on all three.
    """
    dc.manual_seed(seed)
    return _fit(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)), epochs)


def train_linear(seed: int, epochs: int = 100):
    """Outputs of a linear model: no line separates XOR, and the best it can say is ½ everywhere."""
    dc.manual_seed(seed)
    return _fit(nn.Linear(2, 1), epochs)


def _fit(model, epochs: int):
    x, y = dc.tensor(INPUTS), dc.tensor(TARGETS)
    loss = nn.BCEWithLogitsLoss()
    optimizer = dc.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(epochs):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    return dc.sigmoid(model(x)).detach()


def main() -> None:
    layers = small_normal_weights([2, 4, 1], seed=0)
    x, y = dc.tensor(INPUTS), dc.tensor(TARGETS)
    by_hand = backward_by_hand(layers, forward(layers, x), y)
    by_autodiff = backward_by_autodiff(layers, x, y)
    for i, ((dw, _), (auto, _)) in enumerate(zip(by_hand, by_autodiff)):
        print(f"layer {i}: largest difference between hand and autodiff {(dw - auto).abs().max().item():.1e}")
    for name, make, sizes, epochs in (
        ("2-2-1, uniform [0, 1)", uniform_weights, [2, 2, 1], 1_000),
        ("2-4-4-1, 0.1 normal", small_normal_weights, [2, 4, 4, 1], 10_000),
    ):
        outputs = train_tutorial(make, sizes, epochs)
        count = sum(solved(one) for one in outputs)
        print(f"tutorial {name}, {epochs:,} epochs: solved from {count} of {len(outputs)} seeds")
    for name, train in (("recipe 2-8-1, tanh, cross-entropy, Adam", train_recipe), ("linear model", train_linear)):
        print(f"{name}: solved from {sum(solved(train(seed)) for seed in range(20))} of 20 seeds")


if __name__ == "__main__":
    main()
