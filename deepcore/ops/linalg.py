"""Matrix products."""

from __future__ import annotations

import functools
import math
from typing import Any

import deepcore.ops.activation  # this and `trigonometric` declare the activations of `EPILOGUES`
import deepcore.ops.trigonometric  # noqa: F401
from deepcore.autograd import apply, autocasting, constant, mixed_backends, mode
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError, suggest
from deepcore.ops import casting
from deepcore.ops.arithmetic import check_factor
from deepcore.ops.batching import aligned, spread
from deepcore.ops.registry import (
    PRIMITIVES,
    Tensor,
    cast,
    composite,
    functional,
    is_half,
    is_recorded,
    primitive,
    sample,
    saved_array,
    takes_arrays,
)
from deepcore.ops.shape import permute, permute_p, reshape_p
from deepcore.tensor import made


def _swap(x: Tensor) -> Tensor:
    return permute_p(x, order=(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def _products(op, inputs, mapped, params, size):
    a, b = inputs
    if mapped == (True, False) and a.ndim == 3 and b.ndim == 2:
        return reshape_p(op(reshape_p(a, shape=(size * a.shape[1], a.shape[2])), b), shape=(*a.shape[:2], b.shape[1]))
    return op(*aligned(inputs, mapped))


@primitive(
    vjp=(lambda g, other: _matmul(g, _swap(other)), lambda g, input: _matmul(_swap(input), g)),
    complex="analytic",
    batch=_products,
    jvp="product",
)
def _matmul(xp, input, other):
    return xp.matmul(input, other)


def same_dtype(name: str, *tensors) -> list[Tensor]:
    """The operands of a product as tensors; raises where they differ in dtype or backend."""
    tensors = tuple(constant(name, x) for x in tensors)
    for x in tensors:
        if x.backend is not tensors[0].backend:
            raise mixed_backends(name, tensors)
    dtypes = {x.dtype for x in tensors}
    if len(dtypes) > 1:
        raise DTypeError(
            f"{name} needs operands of one dtype",
            received=" and ".join(dt.name_of(x.dtype) for x in tensors),
            fix="convert one of them: t.to(other.dtype)",
        )
    return list(tensors)


@composite(
    examples=lambda make: [
        sample(make(3, 4), make(4, 2)),
        sample(make(4), make(4)),
        sample(make(3, 4), make(4)),
        sample(make(4), make(4, 2)),
        sample(make(2, 3, 4), make(4, 2)),
        sample(make(2, 3, 4), make(2, 4, 2)),
        sample(make(2, 1, 3, 4), make(5, 4, 2)),
        sample(make(4), make(2, 4, 3)),
        sample(make(2, 3, 4), make(4)),
        sample(make(0, 4), make(4, 2)),
    ],
    aliases=("linalg.matmul",),
)
@casting.follows
def matmul(input, other):
    """input @ other over the last two dimensions; leading ones broadcast; vectors are rows on the left, columns on the right"""
    if autocasting.used:
        input, other = casting.operands("matmul", input, other)
    a, b = input, other
    try:
        x, y = a._data, b._data
        same = x.dtype is y.dtype
    except AttributeError:
        same = False
    if not same:
        a, b = same_dtype("matmul", a, b)
        x, y = a._data, b._data
    x, y = x.shape, y.shape
    if len(x) == len(y) == 2 and x[1] == y[0]:
        return apply(_matmul, (a, b))
    if not a.ndim or not b.ndim:
        raise ShapeError("matmul needs tensors with dimensions", received=f"{a.shape} and {b.shape}", fix="use *")
    left, right = a.ndim == 1, b.ndim == 1
    if a.shape[-1] != b.shape[0 if right else -2]:
        raise ShapeError(
            "matmul: the inner dimensions differ",
            expected=f"(…, n, k) @ (…, k, m); k is {a.shape[-1]} on the left and {b.shape[0 if right else -2]} on the right",
            received=f"{a.shape} and {b.shape}",
            fix="transpose one operand, or correct the layer's number of inputs",
        )
    if left:
        a = reshape_p(a, shape=(1, *a.shape))
    if right:
        b = reshape_p(b, shape=(*b.shape, 1))
    if b.ndim == 2 and a.ndim > 2:  # one large product: its gradient needs no sum over the batch
        rows = reshape_p(a, shape=(math.prod(a.shape[:-1]), a.shape[-1]))
        out = reshape_p(_matmul(rows, b), shape=(*a.shape[:-1], b.shape[1]))
    else:
        try:
            out = _matmul(a, b)
        except ShapeError as error:
            error.fix = "the leading (batch) dimensions must be equal or 1"
            raise
    if left or right:
        shape = out.shape[:-2] + (() if left else out.shape[-2:-1]) + (() if right else out.shape[-1:])
        out = reshape_p(out, shape=shape)
    return out


def _ranks(name: str, a: Tensor, b: Tensor, rank: int) -> None:
    if a.ndim != rank or b.ndim != rank:
        raise ShapeError(f"{name} takes {rank}-d tensors", received=f"{a.shape} and {b.shape}", fix="use matmul")


@composite(examples=lambda make: [sample(make(3, 4), make(4, 2))])
@takes_arrays
def mm(input, mat2):
    """The product of two matrices"""
    _ranks("mm", input, mat2, 2)
    return matmul(input, mat2)


@composite(examples=lambda make: [sample(make(2, 3, 4), make(2, 4, 2))])
@takes_arrays
def bmm(input, mat2):
    """The products of two stacks of matrices"""
    _ranks("bmm", input, mat2, 3)
    if input.shape[0] != mat2.shape[0]:
        raise ShapeError("bmm: the batch sizes differ", received=f"{input.shape} and {mat2.shape}")
    return matmul(input, mat2)


@composite(examples=lambda make: [sample(make(3, 4), make(4))])
@takes_arrays
def mv(input, vec):
    """A matrix times a vector"""
    if input.ndim != 2 or vec.ndim != 1:
        raise ShapeError("mv takes a matrix and a vector", received=f"{input.shape} and {vec.shape}")
    return matmul(input, vec)


@composite(examples=lambda make: [sample(make(4), make(4))])
@takes_arrays
def dot(input, tensor):
    """Σ input · tensor for two vectors"""
    _ranks("dot", input, tensor, 1)
    return matmul(input, tensor)


@composite(examples=lambda make: [sample(make(4), make(3))], aliases=("ger",))
@takes_arrays
def outer(input, vec2):
    """input ⊗ vec2: every product of an element of one with an element of the other"""
    _ranks("outer", input, vec2, 1)
    return reshape_p(input, shape=(input.shape[0], 1)) * vec2


@composite(
    inplace=True,
    examples=lambda make: [
        sample(make(3, 2), make(3, 4), make(4, 2)),
        sample(make(2), make(3, 4), make(4, 2), beta=0.5, alpha=2.0),
    ],
)
@takes_arrays
def addmm(input, mat1, mat2, *, beta=1, alpha=1):
    """beta · input + alpha · (mat1 @ mat2)"""
    return blended("addmm", mm, input, mat1, mat2, beta, alpha)


def blended(name: str, product, input, a, b, beta, alpha):
    """beta · input + alpha · product(a, b); 16-bit floats are rounded once."""
    dtype = a.dtype
    check_factor(name, dtype, alpha=alpha)
    check_factor(name, dtype, beta=beta)
    if is_half(a) and b.dtype == dtype and input.dtype == dtype:
        input, a, b = (cast(t, dt.float32) for t in (input, a, b))
        return cast(blended(name, product, input, a, b, beta, alpha), dtype)
    out = product(a, b)
    out = out if alpha == 1 else out * alpha
    out = out if beta == 0 else out + (input if beta == 1 else input * beta)
    return cast(out, dtype) if dtype == dt.bool_ and out.dtype != dtype else out


# -- linear layers ------------------------------------------------------------------------------------------------


def _rows(x: Tensor) -> Tensor:
    return x if x.ndim == 2 else reshape_p(x, shape=(math.prod(x.shape[:-1]), x.shape[-1]))


def _linear_to_input(g, weight, input_shape):
    product = _matmul(_rows(g), weight)
    return product if product.shape == input_shape else reshape_p(product, shape=input_shape)


def _linear_to_weight(g, input):
    return _matmul(_swap(_rows(g)), _rows(input))


def _linear_batch(op, inputs, mapped, params, size):
    """Rows of all examples in one product where they share the weight, else a product for each."""
    if not any(mapped[1:]):
        return apply(op, inputs, params)
    (input, weight), bias = spread(inputs[:2], mapped[:2], size), inputs[2:]
    rows = math.prod(input.shape[1:-1])
    out = _matmul(reshape_p(input, shape=(size, rows, input.shape[-1])), _swap(weight))
    for b, m in zip(bias, mapped[2:]):
        out = out + (reshape_p(b, shape=(size, 1, b.shape[1])) if m else b)
    out = reshape_p(out, shape=(*input.shape[:-1], weight.shape[1]))
    if "activation" not in params:
        return out
    activated = apply(EPILOGUES[params["activation"]], (out,))
    return (activated, out) if op.saves_for_gradient else activated


@primitive(
    vjp=(_linear_to_input, _linear_to_weight, lambda g: _rows(g).sum(0)),
    complex="analytic",
    batch=_linear_batch,
    jvp="product",
)
def _linear(xp, input, weight, bias=None):
    out = xp.matmul(input, weight.T)
    if bias is not None:
        out += bias
    return out


#: The activations that `linear` fuses, by name.
EPILOGUES: dict[str, Any] = {
    name: PRIMITIVES[name] for name in ("relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")
}


def _activate(xp, name: str, raw):
    op = EPILOGUES[name]
    return (xp.impls.get(op) or xp.bind(op))(xp, raw)


@functools.cache
def _reads_output(name: str) -> bool:
    return "out" in (kind for kind, _ in EPILOGUES[name].vjp_plan(0)[1])


def _gradients(g, input, weight, bias, saved, activation, needs):
    """The gradients of activation(input @ weightᵀ + bias); `saved`: its output or preactivation, as its VJP reads."""
    function, plan = EPILOGUES[activation].vjp_plan(0)
    values = {"g": _rows(g), "input": _rows(saved), "out": _rows(saved)}
    preactivation_grad = function(*[values[kind] for kind, _ in plan])
    return (
        _linear_to_input(preactivation_grad, weight, input.shape) if needs[0] else None,
        _linear_to_weight(preactivation_grad, input) if needs[1] else None,
        preactivation_grad.sum(0) if bias is not None and needs[2] else None,
    )


def _gradients_by_input(g, input, weight, bias, aux, activation, needs):
    saved = _linear_out(input, weight, bias) if mode.grad else saved_array(aux[0], g.backend)
    return _gradients(g, input, weight, bias, saved, activation, needs)


def _gradients_by_output(g, input, weight, bias, out, activation, needs):
    return _gradients(g, input, weight, bias, out, activation, needs)


@primitive(joint=_gradients_by_output, batch=_linear_batch)
def _linear_activation(xp, input, weight, bias=None, *, activation):
    return _activate(xp, activation, _linear.forward(xp, input, weight, bias))


@primitive(joint=_gradients_by_input, batch=_linear_batch)
def _linear_activation_kept(xp, input, weight, bias=None, *, activation):
    before = _linear.forward(xp, input, weight, bias)
    return _activate(xp, activation, before), before


def _linear_out(input, weight, bias):
    return _linear(input, weight) if bias is None else _linear(input, weight, bias)


@functional
@composite(
    examples=lambda make: [
        sample(make(3, 4), make(2, 4), make(2)),
        sample(make(2, 3, 4), make(5, 4)),
        sample(make(4), make(2, 4), make(2)),
        sample(make(2, 3, 4), make(5, 4), make(5)),
        *(sample(make(3, 4), make(2, 4), make(2), activation=name) for name in EPILOGUES),
        sample(make(4), make(2, 4), activation="tanh"),
    ],
    method=False,
)
@casting.follows
def linear(input, weight, bias=None, *, activation: str | None = None):
    """activation(input @ weightᵀ + bias); weight is (out, in).

    `activation`: none, "relu", "gelu", "gelu_tanh", "silu", "sigmoid" or "tanh", computed with the product at once.
    """
    if autocasting.used:
        input, weight, bias = casting.operands("linear", input, weight, bias)
    try:
        x, w = input._data, weight._data
        fits = len(x.shape) > 1 == len(w.shape) - 1 and x.shape[-1] == w.shape[1] and x.dtype is w.dtype
        if fits and bias is not None:
            b = bias._data
            fits = b.dtype is w.dtype and b.shape == w.shape[:1]
    except AttributeError:
        fits = False
    if not fits or not dt.is_floating(w.dtype) or (activation is not None and activation not in EPILOGUES):
        return _any_linear(input, weight, bias, activation)
    inputs = (input, weight) if bias is None else (input, weight, bias)
    if activation is None:
        return apply(_linear, inputs)
    saves_preactivation = not _reads_output(activation) and is_recorded(*inputs)
    return apply(
        _linear_activation_kept if saves_preactivation else _linear_activation, inputs, {"activation": activation}
    )


def _any_linear(input, weight, bias, activation):
    """The general path of `linear`: arrays, vectors, integers, a bias that broadcasts; raises for invalid arguments."""
    operands = (input, weight) if bias is None else (input, weight, bias)
    if not all(isinstance(t, Tensor) for t in operands):
        return linear(*(constant("linear", t) for t in operands), activation=activation)
    input, weight = same_dtype("linear", input, weight)
    if weight.ndim not in (1, 2):
        raise ShapeError("linear needs a weight of shape (out, in)", received=str(weight.shape))
    if not input.ndim or input.shape[-1] != weight.shape[-1]:
        raise ShapeError(
            f"linear: the last dimension of the input must be {weight.shape[-1]}",
            expected=f"(…, {weight.shape[-1]})",
            received=str(input.shape),
            fix=f"Linear({input.shape[-1] if input.ndim else 1}, …), or reshape the input (nn.Flatten)",
        )
    if activation is not None and activation not in EPILOGUES:
        raise ArgumentError(f"linear has no activation {activation!r}", fix=suggest(activation, EPILOGUES))
    out = matmul(input, permute(weight, 1, 0) if weight.ndim == 2 else weight)
    out = out if bias is None else out + bias
    return out if activation is None else apply(EPILOGUES[activation], (out,))


# -- einsum -------------------------------------------------------------------------------------------------------


def _parse_einsum(equation: str, operands) -> tuple[list[list[str]], list[str]]:
    """The labels of each operand and of the result; … becomes the labels "0", "1", … from the right."""
    equation = equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise ArgumentError(
            f"einsum: the equation names {len(terms)} operands", received=f"{len(operands)}: {equation!r}"
        )
    wide = 0
    labels: list[list[str]] = []
    for term, x in zip(terms, operands):
        named = term.replace("...", "")
        extra = x.ndim - len(named)
        if not all(c.isascii() and c.isalpha() for c in named) or term.count("...") > 1:
            raise ArgumentError("einsum: labels are letters, with at most one …", received=repr(term))
        if extra < 0 or (extra and "..." not in term):
            raise ShapeError(f"einsum: {term!r} does not have the rank of its operand", received=str(x.shape))
        dots = [str(k) for k in range(extra - 1, -1, -1)] if "..." in term else []
        wide = max(wide, len(dots))
        before, _, after = term.partition("...") if "..." in term else (term, "", "")
        labels.append([*before, *dots, *after])
    dots = [str(k) for k in range(wide - 1, -1, -1)]
    if arrow:
        before, ellipsis, after = right.partition("...")
        result = [*before, *(dots if ellipsis else []), *after]
    else:
        flat = [c for term in labels for c in term]
        result = [*dots, *sorted({c for c in flat if c.isalpha() and flat.count(c) == 1})]
    letters = {c for term in labels for c in term}
    if len(set(result)) != len(result) or not set(result) <= letters:
        raise ArgumentError("einsum: each label of the result stands once, and on the left", received=repr(equation))
    return labels, result


def _diagonals(x: Tensor, labels: list[str]) -> tuple[Tensor, list[str]]:
    """Repeated labels of one operand reduced to their diagonal."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            i = labels.index(label)
            j = labels.index(label, i + 1)
            if x.shape[i] != x.shape[j]:
                raise ShapeError(f"einsum: label {label!r} stands for two lengths", received=str(x.shape))
            step = made(x.backend.arange(x.shape[i]), x.backend)
            order = [d for d in range(x.ndim) if d not in (i, j)]
            x = permute_p(x, order=(i, j, *order))[step, step]
            labels = [label, *(c for k, c in enumerate(labels) if k not in (i, j))]
    return x, labels


def _contract(a: Tensor, la: list[str], b: Tensor, lb: list[str], keep: set[str]) -> tuple[Tensor, list[str]]:
    """Sum the product of two operands over every label not in `keep`, as one batched matmul."""
    lengths: dict[str, int] = {}
    for x, labels in ((a, la), (b, lb)):
        for n, c in zip(x.shape, labels):
            if lengths.get(c, 1) != 1 and n != 1 and lengths[c] != n:
                raise ShapeError(f"einsum: label {c!r} stands for two lengths", received=f"{lengths[c]} and {n}")
            lengths[c] = n if lengths.get(c, 1) == 1 else lengths[c]
    shared = [c for c in la if c in lb]
    batch = [c for c in shared if c in keep]
    summed = [c for c in shared if c not in keep]
    rows, columns = [c for c in la if c not in shared], [c for c in lb if c not in shared]

    def arrange(x, labels, groups):
        order = [labels.index(c) for group in groups for c in group]
        x = permute(x, order)
        shape = tuple(lengths[c] for group in groups for c in group)
        if x.shape != shape:
            x = x.broadcast_to(shape)
        return x.reshape([math.prod(lengths[c] for c in group) for group in groups])

    out = matmul(arrange(a, la, (batch, rows, summed)), arrange(b, lb, (batch, summed, columns)))
    labels = [*batch, *rows, *columns]
    return out.reshape([lengths[c] for c in labels]), labels


@composite(
    examples=lambda make: [
        sample("ij,jk->ik", make(3, 4), make(4, 2)),
        sample("bij,bjk", make(2, 3, 4), make(2, 4, 2)),
        sample("ii->i", make(3, 3)),
        sample("ii", make(3, 3)),
        sample("ij->", make(3, 4)),
        sample("...i,...i->...", make(2, 3), make(1, 3)),
        sample("i,j,k->kij", make(2), make(3), make(2)),
        sample("ij,ij,j->i", make(2, 3), make(2, 3), make(3)),
        sample("ij->ji", make(2, 3)),
    ],
    method=False,
)
def einsum(equation, *operands):
    """Products of elements with equal labels, summed over the labels that the result does not name ("ij,jk->ik")"""
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(equation, str):
        raise ArgumentError("einsum starts with an equation", expected='such as "ij,jk->ik"', received=repr(equation))
    tensors = same_dtype("einsum", *operands)
    labels, result = _parse_einsum(equation, tensors)
    terms = [_diagonals(x, list(ls)) for x, ls in zip(tensors, labels)]
    while len(terms) > 1:
        (a, la), (b, lb), *rest = terms
        keep = set(result).union(*(ls for _, ls in rest))
        a, la = _drop(a, la, keep | set(lb), a.dtype)
        b, lb = _drop(b, lb, keep | set(la), b.dtype)
        terms = [_contract(a, la, b, lb, keep), *rest]
    out, names = _drop(*terms[0], set(result))
    return permute(out, [names.index(c) for c in result])


def _drop(x: Tensor, labels: list[str], keep: set[str], dtype=None) -> tuple[Tensor, list[str]]:
    dims = [d for d, c in enumerate(labels) if c not in keep]
    return (x.sum(dims, dtype=dtype), [c for c in labels if c in keep]) if dims else (x, labels)


def _rmatmul(self, other):
    return matmul(other, self)


Tensor.__matmul__ = matmul
Tensor.__rmatmul__ = _rmatmul
