"""Ops that move elements without changing them: views, joining, splitting, padding."""

from __future__ import annotations

import builtins
import math
import operator

from deepcore.autograd import apply, constant, mixed_backends
from deepcore.autograd.batching import BatchLevel
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from deepcore.ops.registry import (
    Op,
    Tensor,
    axis_names,
    cast,
    composite,
    functional,
    is_half,
    primitive,
    sample,
    takes_arrays,
)
from deepcore.tensor import _MEMORY_FORMAT, made, one_of


def normalize_dim(dim: int, rank: int, name: str = "dim") -> int:
    """`dim` counted from the front; `rank` is the number of dimensions it may name."""
    try:
        number = operator.index(dim)
    except TypeError:
        raise ArgumentError(f"{name} must be a whole number", received=repr(dim)) from None
    if not -max(rank, 1) <= number < max(rank, 1):
        raise IndexRangeError(
            f"{name} {number} is out of range",
            expected=f"from {-max(rank, 1)} to {max(rank, 1) - 1} for a tensor of {rank} dimensions",
        )
    return number % max(rank, 1)


#: Every dimension, by the number of them.
ALL_DIMS = tuple(tuple(range(rank)) for rank in range(65))


def normalize_dims(dim, rank: int) -> tuple[int, ...]:
    """None (all), one dimension or several, as a sorted tuple of distinct ones."""
    if dim is None:
        return ALL_DIMS[rank]
    if not isinstance(dim, (tuple, list)):
        return (normalize_dim(dim, rank),) if rank else ()
    dims = sorted(normalize_dim(d, rank) for d in dim)
    if len(set(dims)) != len(dims):
        raise ArgumentError("a dimension is named twice", received=str(tuple(dim)))
    return tuple(dims) if rank else ()


def sizes(args: tuple) -> tuple[int, ...]:
    """The sizes that a call passed as `f(2, 3)` or `f((2, 3))`."""
    if len(args) == 1 and isinstance(args[0], (tuple, list)):
        args = tuple(args[0])
    try:
        return tuple(map(operator.index, args))
    except TypeError:
        raise ArgumentError("sizes are whole numbers", received=repr(args)) from None


# -- views ------------------------------------------------------------------------------------------------


@primitive(
    view="always",
    vjp=lambda g: g,
    complex=True,
    batch="elementwise",
    jvp="linear",
)
def alias_p(xp, input):
    return input[...]


@composite(examples=lambda make: [sample(make(3, 4)), sample(make())])
def alias(input):
    """The same elements as a new tensor over the same memory"""
    return alias_p(input)


@primitive(
    view="sometimes",
    vjp=lambda g, input_shape: reshape_p(g, shape=input_shape),
    hint=lambda inputs, params: (
        f"the sizes must multiply to {inputs[0].numel()}; one of them may be -1, where the others divide that"
    ),
    complex=True,
    batch="shape",
    jvp="linear",
)
def reshape_p(xp, input, *, shape):
    return input.reshape(shape)


@composite(
    examples=lambda make: [
        sample(make(3, 4), (4, 3)),
        sample(make(3, 4), (-1,)),
        sample(make(2, 3, 4), (6, -1)),
        sample(make(), (1, 1)),
        sample(make(0, 3), (3, 0)),
    ]
)
def reshape(input, *args, shape=None):
    """The same elements, in row order, in another shape; one size may be −1. Shares memory where it can"""
    if shape is not None or len(args) != 1 or type(args[0]) is not int:
        args = sizes(args if shape is None else (shape,))
    return apply(reshape_p, (input,), {"shape": args})


@composite(examples=lambda make: [sample(make(3, 4), (2, 6)), sample(make(3, 4), (12,))])
def view(input, *shape):
    """`reshape` that never copies; raises where the memory does not allow it"""
    if len(shape) == 1 and not isinstance(shape[0], (int, tuple, list)):
        raise ArgumentError("view takes a shape", received=repr(shape[0]), fix="t.to(dtype) converts")
    out = reshape(input, *shape)
    if out._base is None and out.numel():
        raise ShapeError(
            f"a view of shape {sizes(shape)} would need a copy: the memory of this tensor is not in row order",
            fix="use reshape(), or contiguous() first",
        )
    return out


@composite(examples=lambda make: [sample(make(3, 4), make(2, 6))])
def view_as(input, other):
    """`view` with the shape of `other`"""
    return view(input, other.shape)


@composite(examples=lambda make: [sample(make(3, 4), make(2, 6))])
def reshape_as(input, other):
    """`reshape` with the shape of `other`"""
    return reshape(input, other.shape)


def _permuted(op, inputs, mapped, params, size):
    return apply(op, inputs, {"order": (0, *(d + 1 for d in params["order"]))})


def _inverse(order):
    return tuple(sorted(range(len(order)), key=order.__getitem__))


@primitive(
    view="always",
    vjp=lambda g, order: permute_p(g, order=_inverse(order)),
    complex=True,
    batch=_permuted,
    jvp="linear",
)
def permute_p(xp, input, *, order):
    return input.transpose(order)


@composite(examples=lambda make: [sample(make(2, 3, 4), (2, 0, 1)), sample(make(3, 4), (1, 0)), sample(make(), ())])
def permute(input, *args, dims=None):
    """The dimensions in another order; a view"""
    dims = sizes(args if dims is None else (dims,))
    order = tuple(normalize_dim(d, input.ndim) for d in dims)
    if sorted(order) != list(range(input.ndim)):
        raise ArgumentError(
            "permute names every dimension once", expected=f"{input.ndim} dimensions", received=str(dims)
        )
    return permute_p(input, order=order)


@composite(
    examples=lambda make: [sample(make(3, 4), 0, 1), sample(make(2, 3, 4), -1, 0)], aliases=("swapaxes", "swapdims")
)
def transpose(input, dim0: int, dim1: int):
    """Two dimensions exchanged; a view"""
    order = list(range(input.ndim))
    if not order:
        return alias_p(input)
    a, b = normalize_dim(dim0, input.ndim), normalize_dim(dim1, input.ndim)
    order[a], order[b] = order[b], order[a]
    return permute_p(input, order=tuple(order))


@composite(examples=lambda make: [sample(make(3, 4)), sample(make(3))])
def t(input):
    """The transpose of a matrix; a vector or number as it is"""
    if input.ndim > 2:
        raise ShapeError("t() takes at most two dimensions", received=str(input.shape), fix="transpose(dim0, dim1)")
    return transpose(input, 0, 1) if input.ndim == 2 else alias_p(input)


@composite(
    examples=lambda make: [sample(make(2, 3, 4), 0, 2), sample(make(2, 3, 4), (0, 1), (2, 0))], aliases=("moveaxis",)
)
def movedim(input, source, destination):
    """Dimensions `source` moved to the positions `destination`; a view"""
    source = sizes((source,) if isinstance(source, int) else tuple(source))
    destination = sizes((destination,) if isinstance(destination, int) else tuple(destination))
    if len(source) != len(destination):
        raise ArgumentError("movedim needs one destination per source", received=f"{source} and {destination}")
    source = tuple(normalize_dim(d, input.ndim) for d in source)
    destination = tuple(normalize_dim(d, input.ndim) for d in destination)
    if len(set(source)) != len(source) or len(set(destination)) != len(destination):
        raise ArgumentError("movedim names a dimension twice", received=f"{source} to {destination}")
    order = [d for d in range(input.ndim) if d not in source]
    for to, start in sorted(zip(destination, source)):
        order.insert(to, start)
    return permute(input, order)


def _broadcast(op, inputs, mapped, params, size):
    (t,), target = inputs, params["shape"]
    lead = len(target) + 1 - t.ndim
    return apply(op, (t.reshape(size, *(1,) * lead, *t.shape[1:]) if lead else t,), {"shape": (size, *target)})


@primitive(
    view="always",
    vjp=lambda g, input_shape: sum_to(g, input_shape),
    complex=True,
    batch=_broadcast,
    jvp="linear",
)
def broadcast_to_p(xp, input, *, shape):
    return xp.broadcast_to(input, shape)


@composite(examples=lambda make: [sample(make(3, 1), (3, 4)), sample(make(4), (2, 3, 4)), sample(make(), (2,))])
def broadcast_to(input, shape):
    """The elements repeated along dimensions of length 1 and new leading ones; a read-only view"""
    shape = sizes((shape,))
    lead = len(shape) - input.ndim
    if lead < 0 or any(n != m and n != 1 for n, m in zip(input.shape, shape[lead:])):
        raise ShapeError(
            "these shapes do not broadcast", expected=f"dimensions of 1 or equal to {shape}", received=str(input.shape)
        )
    return broadcast_to_p(input, shape=shape)


@composite(examples=lambda make: [sample(make(3, 1), (3, 4)), sample(make(3, 1), 2, -1, 4)])
def expand(input, *args, size=None):
    """`broadcast_to`, where −1 keeps a dimension"""
    shape = list(sizes(args if size is None else (size,)))
    lead = len(shape) - input.ndim
    for i, n in enumerate(shape):
        if n == -1:
            if i < lead:
                raise ShapeError("expand cannot keep (-1) a dimension that is not there", received=str(tuple(shape)))
            shape[i] = input.shape[i - lead]
    return broadcast_to(input, tuple(shape))


@composite(examples=lambda make: [sample(make(3, 1), make(3, 4))])
def expand_as(input, other):
    """`expand` to the shape of `other`"""
    return broadcast_to(input, other.shape)


def broadcast_shape(name: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that `shapes` broadcast to."""
    rank = builtins.max(map(len, shapes), default=0)
    result = []
    for lengths in zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes)):
        longer = {n for n in lengths if n != 1}
        if len(longer) > 1:
            raise ShapeError(f"{name}: the shapes do not broadcast", received=" and ".join(map(str, shapes)))
        result.append(longer.pop() if longer else 1)
    return tuple(result)


@composite(examples=lambda make: [sample(make(3, 1), make(1, 4))], method=False)
@takes_arrays
def broadcast_tensors(*tensors):
    """All tensors broadcast to their common shape"""
    shape = broadcast_shape("broadcast_tensors", *(x.shape for x in tensors))
    return tuple(broadcast_to(x, shape) for x in tensors)


@composite(examples=lambda make: [sample(make(3, 1, 4, 1)), sample(make(3, 1), 1), sample(make(3, 1, 1), (1, 2))])
@axis_names
def squeeze(input, dim=None):
    """Without the dimensions of length 1 (or those of them that `dim` names); a view"""
    dims = normalize_dims(dim, input.ndim)
    return reshape_p(input, shape=tuple(n for i, n in enumerate(input.shape) if n != 1 or i not in dims))


@composite(examples=lambda make: [sample(make(3, 4), 0), sample(make(3, 4), -1), sample(make(), 0)])
def unsqueeze(input, dim: int):
    """With a new dimension of length 1 at `dim`; a view"""
    d = normalize_dim(dim, input.ndim + 1)
    return reshape_p(input, shape=(*input.shape[:d], 1, *input.shape[d:]))


@functional
@composite(
    examples=lambda make: [sample(make(2, 3, 4)), sample(make(2, 3, 4), 1), sample(make(2, 3, 4), 0, 1), sample(make())]
)
@takes_arrays
def flatten(input, start_dim: int = 0, end_dim: int = -1):
    """The dimensions from `start_dim` to `end_dim` as one"""
    if not input.ndim:
        return reshape_p(input, shape=(1,))
    a, b = normalize_dim(start_dim, input.ndim), normalize_dim(end_dim, input.ndim)
    if a > b:
        raise ArgumentError("flatten needs start_dim <= end_dim", received=f"{start_dim} and {end_dim}")
    shape = input.shape
    return reshape_p(input, shape=(*shape[:a], math.prod(shape[a : b + 1]), *shape[b + 1 :]))


@composite(examples=lambda make: [sample(make(3, 4))])
@takes_arrays
def ravel(input):
    """All elements in one dimension"""
    return reshape_p(input, shape=(input.numel(),))


@functional
@composite(examples=lambda make: [sample(make(2, 12), 1, (3, 4)), sample(make(2, 12), -1, (3, -1))])
def unflatten(input, dim: int, sizes):
    """Dimension `dim` as several; one size may be −1"""
    d = normalize_dim(dim, input.ndim)
    return reshape(input, (*input.shape[:d], *_inferred(input.shape[d], sizes), *input.shape[d + 1 :]))


def _inferred(total: int, sizes_) -> tuple[int, ...]:
    parts = sizes((sizes_,))
    product = math.prod(n for n in parts if n != -1)
    if parts.count(-1) > 1 or (product == 0 or total % product if -1 in parts else product != total):
        raise ShapeError("unflatten: the sizes do not multiply to the dimension", received=f"{total} into {parts}")
    return tuple(total // product if n == -1 else n for n in parts)


def sum_to(gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`gradient` summed over the dimensions that broadcasting added or stretched."""
    from deepcore.ops.reduction import sum_p

    lead = gradient.ndim - len(shape)
    dims = (*range(lead), *(i + lead for i, n in enumerate(shape) if n == 1 and gradient.shape[i + lead] != 1))
    if dims:
        gradient = sum_p(gradient, dims=dims, keepdim=False)
    return gradient if gradient.shape == shape else reshape_p(gradient, shape=shape)


Op.sum_to = staticmethod(sum_to)


# -- joining and splitting ------------------------------------------------------------------------------------


def _part(g, i, shapes, dim):
    start = builtins.sum(shape[dim] for shape in shapes[:i])
    return narrow(g, dim, start, shapes[i][dim])


@primitive(
    vjp=_part,
    complex=True,
    batch="dim",
    jvp="linear",
)
def _cat(xp, *tensors, dim):
    return xp.concatenate(tensors, axis=dim)


def same_dtypes(name: str, tensors) -> list[Tensor]:
    if not isinstance(tensors, (list, tuple, Tensor)):
        raise ArgumentError(f"{name} takes a sequence of tensors", received=type(tensors).__name__)
    tensors = [constant(name, x) for x in tensors]
    if not tensors:
        raise ArgumentError(f"{name} needs at least one tensor")
    for x in tensors:
        if x.backend is not tensors[0].backend:
            raise mixed_backends(name, tensors)
    dtype = dt.result_type([(x.dtype, x.ndim) for x in tensors])
    return [x if x.dtype == dtype else cast(x, dtype) for x in tensors]


@composite(
    examples=lambda make: [
        sample([make(2, 3), make(4, 3)]),
        sample([make(2, 3), make(2, 1), make(2, 0)], dim=1),
        sample([make(3), make(2)], -1),
    ],
    method=False,
    aliases=("concat", "concatenate"),
)
@axis_names
def cat(tensors, dim: int = 0):
    """The tensors joined along an existing dimension"""
    tensors = same_dtypes("cat", tensors)
    nonempty = [x for x in tensors if x.shape != (0,)] or tensors[:1]  # PyTorch ignores empty vectors
    first = nonempty[0]
    if not first.ndim:
        raise ShapeError("cat joins tensors that have a dimension", received="0-d tensors", fix="use stack")
    d = normalize_dim(dim, first.ndim)
    for k, x in enumerate(nonempty):
        if x.ndim != first.ndim or x.shape[:d] + x.shape[d + 1 :] != first.shape[:d] + first.shape[d + 1 :]:
            others = [i for i, (n, m) in enumerate(zip(first.shape, x.shape, strict=False)) if n != m]
            fits = x.ndim == first.ndim and len(others) == 1
            raise ShapeError(
                f"cat: tensor {k} differs from the first in more than dimension {d}",
                expected=str(first.shape),
                received=str(x.shape),
                fix=f"dim={others[0]}, the only dimension that differs" if fits else None,
            )
    return apply(_cat, tuple(nonempty), {"dim": d})


@composite(
    examples=lambda make: [
        sample([make(2, 3), make(2, 3)]),
        sample([make(3), make(3)], dim=-1),
        sample([make(), make()]),
    ],
    method=False,
)
@axis_names
def stack(tensors, dim: int = 0):
    """The tensors, all of one shape, joined along a new dimension"""
    tensors = same_dtypes("stack", tensors)
    for k, x in enumerate(tensors):
        if x.shape != tensors[0].shape:
            raise ShapeError(
                f"stack needs tensors of one shape, and tensor {k} differs",
                expected=str(tensors[0].shape),
                received=str(x.shape),
            )
    d = normalize_dim(dim, tensors[0].ndim + 1)
    return apply(_cat, tuple(unsqueeze(x, d) for x in tensors), {"dim": d})


Op.stack, BatchLevel.join = staticmethod(stack), staticmethod(cat)  # type: ignore[assignment]


def _stackers(name: str, doc: str, rank: int, dim: int, make_rank):
    def joined(tensors):
        tensors = [make_rank(x) for x in same_dtypes(name, tensors)]
        return cat(tensors, dim if tensors[0].ndim > builtins.max(dim, rank - 1) or dim < 0 else 0)

    joined.__name__ = joined.__qualname__ = name
    joined.__doc__ = doc
    return composite(
        examples=lambda make: [sample([make(3), make(3)]), sample([make(2, 3), make(2, 3)])], method=False
    )(joined)


hstack = _stackers(
    "hstack", "Joined along the second dimension (the first, for vectors)", 1, 1, lambda x: atleast(x, 1)
)
vstack = _stackers("vstack", "Joined along the first dimension, vectors as rows", 2, 0, lambda x: atleast(x, 2))


def atleast(input: Tensor, rank: int) -> Tensor:
    """`input` with leading dimensions of 1 up to `rank`."""
    return input if input.ndim >= rank else reshape_p(input, shape=(1,) * (rank - input.ndim) + input.shape)


@composite(examples=lambda make: [sample(make(4, 3), 0, 1, 2), sample(make(4, 3), -1, 0, 2), sample(make(4), 0, -2, 2)])
def narrow(input, dim: int, start: int, length: int):
    """Elements `start` to `start + length` of dimension `dim`; a view"""
    from deepcore.ops.index import basic

    if not input.ndim:
        raise ShapeError("narrow needs a tensor that has a dimension", received="a 0-d tensor")
    if isinstance(start, Tensor) and (start.ndim or not dt.is_integer(start.dtype)):
        raise DTypeError("narrow: start is a whole number", received=f"{dt.name_of(start.dtype)} {start.shape}")
    d = normalize_dim(dim, input.ndim)
    size = input.shape[d]
    first = int(start) + size if start < 0 else int(start)
    if not 0 <= first <= first + length <= size:
        raise IndexRangeError(
            f"narrow: {length} elements from {start} do not lie within dimension {dim} of length {size}"
        )
    return basic(input, index=(*(slice(None),) * d, slice(first, first + length), ...))


@composite(examples=lambda make: [sample(make(7, 2), 3), sample(make(5, 2), [2, 3]), sample(make(2, 4), 2, dim=1)])
@axis_names
def split(input, split_size_or_sections, dim: int = 0):
    """Views of consecutive parts: of one size (the last may be smaller), or of the sizes listed"""
    d = normalize_dim(dim, input.ndim)
    size = input.shape[d]
    if isinstance(split_size_or_sections, int):
        step = split_size_or_sections
        if step < 0 or (step == 0 and size):
            raise ArgumentError("split needs a positive size", received=str(step))
        lengths = [builtins.min(step, size - i) for i in range(0, size, step or 1)] or [0]
    else:
        if not isinstance(split_size_or_sections, (list, tuple)):
            raise ArgumentError(
                "split takes a size or a list of sizes", received=repr(split_size_or_sections), fix="t.split(2)"
            )
        lengths = list(sizes((split_size_or_sections,)))
        if builtins.sum(lengths) != size:
            raise ShapeError(
                f"split: the sizes must add up to the length of dimension {dim}",
                expected=str(size),
                received=str(lengths),
            )
    starts = [builtins.sum(lengths[:i]) for i in range(len(lengths))]
    return tuple(narrow(input, d, s, n) for s, n in zip(starts, lengths))


@composite(examples=lambda make: [sample(make(7, 2), 3), sample(make(2, 4), 2, dim=1)])
@axis_names
def chunk(input, chunks: int, dim: int = 0):
    """`chunks` views of nearly equal size"""
    if not isinstance(chunks, int) or chunks < 1:
        raise ArgumentError("chunk needs a positive number of chunks", received=str(chunks))
    size = input.shape[normalize_dim(dim, input.ndim)]
    return split(input, builtins.max(1, -(-size // chunks)), dim) if size else (input,) * chunks


@composite(examples=lambda make: [sample(make(3, 2)), sample(make(3, 2), dim=1)])
@axis_names
def unbind(input, dim: int = 0):
    """A view per index of dimension `dim`"""
    from deepcore.ops.index import select

    d = normalize_dim(dim, input.ndim)
    if not input.ndim:
        raise ShapeError("unbind needs a tensor that has a dimension")
    return tuple(select(input, d, i) for i in range(input.shape[d]))


# -- copies -----------------------------------------------------------------------------------------------------


@primitive(
    vjp=lambda g: g,
    complex=True,
    batch="elementwise",
    jvp="linear",
)
def _clone(xp, input):
    return input.copy()


@composite(examples=lambda make: [sample(make(3, 4)), sample(make())])
def clone(input, *, memory_format=None):
    """A copy, through which gradients flow"""
    one_of(_MEMORY_FORMAT, memory_format)
    return _clone(input)


@composite(examples=lambda make: [sample(make(3, 4)), sample(transpose(make(3, 4), 0, 1))])
@takes_arrays
def contiguous(input, memory_format=None):
    """The tensor itself if its memory is in row order, else a copy that is"""
    one_of(_MEMORY_FORMAT, memory_format)
    return input if input.is_contiguous() else _contiguous(input)


@primitive(
    vjp=lambda g: g,
    complex=True,
    batch="elementwise",
    jvp="linear",
)
def _contiguous(xp, input):
    return xp.ascontiguousarray(input).reshape(input.shape)


@primitive(
    vjp=lambda g, dims: flip_p(g, dims=dims),
    complex=True,
    batch="dims",
    jvp="linear",
)
def flip_p(xp, input, *, dims):
    return xp.flip(input, dims).copy()


@composite(examples=lambda make: [sample(make(3, 4), (0,)), sample(make(2, 3, 4), (0, -1))])
def flip(input, *args, dims=None):
    """The order of the elements reversed along `dims`; a copy"""
    dims = normalize_dims(sizes(args if dims is None else (dims,)), input.ndim)
    return flip_p(input, dims=dims) if dims else _clone(input)


@composite(examples=lambda make: [sample(make(3, 4), 1), sample(make(3, 4), (1, -1), (0, 1)), sample(make(3, 4), 5, 0)])
@takes_arrays
def roll(input, shifts, dims=None):
    """Elements moved by `shifts` along `dims`, around the end"""
    if dims is None:
        return reshape(roll(ravel(input), shifts, 0), input.shape)
    shifts = sizes((shifts,) if isinstance(shifts, int) else tuple(shifts))
    dims = sizes((dims,) if isinstance(dims, int) else tuple(dims))
    if len(shifts) != len(dims):
        raise ArgumentError("roll needs one shift per dimension", received=f"{shifts} and {dims}")
    if not input.ndim:
        raise IndexRangeError("roll: a 0-d tensor has no dimension to roll along", received=f"dims {dims}")
    source = input
    for shift, dim in zip(shifts, dims):
        size = input.shape[normalize_dim(dim, input.ndim)]
        if size:
            k = shift % size
            input = cat([narrow(input, dim, size - k, k), narrow(input, dim, 0, size - k)], dim)
    return _clone(input) if input is source else input


def _pad_back(g, widths):
    from deepcore.ops.index import basic

    return basic(g, index=(*(slice(low, g.shape[i] - high) for i, (low, high) in enumerate(widths)), ...))


def _padded(op, inputs, mapped, params, size):
    return apply(op, inputs, {**params, "widths": ((0, 0), *params["widths"])})


def _pad_tangent(op, inputs, tangents, params):
    return apply(op, inputs, params), apply(op, tuple(tangents), {**params, "value": 0})


@primitive(
    vjp=_pad_back,
    complex=True,
    batch=_padded,
    jvp=_pad_tangent,
)
def _pad(xp, input, *, widths, value):
    out = xp.full(tuple(low + n + high for n, (low, high) in zip(input.shape, widths)), value, dtype=input.dtype)
    out[(*(slice(low, low + n) for n, (low, _) in zip(input.shape, widths)), ...)] = input
    return out


@functional
@composite(
    examples=lambda make: [
        sample(make(2, 3), (1, 2)),
        sample(make(2, 3), (1, 0, 2, 1), value=0.5),
        sample(make(2, 3, 5), (-1, 1)),
        sample(make(2, 3, 5), (2, 1), mode="reflect"),
        sample(make(2, 3, 5), (2, 1), mode="replicate"),
        sample(make(2, 3, 5), (2, 1), mode="circular"),
    ],
    method=False,
)
@takes_arrays
def pad(input, pad, mode: str = "constant", value=None):
    """`pad` lists (before, after) for the last dimension, then the one before it, …; negative widths crop.

    `mode`: "constant" (`value`, default 0), "reflect" (without the edge), "replicate" (the edge), "circular".
    """
    from deepcore.ops.index import index_select
    from deepcore.ops.pool import weighted_taps_p

    pad = sizes((pad,))
    if len(pad) % 2 or len(pad) // 2 > input.ndim:
        raise ArgumentError(
            "pad lists two widths a dimension, from the last one",
            expected=f"at most {2 * input.ndim} widths, an even number",
            received=str(pad),
        )
    pairs = [(0, 0)] * (input.ndim - len(pad) // 2) + [(pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2)]
    for d, (low, high) in enumerate(pairs):
        if input.shape[d] + low + high < 0:
            raise ShapeError(f"pad would leave dimension {d} a negative length", received=f"{input.shape} and {pad}")
    if mode == "constant":
        crop = [(builtins.max(-low, 0), builtins.max(-high, 0)) for low, high in pairs]
        for d, (low, high) in enumerate(crop):
            if low or high:
                keep = builtins.max(input.shape[d] - low - high, 0)
                extra = builtins.max(low + high - input.shape[d], 0)
                pairs[d] = (builtins.max(pairs[d][0], 0), builtins.max(pairs[d][1], 0))
                if extra:  # one side crops into the padding of the other
                    pairs[d] = (builtins.max(pairs[d][0] - extra, 0), builtins.max(pairs[d][1] - extra, 0))
                input = narrow(input, d, builtins.min(low, input.shape[d] - keep), keep)
        value = 0 if value is None else value
        input.backend.constant(value, input.dtype)  # raises for a value out of the dtype's range
        return _pad(input, widths=tuple(pairs), value=value)
    if mode not in ("reflect", "replicate", "circular"):
        raise ArgumentError(
            "unknown mode of pad", expected="constant, reflect, replicate or circular", received=repr(mode)
        )
    for d, (low, high) in enumerate(pairs):
        if mode == "circular":  # crop first, then wrap the cropped part around
            cut, low, high = (
                (builtins.max(-low, 0), builtins.max(-high, 0)),
                builtins.max(low, 0),
                builtins.max(high, 0),
            )
            input = narrow(input, d, cut[0], input.shape[d] - cut[0] - cut[1]) if any(cut) else input
        if (low or high) and dt.is_floating(input.dtype) and not is_half(input):
            _check_border(input.shape[d], low, high, mode)
            length = input.shape[d] + low + high
            params = {"dim": d, "length": length, "taps": _border_taps, "options": (low, high, mode)}
            input = apply(weighted_taps_p, (input,), params)
        elif low or high:
            input = index_select(input, d, made(_border(input.backend, input.shape[d], low, high, mode), input.backend))
    return input if any(low or high for low, high in pairs) else _clone(input)


def _check_border(size: int, low: int, high: int, mode: str) -> None:
    widest = size - 1 if mode == "reflect" else size
    if (mode != "replicate" and builtins.max(low, high) > widest) or size == 0:
        raise ShapeError(
            f"{mode} padding of {builtins.max(low, high)} is wider than the dimension of length {size} allows"
        )


def _border(xp, size: int, low: int, high: int, mode: str):
    """The source index of every element of a padded dimension."""
    _check_border(size, low, high, mode)
    index = xp.arange(-low, size + high)
    if mode == "replicate":
        return xp.minimum(xp.maximum(index, 0), size - 1)
    if mode == "circular":
        return index % size
    return (size - 1) - xp.absolute((size - 1) - xp.absolute(index))


def _border_taps(xp, size: int, length: int, low: int, high: int, mode: str):
    """The same for `weighted_taps_p`."""
    return _border(xp, size, low, high, mode).reshape(-1, 1), xp.ones((length, 1), dtype=dt.float64)


@primitive(
    vjp=lambda g, diagonal, lower: _triangle(g, diagonal=diagonal, lower=lower),
    complex=True,
    batch="trailing",
    jvp="linear",
)
def _triangle(xp, input, *, diagonal, lower):
    return xp.tril(input, diagonal) if lower else xp.triu(input, diagonal)


def _at_least_matrix(name, input):
    if input.ndim < 2:
        raise ShapeError(f"{name} needs at least two dimensions", received=str(input.shape))


@composite(inplace=True, examples=lambda make: [sample(make(3, 4)), sample(make(2, 3, 3), -1)])
@takes_arrays
def tril(input, diagonal: int = 0):
    """The lower triangles of the matrices in the last two dimensions, zero elsewhere"""
    _at_least_matrix("tril", input)
    return _triangle(input, diagonal=diagonal, lower=True)


@composite(inplace=True, examples=lambda make: [sample(make(3, 4)), sample(make(2, 3, 3), 1)])
@takes_arrays
def triu(input, diagonal: int = 0):
    """The upper triangles of the matrices in the last two dimensions, zero elsewhere"""
    _at_least_matrix("triu", input)
    return _triangle(input, diagonal=diagonal, lower=False)


@composite(examples=lambda make: [sample(make(2, 3), 2, 2), sample(make(3), 2, 2)], aliases=("tile",))
@takes_arrays
def repeat(input, *args, repeats=None, dims=None):
    """The tensor laid out `repeats` times along each dimension (new ones lead); `tile` calls them `dims`"""
    repeats = dims if repeats is None else repeats
    times = sizes(args if repeats is None else (repeats,))
    if len(times) < input.ndim:
        times = (1,) * (input.ndim - len(times)) + times
    x = atleast(input, len(times))
    pairs = tuple(n for t, s in zip(times, x.shape) for n in (t, s))
    spread = reshape_p(x, shape=tuple(n for s in x.shape for n in (1, s)))
    return reshape_p(_clone(broadcast_to(spread, pairs)), shape=tuple(t * s for t, s in zip(times, x.shape)))


Tensor.T = property(
    lambda self: apply(permute_p, (self,), {"order": tuple(range(self._data.ndim))[::-1]}),
    doc="All dimensions in reverse order",
)
Tensor.mT = property(lambda self: transpose(self, -2, -1), doc="The last two dimensions exchanged")
