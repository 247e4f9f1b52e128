"""A recommender: factors and biases of users and items, explicit ratings by MSE, implicit ones by BCE and BPR."""

import numpy as np
import torch
from seeded import seeded
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split

RTOL = 1e-4


class Ratings(Dataset):
    def __init__(self, n_users, n_items, n):
        rng = np.random.default_rng(0)
        taste, kind = rng.standard_normal((n_users, 2)), rng.standard_normal((n_items, 2))
        self.users, self.items = rng.integers(0, n_users, n), rng.integers(0, n_items, n)
        scores = (taste[self.users] * kind[self.items]).sum(1) + 3
        self.ratings = scores.clip(1, 5).round().astype(np.float32)

    def __len__(self):
        return len(self.ratings)

    def __getitem__(self, i):
        return self.users[i], self.items[i], self.ratings[i]


class MatrixFactorization(nn.Module):
    def __init__(self, n_users, n_items, n_factors=4, mean=0.0):
        super().__init__()
        self.user_factors = nn.Embedding(n_users, n_factors)
        self.item_factors = nn.Embedding(n_items, n_factors)
        self.user_biases, self.item_biases = nn.Embedding(n_users, 1), nn.Embedding(n_items, 1)
        self.user_biases.weight.data.zero_()
        self.mean = mean

    def forward(self, user, item):
        pred = self.user_biases(user) + self.item_biases(item) + self.mean
        pred += (self.user_factors(user) * self.item_factors(item)).sum(dim=1, keepdim=True)
        return pred.squeeze()


def main():
    data = Ratings(12, 15, 120)
    train, test = random_split(data, [100, 20], generator=torch.Generator().manual_seed(0))
    print(len(train), len(test), sorted(set(train.indices) | set(test.indices)) == list(range(120)))
    train.indices, test.indices = list(range(100)), list(range(100, 120))
    loader = DataLoader(train, batch_size=32)
    model = seeded(MatrixFactorization(12, 15, mean=float(data.ratings.mean())))
    optimizer = torch.optim.SGD(
        [
            {"params": [model.user_factors.weight, model.item_factors.weight], "weight_decay": 1e-3},
            {"params": [p for n, p in model.named_parameters() if "biases" in n]},
        ],
        lr=0.5, momentum=0.5,
    )  # fmt: skip
    losses = []
    for _ in range(3):
        for user, item, rating in loader:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(user, item), rating)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    user, item, rating = next(iter(DataLoader(test, batch_size=len(test))))
    with torch.no_grad():
        rmse = (model(user, item) - rating).square().mean().sqrt()

    # Implicit feedback: liked or not, then ranking of pairs.
    liked = (rating >= 3).float()
    bce = nn.BCEWithLogitsLoss()(model(user, item) - 3, liked)
    negative = (item + 7) % 15
    bpr = -(model(user, item) - model(user, negative)).sigmoid().log().mean()
    (bce + bpr).backward()
    scores = model.user_factors.weight @ model.item_factors.weight.T + model.item_biases.weight.T
    seen = torch.zeros_like(scores, dtype=torch.bool)
    seen[user, item] = True
    top = scores.masked_fill(seen, -torch.inf).topk(3, dim=1)
    hits = (top.indices.unsqueeze(-1) == item[None, None]).any(-1).float().mean()
    print(f"rmse {rmse:.3f}, bce {bce:.3f}, bpr {bpr:.3f}, hits {hits:.3f}")
    return {
        "losses": losses,
        "rmse": rmse,
        "top": top.values,
        "which": top.indices,
        "grad": model.item_factors.weight.grad,
    }
