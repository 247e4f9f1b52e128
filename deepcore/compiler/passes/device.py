"""Elementwise calls on a GPU as chains, so that `fuse` puts them together as one kernel."""

from __future__ import annotations

import math
import struct
from typing import Any

from deepcore.backend import dtypes as dt
from deepcore.compiler.passes.chains import Chain, Line, Operand, Value
from deepcore.compiler.trace import Call
from deepcore.kernels.codegen.jit import bits
from deepcore.kernels.cpu.elementwise import MAPS
from deepcore.kernels.cuda import fused as cuda_fused
from deepcore.kernels.runtime.executable import Ref, Step

#: Of zeros of two signs, or with a NaN, CuPy's answer may be another than the formula's.
_UNLIKE = {"maximum", "minimum"}


class DeviceChain(Chain):
    """`xp` is where its kernel runs."""

    xp: Any = None

    @classmethod
    def of(cls, step: Step) -> DeviceChain | None:
        call = step.call
        if not isinstance(call, Call) or call.drawn or step.kept or len(step.outs) != 1:
            return None
        found, (out,) = MAPS.get(call.op.name), step.outs
        if found is None or found.booleans or call.op.name in _UNLIKE or len(step.ins) != found.arity:
            return None
        if out.dtype not in (dt.float32, dt.float64) or any(ref.dtype != out.dtype for ref in step.ins):
            return None
        kinds = [_kind(ref, out) for ref in step.ins]
        columns = {columns for _, columns in kinds if columns}
        if not out.whole or len(columns) > 1 or any(kind == "" for kind, _ in kinds):
            return None
        operands = tuple(Operand(ref.buffer, ref.offset, kind) for ref, (kind, _) in zip(step.ins, kinds))
        words = tuple(bits(call.params[name]) for name in found.parameters)
        line = Line(found.formula, operands, words, Value())
        size = math.prod(out.shape)
        return cls(out.dtype.name, size, next(iter(columns), 0), [line], [(line.result, out)])

    def step(self, name: str, ins: list[Ref]) -> Step | None:
        operands = self.operands
        lines, words = self.numbered(operands)
        results = {line.result: len(operands) + i for i, line in enumerate(self.lines)}
        stored = tuple(results[value] for value, _ in self.stored)
        kernel = cuda_fused.kernel(lines, self.dtype, "".join(x.kind for x in operands), stored)
        if not self.xp.ready(kernel):
            return None
        outs = [ref for _, ref in self.stored]
        dtype, shapes = outs[0].dtype, [ref.shape for ref in outs]
        numbers = [struct.unpack("d", struct.pack("q", word))[0] for word in words]
        sizes = {"v": self.size, "s": 1, "r": self.columns, "c": self.size // max(self.columns, 1)}
        places = [Ref(x.buffer, x.offset, (sizes[x.kind],), (dtype.itemsize,), dtype) for x in operands]

        def run(*arrays):
            return cuda_fused.run(self.xp, kernel, arrays, shapes, dtype, self.size, self.columns, numbers)

        return Step(name, places, outs, call=run)


def _kind(ref: Ref, out: Ref) -> tuple[str, int]:
    """How an operand lies to the result: a letter of the pattern, "" for none, and columns where it is rows or columns."""
    if not ref.contiguous:
        return "", 0
    if ref.shape == out.shape:
        return "v", 0
    size = math.prod(ref.shape)
    if size == 1:
        return "s", 0
    shape = (1,) * (len(out.shape) - len(ref.shape)) + ref.shape
    for cut in range(len(shape) + 1):
        columns = math.prod(out.shape[cut:])
        if math.prod(shape[:cut]) == 1 and shape[cut:] == out.shape[cut:]:
            return "r", columns
        if shape[:cut] == out.shape[:cut] and math.prod(shape[cut:]) == 1:
            return "c", columns
    return "", 0
