"""A radiance field of one ray bundle: positional encoding, volume rendering, hierarchical sampling; a SIREN; a hypernetwork."""

import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded

RTOL = 1e-4


class Embedder:
    def __init__(self, n_freqs):
        self.freq_bands = 2.0 ** torch.linspace(0.0, n_freqs - 1, steps=n_freqs)

    def __call__(self, x):
        return torch.cat([x] + [fn(x * freq) for freq in self.freq_bands for fn in (torch.sin, torch.cos)], -1)


def raw2outputs(raw, z_vals, rays_d, white_bkgd=True):
    dists = z_vals[..., 1:] - z_vals[..., :-1]
    dists = torch.cat([dists, torch.tensor([1e10]).expand(dists[..., :1].shape)], -1)
    dists = dists * torch.norm(rays_d[..., None, :], dim=-1)
    rgb = torch.sigmoid(raw[..., :3])
    alpha = 1.0 - torch.exp(-F.relu(raw[..., 3]) * dists)
    weights = alpha * torch.cumprod(torch.cat([torch.ones((alpha.shape[0], 1)), 1.0 - alpha + 1e-10], -1), -1)[:, :-1]
    rgb_map = torch.sum(weights[..., None] * rgb, -2)
    depth_map = torch.sum(weights * z_vals, -1)
    acc_map = torch.sum(weights, -1)
    if white_bkgd:
        rgb_map = rgb_map + (1.0 - acc_map[..., None])
    return rgb_map, depth_map, weights


def sample_pdf(bins, weights, n_samples):
    weights = weights + 1e-5
    pdf = weights / torch.sum(weights, -1, keepdim=True)
    cdf = torch.cumsum(pdf, -1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf], -1)
    u = torch.linspace(0.05, 0.95, steps=n_samples)
    u = u.expand(list(cdf.shape[:-1]) + [n_samples]).contiguous()
    inds = torch.searchsorted(cdf, u, right=True)
    below = torch.max(torch.zeros_like(inds - 1), inds - 1)
    above = torch.min((cdf.shape[-1] - 1) * torch.ones_like(inds), inds)
    inds_g = torch.stack([below, above], -1)
    matched_shape = [inds_g.shape[0], inds_g.shape[1], cdf.shape[-1]]
    cdf_g = torch.gather(cdf.unsqueeze(1).expand(matched_shape), 2, inds_g)
    bins_g = torch.gather(bins.unsqueeze(1).expand(matched_shape), 2, inds_g)
    denom = cdf_g[..., 1] - cdf_g[..., 0]
    denom = torch.where(denom < 1e-5, torch.ones_like(denom), denom)
    t = (u - cdf_g[..., 0]) / denom
    return bins_g[..., 0] + t * (bins_g[..., 1] - bins_g[..., 0])


class NeRF(nn.Module):
    def __init__(self, channels, W=16):
        super().__init__()
        self.pts_linears = nn.ModuleList(
            [nn.Linear(channels, W)] + [nn.Linear(W, W) if i != 1 else nn.Linear(W + channels, W) for i in range(2)]
        )
        self.output = nn.Linear(W, 4)

    def forward(self, x):
        h = x
        for i, layer in enumerate(self.pts_linears):
            h = F.relu(layer(h))
            if i == 1:
                h = torch.cat([x, h], -1)
        return self.output(h)


class Siren(nn.Module):
    def __init__(self, first=30.0):
        super().__init__()
        self.first, self.net = first, nn.ModuleList([nn.Linear(2, 16), nn.Linear(16, 16), nn.Linear(16, 1)])

    def forward(self, coords):
        coords = coords.clone().detach().requires_grad_(True)
        x = torch.sin(self.first * self.net[0](coords) * 0.1)
        x = torch.sin(self.net[1](x))
        return self.net[2](x), coords


def laplace(y, x):
    grad = torch.autograd.grad(y, [x], grad_outputs=torch.ones_like(y), create_graph=True)[0]
    div = 0.0
    for i in range(grad.shape[-1]):
        div += torch.autograd.grad(grad[..., i], x, torch.ones_like(grad[..., i]), create_graph=True)[0][..., i : i + 1]
    return grad, div


def main():
    rng = np.random.default_rng(0)
    rays_o = torch.zeros(6, 3)
    rays_d = F.normalize(torch.from_numpy(rng.standard_normal((6, 3))).float(), dim=-1)
    target = torch.from_numpy(rng.random((6, 3))).float()
    embed, model = Embedder(3), seeded(NeRF(21))
    optimizer = torch.optim.Adam(params=model.parameters(), lr=5e-3, betas=(0.9, 0.999))
    losses = []
    for _ in range(4):
        z_vals = 1.0 / (1.0 / 2.0 * (1.0 - torch.linspace(0, 1, 8)) + 1.0 / 6.0 * torch.linspace(0.0, 1.0, steps=8))
        z_vals = z_vals.expand([6, 8])
        pts = rays_o[..., None, :] + rays_d[..., None, :] * z_vals[..., :, None]
        coarse, _, weights = raw2outputs(model(embed(pts)), z_vals, rays_d)
        z_mid = 0.5 * (z_vals[..., 1:] + z_vals[..., :-1])
        z_samples = sample_pdf(z_mid, weights[..., 1:-1], 6).detach()
        z_fine, _ = torch.sort(torch.cat([z_vals, z_samples], -1), -1)
        pts = rays_o[..., None, :] + rays_d[..., None, :] * z_fine[..., :, None]
        fine, depth, _ = raw2outputs(model(embed(pts)), z_fine, rays_d)
        loss = torch.mean((coarse - target) ** 2) + torch.mean((fine - target) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    psnr = -10.0 * torch.log(torch.tensor(losses[-1])) / torch.log(torch.tensor([10.0]))

    siren = seeded(Siren())
    coords = torch.stack(
        torch.meshgrid(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 5), indexing="ij"), dim=-1
    ).reshape(-1, 2)
    y, x = siren(coords)
    grad, div = laplace(y, x)
    (y.square().mean() + grad.norm(dim=-1).mean() + div.abs().mean()).backward()

    hyper = seeded(nn.Linear(3, 4 * 2 + 2), 2)
    generated = hyper(target[:2])
    weight, bias = generated[:, :8].view(-1, 2, 4), generated[:, 8:]
    out = torch.baddbmm(bias.unsqueeze(2), weight, torch.ones(2, 4, 1)).squeeze(-1)
    out.logsumexp(1).sum().backward()
    print(f"{losses[-1]:.4f} {psnr.item():.2f} dB, {math.pi:.2f}")
    return {
        "losses": losses,
        "depth": depth,
        "z": z_fine,
        "div": div,
        "siren": siren.net[0].weight.grad,
        "hyper": hyper.weight.grad,
    }
