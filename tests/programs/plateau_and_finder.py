"""Nesterov momentum with a plateau schedule, a learning-rate finder, custom schedules, the state of an optimizer."""

import copy
import math

import numpy as np
import torch
import torch.nn as nn
from seeded import seeded
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, _LRScheduler

RTOL = 1e-4


class LinearWarmupCosine(_LRScheduler):
    def __init__(self, optimizer, warmup, total, eta_min=0.0, last_epoch=-1):
        self.warmup, self.total, self.eta_min = warmup, total, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        if self.last_epoch < self.warmup:
            return [base * (self.last_epoch + 1) / self.warmup for base in self.base_lrs]
        progress = (self.last_epoch - self.warmup) / (self.total - self.warmup)
        return [
            self.eta_min + (base - self.eta_min) * 0.5 * (1 + math.cos(math.pi * progress)) for base in self.base_lrs
        ]


class ExponentialFinder(_LRScheduler):
    def __init__(self, optimizer, end_lr, num_iter, last_epoch=-1):
        self.end_lr, self.num_iter = end_lr, num_iter
        super(ExponentialFinder, self).__init__(optimizer, last_epoch)

    def get_lr(self):
        r = self.last_epoch / (self.num_iter - 1)
        return [base_lr * (self.end_lr / base_lr) ** r for base_lr in self.base_lrs]


def find_lr(model, criterion, X, y):
    state = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    finder, best, curve = ExponentialFinder(optimizer, 10.0, 25), None, []
    for _ in range(25):
        optimizer.zero_grad()
        loss = criterion(model(X), y)
        loss.backward()
        optimizer.step()
        finder.step()
        smooth = loss.item() if not curve else 0.3 * loss.item() + 0.7 * curve[-1][1]
        curve.append((finder.get_last_lr()[0], smooth))
        best = smooth if best is None else min(best, smooth)
        if smooth > 4 * best:
            break
    model.load_state_dict(state)
    lrs, losses = zip(*curve)
    return lrs[int(np.gradient(np.array(losses)).argmin())], curve


def main():
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.standard_normal((40, 3))).float()
    y = X.prod(1, keepdim=True) + X.sum(1, keepdim=True)
    model, criterion = seeded(nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))), nn.MSELoss()
    lr, curve = find_lr(model, criterion, X, y)
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.01}],
        lr=min(lr, 0.1), momentum=0.9, nesterov=True, weight_decay=1e-4,
    )  # fmt: skip
    scheduler = ReduceLROnPlateau(
        optimizer, mode="min", factor=0.2, patience=1, threshold=0.05, min_lr=1e-4, cooldown=1
    )
    history = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = criterion(model(X), y)
        loss.backward()
        optimizer.step()
        scheduler.step(loss.item())
        history.append([loss.item(), *(g["lr"] for g in optimizer.param_groups)])

    # The state of an optimizer moves to another one, which goes on alike.
    twin = copy.deepcopy(model)
    other = torch.optim.SGD([{"params": twin[0].parameters()}, {"params": twin[2].parameters()}], lr=1.0, momentum=0.9)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (twin, other)):
        o.zero_grad()
        criterion(m(X), y).backward()
        o.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters()))
    for g in optimizer.param_groups:
        g["lr"] = 0.1
        g.pop("initial_lr", None)
    warm, rates = LinearWarmupCosine(optimizer, 3, 10), []
    for _ in range(9):
        optimizer.step()
        warm.step()
        rates += warm.get_last_lr()
    decayed = LambdaLR(torch.optim.Adam(twin.parameters(), lr=1.0), lr_lambda=[lambda epoch: 0.95**epoch])
    resumed = decayed.state_dict()
    print(f"lr {lr:.2e} after {len(curve)} steps, {sorted(k for k in resumed if not k.startswith('_'))}")
    print(sorted(optimizer.state_dict()), [sorted(s) for s in optimizer.state_dict()["state"].values()][0])
    return {"curve": [list(c) for c in curve], "history": history, "rates": rates, "weight": model[0].weight}
