"""Denoising diffusion of points in the plane: schedules, a time embedding, the loss, ancestral and DDIM sampling."""

import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4


def cosine_beta_schedule(timesteps, s=0.008):
    x = torch.linspace(0, timesteps, timesteps + 1, dtype=torch.float64)
    alphas_cumprod = torch.cos(((x / timesteps) + s) / (1 + s) * math.pi * 0.5) ** 2
    alphas_cumprod = alphas_cumprod / alphas_cumprod[0]
    betas = 1 - (alphas_cumprod[1:] / alphas_cumprod[:-1])
    return torch.clip(betas, 0.0001, 0.9999).float()


def extract(a, t, x_shape):
    batch_size = t.shape[0]
    out = a.gather(-1, t)
    return out.reshape(batch_size, *((1,) * (len(x_shape) - 1)))


class SinusoidalPositionEmbeddings(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, time):
        half_dim = self.dim // 2
        embeddings = math.log(10000) / (half_dim - 1)
        embeddings = torch.exp(torch.arange(half_dim, device=time.device) * -embeddings)
        embeddings = time[:, None] * embeddings[None, :]
        return torch.cat((embeddings.sin(), embeddings.cos()), dim=-1)


class Denoiser(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.time = nn.Sequential(SinusoidalPositionEmbeddings(dim), nn.Linear(dim, dim), nn.SiLU())
        self.inp, self.mid, self.out = nn.Linear(2, dim), nn.Linear(dim, dim), nn.Linear(dim, 2)
        self.norm = nn.GroupNorm(4, dim)

    def forward(self, x, t):
        h = self.inp(x) + self.time(t)
        scale, shift = self.mid(F.silu(self.norm(h))).chunk(2, dim=1)
        h = h * (1 + torch.cat([scale, shift], 1))
        return self.out(F.silu(h))


def main():
    rng = np.random.default_rng(0)
    T = 20
    betas = cosine_beta_schedule(T).to(device)
    alphas = 1.0 - betas
    alphas_cumprod = torch.cumprod(alphas, dim=0)
    alphas_cumprod_prev = F.pad(alphas_cumprod[:-1], (1, 0), value=1.0)
    sqrt_ac, sqrt_om = torch.sqrt(alphas_cumprod), torch.sqrt(1.0 - alphas_cumprod)
    posterior_variance = betas * (1.0 - alphas_cumprod_prev) / (1.0 - alphas_cumprod)
    model = seeded(Denoiser()).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    ema = {k: v.clone() for k, v in model.state_dict().items()}

    def train_step(x0, t, noise):
        x_t = extract(sqrt_ac, t, x0.shape) * x0 + extract(sqrt_om, t, x0.shape) * noise
        loss = F.huber_loss(model(x_t, t), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    normal = lambda *shape: torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(device)
    losses = []
    for _ in range(8):
        angle = torch.from_numpy(rng.uniform(0, 2 * np.pi, 32)).float().to(device)
        x0 = torch.stack([angle.cos(), angle.sin()], dim=1)
        losses.append(train_step(x0, torch.from_numpy(rng.integers(0, T, 32)).to(device), normal(32, 2)).item())
        for k, v in model.state_dict().items():
            ema[k].lerp_(v, 0.1)

    model.load_state_dict(ema)
    model.eval()
    x = normal(6, 2)
    y = x.clone()
    with torch.no_grad():
        for i in reversed(range(T)):
            t = torch.full((6,), i, device=device, dtype=torch.long)
            mean = (x - extract(betas, t, x.shape) * model(x, t) / extract(sqrt_om, t, x.shape)) / extract(
                alphas, t, x.shape
            ).sqrt()
            x = mean + (extract(posterior_variance, t, x.shape).sqrt() * normal(6, 2) if i else 0)
            eps = model(y, t)
            x0 = ((y - sqrt_om[i] * eps) / sqrt_ac[i]).clamp(-1.5, 1.5)
            y = alphas_cumprod_prev[i].sqrt() * x0 + (1 - alphas_cumprod_prev[i]).sqrt() * eps
    print(f"{losses[-1]:.4f}", tuple(betas.shape), f"{betas[0]:.4f} {betas[-1]:.4f}")
    return {"losses": losses, "variance": posterior_variance, "ancestral": x, "ddim": y}
