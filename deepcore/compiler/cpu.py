"""Programs on the CPU: what can be fused there, and how records are lowered to launches of kernels."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

from deepcore import kernels
from deepcore.autograd.scopes import arithmetic_of
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.compiler.ir import Record
from deepcore.compiler.passes.chains import Chain, Operand, chain_of
from deepcore.config import settings
from deepcore.kernels.codegen.jit import Kernel, bits
from deepcore.kernels.cpu import checks, dropout, elementwise, reductions
from deepcore.kernels.plan import Operand as Number
from deepcore.kernels.plan import Plan, Spec, interned, strides_of
from deepcore.kernels.runtime import allocator
from deepcore.kernels.runtime.executable import Buffer, Launch, Ref, Step, move

_WORDS = (1 << 64) - 1


class Target:
    """The CPU as the target of one program. `draws`: its number of draws of random numbers."""

    def __init__(self, backend, draws: int):
        self.backend = backend
        #: Without kernels, records are calls of what eager execution runs.
        self.kernels = settings.kernels
        #: (seed, stream, position) of each draw, set before each run.
        self.words = allocator.zeros((max(draws, 1), 3), dt.int64)
        self._words = Buffer("outside", self.words.nbytes, self.words, "draws")

    def chain_of(self, record: Record) -> Chain | None:
        return chain_of(record) if self.kernels else None

    # -- fusion -------------------------------------------------------------------------------------------
    def has_kernel(self, chain: Chain) -> bool:
        return kernel_of(chain, chain.operands)[0].ready()

    def fused_sum(self, chain: Chain, record: Record) -> Record | None:
        """The sum of a chain's result, which is not stored; None where no kernel does that."""
        if record.op is None or record.op.name != "sum" or record.plan is not None or not chain.pays:
            return None
        (ref,) = record.ins
        if (ref.buffer, ref.offset) != (chain.stored[0][1].buffer, chain.stored[0][1].offset) or not ref.contiguous:
            return None
        if chain.lines[-1].result is not chain.stored[0][0]:
            return None
        operands = sorted(chain.operands, key=lambda x: x.kind != "v")
        lines, words = chain.numbered(operands)
        specs = [self.spec(ref), *(self.spec(chain.place(x)) for x in operands[1:])]
        pattern = "".join(x.kind for x in operands)
        plan = reductions.summed(lines, chain.dtype, pattern, specs, record.params["dims"], record.params["keepdim"])
        if plan is None:
            return None
        floats = tuple(map(_number, words))
        places = list(map(chain.place, operands))
        return Record(
            record.name, places, record.outs, record.op, record.params, plan=plan, floats=floats, fused=chain.arithmetic
        )  # fmt: skip

    def with_epilogue(
        self, product: Record, chain: Chain, x: Operand, others: list[Operand], keep: bool
    ) -> Record | None:
        """A product that applies a chain to its result, and with `keep` also stores the bare one; None if unsupported."""
        lowering = None if product.op is None else self.lowering(product)
        if lowering is None or lowering.epilogue is None:
            return None
        (out,), (_, result) = product.outs, chain.stored[0]
        if not out.whole or not result.whole or out.nbytes != result.nbytes or result.dtype != out.dtype:
            return None
        plan = product.plan or self.plan(product)
        kernel, _ = kernel_of(chain, [x, *others])
        if not isinstance(plan, Plan) or not kernel.ready():
            return None
        new = lowering.epilogue(plan, kernel, len(others), keep)
        if new is None:
            return None
        ins, outs = [*product.ins, *map(chain.place, others)], [result, out] if keep else [result]
        return Record(
            "", ins, outs, product.op, product.params, kept=product.kept, plan=new, fused=chain.arithmetic
        )  # fmt: skip

    def mask_plan(self, record: Record, reads: bool) -> Plan | None:
        """A dropout's plan that stores its mask, or `reads` one; None if unsupported."""
        if record.op.name != "dropout" or not record.ins[0].contiguous:
            return None
        plan = (dropout.plan_from_mask if reads else dropout.plan_with_mask)([self.spec(record.ins[0])], record.params)
        return plan if isinstance(plan, Plan) else None

    # -- lowering -----------------------------------------------------------------------------------------
    def spec(self, ref: Ref) -> Spec:
        return interned(ref.shape, ref.strides, ref.dtype, ref.contiguous, self.backend)

    def lowering(self, record: Record):
        return record.op.lowering or kernels.lowering(record.op.name, self.backend)

    def plan(self, record: Record) -> Plan | bool | None:
        """The plan of a record's op for its operands' specs."""
        lowering = self.lowering(record) if self.kernels else None
        if lowering is None:
            return None
        return lowering.plan_by_kernels([self.spec(ref) for ref in record.ins], record.params)

    def lower(self, record: Record) -> list[Step]:
        """The steps of a record: launches where its op has a plan, else a call of its forward."""
        steps = self._lowered(record)
        steps[-1].arithmetic = arithmetic(record)
        for step in steps:
            step.origins = record.origins
        return steps

    def _lowered(self, record: Record) -> list[Step]:
        if record.plan is not None:
            return [self._launched(record, record.plan, record.ins, record.floats)]
        if record.chain is not None:
            return [_fused(record)]
        if record.bodies:
            from deepcore.compiler.loops import lower  # it builds programs of its own

            return [lower(record, self)]
        if record.op is None:
            if record.name == "copy":
                return [self.copy(record.outs[0], record.ins[0])]
            effect = _EFFECTS.get(record.name)
            return effect(record) if effect is not None else [self._called(record)]
        plan, ins, moves = self.plan(record), list(record.ins), []
        lowering = self.lowering(record)
        chain = None if isinstance(plan, Plan) else self.chain_of(record)
        if chain is not None and self.has_kernel(chain):
            return [_fused(chain.record(record.name))]
        if plan is True:
            copies = lowering.copies([self.spec(ref) for ref in ins], record.params) or ()
            for i, copy in enumerate(copies):
                if copy:
                    ref, ins[i] = (
                        ins[i],
                        Ref(Buffer("own", ins[i].nbytes), 0, ins[i].shape, contiguous(ins[i]), ins[i].dtype),
                    )
                    moves.append(self.copy(ins[i], ref))
            plan = lowering.plan_by_kernels([self.spec(ref) for ref in ins], record.params) if moves else None
        if (
            isinstance(plan, Plan)
            and len(plan.results) == len(record.outs)
            and all(map(_fits, plan.results, record.outs))
        ):
            floats = [float(record.params[name]) for name in lowering.floats]
            return [*moves, self._launched(record, plan, ins, floats)]
        return [self._called(record)]

    def copy(self, to: Ref, source: Ref) -> Step:
        """A step that copies an array, by a kernel where it becomes contiguous."""
        lowering = kernels.lowering("contiguous", self.backend) if self.kernels else None
        strided = (
            to.contiguous and not source.contiguous and to.dtype == source.dtype and to.buffer is not source.buffer
        )
        if lowering is not None and strided:
            plan = lowering.plan_by_kernels([self.spec(source)], {})
            if isinstance(plan, Plan):
                return self._launched(Record("copy", [source], [to]), plan, [source], ())
        return move(to, source)

    def _launched(self, record: Record, plan: Plan, ins: Sequence[Ref], floats: Sequence[float]) -> Step:
        temporaries = [Buffer("own", size) for size in plan.temporaries]
        operands: list[Any] = list(ins)
        if record.draw is not None:
            operands.append(Ref(self._words, 24 * record.draw.row, (3,), (8,), dt.int64))
        operands += [
            *floats,
            *(Ref(buffer, 0, (buffer.nbytes,), (1,), dt.uint8) for buffer in temporaries),
            *record.outs,
        ]
        launches = []
        for launch in plan.launches:
            words, places = [], {}
            for i, word in enumerate(launch.words):
                operand = operands[word.number] if isinstance(word, Number) else int(word)
                if isinstance(operand, Ref):
                    places[i] = operand.buffer, operand.offset
                words.append(
                    0 if isinstance(operand, Ref) else bits(operand) if isinstance(operand, float) else operand
                )
            launches.append(Launch(launch.kernel, words, places, launch.chunks, plan.owner))
        return Step(record.name, list(ins), record.outs, launches, temps=temporaries, kept=record.kept)

    def _called(self, record: Record) -> Step:
        call: Callable | None = record.call
        assert call is not None, record.name
        if record.draw is not None:
            call = functools.partial(_with_words, call, self.words[record.draw.row])
        return Step(record.name, record.ins, record.outs, call=call, kept=record.kept)


def arithmetic(record: Record) -> float:
    """Arithmetic operations, as formulas and the CPU's lowerings declare them, for any device."""
    if record.chain is not None:
        return record.chain.arithmetic
    if record.bodies:
        counts = [body.length * sum(map(arithmetic, body.recorder.records)) for body in record.bodies]
        return max(counts) if record.name == "cond" else sum(counts)
    if record.op is not None:
        cpu = get_backend("cpu")
        specs = [interned(ref.shape, ref.strides, ref.dtype, ref.contiguous, cpu) for ref in record.ins]
        results = [math.prod(ref.shape) for ref in record.outs]
        return record.fused + arithmetic_of(record.op, specs, results, record.params)
    sizes = (math.prod(ref.shape) for ref in (*record.ins, *record.outs))
    return 0 if record.name == "copy" else max(sizes, default=0)


def _with_words(call: Callable, words, *arrays):
    seed, stream, position = words.tolist()
    return call(*arrays, seed=seed & _WORDS, stream=stream & _WORDS, position=position & _WORDS)


def _fits(spec: Spec, ref: Ref) -> bool:
    """Whether a plan's result has the layout of the recorded one."""
    return spec.shape == ref.shape and spec.dtype == ref.dtype and ref.contiguous


def contiguous(ref: Ref) -> tuple[int, ...]:
    """The C-contiguous strides for a place's shape and dtype."""
    return strides_of(ref.shape, ref.dtype.itemsize)


def _fused(record: Record) -> Step:
    chain = record.chain
    operands = chain.operands
    kernel, words = kernel_of(chain, operands)
    places = {i: (x.buffer, x.offset) for i, x in enumerate(operands)}
    places |= {len(operands) + k: (ref.buffer, ref.offset) for k, (_, ref) in enumerate(chain.stored)}
    launch = Launch(
        kernel,
        [0] * len(places) + [chain.size, chain.columns, *words],
        places,
        elementwise.slices(chain.size, chain.columns),
    )
    return Step(record.name, record.ins, record.outs, [launch], kept=record.kept)


def kernel_of(chain: Chain, operands: list[Operand]) -> tuple[Kernel, list[int]]:
    """The kernel of a chain's lines, and its parameters' words."""
    lines, words = chain.numbered(operands)
    pattern = "".join(x.kind for x in operands)
    return elementwise.fused(lines, chain.dtype, pattern, chain.results(len(operands))), words


def _number(word: int) -> float:
    return struct.unpack("d", struct.pack("q", word))[0]


_EFFECTS: dict[str, Callable[[Record], list[Step]]] = {
    "finite": lambda record: [checks.finite(record.ins[0])],
    "all_finite": lambda record: [checks.all_finite(record.ins)],
    "within": lambda record: [checks.within(record.ins[0], **record.params)],
}
