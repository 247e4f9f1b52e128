"""Weight and spectral normalisation, old and new, an orthogonal penalty, a parametrization of one's own."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.nn.utils.parametrize as parametrize
from seeded import seeded
from torch.nn.utils import parametrizations

RTOL = 1e-4


class Symmetric(nn.Module):
    def forward(self, X):
        return X.triu() + X.triu(1).transpose(-1, -2)

    def right_inverse(self, A):
        return A.triu()


class SpectralNorm(nn.Module):
    """Power iterations by hand, as in the repositories of 2018."""

    def __init__(self, module, power_iterations=1):
        super().__init__()
        self.module, self.power_iterations = module, power_iterations
        w = module.weight
        height, width = w.shape[0], w.view(w.shape[0], -1).shape[1]
        u = nn.Parameter(torch.ones(height) / height**0.5, requires_grad=False)
        v = nn.Parameter(torch.ones(width) / width**0.5, requires_grad=False)
        w_bar = nn.Parameter(w.data)
        del module._parameters["weight"]
        module.register_parameter("weight_u", u)
        module.register_parameter("weight_v", v)
        module.register_parameter("weight_bar", w_bar)

    def forward(self, *args):
        u, v, w = self.module.weight_u, self.module.weight_v, self.module.weight_bar
        height = w.data.shape[0]
        for _ in range(self.power_iterations):
            v.data = F.normalize(torch.mv(torch.t(w.view(height, -1).data), u.data), dim=0)
            u.data = F.normalize(torch.mv(w.view(height, -1).data, v.data), dim=0)
        sigma = u.dot(w.view(height, -1).mv(v))
        setattr(self.module, "weight", w / sigma.expand_as(w))
        return self.module.forward(*args)


def main():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((16, 6))).float()
    y = torch.from_numpy(rng.standard_normal((16, 2))).float()
    model = nn.Sequential(
        parametrizations.weight_norm(seeded(nn.Linear(6, 8))), nn.ReLU(),
        parametrizations.weight_norm(seeded(nn.Linear(8, 8), 1), dim=None), nn.Tanh(),
        SpectralNorm(seeded(nn.Linear(8, 6), 2)), nn.SELU(), seeded(nn.Linear(6, 6), 3), seeded(nn.Linear(6, 2), 4),
    )  # fmt: skip
    parametrize.register_parametrization(model[6], "weight", Symmetric())
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(params, lr=0.01)
    losses = []
    for _ in range(5):
        w = model[6].weight
        penalty = (w @ w.t() - torch.eye(6)).pow(2).sum()
        loss = F.mse_loss(model(x), y) + 1e-2 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert torch.equal(model[6].weight, model[6].weight.T) and parametrize.is_parametrized(model[6], "weight")
    g, v = model[0].parametrizations.weight.original0, model[0].parametrizations.weight.original1
    assert torch.allclose(model[0].weight, g * v / v.norm(dim=1, keepdim=True), atol=1e-6)
    names = [name for name, _ in model.named_parameters()]
    parametrize.remove_parametrizations(model[6], "weight")
    parametrize.remove_parametrizations(model[0], "weight")
    conv = parametrizations.spectral_norm(seeded(nn.Conv2d(2, 3, 3)), n_power_iterations=30)
    for _ in range(3):
        conv(x[:1, :1, None, None].expand(1, 2, 5, 5))
    top = torch.linalg.matrix_norm(conv.weight.flatten(1), ord=2)
    print(names, f"{top:.3f}", type(model[6]).__name__)
    return {"losses": losses, "weight": model[6].weight, "g": g, "u": model[4].module.weight_u, "out": model(x)}
