"""k-means: k-means++ seeding, distances by cdist and by broadcasting, empty clusters, the elbow."""

import numpy as np
import torch

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def init_plus_plus(X, k, rng):
    centers = X[rng.integers(len(X))].unsqueeze(0)
    for _ in range(k - 1):
        d2 = torch.cdist(X, centers).min(dim=1)[0] ** 2
        index = torch.searchsorted(d2.cumsum(0), d2.sum() * rng.random())
        centers = torch.vstack([centers, X[index]])
    return centers


def kmeans(X, k, rng, num_iters=20, tol=1e-6):
    centers = init_plus_plus(X, k, rng)
    for i in range(num_iters):
        D = ((X[:, None, :] - centers[None, :, :]) ** 2).sum(-1)
        cl = D.argmin(dim=1).long().view(-1)
        new = torch.zeros_like(centers)
        new.scatter_add_(0, cl[:, None].repeat(1, X.size(1)), X)
        n = torch.bincount(cl, minlength=k).type_as(new).view(k, 1)
        new /= n.clamp(min=1)
        shift = (new - centers).norm(dim=1).max()
        centers = torch.where(n > 0, new, centers)
        if shift <= tol:
            break
    inertia = torch.gather(D, 1, cl.unsqueeze(1)).sum()
    return centers, cl, inertia, i


def main():
    rng = np.random.default_rng(7)
    truth = rng.uniform(-6, 6, (4, 2))
    X = torch.from_numpy(np.concatenate([rng.normal(c, 0.4, (25, 2)) for c in truth])).float().to(device)
    results = []
    for k in range(1, 6):
        centers, labels, inertia, steps = kmeans(X, k, np.random.default_rng(k))
        order = torch.argsort(centers[:, 0])
        results.append([centers[order], inertia, steps])
        print(
            f"{k} clusters: {inertia:.1f} after {steps} steps, sizes {sorted(torch.unique(labels, return_counts=True)[1].tolist())}"
        )
    a, b = torch.cdist(X[:20], X[:20]), torch.norm(X[:20, None] - X[None, :20], dim=2, p=2)
    assert torch.allclose(a, b, atol=1e-5)
    # Silhouettes of the last clustering.
    dist = torch.cdist(X, X, p=1.0)
    same = labels[:, None] == labels[None]
    inner = (dist * same).sum(1) / (same.sum(1) - 1).clamp_min(1)
    means = torch.stack([dist[:, labels == c].mean(1) for c in labels.unique()], dim=1)
    means[torch.arange(len(X), device=device), labels] = float("inf")
    outer = means.min(1).values
    silhouette = (outer - inner) / torch.maximum(inner, outer)
    return {"results": results, "silhouette": silhouette, "labels": labels}
