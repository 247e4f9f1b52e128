"""Resampling of images: interpolation to another size, at points of a grid, and the grid of an affine map."""

from __future__ import annotations

import builtins
import functools
import itertools
import math
from collections.abc import Callable

from deepcore.autograd import apply
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.arithmetic import abs as abs_
from deepcore.ops.arithmetic import fmod
from deepcore.ops.comparison import logical_and, where
from deepcore.ops.index import gather_p
from deepcore.ops.linalg import matmul
from deepcore.ops.pool import _adaptive_avg_pool, weighted_taps_p
from deepcore.ops.registry import Tensor, cast, composite, functional, is_half, sample, takes_arrays
from deepcore.ops.rounding import floor, round
from deepcore.ops.shape import expand, permute_p, reshape_p, stack, unsqueeze
from deepcore.tensor import as_tensor, full

#: Modes that average: how many dimensions they are for (None: any).
_RANKS = {
    "nearest": None, "nearest-exact": None, "area": None, "linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3,
}  # fmt: skip


def _scale(n: int, out: int, align_corners: bool, factor: float | None) -> float:
    """Elements of the input for one of the result."""
    if align_corners:
        return (n - 1) / (out - 1) if out > 1 else 0.0
    return 1 / factor if factor else n / out


# Taps: functions (xp, n, out, …) → (places, weights), both (out, taps), for `weighted_taps_p`.


def _nearest(xp, n: int, out: int, factor: float | None, exact: bool, wide: bool):
    at, scale = xp.arange(out).astype(dt.float64) + (0.5 if exact else 0.0), _scale(n, out, False, factor)
    # As PyTorch rounds: of float64 images the product, of others both factors.
    at = (at * scale).astype(dt.float32) if wide else at.astype(dt.float32) * xp.asarray(scale).astype(dt.float32)
    places = xp.minimum(xp.floor(at).astype(dt.int64), n - 1)
    return places.reshape(-1, 1), xp.ones((out, 1), dtype=dt.float64)


def _linear(xp, n: int, out: int, align_corners: bool, factor: float | None):
    i, scale = xp.arange(out).astype(dt.float64), _scale(n, out, align_corners, factor)
    at = i * scale if align_corners else xp.maximum((i + 0.5) * scale - 0.5, 0.0)
    low = xp.minimum(at.astype(dt.int64), n - 1)
    far = xp.minimum(xp.maximum(at - low, 0.0), 1.0)
    return xp.stack([low, xp.minimum(low + 1, n - 1)], 1), xp.stack([1 - far, far], 1)


def _cubic_weight(x, a: float, choose: Callable):
    """The cubic convolution kernel (Keys, 1981)."""
    x = abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return choose(x >= 2, 0.0, choose(x > 1, far, near))  # NaN stays


def _cubic(xp, n: int, out: int, align_corners: bool, factor: float | None):
    i, scale = xp.arange(out).astype(dt.float64), _scale(n, out, align_corners, factor)
    at = i * scale if align_corners else (i + 0.5) * scale - 0.5
    low = xp.floor(at)
    steps = xp.arange(-1, 3)
    places = xp.minimum(xp.maximum(low.astype(dt.int64).reshape(-1, 1) + steps, 0), n - 1)
    return places, _cubic_weight((at - low).reshape(-1, 1) - steps, -0.75, xp.where)


def _smoothed(xp, n: int, out: int, align_corners: bool, factor: float | None, cubic: bool):
    """Taps of a filter that is stretched where the result is smaller, as Pillow does it."""
    scale = _scale(n, out, align_corners, factor)
    stretch = builtins.max(scale, 1.0)
    reach = (2 if cubic else 1) * stretch
    centers = (xp.arange(out).astype(dt.float64) + 0.5) * scale
    first = xp.maximum((centers - reach + 0.5).astype(dt.int64), 0)
    end = xp.minimum((centers + reach + 0.5).astype(dt.int64), n)
    places = first.reshape(-1, 1) + xp.arange(builtins.min(n, math.ceil(2 * reach) + 1))
    x = (places - centers.reshape(-1, 1) + 0.5) / stretch
    weights = _cubic_weight(x, -0.5, xp.where) if cubic else xp.maximum(1 - abs(x), 0.0)
    weights = xp.where(places < end.reshape(-1, 1), weights, 0.0)
    total = weights.sum(1, keepdims=True)
    return xp.minimum(places, n - 1), weights / xp.where(total == 0, 1.0, total)


def _sizes_of(sizes, size, scale_factor, recompute: bool | None) -> tuple[tuple[int, ...], tuple]:
    """(the sizes of the result, the factors that count)."""
    rank = len(sizes)
    if (size is None) == (scale_factor is None):
        raise ArgumentError("interpolate takes either size or scale_factor", received=f"{size=}, {scale_factor=}")
    if size is not None:
        given = tuple(size) if isinstance(size, (tuple, list)) else (size,) * rank
        if len(given) != rank or any(isinstance(n, bool) or not hasattr(n, "__index__") or n < 1 for n in given):
            raise ArgumentError(
                f"interpolate: size is a whole number of at least 1, or {rank} of such, one for each dimension after the channels",
                received=repr(size),
            )
        if recompute:
            raise ArgumentError("interpolate: recompute_scale_factor is for scale_factor", received=f"{size=}")
        return tuple(map(int, given)), (None,) * rank
    factors = tuple(scale_factor) if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * rank
    if len(factors) != rank or any(isinstance(f, str) or not (math.isfinite(f) and f > 0) for f in factors):
        raise ArgumentError(
            f"interpolate: scale_factor is a number above 0 or {rank} of such", received=repr(scale_factor)
        )
    found = tuple(math.floor(n * f) for n, f in zip(sizes, factors))
    if any(n < 1 for n in found):
        raise ShapeError("interpolate: nothing would be left", received=f"{sizes} times {factors}")
    return found, (None,) * rank if recompute else factors


@functional
def upsample(input, size=None, scale_factor=None, mode: str = "nearest", align_corners: bool | None = None):
    """`interpolate`, under PyTorch's older name."""
    return interpolate(input, size, scale_factor, mode, align_corners)


@functional
def upsample_nearest(input, size=None, scale_factor=None):
    """`interpolate` to the nearest pixel, under PyTorch's older name."""
    return interpolate(input, size, scale_factor, mode="nearest")


@functional
def upsample_bilinear(input, size=None, scale_factor=None):
    """`interpolate` with mode "bilinear" and align_corners, under PyTorch's older name."""
    return interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)


@functional
@composite(
    examples=lambda make: [
        sample(make(1, 2, 4), 7),
        sample(make(2, 1, 4), scale_factor=1.7, mode="linear", align_corners=False),
        sample(make(1, 2, 3, 4), (5, 3), mode="bilinear", align_corners=True),
        sample(make(1, 2, 4, 3), scale_factor=(0.5, 2.0), mode="bilinear"),
        sample(make(1, 1, 4, 4), (6, 3), mode="bicubic"),
        sample(make(1, 1, 6, 5), (3, 4), mode="bilinear", antialias=True),
        sample(make(1, 1, 5, 6), (3, 4), mode="bicubic", antialias=True),
        sample(make(1, 1, 2, 3, 2), 4, mode="trilinear"),
        sample(make(1, 1, 4, 4), (2, 3), mode="area"),
        sample(make(1, 2, 3, 3), 5, mode="nearest-exact"),
    ],
    method=False,
)
@takes_arrays
def interpolate(
    input,
    size: int | tuple[int, ...] | None = None,
    scale_factor: float | tuple[float, ...] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
):
    """The input (N, C, *) at another size, `size` or ⌊length · scale_factor⌋: out[i] = Σ weight(i, j) · input[j] along each dimension.

    `mode`: "nearest", "nearest-exact" (as Pillow rounds), "area" (`adaptive_avg_pool`), "linear" for (N, C, L), "bilinear" and
    "bicubic" for (N, C, H, W), "trilinear" for (N, C, D, H, W). Pixels are squares, whose corners `align_corners` puts over
    each other instead of their edges. `antialias` (bilinear, bicubic): a smaller result averages all that it stands for.
    """
    rank = input.ndim - 2
    if mode not in _RANKS:
        raise ArgumentError("interpolate: unknown mode", expected=", ".join(_RANKS), received=repr(mode))
    if rank not in (1, 2, 3) or _RANKS[mode] not in (None, rank):
        wanted = {1: "(N, C, L)", 2: "(N, C, H, W)", 3: "(N, C, D, H, W)"}.get(_RANKS[mode] or 0)
        raise ShapeError(
            f"interpolate in mode {mode!r} takes {wanted or '(N, C, L), (N, C, H, W) or (N, C, D, H, W)'}",
            received=f"shape {input.shape}",
        )
    averages = mode not in ("nearest", "nearest-exact", "area")
    if align_corners is not None and not averages:
        raise ArgumentError("align_corners is for the linear and cubic modes", received=f"{mode=}", fix="leave it out")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ArgumentError("antialias is for bilinear and bicubic", received=f"{mode=}")
    if 0 in input.shape[1:]:
        raise ShapeError("interpolate needs an element at least", received=f"shape {input.shape}")
    sizes, factors = _sizes_of(input.shape[2:], size, scale_factor, recompute_scale_factor)
    if mode == "area":
        return _adaptive_avg_pool("interpolate", rank, input, sizes)
    if averages and not dt.is_floating(input.dtype):
        raise DTypeError(f"interpolate in mode {mode!r} takes floats", received=dt.name_of(input.dtype), fix=".float()")
    if is_half(input) and averages:  # summed in float32, rounded once
        return cast(
            _interpolated(cast(input, dt.float32), sizes, factors, mode, bool(align_corners), antialias), input.dtype
        )
    return _interpolated(input, sizes, factors, mode, bool(align_corners), antialias)


def _interpolated(x, sizes, factors, mode: str, align_corners: bool, antialias: bool):
    # Backwards: the last dimension, whose elements are gathered one by one, while there are fewest.
    for d, (out, factor) in reversed(list(enumerate(zip(sizes, factors), 2))):
        taps: Callable
        if mode in ("nearest", "nearest-exact"):
            taps, options = _nearest, (factor, mode == "nearest-exact", x.dtype == dt.float64)
        elif antialias:
            taps, options = _smoothed, (align_corners, factor, mode == "bicubic")
        else:
            taps, options = _cubic if mode == "bicubic" else _linear, (align_corners, factor)
        x = apply(weighted_taps_p, (x,), {"dim": d, "length": out, "taps": taps, "options": options})
    return x


# -- grids --------------------------------------------------------------------------------------------------------------


@functional
@composite(
    examples=lambda make: [
        sample(make(2, 2, 3), (2, 1, 3, 4)),
        sample(make(1, 3, 4), (1, 2, 2, 3, 2), align_corners=True),
    ],
    method=False,
)
@takes_arrays
def affine_grid(theta, size, align_corners: bool = False):
    """grid[n, y, x] = theta[n] · (x', y', 1), where x' and y' go from -1 to 1 over the image, for `grid_sample`.

    theta (N, 2, 3) with size (N, C, H, W) gives (N, H, W, 2); (N, 3, 4) with (N, C, D, H, W) gives (N, D, H, W, 3).
    `align_corners`: -1 and 1 are the centres of the outermost pixels instead of their edges. (Jaderberg et al., 2015)
    """
    size, rank = tuple(map(int, size)), len(size) - 2
    if rank not in (2, 3) or theta.shape != (size[0], rank, rank + 1):
        raise ShapeError(
            "affine_grid takes theta (N, 2, 3) with size (N, C, H, W), or (N, 3, 4) with (N, C, D, H, W)",
            received=f"theta {theta.shape}, size {size}",
        )
    if any(n < 1 for n in size) or not dt.is_floating(theta.dtype):
        raise ArgumentError(
            "affine_grid takes a float theta and sizes of at least 1", received=f"{dt.name_of(theta.dtype)}, {size}"
        )
    base: list[Tensor] = []
    for d in range(rank, 0, -1):
        n = size[d + 1]
        end = 1.0 if align_corners else (n - 1) / n
        line = [-end + 2 * end * i / (n - 1) for i in range(n)] if n > 1 else [0.0]
        shape = (n, *(1,) * (rank - d))
        base.append(expand(reshape_p(as_tensor(line, theta.dtype, theta.backend), shape=shape), size[2:]))
    base.append(full(size[2:], 1.0, dtype=theta.dtype, backend=theta.backend))
    points = reshape_p(stack(base, -1), shape=(math.prod(size[2:]), rank + 1))
    return reshape_p(matmul(points, permute_p(theta, order=(0, 2, 1))), shape=(size[0], *size[2:], rank))


def _reflected(x, low: float, high: float):
    """x mirrored at low and high until it lies between."""
    if low == high:
        return x * 0.0
    span = high - low
    x = abs_(x - low)
    extra = fmod(x, span)
    even = fmod(floor(x / span), 2.0) == 0
    return where(even, extra + low, (span - extra) + low)


def _clipped(x, n: int):
    """x in [0, n - 1], without a gradient where it is moved, or lies at an end; NaN is outside."""
    return where(x > 0, where(x < n - 1, x, float(n - 1)), 0.0)


def _in_image(x, n: int, padding_mode: str, align_corners: bool):
    """Pixel coordinates, moved into the image where padding_mode says so."""
    if padding_mode == "reflection":
        x = _reflected(x, 0.0, n - 1.0) if align_corners else _reflected(x, -0.5, n - 0.5)
    return x if padding_mode == "zeros" else _clipped(x, n)


def _corner(flat, sizes, places: list):
    """The pixels at whole coordinates (N, P), 0 outside of the image: (N, C, P)."""
    within = [logical_and(place >= 0, place < n) for n, place in zip(sizes, places)]
    inside = functools.reduce(logical_and, within)
    index = cast(where(within[0], places[0], 0.0), dt.int64)
    for n, place, ok in zip(sizes[1:], places[1:], within[1:]):
        index = index * n + cast(where(ok, place, 0.0), dt.int64)
    channels = flat.shape[1]
    index = expand(unsqueeze(index, 1), (index.shape[0], channels, index.shape[1]))
    return where(unsqueeze(inside, 1), gather_p(flat, index, dim=2), 0.0)


@functional
@composite(
    examples=lambda make: [
        sample(make(1, 2, 3, 4), make(1, 2, 3, 2, low=-1.2, high=1.2), align_corners=False),
        sample(make(1, 1, 3, 3), make(1, 2, 2, 2, low=-1.3, high=1.4), padding_mode="border", align_corners=True),
        sample(make(1, 1, 4, 3), make(1, 2, 2, 2, low=-1.9, high=1.8), padding_mode="reflection", align_corners=False),
        sample(make(1, 1, 4, 4), make(1, 1, 2, 2, low=-0.9, high=0.9), mode="bicubic", align_corners=False),
        sample(make(1, 1, 2, 3, 2), make(1, 1, 2, 1, 3, low=-0.9, high=0.9), align_corners=False),
        sample(make(1, 2, 3, 3), make(1, 2, 2, 2, low=-0.9, high=0.9), mode="nearest", align_corners=True),
    ],
    method=False,
    second_order=False,
)
@takes_arrays
def grid_sample(
    input, grid, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
):  # fmt: skip
    """out[n, :, y, x] = input[n, :, …] at the point grid[n, y, x] = (x', y'), where -1 and 1 are the image's edges.

    input (N, C, H, W) with grid (N, H', W', 2) gives (N, C, H', W'); (N, C, D, H, W) with (N, D', H', W', 3) gives
    (N, C, D', H', W'). `mode`: "bilinear", "nearest", "bicubic" (images). `padding_mode`, outside of the image: "zeros",
    "border" (the nearest pixel) or "reflection". `align_corners` (default False): -1 and 1 are the centres of the outermost
    pixels. (Jaderberg et al., 2015)
    """
    rank = input.ndim - 2
    if rank not in (2, 3) or grid.ndim != rank + 2 or grid.shape[-1] != rank or grid.shape[0] != input.shape[0]:
        raise ShapeError(
            "grid_sample takes (N, C, H, W) and a grid (N, H', W', 2), or (N, C, D, H, W) and (N, D', H', W', 3)",
            received=f"input {input.shape}, grid {grid.shape}",
        )
    if mode not in ("bilinear", "nearest", "bicubic") or (mode == "bicubic" and rank == 3):
        raise ArgumentError(
            "grid_sample: unknown mode", expected="bilinear, nearest, or bicubic (images)", received=mode
        )
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ArgumentError(
            "grid_sample: unknown padding_mode", expected="zeros, border or reflection", received=repr(padding_mode)
        )
    if not dt.is_floating(input.dtype) or input.dtype != grid.dtype:
        raise DTypeError(
            "grid_sample takes an input and a grid of one floating dtype",
            received=f"{dt.name_of(input.dtype)} and {dt.name_of(grid.dtype)}", fix="grid.to(input.dtype)",
        )  # fmt: skip
    if 0 in input.shape[1:]:
        raise ShapeError("grid_sample needs an element at least", received=f"input {input.shape}")
    if is_half(input):
        wide = grid_sample(cast(input, dt.float32), cast(grid, dt.float32), mode, padding_mode, align_corners)
        return cast(wide, input.dtype)
    align, sizes = bool(align_corners), input.shape[2:]
    count = math.prod(grid.shape[1:-1])
    points = reshape_p(grid, shape=(grid.shape[0], count, rank))
    flat = reshape_p(input, shape=(*input.shape[:2], math.prod(sizes)))
    at = []  # pixel coordinates, as the image's dimensions go
    for d, n in enumerate(sizes):
        x = points[:, :, rank - 1 - d]
        at.append((x + 1.0) * ((n - 1) / 2) if align else ((x + 1.0) * n - 1.0) / 2)
    if mode == "bicubic":
        out = _bicubic_at(flat, sizes, at, padding_mode, align)
    else:
        at = [_in_image(x, n, padding_mode, align) for x, n in zip(at, sizes)]
        if mode == "nearest":
            out = _corner(flat, sizes, [round(x.detach()) for x in at])
            if grid._requires_grad:  # whose gradient is 0, and no error
                out = out + sum(unsqueeze(where(abs_(x) < 1e9, x, 0.0) * 0.0, 1) for x in at)
        else:
            out = _linear_at(flat, sizes, at)
    return reshape_p(out, shape=(*input.shape[:2], *grid.shape[1:-1]))


def _linear_at(flat, sizes, at):
    low = [floor(x.detach()) for x in at]
    out = None
    for corner in itertools.product((0, 1), repeat=len(sizes)):
        weight = None
        for x, base, side in zip(at, low, corner):
            part = (x - base) if side else (base + 1.0) - x
            weight = part if weight is None else weight * part
        value = _corner(flat, sizes, [base + float(side) for base, side in zip(low, corner)]) * unsqueeze(weight, 1)
        out = value if out is None else out + value
    return out


def _bicubic_at(flat, sizes, at, padding_mode: str, align: bool):
    low = [floor(x.detach()) for x in at]
    weights = [[_cubic_weight((x - base) - float(k), -0.75, where) for k in range(-1, 3)] for x, base in zip(at, low)]
    out = None
    for i in range(4):
        row = None
        for j in range(4):
            places = [base + float(k - 1) for base, k in zip(low, (i, j))]
            places = [_in_image(place, n, padding_mode, align) for place, n in zip(places, sizes)]
            value = _corner(flat, sizes, places) * unsqueeze(weights[1][j], 1)
            row = value if row is None else row + value
        row = row * unsqueeze(weights[0][i], 1)
        out = row if out is None else out + row
    return out
