"""What fills the memory when it runs out: the failed allocation, and the largest tensors by module path."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from deepcore.autograd.graph import Node, brief
from deepcore.errors import OutOfMemoryError
from deepcore.nn import Module
from deepcore.nn.parameter import UninitializedTensor
from deepcore.nn.summary import human
from deepcore.tensor import Tensor

if TYPE_CHECKING:
    from deepcore.train.trainer import Trainer

#: Tensors that the message lists.
_SHOWN = 5


class Live(NamedTuple):
    """A tensor of a run: the path of its parameter or buffer, what it is, and its bytes."""

    path: str
    kind: str
    bytes: int

    def __str__(self) -> str:
        return f"{self.path} ({self.kind}) {human(self.bytes)}"


def live(trainer: Trainer) -> list[Live]:
    """Parameters, gradients, buffers and optimizer state, the largest first."""
    tensors: list[Live] = []
    named = {**dict(trainer._named), **dict(trainer.model.named_parameters())}
    states: dict[Any, Any] = {} if trainer.optimizer is None else trainer.optimizer.state
    visited: set[int] = set()
    for path, p in named.items():
        if id(p) in visited or isinstance(p, UninitializedTensor):
            continue
        visited.add(id(p))
        tensors.append(Live(path, "parameter", p.nbytes))
        if p.grad is not None:
            tensors.append(Live(path, "gradient", p.grad.nbytes))
        state = states.get(p) or {}
        tensors += [
            Live(path, f"optimizer state {key}", value.nbytes)
            for key, value in state.items()
            if getattr(value, "ndim", 0)
        ]
    for path, b in trainer.model.named_buffers():
        if not isinstance(b, UninitializedTensor):
            tensors.append(Live(path, "buffer", b.nbytes))
    return sorted(tensors, key=lambda t: -t.bytes)


def report(trainer: Trainer, error: MemoryError, where: str, tensors: list[Live] | None) -> OutOfMemoryError:
    """The typed error; the frames of `error`, which hold activations, are cleared."""
    tensors = live(trainer) if tensors is None else tensors
    failed = _failed(trainer, error)
    totals: dict[str, int] = {}
    for t in tensors:
        kind = t.kind.partition(" state")[0] + ("s" if t.kind in ("parameter", "gradient", "buffer") else "")
        totals[kind] = totals.get(kind, 0) + t.bytes
    listed = ", ".join(map(str, tensors[:_SHOWN]))
    rest = ", ".join(f"{kind} {human(count)}" for kind, count in totals.items())
    result = OutOfMemoryError(
        f"the memory of {trainer.backend} is full{where}" + (f": no room for {failed}" if failed else ""),
        received=f"largest: {listed}; in all: {rest}",
        fix="a smaller batch_size, with accumulate=n of the Trainer for the same updates, or a smaller model; the model has "
        "its last complete update, and can be used",
    )
    result.tensors = tensors
    _release(error)
    if hasattr(trainer.backend, "release_memory"):
        trainer.backend.release_memory()
    return result


def _release(error: BaseException | None) -> None:
    """Free what the frames of an error, and of those before it, hold."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error.__context__, error.__cause__, error = None, None, error.__cause__ or error.__context__


def _failed(trainer: Trainer, error: BaseException) -> str:
    """The allocation that failed, with its op and its module."""
    op, operands, backward = "", "", False
    modules: list[Module] = []
    for names in _frames(error):
        module, node = names.get("self"), names.get("node")
        if isinstance(module, Module) and (not modules or modules[-1] is not module):
            modules.append(module)
        if isinstance(node, Node) and node.op is not None:
            op, operands, backward = f"the gradient of {node.name}", "", True
        label, inputs = getattr(names.get("op"), "label", None), names.get("inputs")
        if isinstance(label, str) and isinstance(inputs, (tuple, list)) and not backward:
            op = label
            operands = " and ".join(brief(t) for t in inputs if isinstance(t, Tensor) and hasattr(t, "_data"))
    size = ""
    shape, dtype = getattr(error, "shape", None), getattr(error, "dtype", None)
    if shape is not None and dtype is not None:
        count = dtype.itemsize
        for n in shape:
            count *= n
        size = f"{dtype}{list(shape)}, {human(count)},"
    elif getattr(error, "_size", None):
        size = human(error._size)  # type: ignore[attr-defined]
    path = ""
    if modules:
        names_ = {id(module): name for name, module in trainer.model.named_modules()}
        name = names_.get(id(modules[-1]), "")
        root = type(trainer.model).__name__
        path = f"{root}.{name} ({type(modules[-1]).__name__})" if name else root
    parts = [size or ("the result" if op else "")]
    parts += [f"of {op}" + (f" ({operands})" if operands else "")] if op else []
    parts += [f"in {path}"] if path else []
    return " ".join(filter(None, parts)).replace(", of", " of").replace(",  ", " ")


def _frames(error: BaseException | None) -> Iterator[dict[str, Any]]:
    """The local variables of the frames of an error, outermost first."""
    trace = error.__traceback__ if error is not None else None
    while trace is not None:
        yield trace.tb_frame.f_locals
        trace = trace.tb_next
