"""Weights that do not depend on the library whose module it is."""

from __future__ import annotations

import numpy as np


def seeded(module, seed: int = 0):
    """`module` with parameters drawn by NumPy: N(0, 1 / fan-in), norms' weights about 1, biases about 0."""
    rng = np.random.default_rng(seed)
    for name, p in module.named_parameters():
        values = rng.standard_normal(tuple(p.shape))
        if p.dim() > 1:
            values /= (p.numel() / p.shape[0]) ** 0.5
        else:
            values = 0.1 * values + ("bias" not in name)
        p.data = p.data.new_tensor(values)
    return module
