"""A variational autoencoder with the reparameterisation trick, of an Encoder and a Decoder."""

import numpy as np
import torch
import torch.nn.functional as F
from seeded import seeded
from torch import nn, optim
from torch.distributions import Normal, kl_divergence

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
rng = np.random.default_rng(1)


def noise_like(t):
    return torch.from_numpy(rng.standard_normal(tuple(t.shape))).to(t)


class VAE(nn.Module):
    def __init__(self):
        super(VAE, self).__init__()
        self.fc1 = nn.Linear(36, 20)
        self.fc21 = nn.Linear(20, 3)
        self.fc22 = nn.Linear(20, 3)
        self.fc3 = nn.Linear(3, 20)
        self.fc4 = nn.Linear(20, 36)

    def encode(self, x):
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu, logvar, eps):
        std = torch.exp(0.5 * logvar)
        return mu + eps * std

    def decode(self, z):
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

    def forward(self, x, eps):
        mu, logvar = self.encode(x.view(-1, 36))
        return self.decode(self.reparameterize(mu, logvar, eps)), mu, logvar


def loss_function(recon_x, x, mu, logvar):
    BCE = F.binary_cross_entropy(recon_x, x.view(-1, 36), reduction="sum")
    KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return BCE + KLD


def main():
    x = torch.from_numpy(rng.random((24, 1, 6, 6))).float().to(device)
    model = seeded(VAE()).to(device)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    def train_step(x, eps):
        optimizer.zero_grad()
        recon, mu, logvar = model(x, eps)
        loss = loss_function(recon, x, mu, logvar)
        loss.backward()
        optimizer.step()
        return loss

    losses = []
    for _ in range(10):
        losses.append(train_step(x, noise_like(x[:, 0, 0, :3])).item() / len(x))
    with torch.no_grad():
        recon, mu, logvar = model(x, noise_like(x[:, 0, 0, :3]))
        q, p = Normal(mu, logvar.mul(0.5).exp_()), Normal(torch.zeros_like(mu), torch.ones_like(mu))
        kl = kl_divergence(q, p).sum(-1)
        comparison = torch.cat([x[:8], recon.view(-1, 1, 6, 6)[:8]])
        samples = model.decode(torch.eye(3, device=device)).view(3, 1, 6, 6)
    print(f"====> Average loss: {losses[-1]:.4f}")
    return {"losses": losses, "kl": kl, "comparison": comparison.std(0, unbiased=False), "samples": samples}
