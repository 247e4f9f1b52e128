"""CTC: the loss of a batch and the gradient of its log-probabilities, against PyTorch."""

from __future__ import annotations

from functools import partial

import numpy as np
import peers
from contest import Contest, array

import deepcore as dc

# frames, sequences, classes, labels: letters of short utterances, and a larger alphabet.
SHAPES = [(200, 16, 29, 30), (100, 32, 100, 20)]


def make(side: str, time: int, batch: int, classes: int, labels: int):
    library = dc if side == "deepcore" else peers.torch()
    x = array(time, batch, classes)
    x = library.tensor(x - np.log(np.exp(x).sum(-1, keepdims=True)), requires_grad=True)
    targets = library.tensor(np.random.default_rng(3).integers(1, classes, (batch, labels)))
    lengths = [library.tensor([n] * batch) for n in (time, labels)]
    loss_function = library.nn.CTCLoss()

    def step():
        x.grad = None
        loss_function(x, targets, *lengths).backward()
        return x.grad

    return step


CONTESTS = [
    Contest(
        "ctc",
        "frames {}, sequences {}, classes {}, labels {}".format(*shape),
        partial(make, **dict(zip(("time", "batch", "classes", "labels"), shape))),
        ("deepcore", "torch"),
        long=shape != SHAPES[0],
        facts={"shape": shape},
    )
    for shape in SHAPES
]
