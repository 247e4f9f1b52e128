"""A LLaMA-like decoder block: RMS norm, rotary positions by complex-free rotation, grouped queries, SwiGLU, a cache, LoRA."""

import math
from typing import Optional

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded
from torch import Tensor, einsum

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def _norm(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x):
        return self._norm(x.float()).type_as(x) * self.weight


def rotate_half(x: Tensor) -> Tensor:
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def rotary(positions: Tensor, dim: int):
    inv_freq = 1.0 / (10000 ** (torch.arange(0, dim, 2, device=positions.device).float() / dim))
    freqs = torch.outer(positions.float(), inv_freq)
    emb = torch.cat((freqs, freqs), dim=-1)
    return emb.cos(), emb.sin()


def repeat_kv(x: Tensor, n_rep: int) -> Tensor:
    bs, slen, n_kv_heads, head_dim = x.shape
    if n_rep == 1:
        return x
    return (
        x[:, :, :, None, :]
        .expand(bs, slen, n_kv_heads, n_rep, head_dim)
        .reshape(bs, slen, n_kv_heads * n_rep, head_dim)
    )


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, r=2, alpha=4):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.full((r, base.in_features), 0.01))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r))
        self.scaling = alpha / r

    def forward(self, x):
        return self.base(x) + einsum("...i,ri,or->...o", x, self.lora_A, self.lora_B) * self.scaling


class Block(nn.Module):
    def __init__(self, dim=24, heads=4, kv_heads=2):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, dim // heads
        self.wq, self.wo = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.wk, self.wv = (nn.Linear(dim, kv_heads * self.head_dim, bias=False) for _ in range(2))
        self.w1, self.w2, self.w3 = (
            nn.Linear(dim, 48, bias=False),
            nn.Linear(48, dim, bias=False),
            nn.Linear(dim, 48, bias=False),
        )
        self.norm1, self.norm2 = RMSNorm(dim), RMSNorm(dim)

    def forward(self, x: Tensor, start: int = 0, cache: Optional[dict] = None):
        B, T, _ = x.shape
        h = self.norm1(x)
        q, k, v = (w(h).view(B, T, -1, self.head_dim) for w in (self.wq, self.wk, self.wv))
        cos, sin = (t[None, :, None] for t in rotary(torch.arange(start, start + T, device=x.device), self.head_dim))
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        if cache is not None:
            cache["k"] = k = torch.cat([cache["k"], k], 1) if "k" in cache else k
            cache["v"] = v = torch.cat([cache["v"], v], 1) if "v" in cache else v
        k, v = repeat_kv(k, self.heads // self.kv_heads), repeat_kv(v, self.heads // self.kv_heads)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(self.head_dim)
        mask = torch.full((T, k.size(1)), float("-inf"), device=x.device)
        mask = torch.triu(mask, diagonal=k.size(1) - T + 1)
        attention = F.softmax((scores + mask).float(), dim=-1).type_as(q)
        out = torch.einsum("bhqk,bkhd->bqhd", attention, v).flatten(2)
        x = x + self.wo(out)
        h = self.norm2(x)
        return x + self.w2(F.silu(self.w1(h)) * self.w3(h))


def main():
    rng = np.random.default_rng(0)
    block = seeded(Block()).to(device)
    x = torch.from_numpy(rng.standard_normal((2, 7, 24)).astype(np.float32)).to(device)
    with torch.no_grad():
        whole, cache = block(x), {}
        parts = [block(x[:, :4], 0, cache)] + [block(x[:, i : i + 1], i, cache) for i in range(4, 7)]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
    block.requires_grad_(False)
    block.wq, block.wv = LoRALinear(block.wq).to(device), LoRALinear(block.wv).to(device)
    trainable = [n for n, p in block.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([p for p in block.parameters() if p.requires_grad], lr=1e-2)

    def train_step(x, target):
        loss = F.smooth_l1_loss(block(x), target, beta=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    losses = [train_step(x, x.roll(1, 1)).item() for _ in range(4)]
    merged = block.wq.base.weight + block.wq.scaling * block.wq.lora_B @ block.wq.lora_A
    trace = torch.einsum("ii", merged)
    bilinear = torch.einsum("bi,ij,bj->b", x[:, 0], merged, x[:, 1])
    print(trainable, f"{losses[-1]:.4f}", tuple(cache["k"].shape))
    return {"losses": losses, "whole": whole, "trace": trace, "bilinear": bilinear, "B": block.wv.lora_B}
