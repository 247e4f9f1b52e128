"""Own checkpoints with torch.save and torch.load: epoch, weights, optimizer, schedule, best score, configuration; resuming."""

import os
import tempfile
from collections import OrderedDict

import numpy as np
import torch
import torch.nn as nn
from seeded import seeded

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4


def build():
    model = seeded(
        nn.Sequential(
            OrderedDict([("fc1", nn.Linear(3, 8, bias=False)), ("bn", nn.BatchNorm1d(8)), ("fc2", nn.Linear(8, 1))])
        )
    )
    model = model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    return model, optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 5], gamma=0.3)


def epoch_of(model, optimizer, scheduler, X, y):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(X), y)
    loss.backward()
    optimizer.step()
    scheduler.step()
    return loss.item()


def save_checkpoint(state, is_best, filename):
    torch.save(state, filename)
    if is_best:
        torch.save(state["state_dict"], filename.replace(".pth.tar", "_best.pth.tar"))


def main():
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.standard_normal((20, 3))).float().to(device)
    y = X.pow(2).sum(1, keepdim=True)
    model, optimizer, scheduler = build()
    best, losses = float("inf"), []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "checkpoint.pth.tar")
        for epoch in range(4):
            losses.append(epoch_of(model, optimizer, scheduler, X, y))
            is_best, best = losses[-1] < best, min(best, losses[-1])
            save_checkpoint(
                {
                    "epoch": epoch + 1,
                    "arch": "mlp",
                    "state_dict": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "best_loss": best,
                    "args": {"lr": 0.05, "milestones": [2, 5], "resume": None, "shape": (20, 3)},
                    "history": losses,
                    "rng_state": torch.get_rng_state(),
                },
                is_best,
                path,
            )
        print(sorted(os.listdir(folder)), os.path.isfile(path))
        continued = [epoch_of(model, optimizer, scheduler, X, y) for _ in range(3)]

        resumed, optimizer2, scheduler2 = build()
        checkpoint = torch.load(path, map_location=device, weights_only=False)
        start_epoch, best = checkpoint["epoch"], checkpoint["best_loss"]
        resumed.load_state_dict(checkpoint["state_dict"])
        optimizer2.load_state_dict(checkpoint["optimizer"])
        scheduler2.load_state_dict(checkpoint["scheduler"])
        torch.set_rng_state(checkpoint["rng_state"])
        again = [epoch_of(resumed, optimizer2, scheduler2, X, y) for _ in range(3)]
        assert again == continued and checkpoint["history"] == losses
        print(sorted(checkpoint), checkpoint["args"], start_epoch, checkpoint["arch"])

        # Weights alone; names with a prefix, as from DataParallel; a list of tensors.
        weights = torch.load(path.replace(".pth.tar", "_best.pth.tar"), map_location="cpu", weights_only=True)
        prefixed = OrderedDict(("module." + k, v) for k, v in weights.items())
        torch.save(prefixed, os.path.join(folder, "parallel.pt"))
        stripped = {k.replace("module.", "", 1): v for k, v in torch.load(os.path.join(folder, "parallel.pt")).items()}
        print(resumed.load_state_dict(stripped), list(weights)[:3])
        torch.save([X[:2], {"n": torch.tensor(3)}, 0.5], os.path.join(folder, "list.pt"))
        tensors = torch.load(os.path.join(folder, "list.pt"), map_location=device)
        torch.save(X, os.path.join(folder, "tensor.pt"))
        assert torch.equal(torch.load(os.path.join(folder, "tensor.pt")).to(device), X)
        try:
            torch.load(os.path.join(folder, "absent.pt"))
        except FileNotFoundError as error:
            print(type(error).__mro__[-4].__name__)
    return {
        "losses": losses,
        "again": again,
        "weights": list(weights.values()),
        "list": [tensors[0], tensors[1]["n"], tensors[2]],
    }
