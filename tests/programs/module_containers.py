"""Modules of modules: ModuleDict, ParameterList, Sequential of an OrderedDict, shared parts, apply, names, children."""

from collections import OrderedDict

import numpy as np
import torch
import torch.nn as nn
from seeded import seeded


class Experts(nn.Module):
    """A mixture of experts of several kinds, the gate's two best of each sample."""

    def __init__(self, dim):
        super().__init__()
        self.gate = nn.Linear(dim, 4, bias=False)
        self.experts = nn.ModuleDict({"relu": nn.Sequential(nn.Linear(dim, dim), nn.ReLU()), "id": nn.Identity()})
        self.experts["tanh"] = nn.Sequential(OrderedDict(fc=nn.Linear(dim, dim), act=nn.Tanh()))
        self.experts.update({"glu": nn.Sequential(nn.Linear(dim, 2 * dim), nn.GLU(dim=-1))})
        self.scales = nn.ParameterList([nn.Parameter(torch.full((dim,), float(i + 1))) for i in range(3)])
        self.scales.append(nn.Parameter(torch.ones(dim)))
        self.extra = nn.ParameterDict({"shift": nn.Parameter(torch.zeros(dim)), "slope": nn.Parameter(torch.ones(1))})
        self.register_parameter("unused", None)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x):
        self.steps += 1
        weights, chosen = self.gate(x).softmax(-1).topk(2, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for i, (_name, expert) in enumerate(self.experts.items()):
            row, slot = torch.where(chosen == i)
            out[row] += weights[row, slot, None] * self.scales[i] * expert(x[row])
        return out * self.extra["slope"] + self.extra["shift"]


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        shared = nn.Linear(6, 6)
        self.layers = nn.ModuleList([Experts(6), shared, nn.Dropout(0.0), shared])
        self.layers.insert(1, nn.LayerNorm(6))
        self.layers.extend([nn.CELU(), nn.Linear(6, 1)])
        self.add_module("sigmoid", nn.Sigmoid())

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.sigmoid(x)


def init_weights(m):
    if type(m) is nn.Linear:
        with torch.no_grad():
            m.weight.mul_(0.5)


def main():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((10, 6))).float()
    model = seeded(Tower())
    model.apply(init_weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(3):
        loss = (model(x) - (x[:, :1] > 0).float()).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(model.layers[1:], model.layers[0].experts)
    print([name for name, _ in model.named_children()], len(list(model.modules())), len(list(model.children())))
    print([name for name, _ in model.named_parameters()])
    print([(name, tuple(b.shape)) for name, b in model.named_buffers()], len(model.state_dict()))
    print(
        sum(p.numel() for p in model.parameters()),
        model.layers[2] is model.layers[4],
        model.get_submodule("layers.0.experts.glu"),
    )
    print("tanh" in model.layers[0].experts, list(model.layers[0].experts.keys()), len(model.layers), model.layers[-1])
    print(
        len(model.layers[0].scales),
        sorted(model.layers[0].extra.keys()),
        model.training,
        model.eval().layers[0].training,
    )
    none = {name for name, p in model.named_parameters() if p.grad is None}
    model.layers[1:3].requires_grad_(False)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    del model.layers[3]
    return {"losses": losses, "steps": model.layers[0].steps, "out": model(x), "none": sorted(none), "frozen": frozen,
            "norm": nn.utils.parameters_to_vector(model.parameters()).norm()}  # fmt: skip
