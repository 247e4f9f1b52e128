"""One model, many loops: accumulated gradients, averages of weights (EMA, SWA), early stopping with the best state."""

import copy

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, TensorDataset

RTOL = 1e-4


class ModelEma(nn.Module):
    def __init__(self, model, decay=0.99):
        super().__init__()
        self.module = copy.deepcopy(model)
        self.module.eval()
        self.decay = decay

    def update(self, model):
        with torch.no_grad():
            for ema_v, model_v in zip(self.module.state_dict().values(), model.state_dict().values()):
                if (
                    ema_v.dtype.is_floating_point
                    if hasattr(ema_v.dtype, "is_floating_point")
                    else ema_v.is_floating_point()
                ):
                    ema_v.copy_(self.decay * ema_v + (1.0 - self.decay) * model_v)
                else:
                    ema_v.copy_(model_v)


class EarlyStopping:
    def __init__(self, patience=2, min_delta=0.0):
        self.patience, self.min_delta = patience, min_delta
        self.best_score, self.counter, self.best_state = None, 0, None

    def __call__(self, val_loss, model):
        if self.best_score is None or val_loss < self.best_score - self.min_delta:
            self.best_score, self.counter = val_loss, 0
            self.best_state = copy.deepcopy(model.state_dict())
        else:
            self.counter += 1
        return self.counter >= self.patience


def mlp():
    return seeded(nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)))


def main():
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.standard_normal((48, 4))).float()
    y = (X @ torch.from_numpy(rng.standard_normal((4, 3))).float()).argmax(1)
    loader = DataLoader(TensorDataset(X[:32], y[:32]), batch_size=8)

    # Four small batches make the gradient of a large one.
    a, b = nn.Linear(4, 3), nn.Linear(4, 3)
    seeded(a)
    b.load_state_dict(a.state_dict())
    for i, (inputs, labels) in enumerate(loader):
        loss = F.cross_entropy(a(inputs), labels) / len(loader)
        loss.backward()
    F.cross_entropy(b(X[:32]), y[:32]).backward()
    assert torch.allclose(a.weight.grad, b.weight.grad, atol=1e-6) and i == 3

    model = mlp()
    ema, swa = ModelEma(model, 0.9), AveragedModel(model)
    ema2 = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    swa_scheduler = SWALR(optimizer, swa_lr=0.2, anneal_epochs=2, anneal_strategy="linear")
    stopper, history, rates = EarlyStopping(), [], []
    for epoch in range(12):
        model.train()
        for inputs, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            ema.update(model)
            ema2.update_parameters(model)
        if epoch >= 3:
            swa.update_parameters(model)
            swa_scheduler.step()
        else:
            scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
        model.eval()
        with torch.no_grad():
            history.append(F.cross_entropy(model(X[32:]), y[32:]).item())
        if stopper(history[-1], model):
            break
    model.load_state_dict(stopper.best_state)
    update_bn(loader, swa)
    print(f"stopped after {len(history)} epochs, best {stopper.best_score:.3f}, {swa.n_averaged.item()} averaged")
    return {"history": history, "rates": rates, "best": model(X[32:]), "ema": ema.module(X[:3]), "ema2": ema2.module[3].weight,
            "swa": [p.detach() for p in swa.parameters()][0], "bn": swa.module[1].running_mean}  # fmt: skip
