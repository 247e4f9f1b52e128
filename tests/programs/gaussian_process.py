"""Gaussian process regression: Cholesky factors, hyperparameters by LBFGS, a posterior with its samples."""

import math

import numpy as np
import torch
from torch import nn

torch.set_default_dtype(torch.double)
RTOL = 1e-7  # twenty evaluations of a line search


class GP(nn.Module):
    def __init__(self, length_scale=1.0, noise_scale=1.0, amplitude_scale=1.0):
        super().__init__()
        self.length_scale_ = nn.Parameter(torch.tensor(np.log(length_scale)))
        self.noise_scale_ = nn.Parameter(torch.tensor(np.log(noise_scale)))
        self.amplitude_scale_ = nn.Parameter(torch.tensor(np.log(amplitude_scale)))

    @property
    def length_scale(self):
        return torch.exp(self.length_scale_)

    @property
    def noise_scale(self):
        return torch.exp(self.noise_scale_)

    @property
    def amplitude_scale(self):
        return torch.exp(self.amplitude_scale_)

    def kernel_mat(self, X, Y=None):
        Y = X if Y is None else Y
        d = (X.unsqueeze(1) - Y.unsqueeze(0)).square().sum(-1)
        return self.amplitude_scale * torch.exp(-0.5 * d / self.length_scale.square())

    def fit(self, X, y):
        D = X.shape[0]
        K = self.kernel_mat(X) + self.noise_scale * torch.eye(D) + 1e-8 * torch.eye(D)
        L = torch.linalg.cholesky(K)
        alpha = torch.cholesky_solve(y, L)
        self.X, self.L, self.alpha = X, L, alpha
        marginal = -0.5 * y.T.mm(alpha) - torch.log(torch.diag(L)).sum() - D * 0.5 * math.log(2 * math.pi)
        return marginal.squeeze()

    def forward(self, x):
        k = self.kernel_mat(self.X, x)
        v = torch.linalg.solve_triangular(self.L, k, upper=False)
        mu = k.T.mm(self.alpha)
        var = self.amplitude_scale + self.noise_scale - torch.diag(v.T.mm(v))
        return mu, var.reshape(-1, 1)


def main():
    rng = np.random.default_rng(0)
    X = torch.tensor(np.sort(rng.uniform(-4, 4, (20, 1)), axis=0))
    y = torch.sin(X) + 0.1 * torch.tensor(rng.standard_normal((20, 1)))
    gp = GP()
    opt = torch.optim.LBFGS(gp.parameters(), max_iter=20, line_search_fn="strong_wolfe", tolerance_change=1e-9)

    def closure():
        opt.zero_grad()
        nll = -gp.fit(X, y)
        nll.backward()
        return nll

    first = opt.step(closure)
    with torch.no_grad():
        last = -gp.fit(X, y)
        grid = torch.linspace(-5, 5, 11).unsqueeze(-1)
        mu, var = gp(grid)
        std = torch.sqrt(var)
        lower, upper = (mu - 1.96 * std).squeeze(), (mu + 1.96 * std).squeeze()
        cov = gp.kernel_mat(grid) + 1e-6 * torch.eye(len(grid))
        prior = torch.distributions.MultivariateNormal(torch.zeros(len(grid)), cov)
        log_prob = prior.log_prob(mu.squeeze())
        direct = (
            -0.5 * (mu.T @ torch.linalg.solve(cov, mu)).item() - 0.5 * torch.logdet(cov) - 5.5 * math.log(2 * math.pi)
        )
    for name, p in gp.named_parameters():
        print(f"{name}: {p.exp().item():.3f}")
    assert abs(direct - log_prob) < 1e-6 * abs(direct)
    return {"nll": [first.item(), last.item()], "mu": mu, "lower": lower, "upper": upper, "log_prob": log_prob,
            "scales": torch.stack([gp.length_scale, gp.noise_scale, gp.amplitude_scale])}  # fmt: skip
