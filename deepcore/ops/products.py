"""Products beyond `matmul`: with a summand, of vectors, over any dimensions, of chains; and what is composed of them."""

from __future__ import annotations

import builtins
import itertools
import math

from deepcore.autograd import constant
from deepcore.autograd.graph import conj
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, ShapeError
from deepcore.ops.diagonals import diagonal
from deepcore.ops.linalg import blended, dot, matmul, outer, same_dtype
from deepcore.ops.reduction import sum as sum_
from deepcore.ops.registry import Tensor, axis_names, cast, composite, promote, sample, takes_arrays
from deepcore.ops.shape import (
    broadcast_shape,
    broadcast_to,
    cat,
    narrow,
    normalize_dim,
    pad,
    permute_p,
    reshape_p,
    stack,
    unsqueeze,
)
from deepcore.tensor import made


def _ranks(name: str, **tensors_and_ranks) -> None:
    for key, (tensor, rank) in tensors_and_ranks.items():
        if tensor.ndim != rank:
            raise ShapeError(f"{name}: {key} has {rank} dimensions", received=str(tensor.shape))


# -- a product and a summand ------------------------------------------------------------------------------------------


def _fits(name: str, input: Tensor, shape: tuple[int, ...]) -> None:
    if broadcast_shape(name, input.shape, shape) != shape:
        raise ShapeError(
            f"{name}: the input does not broadcast to the product", expected=str(shape), received=str(input.shape)
        )


@composite(
    inplace=True,
    examples=lambda make: [
        sample(make(3), make(3, 4), make(4)),
        sample(make(), make(3, 4), make(4), beta=0.5, alpha=2.0),
    ],
)
@takes_arrays
def addmv(input, mat, vec, *, beta=1, alpha=1):
    """beta · input + alpha · (mat @ vec)"""
    _ranks("addmv", mat=(mat, 2), vec=(vec, 1))
    _fits("addmv", input, mat.shape[:1])
    return blended("addmv", matmul, input, mat, vec, beta, alpha)


@composite(
    inplace=True,
    examples=lambda make: [
        sample(make(3, 4), make(3), make(4)),
        sample(make(4), make(3), make(4), beta=0.5, alpha=2.0),
    ],
)
@takes_arrays
def addr(input, vec1, vec2, *, beta=1, alpha=1):
    """beta · input + alpha · (vec1 ⊗ vec2)"""
    _ranks("addr", vec1=(vec1, 1), vec2=(vec2, 1))
    _fits("addr", input, (vec1.shape[0], vec2.shape[0]))
    return blended("addr", outer, input, vec1, vec2, beta, alpha)


@composite(
    inplace=True,
    examples=lambda make: [
        sample(make(2, 3, 2), make(2, 3, 4), make(2, 4, 2)),
        sample(make(2), make(2, 3, 4), make(2, 4, 2), beta=0.5, alpha=2.0),
    ],
)
@takes_arrays
def baddbmm(input, batch1, batch2, *, beta=1, alpha=1):
    """beta · input + alpha · (batch1 @ batch2), a product for each index of the first dimension"""
    _ranks("baddbmm", batch1=(batch1, 3), batch2=(batch2, 3))
    if batch1.shape[0] != batch2.shape[0]:
        raise ShapeError("baddbmm: the batch sizes differ", received=f"{batch1.shape} and {batch2.shape}")
    _fits("baddbmm", input, (*batch1.shape[:2], batch2.shape[2]))
    return blended("baddbmm", matmul, input, batch1, batch2, beta, alpha)


def _product_of_rows(batch1, batch2):
    """Σ over the batch: one product of matrices, whose columns and rows are those of all batches."""
    b, n, m = batch1.shape
    left = reshape_p(permute_p(batch1, order=(1, 0, 2)), shape=(n, b * m))
    return matmul(left, reshape_p(batch2, shape=(b * m, batch2.shape[2])))


@composite(
    inplace=True,
    examples=lambda make: [
        sample(make(3, 2), make(2, 3, 4), make(2, 4, 2)),
        sample(make(2), make(2, 3, 4), make(2, 4, 2), beta=0.5, alpha=2.0),
    ],
)
@takes_arrays
def addbmm(input, batch1, batch2, *, beta=1, alpha=1):
    """beta · input + alpha · Σ batch1 @ batch2, summed over the first dimension"""
    _ranks("addbmm", batch1=(batch1, 3), batch2=(batch2, 3))
    if batch1.shape[0] != batch2.shape[0] or batch1.shape[2] != batch2.shape[1]:
        raise ShapeError(
            "addbmm: the batches do not fit",
            expected="(b, n, m) and (b, m, p)",
            received=f"{batch1.shape} and {batch2.shape}",
        )
    _fits("addbmm", input, (batch1.shape[1], batch2.shape[2]))
    return blended("addbmm", _product_of_rows, input, batch1, batch2, beta, alpha)


# -- vectors --------------------------------------------------------------------------------------------------------


@composite(examples=lambda make: [sample(make(4), make(4))])
@takes_arrays
def vdot(input, other):
    """Σ conj(input) · other for two vectors"""
    return dot(conj(input), other)


@composite(examples=lambda make: [sample(make(4), make(4)), sample(make(2, 4), make(3, 4)), sample(make(), make(2, 3))])
@takes_arrays
def inner(input, other):
    """Σ over the last dimension of both: (…, n) and (*, n) to (…, *); with a 0-d tensor, the product"""
    input, other = same_dtype("inner", input, other)
    return tensordot(input, other, ([-1], [-1])) if input.ndim and other.ndim else input * other


@composite(
    place="linalg", examples=lambda make: [sample(make(3, 4), make(3, 4)), sample(make(3, 4), make(3, 1), dim=0)]
)
@axis_names
def vecdot(x, y, *, dim: int = -1):
    """Σ conj(x) · y along `dim`; the shapes broadcast"""
    return sum_(conj(x) * y, dim)


@composite(
    examples=lambda make: [
        sample(make(3, 4), make(4, 2), 1), sample(make(2, 3, 4), make(3, 4, 5)), sample(make(3, 4), make(2, 3), ([0], [1])),
        sample(make(3), make(2), 0),
    ],
    method=False,
)  # fmt: skip
@takes_arrays
def tensordot(a, b, dims=2):
    """Σ over the last `dims` dimensions of a and the first of b, or over the pairs that two lists name"""
    a, b = same_dtype("tensordot", a, b)
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        if not 0 <= dims <= min(a.ndim, b.ndim):
            raise ArgumentError(
                "tensordot: dims counts dimensions of both", received=f"dims={dims}, {a.shape} and {b.shape}"
            )
        dims = tuple(range(a.ndim - dims, a.ndim)), tuple(range(dims))
    left, right = ((d,) if isinstance(d, int) else tuple(d) for d in dims)
    left, right = [normalize_dim(d, a.ndim) for d in left], [normalize_dim(d, b.ndim) for d in right]
    pairs = [(a.shape[i], b.shape[j]) for i, j in zip(left, right)]
    if len(left) != len(right) or builtins.any(n != m and 1 not in (n, m) for n, m in pairs):
        raise ShapeError(
            "tensordot: paired dimensions have one length", received=f"{a.shape} and {b.shape}, dims={dims!r}"
        )
    for i, j, (n, m) in zip(left, right, pairs):  # a dimension of length 1 is summed first, as in PyTorch
        if n != m and m == 1:
            a = sum_(a, i, True, dtype=a.dtype)
        elif n != m:
            b = sum_(b, j, True, dtype=b.dtype)
    rows = [k for k in range(a.ndim) if k not in left]
    columns = [k for k in range(b.ndim) if k not in right]
    count = math.prod(a.shape[k] for k in left)
    x = reshape_p(permute_p(a, order=(*rows, *left)), shape=(math.prod(a.shape[k] for k in rows), count))
    y = reshape_p(permute_p(b, order=(*right, *columns)), shape=(count, math.prod(b.shape[k] for k in columns)))
    return reshape_p(matmul(x, y), shape=(*(a.shape[k] for k in rows), *(b.shape[k] for k in columns)))


@composite(
    examples=lambda make: [sample(make(2, 3), make(4, 2)), sample(make(3), make(2, 2, 2)), sample(make(), make(3))]
)
@takes_arrays
def kron(input, other):
    """The Kronecker product: every element of input times all of other, as blocks"""
    rank = max(input.ndim, other.ndim)
    first, second = ((1,) * (rank - x.ndim) + x.shape for x in (input, other))
    x = reshape_p(input, shape=tuple(n for size in first for n in (size, 1)))
    y = reshape_p(other, shape=tuple(n for size in second for n in (1, size)))
    return reshape_p(x * y, shape=tuple(n * m for n, m in zip(first, second)))


def _cross(name: str, input, other, dim: int):
    input, other = promote(name, "numeric", input, other)
    if input.ndim != other.ndim:
        raise ShapeError(
            f"{name}: the inputs have equally many dimensions", received=f"{input.shape} and {other.shape}"
        )
    shape = broadcast_shape(name, input.shape, other.shape)
    d = normalize_dim(dim, len(shape))
    if not shape or (input.shape[d], other.shape[d]) != (3, 3):
        raise ShapeError(f"{name}: dimension {dim} has length 3", received=f"{input.shape} and {other.shape}")
    input, other = broadcast_to(input, shape), broadcast_to(other, shape)
    a, b = ([narrow(x, d, k, 1) for k in (0, 1, 2)] for x in (input, other))
    return cat([a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1))], d)


@composite(
    place="linalg", examples=lambda make: [sample(make(2, 3), make(2, 3)), sample(make(3, 2), make(3, 1), dim=0)]
)
@axis_names
def linalg_cross(input, other, *, dim: int = -1):
    """The cross product of vectors of three numbers along `dim`; the other dimensions broadcast"""
    return _cross("cross", input, other, dim)


@composite(examples=lambda make: [sample(make(2, 3), make(2, 3)), sample(make(3, 3), make(3, 3), 1)])
@axis_names
def cross(input, other, dim: int | None = None):
    """The cross product along `dim`, by default the first dimension of length 3; the other dimensions broadcast"""
    if dim is None:
        shape = broadcast_shape("cross", input.shape, other.shape)
        dim = next((d for d, n in enumerate(shape) if n == 3), None)
        if dim is None:
            raise ShapeError("cross: no dimension has length 3", received=f"{input.shape} and {other.shape}")
    return _cross("cross", input, other, dim)


# -- chains of matrices -----------------------------------------------------------------------------------------------


def _split(shapes: list[int]) -> dict[tuple[int, int], int]:
    """{(i, j): k}: the cheapest product of matrices i to j joins those up to k and the rest."""
    count = len(shapes) - 1
    cost = {(i, i): 0 for i in range(count)}
    best = {}
    for length in range(1, count):
        for i in range(count - length):
            j = i + length
            costs = {k: cost[i, k] + cost[k + 1, j] + shapes[i] * shapes[k + 1] * shapes[j + 1] for k in range(i, j)}
            best[i, j] = min(costs, key=costs.__getitem__)
            cost[i, j] = costs[best[i, j]]
    return best


@composite(
    place="linalg",
    examples=lambda make: [sample([make(2, 5), make(5, 3), make(3, 2)]), sample([make(3), make(3, 2), make(2)])],
)
@takes_arrays
def multi_dot(tensors):
    """The product of two or more matrices in the cheapest order; the first may be a row, the last a column (vectors)"""
    tensors = same_dtype("multi_dot", *tensors)
    if len(tensors) < 2:
        raise ArgumentError("multi_dot takes two or more tensors", received=str(len(tensors)))
    first, last = tensors[0].ndim == 1, tensors[-1].ndim == 1
    chain = list(tensors)
    chain[0] = unsqueeze(chain[0], 0) if first else chain[0]
    chain[-1] = unsqueeze(chain[-1], 1) if last else chain[-1]
    if builtins.any(x.ndim != 2 for x in chain) or builtins.any(
        x.shape[1] != y.shape[0] for x, y in itertools.pairwise(chain)
    ):
        raise ShapeError(
            "multi_dot: the matrices do not form a chain", received=", ".join(str(x.shape) for x in tensors)
        )
    best = _split([x.shape[0] for x in chain] + [chain[-1].shape[1]])

    def product(i, j):
        return chain[i] if i == j else matmul(product(i, best[i, j]), product(best[i, j] + 1, j))

    out = product(0, len(chain) - 1)
    return reshape_p(out, shape=out.shape[int(first) : 2 - int(last)])


@composite(examples=lambda make: [sample(make(2, 5), make(5, 3), make(3, 2))], method=False)
def chain_matmul(*matrices):
    """`linalg.multi_dot`"""
    return matrices[0] if len(matrices) == 1 else multi_dot(matrices)


# -- composed of products -------------------------------------------------------------------------------------------


@composite(examples=lambda make: [sample(make(3, 3)), sample(make(2, 4))])
@takes_arrays
def trace(input):
    """Σ of the diagonal of a matrix"""
    _ranks("trace", input=(input, 2))
    return sum_(diagonal(input))


@composite(
    place="linalg", examples=lambda make: [sample(make(3)), sample(make(2, 3), N=4), sample(make(3), N=1)], method=False
)
@takes_arrays
def linalg_vander(x, N: int | None = None):
    """The powers 0 to N − 1 (default: as many as there are numbers) of each number, as rows"""
    if N is not None and N < 1:
        raise ArgumentError("vander: N is at least 1", received=f"N={N}")
    x = reshape_p(x, shape=x.shape or (1,))
    x = x if dt.is_inexact(x.dtype) else cast(x, dt.int64)
    count = x.shape[-1] if N is None else N
    powers = [x * 0 + 1]
    for _ in range(count - 1):
        powers.append(powers[-1] * x)
    return stack(powers[:count], -1)


@composite(examples=lambda make: [sample(make(3)), sample(make(3), 4, True)], method=False)
@takes_arrays
def vander(x, N: int | None = None, increasing: bool = False):
    """The powers N − 1 to 0 of each number, as rows; from 0 up where `increasing`"""
    _ranks("vander", x=(x, 1))
    if N == 0:
        return made(x.backend.zeros((*x.shape, 0), dtype=x.dtype if dt.is_inexact(x.dtype) else dt.int64), x.backend)
    out = linalg_vander(x, N)
    return out if increasing else out.flip(-1)


@composite(examples=lambda make: [sample(make(2, 3), make(2), make()), sample(make(1, 2))], method=False)
@takes_arrays
def block_diag(*tensors):
    """The matrices along the diagonal of one, zeros elsewhere; vectors are rows"""
    if builtins.any(x.ndim > 2 for x in tensors):
        raise ShapeError(
            "block_diag takes matrices, vectors and numbers", received=", ".join(str(x.shape) for x in tensors)
        )
    blocks = [
        x if x.ndim == 2 else reshape_p(x, shape=(1, x.numel())) for x in promote("block_diag", "numeric", *tensors)
    ]
    width, rows, start = builtins.sum(x.shape[1] for x in blocks), [], 0
    for x in blocks:
        rows.append(pad(x, (start, width - start - x.shape[1])))
        start += x.shape[1]
    return cat(rows, 0)


@composite(examples=lambda make: [sample(make(2), make(3)), sample(make(2))], method=False)
@takes_arrays
def cartesian_prod(*tensors):
    """All tuples of an element of each vector, as rows"""
    if builtins.any(x.ndim != 1 for x in tensors):
        raise ShapeError("cartesian_prod takes vectors", received=", ".join(str(x.shape) for x in tensors))
    if len(tensors) == 1:
        return constant("cartesian_prod", tensors[0])
    from deepcore.ops.pieces import meshgrid

    return stack([reshape_p(x, shape=(x.numel(),)) for x in meshgrid(*tensors, indexing="ij")], 1)


@composite(examples=lambda make: [sample(make(5)), sample(make(5), 3), sample(make(2), 2, True)])
@takes_arrays
def combinations(input, r: int = 2, with_replacement: bool = False):
    """All sets of `r` elements of a vector, in order, as rows"""
    _ranks("combinations", input=(input, 1))
    if r < 0:
        raise ArgumentError("combinations: r is at least 0", received=str(r))
    if r == 0:
        return input[:0]
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = list(choose(range(input.shape[0]), r))
    xp = input.backend
    index = xp.asarray(rows, dt.int64) if rows else xp.zeros((0, r), dtype=dt.int64)
    return input[made(index, xp)]
