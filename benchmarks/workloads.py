"""Whole training steps in float32: each workload described once, for deepcore and PyTorch alike; `jax_workloads` has JAX's.

A step is zero_grad(set_to_none), forward, loss, backward, update, and returns the loss.

    python benchmarks/workloads.py SIDE WORKLOAD      prints the seconds of the first step, without imports and building
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import prod
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import peers
from contest import OWN, Absent, array

import deepcore as dc
from deepcore.errors import DeepcoreWarning

CLASSES, VOCABULARY = 10, 96
MOMENTUM = ("SGD", {"lr": 0.01, "momentum": 0.9})
ADAM = ("Adam", {"lr": 1e-3})


class Workload(NamedTuple):
    """`model` of a library with PyTorch's names, `batch()` in NumPy arrays: input and target.

    `products`: the matrix products of the forward as (rows, in, out), convolutions among them. `embedded`: the first one's
    input needs a gradient, too. `images`: it convolves, so that channels-last is another way to do it.
    """

    model: Callable
    batch: Callable[[], tuple]
    loss: str
    optimizer: tuple[str, dict]
    products: list[tuple[int, int, int]]
    embedded: bool = False
    images: bool = False

    @property
    def work(self) -> float:
        """Floating-point operations of all matrix products of a step."""
        unneeded = 0 if self.embedded else 2 * prod(self.products[0])
        return 6.0 * sum(map(prod, self.products)) - unneeded


class Library:
    """A library, or a module of it, in which a name that is missing is a reason to be absent."""

    def __init__(self, module: ModuleType):
        self.module = module

    def __getattr__(self, name: str):
        found = getattr(self.module, name, None)
        if found is None:
            raise Absent(f"no {name} yet")
        return Library(found) if isinstance(found, ModuleType) else found


# -- models -----------------------------------------------------------------------------------------------------------


def dense(*sizes: int, between: str = "ReLU", last: str = ""):
    """Linear layers with an activation between them, and after the last one if it is named."""

    def model(library):
        nn = library.nn
        names = [between] * (len(sizes) - 2) + [last]
        layers = [
            (nn.Linear(*pair), *([getattr(nn, name)()] if name else [])) for pair, name in zip(pairwise(sizes), names)
        ]
        return nn.Sequential(*[part for layer in layers for part in layer])

    return model


def deep(library, width: int = 64, layers: int = 20):
    nn = library.nn
    hidden = [(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1)) for _ in range(layers)]
    return nn.Sequential(*[part for layer in hidden for part in layer], nn.Linear(width, CLASSES))


def cifar_cnn(library):
    nn = library.nn
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 6 * 6, 64), nn.ReLU(), nn.Linear(64, CLASSES),
    )  # fmt: skip


#: ResNet-18's blocks: channels in, channels out, stride.
RESIDUAL = [
    (64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1),
]  # fmt: skip


def resnet18(library):
    nn, relu = library.nn, library.nn.functional.relu

    def convolution(inputs, outputs, size, stride=1):
        return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.first = convolution(inputs, outputs, 3, stride)
            self.second = convolution(outputs, outputs, 3)
            self.shortcut = nn.Identity() if inputs == outputs else convolution(inputs, outputs, 1, stride)

        def forward(self, x):
            return relu(self.second(relu(self.first(x))) + self.shortcut(x))

    blocks = [Block(*each) for each in RESIDUAL]
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES)
    return nn.Sequential(convolution(3, 64, 3), nn.ReLU(), *blocks, *head)


def lstm(library, embedding: int = 128, hidden: int = 256):
    nn = library.nn

    class Characters(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, embedding)
            self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
            self.head = nn.Linear(hidden, VOCABULARY)

        def forward(self, tokens):
            states, _ = self.lstm(self.embedding(tokens))
            return self.head(states).flatten(0, 1)

    return Characters()


def gpt(library, width: int = 256, heads: int = 4, blocks: int = 4, length: int = 128):
    nn, attention = library.nn, library.nn.functional.scaled_dot_product_attention

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
            self.queries_keys_values, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x):
            batch, steps, _ = x.shape
            parts = self.queries_keys_values(self.attention_norm(x)).reshape(batch, steps, 3, heads, width // heads)
            mixed = attention(*parts.permute(2, 0, 3, 1, 4).unbind(0), is_causal=True)
            x = x + self.projection(mixed.transpose(1, 2).reshape(batch, steps, width))
            return x + self.mlp(self.mlp_norm(x))

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, width)
            self.positions = nn.Parameter(library.zeros(length, width))
            self.blocks = nn.Sequential(*[Block() for _ in range(blocks)])
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)

        def forward(self, tokens):
            return self.head(self.norm(self.blocks(self.embedding(tokens) + self.positions))).flatten(0, 1)

    return Transformer()


def unet(library):
    nn, cat = library.nn, library.cat

    def twice(inputs, outputs):
        both = [(nn.Conv2d(i, outputs, 3, padding=1), nn.ReLU()) for i in (inputs, outputs)]
        return nn.Sequential(*[part for each in both for part in each])

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.bottom, self.up = twice(1, 64), twice(64, 128), twice(128 + 64, 64)
            self.pool, self.upsample = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
            self.head = nn.Conv2d(64, 1, 1)

        def forward(self, x):
            fine = self.down(x)
            coarse = self.upsample(self.bottom(self.pool(fine)))
            return self.head(self.up(cat([coarse, fine], 1)))

    return UNet()


# -- batches and matrix products --------------------------------------------------------------------------------------


def whole(high: int, *shape: int):
    return np.random.default_rng(11).integers(0, high, shape)


def uniform(*shape: int):
    return np.random.default_rng(12).random(shape, np.float32)


def labelled(*shape: int):
    """Normal numbers and a class for each row of them."""
    return lambda: (array(*shape), whole(CLASSES, shape[0]))


def text(batch: int, length: int):
    """Tokens and what follows each, in a row as the logits are."""

    def make():
        tokens = whole(VOCABULARY, batch, length + 1)
        return tokens[:, :-1].copy(), tokens[:, 1:].ravel()

    return make


def truth_table():
    inputs = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    return inputs, (inputs[:, :1] != inputs[:, 1:]).astype(np.float32)


def reconstructed(*shape: int):
    def make():
        images = uniform(*shape)
        return images, images

    return make


def segmented(*shape: int):
    return lambda: (array(*shape), (uniform(*shape) > 0.5).astype(np.float32))


def linears(rows: int, *sizes: int) -> list[tuple[int, int, int]]:
    return [(rows, i, o) for i, o in pairwise(sizes)]


def of_resnet18(batch: int, side: int) -> list[tuple[int, int, int]]:
    found = [(batch * side**2, 3 * 9, 64)]
    for inputs, outputs, stride in RESIDUAL:
        side //= stride
        rows = batch * side**2
        found += [(rows, inputs * 9, outputs), (rows, outputs * 9, outputs)]
        found += [] if inputs == outputs else [(rows, inputs, outputs)]
    return [*found, (batch, 512, CLASSES)]


def of_gpt(batch: int, length: int, width: int, heads: int, blocks: int) -> list[tuple[int, int, int]]:
    """A causal product has a row for each token, and as many columns as there were tokens up to it."""
    rows, causal = batch * length, (batch * heads, width // heads, length * (length + 1) // 2)
    mlp = linears(rows, width, 4 * width, width)
    return [(rows, width, 3 * width), causal, causal, (rows, width, width), *mlp] * blocks + [(rows, width, VOCABULARY)]


WORKLOADS = {
    "xor": Workload(
        dense(2, 4, 1, between="Sigmoid", last="Sigmoid"), truth_table, "mse_loss", MOMENTUM, linears(4, 2, 4, 1)
    ),
    "mlp_s": Workload(
        dense(784, 128, CLASSES), labelled(32, 784), "cross_entropy", MOMENTUM, linears(32, 784, 128, CLASSES)
    ),
    "mlp_l": Workload(
        dense(784, 1024, 1024, CLASSES), labelled(256, 784), "cross_entropy", ADAM,
        linears(256, 784, 1024, 1024, CLASSES),
    ),
    "deep": Workload(
        deep, labelled(128, 64), "cross_entropy", MOMENTUM, linears(128, *[64] * 21, CLASSES)
    ),
    "autoencoder": Workload(
        dense(784, 256, 32, 256, 784, last="Sigmoid"), reconstructed(256, 784), "mse_loss", ADAM,
        linears(256, 784, 256, 32, 256, 784),
    ),
    "softmax": Workload(
        dense(784, CLASSES), labelled(4096, 784), "cross_entropy", ("SGD", {"lr": 0.1}), linears(4096, 784, CLASSES)
    ),
    "cifar_cnn": Workload(
        cifar_cnn, labelled(64, 3, 32, 32), "cross_entropy", ADAM,
        [(64 * 30 * 30, 3 * 9, 32), (64 * 13 * 13, 32 * 9, 64), *linears(64, 64 * 6 * 6, 64, CLASSES)],
        images=True,
    ),
    "resnet18": Workload(
        resnet18, labelled(32, 3, 32, 32), "cross_entropy", MOMENTUM, of_resnet18(32, 32), images=True
    ),
    "lstm": Workload(
        lstm, text(32, 64), "cross_entropy", ADAM,
        [(32 * 64, 128, 4 * 256), (32 * 64, 256, 4 * 256), (32 * 64, 256, VOCABULARY)],
        embedded=True,
    ),
    "gpt": Workload(gpt, text(8, 128), "cross_entropy", ADAM, of_gpt(8, 128, 256, 4, 4), embedded=True),
    "unet": Workload(
        unet, segmented(4, 1, 128, 128), "binary_cross_entropy_with_logits", ADAM,
        [(4 * 128**2, 9 * i, o) for i, o in ((1, 64), (64, 64), (192, 64), (64, 64))]
        + [(4 * 64**2, 9 * i, 128) for i in (64, 128)]
        + [(4 * 128**2, 64, 1)],
        images=True,
    ),
}  # fmt: skip

# -- steps ------------------------------------------------------------------------------------------------------------


def training(side: str, name: str) -> Callable[[], Any]:
    """A step of a workload as a side does it, from weights of its own; `side`: see `suites.training.SIDES`."""
    if side == "jax.jit":
        peers.jax()
        import jax_workloads

        return jax_workloads.training(name)
    one = WORKLOADS[name]
    own = side.startswith(OWN)
    library = dc if own else peers.torch()
    library.manual_seed(0)
    model = one.model(Library(library))
    x, y = given = one.batch()
    x = library.tensor(x)
    y = x if y is given[0] else library.tensor(y)
    if side.endswith("channels-last"):
        model, x = model.to(memory_format=library.channels_last), x.to(memory_format=library.channels_last)
    kind, settings = one.optimizer
    # PyTorch's fused Adam is its fastest.
    fused = {"fused": True} if kind == "Adam" and not own else {}
    optimizer = getattr(library.optim, kind)(model.parameters(), **settings, **fused)
    loss = getattr(library.nn.functional, one.loss)

    def objective(x, y):
        return loss(model(x), y)

    if side.startswith("torch.compile"):
        objective = library.compile(objective)

    def step(x, y):
        optimizer.zero_grad(set_to_none=True)
        value = objective(x, y)
        value.backward()
        optimizer.step()
        return value

    return partial(library.compile(step) if side == OWN else step, x, y)


def main(side: str, name: str) -> None:
    warnings.simplefilter("error", DeepcoreWarning)  # a step that is not compiled, above all
    step = training(side, name)
    start = time.perf_counter()
    step()
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
