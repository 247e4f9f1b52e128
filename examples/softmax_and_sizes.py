"""The softmax of three numbers, and how many parameters a fully connected network has."""

from __future__ import annotations

import deepcore as dc
from deepcore import nn


def probabilities():
    """softmax(x)ᵢ = exp(xᵢ) / Σⱼ exp(xⱼ)"""
    return dc.softmax(dc.tensor([2.0, 1.0, 0.1]), 0)


def network(hidden: int) -> nn.Sequential:
    """784 inputs (a 28×28 image), one hidden layer, 10 classes."""
    return nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def count(model) -> int:
    """Σ over layers of out·in weights and out biases."""
    return sum(p.numel() for p in model.parameters())


def main() -> None:
    print("softmax(2, 1, 0.1) =", "  ".join(f"{p:.4f}" for p in probabilities().tolist()))
    for hidden in (64, 128):
        print(f"784-{hidden}-10 has {count(network(hidden)):,} parameters")
    print(network(128).summary((784,)))


if __name__ == "__main__":
    main()
