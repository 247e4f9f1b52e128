"""Siamese and triplet networks: contrastive and triplet losses, hard negatives, pairwise distances, recall."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded

RTOL = 1e-4


class ContrastiveLoss(torch.nn.Module):
    def __init__(self, margin=2.0):
        super(ContrastiveLoss, self).__init__()
        self.margin = margin

    def forward(self, output1, output2, label):
        euclidean_distance = F.pairwise_distance(output1, output2, keepdim=True)
        return torch.mean(
            (1 - label) * torch.pow(euclidean_distance, 2)
            + label * torch.pow(torch.clamp(self.margin - euclidean_distance, min=0.0), 2)
        )


class Embed(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn1 = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(1, 4, kernel_size=3), nn.ReLU(inplace=True), nn.BatchNorm2d(4),
            nn.AvgPool2d(2), nn.Dropout2d(p=0.0),
        )  # fmt: skip
        self.fc1 = nn.Sequential(nn.Linear(4 * 4 * 4, 16), nn.PReLU(), nn.Linear(16, 4))

    def forward(self, x):
        output = self.cnn1(x)
        output = output.view(output.size()[0], -1)
        return self.fc1(output)


def batch_hard(embeddings, labels, margin=0.5):
    dist = torch.cdist(embeddings, embeddings)
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    positive = (dist * same.float()).max(dim=1, keepdim=True)[0]
    furthest = dist.max(1, keepdim=True)[0]
    negative, _ = (dist + furthest * same.float()).min(dim=1, keepdim=True)
    return F.relu(positive - negative + margin).mean()


def main():
    rng = np.random.default_rng(0)
    labels = torch.arange(4).repeat_interleave(4)
    images = torch.zeros(16, 1, 8, 8)
    for i, y in enumerate(labels.tolist()):
        images[i, 0, 2 * y : 2 * y + 2] = 1
    images += 0.2 * torch.from_numpy(rng.standard_normal((16, 1, 8, 8))).float()
    net = seeded(Embed())
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    criterion, triplet = ContrastiveLoss(), nn.TripletMarginLoss(margin=1.0, p=2)
    cosine = nn.CosineEmbeddingLoss(margin=0.2)
    losses = []
    for _ in range(5):
        i, j = torch.from_numpy(rng.integers(0, 16, (2, 16)))
        out1, out2 = net(images[i]), net(images[j])
        different = (labels[i] != labels[j]).float().unsqueeze(-1)
        anchor, positive, negative = net(images), net(images[torch.arange(16) ^ 1]), net(images.roll(4, dims=0))
        loss = criterion(out1, out2, different) + triplet(anchor, positive, negative)
        loss = loss + batch_hard(anchor, labels) + cosine(out1, out2, 1 - 2 * different.squeeze())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    net.eval()
    with torch.no_grad():
        embeddings = F.normalize(net(images), p=2, dim=1)
        similarity = embeddings @ embeddings.t()
        similarity.fill_diagonal_(-1)
        nearest = similarity.argsort(dim=1, descending=True)[:, :3]
        recall = (labels[nearest] == labels[:, None]).any(dim=1).float().mean()
    print(f"{losses[-1]:.4f}, recall@3 {recall:.3f}")
    return {"losses": losses, "embeddings": embeddings, "pdist": F.pdist(embeddings), "prelu": net.fc1[1].weight}
