"""What people print: tensors of every kind, layers, optimizers, and losses in f-strings."""

import numpy as np
import torch
import torch.nn as nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, kernel_size=5, stride=2, padding=(1, 2), bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
            nn.MaxPool2d(2, stride=1), nn.Dropout(p=0.2), nn.ConvTranspose2d(6, 3, 2, groups=3), nn.AvgPool2d(3, 2, 1),
        )  # fmt: skip
        self.norms = nn.ModuleList([nn.LayerNorm((4, 5)), nn.GroupNorm(2, 4, affine=False), nn.InstanceNorm1d(3)])
        self.rnn = nn.LSTM(8, 16, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1)
        self.cell = nn.GRUCell(3, 4, bias=False)
        self.emb = nn.Embedding(10, 3, padding_idx=0)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.act = nn.ModuleDict({"l": nn.LeakyReLU(0.2), "e": nn.ELU(), "g": nn.GELU("tanh"), "s": nn.Softmax(dim=-1)})
        self.bi = nn.Bilinear(2, 3, 4)
        self.pad = nn.ZeroPad2d((1, 0, 2, 0))
        self.ada = nn.AdaptiveAvgPool2d((None, 1))
        self.flat = nn.Flatten(1)
        self.id = nn.Identity()
        self.lazy = nn.Hardtanh(-2.0, 2.0)
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)


def main():
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.standard_normal((3, 4)))
    tensors = [
        torch.tensor(3), torch.tensor(2.5), torch.tensor([]), torch.zeros(0, 3), torch.tensor([True, False]),
        torch.arange(30), torch.arange(6.0).view(2, 3), values.float(), values, values.half(), values.float() * 1e5,
        values.float() * 1e-5, values.int(), torch.ones(2, 2, 2), torch.arange(2000), torch.rand(50, 50) * 0 + 0.5,
        torch.tensor([1.0, float("nan"), float("inf"), -float("inf")]), torch.tensor([1e10, 1.0]), torch.tensor([0.1, 1000.5]),
        torch.ones(1, 1), torch.tensor([[1], [-20]], dtype=torch.int16), torch.linspace(0, 1, 25),
        torch.full((2, 12), 1234567.0), torch.tensor([1, 2], dtype=torch.uint8), torch.zeros(3, 2, requires_grad=True),
        nn.Parameter(torch.ones(2)), torch.eye(3)[None], torch.tensor([-1.5]), torch.tensor(1e-8), torch.tensor([[]]),
    ]  # fmt: skip
    for t in tensors:
        print(t)
    x = torch.ones(2, requires_grad=True)
    print(
        (x * 2).sum().item(), x.grad, list(x.shape), x.detach(), x.mean().detach(), [torch.tensor(1), torch.tensor(2.0)]
    )
    print({"loss": torch.tensor(0.25), "acc": (torch.tensor(1), torch.tensor([0.5]))})
    print(
        f"{torch.tensor(3.14159):.2f} {torch.tensor(7):5d} {torch.tensor(0.5)} {torch.tensor([1, 2])} {values[0, 0]:+.1e}"
    )
    print(
        "%.3f %d %s" % (torch.tensor(1.5), torch.tensor(4), torch.tensor([1.0])),
        "{:.1%}".format(torch.tensor(0.25).item()),
    )
    print(Net())
    print(nn.Linear(2, 3), nn.Sequential(nn.Linear(1, 1)), nn.ModuleList(), nn.Sequential())
    print(
        torch.device("cpu"), repr(torch.device("cuda:1")), torch.finfo(torch.float32).max, torch.iinfo(torch.int64).min
    )
    torch.set_printoptions(precision=2, linewidth=60)
    print(values)
    torch.set_printoptions(profile="full")
    print(torch.arange(1100).sum(), len(str(torch.arange(1100))))
    torch.set_printoptions(profile="default", sci_mode=True)
    print(values[0].float())
    torch.set_printoptions(profile="default", sci_mode=False)
    return {"done": True}
