"""One step of an optimizer over two million parameters in sixty tensors, against PyTorch's fused and foreach ones."""

from __future__ import annotations

from functools import partial

import peers
from contest import Contest, array

import deepcore as dc

SHAPES = [(256, 256)] * 20 + [(256, 640)] * 4 + [(942,)] * 36
SIZE = sum(a * b[0] if b else a for a, *b in SHAPES)
# name: (settings, arrays that a step reads or writes)
OPTIMIZERS = {
    "SGD": ({"lr": 1e-3}, 3),
    "SGD, momentum": ({"lr": 1e-3, "momentum": 0.9}, 5),
    "Adam": ({"lr": 1e-3}, 7),
    "AdamW": ({"lr": 1e-3, "weight_decay": 1e-2}, 7),
}


def make(side: str, name: str):
    settings = OPTIMIZERS[name][0]
    kind = name.partition(",")[0]
    values, slopes = ([array(*s, seed=seed) for s in SHAPES] for seed in (0, 1))
    if side == "deepcore":
        parameters = [dc.nn.Parameter(dc.tensor(v)) for v in values]
        for p, g in zip(parameters, slopes):
            p.grad = dc.tensor(g)
        return getattr(dc.optim, kind)(parameters, **settings).step
    torch = peers.torch()
    parameters = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    for p, g in zip(parameters, slopes):
        p.grad = torch.tensor(g)
    return getattr(torch.optim, kind)(parameters, **{side.split()[1]: True}, **settings).step


CONTESTS = [
    Contest(
        "updates",
        name,
        partial(make, name=name),
        ("deepcore", "torch fused", "torch foreach"),
        4.0 * SIZE * arrays,
        "byte",
        facts={"parameters": SIZE, "tensors": len(SHAPES)},
    )
    for name, (_, arrays) in OPTIMIZERS.items()
]
