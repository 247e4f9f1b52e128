"""What is declared is found under its name, and the stubs know it."""

from __future__ import annotations

import pytest

import deepcore as dc
from deepcore import nn, optim
from deepcore.nn import stubs
from deepcore.ops.registry import FUNCTIONAL, FUNCTIONS


def test_functions_and_classes_have_their_names():
    for name, function in FUNCTIONAL.items():
        assert getattr(nn.functional, name) is function
        assert name not in FUNCTIONS or getattr(dc, name) is function
    for room, registries in ((nn, (nn.LAYERS, nn.LOSSES)), (optim, (optim.OPTIMIZERS,))):
        for name, cls in (item for registry in registries for item in registry.items()):
            if cls.__module__.startswith("deepcore."):
                assert getattr(room, name) is cls and name in room.__all__


@pytest.mark.parametrize("registries, file", stubs.NAMES, ids=["nn", "functional", "optim", "lr_scheduler"])
def test_the_stubs_have_all_names(registries, file):
    text = file.read_text(encoding="utf-8")
    for name, value in (item for registry in registries for item in registry.items()):
        if value.__module__.startswith("deepcore."):
            assert f" import {name} as {name}\n" in text, "run python -m deepcore.nn.stubs"
