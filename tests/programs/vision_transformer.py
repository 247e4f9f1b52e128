"""A vision transformer and an MLP-mixer, distilled from a small convnet; mixup, label smoothing, stochastic depth off."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4


def pair(t):
    return t if isinstance(t, tuple) else (t, t)


class PatchEmbed(nn.Module):
    def __init__(self, img_size=12, patch_size=4, in_chans=3, embed_dim=16):
        super().__init__()
        (h, w), (p, q) = pair(img_size), pair(patch_size)
        self.num_patches = (h // p) * (w // q)
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=(p, q), stride=(p, q))

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class DropPath(nn.Module):
    def __init__(self, drop_prob=0.0):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x.div(keep) * mask


class EncoderBlock(nn.Module):
    def __init__(self, dim, heads, mixer=None):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.mixer = mixer
        if mixer is None:
            self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.gamma = nn.Parameter(1e-1 * torch.ones(dim))
        self.drop_path = DropPath(0.0)

    def forward(self, x):
        h = self.norm1(x)
        h = (
            self.attn(h, h, h, need_weights=False)[0]
            if self.mixer is None
            else self.mixer(h.transpose(1, 2)).transpose(1, 2)
        )
        x = x + self.drop_path(self.gamma * h)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    def __init__(self, num_classes=4, dim=16, depth=2):
        super().__init__()
        self.patch_embed = PatchEmbed(embed_dim=dim)
        n = self.patch_embed.num_patches
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, n + 1, dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.Sequential(EncoderBlock(dim, 4), EncoderBlock(dim, 4, nn.Linear(n + 1, n + 1)))
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x):
        x = self.patch_embed(x)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed
        x = F.layer_norm(self.blocks(x), x.shape[-1:])
        return self.head(x[:, 0])


def mixup(x, y, lam, perm):
    return lam * x + (1 - lam) * x[perm], lam * y + (1 - lam) * y[perm]


def main():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((12, 3, 12, 12)).astype(np.float32)).to(device)
    labels = torch.from_numpy(rng.integers(0, 4, 12)).to(device)
    teacher = seeded(
        nn.Sequential(nn.Conv2d(3, 4, 5, stride=3), nn.ReLU6(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    )
    teacher = teacher.to(device).eval()
    student = seeded(ViT()).to(device)
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)

    def train_step(x, target, T):
        with torch.no_grad():
            soft = F.softmax(teacher(x) / T, dim=1)
        logits = student(x)
        hard = torch.sum(-target * F.log_softmax(logits, dim=-1), dim=-1).mean()
        loss = hard + F.kl_div(F.log_softmax(logits / T, dim=1), soft, reduction="batchmean") * T * T
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    T, losses = torch.tensor(3.0, device=device), []
    for _ in range(5):
        lam, perm = float(rng.beta(0.8, 0.8)), torch.from_numpy(rng.permutation(12)).to(device)
        mixed, target = mixup(x, F.one_hot(labels, 4).float(), lam, perm)
        losses.append(train_step(mixed, target, T).item())
    with torch.no_grad():
        weights = student.blocks[0].attn(*[student.patch_embed(x[:1])] * 3, average_attn_weights=True)[1]
    print(f"{losses[-1]:.4f}", tuple(weights.shape), x.shape[1:] == (3, 12, 12))
    return {"losses": losses, "weights": weights, "logits": student(x), "gamma": student.blocks[1].gamma}
