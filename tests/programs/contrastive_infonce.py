"""SimCLR's and CLIP's losses: two views of each sample, a temperature, a momentum encoder with a queue."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from seeded import seeded
from torch import nn

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4


def info_nce_loss(features, batch_size, n_views=2, temperature=0.07):
    labels = torch.cat([torch.arange(batch_size) for i in range(n_views)], dim=0)
    labels = (labels.unsqueeze(0) == labels.unsqueeze(1)).float()
    labels = labels.to(features.device)
    features = F.normalize(features, dim=1)
    similarity_matrix = torch.matmul(features, features.T)
    mask = torch.eye(labels.shape[0], dtype=torch.bool).to(features.device)
    labels = labels[~mask].view(labels.shape[0], -1)
    similarity_matrix = similarity_matrix[~mask].view(similarity_matrix.shape[0], -1)
    positives = similarity_matrix[labels.bool()].view(labels.shape[0], -1)
    negatives = similarity_matrix[~labels.bool()].view(similarity_matrix.shape[0], -1)
    logits = torch.cat([positives, negatives], dim=1)
    labels = torch.zeros(logits.shape[0], dtype=torch.long).to(features.device)
    return logits / temperature, labels


def clip_loss(images, texts, logit_scale):
    logits = logit_scale.exp() * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).t()
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


class MoCo(nn.Module):
    def __init__(self, encoder, dim, K=16, m=0.9):
        super().__init__()
        self.K, self.m = K, m
        self.encoder_q, self.encoder_k = encoder, copy.deepcopy(encoder)
        for param_k in self.encoder_k.parameters():
            param_k.requires_grad = False
        self.register_buffer("queue", F.normalize(torch.linspace(-1, 1, dim * K).view(dim, K), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def _momentum_update(self):
        for q, k in zip(self.encoder_q.parameters(), self.encoder_k.parameters()):
            k.data = k.data * self.m + q.data * (1.0 - self.m)

    @torch.no_grad()
    def _dequeue_and_enqueue(self, keys):
        ptr = int(self.queue_ptr)
        self.queue[:, ptr : ptr + len(keys)] = keys.T
        self.queue_ptr[0] = (ptr + len(keys)) % self.K

    def forward(self, im_q, im_k):
        q = F.normalize(self.encoder_q(im_q), dim=1)
        with torch.no_grad():
            self._momentum_update()
            k = F.normalize(self.encoder_k(im_k), dim=1)
        l_pos = torch.einsum("nc,nc->n", [q, k]).unsqueeze(-1)
        l_neg = torch.einsum("nc,ck->nk", [q, self.queue.clone().detach()])
        logits = torch.cat([l_pos, l_neg], dim=1) / 0.2
        self._dequeue_and_enqueue(k)
        return logits, torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)


def main():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((8, 6))).float().to(device)
    noise = lambda: 0.1 * torch.from_numpy(rng.standard_normal((8, 6))).float().to(device)
    model = MoCo(seeded(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))), 4).to(device)
    logit_scale = nn.Parameter(torch.ones([], device=device) * np.log(1 / 0.07))
    params = [p for p in model.parameters() if p.requires_grad] + [logit_scale]
    optimizer = torch.optim.SGD(params, lr=0.03, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss().to(device)
    log = []
    for _ in range(5):
        im_q, im_k = x + noise(), x + noise()
        output, target = model(im_q=im_q, im_k=im_k)
        moco = criterion(output, target)
        logits, labels = info_nce_loss(model.encoder_q(torch.cat([im_q, im_k])), 8)
        simclr = criterion(logits, labels)
        clip = clip_loss(model.encoder_q(im_q), model.encoder_q(im_k), logit_scale)
        optimizer.zero_grad()
        (moco + simclr + clip).backward()
        optimizer.step()
        with torch.no_grad():
            logit_scale.clamp_(0, np.log(100))
        _, pred = logits.topk(1, 1, True, True)
        top1 = pred.t().eq(labels.view(1, -1).expand_as(pred.t())).reshape(-1).float().sum(0, keepdim=True) * 100 / 16
        log.append([moco.item(), simclr.item(), clip.item(), top1.item()])
    print(" ".join(f"{v:.3f}" for v in log[-1]), model.queue_ptr.tolist())
    return {"log": log, "queue": model.queue, "scale": logit_scale, "key": model.encoder_k[0].weight}
