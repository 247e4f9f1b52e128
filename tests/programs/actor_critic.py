"""Advantage actor-critic with shared features and generalised advantage estimation, a Gaussian policy."""

from collections import namedtuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded
from torch.distributions import Independent, MultivariateNormal, Normal

RTOL = 1e-4
SavedAction = namedtuple("SavedAction", ["log_prob", "value", "entropy", "reward"])
rng = np.random.default_rng(0)


class ActorCritic(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.body = nn.Linear(n_in, 16)
        self.mean, self.value = nn.Linear(16, n_out), nn.Linear(16, 1)
        self.log_std = nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        x = torch.tanh(self.body(x))
        return Normal(self.mean(x), self.log_std.exp().expand_as(self.mean(x))), self.value(x)


def episode(model, target, length=12):
    x, saved = np.zeros(2), []
    for _ in range(length):
        dist, value = model(torch.tensor(x, dtype=torch.float32))
        action = dist.mean + dist.stddev * torch.as_tensor(rng.standard_normal(2), dtype=torch.float32)
        action = action.detach()
        x = x + 0.3 * np.tanh(action.numpy())
        reward = -float(np.linalg.norm(x - target))
        saved.append(SavedAction(dist.log_prob(action).sum(-1), value.squeeze(-1), dist.entropy().sum(), reward))
    return saved


def advantages_of(saved, gamma=0.95, lam=0.9):
    advantages, gae, following = [], 0.0, 0.0
    for s in reversed(saved):
        delta = s.reward + gamma * following - s.value.item()
        gae = delta + gamma * lam * gae
        following = s.value.item()
        advantages.insert(0, gae)
    return torch.tensor(advantages)


def main():
    model = seeded(ActorCritic(2, 2))
    optimizer = torch.optim.Adam([{"params": model.body.parameters()}, {"params": model.mean.parameters(), "lr": 5e-3},
                                  {"params": [*model.value.parameters(), model.log_std]}], lr=1e-2)  # fmt: skip
    target, history = np.array([1.0, -0.5]), []
    for _ in range(6):
        saved = episode(model, target)
        advantages = advantages_of(saved)
        values = torch.stack([s.value for s in saved])
        returns = advantages + values.detach()
        policy_loss = -(torch.stack([s.log_prob for s in saved]) * (advantages - advantages.mean())).mean()
        value_loss = F.smooth_l1_loss(values, returns)
        entropy = torch.stack([s.entropy for s in saved]).mean()
        loss = policy_loss + 0.5 * value_loss - 0.01 * entropy
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5, error_if_nonfinite=True)
        optimizer.step()
        history.append([policy_loss.item(), value_loss.item(), entropy.item()])
    dist, value = model(torch.zeros(3, 2))
    joint = Independent(dist, 1)
    full = MultivariateNormal(dist.loc, covariance_matrix=torch.diag_embed(dist.scale**2))
    point = torch.full((3, 2), 0.25)
    assert torch.allclose(joint.log_prob(point), full.log_prob(point), atol=1e-5)
    print(joint.batch_shape == (3,), joint.event_shape == (2,), full.rsample().shape == (3, 2))
    return {"history": history, "log_std": model.log_std, "log_prob": full.log_prob(point), "entropy": joint.entropy()}
