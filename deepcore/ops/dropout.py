"""Dropout, from the position in a random stream."""

from __future__ import annotations

from deepcore import random
from deepcore.autograd import mode
from deepcore.ops.comparison import where
from deepcore.ops.registry import primitive


def _dropout_grad(g, seed, stream, position, p):
    return dropout_p(g, seed=seed, stream=stream, position=position, p=p)


@primitive(vjp=_dropout_grad, jvp="linear")
def dropout_p(xp, input, *, seed, stream, position, p):
    """input · m / (1 - p); forward and backward both draw the mask m from the generator's numbers at `position`."""
    threshold = round((1 - p) * 2**32)
    bits = random.bits_at(xp, seed, stream, position, input.size).reshape(input.shape)
    mask = xp.asarray(bits < threshold if threshold < 1 << 32 else bits == bits).astype(input.dtype)
    if p < 1:
        mask *= 1 / (1 - p)
    return input * mask


def dropped(input, p: float):
    """`input` with elements dropped by a mask of the default generator's next numbers."""
    if mode.level is not None and mode.level.batches:
        keep = random.rand(input.shape, backend=input.backend) >= p
        return where(keep, input, 0.0) * (1 / (1 - p) if p < 1 else 1.0)
    seed, stream, position = random.default_generator.advance(-(-input._data.size // 4))
    return dropout_p(input, seed=seed, stream=stream, position=position, p=float(p))
