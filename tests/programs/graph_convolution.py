"""Graph convolutions and attention on a karate club of two halves: index_add, scatter and a dense adjacency."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded
from torch.nn.parameter import Parameter

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4


class GraphConvolution(nn.Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(torch.empty(in_features, out_features))
        if bias:
            self.bias = Parameter(torch.empty(out_features))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self):
        stdv = 1.0 / self.weight.size(1) ** 0.5
        self.weight.data.uniform_(-stdv, stdv)
        if self.bias is not None:
            self.bias.data.uniform_(-stdv, stdv)

    def forward(self, x, edge_index, norm):
        support = torch.mm(x, self.weight)
        source, target = edge_index
        out = torch.zeros_like(support).index_add_(0, target, support[source] * norm.unsqueeze(-1))
        return out + self.bias if self.bias is not None else out

    def __repr__(self):
        return self.__class__.__name__ + " (" + str(self.in_features) + " -> " + str(self.out_features) + ")"


class EdgeAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(2 * width))

    def forward(self, h, edge_index):
        source, target = edge_index[0], edge_index[1]
        e = F.leaky_relu(torch.cat([h[source], h[target]], dim=-1) @ self.a, 0.2)
        top = torch.full((len(h),), -torch.inf, device=h.device).scatter_reduce(0, target, e.detach(), reduce="amax")
        weight = (e - top[target]).exp()
        total = torch.zeros(len(h), device=h.device).scatter_add(0, target, weight)
        alpha = weight / total[target]
        return torch.zeros_like(h).scatter_add_(0, target[:, None].expand_as(h[source]), alpha[:, None] * h[source])


class GCN(nn.Module):
    def __init__(self, nfeat, nhid, nclass):
        super().__init__()
        self.gc1, self.gc2 = GraphConvolution(nfeat, nhid), GraphConvolution(nhid, nclass, bias=False)
        self.attention = EdgeAttention(nhid)

    def forward(self, x, edge_index, norm):
        x = F.relu(self.gc1(x, edge_index, norm))
        x = x + self.attention(x, edge_index)
        x = self.gc2(x, edge_index, norm)
        return F.log_softmax(x, dim=1)


def main():
    rng = np.random.default_rng(0)
    n = 20
    half = np.arange(n) // (n // 2)
    adjacency = np.triu(rng.random((n, n)) < np.where(half[:, None] == half[None], 0.5, 0.05), 1)
    adjacency = torch.from_numpy((adjacency | adjacency.T | np.eye(n, dtype=bool)).astype(np.float32)).to(device)
    edge_index = adjacency.nonzero().t()
    degree = adjacency.sum(1)
    norm = degree.pow(-0.5)[edge_index[0]] * degree.pow(-0.5)[edge_index[1]]
    x = torch.eye(n, device=device)
    labels = torch.from_numpy(half).to(device)
    idx_train = torch.tensor([0, 1, n - 2, n - 1], device=device)
    model = seeded(GCN(n, 8, 2)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05, weight_decay=5e-4)
    losses = []
    for _ in range(8):
        model.train()
        optimizer.zero_grad()
        output = model(x, edge_index, norm)
        loss = F.nll_loss(output[idx_train], labels[idx_train])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    preds = output.max(1)[1].type_as(labels)
    correct = preds.eq(labels).double().sum()
    dense = torch.diag(degree**-0.5) @ adjacency @ torch.diag(degree**-0.5)
    sparse = torch.zeros(n, 8, device=device).index_add(
        0, edge_index[1], model.gc1.weight[edge_index[0]] * norm[:, None]
    )
    assert torch.allclose(dense @ model.gc1.weight, sparse, atol=1e-5)
    laplacian = torch.diag(degree) - adjacency
    fiedler = torch.linalg.eigvalsh(laplacian)[1]
    print(model)
    print(f"accuracy {(correct / len(labels)).item():.3f}, {edge_index.shape[1]} edges")
    return {"losses": losses, "output": output, "fiedler": fiedler, "a": model.attention.a, "correct": correct}
