"""Proximal policy optimisation: a clipped ratio, several epochs over shuffled minibatches, early stop by the KL."""

import numpy as np
import torch
import torch.nn as nn
from seeded import seeded
from torch.distributions.categorical import Categorical

RTOL = 1e-4
torch.set_default_dtype(torch.float64)


def layer_init(layer, std=np.sqrt(2), bias_const=0.0):
    layer.weight.data.mul_(std)
    torch.nn.init.constant_(layer.bias, bias_const)
    return layer


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
        self.actor = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
        seeded(self)
        layer_init(self.critic[2], std=1.0)
        layer_init(self.actor[2], std=0.01)

    def get_value(self, x):
        return self.critic(x)

    def get_action_and_value(self, x, action):
        probs = Categorical(logits=self.actor(x))
        return action, probs.log_prob(action), probs.entropy(), self.critic(x)


def main():
    rng = np.random.default_rng(1)
    num_steps, num_envs, minibatch, clip_coef = 8, 4, 8, 0.2
    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=2.5e-2, eps=1e-5)
    obs = torch.tensor(rng.standard_normal((num_steps, num_envs, 4)))
    actions = torch.tensor(rng.integers(0, 3, (num_steps, num_envs)))
    rewards = (actions == (obs[..., 0] > 0)).to(obs.dtype)
    dones = torch.tensor(rng.random((num_steps, num_envs)) < 0.1).type(obs.dtype)
    with torch.no_grad():
        logprobs, values = agent.get_action_and_value(obs, actions)[1::2]
        values = values.squeeze(-1)
        advantages, lastgaelam = torch.zeros_like(rewards), 0
        for t in reversed(range(num_steps)):
            nextvalues = values[t + 1] if t + 1 < num_steps else agent.get_value(obs[-1]).reshape(1, -1)
            delta = rewards[t] + 0.99 * nextvalues * (1.0 - dones[t]) - values[t]
            advantages[t] = lastgaelam = delta + 0.99 * 0.95 * (1.0 - dones[t]) * lastgaelam
        returns = advantages + values
    b_obs, b_actions = obs.reshape((-1, 4)), actions.reshape(-1)
    b_logprobs, b_advantages, b_returns, b_values = (t.reshape(-1) for t in (logprobs, advantages, returns, values))

    b_inds, clipfracs, log = np.arange(num_steps * num_envs), [], []
    for epoch in range(3):
        rng.shuffle(b_inds)
        for start in range(0, len(b_inds), minibatch):
            mb_inds = b_inds[start : start + minibatch]
            _, newlogprob, entropy, newvalue = agent.get_action_and_value(b_obs[mb_inds], b_actions.long()[mb_inds])
            logratio = newlogprob - b_logprobs[mb_inds]
            ratio = logratio.exp()
            with torch.no_grad():
                approx_kl = ((ratio - 1) - logratio).mean()
                clipfracs += [((ratio - 1.0).abs() > clip_coef).double().mean().item()]
            mb_advantages = b_advantages[mb_inds]
            mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + 1e-8)
            pg_loss1 = -mb_advantages * ratio
            pg_loss2 = -mb_advantages * torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)
            pg_loss = torch.max(pg_loss1, pg_loss2).mean()
            newvalue = newvalue.view(-1)
            v_loss_unclipped = (newvalue - b_returns[mb_inds]) ** 2
            v_clipped = b_values[mb_inds] + torch.clamp(newvalue - b_values[mb_inds], -clip_coef, clip_coef)
            v_loss = 0.5 * torch.max(v_loss_unclipped, (v_clipped - b_returns[mb_inds]) ** 2).mean()
            loss = pg_loss - 0.01 * entropy.mean() + v_loss * 0.5
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
        log.append([v_loss.item(), pg_loss.item(), approx_kl.item()])
        if approx_kl > 0.5:
            break
    y_pred, y_true = b_values.cpu().numpy(), b_returns.cpu().numpy()
    var_y = np.var(y_true)
    explained_var = np.nan if var_y == 0 else 1 - np.var(y_true - y_pred) / var_y
    print(f"explained variance {explained_var:.4f}, clipped {np.mean(clipfracs):.3f}")
    return {"log": log, "advantages": advantages, "actor": agent.actor[2].weight, "clipfracs": clipfracs}
