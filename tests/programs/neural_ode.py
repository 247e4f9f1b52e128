"""A neural ODE: Runge-Kutta steps of a network that learns a spiral, gradients through the solver."""

import numpy as np
import torch
import torch.nn as nn
from seeded import seeded

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4


class ODEFunc(nn.Module):
    def __init__(self):
        super(ODEFunc, self).__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
        self.nfe = 0
        for m in self.net.modules():
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, mean=0, std=0.1)
                nn.init.constant_(m.bias, val=0)

    def forward(self, t, y):
        self.nfe += 1
        return self.net(y**3)


class Lambda(nn.Module):
    def forward(self, t, y):
        return torch.mm(y**3, true_A)


def rk4_step(func, t, dt, y):
    k1 = func(t, y)
    k2 = func(t + dt / 3, y + dt * k1 / 3)
    k3 = func(t + dt * 2 / 3, y + dt * (k2 - k1 / 3))
    k4 = func(t + dt, y + dt * (k1 - k2 + k3))
    return y + (k1 + 3 * (k2 + k3) + k4) * dt * 0.125


def odeint(func, y0, t):
    solution = [y0]
    for t0, t1 in zip(t[:-1], t[1:]):
        solution.append(rk4_step(func, t0, t1 - t0, solution[-1]))
    return torch.stack(solution)


true_y0 = torch.tensor([[2.0, 0.0]]).to(device)
true_A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]).to(device)


def main():
    rng = np.random.default_rng(0)
    t = torch.linspace(0.0, 2.5, 60).to(device)
    with torch.no_grad():
        true_y = odeint(Lambda(), true_y0, t)
    func = seeded(ODEFunc()).to(device)
    optimizer = torch.optim.RMSprop(func.parameters(), lr=1e-3)
    losses, batch_time = [], 6
    for itr in range(6):
        s = torch.from_numpy(rng.choice(np.arange(60 - batch_time, dtype=np.int64), 8, replace=False))
        batch_y0, batch_t = true_y[s.to(device)], t[:batch_time]
        batch_y = torch.stack([true_y[s.to(device) + i] for i in range(batch_time)], dim=0)
        optimizer.zero_grad()
        pred_y = odeint(func, batch_y0[:, 0], batch_t)
        loss = torch.mean(torch.abs(pred_y - batch_y[:, :, 0]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if itr % 5 == 0:
            with torch.no_grad():
                whole = odeint(func, true_y0, t)
                print("Iter {:04d} | Total Loss {:.4f}".format(itr, torch.mean(torch.abs(whole - true_y)).item()))
    print(func.nfe, true_y.shape == (60, 1, 2))
    return {"losses": losses, "true": true_y[::10], "pred": pred_y, "grad": func.net[0].weight.grad}
