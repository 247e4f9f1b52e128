"""What a program does, step by step: kernels, arithmetic, bytes, and the time each takes."""

from __future__ import annotations

import dis
import functools
import math
from collections.abc import Iterable

from deepcore.compiler.passes.chains import Chain
from deepcore.compiler.runner import Runner
from deepcore.kernels.cpu import elementwise, gemm
from deepcore.kernels.math import formulas
from deepcore.kernels.runtime.executable import Step

# Operations for an element of what is read or written, whichever is more, of steps that no formula tells it of.
_EACH = {
    "sum": 1, "amax": 1, "amin": 1, "batch_statistics": 4, "batch_norm": 4, "batch_norm_grad": 8, "layer_norm": 8,
    "layer_norm_grad": 12, "softmax": 5, "log_softmax": 5, "cross_entropy": 8, "dropout": 2, "SGD": 4, "Adam": 14,
    "AdamW": 16, "copy": 0,
}  # fmt: skip
_ARITHMETIC = {"BINARY_OP": 1, "UNARY_NEGATIVE": 1, "COMPARE_OP": 1}


def table(runner: Runner) -> list[str]:
    """The lines that tell of one program."""
    steps = runner.exe.steps
    times = runner.times()
    total = sum(times) or 1.0
    rows = [("step", "kernels", "reads", "writes", "arithmetic", "bytes", "time", "share")]
    for step, time in zip(steps, times):
        kernels = ", ".join(dict.fromkeys(launch.kernel.name for launch in step.launches)) or "a call"
        rows.append(
            (
                step.name, kernels, _shapes(step.ins), _shapes(step.outs), _short(arithmetic(step, runner)), _short(moved(step)),
                f"{time * 1e6:.1f} µs", f"{time / total:.1%}",
            )
        )  # fmt: skip
    widths = [min(44, max(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    lines = ["  ".join(_cut(cell, width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    ops, size = sum(arithmetic(step, runner) for step in steps), sum(map(moved, steps))
    return [
        f"{len(steps)} steps, {len(runner.exe.launches)} kernels; planned memory {_short(runner.exe.size)}B, "
        f"arithmetic {_short(ops)}, bytes {_short(size)}, {total * 1e6:.1f} µs when run step by step",
        *(f"  {line}" for line in lines),
    ]


def arithmetic(step: Step, runner: Runner) -> int:
    """Additions, multiplications, divisions and comparisons, a fused one counted twice; about, where no formula says."""
    products = [gemm.arithmetic(launch, runner.static) for launch in step.launches]
    chain = Chain.of(step)
    if chain is not None:
        return chain.size * sum(operations(line.formula) for line in chain.lines)
    names = step.name.split("·")
    known = [name for name in names if name in elementwise.MAPS]
    size = max((math.prod(ref.shape) for ref in (*step.ins, *step.outs)), default=0)
    if step.call is None and not step.ins:
        size = 0
    others = (
        [_EACH.get(name.removesuffix(" norm"), 1) for name in names if name not in known] if not any(products) else []
    )
    if not step.outs or step.name in ("SGD", "Adam", "AdamW"):
        size = sum(math.prod(ref.shape) for ref in step.ins)
    return sum(products) + size * (sum(others) + sum(operations(elementwise.MAPS[n].formula) for n in known))


def moved(step: Step) -> int:
    """Bytes read and written, each place once."""
    return sum(ref.nbytes for ref in dict.fromkeys(step.ins)) + sum(ref.nbytes for ref in dict.fromkeys(step.outs))


@functools.cache
def operations(formula: str) -> int:
    """Arithmetic of a formula for one element."""
    return _count(formulas.function(formula))


@functools.cache
def _count(function) -> int:
    if function.__name__ == "fma":
        return 2
    total = 0
    for instruction in dis.get_instructions(function):
        total += _ARITHMETIC.get(instruction.opname, 0)
        callee = function.__globals__.get(instruction.argval) if instruction.opname == "LOAD_GLOBAL" else None
        if hasattr(callee, "__code__"):
            total += _count(callee)
    return total


def _shapes(refs: Iterable) -> str:
    found = [str(ref) for ref in refs]
    return " ".join(found[:3]) + (f" … {len(found)} in all" if len(found) > 3 else "")


def _cut(text: str, width: int) -> str:
    return (text if len(text) <= width else text[: width - 1] + "…").ljust(width)


def _short(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} "
