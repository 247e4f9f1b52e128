"""Forward mode by dual tensors, as in `torch.autograd.forward_ad`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from deepcore.autograd.forward import ForwardLevel, tangent_for
from deepcore.autograd.graph import mode
from deepcore.autograd.levels import Lifted
from deepcore.errors import TransformError
from deepcore.tensor import Tensor

__all__ = ["UnpackedDualTensor", "dual_level", "enter_dual_level", "exit_dual_level", "make_dual", "unpack_dual"]


class UnpackedDualTensor(NamedTuple):
    """A dual tensor's parts; `tangent` is None for a tensor that is not dual."""

    primal: Tensor
    tangent: Tensor | None


class _DualLevel(ForwardLevel):
    name = "dual_level"
    context: Any = None


def _current() -> _DualLevel | None:
    level = mode.level
    while level is not None and not isinstance(level, _DualLevel):
        level = level.outer
    return level


@contextlib.contextmanager
def dual_level() -> Iterator[int]:
    """Inside, `make_dual` makes tensors whose tangents all operations carry along. Dual levels do not nest, as in PyTorch."""
    level = enter_dual_level()
    try:
        yield level
    finally:
        exit_dual_level()


def enter_dual_level() -> int:
    """Enter a `dual_level`; `exit_dual_level` leaves it."""
    if _current() is not None:
        raise TransformError("dual levels do not nest", fix="dc.jvp, which nests")
    level = _DualLevel()
    level.context = level.running()
    level.context.__enter__()
    return 0


def exit_dual_level(*, level: int | None = None) -> None:
    """Leave the `dual_level` entered last."""
    current = _current()
    if current is None:
        raise TransformError("no dual level to leave", fix="enter_dual_level()")
    current.context.__exit__(None, None, None)


def make_dual(tensor: Tensor, tangent: Tensor, *, level: int | None = None) -> Tensor:
    """`tensor` with a tangent of its shape."""
    current = _current()
    if current is None:
        raise TransformError("make_dual needs a dual level", fix="with dc.autograd.forward_ad.dual_level():")
    if current.owns(tensor):
        raise TransformError("this tensor has a tangent already", fix="unpack_dual(tensor).primal")
    dual = current.lift(tensor, tangent_for(tensor, tangent, "make_dual: tangents"))
    return dual.requires_grad_() if tensor._requires_grad else dual


def unpack_dual(tensor: Tensor, *, level: int | None = None) -> UnpackedDualTensor:
    """(primal, tangent) of a tensor; the tangent is None where it is 0."""
    current = _current()
    if current is None or not isinstance(tensor, Lifted) or not current.owns(tensor):
        return UnpackedDualTensor(tensor, None)
    return UnpackedDualTensor(tensor.content, tensor.tangent)
