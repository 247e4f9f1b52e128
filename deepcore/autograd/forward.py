"""Forward mode: values with tangents."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from deepcore.autograd import engine
from deepcore.autograd.graph import apply, mode, view_steps
from deepcore.autograd.levels import Level, Lifted, is_differentiated, leaf, views_of
from deepcore.autograd.modes import enable_grad
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, GradientError, ShapeError
from deepcore.tensor import Tensor, made


def zeros_like(t: Tensor) -> Tensor:
    return made(t.backend.zeros(t.shape, dtype=t.dtype), t.backend)


class ForwardLevel(Level):
    """Computes the tangent of each result with the result.

    An op with a rule has its tangents by that: the op of the tangents ("linear"), of one operand's tangent with the other
    operand ("product"), or its VJP with the tangent for a gradient ("elementwise", where the Jacobian is diagonal; without the
    engine's conjugates, as J v = f'(z) v). Others transpose their VJP: it is linear in its gradient u over the reals, and the
    gradient with respect to u of Re⟨vjp(u), tangents⟩ is the tangent of the result.
    """

    name = "jvp"
    forward = True

    def interpret(self, op, inputs: tuple, params: dict) -> Any:
        contents = tuple(map(self.content, inputs))
        tangents = [t.tangent if self.owns(t) else None for t in inputs]
        if all(tangent is None for tangent in tangents) or not (op.differentiable or op.many):
            return self._lifted(apply(op, contents, params))
        if op.many:
            return self._lifted(self._without_tangents(op, contents, params))
        if op.jvp == "linear":
            out, tangent = self._linear(op, contents, tangents, params)
        elif op.jvp == "elementwise":
            out, tangent = self._elementwise(op, contents, tangents, params)
        elif op.jvp == "product":
            out, tangent = self._product(op, contents, tangents, params)
        elif op.jvp is not None:
            out, tangent = op.jvp(op, contents, tangents, params)
        else:
            out, tangent = self._transposed(op, contents, tangents, params)
        return self.lift(out, tangent)

    def adopted(self, t: Tensor, args: tuple) -> Tensor:
        """Of this level, so that values with tangents may be written into it."""
        return t if self.owns(t) or any(t is a for a in args) else self.lift(t)

    def _lifted(self, out):
        return tuple(map(self.lift, out)) if isinstance(out, tuple) else self.lift(out)

    def _without_tangents(self, op, contents, params):
        """Several results: integers, or what a gradient is computed from, which backward recomputes for tangents."""
        out = apply(op, contents, params)
        if not op.saves_for_gradient and any(dt.is_inexact(t.dtype) for t in out):
            raise GradientError(f"{op.label} has no forward derivative", fix="dc.vjp or dc.grad")
        return out

    def _linear(self, op, contents, tangents, params):
        pairs = zip(contents, tangents)
        moved = [(zeros_like(t) if dt.is_inexact(t.dtype) else t) if tan is None else tan for t, tan in pairs]
        return apply(op, contents, params), apply(op, tuple(moved), params)

    def _product(self, op, contents, tangents, params):
        left, right, *bias = contents
        d_left, d_right, *d_bias = tangents
        d_bias = [zeros_like(t) if tangent is None else tangent for t, tangent in zip(bias, d_bias)]
        parts = []
        if d_left is not None:
            parts.append(apply(op, (d_left, right), params))
        if d_right is not None or any(tangent is not None for tangent in tangents[2:]):
            parts.append(apply(op, (left, zeros_like(right) if d_right is None else d_right, *d_bias), params))
        return apply(op, contents, params), parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def _elementwise(self, op, contents, tangents, params):
        out = apply(op, contents, params)
        values = {"out": out, "shapes": [t.shape for t in contents], "rest": contents[len(op.inputs) :]}
        total = None
        for i, tangent in enumerate(tangents):
            function, plan = op.vjp_plan(i)
            if tangent is None or function is None:
                continue
            g = tangent if tangent.shape == out.shape else tangent.expand(out.shape)
            arguments = []
            for kind, key in plan:
                if kind == "g":
                    arguments.append(g)
                elif kind == "input":
                    arguments.append(contents[key] if key < len(contents) else None)
                elif kind == "shape":
                    arguments.append(contents[key].shape if key < len(contents) else None)
                elif kind == "i":
                    arguments.append(i)
                else:
                    arguments.append(values[kind] if kind != "param" else params[key])
            part = function(*arguments)
            total = part if total is None else total + part
        if total is not None and total.dtype != out.dtype:
            total = total.to(out.dtype)
        return out, total

    def _transposed(self, op, contents, tangents, params):
        out, (tangent,) = transposed(lambda *inputs: apply(op, inputs, params), contents, tangents)
        return out, tangent

    def store(self, target: Lifted, value: Tensor, steps, indices, dims, write, assign) -> None:
        base, chain = target._base or (target, None)
        tangent = value.tangent if self.owns(value) else None  # type: ignore[attr-defined]
        write_indices = tuple(map(self.content, indices))
        views = [t for t in views_of(base) if self.owns(t)] if base._storage is not None else []
        with self.outside():
            write(target.content, self.content(value), steps, write_indices, dims)
            if tangent is None and base.tangent is None:  # type: ignore[attr-defined]
                return
            old = zeros_like(base.content) if base.tangent is None else base.tangent  # type: ignore[attr-defined]
            new = zeros_like(self.content(value)) if tangent is None else tangent
            params = {"steps": (*view_steps(chain), *steps), "dims": dims}
            base.tangent = apply(assign, (old, new.to(old.dtype), *write_indices), params)  # type: ignore[attr-defined]
            for view in views:
                current = base.tangent  # type: ignore[attr-defined]
                for op, view_params in view_steps(view._base[1]):  # type: ignore[index]
                    current = apply(op, (current,), view_params)
                view.tangent = current  # type: ignore[attr-defined]


def transposed(function: Callable, values: tuple, tangents: list) -> tuple[Any, tuple]:
    """(function(*values), the tangents of its results): the transpose of its VJP."""
    keep = mode.grad and any(is_differentiated(t) for t in (*values, *tangents) if isinstance(t, Tensor))
    with enable_grad():
        chosen = [i for i, tangent in enumerate(tangents) if tangent is not None]
        leaves = [leaf(t, keep) if i in chosen else t for i, t in enumerate(values)]
        result = function(*leaves)
        outs = (result,) if isinstance(result, Tensor) else tuple(result)
        roots = [t for t in outs if isinstance(t, Tensor) and t._requires_grad]
        seeds = [leaf(zeros_like(t), False) for t in roots]
        points = [leaves[i] for i in chosen]
        moved: tuple = (None,) * len(roots)
        if roots:
            back = engine.grad(roots, points, seeds, retain_graph=True, create_graph=True, allow_unused=True)
            pairs = [(g, tangents[i]) for g, i in zip(back, chosen) if g is not None and g._requires_grad]
            if pairs:
                starts = [g for g, _ in pairs], seeds, [v for _, v in pairs]
                moved = engine.grad(*starts, create_graph=True, allow_unused=True)
    by_root = {id(t): v for t, v in zip(roots, moved)}
    finish = (lambda t: t) if keep else _cut
    directions = tuple(None if by_root.get(id(t)) is None else finish(by_root[id(t)]) for t in outs)
    results = tuple(finish(t) if isinstance(t, Tensor) else t for t in outs)
    return results[0] if isinstance(result, Tensor) else results, directions


def _cut(t: Tensor) -> Tensor:
    """`t` without the history of the innermost level."""
    return t.stripped() if t.__class__ is Lifted and t.level is mode.level else t.detach()  # type: ignore[attr-defined]


def tangent_for(primal: Tensor, tangent, what: str) -> Tensor:
    """A tangent, checked against its primal."""
    if not isinstance(tangent, Tensor):
        raise ArgumentError(f"{what} are tensors", received=type(tangent).__name__, fix="dc.as_tensor(…)")
    if tangent.shape != primal.shape:
        raise ShapeError(
            f"{what} have the shapes of the primals", expected=str(primal.shape), received=str(tangent.shape)
        )
    if not dt.is_inexact(primal.dtype):
        raise DTypeError(
            "tangents belong to floating inputs", received=str(primal.dtype), fix="convert the input first"
        )
    return tangent if tangent.dtype == primal.dtype else tangent.to(primal.dtype)


@contextlib.contextmanager
def forward_level() -> Iterator[ForwardLevel]:
    with ForwardLevel().running() as level:
        yield level  # type: ignore[misc]


def split_dual(level: ForwardLevel, t: Tensor) -> tuple[Tensor, Tensor | None]:
    """(value, tangent) of a result of the level, outside of it."""
    if level.owns(t):
        return t.content, t.tangent  # type: ignore[attr-defined]
    return t, None
