"""Products with Jacobians and Hessians at a point, as in `torch.autograd.functional`."""

from __future__ import annotations

from collections.abc import Callable

from deepcore.autograd.batching import BatchLevel, vmap
from deepcore.autograd.forward import zeros_like
from deepcore.autograd.jacobians import _basis, gradients_of, refuse_complex
from deepcore.autograd.jacobians import jvp as forward_jvp
from deepcore.autograd.levels import leaf
from deepcore.autograd.modes import enable_grad
from deepcore.autograd.transforms import grad
from deepcore.errors import ArgumentError, GradientError, ShapeError
from deepcore.tensor import Tensor, made

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]


def _tuple(name: str, value) -> tuple[Tensor, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    for t in values:
        if not isinstance(t, Tensor):
            raise ArgumentError(f"{name}: a tensor or a tuple of tensors", received=type(t).__name__)
    return values


def _inputs(inputs, create_graph: bool) -> list[Tensor]:
    return [leaf(t, create_graph) for t in _tuple("inputs", inputs)]


def _vectors(name: str, v, like, fallback: str) -> tuple[Tensor, ...]:
    """The vectors `v`, of the shapes of `like`; None is 1 for one tensor of one element."""
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise ArgumentError(f"{name}: v may be left out only where {fallback} is one tensor of one element")
        return (like[0].new_ones(like[0].shape),)
    vectors = _tuple("v", v)
    if len(vectors) != len(like):
        raise ArgumentError(
            f"{name}: v needs a tensor for each of {fallback}", received=f"{len(vectors)} for {len(like)}"
        )
    for a, b in zip(vectors, like):
        if a.shape != b.shape:
            raise ShapeError(f"{name}: v has the shapes of {fallback}", expected=str(b.shape), received=str(a.shape))
    return vectors


def _gradients(outs, inputs, vectors, create_graph: bool, strict: bool, what: str, retain: bool = True) -> list[Tensor]:
    """vᵀ J, with zeros for inputs that the outputs do not depend on; with `strict` those raise."""
    gradients = gradients_of(list(zip(outs, vectors)), inputs, create_graph, retain)
    for i, g in enumerate(gradients):
        if strict and (g is None or (create_graph and not g._requires_grad)):
            raise GradientError(f"{what} does not depend on input {i}, which strict=True does not allow")
    return [zeros_like(t) if g is None else g for t, g in zip(inputs, gradients)]


def _finish(value, create_graph: bool):
    """A result without history, unless it is to be differentiated."""
    if isinstance(value, tuple):
        return tuple(_finish(v, create_graph) for v in value)
    return value if create_graph else value.detach()


def _like(given, values):
    """A tuple where `given` was one."""
    return tuple(values) if isinstance(given, (tuple, list)) else values[0]


def vjp(func: Callable, inputs, v=None, create_graph: bool = False, strict: bool = False):
    """(func(*inputs), vᵀ J)."""
    with enable_grad():
        points = _inputs(inputs, create_graph)
        result = func(*points)
        outs = _tuple("the function's result", result)
        vectors = _vectors("vjp", v, outs, "the result")
        products = _gradients(outs, points, vectors, create_graph, strict, "the result")
    return _finish(_like(result, outs), create_graph), _finish(_like(inputs, products), create_graph)


def jvp(func: Callable, inputs, v=None, create_graph: bool = False, strict: bool = False):
    """(func(*inputs), J v)."""
    with enable_grad():
        points = _inputs(inputs, create_graph)
        vectors = _vectors("jvp", v, points, "inputs")
        if not create_graph:
            points = [t.detach() for t in points]
        result, moved = forward_jvp(func, tuple(points), vectors, strict=strict)
    return _finish(result, create_graph), _finish(moved, create_graph)


def vhp(func: Callable, inputs, v=None, create_graph: bool = False, strict: bool = False):
    """(func(*inputs), vᵀ H) of a function that returns one number."""
    with enable_grad():
        points = _inputs(inputs, create_graph)
        value = _scalar("vhp", func(*points))
        vectors = _vectors("vhp", v, points, "inputs")
        slopes = _gradients((value,), points, (value.new_ones(value.shape),), True, strict, "the result")
        products = _gradients(slopes, points, vectors, create_graph, strict, "the gradient")
    return _finish(value, create_graph), _finish(_like(inputs, products), create_graph)


def hvp(func: Callable, inputs, v=None, create_graph: bool = False, strict: bool = False):
    """(func(*inputs), H v) of a function that returns one number; H is symmetric, so that it is `vhp`."""
    return vhp(func, inputs, v, create_graph, strict)


def _scalar(name: str, value) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise GradientError(
            f"{name} needs a function that returns one number, as a tensor of one element",
            received=f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__,
            fix="reduce the result with .sum() or .mean()",
        )
    return value


def jacobian(
    func: Callable,
    inputs,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
):
    """∂func(*inputs)ᵢ/∂inputsⱼ: a tensor, or a tuple of them for a tuple of inputs, of tuples for a tuple of results.

    `vectorize`: all rows at once by `vmap`. `strategy`: "reverse-mode", or "forward-mode", which is vectorized.
    """
    if strategy not in ("reverse-mode", "forward-mode"):
        raise ArgumentError(
            "jacobian: unknown strategy", expected='"reverse-mode" or "forward-mode"', received=repr(strategy)
        )
    if strategy == "forward-mode":
        return _forward_jacobian(func, inputs, create_graph, strict, vectorize)
    with enable_grad():
        points = _inputs(inputs, create_graph)
        result = func(*points)
        outs = _tuple("the function's result", result)
        if not vectorize:  # as in PyTorch, whose vectorized rows are Jᴴ e
            refuse_complex("jacobian", outs, "results")
        table = []
        for out in outs:
            row = lambda v, out=out: _gradients((out,), points, (v,), create_graph, strict, "the result")
            if not out.numel():
                rows = [made(t.backend.zeros((0, *t.shape), dtype=out.dtype), t.backend) for t in points]
            elif vectorize:
                rows = vmap(row)(_basis(out))
            else:
                each = [row(v) for v in _basis(out)]
                rows = [BatchLevel.join([g.unsqueeze(0) for g in parts]) for parts in zip(*each)]
            rows = [g.reshape(*out.shape, *t.shape) for g, t in zip(rows, points)]
            table.append(_like(inputs, rows))
    return _finish(_like(result, table), create_graph)


def _forward_jacobian(func, inputs, create_graph: bool, strict: bool, vectorize: bool):
    if strict:
        raise ArgumentError('jacobian: strict=True needs the strategy "reverse-mode"')
    if not vectorize:
        raise ArgumentError('jacobian: the strategy "forward-mode" is vectorized', fix="vectorize=True")
    with enable_grad():
        points = _inputs(inputs, create_graph)
        if not create_graph:
            points = [t.detach() for t in points]
        columns, single = [], True
        for k, t in enumerate(points):

            def column(v, k=k):
                moved = tuple(v if i == k else zeros_like(p) for i, p in enumerate(points))
                return forward_jvp(func, tuple(points), moved)[1]

            tangents = vmap(column)(_basis(t))
            single = isinstance(tangents, Tensor)
            parts = _tuple("the function's result", tangents)
            columns.append([p.movedim(0, -1).reshape(*p.shape[1:], *t.shape) for p in parts])
        table = [_like(inputs, [column[i] for column in columns]) for i in range(len(columns[0]))]
    return _finish(table[0] if single else tuple(table), create_graph)


def hessian(
    func: Callable,
    inputs,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
):
    """∂²func(*inputs)/∂inputsᵢ∂inputsⱼ of a function that returns one number: a tensor, or a tuple of tuples."""
    single = not isinstance(inputs, (tuple, list))

    def slopes(*points):
        value = _scalar("hessian", func(*points))
        with enable_grad():
            leaves = list(points)
            ones = value.new_ones(value.shape)
            gradients = (
                _gradients((value,), leaves, (ones,), True, strict, "the result") if value._requires_grad else None
            )
        if gradients is None:
            gradients = [zeros_like(t) for t in leaves]
        return gradients[0] if single else tuple(gradients)

    def by_forward(*points):
        gradients = grad(lambda *p: _scalar("hessian", func(*p)), tuple(range(len(points))))(*points)
        return gradients[0] if single else gradients

    inner = by_forward if outer_jacobian_strategy == "forward-mode" else slopes
    return jacobian(inner, inputs, create_graph, strict, vectorize, outer_jacobian_strategy)
