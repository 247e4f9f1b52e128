"""A mixture density network for a function with several values, and quantile regression of the same data."""

import math

import numpy as np
import torch
import torch.nn as nn
from seeded import seeded
from torch.distributions import Categorical, Normal

RTOL = 1e-4
ONEOVERSQRT2PI = 1.0 / math.sqrt(2 * math.pi)


class MDN(nn.Module):
    def __init__(self, in_features, out_features, num_gaussians):
        super(MDN, self).__init__()
        self.in_features, self.out_features, self.num_gaussians = in_features, out_features, num_gaussians
        self.hidden = nn.Sequential(nn.Linear(in_features, 16), nn.Tanh())
        self.pi = nn.Sequential(nn.Linear(16, num_gaussians), nn.Softmax(dim=1))
        self.sigma, self.mu = nn.Linear(16, out_features * num_gaussians), nn.Linear(16, out_features * num_gaussians)

    def forward(self, minibatch):
        h = self.hidden(minibatch)
        sigma = torch.exp(self.sigma(h)).view(-1, self.num_gaussians, self.out_features)
        mu = self.mu(h).view(-1, self.num_gaussians, self.out_features)
        return self.pi(h), sigma, mu


def gaussian_probability(sigma, mu, target):
    target = target.unsqueeze(1).expand_as(sigma)
    ret = ONEOVERSQRT2PI * torch.exp(-0.5 * ((target - mu) / sigma) ** 2) / sigma
    return torch.prod(ret, 2)


def mdn_loss(pi, sigma, mu, target):
    prob = pi * gaussian_probability(sigma, mu, target)
    return torch.mean(-torch.log(torch.sum(prob, dim=1)))


class QuantileLoss(nn.Module):
    def __init__(self, quantiles):
        super().__init__()
        self.register_buffer("quantiles", torch.tensor(quantiles))

    def forward(self, preds, target):
        assert not target.requires_grad
        assert preds.size(0) == target.size(0)
        errors = target - preds
        return torch.max((self.quantiles - 1) * errors, self.quantiles * errors).sum(dim=1).mean()


def main():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.uniform(-1, 1, (64, 1)).astype(np.float32))
    x = y + 0.3 * torch.sin(2 * math.pi * y) + 0.05 * torch.from_numpy(rng.standard_normal((64, 1))).float()
    model = seeded(MDN(1, 1, 5))
    optimizer = torch.optim.Rprop(model.parameters(), lr=0.01)

    def train_step(x, y):
        optimizer.zero_grad()
        pi, sigma, mu = model(x)
        loss = mdn_loss(pi, sigma, mu, y)
        loss.backward()
        optimizer.step()
        return loss

    losses = [train_step(x, y).item() for _ in range(6)]
    pi, sigma, mu = (t.detach() for t in model(x))
    log_prob = torch.logsumexp(pi.log() + Normal(mu, sigma).log_prob(y.unsqueeze(1)).sum(-1), dim=1)
    assert torch.allclose(-log_prob.mean(), mdn_loss(pi, sigma, mu, y), atol=1e-5)
    mean = (pi.unsqueeze(-1) * mu).sum(1)
    pick = torch.from_numpy(rng.random((64, 1))).float()
    component = (pi.cumsum(1) < pick).sum(1).clamp(max=4)
    chosen = mu.gather(1, component.view(-1, 1, 1)).squeeze(-1)
    entropy = Categorical(pi).entropy()

    quantiles = [0.1, 0.5, 0.9]
    net, criterion = seeded(nn.Sequential(nn.Linear(1, 16), nn.GELU(), nn.Linear(16, 3))), QuantileLoss(quantiles)
    optimizer = torch.optim.ASGD(net.parameters(), lr=0.05)
    pinball = []
    for _ in range(10):
        optimizer.zero_grad(set_to_none=False)
        loss = criterion(net(x), y)
        loss.backward()
        optimizer.step()
        pinball.append(loss.item())
    coverage = (y <= net(x)).float().mean(0)
    empirical = torch.quantile(y, torch.tensor(quantiles))
    print(f"nll {losses[-1]:.4f}, pinball {pinball[-1]:.4f}, coverage {[round(c, 2) for c in coverage.tolist()]}")
    return {
        "losses": losses,
        "mean": mean,
        "chosen": chosen,
        "entropy": entropy,
        "pinball": pinball,
        "empirical": empirical,
    }
