"""Norms of gradients, and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from itertools import chain, repeat
from typing import Any

from deepcore.autograd import mixed_backends, mode, no_grad
from deepcore.backend import dtypes as dt
from deepcore.config import settings
from deepcore.effects import effect
from deepcore.errors import ArgumentError, NonFiniteError, non_negative
from deepcore.kernels.cpu.clip import Gradients
from deepcore.kernels.update import all_finite
from deepcore.nn.modules.module import Module
from deepcore.ops.parts import real_array
from deepcore.tensor import Tensor, from_raw, zeros


def _named_gradients(parameters) -> list[tuple[str, Tensor]]:
    """(name, gradient) of every parameter with a gradient; takes a module, a tensor, tensors, or (name, tensor) pairs."""
    if isinstance(parameters, Module):
        parameters = parameters.named_parameters()
    elif isinstance(parameters, Tensor):
        parameters = [parameters]
    named = []
    for i, item in enumerate(parameters):
        name, parameter = item if isinstance(item, tuple) else (f"number {i} (shape {item.shape})", item)
        if parameter.grad is not None:
            named.append((name, parameter.grad))
    return named


def _norms(gradients: list[Tensor], norm_type: float) -> list[Any]:
    """The raw 0-d norm of each gradient, in float32 or better."""
    norms = []
    for g in gradients:
        if g.backend is not gradients[0].backend:
            raise mixed_backends("the norm of the gradients", (gradients[0], g))
        xp, raw = g.backend, g._data
        raw = real_array(xp, raw) if norm_type == 2 else xp.absolute(raw) if raw.dtype.kind == "c" else raw
        raw = raw if raw.dtype == dt.float64 else raw.astype(dt.float32, copy=False)
        if norm_type == 2:
            norms.append(xp.sqrt(xp.sum(xp.square(raw))))
        elif norm_type == math.inf:
            norms.append(xp.max(xp.abs(raw)) if raw.size else xp.zeros((), dtype=raw.dtype))
        else:
            norms.append(xp.sum(xp.abs(raw) ** norm_type) ** (1.0 / norm_type))
    return norms


def _total(gradients: list[Tensor], norm_type: float, names: list[str] | None, error_if_nonfinite: bool) -> Tensor:
    if not gradients:
        return zeros(())
    xp = gradients[0].backend
    table = _table(gradients, norm_type, writes=False)
    if table is not None:
        total = table.norm()
        if not error_if_nonfinite or bool(xp.isfinite(total)):
            return from_raw(total, xp)
    norms = _norms(gradients, norm_type)
    stacked = xp.stack([xp.asarray(n).reshape(()) for n in norms])
    if norm_type == 2:
        total = xp.sqrt(xp.sum(xp.square(stacked)))
    elif norm_type == math.inf:
        total = xp.max(stacked)
    else:
        total = xp.sum(stacked**norm_type) ** (1.0 / norm_type)
    total = xp.asarray(total)
    if error_if_nonfinite and not bool(xp.isfinite(total)):
        named = zip(map(str, range(len(gradients))) if names is None else names, gradients)
        bad = [name for name, g in named if not all_finite(xp, [g._data])]
        raise _non_finite("the norm of the gradients is not finite", bad)
    return from_raw(total, xp)


def _non_finite(problem: str, names: list[str]) -> NonFiniteError:
    """The error for the non-finite gradients `names`; without names, for a norm that overflows."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return NonFiniteError(
        problem,
        expected="finite gradients",
        received=f"NaN or infinity in the gradient of {shown}" if names else "finite gradients whose norm overflows",
        fix="look for a slope that is infinite or 0/0 where the value is not (sqrt or a norm at 0, log near 0): "
        "dc.autograd.detect_anomaly() names the op"
        if names
        else "scale the inputs or the loss down",
    )


def check_gradients(parameters) -> None:
    """Raise `NonFiniteError`, which names the parameters, where a gradient has a NaN or infinity.

    `parameters`: tensors, (name, tensor) pairs, or a module.
    """
    named = [(name, g) for name, g in _named_gradients(parameters) if dt.is_inexact(g.dtype)]
    gradients = [g for _, g in named]
    if not are_finite(gradients):
        bad = [name for name, g in named if not _all_finite([g])]
        raise _non_finite("a gradient is not finite", bad)


def are_finite(tensors: list[Tensor]) -> bool:
    """Whether no tensor has a NaN or infinity; a program stops where one has."""
    return effect("all_finite", _all_finite, tensors)


def _all_finite(gradients: list[Tensor]) -> bool:
    arrays: dict[Any, list] = {}
    for g in gradients:
        arrays.setdefault(g.backend, []).append(g._data)
    return all(mode.enter(all_finite, xp, group) for xp, group in arrays.items())


def _order(norm_type) -> float:
    return math.inf if norm_type == "inf" else non_negative("norm_type", norm_type, zero=False)


def get_total_norm(tensors: Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False) -> Tensor:
    """‖(‖t₁‖ₚ, ‖t₂‖ₚ, …)‖ₚ: the p-norm of all the tensors as one vector, p = `norm_type` ("inf": the largest)."""
    tensors, norm_type = [tensors] if isinstance(tensors, Tensor) else list(tensors), _order(norm_type)
    if not tensors:
        return _total(tensors, norm_type, None, error_if_nonfinite)

    def total(tensors, checks: bool):
        return mode.enter(_total, tensors, norm_type, None, checks)

    return effect("norm", total, tensors, error_if_nonfinite)


def clip_grad_norm_(parameters, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> Tensor:
    """g ← g · min(1, max_norm / (total + 1e-6)) for every gradient, in place; returns the total norm before.

    `parameters`: tensors, (name, tensor) pairs, or a module. `error_if_nonfinite`: a NaN or infinite norm raises
    `NonFiniteError` naming the parameter, and nothing is changed. (Pascanu et al., 2013)
    """
    max_norm, norm_type = non_negative("max_norm", max_norm), _order(norm_type)
    named = _named_gradients(parameters)
    gradients, names = [g for _, g in named], [n for n, _ in named]

    def clip(gradients):
        return mode.enter(_clip_norm, gradients, max_norm, norm_type, names, error_if_nonfinite)

    return effect("clip", clip, gradients)


def _table(gradients: list[Tensor], norm_type: float, writes: bool) -> Gradients | None:
    """The gradients as a kernel table, or None where kernels do not apply."""
    if norm_type != 2 or not settings.kernels:
        return None
    return Gradients.of([real_array(g.backend, g._data) for g in gradients], writes)


def _run(call, gradients: list[Tensor]) -> None:
    """Run a kernel call that writes the gradients and bump their versions, without a signal handler in between."""
    function, words, part = call
    storages = [g.storage() for g in gradients]
    versions = [storage.version + 1 for storage in storages]
    any(chain(map(function, (words,), (part,)), map(setattr, storages, repeat("version"), versions)))


def _clip_norm(gradients, max_norm, norm_type, names, error_if_nonfinite) -> Tensor:
    table = _table(gradients, norm_type, writes=True)
    if table is not None:
        norm, call = table.norm(max_norm), table.scaling()
        if call is not None and (not error_if_nonfinite or bool(gradients[0].backend.isfinite(norm))):
            if table.factor != 1:
                _run(call, gradients)
            return from_raw(norm, gradients[0].backend)
    total = _total(gradients, norm_type, names, error_if_nonfinite)
    if gradients:
        xp = total.backend
        factor = xp.minimum(max_norm / (total._data + 1e-6), 1.0)
        for g in gradients:
            raw = real_array(xp, g._data)
            raw[...] *= xp.asarray(factor).astype(raw.dtype)
            g.bump_version()
    return total


def clip_grads_with_norm_(parameters, max_norm: float, total_norm: Tensor) -> None:
    """g ← g · min(1, max_norm / (total_norm + 1e-6)) for every gradient, in place, of a norm computed before.

    `clip_grad_norm_` computes the norm, too; this one is for a norm over several models or processes.
    """
    max_norm = non_negative("max_norm", max_norm)
    gradients = [g for _, g in _named_gradients(parameters)]
    if not isinstance(total_norm, Tensor) or total_norm.numel() != 1:
        raise ArgumentError(
            "total_norm is a tensor of one number",
            received=f"shape {total_norm.shape}" if isinstance(total_norm, Tensor) else type(total_norm).__name__,
            fix="get_total_norm([p.grad for p in parameters])",
        )
    with no_grad():
        factor = (max_norm / (total_norm.detach() + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factor.to(g.dtype))


def clip_grad_value_(parameters, clip_value: float) -> None:
    """g ← min(max(g, -clip_value), clip_value) for every gradient, in place; of complex ones, both parts."""
    clip_value = non_negative("clip_value", clip_value)
    gradients = [g for _, g in _named_gradients(parameters)]
    effect("clip", partial(_clip_value, clip_value=clip_value), gradients)


def _clip_value(gradients: list[Tensor], clip_value: float) -> None:
    table = _table(gradients, 2.0, writes=True)
    call = None if table is None else table.scaling(clip_value)
    if call is not None:
        _run(call, gradients)
        return
    for g in gradients:
        raw = real_array(g.backend, g._data)
        g.backend.clip(raw, -clip_value, clip_value, out=raw)
        g.bump_version()
