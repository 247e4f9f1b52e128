"""REINFORCE on a corridor, with a Categorical policy and normalised returns; actions come from NumPy's numbers."""

from collections import deque

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from seeded import seeded
from torch.distributions import Categorical

RTOL = 1e-4
eps = np.finfo(np.float32).eps.item()


class Corridor:
    """Go right five times; each step costs 0.1."""

    def __init__(self, rng):
        self.rng = rng

    def reset(self):
        self.x, self.t = 0, 0
        return self._state(), {}

    def step(self, action):
        self.x = max(0, self.x + (1 if action == 1 else -1))
        self.t += 1
        done = self.x == 5
        return self._state(), 1.0 if done else -0.1, done, self.t == 30, {}

    def _state(self):
        return np.array([self.x / 5, 1 - self.x / 5, self.t / 30, 1.0], dtype=np.float32)


class Policy(nn.Module):
    def __init__(self):
        super(Policy, self).__init__()
        self.affine1 = nn.Linear(4, 16)
        self.dropout = nn.Dropout(p=0.0)
        self.affine2 = nn.Linear(16, 2)
        self.saved_log_probs = []
        self.rewards = []

    def forward(self, x):
        x = F.relu(self.dropout(self.affine1(x)))
        return F.softmax(self.affine2(x), dim=1)


def select_action(policy, state, uniform):
    state = torch.from_numpy(state).float().unsqueeze(0)
    m = Categorical(policy(state))
    action = (m.probs.cumsum(-1) < uniform).sum(-1)
    policy.saved_log_probs.append(m.log_prob(action))
    return action.item(), m.entropy().item()


def finish_episode(policy, optimizer):
    R, returns = 0, deque()
    for r in policy.rewards[::-1]:
        R = r + 0.99 * R
        returns.appendleft(R)
    returns = torch.tensor(returns)
    returns = (returns - returns.mean()) / (returns.std() + eps)
    policy_loss = [-log_prob * R for log_prob, R in zip(policy.saved_log_probs, returns)]
    optimizer.zero_grad()
    loss = torch.cat(policy_loss).sum()
    loss.backward()
    optimizer.step()
    del policy.rewards[:]
    del policy.saved_log_probs[:]
    return loss.item()


def main():
    rng = np.random.default_rng(543)
    policy = seeded(Policy())
    optimizer = optim.Adam(policy.parameters(), lr=1e-2)
    env, losses, lengths, entropies = Corridor(rng), [], [], []
    for i_episode in range(6):
        state, _ = env.reset()
        for t in range(1, 100):
            action, entropy = select_action(policy, state, rng.random())
            state, reward, done, truncated, _ = env.step(action)
            policy.rewards.append(reward)
            if done or truncated:
                break
        losses.append(finish_episode(policy, optimizer))
        lengths.append(t)
        entropies.append(entropy)
    print(f"Episode {i_episode}\tLast length: {t:2d}\tentropy {entropy:.3f}")
    return {"losses": losses, "lengths": lengths, "entropies": entropies, "weight": policy.affine1.weight}
