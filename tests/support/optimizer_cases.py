"""Settings of the optimizers, off their defaults."""

from __future__ import annotations

import pytest

from deepcore.optim import OPTIMIZERS

SGD = [
    {},
    {"lr": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.4},
    {"weight_decay": 0.3},
    {"maximize": True},
    {"momentum": 0.8, "nesterov": True},
    {"momentum": 0.8, "nesterov": True, "weight_decay": 0.2, "maximize": True, "lr": 0.05},
    {"momentum": 0.7, "dampening": 0.3, "weight_decay": 0.1, "maximize": True},
]
ADAM = [
    {},
    {"lr": 0.1},
    {"betas": (0.8, 0.9)},
    {"betas": (0.3, 0.5)},
    {"betas": (0.0, 0.0)},
    {"eps": 1e-2},
    {"weight_decay": 0.3},
    {"weight_decay": 0.0},
    {"amsgrad": True},
    {"maximize": True},
    {"lr": 0.05, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "amsgrad": True, "maximize": True},
]
SETTINGS = {"SGD": SGD, "Adam": ADAM, "AdamW": ADAM}


def optimizer_cases():
    for name in OPTIMIZERS:
        for i, settings in enumerate(SETTINGS.get(name, [{}])):
            yield pytest.param(name, settings, id=f"{name}-{i}")
