"""Dropout on the CPU, whose mask is drawn where it is used, or kept."""

from __future__ import annotations

import functools

import numpy as np

from deepcore.backend.dtypes import float64, uint8
from deepcore.kernels.codegen.kernel import Address, Float, In, Operand, Out, Size, Words, args
from deepcore.kernels.cpu.reductions import kernels_of, share
from deepcore.kernels.math.philox import philox_block
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous, per_element
from deepcore.kernels.registry import register

# Random blocks (of four numbers) whose words are made at a time.
_BLOCKS = 64
# Numbers below 2**51, with this added and taken away, are whole, ties to even.
_WHOLE = 1.5 * 2.0**52


@functools.cache
def _drawing(tools, dt):
    """draw(w, x, out, size, state, p, start): numbers start … start + 255, with their words in w."""
    block, zero, real = tools.lift(philox_block), dt.type(0), dt.type

    @tools.inline
    def draw(w, x, out, size, state, p, b):
        seed, stream, first = np.uint64(state[0]), np.uint64(state[1]), np.uint64(state[2])
        kept = 1.0 - p
        threshold, scale = np.uint32(np.int64(kept * 4294967296.0 + _WHOLE - _WHOLE)), real(1.0 / kept)
        for i in range(_BLOCKS):
            four = block(seed, stream, first + np.uint64(b + i))
            w[4 * i] = np.uint32(four[0])
            w[4 * i + 1] = np.uint32(four[1])
            w[4 * i + 2] = np.uint32(four[2])
            w[4 * i + 3] = np.uint32(four[3])
        start = 4 * b
        for i in range(min(size - start, 4 * _BLOCKS)):
            out[start + i] = x[start + i] * (scale if w[i] < threshold else zero)
        return threshold

    return draw


@args(x=In, out=Out, size=Size, state=Words, p=Float(float64), each=Size)
def _dropout(tools, dtype: str):
    """out[i] = x[i]·(1/(1 - p) where word i of the stream is below (1 - p)·2³², rounded, else 0).

    `state`: seed, stream and position; `each`: random blocks of a chunk.
    """
    draw, words = _drawing(tools, np.dtype(dtype)), tools.local(np.dtype(np.uint32), 4 * _BLOCKS)

    def kernel(x, out, size, state, p, each, chunk):
        w = words()
        for b in range(chunk * each, min(-(-size // 4), (chunk + 1) * each), _BLOCKS):
            draw(w, x, out, size, state, p, b)
        return 0

    return kernel


@args(x=In, out=Out, size=Size, state=Words, p=Float(float64), each=Size, mask=Out(uint8))
def _dropout_kept(tools, dtype: str):
    """The same, and a byte for each number: whether it stays."""
    draw, words = _drawing(tools, np.dtype(dtype)), tools.local(np.dtype(np.uint32), 4 * _BLOCKS)

    def kernel(x, out, size, state, p, each, mask, chunk):
        w = words()
        for b in range(chunk * each, min(-(-size // 4), (chunk + 1) * each), _BLOCKS):
            threshold = draw(w, x, out, size, state, p, b)
            for i in range(min(size - 4 * b, 4 * _BLOCKS)):
                mask[4 * b + i] = w[i] < threshold
        return 0

    return kernel


@args(x=In, out=Out, size=Size, state=Address, p=Float(float64), each=Size, mask=In(uint8))
def _dropout_again(tools, dtype: str):
    """The same by the bytes that were kept, without drawing."""
    zero, real = np.dtype(dtype).type(0), np.dtype(dtype).type

    def kernel(x, out, size, state, p, each, mask, chunk):
        scale = real(1.0 / (1.0 - p))
        for i in range(4 * chunk * each, min(size, 4 * (chunk + 1) * each)):
            out[i] = x[i] * (scale if mask[i] else zero)
        return 0

    return kernel


_DROPOUT, _AGAIN = kernels_of("dropout", _dropout), kernels_of("dropout_again", _dropout_again)
_KEPT = kernels_of("dropout_kept", _dropout_kept)


def _draws(params: dict) -> bool:
    """Whether some words are below the threshold, and some not."""
    return 0 < round((1 - params["p"]) * 2**32) < 1 << 32


def _planned(kernels: dict, specs, params, state, p, out, mask=None, aux=()) -> Plan | bool | None:
    x = specs[0]
    kernel = kernels.get(x.dtype)
    if kernel is None or not x.size or not _draws(params) or not kernel.ready():
        return None
    if not x.plain:
        return True
    blocks, each = -(-x.size // 4), share(x.size) // (4 * _BLOCKS) * _BLOCKS
    masks = {} if mask is None else {"mask": mask}
    launch = Launch(
        kernel, -(-blocks // each), x=Operand(0), out=out, size=x.size, state=state, p=p, each=each, **masks
    )  # fmt: skip
    return Plan(contiguous(x.shape, x.dtype, x.backend), [launch], aux=aux)


def keeping(specs, params) -> Plan | bool | None:
    """The op's plan for this p, with the mask as a second result: a byte for each number, whether it stays.

    Operands: x, the state of the random numbers.
    """
    x = specs[0]
    mask = contiguous((x.size,), uint8, x.backend)
    return _planned(_KEPT, specs, params, Operand(1), params["p"], Operand(2), Operand(3), [mask])


def again(specs, params) -> Plan | bool | None:
    """The same by a mask that `keeping` gave. Operands: x, mask."""
    return _planned(_AGAIN, specs, params, None, params["p"], Operand(2), Operand(1))


dropout = Lowering(
    "dropout",
    lambda specs, params: _planned(_DROPOUT, specs, params, Operand(1), Operand(2), Operand(3)),
    _draws,
    ("p",),
    draws=True,
    cost=per_element(2),
)
register("dropout", "cpu", needs_numba=False)(dropout)
