"""Averages of weights: against PyTorch's, with batch norms, and the schedule that goes with them."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn, optim
from deepcore.errors import ArgumentError
from deepcore.optim import swa_utils
from deepcore.optim.swa_utils import SWALR, AveragedModel


def model(backend="cpu"):
    dc.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4, backend=backend), nn.BatchNorm1d(4, backend=backend))


def torch_twin(ours):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    return theirs


AVERAGES = {
    "mean": lambda module: {},
    "moving": lambda module: {"multi_avg_fn": module.get_ema_multi_avg_fn(0.7)},
    "moving, each": lambda module: {"avg_fn": module.get_ema_avg_fn(0.7)},
    "with buffers": lambda module: {"use_buffers": True, "avg_fn": module.get_swa_avg_fn()},
    "lists with buffers": lambda module: {"use_buffers": True, "multi_avg_fn": module.get_ema_multi_avg_fn(0.5)},
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_averages_match_torch(kind, backend):
    torch = pytest.importorskip("torch")
    ours = model(backend)
    theirs = torch_twin(ours)
    mine = AveragedModel(ours, **AVERAGES[kind](swa_utils))
    other = torch.optim.swa_utils.AveragedModel(theirs, **AVERAGES[kind](torch.optim.swa_utils))
    rng = np.random.default_rng(0)
    for _ in range(5):
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()):
            value = rng.random(b.shape) * 3
            a.copy_(dc.tensor(value, backend=backend))
            b.copy_(torch.tensor(value))
        mine.update_parameters(ours)
        other.update_parameters(theirs)
    assert list(mine.state_dict()) == list(other.state_dict()) and mine.n_averaged.item() == 5
    for (name, a), b in zip(mine.state_dict().items(), other.state_dict().values()):
        if "num_batches" not in name:  # an average of counts
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
    x = dc.ones(2, 3, backend=backend)
    assert mine.eval()(x).tolist() == mine.module(x).tolist()
    twin = copy.deepcopy(mine)
    twin.load_state_dict(mine.state_dict())
    with pytest.raises(ArgumentError, match="another than the one"):
        mine.update_parameters(nn.Linear(3, 4, backend=backend))


def test_averages_refuse():
    with pytest.raises(ArgumentError, match="not both"):
        AveragedModel(nn.Linear(1, 1), avg_fn=max, multi_avg_fn=max)
    with pytest.raises(ArgumentError, match="from 0 to 1"):
        swa_utils.get_ema_avg_fn(1.5)


def test_statistics_of_batch_norms_are_computed_anew(backend):
    torch = pytest.importorskip("torch")
    ours = model(backend).eval()
    theirs = torch_twin(ours)
    batches = [np.random.default_rng(i).standard_normal((6, 3)).astype("float32") + i for i in range(4)]
    swa_utils.update_bn([(dc.tensor(b, backend=backend), None) for b in batches], ours)
    torch.optim.swa_utils.update_bn([torch.tensor(b) for b in batches], theirs)
    np.testing.assert_allclose(ours[1].running_mean.numpy(), theirs[1].running_mean.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours[1].running_var.numpy(), theirs[1].running_var.numpy(), rtol=1e-5)
    assert ours[1].momentum == 0.1 and not ours.training and not ours[1].training
    swa_utils.update_bn([], nn.Linear(1, 1))


@pytest.mark.parametrize("settings", [{}, {"anneal_strategy": "linear", "anneal_epochs": 7}, {"anneal_epochs": 0}])
def test_the_schedule_matches_torch(settings):
    torch = pytest.importorskip("torch")
    p, q = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    other = torch.optim.SGD([{"params": p, "lr": 0.5}, {"params": q}], lr=0.1)
    parameters = [nn.Parameter(dc.ones(1)) for _ in range(2)]
    mine = optim.SGD([{"params": parameters[0], "lr": 0.5}, {"params": parameters[1]}], lr=0.1)
    ours = SWALR(mine, [0.05, 0.2], **settings)
    theirs = torch.optim.swa_utils.SWALR(other, [0.05, 0.2], **settings)
    mine._stepped = True
    other.step()
    for _ in range(20):
        assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12)
        ours.step()
        theirs.step()
    ours.load_state_dict(theirs.state_dict())
    for wrong in ({"anneal_strategy": "exp"}, {"anneal_epochs": -1}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            SWALR(mine, 0.1, **wrong)
