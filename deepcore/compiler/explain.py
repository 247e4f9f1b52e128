"""Tables of a program's steps: kernels, arithmetic, bytes and times."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from deepcore.kernels.runtime.executable import Step

if TYPE_CHECKING:
    from deepcore.compiler.runner import Runner


def table(runner: Runner) -> list[str]:
    """The lines that describe one program."""
    steps = runner.exe.steps
    times = runner.times()
    total = sum(times) or 1.0
    rows = [("step", "kernels", "reads", "writes", "arithmetic", "bytes", "time", "share")]
    for step, time in zip(steps, times):
        launches = step.launches or getattr(step.call, "launches", ())
        kernels = ", ".join(dict.fromkeys(launch.kernel.name for launch in launches)) or "a call"
        rows.append(
            (
                step.name, kernels, _shapes(step.ins), _shapes(step.outs), _short(step.arithmetic), _short(moved(step)),
                f"{time * 1e6:.1f} µs", f"{time / total:.1%}",
            )
        )  # fmt: skip
    widths = [min(44, max(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    lines = ["  ".join(_cut(cell, width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    ops, size = sum(step.arithmetic for step in steps), sum(map(moved, steps))
    return [
        f"{len(steps)} steps, {len(runner.exe.launches)} kernels; planned memory {_short(runner.exe.size)}B, "
        f"arithmetic {_short(ops)}, bytes {_short(size)}, {total * 1e6:.1f} µs when run step by step",
        *(f"  {line}" for line in lines),
    ]


def moved(step: Step) -> int:
    """Bytes read and written, counting each place once."""
    return sum(ref.nbytes for ref in dict.fromkeys(step.ins)) + sum(ref.nbytes for ref in dict.fromkeys(step.outs))


def _shapes(refs: Iterable) -> str:
    shapes = [str(ref) for ref in refs]
    return " ".join(shapes[:3]) + (f" … {len(shapes)} in all" if len(shapes) > 3 else "")


def _cut(text: str, width: int) -> str:
    return (text if len(text) <= width else text[: width - 1] + "…").ljust(width)


def _short(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} "
