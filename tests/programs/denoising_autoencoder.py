"""A convolutional autoencoder that removes noise: encoder and decoder of strided convolutions."""

import numpy as np
import torch
from seeded import seeded
from torch import nn
from torch.utils.data import DataLoader, Dataset

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4


class Stripes(Dataset):
    """Images with one bright row, noisy and clean."""

    def __init__(self, n, transform=None):
        self.rng = np.random.default_rng(5)
        self.rows = self.rng.integers(0, 8, n)
        self.noise = self.rng.normal(0, 0.2, (n, 1, 8, 8)).astype(np.float32)
        self.transform = transform

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, idx):
        if torch.is_tensor(idx):
            idx = idx.tolist()
        clean = torch.zeros(1, 8, 8)
        clean[:, self.rows[idx]] = 1
        noisy = (clean + torch.as_tensor(self.noise[idx])).clamp(0.0, 1.0)
        sample = {"noisy": noisy, "clean": clean, "row": self.rows[idx], "name": f"image {idx}"}
        return self.transform(sample) if self.transform else sample


class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.ELU(),
            nn.Conv2d(4, 8, 3, stride=2, padding=1),
            nn.Flatten(),
            nn.Linear(32, 6),
        )
        self.decoder = nn.Sequential(
            nn.Linear(6, 32),
            nn.Unflatten(1, (8, 2, 2)),
            nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(True),
            nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.decoder(self.encoder(x))


def flipped(sample):
    return {**sample, "noisy": sample["noisy"].flip(-1)}


def main():
    dataset = Stripes(40, transform=flipped)
    loader = DataLoader(dataset, batch_size=16, shuffle=False, drop_last=True)
    model = seeded(AutoEncoder()).to(device)
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adamax(model.parameters(), lr=1e-2)
    losses, names = [], []
    for epoch in range(3):
        train_loss = 0.0
        for batch in loader:
            noisy, clean = batch["noisy"].to(device), batch["clean"].to(device)
            optimizer.zero_grad()
            loss = criterion(model(noisy), clean)
            loss.backward()
            optimizer.step()
            train_loss += loss.item() * noisy.size(0)
        losses.append(train_loss / len(loader))
        names += batch["name"][:2]
        print("Epoch: {} \tTraining Loss: {:.6f}".format(epoch, losses[-1]))
    batch = next(iter(loader))
    with torch.no_grad():
        codes = model.encoder(batch["noisy"].to(device))
    return {"losses": losses, "codes": codes, "names": names, "rows": batch["row"], "weight": model.decoder[2].weight}
