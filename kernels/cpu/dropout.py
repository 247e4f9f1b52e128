"""Dropout on the CPU, with a mask that is drawn in the kernel, and optionally stored."""

from __future__ import annotations

import functools

import numpy as np

from deepcore.backend.dtypes import float64, uint8
from deepcore.kernels.codegen.kernel import Address, Float, In, Operand, Out, Size, Words, args
from deepcore.kernels.cpu.reductions import kernels_of, share
from deepcore.kernels.math.philox import philox_block
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous, per_element
from deepcore.kernels.registry import register

# Random blocks (of four numbers) drawn at a time.
_BATCH = 64
# Adding and subtracting this rounds numbers below 2**51 to integers, ties to even.
_WHOLE = 1.5 * 2.0**52


@functools.cache
def _drawer(tools, dt):
    """draw(w, x, out, size, state, p, start): numbers start … start + 255, with their words in w."""
    block, zero, real = tools.lift(philox_block), dt.type(0), dt.type

    @tools.inline
    def draw(w, x, out, size, state, p, b):
        seed, stream, first = np.uint64(state[0]), np.uint64(state[1]), np.uint64(state[2])
        keep = 1.0 - p
        threshold, scale = np.uint32(np.int64(keep * 4294967296.0 + _WHOLE - _WHOLE)), real(1.0 / keep)
        for i in range(_BATCH):
            words = block(seed, stream, first + np.uint64(b + i))
            w[4 * i] = np.uint32(words[0])
            w[4 * i + 1] = np.uint32(words[1])
            w[4 * i + 2] = np.uint32(words[2])
            w[4 * i + 3] = np.uint32(words[3])
        start = 4 * b
        for i in range(min(size - start, 4 * _BATCH)):
            out[start + i] = x[start + i] * (scale if w[i] < threshold else zero)
        return threshold

    return draw


@args(x=In, out=Out, size=Size, state=Words, p=Float(float64), blocks_per_chunk=Size)
def _dropout(tools, dtype: str):
    """out[i] = x[i]·(1/(1 - p) where word i of the stream is below (1 - p)·2³², rounded, else 0).

    `state`: seed, stream and position; `blocks_per_chunk`: random blocks of a chunk.
    """
    draw, words = _drawer(tools, np.dtype(dtype)), tools.local(np.dtype(np.uint32), 4 * _BATCH)

    def kernel(x, out, size, state, p, blocks_per_chunk, chunk):
        w = words()
        for b in range(chunk * blocks_per_chunk, min(-(-size // 4), (chunk + 1) * blocks_per_chunk), _BATCH):
            draw(w, x, out, size, state, p, b)
        return 0

    return kernel


@args(x=In, out=Out, size=Size, state=Words, p=Float(float64), blocks_per_chunk=Size, mask=Out(uint8))
def _dropout_with_mask(tools, dtype: str):
    """`_dropout` that also stores the mask: a byte per number, 1 if it is kept."""
    draw, words = _drawer(tools, np.dtype(dtype)), tools.local(np.dtype(np.uint32), 4 * _BATCH)

    def kernel(x, out, size, state, p, blocks_per_chunk, mask, chunk):
        w = words()
        for b in range(chunk * blocks_per_chunk, min(-(-size // 4), (chunk + 1) * blocks_per_chunk), _BATCH):
            threshold = draw(w, x, out, size, state, p, b)
            for i in range(min(size - 4 * b, 4 * _BATCH)):
                mask[4 * b + i] = w[i] < threshold
        return 0

    return kernel


@args(x=In, out=Out, size=Size, state=Address, p=Float(float64), blocks_per_chunk=Size, mask=In(uint8))
def _dropout_from_mask(tools, dtype: str):
    """`_dropout` with a stored mask, without drawing."""
    zero, real = np.dtype(dtype).type(0), np.dtype(dtype).type

    def kernel(x, out, size, state, p, blocks_per_chunk, mask, chunk):
        scale = real(1.0 / (1.0 - p))
        for i in range(4 * chunk * blocks_per_chunk, min(size, 4 * (chunk + 1) * blocks_per_chunk)):
            out[i] = x[i] * (scale if mask[i] else zero)
        return 0

    return kernel


_DROPOUT, _FROM_MASK = kernels_of("dropout", _dropout), kernels_of("dropout_again", _dropout_from_mask)
_WITH_MASK = kernels_of("dropout_kept", _dropout_with_mask)


def _is_random(params: dict) -> bool:
    """Whether some numbers can be dropped, and some kept."""
    return 0 < round((1 - params["p"]) * 2**32) < 1 << 32


def _plan(kernels: dict, specs, params, state, p, out, mask=None, aux=()) -> Plan | bool | None:
    x = specs[0]
    kernel = kernels.get(x.dtype)
    if kernel is None or not x.size or not _is_random(params) or not kernel.ready():
        return None
    if not x.plain:
        return True
    blocks, blocks_per_chunk = -(-x.size // 4), share(x.size) // (4 * _BATCH) * _BATCH
    masks = {} if mask is None else {"mask": mask}
    launch = Launch(
        kernel, -(-blocks // blocks_per_chunk), x=Operand(0), out=out, size=x.size, state=state, p=p,
        blocks_per_chunk=blocks_per_chunk, **masks
    )  # fmt: skip
    return Plan(contiguous(x.shape, x.dtype, x.backend), [launch], aux=aux)


def plan_with_mask(specs, params) -> Plan | bool | None:
    """The op's plan for this p, with the mask as a second result: a byte per number, 1 if it is kept.

    Operands: x, the state of the random stream.
    """
    x = specs[0]
    mask = contiguous((x.size,), uint8, x.backend)
    return _plan(_WITH_MASK, specs, params, Operand(1), params["p"], Operand(2), Operand(3), [mask])


def plan_from_mask(specs, params) -> Plan | bool | None:
    """The op's plan with a mask from `plan_with_mask`. Operands: x, mask."""
    return _plan(_FROM_MASK, specs, params, None, params["p"], Operand(2), Operand(1))


dropout = Lowering(
    "dropout",
    lambda specs, params: _plan(_DROPOUT, specs, params, Operand(1), Operand(2), Operand(3)),
    _is_random,
    ("p",),
    draws=True,
    cost=per_element(2),
)
register("dropout", "cpu", needs_numba=False)(dropout)
