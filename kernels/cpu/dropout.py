"""Dropout on the CPU, whose mask is drawn where it is used, or kept."""

from __future__ import annotations

import numpy as np

from deepcore.kernels import watch
from deepcore.kernels.codegen.jit import Kernel, address, bits, signed_words
from deepcore.kernels.cpu.reductions import FLOATS, share
from deepcore.kernels.math.philox import philox_block
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import allocator
from deepcore.kernels.runtime.executable import Buffer, Launch
from deepcore.kernels.runtime.threadpool import complete

# Random blocks (of four numbers) whose words are made at a time.
_BLOCKS = 64


def _dropout(tools, dtype: str, keep: bool = False):
    """out[i] = x[i]·(scale where word i of the stream is below the threshold, else 0).

    Words: x, out, size, generator (seed, stream, position), first block from there, threshold, scale (a float64),
    blocks of a slice; with `keep` a byte for each number, to be set to whether it stays.
    """
    dt = np.dtype(dtype)
    view, byte, draw, words = (
        tools.view(dt), tools.view(np.dtype(np.uint8)), tools.lift(philox_block), tools.local(np.dtype(np.uint32), 4 * _BLOCKS),
    )  # fmt: skip
    whole, zero, real = tools.words(), dt.type(0), dt.type

    def kernel(a, part):
        x, out, size = view(a[0]), view(a[1]), a[2]
        state = whole(a[3])
        seed, stream, first = np.uint64(state[0]), np.uint64(state[1]), np.uint64(state[2]) + np.uint64(a[4])
        threshold, scale = np.uint32(a[5]), real(np.int64(a[6]).view(np.float64))
        w = words()
        for b in range(part * a[7], min(-(-size // 4), (part + 1) * a[7]), _BLOCKS):
            for i in range(_BLOCKS):
                four = draw(seed, stream, first + np.uint64(b + i))
                w[4 * i] = np.uint32(four[0])
                w[4 * i + 1] = np.uint32(four[1])
                w[4 * i + 2] = np.uint32(four[2])
                w[4 * i + 3] = np.uint32(four[3])
            start = 4 * b
            for i in range(min(size - start, 4 * _BLOCKS)):
                out[start + i] = x[start + i] * (scale if w[i] < threshold else zero)
            if keep:
                mask = byte(a[8] + start)
                for i in range(min(size - start, 4 * _BLOCKS)):
                    mask[i] = w[i] < threshold
        return 0

    return kernel


def _dropout_again(tools, dtype: str):
    """The same by the bytes that were kept. Words as above."""
    dt = np.dtype(dtype)
    view, byte, zero, real = tools.view(dt), tools.view(np.dtype(np.uint8)), dt.type(0), dt.type

    def kernel(a, part):
        x, out, mask = view(a[0]), view(a[1]), byte(a[8])
        scale = real(np.int64(a[6]).view(np.float64))
        for i in range(4 * part * a[7], min(a[2], 4 * (part + 1) * a[7])):
            out[i] = x[i] * (scale if mask[i] else zero)
        return 0

    return kernel


_DROPOUT = {d: Kernel(f"dropout_{d.name}", _dropout, d.name) for d in FLOATS}
_KEPT = {d: Kernel(f"dropout_kept_{d.name}", _dropout, d.name, True) for d in FLOATS}
_AGAIN = {d: Kernel(f"dropout_again_{d.name}", _dropout_again, d.name) for d in FLOATS}


@register("dropout", "cpu", needs_numba=False)
def dropout(xp, input, *, seed, stream, position, p, out=None):
    kernel = _DROPOUT.get(input.dtype)
    threshold = round((1 - p) * 2**32)
    if kernel is None or not input.size or not 0 < threshold < 1 << 32 or not kernel.ready():
        return NotImplemented
    x = input if input.flags.carray else np.require(input, requirements=("C", "A"))
    result = allocator.empty_like(x) if out is None else out
    state, ahead = generator_state(seed, stream, position)
    each = share(x.size) // (4 * _BLOCKS) * _BLOCKS
    blocks = -(-x.size // 4)
    scale = bits(1 / (1 - p))
    complete(
        kernel, -(-blocks // each), address(x), address(result), x.size, address(state), ahead, threshold, scale, each
    )
    return result


def drawn(launch: Launch) -> tuple | None:
    """What the mask of a dropout's launch depends on, and its bytes; None for another launch."""
    if all(launch.kernel is not kernel for kernel in _DROPOUT.values()):
        return None
    return (launch.places.get(3), *launch.words[2:]), launch.words[2]


def with_mask(launch: Launch, mask: tuple[Buffer, int], again: bool) -> Launch | None:
    """A dropout's launch that also writes its mask to that place, or takes it from there."""
    kernel = next((_AGAIN if again else _KEPT)[d] for d, each in _DROPOUT.items() if each is launch.kernel)
    if not kernel.ready():
        return None
    return Launch(kernel, [*launch.words, 0], {**launch.places, 8: mask}, launch.slices)


def generator_state(seed: int, stream: int, position: int):
    """Three words as kernels read them, and the blocks from the position there to this one."""
    if watch.count and watch.mine.follower is not None:
        found = watch.mine.follower.state(seed, stream, position)
        if found is not None:
            return found
    return np.array(signed_words(seed, stream, position), np.int64), 0
