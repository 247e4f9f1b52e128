"""Model-agnostic meta-learning of sine waves: functional weights, gradients through inner steps, and first-order Reptile."""

from collections import OrderedDict
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from seeded import seeded
from torch import nn, optim

torch.set_default_dtype(torch.float64)
RTOL = 1e-7
rng = np.random.default_rng(0)


class Sine:
    """A task: an amplitude and a phase."""

    def __init__(self):
        self.amplitude, self.phase = rng.uniform(0.1, 5.0), rng.uniform(0, np.pi)

    def sample(self, n):
        x = torch.from_numpy(rng.uniform(-5, 5, (n, 1)))
        return x, self.amplitude * torch.sin(x + self.phase)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(OrderedDict([("l1", nn.Linear(1, 16)), ("relu1", nn.ReLU()), ("l2", nn.Linear(16, 16)),
                                              ("relu2", nn.ReLU()), ("l3", nn.Linear(16, 1))]))  # fmt: skip

    def forward(self, x):
        return self.net(x)

    def argforward(self, x, weights):
        x = F.relu(F.linear(x, weights[0], weights[1]))
        x = F.relu(F.linear(x, weights[2], weights[3]))
        return F.linear(x, weights[4], weights[5])


def main():
    model = seeded(Model())
    weights = list(model.parameters())
    criterion, meta_optimiser = nn.MSELoss(), optim.Adam(weights, 1e-3)
    meta_losses = []
    for _ in range(4):
        metaloss = 0
        for _ in range(3):
            task = Sine()
            temp_weights = [w.clone() for w in weights]
            for _ in range(2):
                X, y = task.sample(8)
                loss = criterion(model.argforward(X, temp_weights), y)
                grads = torch.autograd.grad(loss, temp_weights, create_graph=True)
                temp_weights = [w - 0.01 * g for w, g in zip(temp_weights, grads)]
            X, y = task.sample(8)
            metaloss = metaloss + criterion(model.argforward(X, temp_weights), y) / 3
        meta_grads = torch.autograd.grad(metaloss, weights)
        for w, g in zip(weights, meta_grads):
            w.grad = g
        meta_optimiser.step()
        meta_losses.append(metaloss.item())

    # Reptile: the weights move towards those that a few steps on a task reach.
    reptile = []
    for iteration in range(3):
        before = deepcopy(model.state_dict())
        task, inner = Sine(), optim.SGD(model.parameters(), lr=0.02)
        for _ in range(4):
            X, y = task.sample(8)
            model.zero_grad()
            loss = (model(X) - y).pow(2).mean()
            loss.backward()
            inner.step()
        after = model.state_dict()
        outer = 0.5 * (1 - iteration / 3)
        model.load_state_dict({name: before[name] + (after[name] - before[name]) * outer for name in before})
        reptile.append(loss.item())
    X = torch.linspace(-5, 5, 7).view(-1, 1)
    print(f"{meta_losses[-1]:.4f} {reptile[-1]:.4f}")
    return {
        "meta": meta_losses,
        "reptile": reptile,
        "y": model(X),
        "grad": meta_grads[0],
        "same": before["net.l1.weight"],
    }
