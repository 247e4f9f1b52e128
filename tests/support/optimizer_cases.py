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
SETTINGS = {
    "SGD": SGD,
    "Adam": ADAM,
    "AdamW": ADAM,
    "Adagrad": [
        {},
        {"lr": 0.1, "lr_decay": 0.5},
        {"initial_accumulator_value": 0.3, "eps": 1e-3},
        {"weight_decay": 0.3, "maximize": True},
    ],
    "Adadelta": [{}, {"lr": 0.1, "rho": 0.5}, {"eps": 1e-2}, {"weight_decay": 0.3, "maximize": True}],
    "RMSprop": [
        {},
        {"alpha": 0.5, "eps": 1e-2},
        {"momentum": 0.8},
        {"centered": True, "weight_decay": 0.1},
        {"centered": True, "momentum": 0.7, "maximize": True},
    ],
    "Adamax": [{}, {"betas": (0.3, 0.5)}, {"eps": 0.1}, {"weight_decay": 0.3, "maximize": True}],
    "NAdam": [
        {},
        {"betas": (0.3, 0.5), "eps": 1e-2},
        {"momentum_decay": 0.1},
        {"weight_decay": 0.3, "maximize": True},
        {"weight_decay": 0.3, "decoupled_weight_decay": True},
    ],
    "RAdam": [
        {},
        {"betas": (0.3, 0.5), "eps": 1e-2},
        {"betas": (0.9, 0.9)},
        {"weight_decay": 0.3, "maximize": True},
        {"weight_decay": 0.3, "decoupled_weight_decay": True},
    ],
    "ASGD": [{}, {"lambd": 0.1, "alpha": 0.5}, {"t0": 3.0}, {"weight_decay": 0.3, "maximize": True}],
    "Adafactor": [
        {},
        {"beta2_decay": -1.0, "d": 1.5},
        {"eps": (1e-3, 0.1)},
        {"lr": 0.5, "weight_decay": 0.1, "maximize": True},
    ],
    "Rprop": [{}, {"etas": (0.3, 2.0)}, {"step_sizes": (0.005, 0.02)}, {"maximize": True}],
}


#: Optimizers of any parameters, by `step()`; the others have tests of their own.
WALKED = [name for name in OPTIMIZERS if name not in ("LBFGS", "Muon")]


def optimizer_cases():
    for name in WALKED:
        for i, settings in enumerate(SETTINGS.get(name, [{}])):
            yield pytest.param(name, settings, id=f"{name}-{i}")
