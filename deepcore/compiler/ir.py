"""The linear IR: records of ops over places in buffers, with static shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from deepcore.kernels.runtime.executable import Buffer, Ref


class Draw(NamedTuple):
    """A draw of random numbers: `row` of the program's table of (seed, stream, position)."""

    row: int


class Origin(NamedTuple):
    """An op that a record computes, for profiles: its name, whether it ran backward, and the module (`autograd.scopes`)."""

    op: str
    backward: bool
    scope: Any


#: The origin of an optimizer's update.
UPDATE = Origin("update", False, None)


@dataclass(eq=False)
class Record:
    """One op or effect: the places it reads and writes, and how it is computed.

    `op` with `params` is what `autograd.apply` ran; effects have a `name` alone. `call(*arrays of ins)` computes the
    arrays of `outs` as eager execution does, with the words of its draw as `seed`, `stream` and `position` where it has
    one; control flow has `bodies` instead. Passes may put `chain` (elementwise formulas) or `plan` (launches over the ins,
    `floats` and outs) in its place.
    """

    name: str
    ins: list[Ref]
    outs: list[Ref]
    op: Any = None
    params: dict[str, Any] = field(default_factory=dict)
    call: Callable | None = None
    #: Has side effects, so `dead` keeps it: it checks something, or changes what outlives the program.
    kept: bool = False
    draw: Draw | None = None
    #: The recorded bodies of control flow: of "scan" one, of "cond" the branches, of "while" condition and body.
    bodies: list[Any] = field(default_factory=list)
    chain: Any = None
    plan: Any = None
    floats: tuple[float, ...] = ()
    #: Arithmetic of the formulas fused into its plan.
    fused: int = 0
    #: The ops it was recorded from, several where they are fused.
    origins: tuple[Origin, ...] = ()

    def buffers(self) -> list[Buffer]:
        return list(dict.fromkeys(ref.buffer for ref in (*self.ins, *self.outs)))

    def reads(self) -> set[Buffer]:
        return {ref.buffer for ref in self.ins}

    def writes(self) -> set[Buffer]:
        return {ref.buffer for ref in self.outs}

    @property
    def pure(self) -> bool:
        """Whether its results depend on its operands and parameters alone."""
        return self.op is not None and not self.kept and self.draw is None


@dataclass
class Program:
    """`records` in order; `lasting` places are read after them, `constants` are arrays that never change.

    `target` is the device: what it can fuse, and how it lowers records.
    """

    records: list[Record]
    lasting: list[Ref]
    constants: dict[Buffer, Any]
    target: Any
    _chains: dict[Record, Any] = field(default_factory=dict)

    def chain_of(self, record: Record):
        """The elementwise formulas of a record, or None."""
        if record not in self._chains:
            self._chains[record] = self.target.chain_of(record)
        return self._chains[record]

    def replace(self, renamed: dict[Buffer, Ref]) -> None:
        """Replace buffers by places in other ones, everywhere."""
        for record in self.records:
            if any(ref.buffer in renamed for ref in (*record.ins, *record.outs)):
                record.ins = [moved(ref, renamed) for ref in record.ins]
                record.outs = [moved(ref, renamed) for ref in record.outs]
                if record.chain is not None:
                    record.chain = record.chain.moved(renamed)
                self._chains.pop(record, None)
        self.lasting[:] = [moved(ref, renamed) for ref in self.lasting]


def moved(ref: Ref, renamed: dict[Buffer, Ref]) -> Ref:
    to = renamed.get(ref.buffer)
    return ref if to is None else Ref(to.buffer, to.offset + ref.offset, ref.shape, ref.strides, ref.dtype)
