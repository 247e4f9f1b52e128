"""JAX's transforms of functions: `grad` and `value_and_grad`."""

from __future__ import annotations

import functools
from collections.abc import Callable

from deepcore.autograd import engine
from deepcore.autograd.graph import mode
from deepcore.autograd.levels import Lifted, is_differentiated
from deepcore.autograd.levels import leaf as independent
from deepcore.autograd.modes import enable_grad
from deepcore.autograd.trees import tree_map
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, GradientError
from deepcore.tensor import Tensor, as_tensor, made


def value_and_grad(fn: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable:
    """A function that returns (fn(*args), its gradient with respect to `args[argnums]`).

    `fn` returns a scalar tensor (or, with `has_aux`, a pair whose first is one). Arguments may be tensors, raw
    NumPy or CuPy arrays, numbers, and dicts, lists and tuples of them; the gradient has the argument's structure,
    and raw arrays where the argument had them; that of a complex one is ∂L/∂Re z + i ∂L/∂Im z. Transforms nest: grad(grad(f)). Value and gradient are themselves
    recorded where `fn` reads other tensors that require grad, unless under `no_grad`.
    """

    @functools.wraps(fn)
    def wrapped(*args, **kwargs):
        numbers = positions(argnums, len(args))
        leaves: list[Tensor] = []
        is_raw: list[bool] = []
        nested = is_nested(args[n] for n in numbers)

        def to_leaf(leaf):
            t = leaf if isinstance(leaf, Tensor) else as_tensor(leaf)
            if not dt.is_inexact(t.dtype):
                raise DTypeError(
                    f"grad is taken with respect to floating and complex inputs, not {t.dtype}",
                    fix="convert the argument first",
                )
            t = independent(t, nested)
            leaves.append(t)
            is_raw.append(not isinstance(leaf, Tensor) and hasattr(leaf, "dtype"))
            return t

        arguments = list(args)
        for n in numbers:
            arguments[n] = tree_map(to_leaf, arguments[n])
        outside = mode.grad
        mode.transforms += 1
        try:
            with enable_grad():
                result = fn(*arguments, **kwargs)
                if has_aux and not (isinstance(result, (tuple, list)) and len(result) == 2):
                    raise ArgumentError(
                        "with has_aux the function returns a pair: the value, and whatever else it computed",
                        received=type(result).__name__,
                        fix="return value, aux",
                    )
                value = result[0] if has_aux else result
                if not isinstance(value, Tensor) or value._data.size != 1:
                    raise GradientError(
                        "grad needs a function that returns one number, as a tensor of one element",
                        received=f"shape {value.shape}" if isinstance(value, Tensor) else type(value).__name__,
                        fix="reduce the result with .sum() or .mean()",
                    )
                recorded = nested or (outside and value._requires_grad and reads_others(value, leaves))
                if value._requires_grad:
                    gradients = list(engine.grad(value, leaves, create_graph=recorded, allow_unused=True))
                else:
                    gradients = [None] * len(leaves)
        finally:
            mode.transforms -= 1
        filled = iter(
            [
                made(t.backend.zeros(t.shape, dtype=t.dtype), t.backend) if g is None else g
                for t, g in zip(leaves, gradients)
            ]
        )
        raw_flags = iter(is_raw)

        def next_gradient(_):
            gradient = next(filled)
            return gradient._data if next(raw_flags) else gradient

        parts = tuple(tree_map(next_gradient, args[n]) for n in numbers)
        if not recorded:
            own = {id(leaf) for leaf in leaves}
            result = tree_map(
                lambda t: cut(t) if isinstance(t, Tensor) and (t._node is not None or id(t) in own) else t, result
            )
        return result, parts[0] if isinstance(argnums, int) else parts

    return wrapped


def positions(argnums, count: int) -> tuple[int, ...]:
    """`argnums`, a position or a tuple of them, checked against the number of positional arguments."""
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not all(isinstance(n, int) for n in numbers):
        raise ArgumentError("argnums is a position or a tuple of positions", received=repr(argnums))
    for n in numbers:
        if not -count <= n < count:
            raise ArgumentError(f"argnums={n}, but the function got {count} positional arguments")
    if len({n % count for n in numbers}) != len(numbers):
        raise ArgumentError("argnums names an argument twice", received=repr(argnums))
    return numbers


def cut(t: Tensor) -> Tensor:
    """`t` without the history that was recorded where it is."""
    return t.stripped() if isinstance(t, Lifted) else t.detach()


def is_nested(trees) -> bool:
    """Whether a gradient with respect to these is itself differentiated."""
    return mode.transforms > 0 or (mode.grad and any(map(_requires_grad, trees)))


def reads_others(value: Tensor, leaves: list[Tensor]) -> bool:
    """Whether `value` was computed from leaves besides `leaves`."""
    if isinstance(value, Lifted) and is_differentiated(value.content):
        return True
    own = {id(leaf) for leaf in leaves}
    visited = set()
    stack = [value._node or value]
    while stack:
        edge = stack.pop()
        if isinstance(edge, Tensor):
            if id(edge) not in own:
                return True
        elif edge not in visited:
            visited.add(edge)
            stack.extend(e for e in edge.edges if e is not None)
    return False


def _requires_grad(tree) -> bool:
    flags: list[bool] = []
    tree_map(lambda leaf: flags.append(isinstance(leaf, Tensor) and is_differentiated(leaf)), tree)
    return any(flags)


def grad(fn: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable:
    """x ↦ d fn(x)/dx: `value_and_grad` without the value (with `has_aux`: the pair gradient, aux)."""
    both = value_and_grad(fn, argnums, has_aux)

    @functools.wraps(fn)
    def wrapped(*args, **kwargs):
        result, gradient = both(*args, **kwargs)
        return (gradient, *result[1:]) if has_aux else gradient

    return wrapped
