"""Reading and writing by index."""

from __future__ import annotations

import math
import operator

from deepcore.autograd import Node, apply, mixed_backends, mode, view_steps
from deepcore.autograd.levels import all_values, in_place, is_readable, readable
from deepcore.backend import dtypes as dt
from deepcore.effects import effect, untraceable
from deepcore.errors import ArgumentError, DTypeError, GradientError, IndexRangeError, ShapeError, non_negative
from deepcore.ops.batching import shape_and
from deepcore.ops.parts import REINTERPRETING
from deepcore.ops.registry import (
    Tensor,
    as_number,
    as_tensor,
    axis_names,
    cast,
    composite,
    functional,
    is_half,
    primitive,
    sample,
    takes_arrays,
)
from deepcore.ops.shape import alias_p, broadcast_shape, broadcast_to, normalize_dim, reshape_p
from deepcore.tensor import leaves, made

# -- primitives ---------------------------------------------------------------------------------------------


def _indexed(op, inputs, mapped, params, size):
    params = {**params, "index": (slice(None), *params["index"])}
    if "shape" in params:
        params["shape"] = (size, *params["shape"])
    return apply(op, inputs, params)


@primitive(
    view="always",
    vjp=lambda g, input_shape, index: _index_grad(g, shape=input_shape, index=index),
    batch=_indexed,
    jvp="linear",
    complex=True,
)
def basic(xp, input, *, index):
    """`index` holds integers, slices, None and one …, which keeps the result of all-integer indices an array."""
    return input[index]


basic.label = "index"


@primitive(
    vjp=lambda g, index: basic(g, index=index),
    complex=True,
    batch=_indexed,
    jvp="linear",
)
def _index_grad(xp, input, *, shape, index):
    out = xp.zeros(shape, dtype=input.dtype)
    out[index] = input
    return out


def _key(indices, dims) -> tuple:
    """An index for the array library: `indices` at `dims`, everything elsewhere."""
    key: list = [slice(None)] * (dims[-1] + 1)
    for d, index in zip(dims, indices):
        key[d] = index
    return tuple(key)


def _are_adjacent(dims) -> bool:
    return dims[-1] - dims[0] + 1 == len(dims)


def _batch_indices(indices, mapped, size: int) -> list[Tensor]:
    """The indices of each example, after those of the examples themselves, of one rank."""
    xp, rank = indices[0].backend, max(t.ndim - m for t, m in zip(indices, mapped))
    own = [t if m else t.unsqueeze(0) for t, m in zip(indices, mapped)]
    own = [t.reshape(t.shape[0], *(1,) * (rank + 1 - t.ndim), *t.shape[1:]) for t in own]
    return [made(xp.arange(size).reshape(size, *(1,) * rank), xp), *own]


def _taken(op, inputs, mapped, params, size):
    (t, *indices), dims = inputs, params["dims"]
    moved = tuple(d + 1 for d in dims)
    if not any(mapped[1:]):
        out = apply(op, inputs, {"dims": moved})
        return out if _are_adjacent(dims) else out.movedim(max(i.ndim for i in indices), 0)
    each = _batch_indices(indices, mapped[1:], size)
    rank = each[0].ndim - 1
    if not mapped[0]:
        out = apply(op, (t, *each[1:]), {"dims": dims})
        if out.shape == ():
            return out
        at = dims[0] if _are_adjacent(dims) else 0
        return out.movedim(at, 0)
    out = apply(op, (t, *each), {"dims": (0, *moved)})
    if not _are_adjacent(dims) or not dims[0]:
        return out
    return out.movedim(tuple(range(1, rank + 1)), tuple(range(dims[0] + 1, dims[0] + rank + 1)))


def _taken_back(op, inputs, mapped, params, size):
    (g, *indices), dims, shape = inputs, params["dims"], (size, *params["shape"])
    moved = tuple(d + 1 for d in dims)
    if not any(mapped[1:]):
        if not _are_adjacent(dims):
            g = g.movedim(0, max(i.ndim for i in indices))
        return apply(op, (g, *indices), {"shape": shape, "dims": moved})
    each = _batch_indices(indices, mapped[1:], size)
    rank = each[0].ndim - 1
    if not mapped[0]:
        g = g.unsqueeze(0).expand((size, *g.shape))
    if _are_adjacent(dims) and dims[0]:
        g = g.movedim(tuple(range(dims[0] + 1, dims[0] + rank + 1)), tuple(range(1, rank + 1)))
    return apply(op, (g, *each), {"shape": shape, "dims": (0, *moved)})


@primitive(
    vjp=(
        lambda g, indices, input_shape, dims: apply(_take_grad, (g, *indices), {"shape": input_shape, "dims": dims}),
        None,
    ),
    complex=True,
    batch=_taken,
    jvp="linear",
)
def _take(xp, input, *indices, dims):
    return input[_key(indices, dims)]


@primitive(
    vjp=(lambda g, indices, dims: apply(_take, (g, *indices), {"dims": dims}), None),
    complex=True,
    batch=_taken_back,
    jvp="linear",
)
def _take_grad(xp, input, *indices, shape, dims):
    """Zeros of `shape` with `input` added at the indices; repeated indices accumulate."""
    out = xp.zeros(shape, dtype=input.dtype)
    target = xp.moveaxis(out, dims, range(len(dims)))
    rank = max(index.ndim for index in indices)
    if dims[-1] - dims[0] + 1 == len(dims):  # adjacent dimensions: the indexed block replaces them
        input = xp.moveaxis(input, range(dims[0], dims[0] + rank), range(rank))
    xp.scatter_add(target, tuple(indices), input)
    return out


@primitive(
    vjp=(lambda g, index, input_shape, dim: _scatter_along(g, index, shape=input_shape, dim=dim), None),
    complex=True,
    batch="dim",
    jvp="linear",
)
def gather_p(xp, input, index, *, dim):
    return xp.take_along_axis(_leading(input, index, dim), index, axis=dim)


@primitive(
    vjp=(lambda g, index, dim: gather_p(g, index, dim=dim), None),
    complex=True,
    batch=shape_and("dim"),
    jvp="linear",
)
def _scatter_along(xp, input, index, *, shape, dim):
    """Zeros of `shape` with input[…, k, …] added at index[…, k, …] along `dim`."""
    out = xp.zeros(shape, dtype=input.dtype)
    _add_along(xp, out, index, input, dim)
    return out


def _leading(array, index, dim):
    """The part of `array` that an index of this shape covers: in PyTorch, it may be smaller in the other dimensions."""
    if all(d == dim or n == m for d, (n, m) in enumerate(zip(array.shape, index.shape))):
        return array
    return array[tuple(slice(None) if d == dim else slice(n) for d, n in enumerate(index.shape))]


def _add_along(xp, target, index, source, dim):
    grid = xp.indices(index.shape, dtype=dt.int64) if index.ndim else ()
    key = tuple(index if d == dim else grid[d] for d in range(index.ndim))
    xp.scatter_add(target, key, source)


def within(t: Tensor, low: int, high: int) -> bool:
    """Whether low ≤ t < high everywhere. Only checks that pass are recorded: code after a failed one must be correct
    for all values."""
    return effect("within", _within, t if mode.level is None else all_values(t), low, high)


def _within(t: Tensor, low: int, high: int) -> bool:
    raw = t._data
    return not raw.size or not (bool((raw < low).any()) or bool((raw >= high).any()))


def _check_range(name: str, index: Tensor, size: int, kind: str = "index") -> None:
    if index.dtype.kind not in "iu":
        raise DTypeError(f"{name} needs an integer {kind}", received=dt.name_of(index.dtype), fix="index.long()")
    if not within(index, 0, size):
        raw = all_values(index)._data
        low, high = int(raw.min()), int(raw.max())
        raise IndexRangeError(
            f"{name}: {kind} {low if low < 0 else high} is out of range", expected=f"from 0 to {size - 1}"
        )


@primitive(
    vjp=(lambda g, index, weight_shape, padding: _rows_grad(g, index, count=weight_shape[0], padding=padding), None),
    complex=True,
)
def _rows(xp, weight, index, *, padding):
    """weight[index]; the row `padding` gets no gradient."""
    _check_range("embedding", Tensor(index, xp), weight.shape[0])
    return weight[index]


@primitive(
    vjp=(lambda g, index, padding: _rows(_without(g, padding), index, padding=padding), None),
    complex=True,
    jvp="linear",
)
def _rows_grad(xp, g, index, *, count, padding):
    """Zeros of `count` rows with g added at the indices, except at `padding`."""
    out = _take_grad.forward(xp, g, index, shape=(count, g.shape[-1]), dims=(0,))
    if padding is not None:
        out[padding] = 0
    return out


def _without(rows: Tensor, row: int | None) -> Tensor:
    """`rows` with the row `row` set to 0."""
    if row is None:
        return rows
    xp = rows.backend
    return rows * made((xp.arange(rows.shape[0]) != row).astype(rows.dtype)[:, None].copy(), xp)


@primitive()
def _shortened(xp, weight, index, *, max_norm, norm_type):
    """`weight`, whose rows at `index` of a larger norm are scaled to `max_norm`."""
    size = xp.absolute(weight)
    norms = xp.amax(size, axis=1) if norm_type == math.inf else xp.sum(size**norm_type, (1,), False) ** (1 / norm_type)
    factors = xp.ones(norms.shape, dtype=weight.dtype)
    chosen = index.reshape(-1)
    factors[chosen] = xp.where(norms > max_norm, max_norm / (norms + 1e-7), xp.ones_like(norms))[chosen]
    return weight * factors[:, None]


def _shorten(weight: Tensor, index: Tensor, max_norm: float, norm_type: float) -> None:
    max_norm, norm_type = non_negative("max_norm", max_norm), non_negative("norm_type", norm_type, zero=False)
    _check_range("embedding", index, weight.shape[0])
    params = {"max_norm": max_norm, "norm_type": norm_type}
    write(weight, apply(_shortened, (weight, index), params))


# -- PyTorch's functions ---------------------------------------------------------------------------------------


@composite(
    examples=lambda make: [
        sample(make(3, 4), 0, make.int(3, 2, 4)),
        sample(make(3, 4), 1, make.int(4, 3, 6)),
        sample(make(3, 4), -1, make.int(4, 2, 2)),
    ]
)
@axis_names
def gather(input, dim: int, index):
    """out[i, j] = input[index[i, j], j] for dim 0, and so on; `index` has the rank of `input`"""
    d = normalize_dim(dim, input.ndim)
    if index.backend is not input.backend:
        raise mixed_backends("gather", (input, index))
    if not index.numel():
        _check_range("gather", index, 0)
        return reshape_p(basic(reshape_p(input, shape=(input.numel(),)), index=(slice(0), ...)), shape=index.shape)
    if max(index.ndim, 1) != max(input.ndim, 1):
        raise ShapeError(
            "gather: the index must have as many dimensions as the input",
            received=f"input {input.shape}, index {index.shape}",
        )
    if not input.ndim or not index.ndim:  # 0-d tensors count as vectors of one element
        vector, positions = reshape_p(input, shape=(input.numel(),)), reshape_p(index, shape=(index.numel(),))
        return reshape_p(gather(vector, 0, positions), shape=index.shape)
    if any(n > m for i, (n, m) in enumerate(zip(index.shape, input.shape)) if i != d):
        raise ShapeError(
            f"gather: the index may exceed the input in dimension {d} only",
            received=f"input {input.shape}, index {index.shape}",
        )
    _check_range("gather", index, input.shape[d])
    return gather_p(input, index, dim=d)


@composite(examples=lambda make: [sample(make(3, 4), make.int(4, 3, 2), 1), sample(make(3, 4), make.int(12, 5))])
@takes_arrays
def take_along_dim(input, indices, dim: int | None = None):
    """`gather` whose index broadcasts and may count from the end; without `dim`, of all elements in row order"""
    if dim is None:
        return take_along_dim(reshape_p(input, shape=(input.numel(),)), reshape_p(indices, shape=(indices.numel(),)), 0)
    d = normalize_dim(dim, input.ndim)
    if indices.ndim != input.ndim:
        raise ShapeError(
            "take_along_dim: the indices must have as many dimensions as the input",
            received=f"input {input.shape}, indices {indices.shape}",
        )
    if dt.is_integer(indices.dtype) and bool((all_values(indices)._data < 0).any()):
        from deepcore.ops.comparison import where

        indices = where(indices < 0, indices + (input.shape[d] if input.ndim else 1), indices)
    shape = broadcast_shape(
        "take_along_dim", (*input.shape[:d], 1, *input.shape[d + 1 :]), (*indices.shape[:d], 1, *indices.shape[d + 1 :])
    )
    input = broadcast_to(input, (*shape[:d], input.shape[d], *shape[d + 1 :]))
    return gather(input, d, broadcast_to(indices, (*shape[:d], indices.shape[d], *shape[d + 1 :])))


@composite(examples=lambda make: [sample(make(3, 4), 0, make.int(3, 5)), sample(make(3, 4), 1, make.int(4, 2))])
@axis_names
def index_select(input, dim: int, index):
    """The slices of `input` along `dim` that the vector `index` names"""
    if index.ndim > 1:
        raise ShapeError("index_select takes a vector of indices", received=str(index.shape), fix="input[index]")
    d = normalize_dim(dim, input.ndim)
    _check_range("index_select", index, input.shape[d] if input.ndim else 1)
    if not input.ndim:
        return input.clone()
    index = reshape_p(index, shape=(index.numel(),))
    return apply(_take, (input, index), {"dims": (d,)})


@composite(
    inplace=True,
    examples=lambda make: [
        sample(make(3, 5), 0, make.int(3, 2, 5), make(2, 5)),
        sample(make(3, 5), 1, make.int(5, 3, 4), make(3, 4)),
    ],
)
@axis_names
def scatter_add(input, dim: int, index, src):
    """`input` with src[i, j] added at [index[i, j], j] for dim 0, and so on"""
    d = normalize_dim(dim, input.ndim)
    _check_range("scatter_add", index, input.shape[d] if input.ndim else 1)
    if not input.ndim:
        return input + reshape_p(src, shape=()) if index.numel() else input.clone()
    if not index.numel():
        return input.clone()
    if src.dtype != input.dtype:
        raise DTypeError(
            "scatter_add: src must have the dtype of the input",
            expected=dt.name_of(input.dtype),
            received=dt.name_of(src.dtype),
        )
    if any(n > m for n, m in zip(index.shape, src.shape)):
        raise ShapeError("scatter_add: the index exceeds src", received=f"index {index.shape}, src {src.shape}")
    if is_half(input):
        return cast(scatter_add(cast(input, dt.float32), d, index, cast(src, dt.float32)), input.dtype)
    src = basic(src, index=(*(slice(n) for n in index.shape), ...))
    return input + _scatter_along(src, index, shape=input.shape, dim=d)


@composite(examples=lambda make: [sample(make(3, 4), 0, 1), sample(make(3, 4), -1, -2)])
def select(input, dim: int, index: int):
    """`input` at one index of dimension `dim`; a view"""
    d = normalize_dim(dim, input.ndim)
    return getitem(input, (slice(None),) * d + (index,))


@composite(
    examples=lambda make: [sample(make(3, 4), make.bool(3, 4)), sample(make(3, 4), make.bool(3, 1))],
)
@takes_arrays
def masked_select(input, mask):
    """The elements of `input` where `mask`, in row order"""
    shape = broadcast_shape("masked_select", input.shape, mask.shape)
    if input.shape != shape:
        input = broadcast_to(input, shape)
    return getitem(input, mask if mask.shape == shape else broadcast_to(mask, shape))


@composite(
    examples=lambda make: [sample(make(3, 4), make.bool(3, 4), 0.5), sample(make(3, 4), make.bool(4), make())],
    inplace=True,
)
@takes_arrays
def masked_fill(input, mask, value):
    """`value` where `mask`, `input` elsewhere"""
    from deepcore.ops.comparison import where

    if mask.dtype != dt.bool_:
        raise DTypeError("masked_fill needs a bool mask", received=dt.name_of(mask.dtype))
    if isinstance(value, Tensor) and value.ndim:
        raise ShapeError("masked_fill takes one value", expected="a number or a 0-d tensor", received=str(value.shape))
    if not isinstance(value, Tensor):
        value = Tensor(input.backend.constant(value, input.dtype), input.backend)
    return where(mask, value if value.dtype == input.dtype else cast(value, input.dtype), input)


@composite(examples=lambda make: [sample(make.bool(3, 4)), sample(make.bool(5), as_tuple=True)], differentiable=False)
@takes_arrays
def nonzero(input, *, as_tuple: bool = False):
    """The indices (n × rank, int64) of the elements that are not zero; a tuple of vectors with `as_tuple`"""
    untraceable("nonzero, whose shape depends on values")
    xp, raw = input.backend, readable(input)
    raw = raw if input.ndim else raw.reshape(1)
    indices = tuple(Tensor(i.astype(dt.int64), xp) for i in xp.nonzero(raw))
    if as_tuple:
        return indices
    if not input.ndim:
        return Tensor(xp.zeros((indices[0].numel(), 0), dtype=dt.int64), xp)
    return Tensor(xp.stack([i._data for i in indices], axis=1), xp)


@functional
@composite(
    examples=lambda make: [sample(make.int(4, 2, 3), make(4, 5))],
    method=False,
)
@takes_arrays
def embedding(input, weight, padding_idx: int | None = None, max_norm: float | None = None, norm_type: float = 2.0):
    """weight[input]: a row of `weight` for every index; the row `padding_idx` gets no gradient.

    With `max_norm`, rows that are looked up are first shortened to that `norm_type`-norm, in place.
    """
    if weight.ndim != 2:
        raise ShapeError("embedding needs a 2-d weight", received=str(weight.shape))
    if input.dtype.kind not in "iu":
        raise DTypeError("embedding needs an integer index", received=dt.name_of(input.dtype), fix="index.long()")
    padding = None if padding_idx is None else normalize_dim(padding_idx, weight.shape[0], "padding_idx")
    if input.dtype != dt.int64:
        input = cast(input, dt.int64)
    if max_norm is not None:
        _shorten(weight.detach(), input, max_norm, norm_type)
    return apply(_rows, (weight, input), {"padding": padding})


@functional
@composite(
    examples=lambda make: [sample(make.int(4, 2, 3), 4), sample(make.int(4, 3))], differentiable=False, method=False
)
@takes_arrays
def one_hot(input, num_classes: int = -1):
    """int64: 1 at each class index along a new last dimension, 0 elsewhere"""
    if num_classes == -1:
        if not input.numel():
            raise ArgumentError("one_hot cannot infer num_classes from no elements", fix="pass num_classes")
        num_classes = int(input.max().item()) + 1
    _check_range("one_hot", input, num_classes, "class index")
    return apply(_one_hot, (input,), {"classes": num_classes})


@primitive(batch="trailing")
def _one_hot(xp, input, *, classes):
    return (input[..., None] == xp.arange(classes)).astype(dt.int64)


# -- x[…] and x[…] = … ------------------------------------------------------------------------------------------


def _parse(input: Tensor, index, reads: bool) -> tuple[tuple, tuple[Tensor, ...], tuple[int, ...]]:
    """(the basic part as one view index, index tensors, the dimensions of that view they apply to).

    Integers, slices, None and … apply first, as in PyTorch; then the tensors, at their dimensions of the view. A
    0-d integer tensor acts as an integer, which needs its value on the host, as a view does; not so where it is the only
    tensor of a part that is written to.
    """
    items = list(index) if isinstance(index, tuple) else [index]
    only = sum(item is not ... and not isinstance(item, (int, slice)) for item in items) == 1
    parsed: list = []
    for item in items:
        if isinstance(item, (list, range)):
            item = _index_tensor(item, input)
        elif hasattr(item, "dtype") and not isinstance(item, Tensor):
            number = as_number(item)  # NumPy's numbers are on no device
            item = _index_tensor(item, input) if number is None else number
        if isinstance(item, Tensor):
            if item.backend is not input.backend:
                raise mixed_backends("indexing", (input, item))
            if item.dtype.kind not in "iub":
                raise DTypeError(
                    "an index tensor holds integers or bools", received=dt.name_of(item.dtype), fix="index.long()"
                )
            by_value = reads or not only
            if item.ndim == 0 and item.dtype != dt.bool_ and by_value and is_readable(item):
                item = int(item.item())
        elif item is None or item is ... or isinstance(item, slice):
            pass
        elif isinstance(item, bool):
            item = made(input.backend.array(item), input.backend)
        else:
            try:
                item = operator.index(item)
            except TypeError:
                raise DTypeError(
                    "an index is made of integers, slices, None, … and integer or bool tensors",
                    received=f"{item!r}",
                ) from None
        parsed.append(item)
    used = sum(_width(item) for item in parsed)
    if used > input.ndim:
        raise IndexRangeError(f"too many indices: {used} for a tensor of shape {input.shape}")
    if sum(item is ... for item in parsed) > 1:
        raise ArgumentError("an index has at most one …")
    missing = [slice(None)] * (input.ndim - used)
    ellipsis = next((k for k, item in enumerate(parsed) if item is ...), len(parsed))
    parsed[ellipsis : ellipsis + 1] = missing
    return _separate(input, parsed)


def _index_tensor(item, input) -> Tensor:
    tensor = as_tensor(
        list(item) if isinstance(item, range) else item, backend=None if hasattr(item, "dtype") else input.backend
    )
    return (
        cast(tensor, dt.int64) if not tensor.numel() and tensor.dtype.kind == "f" and isinstance(item, list) else tensor
    )


def _width(item) -> int:
    if item is None or item is ...:
        return 0
    return item.ndim if isinstance(item, Tensor) and item.dtype == dt.bool_ else 1


def _separate(input, parsed):
    view: list = []
    indices: list[Tensor] = []
    dims: list[int] = []
    source, target = 0, 0
    for item in parsed:
        if isinstance(item, Tensor):
            if item.dtype == dt.bool_:
                if item.shape != input.shape[source : source + item.ndim]:
                    raise ShapeError(
                        "a bool index has the shape of the dimensions it selects from",
                        expected=str(input.shape[source : source + item.ndim]),
                        received=str(item.shape),
                    )
                if not item.ndim:  # a lone True or False adds a dimension of length 1 or 0
                    view.append(None)
                    parts: tuple[Tensor, ...] = (nonzero(reshape_p(item, shape=(1,)), as_tuple=True)[0],)
                else:
                    parts = nonzero(item, as_tuple=True)
                    view.extend([slice(None)] * item.ndim)
            else:
                parts = (_wrapped(item, input.shape[source], source),)
                view.append(slice(None))
            for part in parts:
                indices.append(part)
                dims.append(target)
                target += 1
            source += _width(item)
            continue
        view.append(item)
        if item is None:
            target += 1
            continue
        if isinstance(item, int):
            size = input.shape[source]
            if not -size <= item < size:
                raise IndexRangeError(
                    f"index {item} is out of range for dimension {source} of length {size}",
                    received=f"a tensor of shape {input.shape}",
                )
        else:
            target += 1
        source += 1
    return tuple(view), tuple(indices), tuple(dims)


def _wrapped(index: Tensor, size: int, dim: int) -> Tensor:
    if not within(index, -size, size):
        raw = all_values(index)._data
        bad = int(raw.max()) if int(raw.max()) >= size else int(raw.min())
        raise IndexRangeError(f"index {bad} is out of range for dimension {dim} of length {size}")
    return index


def _is_trivial(view: tuple, input: Tensor) -> bool:
    return len(view) == input.ndim and all(isinstance(v, slice) and v == slice(None) for v in view)


def _by_mask(input: Tensor, mask: Tensor) -> Tensor | None:
    """input[mask] as one take from the flattened dimensions of the mask; None where flattening would copy the input."""
    if mask.shape != input.shape[: mask.ndim] or not input.is_contiguous() or mask.backend is not input.backend:
        return None
    size = mask.numel()
    (positions,) = nonzero(reshape_p(mask, shape=(size,)), as_tuple=True)
    rows = reshape_p(input, shape=(size, *input.shape[mask.ndim :]))
    return apply(_take, (rows, positions), {"dims": (0,)})


_PLAIN = frozenset((int, slice, type(None), type(...)))


@composite(
    examples=lambda make: [
        sample(make(3, 4), 1),
        sample(make(3, 4), (slice(None), slice(1, 3))),
        sample(make(3, 4), (..., None, 2)),
        sample(make(4, 3), make.int(4, 5)),
        sample(make(4, 3, 2), (slice(None), make.int(3, 2, 2))),
        sample(make(4, 3, 2), (make.int(4, 2), slice(None), make.int(2, 2))),
        sample(make(3, 4), make.bool(3, 4)),
        sample(make(3, 4), (slice(None, None, 2), [0, -1])),
    ]
)
def getitem(input, index):
    """`input[index]`: integers, slices, None and … give a view; integer and bool tensors a copy"""
    if type(index) is int or type(index) is slice:
        return apply(basic, (input,), {"index": (index, ...)})
    if type(index) is tuple and all(type(item) in _PLAIN for item in index):
        return apply(basic, (input,), {"index": index if ... in index else (*index, ...)})
    if isinstance(index, Tensor) and index.dtype == dt.bool_ and index.ndim > 1:
        selected = _by_mask(input, index)
        if selected is not None:
            return selected
    view, indices, dims = _parse(input, index, reads=True)
    if indices and _is_trivial(view, input):
        return apply(_take, (input, *indices), {"dims": dims})
    out = basic(input, index=(*view, ...)) if view else alias_p(input)
    return apply(_take, (out, *indices), {"dims": dims}) if indices else out


# -- writing in place ---------------------------------------------------------------------------------------------


def _assigned_part(g, indices, steps, dims):
    """The gradient of the value of `_assign`: the part of `g` that it overwrote."""
    for op, params in steps:
        g = apply(op, (g,), params)
    return apply(_take, (g, *indices), {"dims": dims}) if dims else g


def _assign_zero(g, indices, steps, dims):
    """The gradient of the input of `_assign`: `g` with the overwritten part set to 0."""
    zero = made(g.backend.zeros((), dtype=g.dtype), g.backend)
    return apply(_assign, (g, zero, *indices), {"steps": steps, "dims": dims})


@primitive(
    vjp=(_assign_zero, _assigned_part, None),
    complex=True,
    jvp="linear",
)
def _assign(xp, input, value, *indices, steps, dims):
    """A copy of `input` with `value` in the part that the view ops `steps` and the indices select."""
    out = xp.ascontiguousarray(input).reshape(input.shape).copy()
    if any(op in REINTERPRETING for op, _ in steps):
        return _assign_parts(xp, out, value, indices, steps, dims)
    positions = xp.arange(out.size).reshape(out.shape)  # element numbers: correct for any layout of the views
    for op, params in steps:
        positions = op.forward(xp, positions, **params)
    if len(dims) == 1:  # not by [ ], which reads a 0-d index on the host
        positions = positions.take(indices[0], axis=dims[0])
    elif dims:
        positions = positions[_key(indices, dims)]
    out.reshape(-1)[positions] = xp.broadcast_to(value, positions.shape)
    return out


def _assign_parts(xp, out, value, indices, steps, dims):
    """`_assign` where the view ops include parts of complex numbers: elements are numbered by their real parts."""
    parts = out.reshape(-1)
    if out.dtype.kind == "c":
        parts = parts.view(dt.real_of(out.dtype))
    numbers = xp.arange(parts.size, dtype=dt.float64)
    positions = (numbers.view(dt.complex128) if out.dtype.kind == "c" else numbers).reshape(out.shape)
    for op, params in steps:
        positions = op.forward(xp, positions, **params)
    if dims:
        positions = positions[_key(indices, dims)]
    value = xp.broadcast_to(value, positions.shape)
    if positions.dtype.kind == "c":
        parts[positions.imag.astype(dt.int64)] = value.imag
        positions = positions.real
    if value.dtype.kind == "c":
        value = value.real
    parts[positions.astype(dt.int64)] = value
    return out


def refuse_leaf(target: Tensor) -> None:
    """Raise if writing into `target` would change a leaf that requires grad, or a view of one."""
    base = target._base[0] if target._base else target
    for t, kind in ((target, "a leaf tensor that requires grad"), (base, "a view of a leaf that requires grad")):
        if mode.grad and t._requires_grad and t._node is None:
            raise GradientError(
                f"{kind} cannot be changed in place while operations are recorded",
                fix="do it under dc.no_grad(), or make a new tensor (x = x + 1 for x += 1)",
            )


def write(target: Tensor, value: Tensor, steps: tuple = (), indices: tuple = (), dims: tuple = ()) -> Tensor:
    """target[view steps][indices] = value, in place; updates the graph of every tensor that shares the memory.

    The base of the memory gets a new node, `_assign`, and every live view is re-derived from it.
    """
    refuse_leaf(target)
    if mode.level is not None and in_place(target, value, steps, indices, dims, write, _assign):
        return target
    base, chain = target._base or (target, None)
    recording = mode.grad
    if value.backend is not target.backend:
        raise mixed_backends("writing in place", (target, value))
    if value.dtype != target.dtype:
        if dt.is_inexact(value.dtype) and not dt.can_cast(value.dtype, target.dtype):
            raise DTypeError(
                f"a {dt.name_of(value.dtype)} result cannot be written into a {dt.name_of(target.dtype)} tensor",
                fix="convert the target first, or use the operation that makes a new tensor",
            )
        value = cast(value, target.dtype)
    xp = target.backend
    raw = target._data
    for op, params in steps:
        raw = op.forward(xp, raw, **params)
    if dims:
        key = _key([i._data for i in indices], dims)
        region = raw[key].shape
    else:
        key, region = (...,), raw.shape
    lead = value.ndim - len(region)
    if lead > 0 and all(n == 1 for n in value.shape[:lead]):
        value = reshape_p(value, shape=value.shape[lead:])
    if value.ndim > len(region) or any(n not in (1, m) for n, m in zip(value.shape[::-1], region[::-1])):
        raise ShapeError(
            "the value does not fit the part it is written to",
            expected=f"something that broadcasts to {region}",
            received=str(value.shape),
        )
    if raw.size and any(n > 1 and step == 0 for n, step in zip(raw.shape, raw.strides)):
        raise GradientError(
            "this tensor is expanded: several of its elements share one place in memory",
            fix="clone() it before writing",
        )
    if not getattr(raw.flags, "writeable", True):  # CuPy's arrays have no such flag and are always writeable
        raise GradientError("the memory of this tensor is read-only", fix="clone() it before writing")
    effect("write", _write, target, raw, key, value._data, tuple([i._data for i in indices]), dims)
    return _record_write(target, base, chain, value, steps, indices, dims, recording)


def _write(target: Tensor, raw, key, source, indices, dims) -> None:
    if target.backend.may_share_memory(source, raw):
        source = source.copy()
    raw[key] = source


def _record_write(target, base, chain, value, steps, indices, dims, recording) -> Tensor:
    """After the write: bump the version and replace the nodes of all tensors that share the memory."""
    previous = Tensor(base._data, target.backend, base._requires_grad, base._node)
    target.bump_version()
    if recording and (base._requires_grad or target._requires_grad or value._requires_grad):
        params = {"steps": (*view_steps(chain), *steps), "dims": dims}
        base._node = Node(_assign, (previous, value, *indices), params, None)
        base._requires_grad = True
        _derive_views(base)
    return target


def _derive_views(base: Tensor) -> None:
    for ref in list(base.storage().views):
        view = ref()
        if view is None or view._base is None or view._base[0] is not base:
            continue
        current = base
        for op, params in view_steps(view._base[1]):
            current = apply(op, (current,), params)
        view._node, view._requires_grad = current._node, True


def convert_value(value, target: Tensor, convert: bool = False) -> Tensor:
    """A number, list or array as a tensor to write into `target`, in its dtype; raises for values out of its range.

    Integer targets truncate a number; `write` refuses lists and arrays of floats for them unless `convert`.
    """
    number, listed = as_number(value), isinstance(value, (list, tuple))
    if number is not None or not (listed or hasattr(value, "dtype")):
        return Tensor(target.backend.constant(value if number is None else number, target.dtype), target.backend)
    backend = target.backend if listed else None
    dtype = target.dtype
    if not convert and not dt.is_inexact(dtype) and (listed or value.ndim):
        floats = (isinstance(x, float) or dt.is_inexact(getattr(x, "dtype", dtype)) for x in leaves(value))
        dtype = None if any(floats) else dtype
    return as_tensor(value, dtype, backend)


def setitem(target: Tensor, index, value) -> None:
    """`target[index] = value`, in place; gradients flow to the value and to the elements not overwritten."""
    if not isinstance(value, Tensor):
        value = convert_value(value, target)
    view, indices, dims = _parse(target, index, reads=False)
    steps = () if not view or _is_trivial(view, target) else ((basic, {"index": (*view, ...)}),)
    if value.ndim == 0 and value.dtype != target.dtype:
        value = cast(value, target.dtype)
    write(target, value, steps, indices, dims)


Tensor.__getitem__ = getitem
Tensor.__setitem__ = setitem
