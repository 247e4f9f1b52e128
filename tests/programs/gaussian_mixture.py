"""A mixture of Gaussians by expectation maximisation in log space, and by gradient descent on its likelihood."""

import math

import numpy as np
import torch
import torch.distributions as D

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
dtype = torch.float64


def log_gaussian(X, mu, cov):
    d = X.shape[-1]
    L = torch.linalg.cholesky(cov)
    diff = (X[:, None] - mu[None]).unsqueeze(-1)
    z = torch.linalg.solve_triangular(L.expand(len(X), *L.shape), diff, upper=False).squeeze(-1)
    half_logdet = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (z.square().sum(-1) + d * math.log(2 * math.pi)) - half_logdet


def main():
    rng = np.random.default_rng(11)
    parts = [
        rng.multivariate_normal(m, c, 40) for m, c in (((0, 0), ((1, 0.8), (0.8, 1))), ((4, 1), ((0.3, 0), (0, 2))))
    ]
    X = torch.tensor(np.concatenate(parts), dtype=dtype, device=device)
    n, d, k = *X.shape, 2
    pi = torch.full((k,), 1 / k, device=device, dtype=dtype)
    mu = X[[0, -1]].clone()
    cov = torch.eye(d, dtype=dtype, device=device).repeat(k, 1, 1)
    log_likelihoods = []
    for _ in range(15):
        weighted = log_gaussian(X, mu, cov) + pi.log()
        norm = torch.logsumexp(weighted, dim=1, keepdim=True)
        log_likelihoods.append(norm.mean().item())
        resp = torch.exp(weighted - norm)
        nk = resp.sum(0) + 1e-10
        pi = nk / n
        mu = resp.T @ X / nk[:, None]
        diff = X[None] - mu[:, None]
        cov = torch.einsum("nk,kni,knj->kij", resp, diff, diff) / nk.view(-1, 1, 1) + 1e-6 * torch.eye(
            d, dtype=dtype, device=device
        )
        if len(log_likelihoods) > 1 and log_likelihoods[-1] - log_likelihoods[-2] < 1e-12:
            break

    logits = torch.zeros(k, dtype=dtype, device=device, requires_grad=True)
    loc = X[[0, -1]].clone().requires_grad_()
    log_scale = torch.zeros(k, d, dtype=dtype, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([logits, loc, log_scale], lr=0.05)
    nlls = []
    for _ in range(10):
        log_prob = D.Independent(D.Normal(loc, log_scale.exp()), 1).log_prob(X[:, None])
        nll = -torch.logsumexp(log_prob + torch.log_softmax(logits, 0), 1).mean()
        optimizer.zero_grad()
        nll.backward()
        optimizer.step()
        nlls.append(nll.item())
    hard = resp.argmax(1)
    print(f"{log_likelihoods[-1]:.4f} after {len(log_likelihoods)} steps; {torch.bincount(hard).tolist()} points")
    bic = -2 * n * log_likelihoods[-1] + (k - 1 + k * d + k * d * (d + 1) / 2) * math.log(n)
    return {"pi": pi, "mu": mu, "cov": cov, "ll": log_likelihoods, "nlls": nlls, "loc": loc, "bic": bic}
