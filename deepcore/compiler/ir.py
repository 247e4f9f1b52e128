"""A program while it is being made: its steps, and what must be there when they are done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deepcore.kernels.runtime.executable import Buffer, Ref, Step


@dataclass
class Program:
    """`steps` in order; `lasting` are the places that are read after them, `constants` arrays that never change."""

    steps: list[Step]
    lasting: list[Ref]
    constants: dict[Buffer, Any] = field(default_factory=dict)

    def replace(self, renamed: dict[Buffer, Ref]) -> None:
        """Use other places in the stead of whole buffers, wherever those are used."""
        for step in self.steps:
            step.ins = [moved(ref, renamed) for ref in step.ins]
            step.outs = [moved(ref, renamed) for ref in step.outs]
            for launch in step.launches:
                for word, (buffer, offset) in launch.places.items():
                    if buffer in renamed:
                        to = renamed[buffer]
                        launch.places[word] = (to.buffer, to.offset + offset)
        self.lasting[:] = [moved(ref, renamed) for ref in self.lasting]


def moved(ref: Ref, renamed: dict[Buffer, Ref]) -> Ref:
    to = renamed.get(ref.buffer)
    return ref if to is None else Ref(to.buffer, to.offset + ref.offset, ref.shape, ref.strides, ref.dtype)
