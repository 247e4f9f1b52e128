"""Deep Q-learning on a grid: a replay buffer, a target network with soft updates, a Huber loss."""

import math
import random
from collections import deque, namedtuple

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from seeded import seeded

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4
Transition = namedtuple("Transition", ("state", "action", "next_state", "reward"))


class ReplayMemory(object):
    def __init__(self, capacity):
        self.memory = deque([], maxlen=capacity)

    def push(self, *args):
        self.memory.append(Transition(*args))

    def sample(self, batch_size):
        return random.sample(self.memory, batch_size)

    def __len__(self):
        return len(self.memory)


class DQN(nn.Module):
    def __init__(self, n_observations, n_actions):
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(n_observations, 16), nn.Linear(16, 16)
        self.layer3 = nn.Linear(16, n_actions)

    def forward(self, x):
        return self.layer3(F.relu(self.layer2(F.relu(self.layer1(x)))))


def move(position, action):
    x, y = position
    dx, dy = ((1, 0), (-1, 0), (0, 1), (0, -1))[action]
    x, y = min(max(x + dx, 0), 3), min(max(y + dy, 0), 3)
    return (x, y), 1.0 if (x, y) == (3, 3) else -0.05, (x, y) == (3, 3)


def main():
    random.seed(0)
    BATCH_SIZE, GAMMA, EPS_START, EPS_END, EPS_DECAY, TAU = 16, 0.95, 0.9, 0.05, 40, 0.05
    policy_net, target_net = DQN(2, 4).to(device), DQN(2, 4).to(device)
    seeded(policy_net)
    target_net.load_state_dict(policy_net.state_dict())
    optimizer = optim.AdamW(policy_net.parameters(), lr=1e-2, amsgrad=True)
    memory, losses, steps_done = ReplayMemory(100), [], 0

    def select_action(state):
        nonlocal steps_done
        threshold = EPS_END + (EPS_START - EPS_END) * math.exp(-1.0 * steps_done / EPS_DECAY)
        steps_done += 1
        if random.random() > threshold:
            with torch.no_grad():
                return policy_net(state).max(1).indices.view(1, 1)
        return torch.tensor([[random.randrange(4)]], device=device, dtype=torch.long)

    def optimize_model():
        if len(memory) < BATCH_SIZE:
            return
        batch = Transition(*zip(*memory.sample(BATCH_SIZE)))
        non_final_mask = torch.tensor(
            tuple(map(lambda s: s is not None, batch.next_state)), device=device, dtype=torch.bool
        )
        non_final_next_states = torch.cat([s for s in batch.next_state if s is not None])
        state_batch, action_batch, reward_batch = (
            torch.cat(batch.state),
            torch.cat(batch.action),
            torch.cat(batch.reward),
        )
        state_action_values = policy_net(state_batch).gather(1, action_batch)
        next_state_values = torch.zeros(BATCH_SIZE, device=device)
        with torch.no_grad():
            next_state_values[non_final_mask] = target_net(non_final_next_states).max(1).values
        expected = (next_state_values * GAMMA) + reward_batch
        loss = nn.SmoothL1Loss()(state_action_values, expected.unsqueeze(1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(policy_net.parameters(), 100)
        optimizer.step()
        losses.append(loss.item())

    durations = []
    for _ in range(4):
        position, t = (0, 0), 0
        state = torch.tensor(position, dtype=torch.float32, device=device).unsqueeze(0)
        for t in range(15):
            action = select_action(state)
            position, reward, terminated = move(position, action.item())
            reward = torch.tensor([reward], device=device)
            next_state = None if terminated else torch.tensor(position, dtype=torch.float32, device=device).unsqueeze(0)
            memory.push(state, action, next_state, reward)
            state = next_state
            optimize_model()
            target_net_state_dict, policy_net_state_dict = target_net.state_dict(), policy_net.state_dict()
            for key in policy_net_state_dict:
                target_net_state_dict[key] = policy_net_state_dict[key] * TAU + target_net_state_dict[key] * (1 - TAU)
            target_net.load_state_dict(target_net_state_dict)
            if terminated:
                break
        durations.append(t + 1)
    print(durations)
    return {"losses": losses, "durations": durations, "target": target_net.layer3.weight, "steps": steps_done}
