"""The steps of `workloads` as pure functions for jax.jit. Convolutions are NHWC, as XLA has them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, nn
from workloads import RESIDUAL, VOCABULARY, WORKLOADS

_RNG = np.random.default_rng(0)


class Model(NamedTuple):
    """`loss(parameters, rest, x, y)` gives (loss, rest); rest is what a step renews besides: statistics, a random key."""

    parameters: Any
    loss: Callable
    rest: Any = ()


def stateless(parameters, loss: Callable) -> Model:
    return Model(parameters, lambda p, rest, x, y: (loss(p, x, y), rest))


# -- layers -----------------------------------------------------------------------------------------------------------


def normal(*shape: int):
    """Weights whose last axis is the outputs."""
    return jnp.asarray(_RNG.standard_normal(shape, np.float32) / np.sqrt(np.prod(shape[:-1])).astype("f"))


def layer(*shape: int):
    return {"weight": normal(*shape), "bias": jnp.zeros(shape[-1])}


def norm(size: int):
    return {"weight": jnp.ones(size), "bias": jnp.zeros(size)}


def running(size: int):
    return {"mean": jnp.zeros(size), "variance": jnp.ones(size)}


def linear(p, x):
    return x @ p["weight"] + p["bias"]


def convolution(weight, x, stride: int = 1, padding: str = "SAME"):
    size = weight.shape[0]
    around = padding if padding == "VALID" else [(size // 2, size // 2)] * 2
    return lax.conv_general_dilated(x, weight, (stride, stride), around, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def pooled(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def standardized(p, x, mean, variance):
    return (x - mean) * (lax.rsqrt(variance + 1e-5) * p["weight"]) + p["bias"]


def batch_norm(p, before, x):
    """The normalised batch, and the running statistics after it."""
    axes = tuple(range(x.ndim - 1))
    mean, variance = x.mean(axes), x.var(axes)
    count = x.size // x.shape[-1]
    now = {"mean": mean, "variance": variance * (count / (count - 1))}
    return standardized(p, x, mean, variance), jax.tree.map(lambda b, n: 0.9 * b + 0.1 * n, before, now)


def layer_norm(p, x):
    return standardized(p, x, x.mean(-1, keepdims=True), x.var(-1, keepdims=True))


def cross_entropy(logits, y):
    return -jnp.take_along_axis(nn.log_softmax(logits), y[:, None], 1).mean()


def mse(x, y):
    return ((x - y) ** 2).mean()


# -- models -----------------------------------------------------------------------------------------------------------


def dense(*sizes: int, between=nn.relu, last=lambda x: x, loss=cross_entropy) -> Model:
    def value(layers, x, y):
        for p in layers[:-1]:
            x = between(linear(p, x))
        return loss(last(linear(layers[-1], x)), y)

    return stateless([layer(*pair) for pair in pairwise(sizes)], value)


def deep(width: int = 64, layers: int = 20) -> Model:
    parameters = {
        "hidden": [{"linear": layer(width, width), "norm": norm(width)} for _ in range(layers)],
        "head": layer(width, 10),
    }

    def loss(p, rest, x, y):
        key, *keys = jax.random.split(rest["key"], layers + 1)
        statistics = []
        for each, before, one in zip(p["hidden"], rest["statistics"], keys):
            x, after = batch_norm(each["norm"], before, linear(each["linear"], x))
            statistics.append(after)
            x = jnp.where(jax.random.bernoulli(one, 0.9, x.shape), nn.relu(x) / 0.9, 0.0)
        return cross_entropy(linear(p["head"], x), y), {"key": key, "statistics": statistics}

    return Model(parameters, loss, {"key": jax.random.key(0), "statistics": [running(width) for _ in range(layers)]})


def cifar_cnn() -> Model:
    def loss(p, x, y):
        for each in p["convolutions"]:
            x = pooled(nn.relu(convolution(each["weight"], x, padding="VALID") + each["bias"]))
        x = nn.relu(linear(p["hidden"], x.reshape(len(x), -1)))
        return cross_entropy(linear(p["head"], x), y)

    convolutions = [layer(3, 3, 3, 32), layer(3, 3, 32, 64)]
    return stateless({"convolutions": convolutions, "hidden": layer(2304, 64), "head": layer(64, 10)}, loss)


def resnet18() -> Model:
    """Each block, and the stem, has a list of convolutions, each with its norm; a third one is the shortcut's."""

    def made(*shapes):
        return [{"weight": normal(*s), "norm": norm(s[-1])} for s in shapes]

    shapes = [
        [(3, 3, i, o), (3, 3, o, o), *([] if i == o else [(1, 1, i, o)])] for i, o, _ in RESIDUAL
    ]  # fmt: skip
    blocks = [made((3, 3, 3, 64)), *(made(*each) for each in shapes)]

    def normed(part, before, x, stride=1):
        return batch_norm(part["norm"], before, convolution(part["weight"], x, stride))

    def block(parts, before, stride, x):
        after = [None] * len(parts)
        h, after[0] = normed(parts[0], before[0], x, stride)
        h, after[1] = normed(parts[1], before[1], nn.relu(h))
        if len(parts) == 3:
            x, after[2] = normed(parts[2], before[2], x, stride)
        return nn.relu(h + x), after

    def loss(p, rest, x, y):
        x, first = normed(p["blocks"][0][0], rest[0][0], x)
        x, statistics = nn.relu(x), [[first]]
        for parts, before, (_, _, stride) in zip(p["blocks"][1:], rest[1:], RESIDUAL):
            x, after = block(parts, before, stride, x)
            statistics.append(after)
        return cross_entropy(linear(p["head"], x.mean((1, 2))), y), statistics

    statistics = [[running(part["weight"].shape[-1]) for part in parts] for parts in blocks]
    return Model({"blocks": blocks, "head": layer(512, 10)}, loss, statistics)


def lstm(embedding: int = 128, hidden: int = 256) -> Model:
    parameters = {
        "embedding": normal(VOCABULARY, embedding),
        "inputs": layer(embedding, 4 * hidden),
        "states": normal(hidden, 4 * hidden),
        "head": layer(hidden, VOCABULARY),
    }

    def loss(p, x, y):
        def cell(carry, inputs):
            state, memory = carry
            i, f, g, o = jnp.split(inputs + state @ p["states"], 4, -1)
            memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * jnp.tanh(g)
            state = nn.sigmoid(o) * jnp.tanh(memory)
            return (state, memory), state

        start = jnp.zeros((len(x), hidden))
        inputs = linear(p["inputs"], p["embedding"][x.T])
        _, states = lax.scan(cell, (start, start), inputs)
        return cross_entropy(linear(p["head"], states.swapaxes(0, 1)).reshape(-1, VOCABULARY), y)

    return stateless(parameters, loss)


def gpt(width: int = 256, heads: int = 4, blocks: int = 4, length: int = 128) -> Model:
    def block():
        return {
            "attention_norm": norm(width), "mlp_norm": norm(width),
            "queries_keys_values": layer(width, 3 * width), "projection": layer(width, width),
            "up": layer(width, 4 * width), "down": layer(4 * width, width),
        }  # fmt: skip

    parameters = {
        "embedding": normal(VOCABULARY, width), "positions": jnp.zeros((length, width)),
        "blocks": [block() for _ in range(blocks)], "norm": norm(width), "head": layer(width, VOCABULARY),
    }  # fmt: skip

    def loss(p, x, y):
        batch, steps = x.shape
        x = p["embedding"][x] + p["positions"]
        for each in p["blocks"]:
            parts = linear(each["queries_keys_values"], layer_norm(each["attention_norm"], x))
            q, k, v = jnp.moveaxis(parts.reshape(batch, steps, 3, heads, width // heads), 2, 0)
            mixed = nn.dot_product_attention(q, k, v, is_causal=True)
            x = x + linear(each["projection"], mixed.reshape(batch, steps, width))
            h = nn.gelu(linear(each["up"], layer_norm(each["mlp_norm"], x)), approximate=False)
            x = x + linear(each["down"], h)
        return cross_entropy(linear(p["head"], layer_norm(p["norm"], x)).reshape(-1, VOCABULARY), y)

    return stateless(parameters, loss)


def unet() -> Model:
    def twice(parts, x):
        for p in parts:
            x = nn.relu(convolution(p["weight"], x) + p["bias"])
        return x

    def loss(p, x, y):
        fine = twice(p["down"], x)
        coarse = twice(p["bottom"], pooled(fine)).repeat(2, 1).repeat(2, 2)
        x = twice(p["up"], jnp.concatenate([coarse, fine], -1))
        logits = convolution(p["head"]["weight"], x) + p["head"]["bias"]
        return (jnp.maximum(logits, 0) - logits * y + jnp.log1p(jnp.exp(-jnp.abs(logits)))).mean()

    made = lambda i, o: [layer(3, 3, i, o), layer(3, 3, o, o)]
    parameters = {"down": made(1, 64), "bottom": made(64, 128), "up": made(192, 64), "head": layer(1, 1, 64, 1)}
    return stateless(parameters, loss)


MODELS: dict[str, Callable[[], Model]] = {
    "xor": partial(dense, 2, 4, 1, between=nn.sigmoid, last=nn.sigmoid, loss=mse),
    "mlp_s": partial(dense, 784, 128, 10),
    "mlp_l": partial(dense, 784, 1024, 1024, 10),
    "deep": deep,
    "autoencoder": partial(dense, 784, 256, 32, 256, 784, last=nn.sigmoid, loss=mse),
    "softmax": partial(dense, 784, 10),
    "cifar_cnn": cifar_cnn,
    "resnet18": resnet18,
    "lstm": lstm,
    "gpt": gpt,
    "unet": unet,
}

# -- updates and steps ------------------------------------------------------------------------------------------------


def zeros(parameters):
    return jax.tree.map(jnp.zeros_like, parameters)


def sgd(parameters, lr: float, momentum: float = 0.0):
    """(the first state, update(parameters, gradients, state) -> (parameters, state))."""

    def update(p, g, velocity):
        if momentum:
            g = velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, g)
        return jax.tree.map(lambda p, g: p - lr * g, p, g), velocity

    return zeros(parameters) if momentum else (), update


def adam(parameters, lr: float, first: float = 0.9, second: float = 0.999, eps: float = 1e-8):
    def update(p, g, state):
        count, m, v = state
        count = count + 1
        m = jax.tree.map(lambda m, g: first * m + (1 - first) * g, m, g)
        v = jax.tree.map(lambda v, g: second * v + (1 - second) * g * g, v, g)
        size, root = lr / (1 - first**count), lax.rsqrt(1 - second**count)
        return jax.tree.map(lambda p, m, v: p - size * m / (jnp.sqrt(v) * root + eps), p, m, v), (count, m, v)

    return (jnp.float32(0), zeros(parameters), zeros(parameters)), update


def training(name: str) -> Callable[[], Any]:
    one, model = WORKLOADS[name], MODELS[name]()
    x, y = given = one.batch()
    if one.images:
        x, y = (np.moveaxis(a, 1, -1) if a.ndim == 4 else a for a in given)
    x, y = jnp.asarray(x), jnp.asarray(y)
    kind, settings = one.optimizer
    moments, update = {"SGD": sgd, "Adam": adam}[kind](model.parameters, **settings)

    @partial(jax.jit, donate_argnums=0)
    def step(state, x, y):
        parameters, moments, rest = state
        (value, rest), gradients = jax.value_and_grad(model.loss, has_aux=True)(parameters, rest, x, y)
        return (*update(parameters, gradients, moments), rest), value

    state = model.parameters, moments, model.rest

    def call():
        nonlocal state
        state, value = step(state, x, y)
        return jax.block_until_ready(value)

    return call
