"""Copies of a tensor with values written, added or combined at indices."""

from __future__ import annotations

import math

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.arithmetic import neg
from deepcore.ops.common import zeros
from deepcore.ops.comparison import where
from deepcore.ops.index import (
    _assign,
    _check_range,
    _parse,
    _take_grad,
    basic,
    gather_p,
    getitem,
    masked_fill,
    scatter_add,
    within,
)
from deepcore.ops.registry import Tensor, apply, axis_names, cast, composite, is_half, primitive, sample, takes_arrays
from deepcore.ops.scan import cumsum
from deepcore.ops.shape import broadcast_shape, broadcast_to, normalize_dim, ravel, reshape_p
from deepcore.tensor import made

# -- along one dimension, by an index of the same rank ------------------------------------------------------------------


def _grid(xp, index, dim: int) -> tuple:
    grid = xp.indices(index.shape, dtype=dt.int64) if index.ndim else ()
    return tuple(index if d == dim else grid[d] for d in range(index.ndim))


@primitive(
    vjp=(
        lambda g, index, dim: _scatter(g, index, _zero(g), dim=dim),
        None,
        lambda g, index, dim: gather_p(g, index, dim=dim),
    ),
    complex=True,
    jvp="linear",
)
def _scatter(xp, input, index, src, *, dim):
    out = input.copy()
    out[_grid(xp, index, dim)] = src
    return out


def _zero(like: Tensor) -> Tensor:
    return made(like.backend.zeros((), dtype=like.dtype), like.backend)


def _operands(name: str, input: Tensor, dim: int, index: Tensor, src):
    """(input, index, src) of one rank, and the dimension; `src` is cut to the index, or a 0-d tensor."""
    d = normalize_dim(dim, input.ndim)
    if max(index.ndim, 1) != max(input.ndim, 1):
        raise ShapeError(
            f"{name}: the index has as many dimensions as the input", received=f"{index.shape} and {input.shape}"
        )
    _check_range(name, index, input.shape[d] if input.ndim else 1)
    if isinstance(src, Tensor):
        if src.dtype != input.dtype:
            raise DTypeError(
                f"{name}: src must have the dtype of the input",
                expected=dt.name_of(input.dtype),
                received=dt.name_of(src.dtype),
            )
        if index.numel() and (
            max(src.ndim, 1) != max(index.ndim, 1) or any(n > m for n, m in zip(index.shape, src.shape))
        ):
            raise ShapeError(f"{name}: the index exceeds src", received=f"index {index.shape}, src {src.shape}")
    else:
        src = Tensor(input.backend.constant(src, input.dtype), input.backend)
    if any(n > m for k, (n, m) in enumerate(zip(index.shape, input.shape)) if k != d):
        raise ShapeError(f"{name}: the index exceeds the input", received=f"index {index.shape}, input {input.shape}")
    if src.ndim and index.numel():
        src = basic(src, index=(*(slice(n) for n in index.shape), ...))
    if not input.ndim or not index.ndim:
        input = reshape_p(input, shape=(input.numel(),)).clone()  # a view of what is overwritten could not be saved
        index = reshape_p(index, shape=(index.numel(),))
        src = reshape_p(src, shape=(src.numel(),)) if index.numel() else src
    return input, index, src, d


def _scatter_samples(make):
    index = made(make(3, 4).detach().argsort(1)._data, make(1).backend)
    return [sample(make(3, 4), 1, index, make(3, 4)), sample(make(3, 4), -1, index[:, :2].contiguous(), 0.5)]


@composite(inplace=True, examples=_scatter_samples)
@axis_names
def scatter(input, dim: int, index, src=None, *, reduce: str | None = None, value=None):
    """`input` with src[i, j] (or a number) written at [index[i, j], j] for dim 0, and so on; equal indices: any one of them.

    `reduce`: "add" or "multiply" combines what is there with all of them.
    """
    src = value if src is None else src
    if reduce is not None:
        if reduce not in ("add", "multiply"):
            raise ArgumentError("scatter: unknown reduce", expected='"add" or "multiply"', received=repr(reduce))
        if not isinstance(src, Tensor):
            src = broadcast_to(Tensor(input.backend.constant(src, input.dtype), input.backend), index.shape)
        return scatter_reduce(input, dim, index, src, "sum" if reduce == "add" else "prod")
    if src is None:
        raise ArgumentError("scatter takes src or value")
    shape = input.shape
    input, index, src, d = _operands("scatter", input, dim, index, src)
    if not index.numel():
        return reshape_p(input, shape=shape).clone()
    return reshape_p(_scatter(input, index, src, dim=d), shape=shape)


# -- reductions -------------------------------------------------------------------------------------------------------

_COMBINE = {"prod": "multiply", "amax": "maximum", "amin": "minimum"}


@primitive()
def _combined(xp, input, index, src, *, dim, reduce):
    """`input` combined with `src` at the indices: sorted by place, each run is combined in pairs, in its order."""
    combine = getattr(xp, _COMBINE[reduce])
    size = input.size
    places = xp.arange(size).reshape(input.shape)[_grid(xp, index, dim)].reshape(-1)
    order = xp.argsort(places, kind="stable")
    places, values = places[order], src.reshape(-1)[order]
    shift = 1
    while shift < places.shape[0]:
        same = places[shift:] == places[:-shift]
        values = xp.concatenate(
            [values[:shift], xp.where(same, combine(values[:-shift], values[shift:]), values[shift:])]
        )
        shift *= 2
    last = xp.concatenate([places[1:] != places[:-1], xp.ones((1,), dtype=bool)])
    padded = xp.concatenate([input.reshape(-1), xp.zeros((1,), dtype=input.dtype)])
    places = xp.where(last, places, size)  # what is not the end of a run goes to an element of its own
    padded[places] = combine(padded[places], values)
    return padded[:size].reshape(input.shape)


def _combined_to_input(g, input, index, out, src, dim, reduce):
    if reduce == "prod":
        zero = input == 0
        others = _scatter_reduce(where(zero, 1.0, input), index, src, dim=dim, reduce=reduce)
        return where(zero, g * others, g * out / where(zero, 1.0, input))
    return where(input == out, g / _reached(input, index, out, src, dim), 0.0)


def _combined_to_source(g, input, index, out, src, dim, reduce):
    along = lambda t: gather_p(t, index, dim=dim)
    if reduce != "prod":
        return where(src == along(out), along(g / _reached(input, index, out, src, dim)), 0.0)
    zero = src == 0
    count = along(scatter_add(zeros(input), dim, index, cast(zero, src.dtype)))
    single = zero & (count == 1)
    others = _scatter_reduce(input, index, where(single, 1.0, src), dim=dim, reduce=reduce)
    return where(single, along(g * others), along(g * out) / where(zero, 1.0, src))


def _reached(input, index, out, src, dim):
    """By how many elements each result is reached."""
    hit = cast(src == gather_p(out, index, dim=dim), out.dtype)
    return scatter_add(cast(input == out, out.dtype), dim, index, hit)


@primitive(vjp=(_combined_to_input, None, _combined_to_source))
def _scatter_reduce(xp, input, index, src, *, dim, reduce):
    return _combined.forward(xp, input, index, src, dim=dim, reduce=reduce)


_EMPTY = {"sum": 0, "mean": 0, "prod": 1}


def _neutral(reduce: str, dtype):
    if reduce in _EMPTY:
        return _EMPTY[reduce]
    low, high = dt.span(dtype)
    if dt.is_floating(dtype):
        low, high = -math.inf, math.inf
    else:
        low, high = low + 1, high - 1
    return low if reduce == "amax" else high


def _reduce_samples(make):
    index = make.int(3, 2, 4)
    return [
        sample(make(3, 4), 0, index, make(2, 4, low=0.5), reduce, include_self=include)
        for reduce in ("sum", "prod", "mean", "amax", "amin")
        for include in (True, False)
    ]


@composite(inplace=True, examples=_reduce_samples)
@axis_names
def scatter_reduce(input, dim: int, index, src, reduce: str, *, include_self: bool = True):
    """`input` combined with every src[i, j] at [index[i, j], j] for dim 0, and so on.

    `reduce`: "sum", "prod", "mean", "amax" or "amin". Without `include_self`, elements of `input` that an index names do
    not count. Equal extremes share the gradient.
    """
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise ArgumentError(
            "scatter_reduce: unknown reduce", expected="sum, prod, mean, amax or amin", received=repr(reduce)
        )
    if not isinstance(src, Tensor):
        raise DTypeError("scatter_reduce: src is a tensor", received=repr(src))
    shape, dtype = input.shape, input.dtype
    input, index, src, d = _operands("scatter_reduce", input, dim, index, src)
    if not index.numel():
        return reshape_p(input, shape=shape).clone()
    if is_half(input):
        input, src = cast(input, dt.float32), cast(src, dt.float32)
    if not include_self:
        input = _scatter(
            input,
            index,
            Tensor(input.backend.constant(_neutral(reduce, input.dtype), input.dtype), input.backend),
            dim=d,
        )
    if reduce in ("sum", "mean"):
        out = scatter_add(input, d, index, src)
    else:
        out = _scatter_reduce(input, index, src, dim=d, reduce=reduce)
    if reduce == "mean":
        xp = input.backend
        ones = made(xp.ones(index.shape, dtype=input.dtype), xp)
        start = made((xp.ones if include_self else xp.zeros)(input.shape, dtype=input.dtype), xp)
        count = scatter_add(start, d, index, ones)
        count = count if include_self else count.clamp(min=1)
        out = out / count if dt.is_floating(out.dtype) else out // count
    return reshape_p(out if out.dtype == dtype else cast(out, dtype), shape=shape)


# -- slices along one dimension, by a vector ----------------------------------------------------------------------------


def _slices(name: str, input: Tensor, dim: int, index: Tensor, source=None):
    """(dimension, index, source) for an input that has dimensions."""
    if index.ndim > 1:
        raise ShapeError(f"{name} takes a vector of indices", received=str(index.shape))
    d = normalize_dim(dim, input.ndim)
    _check_range(name, index, input.shape[d] if input.ndim else 1)
    if source is not None:
        if source.dtype != input.dtype:
            raise DTypeError(
                f"{name}: source must have the dtype of the input",
                expected=dt.name_of(input.dtype),
                received=dt.name_of(source.dtype),
            )
        expected = (*input.shape[:d], index.numel(), *input.shape[d + 1 :])
        if source.shape != expected and not (
            source.numel() == math.prod(expected) == 1 or (not input.ndim and source.ndim <= 1)
        ):
            raise ShapeError(
                f"{name}: source has a slice for each index", expected=str(expected), received=str(source.shape)
            )
        source = reshape_p(source, shape=expected)
    return d, reshape_p(index, shape=(index.numel(),)), source


def _vector_index(make):
    return made(make.int(1, 2)._data + make.int(1, 2).backend.arange(2), make(1).backend)


@composite(
    inplace=True,
    examples=lambda make: [
        sample(make(3, 4), 0, make.int(3, 5), make(5, 4)), sample(make(3, 4), 1, _vector_index(make), make(3, 2), alpha=0.5),
    ],
)  # fmt: skip
@axis_names
def index_add(input, dim: int, index, source, *, alpha=1):
    """`input` with alpha · the slices of `source` added at the indices of `dim`; equal indices add up"""
    if alpha < 0 and not dt.is_floating(input.dtype):  # unsigned integers have no such factor
        return index_add(input, dim, index, neg(source), alpha=-alpha)
    d, index, source = _slices("index_add", input, dim, index, source)
    shape = input.shape
    input = reshape_p(input, shape=shape or (1,))
    if is_half(input):
        wide = index_add(cast(input, dt.float32), d, index, cast(source, dt.float32), alpha=alpha)
        return reshape_p(cast(wide, input.dtype), shape=shape)
    if not dt.is_floating(input.dtype) and isinstance(alpha, float):
        raise DTypeError("index_add: alpha is a whole number, as the input holds integers", received=f"alpha={alpha}")
    source = source if alpha == 1 else source * alpha
    added = apply(_take_grad, (source, index), {"shape": input.shape, "dims": (d,)})
    return reshape_p(input | added if input.dtype == dt.bool_ else input + added, shape=shape)


@composite(inplace=True, examples=lambda make: [sample(make(3, 4), 1, _vector_index(make), make(3, 2))])
@axis_names
def index_copy(input, dim: int, index, source):
    """`input` with the slices of `source` written at the indices of `dim`"""
    d, index, source = _slices("index_copy", input, dim, index, source)
    return _written(input, (slice(None),) * d + (index,), source)


def _written(input: Tensor, key, value) -> Tensor:
    """A copy of `input` with `value` at `key`."""
    if not isinstance(value, Tensor):
        value = Tensor(input.backend.constant(value, input.dtype), input.backend)
    shape, value = input.shape, value if value.dtype == input.dtype else cast(value, input.dtype)
    input = reshape_p(input, shape=shape or (1,))
    view, indices, dims = _parse(input, key, reads=False)
    steps = ((basic, {"index": (*view, ...)}),) if view else ()
    return reshape_p(apply(_assign, (input, value, *indices), {"steps": steps, "dims": dims}), shape=shape)


@composite(
    inplace=True,
    examples=lambda make: [
        sample(make(3, 4), 1, _vector_index(make), 0.5),
        sample(make(3, 4), 0, _vector_index(make), make()),
    ],
)
@axis_names
def index_fill(input, dim: int, index, value):
    """`input` with a number (or 0-d tensor) written into the slices that the indices of `dim` name"""
    if isinstance(value, Tensor) and value.ndim:
        raise ShapeError("index_fill takes one value", expected="a number or a 0-d tensor", received=str(value.shape))
    d, index, _ = _slices("index_fill", input, dim, index)
    size = input.shape[d] if input.ndim else 1
    mask = reshape_p(_named(index, size=size), shape=(size,) + (1,) * (input.ndim - d - 1) if input.ndim else ())
    return masked_fill(input, mask, value)


@primitive()
def _named(xp, index, *, size):
    """Which of `size` places the index names."""
    out = xp.zeros((size,), dtype=bool)
    out[index] = True
    return out


@composite(
    inplace=True,
    examples=lambda make: [
        sample(make(3, 4), 0, make.int(3, 5), make(5, 4, low=0.5), reduce, include_self=include)
        for reduce in ("prod", "mean", "amax", "amin") for include in (True, False)
    ],
)  # fmt: skip
@axis_names
def index_reduce(input, dim: int, index, source, reduce: str, *, include_self: bool = True):
    """`input` combined with the slices of `source` at the indices of `dim`; `reduce`: "prod", "mean", "amax" or "amin"."""
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise ArgumentError("index_reduce: unknown reduce", expected="prod, mean, amax or amin", received=repr(reduce))
    d, index, source = _slices("index_reduce", input, dim, index, source)
    shape = source.shape
    index = broadcast_to(
        reshape_p(index, shape=(1,) * d + (index.numel(),) + (1,) * (source.ndim - d - 1)), shape
    ).contiguous()
    if not input.ndim:
        return reshape_p(
            index_reduce(reshape_p(input, shape=(1,)).clone(), d, index, source, reduce, include_self=include_self),
            shape=(),
        )
    return scatter_reduce(input, d, index, source, reduce, include_self=include_self)


@composite(
    inplace=True,
    examples=lambda make: [
        sample(make(3, 4), (_vector_index(make),), make(2, 4)), sample(make(3, 4), (make.int(3, 5), make.int(4, 5)), make(5), True),
        sample(make(3, 4), (make.bool(3, 4),), make()),
    ],
)  # fmt: skip
@takes_arrays
def index_put(input, indices, values, accumulate: bool = False):
    """`input` with `values` written (added, with `accumulate`) at input[indices]"""
    indices = tuple(slice(None) if index is None else index for index in indices)
    if values.dtype != input.dtype:
        raise DTypeError(
            "index_put: values have the dtype of the input",
            expected=dt.name_of(input.dtype),
            received=dt.name_of(values.dtype),
        )
    if not accumulate:
        return _written(input, indices, values)
    places = made(input.backend.arange(input.numel()), input.backend)
    places = getitem(reshape_p(places, shape=input.shape), indices)
    return put(input, places, broadcast_to(values, places.shape), True)


# -- all elements, in row order ---------------------------------------------------------------------------------------


def _positions(name: str, index: Tensor, size: int) -> Tensor:
    """Indices counted from the front."""
    if dt.is_floating(index.dtype) or index.dtype == dt.bool_:
        raise DTypeError(f"{name} takes integer indices", received=dt.name_of(index.dtype), fix="index.long()")
    index = index if index.dtype == dt.int64 else cast(index, dt.int64)
    index = where(index < 0, index + size, index)
    _check_range(name, index, size)
    return index


@composite(examples=lambda make: [sample(make(3, 4), make.int(12, 2, 3)), sample(make(3, 4), make.int(12, 3) - 12)])
@takes_arrays
def take(input, index):
    """The elements of `input` at indices that count in row order"""
    index = _positions("take", index, input.numel())
    flat = _take_flat(ravel(input), ravel(index))
    return reshape_p(flat, shape=index.shape)


@primitive(
    vjp=(lambda g, index, input_shape: _take_grad(g, index, shape=input_shape, dims=(0,)), None),
    complex=True,
    jvp="linear",
)
def _take_flat(xp, input, index):
    return input[index]


@composite(
    inplace=True,
    examples=lambda make: [
        sample(make(3, 4), _vector_index(make), make(2)),
        sample(make(3, 4), make.int(12, 5), make(5), True),
    ],
)
@takes_arrays
def put(input, index, source, accumulate: bool = False):
    """`input` with `source` written (added, with `accumulate`) at indices that count in row order"""
    if source.dtype != input.dtype:
        raise DTypeError(
            "put: source has the dtype of the input",
            expected=dt.name_of(input.dtype),
            received=dt.name_of(source.dtype),
        )
    if source.numel() != index.numel():
        raise ShapeError(
            "put: source has an element for each index", received=f"source {source.shape}, index {index.shape}"
        )
    index = _positions("put", index, input.numel())
    flat = index_add if accumulate else index_copy
    return reshape_p(flat(ravel(input), 0, ravel(index), ravel(source)), shape=input.shape)


@composite(
    inplace=True,
    examples=lambda make: [sample(make(3, 4), make.bool(3, 4), make(12)), sample(make(3, 4), make.bool(4), make(3, 4))],
)
@takes_arrays
def masked_scatter(input, mask, source):
    """`input` with the first elements of `source`, in row order, where `mask`"""
    if mask.dtype != dt.bool_:
        raise DTypeError("masked_scatter needs a bool mask", received=dt.name_of(mask.dtype))
    if source.dtype != input.dtype:
        raise DTypeError(
            "masked_scatter: source has the dtype of the input",
            expected=dt.name_of(input.dtype),
            received=dt.name_of(source.dtype),
        )
    shape = broadcast_shape("masked_scatter", input.shape, mask.shape)
    input, mask = broadcast_to(input, shape), broadcast_to(mask, shape)
    flat, size = ravel(mask), source.numel()
    place = where(flat, cumsum(flat, 0) - 1, 0)
    if not within(place, 0, max(size, 1)) or (not size and bool(mask.any())):
        raise ShapeError(
            "masked_scatter: source has too few elements",
            expected=f"at least {int(mask.sum())}",
            received=str(source.shape),
        )
    chosen = _take_flat(ravel(source), place) if size else ravel(input)
    return where(mask, reshape_p(chosen, shape=shape), input)


@composite(examples=lambda make: [sample(make(3, 4), make(3), 1, -1), sample(make(3, 4), make(4), 0, 1)])
@takes_arrays
def select_scatter(input, src, dim: int, index: int):
    """`input` with `src` at one index of dimension `dim`"""
    return _part(input, src, (slice(None),) * normalize_dim(dim, input.ndim) + (index,), "select_scatter")


@composite(examples=lambda make: [sample(make(3, 4), make(3, 2), 1, 1, 3), sample(make(5, 2), make(3, 2), step=2)])
@takes_arrays
def slice_scatter(input, src, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1):
    """`input` with `src` at the indices start, start + step, … below `end` of dimension `dim`"""
    return _part(
        input, src, (slice(None),) * normalize_dim(dim, input.ndim) + (slice(start, end, step),), "slice_scatter"
    )


def _part(input: Tensor, src: Tensor, key: tuple, name: str) -> Tensor:
    expected = getitem(input.detach(), key).shape
    if src.shape != expected:
        raise ShapeError(f"{name}: src has the shape of the part", expected=str(expected), received=str(src.shape))
    return _written(input, key, src)
