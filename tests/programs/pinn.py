"""A physics-informed network: the damped oscillator's second derivative, and an unknown friction, by autograd."""

import numpy as np
import torch
import torch.nn as nn
from seeded import seeded

torch.set_default_dtype(torch.float64)
RTOL = 1e-7


class FCN(nn.Module):
    """Fully connected layers of one width."""

    def __init__(self, n_in, n_out, n_hidden, n_layers):
        super().__init__()
        activation = nn.Tanh
        self.fcs = nn.Sequential(*[nn.Linear(n_in, n_hidden), activation()])
        self.fch = nn.Sequential(
            *[nn.Sequential(*[nn.Linear(n_hidden, n_hidden), activation()]) for _ in range(n_layers - 1)]
        )
        self.fce = nn.Linear(n_hidden, n_out)

    def forward(self, x):
        return self.fce(self.fch(self.fcs(x)))


def exact(d, w0, t):
    w = np.sqrt(w0**2 - d**2)
    phi = np.arctan(-d / w)
    A = 1 / (2 * np.cos(phi))
    return torch.exp(-d * t) * 2 * A * torch.cos(phi + w * t)


def main():
    d, w0 = 1, 5
    mu, k = 2 * d, w0**2
    t_physics = torch.linspace(0, 1, 20).view(-1, 1).requires_grad_(True)
    t_boundary = torch.tensor(0.0).view(-1, 1).requires_grad_(True)
    t_data = torch.linspace(0, 1, 9)[:, None]
    u_data = exact(d, w0, t_data)
    pinn = seeded(FCN(1, 1, 12, 3))
    friction = nn.Parameter(torch.zeros(1, requires_grad=True))
    optimiser = torch.optim.Adam([*pinn.parameters(), friction], lr=5e-3)

    def train_step(t_data, u_data):
        optimiser.zero_grad()
        u = pinn(t_boundary)
        loss1 = (torch.squeeze(u) - 1) ** 2
        dudt = torch.autograd.grad(u, t_boundary, torch.ones_like(u), create_graph=True)[0]
        loss2 = (torch.squeeze(dudt) - 0) ** 2
        u = pinn(t_physics)
        dudt = torch.autograd.grad(u, t_physics, torch.ones_like(u), create_graph=True)[0]
        d2udt2 = torch.autograd.grad(dudt, t_physics, torch.ones_like(dudt), create_graph=True)[0]
        loss3 = torch.mean((d2udt2 + friction * dudt + k * u) ** 2)
        loss4 = torch.mean((pinn(t_data) - u_data) ** 2)
        loss = loss1 + 1e-1 * loss2 + 1e-4 * loss3 + loss4
        loss.backward()
        optimiser.step()
        return loss, loss3.detach()

    losses, residuals, frictions = [], [], []
    for _ in range(12):
        loss, residual = train_step(t_data, u_data)
        losses.append(loss.item())
        residuals.append(residual.item())
        frictions.append(friction.item())
    print(f"{losses[0]:.4f} -> {losses[-1]:.4f}, mu {frictions[-1]:.4f} of {mu}")
    return {
        "losses": losses,
        "residuals": residuals,
        "frictions": frictions,
        "u": pinn(t_physics),
        "grad": t_physics.grad,
    }
