"""Idioms of indexing: masks, advanced assignment, scatter, topk, sort, unique, bincount, cumsum, run lengths, windows."""

import numpy as np
import torch

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 6, (5, 7))).to(device)
    w = torch.from_numpy(rng.standard_normal((5, 7)).astype("float32")).to(device)
    out = {}
    out["mask"] = w[x > 3]
    out["row mask"] = w[(x == 0).any(dim=1)]
    out["pairs"] = w[torch.arange(5, device=device), x[:, 0]]
    out["negative"] = w[[-1, 0]][:, -3:]
    out["mixed"] = w[:, None, [1, 2]][..., 0]
    out["outer"] = w[torch.tensor([0, 2], device=device)[:, None], torch.tensor([1, 3, 5], device=device)]
    out["ellipsis"] = w.unsqueeze(0)[..., ::2]
    a = w.clone()
    a[x == 1] = -1.0
    a[[0, 1], [0, 1]] = torch.tensor([9.0, 8.0], device=device)
    a[2] = 7
    a[:, 5] += 1
    a[3, 1:4] = a[4, 1:4] * 2
    a[x == 2] *= 0.5
    out["assigned"] = a
    flat = x.flatten()
    counts = torch.bincount(flat, minlength=8)
    values, inverse, number = torch.unique(flat, return_inverse=True, return_counts=True)
    out["counts"], out["unique"] = counts, [values, inverse, number]
    out["histogram"] = torch.histc(w, bins=5, min=-2, max=2)
    consecutive, lengths = torch.unique_consecutive(torch.sort(flat).values, return_counts=True)
    out["runs"] = [consecutive, lengths, torch.repeat_interleave(consecutive, lengths)]
    v, i = torch.topk(w, 3, dim=1)
    out["topk"] = [v, i, torch.zeros_like(w).scatter_(1, i, 1.0), torch.gather(w, 1, i)]
    s, order = torch.sort(w, dim=0, descending=True)
    out["rank"] = torch.argsort(order, dim=0)
    out["sorted"] = torch.take_along_dim(w, order, dim=0).eq(s).all()
    out["segment sums"] = torch.zeros(6, device=device).scatter_add_(0, flat, w.flatten())
    out["segment means"] = torch.zeros(6, device=device).scatter_reduce_(
        0, flat, w.flatten(), "mean", include_self=False
    )
    out["cumulative"] = [w.cumsum(1), w.cumprod(0), torch.cummax(w, 1)[0], w.logcumsumexp(1)]
    lengths = torch.tensor([2, 0, 3], device=device)
    ends = lengths.cumsum(0)
    out["ragged"] = torch.arange(5, device=device) - (ends - lengths).repeat_interleave(lengths)
    out["first"] = (x > 2).int().argmax(dim=1)
    out["nonzero"] = [(x > 4).nonzero(), *torch.nonzero(x > 4, as_tuple=True)]
    out["where"] = torch.where(w > 0, w, w.exp() - 1)
    out["windows"] = w.unfold(1, 3, 2).mean(-1)
    out["strided"] = w.reshape(-1)[::3].view(-1, 2)
    out["masked"] = [w.masked_fill(x.bool(), 0), w.masked_select(x.eq(3)), torch.zeros_like(w).masked_scatter(x > 2, w)]
    out["one hot"] = torch.nn.functional.one_hot(x[0], 6).float().T @ w[0].unsqueeze(1)
    out["confusion"] = torch.bincount(x[0] * 6 + x[1], minlength=36).reshape(6, 6)
    out["bucket"] = torch.bucketize(w, torch.tensor([-1.0, 0.0, 1.0], device=device))
    out["diagonal"] = [w.diagonal(1), torch.diag_embed(w[:, 0])[0], w[:, :5].tril().diag()]
    out["moved"] = [w.roll((1, 2), (0, 1)), w.flip(0, 1), w.rot90(), w.movedim(0, 1), w.t().contiguous().view(-1)]
    out["grid"] = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij"), -1).flatten(0, 1)
    out["split"] = [t.sum() for t in w.split([2, 5], dim=1)] + [t.mean() for t in w.chunk(3, dim=1)]
    out["isin"] = torch.isin(x, torch.tensor([1, 4], device=device))
    out["median"] = [w.median(), *w.median(dim=1), w.kthvalue(2, dim=1).values, w.mode(0).values]
    out["index ops"] = [
        w.index_select(1, torch.tensor([0, 0, 3], device=device)),
        w.clone().index_fill_(0, torch.tensor([1], device=device), 0.0),
        w.clone().index_copy_(1, torch.tensor([2], device=device), w[:, :1]),
        w.clone().index_put_(
            (torch.tensor([0, 0], device=device), torch.tensor([1, 1], device=device)),
            torch.tensor([1.0, 2.0], device=device),
            accumulate=True,
        ),
        w.take(torch.tensor([0, 34], device=device)),
        w.clone().put_(torch.tensor([3, 4], device=device), torch.tensor([1.0, 2.0], device=device)),
    ]
    p = w.clone().requires_grad_()
    (p[x > 3].sum() + p[:, 1].pow(2).sum() + p[[0, 0, 1]].sum() + p.max(dim=1).values.sum()).backward()
    out["grad"] = p.grad
    first, *rest = w
    out["unpacked"] = [first, len(rest), max(w[0]), sum(w[1]), [round(v, 3) for v in w[2].tolist()]]
    for name in ("pairs", "counts", "nonzero"):
        print(name, out[name])
    return out
