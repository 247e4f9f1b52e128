"""Splitting, joining and turning tensors; grids; indices of triangles; windows of a dimension."""

from __future__ import annotations

import builtins
import itertools
import math
import operator

from deepcore.autograd import constant
from deepcore.autograd.graph import conj
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend, place
from deepcore.effects import untraceable
from deepcore.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from deepcore.ops.batching import shape_and
from deepcore.ops.index import index_select, nonzero
from deepcore.ops.reduction import sum as sum_
from deepcore.ops.registry import Tensor, axis_names, cast, composite, primitive, sample, takes_arrays
from deepcore.ops.shape import (
    atleast,
    broadcast_shape,
    broadcast_to,
    cat,
    flip,
    hstack,
    narrow,
    normalize_dim,
    reshape_p,
    same_dtypes,
    split,
    sum_to,
    transpose,
    unsqueeze,
)
from deepcore.tensor import made

# -- splitting and joining ----------------------------------------------------------------------------------------------


@composite(
    examples=lambda make: [sample(make(7, 2), 3), sample(make(7, 2), (2, 5)), sample(make(2, 5), [3, 1, -1], dim=1)]
)
@axis_names
def tensor_split(input, indices_or_sections, dim: int = 0):
    """Views of `indices_or_sections` nearly equal parts, or of the parts between the indices listed"""
    if not input.ndim:
        raise ShapeError("tensor_split needs a tensor that has a dimension")
    d = normalize_dim(dim, input.ndim)
    size, cuts = input.shape[d], indices_or_sections
    if isinstance(cuts, Tensor):
        if dt.is_floating(cuts.dtype) or cuts.ndim > 1:
            raise DTypeError(
                "tensor_split takes an integer or a vector of integers",
                received=f"{dt.name_of(cuts.dtype)} {cuts.shape}",
            )
        cuts = cuts.tolist()
    if isinstance(cuts, int):
        if cuts < 1:
            raise ArgumentError("tensor_split needs a positive number of sections", received=str(cuts))
        lengths = [size // cuts + (k < size % cuts) for k in range(cuts)]
        return split(input, lengths, d)
    bounds = [0, *(slice(k).indices(size)[1] for k in map(operator.index, cuts)), size]
    return tuple(narrow(input, d, a, builtins.max(b - a, 0)) for a, b in itertools.pairwise(bounds))


def _splitter(name: str, doc: str, rank: int, dim_of, samples):
    def pieces(input, indices_or_sections):
        if input.ndim < rank:
            raise ShapeError(f"{name} needs at least {rank} dimensions", received=str(input.shape))
        d = dim_of(input)
        if isinstance(indices_or_sections, int) and (indices_or_sections < 1 or input.shape[d] % indices_or_sections):
            raise ArgumentError(
                f"{name}: dimension {d} of length {input.shape[d]} does not fall into {indices_or_sections} equal parts",
                fix="tensor_split, whose parts differ by one",
            )
        return tensor_split(input, indices_or_sections, d)

    pieces.__name__ = pieces.__qualname__ = name
    pieces.__doc__ = doc
    return composite(examples=samples)(takes_arrays(pieces))


hsplit = _splitter(
    "hsplit", "Parts of the second dimension (the first, of vectors)", 1, lambda x: builtins.min(x.ndim - 1, 1),
    lambda make: [sample(make(2, 4), 2), sample(make(5), [1, 3])],
)  # fmt: skip
vsplit = _splitter(
    "vsplit",
    "Parts of the first dimension",
    2,
    lambda x: 0,
    lambda make: [sample(make(4, 2), 2), sample(make(5, 2), [1, 3])],
)
dsplit = _splitter(
    "dsplit",
    "Parts of the third dimension",
    3,
    lambda x: 2,
    lambda make: [sample(make(2, 1, 4), 2), sample(make(1, 2, 5), [1, 3])],
)


@composite(examples=lambda make: [sample([make(3), make(3)]), sample([make(2, 3), make(2, 3)])], method=False)
def dstack(tensors):
    """Joined along the third dimension; vectors and matrices gain it"""
    tensors = [_deep(x) for x in same_dtypes("dstack", tensors)]
    return cat(tensors, 2)


def _deep(x: Tensor) -> Tensor:
    x = atleast(x, 2)
    return unsqueeze(x, -1) if x.ndim == 2 else x


@composite(examples=lambda make: [sample([make(3), make(3, 2), make(3)]), sample([make(), make()])], method=False)
def column_stack(tensors):
    """Joined along the second dimension; vectors are columns"""
    return hstack(
        [x if x.ndim > 1 else reshape_p(x, shape=(x.numel(), 1)) for x in same_dtypes("column_stack", tensors)]
    )


def _raiser(rank: int, raise_one):
    def raised(*tensors):
        if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
            tensors = tuple(tensors[0])
        results = tuple(raise_one(constant(raised.__name__, x)) for x in tensors)
        return results[0] if len(results) == 1 else results

    raised.__name__ = raised.__qualname__ = f"atleast_{rank}d"
    raised.__doc__ = f"The tensors with at least {rank} dimensions: those of length 1 that are missing are added"
    return composite(examples=lambda make: [sample(make()), sample(make(3)), sample(make(2, 3), make())], method=False)(
        takes_arrays(raised)
    )


atleast_1d = _raiser(1, lambda x: atleast(x, 1))
atleast_2d = _raiser(2, lambda x: atleast(x, 2))
atleast_3d = _raiser(3, _deep)


@composite(
    examples=lambda make: [
        sample(make(3, 2), 2), sample(make(3, 2), 2, 1), sample(make(3, 2), make.int(3, 3), 0), sample(make(3), make.int(3, 1)),
    ]
)  # fmt: skip
@axis_names
def repeat_interleave(input, repeats, dim: int | None = None, *, output_size: int | None = None):
    """Every element `repeats` times (a number, or a vector of one for each index of `dim`); dim None: of all elements"""
    if dim is None:
        input, dim = reshape_p(input, shape=(input.numel(),)), 0
    d = normalize_dim(dim, input.ndim)
    if isinstance(repeats, (list, tuple)):
        repeats = made(input.backend.asarray(list(repeats), dt.int64), input.backend)
    if isinstance(repeats, Tensor):
        untraceable("repeat_interleave, whose shape depends on values")
    if isinstance(repeats, Tensor) and repeats.numel() != 1:
        if dt.is_floating(repeats.dtype) or repeats.ndim > 1 or repeats.numel() != input.shape[d]:
            raise ShapeError(
                "repeat_interleave: repeats is a number, or a vector of integers",
                expected=f"({input.shape[d]},)", received=f"{dt.name_of(repeats.dtype)} {repeats.shape}",
            )  # fmt: skip
        counts = repeats.tolist()
        if builtins.min(counts, default=0) < 0:
            raise ArgumentError("repeat_interleave: repeats are at least 0", received=str(counts))
        chosen = [k for k, n in enumerate(counts) for _ in range(n)]
        index = input.backend.asarray(chosen, dt.int64) if chosen else input.backend.zeros((0,), dtype=dt.int64)
        return index_select(input, d, made(index, input.backend))
    times = int(repeats.item()) if isinstance(repeats, Tensor) else operator.index(repeats)
    if times < 0:
        raise ArgumentError("repeat_interleave: repeats are at least 0", received=str(times))
    shape = input.shape or (1,)
    input = reshape_p(input, shape=shape)
    wide = broadcast_to(unsqueeze(input, d + 1), (*shape[: d + 1], times, *shape[d + 1 :]))
    return reshape_p(wide.clone(), shape=(*shape[:d], shape[d] * times, *shape[d + 1 :]))


# -- turning ----------------------------------------------------------------------------------------------------------


@composite(examples=lambda make: [sample(make(3, 4))])
@takes_arrays
def fliplr(input):
    """The second dimension reversed; a copy"""
    if input.ndim < 2:
        raise ShapeError("fliplr needs at least two dimensions", received=str(input.shape))
    return flip(input, (1,))


@composite(examples=lambda make: [sample(make(3, 4))])
@takes_arrays
def flipud(input):
    """The first dimension reversed; a copy"""
    if not input.ndim:
        raise ShapeError("flipud needs a tensor that has a dimension")
    return flip(input, (0,))


@composite(examples=lambda make: [sample(make(2, 3), k) for k in range(-1, 4)] + [sample(make(2, 3, 2), 1, [1, 2])])
@takes_arrays
def rot90(input, k: int = 1, dims=(0, 1)):
    """Turned `k` times by 90°, from the first of `dims` to the second; a copy"""
    if len(dims) != 2 or input.ndim < 2:
        raise ArgumentError("rot90 turns in the plane of two dimensions", received=f"dims={dims!r}, {input.shape}")
    a, b = (normalize_dim(d, input.ndim) for d in dims)
    if a == b:
        raise ArgumentError("rot90: dims are two dimensions", received=repr(dims))
    turns = k % 4
    if turns == 1:
        return transpose(flip(input, (b,)), a, b)
    if turns == 3:
        return flip(transpose(input, a, b), (b,))
    return flip(input, (a, b)) if turns else input.clone()


@composite(examples=lambda make: [sample(make(3, 4))])
def adjoint(input):
    """The last two dimensions exchanged, a view; of complex numbers the conjugates"""
    return conj(transpose(input, -2, -1))


# -- grids and indices --------------------------------------------------------------------------------------------------


@composite(
    examples=lambda make: [sample(make(2), make(3)), sample(make(2), make(), make(3), indexing="xy")], method=False
)
@takes_arrays
def meshgrid(*tensors, indexing: str | None = None):
    """A grid for each vector: out[k][i₀, i₁, …] = tensors[k][iₖ]; `indexing` "xy" exchanges the first two dimensions"""
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        tensors = tuple(tensors[0])
    if indexing not in (None, "ij", "xy"):
        raise ArgumentError("meshgrid: unknown indexing", expected='"ij" or "xy"', received=repr(indexing))
    if not tensors or builtins.any(x.ndim > 1 for x in tensors):
        raise ShapeError("meshgrid takes vectors", received=", ".join(str(x.shape) for x in tensors))
    if len({x.dtype for x in tensors}) > 1:
        raise DTypeError(
            "meshgrid takes tensors of one dtype", received=", ".join(dt.name_of(x.dtype) for x in tensors)
        )
    shape, rank = tuple(x.numel() for x in tensors), len(tensors)
    grids = [
        broadcast_to(reshape_p(x, shape=(1,) * k + (x.numel(),) + (1,) * (rank - 1 - k)), shape)
        for k, x in enumerate(tensors)
    ]
    swap = indexing == "xy" and rank > 1
    return tuple(transpose(x, 0, 1) for x in grids) if swap else tuple(grids)


def broadcast_shapes(*shapes):
    """The shape that the shapes (or lengths) broadcast to."""
    return broadcast_shape("broadcast_shapes", *((s,) if isinstance(s, int) else tuple(s) for s in shapes))


def _triangle(name: str, keep: str):
    def indices(row, col, offset: int = 0, *, dtype=None, device=None, backend=None, layout=None):
        if builtins.min(row, col) < 0:
            raise ArgumentError(f"{name}: row and col are at least 0", received=f"{row} and {col}")
        xp = get_backend(place(backend, device))
        inside = getattr(xp, keep)(xp.ones((row, col), dtype=dt.int32), offset)
        kind = dt.int64 if dtype is None else dt.as_dtype(dtype)
        return made(xp.stack([index.astype(kind) for index in xp.nonzero(inside)]), xp)

    indices.__name__ = indices.__qualname__ = name
    below = "below or on" if keep == "tril" else "above or on"
    indices.__doc__ = f"(2, n): the rows and columns of the elements {below} the diagonal `offset` of a matrix."
    return indices


tril_indices, triu_indices = _triangle("tril_indices", "tril"), _triangle("triu_indices", "triu")


@composite(examples=lambda make: [sample(make.bool(3, 4)), sample(make.int(2, 5))], differentiable=False)
@takes_arrays
def argwhere(input):
    """The indices (n × rank, int64) of the elements that are not zero"""
    return nonzero(input)


@composite(examples=lambda make: [sample(make.int(12, 5), (3, 4))], differentiable=False, method=False)
@takes_arrays
def unravel_index(indices, shape):
    """The index in each dimension of `shape` of elements counted in row order"""
    indices = constant("unravel_index", indices)
    if dt.is_floating(indices.dtype) or indices.dtype == dt.bool_:
        raise DTypeError("unravel_index takes integers", received=dt.name_of(indices.dtype))
    indices = indices if indices.dtype == dt.int64 else cast(indices, dt.int64)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if builtins.min(shape, default=0) < 0:
        raise ShapeError("unravel_index: lengths are at least 0", received=str(shape))
    out = []
    for k in range(len(shape)):
        out.append(indices // math.prod(shape[k + 1 :]) % shape[k])
    return tuple(out)


# -- windows ----------------------------------------------------------------------------------------------------------


@primitive(
    view="always",
    vjp=lambda g, input_shape, dim, step: windows_back_p(g, shape=input_shape, dim=dim, step=step),
    batch="dim",
    jvp="linear",
    complex=True,
)
def windows_p(xp, input, *, dim, size, step):
    windows = xp.lib.stride_tricks.sliding_window_view(input, size, axis=dim, writeable=True)
    return windows[(slice(None),) * dim + (slice(None, None, step),)]


@primitive(
    vjp=lambda g, input_shape, dim, step: windows_p(g, dim=dim, size=input_shape[-1], step=step),
    batch=shape_and("dim"),
    jvp="linear",
    complex=True,
)
def windows_back_p(xp, input, *, shape, dim, step):
    """Zeros of `shape` with every window added at its place."""
    out = xp.zeros(shape, dtype=input.dtype)
    for k in range(input.shape[-1]):
        stop = k + (input.shape[dim] - 1) * step + 1
        out[(slice(None),) * dim + (slice(k, stop, step),)] += input[..., k]
    return out


@composite(
    place="Tensor",  # `nn.functional.unfold` is another function
    examples=lambda make: [sample(make(5, 2), 0, 3, 1), sample(make(2, 5), 1, 2, 2), sample(make(7), -1, 3, 2)],
)
def unfold(input, dimension: int, size: int, step: int):
    """Windows of `size` elements every `step` along a dimension, as the last dimension"""
    d = normalize_dim(dimension, input.ndim)
    length = input.shape[d] if input.ndim else 1
    if not 0 <= size <= length or step < 1:
        raise IndexRangeError(
            f"unfold: windows of {size} every {step} do not lie within dimension {d} of length {length}"
        )
    if not input.ndim or not size:
        input = reshape_p(input, shape=(1,)) if not input.ndim else input
        return input[:size] if not d and input.ndim == 1 else narrow(unsqueeze(input, -1), -1, 0, size)
    return windows_p(input, dim=d, size=int(size), step=int(step))


Tensor.unfold = unfold


@composite(examples=lambda make: [sample(make(2, 3, 4), 3, 4), sample(make(2, 3), (1, 3))])
def sum_to_size(input, *size):
    """Σ over the dimensions that broadcasting from `size` would add or stretch"""
    shape = tuple(size[0]) if len(size) == 1 and isinstance(size[0], (tuple, list)) else tuple(size)
    try:
        fits = broadcast_shape("sum_to_size", shape, input.shape) == input.shape
    except ShapeError:
        fits = False
    if not fits:
        raise ShapeError(
            "sum_to_size: the size does not broadcast to the shape",
            expected=f"as in {input.shape}",
            received=str(shape),
        )
    if not shape:
        return sum_(input)
    if shape == input.shape:
        return input
    return sum_to(input if dt.is_inexact(input.dtype) else cast(input, dt.int64), shape)


@composite(examples=lambda make: [sample(make(5, 2), [2, 3])])
def split_with_sizes(input, split_sizes, dim: int = 0):
    """`split` into parts of the sizes listed"""
    return split(input, list(split_sizes), dim)


@composite(examples=lambda make: [sample(make(4, 3), 0, 1, 2)])
def narrow_copy(input, dim: int, start: int, length: int):
    """`narrow`, as a copy"""
    return narrow(input, dim, start, length).clone()
