"""How `vmap` maps primitives over a batch: the rules that declarations name, and the loop for ops without one.

A rule is `rule(op, inputs, mapped, params, size)`: `mapped` says which inputs have a leading batch dimension of length `size`
besides the dimensions that the op expects. It returns the result with that dimension, or NotImplemented for the loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from deepcore.autograd import apply, mode
from deepcore.autograd.batching import BatchLevel
from deepcore.ops.registry import Op, Tensor


def by_loop(op, inputs, mapped, params, size: int):
    """The op for each example, and the results joined."""
    if not size:
        return _of_nothing(op, inputs, mapped, params)
    results = [apply(op, tuple(t[k] if m else t for t, m in zip(inputs, mapped)), params) for k in range(size)]
    if isinstance(results[0], tuple):
        return tuple(Op.stack(list(parts), 0) for parts in zip(*results))
    return Op.stack(results, 0)


def _of_nothing(op, inputs, mapped, params):
    """The results for a batch of no examples: none, of the shape that they have for an example of ones."""
    example = tuple(t.new_ones(t.shape[1:]) if m else t for t, m in zip(inputs, mapped))
    result = apply(op, example, params)
    if isinstance(result, tuple):
        return tuple(t.unsqueeze(0)[:0] for t in result)
    return result.unsqueeze(0)[:0]


def aligned(inputs, mapped) -> list[Tensor]:
    """The inputs with dimensions of 1 behind the batch, so that all broadcast as each example's do."""
    rank = max(t.ndim - m for t, m in zip(inputs, mapped))
    out = []
    for t, m in zip(inputs, mapped):
        missing = rank + 1 - t.ndim
        out.append(t.reshape(t.shape[0], *(1,) * missing, *t.shape[1:]) if m and missing else t)
    return out


def broadcast(op, inputs, mapped, params, size: int):
    """All dimensions of operands broadcast, or all but the last ones, of which they have equally many."""
    return apply(op, tuple(aligned(inputs, mapped)), params)


def spread(inputs, mapped, size: int) -> tuple[Tensor, ...]:
    """All inputs with the batch dimension."""
    return tuple(t if m else t.unsqueeze(0).expand((size, *t.shape)) for t, m in zip(inputs, mapped))


def leading(op, inputs, mapped, params, size: int):
    """The op maps over all leading dimensions itself, and its operands have equally many."""
    return apply(op, spread(inputs, mapped, size), params)


def trailing(op, inputs, mapped, params, size: int):
    """The op of one tensor reads its dimensions from the end."""
    return apply(op, inputs, params)


def of_first(op, inputs, mapped, params, size: int):
    """The op maps over all leading dimensions of its first input; the others may not be mapped."""
    return apply(op, inputs, params) if not any(mapped[1:]) else NotImplemented


def shifted(*names: str) -> Callable:
    """Dimensions in the parameters `names`, a number or several, are one further; inputs are all as long."""

    def rule(op, inputs, mapped, params, size: int):
        moved = {name: _shift(params[name]) for name in names}
        return apply(op, spread(inputs, mapped, size), {**params, **moved})

    return rule


def _shift(dims):
    return dims if dims is None else dims + 1 if isinstance(dims, int) else tuple(d + 1 for d in dims)


def shape_and(name: str) -> Callable:
    """`shifted(name)` of an op that the result's `shape` is a parameter of."""
    rule = shifted(name)

    def with_shape(op, inputs, mapped, params, size: int):
        return rule(op, inputs, mapped, {**params, "shape": (size, *params["shape"])}, size)

    return with_shape


def shape(op, inputs, mapped, params, size: int):
    """The result's `shape` is a parameter."""
    return apply(op, inputs, {**params, "shape": (size, *params["shape"])})


def rows(op, inputs, mapped, params, size: int):
    """The first dimension of all inputs is a batch already: the two become one."""
    full = spread(inputs, mapped, size)
    out = apply(op, tuple(t.reshape(t.shape[0] * t.shape[1], *t.shape[2:]) for t in full), params)
    return out.reshape(size, full[0].shape[1], *out.shape[1:])


def by_example(function: Callable) -> Callable:
    """Decorator: inside of vmap, a function that reads values runs for each example in turn."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        level = mode.level
        while level is not None:
            tensors = [t for t in (*args, *kwargs.values()) if level.owns(t) and t.mapped]
            if tensors:
                break
            level = level.outer
        else:
            return function(*args, **kwargs)
        one = lambda t, k: t.content[k] if level.owns(t) and t.mapped else level.content(t)
        with level.outside():
            results = [
                wrapper(*[one(a, k) for a in args], **{name: one(a, k) for name, a in kwargs.items()})
                for k in range(level.size)
            ]
            if isinstance(results[0], tuple):
                return type(results[0])(*(level.lift(Op.stack(list(p), 0), mapped=True) for p in zip(*results)))
            return level.lift(Op.stack(results, 0), mapped=True)

    return wrapper


BatchLevel.by_loop = staticmethod(by_loop)
BatchLevel.rules = {
    "elementwise": broadcast, "broadcast": broadcast, "leading": leading, "trailing": trailing, "of_first": of_first, "rows": rows,
    "shape": shape, "dim": shifted("dim"), "dims": shifted("dims"),
}  # fmt: skip
