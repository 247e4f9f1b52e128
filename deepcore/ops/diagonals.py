"""Diagonals: reading, making and writing them."""

from __future__ import annotations

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, ShapeError
from deepcore.ops.batching import shape_and
from deepcore.ops.comparison import where
from deepcore.ops.index import write
from deepcore.ops.registry import Tensor, cast, composite, primitive, sample, takes_arrays
from deepcore.ops.shape import normalize_dim, ravel
from deepcore.tensor import made


@primitive(
    view="always",
    vjp=lambda g, input_shape, offset, dims: _on_diagonal(g, shape=input_shape, offset=offset, dims=dims),
    complex=True,
    batch="dims",
    jvp="linear",
)
def diagonal_p(xp, input, *, offset, dims):
    return xp.diagonal(input, offset, *dims)


@primitive(
    vjp=lambda g, offset, dims: diagonal_p(g, offset=offset, dims=dims),
    complex=True,
    batch=shape_and("dims"),
    jvp="linear",
)
def _on_diagonal(xp, input, *, shape, offset, dims):
    """Zeros of `shape` with `input` on the diagonal."""
    out = xp.zeros(shape, dtype=input.dtype)
    xp.diagonal(out, offset, *dims)[...] = input
    return out


def _two(name: str, rank: int, dim1: int, dim2: int) -> tuple[int, int]:
    if rank < 2:
        raise ShapeError(f"{name} needs at least two dimensions", received=f"{rank} dimensions")
    dims = normalize_dim(dim1, rank, "dim1"), normalize_dim(dim2, rank, "dim2")
    if dims[0] == dims[1]:
        raise ArgumentError(f"{name}: dim1 and dim2 are two dimensions", received=f"{dim1} and {dim2}")
    return dims


@composite(
    examples=lambda make: [
        sample(make(3, 4)),
        sample(make(3, 4), -1),
        sample(make(2, 3, 4), 1, 0, 2),
        sample(make(2, 2), 5),
    ]
)
@takes_arrays
def diagonal(input, offset: int = 0, dim1: int = 0, dim2: int = 1):
    """The diagonal of dimensions `dim1` and `dim2`, as the last dimension; `offset`: how far above. A view"""
    return diagonal_p(input, offset=int(offset), dims=_two("diagonal", input.ndim, dim1, dim2))


@composite(place="linalg", examples=lambda make: [sample(make(3, 4)), sample(make(2, 3, 4), offset=1, dim1=0)])
@takes_arrays
def linalg_diagonal(A, *, offset: int = 0, dim1: int = -2, dim2: int = -1):
    """The diagonals of matrices, as the last dimension; a view"""
    return diagonal(A, offset, dim1, dim2)


@composite(examples=lambda make: [sample(make(3)), sample(make(2, 3), 1), sample(make(2, 3), -1, 0, 2)])
@takes_arrays
def diag_embed(input, offset: int = 0, dim1: int = -2, dim2: int = -1):
    """Matrices with `input`'s last dimension on their diagonals, zeros elsewhere"""
    if not input.ndim:
        raise ShapeError("diag_embed needs a tensor that has a dimension", received="a 0-d tensor")
    dims = _two("diag_embed", input.ndim + 1, dim1, dim2)
    n = input.shape[-1] + abs(offset)
    shape = list(input.shape[:-1])
    for d in sorted(dims):
        shape.insert(d, n)
    return _on_diagonal(input, shape=tuple(shape), offset=int(offset), dims=dims)


@composite(examples=lambda make: [sample(make(3)), sample(make(3), -1), sample(make(3, 4)), sample(make(3, 4), 1)])
@takes_arrays
def diag(input, diagonal: int = 0):
    """The matrix that has a vector as its diagonal; the diagonal of a matrix, as a copy"""
    if input.ndim not in (1, 2):
        raise ShapeError("diag takes a vector or a matrix", received=str(input.shape), fix="diagonal, or diag_embed")
    return diag_embed(input, diagonal) if input.ndim == 1 else linalg_diagonal(input, offset=diagonal).clone()


@composite(examples=lambda make: [sample(make(3)), sample(make(2, 2), 1)])
@takes_arrays
def diagflat(input, offset: int = 0):
    """The matrix that has all elements of `input` as its diagonal"""
    return diag_embed(ravel(input), offset)


@composite(examples=lambda make: [sample(make(3, 4), make(3)), sample(make(2, 3, 4), make(3, 2), 0, 0, 2)])
@takes_arrays
def diagonal_scatter(input, src, offset: int = 0, dim1: int = 0, dim2: int = 1):
    """`input` with `src` on the diagonal"""
    params = {"shape": input.shape, "offset": int(offset), "dims": _two("diagonal_scatter", input.ndim, dim1, dim2)}
    part = diagonal(input, offset, dim1, dim2)
    if src.shape != part.shape:
        raise ShapeError(
            "diagonal_scatter: src has the shape of the diagonal", expected=str(part.shape), received=str(src.shape)
        )
    xp = input.backend
    mask = _on_diagonal(made(xp.ones(part.shape, dtype=dt.bool_), xp), **params)
    return where(mask, _on_diagonal(src if src.dtype == input.dtype else cast(src, input.dtype), **params), input)


def fill_diagonal_(self, fill_value, wrap: bool = False):
    """The main diagonal becomes `fill_value`, a number; `wrap`: it begins anew below the last column of a tall matrix."""
    if self.ndim < 2 or (self.ndim > 2 and len(set(self.shape)) > 1):
        raise ShapeError("fill_diagonal_ takes a matrix, or dimensions of one length", received=str(self.shape))
    xp = self.backend
    places = made(xp.arange(max(self.numel(), 1)), xp)[: self.numel()].reshape(self.shape)
    step = sum(int(n) for n in _strides(self.shape))
    mask = places % step == 0 if step else places == 0
    rows = self.shape[0]
    if self.ndim == 2 and rows > self.shape[1] and not wrap:
        mask = mask & (places < step * self.shape[1])
    return write(self, cast(where(mask, fill_value, self), self.dtype))


def _strides(shape) -> list[int]:
    strides = [1]
    for n in shape[:0:-1]:
        strides.insert(0, strides[0] * n)
    return strides


Tensor.fill_diagonal_ = fill_diagonal_
