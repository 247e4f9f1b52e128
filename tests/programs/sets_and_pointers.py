"""Networks over sets and strings: DeepSets, Gumbel and Sinkhorn permutations, a neural stack of caches, beam search, edit distance."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded

RTOL = 1e-4


class DeepSet(nn.Module):
    def __init__(self):
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(2, 8), nn.Softsign(), nn.Linear(8, 8))
        self.rho = nn.Sequential(nn.Linear(24, 8), nn.LogSigmoid(), nn.Linear(8, 1))

    def forward(self, x, mask):
        h = self.phi(x) * mask[..., None]
        top = h.masked_fill(~mask.bool()[..., None], torch.finfo(h.dtype).min).amax(dim=1)
        mean = h.sum(1) / mask.sum(1, keepdim=True)
        std = (
            ((h - mean[:, None]).square() * mask[..., None]).sum(dim=1).div(mask.sum(1, keepdim=True)).add(1e-5).sqrt()
        )
        return self.rho(torch.cat([mean, top, std], dim=-1)).squeeze(-1)


def sinkhorn(log_alpha, n_iters=10):
    for _ in range(n_iters):
        log_alpha = log_alpha - torch.logsumexp(log_alpha, -1, keepdim=True)
        log_alpha = log_alpha - torch.logsumexp(log_alpha, -2, keepdim=True)
    return log_alpha.exp()


def beam_search(step, start, width, length, eos):
    sequences, scores = start.repeat(width, 1), torch.tensor([0.0] + [-1e9] * (width - 1))
    finished = torch.zeros(width, dtype=torch.bool)
    for _ in range(length):
        logp = F.log_softmax(step(sequences), dim=-1)
        only_eos = torch.full_like(logp, -1e9)
        only_eos[:, eos] = 0.0
        logp = torch.where(finished[:, None], only_eos, logp)
        total = (scores[:, None] + logp).view(-1)
        scores, index = torch.topk(total, width)
        beam = torch.div(index, logp.size(-1), rounding_mode="floor")
        token = index % logp.size(-1)
        sequences = torch.cat([sequences[beam], token[:, None]], dim=1)
        finished = finished[beam] | (token == eos)
        if finished.all():
            break
    return sequences, scores


def edit_distance(a, b):
    d = torch.zeros(len(a) + 1, len(b) + 1, dtype=torch.int64)
    d[:, 0], d[0] = torch.arange(len(a) + 1), torch.arange(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            d[i, j] = min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + (a[i - 1] != b[j - 1]))
    return d


def main():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((10, 5, 2))).float()
    mask = (torch.arange(5) < torch.from_numpy(rng.integers(1, 6, (10, 1)))).float()
    y = (x.prod(-1) * mask).sum(1)
    model = seeded(DeepSet())
    optimizer = torch.optim.Adamax(model.parameters(), lr=0.02)

    def train_step(x, mask, y):
        loss = F.l1_loss(model(x, mask), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    losses = [train_step(x, mask, y).item() for _ in range(5)]
    order = torch.from_numpy(rng.permutation(5))
    full = torch.ones(10, 5)
    assert torch.allclose(model(x, full), model(x[:, order], full), atol=1e-5)

    cost = torch.from_numpy(rng.standard_normal((2, 4, 4))).float().requires_grad_()
    uniform = torch.from_numpy(rng.random((2, 4, 4))).float().clamp(1e-6, 1 - 1e-6)
    permutation = sinkhorn((cost - torch.log(-torch.log(uniform))) / 0.5, 20)
    (permutation * cost.detach()).sum((1, 2)).norm().backward()
    hard = torch.zeros_like(permutation).scatter_(-1, permutation.argmax(-1, keepdim=True), 1.0)
    straight = hard - permutation.detach() + permutation

    table = torch.from_numpy(rng.standard_normal((6, 6))).float()
    sequences, scores = beam_search(lambda s: table[s[:, -1]] + 0.1 * table[s].mean(1), torch.tensor([[1]]), 3, 6, 0)
    decoded = ["".join(chr(97 + t) for t in s) for s in sequences.tolist()]
    distances = edit_distance("kitten", "sitting")
    p = F.softmax(table, dim=-1)
    js = 0.5 * (
        F.kl_div(((p + p.T) / 2).log(), p, reduction="sum") + F.kl_div(((p + p.T) / 2).log(), p.T, reduction="sum")
    )
    print(decoded, distances[-1, -1].item(), f"{js:.4f}", (straight.sum(-1) - 1).abs().max() < 1e-5)
    return {"losses": losses, "permutation": permutation, "grad": cost.grad, "scores": scores, "sequences": sequences,
            "distances": distances, "js": js}  # fmt: skip
