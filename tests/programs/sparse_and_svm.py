"""Classics in tensors: ISTA for the lasso, a kernel SVM by its dual, a Hopfield net, t-SNE, power iteration, evolution strategies."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded
from torch.nn.utils import parameters_to_vector, vector_to_parameters

torch.set_default_dtype(torch.float64)
RTOL = 1e-6


def soft_threshold(x, t):
    return x.sign() * F.relu(x.abs() - t)


def lasso(A, y, lam, steps):
    L = torch.linalg.eigvalsh(A.T @ A).max()
    w, z, t = torch.zeros(A.shape[1]), torch.zeros(A.shape[1]), 1.0
    for _ in range(steps):
        new = soft_threshold(z - A.T @ (A @ z - y) / L, lam / L)
        t_new = (1 + (1 + 4 * t * t) ** 0.5) / 2
        z, w, t = new + (t - 1) / t_new * (new - w), new, t_new
    return w


def svm(K, y, C=1.0, steps=60, lr=0.05):
    alpha = torch.zeros(len(y))
    Q = K * torch.outer(y, y)
    for _ in range(steps):
        alpha = (alpha + lr * (1 - Q @ alpha)).clamp(0, C)
    support = (alpha > 1e-6) & (alpha < C - 1e-6)
    bias = (y[support] - K[support] @ (alpha * y)).mean() if support.any() else torch.tensor(0.0)
    return alpha, bias


def tsne(X, Y, perplexity=5.0, steps=10):
    D = torch.cdist(X, X).square()
    n, beta = len(X), torch.ones(len(X), 1)
    low, high = torch.zeros_like(beta), torch.full_like(beta, torch.inf)
    for _ in range(30):
        P = (-D * beta).exp().fill_diagonal_(0)
        H = torch.log(P.sum(1, keepdim=True)) + beta * (D * P).sum(1, keepdim=True) / P.sum(1, keepdim=True)
        wide = H > np.log(perplexity)
        low, high = torch.where(wide, beta, low), torch.where(wide, high, beta)
        beta = torch.where(high.isinf(), beta * 2, (low + high) / 2)
    P = P / P.sum(1, keepdim=True)
    P = ((P + P.T) / (2 * n)).clamp_min(1e-12)
    Y = Y.clone().requires_grad_()
    optimizer = torch.optim.SGD([Y], lr=2.0, momentum=0.5)
    for _ in range(steps):
        num = 1 / (1 + torch.cdist(Y, Y).pow(2))
        num = num * (1 - torch.eye(n))
        kl = (P * (P / (num / num.sum()).clamp_min(1e-12)).log()).sum()
        optimizer.zero_grad()
        kl.backward()
        Y.grad.nan_to_num_()
        optimizer.step()
    return Y.detach(), kl.item()


def main():
    rng = np.random.default_rng(0)
    A = torch.from_numpy(rng.standard_normal((20, 12)))
    sparse = torch.zeros(12)
    sparse[[1, 5]] = torch.tensor([2.0, -3.0])
    w = lasso(A, A @ sparse, 0.5, 80)

    X = torch.from_numpy(rng.standard_normal((24, 2)))
    y = torch.where(X.square().sum(1) > 1.4, 1.0, -1.0)
    K = torch.exp(-0.5 * (X[:, None] - X[None]).square().sum(-1))
    alpha, bias = svm(K, y)
    accuracy = (((alpha * y) @ K + bias).sign() == y).double().mean()

    patterns = torch.from_numpy(rng.choice([-1.0, 1.0], (2, 20)))
    W = (patterns.T @ patterns / 20).fill_diagonal_(0)
    state = patterns[0].clone()
    state[:3].neg_()
    energies = []
    for _ in range(4):
        state = torch.sgn(W @ state)
        energies.append((-0.5 * state @ W @ state).item())

    v = torch.ones(12) / 12**0.5
    M = A.T @ A
    for _ in range(100):
        v = F.normalize(M @ v, dim=0)
    top = torch.dot(v, M.mv(v))
    assert torch.allclose(top, torch.linalg.eigvalsh(M)[-1], rtol=1e-6)

    embedded, kl = tsne(A, 1e-1 * torch.from_numpy(rng.standard_normal((20, 2))))

    # Evolution strategies: the gradient of a smoothed loss from antithetic perturbations.
    net = seeded(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)))
    theta, rewards = parameters_to_vector(net.parameters()).detach(), []
    for _ in range(4):
        noise = torch.from_numpy(rng.standard_normal((6, theta.numel())))
        noise = torch.cat([noise, -noise])
        fitness = torch.empty(len(noise))
        with torch.no_grad():
            for k, e in enumerate(noise):
                vector_to_parameters(theta + 0.1 * e, net.parameters())
                fitness[k] = -F.soft_margin_loss(net(X).squeeze(-1), y)
        ranks = fitness.argsort().argsort().double() / (len(fitness) - 1) - 0.5
        theta += 0.5 * (ranks @ noise) / (len(noise) * 0.1)
        rewards.append(fitness.mean().item())
    print(
        f"{(w.abs() > 1e-6).sum().item()} weights, accuracy {accuracy:.3f}, {(state == patterns[0]).all()}, kl {kl:.3f}"
    )
    return {
        "w": w,
        "alpha": alpha,
        "bias": bias,
        "energies": energies,
        "top": top,
        "embedded": embedded,
        "rewards": rewards,
        "theta": theta,
    }
