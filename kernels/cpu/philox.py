"""Random words on the CPU."""

from __future__ import annotations

import sys

import numpy as np

from deepcore.backend import get_backend
from deepcore.backend.dtypes import uint32
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import Operand, Out, Size, Words, args
from deepcore.kernels.math.philox import philox_block
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous
from deepcore.kernels.registry import register

# Words drawn in this process before the kernel is loaded: about 30 ms of the reference's time, or 1 ms if LLVM is
# imported already.
_MIN_WORDS, _FEW_WORDS = 1 << 20, 1 << 15

# Random blocks of a chunk: some 20 to 50 µs.
_CHUNK_BLOCKS = 1 << 13

_words_drawn = 0


@args(state=Words, blocks=Size, out=Out(np.uint32))
def _philox(tools):
    """Blocks of Philox4x32-10 from a position on. `state`: seed, stream, position."""
    block = tools.lift(philox_block)

    def kernel(state, blocks, out, chunk):
        seed, stream, start = np.uint64(state[0]), np.uint64(state[1]), np.uint64(state[2])
        for i in range(chunk * _CHUNK_BLOCKS, min(blocks, (chunk + 1) * _CHUNK_BLOCKS)):
            w = block(seed, stream, start + np.uint64(i))
            out[4 * i] = np.uint32(w[0])
            out[4 * i + 1] = np.uint32(w[1])
            out[4 * i + 2] = np.uint32(w[2])
            out[4 * i + 3] = np.uint32(w[3])
        return 0

    return kernel


_PHILOX = Kernel("philox", _philox)


def _plan(specs, params) -> Plan | None:
    blocks = params["blocks"]
    if not _PHILOX.ready():
        return None
    launch = Launch(_PHILOX, -(-blocks // _CHUNK_BLOCKS) or 1, state=Operand(0), blocks=blocks, out=Operand(1))
    return Plan(contiguous((4 * blocks,), uint32, get_backend("cpu")), [launch])


def _is_worth_loading(seed: int, stream: int, position: int, blocks: int) -> bool:
    # Both paths give the same integers, so this choice, unlike others, may depend on earlier calls.
    global _words_drawn
    _words_drawn += 4 * blocks
    return _words_drawn >= (_FEW_WORDS if "llvmlite" in sys.modules else _MIN_WORDS)


philox = Lowering("philox", _plan, ("blocks",), draws=True, cost=lambda specs, params: 120 * params["blocks"])
register("philox", "cpu", when=_is_worth_loading, needs_numba=False)(philox)
