"""WGAN with a gradient penalty: the gradient of a gradient's norm, five steps of the critic to one of the generator."""

import numpy as np
import torch
from seeded import seeded
from torch import autograd, nn, optim

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4
rng = np.random.default_rng(2)
LAMBDA, CRITIC_ITERS, BATCH = 0.1, 5, 16
netG = seeded(nn.Sequential(nn.Linear(2, 16), nn.ReLU(True), nn.Linear(16, 2))).to(device)
netD = seeded(nn.Sequential(nn.Linear(2, 16), nn.Softplus(), nn.LayerNorm(16), nn.Linear(16, 1)), 1).to(device)


def calc_gradient_penalty(netD, real_data, fake_data, alpha):
    alpha = alpha.expand(real_data.size())
    interpolates = alpha * real_data + ((1 - alpha) * fake_data)
    interpolates = interpolates.detach().requires_grad_(True)
    disc_interpolates = netD(interpolates)
    gradients = autograd.grad(
        outputs=disc_interpolates,
        inputs=interpolates,
        grad_outputs=torch.ones(disc_interpolates.size(), device=device),
        create_graph=True,
        retain_graph=True,
        only_inputs=True,
    )[0]
    return ((gradients.norm(2, dim=1) - 1) ** 2).mean() * LAMBDA


def normal(*shape):
    return torch.from_numpy(rng.standard_normal(shape)).float().to(device)


def main():
    optimizerD = optim.Adam(netD.parameters(), lr=1e-2, betas=(0.5, 0.9))
    optimizerG = optim.Adam(netG.parameters(), lr=1e-2, betas=(0.5, 0.9))
    one = torch.tensor(1, dtype=torch.float, device=device)
    mone = one * -1
    costs, penalties, distances = [], [], []
    for iteration in range(3):
        for p in netD.parameters():
            p.requires_grad = True
        for _ in range(CRITIC_ITERS):
            real = normal(BATCH, 2) * 0.1 + torch.tensor([1.0, -1.0], device=device)
            netD.zero_grad()
            D_real = netD(real).mean()
            D_real.backward(mone)
            with torch.no_grad():
                noisev = normal(BATCH, 2)
            fake = netG(noisev).data
            D_fake = netD(fake).mean()
            D_fake.backward(one)
            alpha = torch.from_numpy(rng.random((BATCH, 1))).float().to(device)
            gradient_penalty = calc_gradient_penalty(netD, real.data, fake.data, alpha)
            gradient_penalty.backward()
            penalties.append(gradient_penalty.item())
            distances.append((D_real - D_fake).item())
            optimizerD.step()
        for p in netD.parameters():
            p.requires_grad = False
        netG.zero_grad()
        G = netD(netG(normal(BATCH, 2))).mean()
        G.backward(mone)
        G_cost = -G
        optimizerG.step()
        costs.append(G_cost.item())
    print(f"{len(costs)} iterations, Wasserstein distance {distances[-1]:.3f}")
    return {
        "costs": costs,
        "penalties": penalties,
        "distances": distances,
        "G": netG[2].weight,
        "D": netD[2].weight.grad,
    }
