"""A normalising flow of two moons: affine couplings with masks, activation norms, exact likelihoods, inversion."""

import numpy as np
import torch
from seeded import seeded
from torch import distributions, nn
from torch.nn.parameter import Parameter

torch.set_default_dtype(torch.float64)
RTOL = 1e-6


class ActNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.log_scale, self.bias = Parameter(torch.zeros(dim)), Parameter(torch.zeros(dim))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

    def forward(self, x):
        if not self.initialized:
            self.bias.data = -x.detach().mean(0)
            self.log_scale.data = -x.detach().std(0).log()
            self.initialized.fill_(1)
        return (x + self.bias) * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def inverse(self, z):
        return z * (-self.log_scale).exp() - self.bias


class RealNVP(nn.Module):
    def __init__(self, nets, nett, mask, prior):
        super(RealNVP, self).__init__()
        self.prior = prior
        self.mask = nn.Parameter(mask, requires_grad=False)
        self.t = torch.nn.ModuleList([nett() for _ in range(len(mask))])
        self.s = torch.nn.ModuleList([nets() for _ in range(len(mask))])
        self.norms = nn.ModuleList(ActNorm(2) for _ in mask)

    def g(self, z):
        x = z
        for i in range(len(self.t)):
            x = self.norms[i].inverse(x)
            x_ = x * self.mask[i]
            s = self.s[i](x_) * (1 - self.mask[i])
            t = self.t[i](x_) * (1 - self.mask[i])
            x = x_ + (1 - self.mask[i]) * (x * torch.exp(s) + t)
        return x

    def f(self, x):
        log_det_J, z = x.new_zeros(x.shape[0]), x
        for i in reversed(range(len(self.t))):
            z_ = self.mask[i] * z
            s = self.s[i](z_) * (1 - self.mask[i])
            t = self.t[i](z_) * (1 - self.mask[i])
            z = (1 - self.mask[i]) * (z - t) * torch.exp(-s) + z_
            log_det_J -= s.sum(dim=1)
            z, logdet = self.norms[i](z)
            log_det_J = log_det_J + logdet
        return z, log_det_J

    def log_prob(self, x):
        z, logp = self.f(x)
        return self.prior.log_prob(z) + logp


def moons(rng, n):
    angle, half = rng.uniform(0, np.pi, n), rng.integers(0, 2, n)
    x = np.where(half, 1 - np.cos(angle), np.cos(angle))
    y = np.where(half, 0.5 - np.sin(angle), np.sin(angle))
    return torch.from_numpy(np.stack([x, y], 1) + 0.05 * rng.standard_normal((n, 2)))


def main():
    rng = np.random.default_rng(0)
    nets = lambda: nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(), nn.Linear(16, 2), nn.Tanh())
    nett = lambda: nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(), nn.Linear(16, 2))
    masks = torch.from_numpy(np.array([[0, 1], [1, 0]] * 2).astype(np.float64))
    prior = distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    flow = RealNVP(nets, nett, masks, prior)
    for i, m in enumerate([*flow.t, *flow.s]):
        seeded(m, i)
    optimizer = torch.optim.Adam([p for p in flow.parameters() if p.requires_grad == True], lr=1e-3)  # noqa: E712
    losses = []
    for _ in range(6):
        loss = -flow.log_prob(moons(rng, 32)).mean()
        optimizer.zero_grad()
        loss.backward(retain_graph=True)
        optimizer.step()
        losses.append(loss.item())
    x = moons(rng, 5)
    with torch.no_grad():
        z, logdet = flow.f(x)
        assert torch.allclose(flow.g(z), x)
        samples = flow.g(torch.from_numpy(rng.standard_normal((4, 2))))
    jacobian = torch.stack([torch.stack([torch.autograd.grad(flow.f(row[None])[0][0, k], row)[0] for k in range(2)])
                            for row in x.requires_grad_().unbind()])  # fmt: skip
    assert torch.allclose(jacobian.det().abs().log(), logdet)
    print(f"{losses[-1]:.4f}", [n for n, _ in flow.named_buffers()][:2])
    return {"losses": losses, "z": z, "logdet": logdet, "samples": samples, "log_prob": flow.log_prob(x)}
