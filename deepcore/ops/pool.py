"""Pooling over one to three dimensions: the largest, the mean or the norm of each window, and its inverse."""

from __future__ import annotations

import builtins
import itertools
import math
from typing import NamedTuple

from deepcore.autograd import apply
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.activation import relu
from deepcore.ops.arithmetic import abs as abs_
from deepcore.ops.arithmetic import div, sign
from deepcore.ops.arithmetic import pow as pow_
from deepcore.ops.comparison import maximum
from deepcore.ops.comparison import where as where_
from deepcore.ops.conv import _spread, _taps, numbers
from deepcore.ops.index import gather_p, within
from deepcore.ops.reduction import ValuesAndIndices
from deepcore.ops.registry import Tensor, cast, composite, functional, is_half, primitive, sample, takes_arrays
from deepcore.ops.shape import reshape_p
from deepcore.tensor import as_tensor

# -- windows ------------------------------------------------------------------------------------------------------------


def _outputs(n: int, k: int, s: int, p: int, d: int, ceil_mode: bool) -> int:
    """Windows along a dimension of length n; with `ceil_mode` one more that is cut off, if it starts in the input."""
    room = n + 2 * p - d * (k - 1) - 1
    count = (-(-room // s) if ceil_mode else room // s) + 1
    return count - 1 if ceil_mode and (count - 1) * s >= n + p else count


def _regular(xp, n: int, count: int, k: int, s: int, p: int, d: int):
    """(windows, taps): the element that each tap of each window meets; -1 for padding."""
    places = xp.arange(count).reshape(-1, 1) * s + (xp.arange(k) * d - p)
    return xp.where(xp.logical_and(places >= 0, places < n), places, -1)


def adaptive_places(xp, n: int, count: int):
    """(windows, taps) of `count` windows that cover a length of n: from ⌊i·n / count⌋ to ⌈(i + 1)·n / count⌉."""
    i = xp.arange(count)
    first, end = i * n // builtins.max(count, 1), -(-(i + 1) * n // builtins.max(count, 1))
    longest = builtins.max((-(-(i + 1) * n // count) - i * n // count for i in range(count)), default=1)
    places = first.reshape(-1, 1) + xp.arange(longest)
    return xp.where(places < end.reshape(-1, 1), places, -1)


class _Pooled(NamedTuple):
    """An input of a pooling, with a batch dimension, and the sizes of its windows."""

    input: Tensor
    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    where: tuple[int, ...]
    batched: bool

    def done(self, out: Tensor) -> Tensor:
        return out if self.batched else reshape_p(out, shape=out.shape[1:])


def _batch(name: str, rank: int, input: Tensor) -> tuple[Tensor, bool]:
    if input.ndim not in (rank + 1, rank + 2):
        sizes = {1: "L", 2: "H, W", 3: "D, H, W"}[rank]
        raise ShapeError(
            f"{name} takes {rank} dimensions after the channels", expected=f"shape (N, C, {sizes}) or (C, {sizes})",
            received=f"shape {input.shape}",
        )  # fmt: skip
    if 0 in input.shape[-rank - 1 :]:
        raise ShapeError(f"{name} needs a channel and an element at least", received=f"shape {input.shape}")
    batched = input.ndim == rank + 2
    return input if batched else reshape_p(input, shape=(1, *input.shape)), batched


def _windows(name: str, rank: int, input, kernel_size, stride, padding, dilation, ceil_mode) -> _Pooled:
    size = numbers(name, "kernel_size", kernel_size, rank, 1)
    steps = size if stride is None or stride == () else numbers(name, "stride", stride, rank, 1)
    around, spread = numbers(name, "padding", padding, rank, 0), numbers(name, "dilation", dilation, rank, 1)
    input, batched = _batch(name, rank, input)
    if any(2 * p > k for p, k in zip(around, size)):
        raise ArgumentError(
            f"{name}: padding is at most half of kernel_size", received=f"padding={padding}, kernel_size={kernel_size}"
        )
    sizes = input.shape[2:]
    where = tuple(_outputs(*each, ceil_mode) for each in zip(sizes, size, steps, around, spread))
    if any(n < 1 for n in where):
        raise ShapeError(
            f"{name}: the window is larger than the padded input",
            expected=f"at least {tuple(d * (k - 1) + 1 for k, d in zip(size, spread))}",
            received=f"{tuple(n + 2 * p for n, p in zip(sizes, around))} with padding",
            fix="a smaller kernel_size, or fewer strides before",
        )
    return _Pooled(input, size, steps, around, spread, where, batched)


def _output_sizes(name: str, rank: int, sizes, output_size) -> tuple[int, ...]:
    """One number for each dimension; None keeps the input's."""
    sides = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * rank
    if len(sides) != rank or any(n is not None and (not hasattr(n, "__index__") or n < 0) for n in sides):
        raise ArgumentError(
            f"{name}: output_size is a whole number or None, or {rank} of such", received=f"output_size={output_size!r}"
        )
    return tuple(n if o is None else int(o) for o, n in zip(sides, sizes))


# -- the largest --------------------------------------------------------------------------------------------------------


@primitive(batch="rows")
def _largest_p(xp, input, *, size, stride, padding, dilation, where):
    """Where the largest of each window is, in the channel's flattened input; `size` None: adaptive windows.

    Of equals the first, of NaNs the last, as in PyTorch.
    """
    n, channels, *sizes = input.shape
    if size is None:
        taps = [adaptive_places(xp, length, count) for length, count in zip(sizes, where)]
    else:
        taps = [_regular(xp, *numbers) for numbers in zip(sizes, where, size, stride, padding, dilation)]
    flat = input.reshape(n, channels, math.prod(sizes))
    best = places = None
    for tap in itertools.product(*(range(t.shape[1]) for t in taps)):
        met = xp.zeros(where, dtype=dt.int64)
        inside = xp.ones(where, dtype=dt.bool_)
        for d, (length, t, k) in enumerate(zip(sizes, taps, tap)):
            place = t[:, k].reshape(-1, *(1,) * (len(sizes) - 1 - d))
            met, inside = met * length + xp.maximum(place, 0), xp.logical_and(inside, place >= 0)
        met = xp.where(inside, met, -1)
        values = flat[:, :, xp.maximum(met, 0)]
        if best is None:
            best, places = values, xp.zeros(values.shape, dtype=dt.int64) + met
            continue
        better = xp.logical_or(values > best, values != values)
        better = xp.logical_and(met >= 0, xp.logical_or(better, places < 0))
        best, places = xp.where(better, values, best), xp.where(better, met, places)
    return places


def _at(input: Tensor, places: Tensor) -> Tensor:
    """The elements of each channel at `places` of its flattened dimensions."""
    n, channels, *where = places.shape
    flat = reshape_p(input, shape=(n, channels, math.prod(input.shape[2:])))
    index = reshape_p(places, shape=(n, channels, math.prod(where)))
    return reshape_p(gather_p(flat, index, dim=2), shape=places.shape)


def _max_pool(name, rank, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    w = _windows(name, rank, input, kernel_size, stride, padding, dilation, ceil_mode)
    params = {"size": w.size, "stride": w.stride, "padding": w.padding, "dilation": w.dilation, "where": w.where}
    places = apply(_largest_p, (w.input.detach(),), params)
    sizes = w.input.shape[2:]
    if any(_meets_nothing(*each) for each in zip(sizes, w.where, w.size, w.stride, w.padding, w.dilation)):
        met, places = places >= 0, maximum(places, 0)
        lowest = -math.inf if dt.is_floating(w.input.dtype) else dt.iinfo(w.input.dtype).min
        out = w.done(where_(met, _at(w.input, places), lowest))
    else:
        out = w.done(_at(w.input, places))
    return ValuesAndIndices(out, w.done(places)) if return_indices else out


def _meets_nothing(n: int, count: int, k: int, s: int, p: int, d: int) -> bool:
    """Whether all taps of a window lie in the padding, as those of few, far apart, may."""
    return d > 1 and any(
        all(not 0 <= i * s - p + tap * d < n for tap in range(k)) for i in range(count)
    )  # fmt: skip


def _adaptive_max_pool(name, rank, input, output_size, return_indices):
    x, batched = _batch(name, rank, input)
    where = _output_sizes(name, rank, x.shape[2:], output_size)
    params = {"size": None, "stride": None, "padding": None, "dilation": None, "where": where}
    places = apply(_largest_p, (x.detach(),), params)
    out = _at(x, places)
    if not batched:
        out, places = (reshape_p(t, shape=t.shape[1:]) for t in (out, places))
    return ValuesAndIndices(out, places) if return_indices else out


@primitive(vjp=(lambda g, indices: gather_p(g, indices, dim=2), None), batch="rows", jvp="linear")
def _placed(xp, input, indices, *, length):
    """Zeros of that length in the last dimension, with the input at the indices."""
    out = xp.zeros((*input.shape[:2], length), dtype=input.dtype)
    n, channels, _ = input.shape
    rows = xp.arange(n * channels).reshape(n, channels, 1) * length
    out.reshape(-1)[(rows + indices).reshape(-1)] = input.reshape(-1)
    return out


def _max_unpool(name, rank, input, indices, kernel_size, stride, padding, output_size):
    size = numbers(name, "kernel_size", kernel_size, rank, 1)
    steps = size if stride is None else numbers(name, "stride", stride, rank, 1)
    around = numbers(name, "padding", padding, rank, 0)
    if input.shape != indices.shape or indices.dtype != dt.int64:
        raise ShapeError(
            f"{name} takes the indices that max_pool{rank}d(…, return_indices=True) gives with its result",
            expected=f"int64 of shape {input.shape}", received=f"{dt.name_of(indices.dtype)} of shape {indices.shape}",
        )  # fmt: skip
    x, batched = _batch(name, rank, input)
    shape = tuple((n - 1) * s - 2 * p + k for n, s, p, k in zip(x.shape[2:], steps, around, size))
    if output_size is not None:
        given = tuple(output_size)
        given = given[-rank:] if len(given) == input.ndim else given
        if len(given) != rank or any(abs(a - b) >= s for a, b, s in zip(given, shape, steps)):
            raise ShapeError(
                f"{name}: no input of output_size is pooled to this", expected=f"{shape}, less than a stride apart",
                received=f"{tuple(output_size)}",
            )  # fmt: skip
        shape = given
    length, (n, channels, *where) = math.prod(shape), x.shape
    places = indices.detach()
    if not within(places, 0, length):
        worst = places._data
        raise ShapeError(
            f"{name}: an index is outside of the result", expected=f"0 to {length - 1}, for a result of {shape}",
            received=f"{int(worst.min())} to {int(worst.max())}", fix="pass output_size, the size of what was pooled",
        )  # fmt: skip
    flat = [reshape_p(t, shape=(n, channels, math.prod(where))) for t in (x, places)]
    out = reshape_p(apply(_placed, tuple(flat), {"length": length}), shape=(n, channels, *shape))
    return out if batched else reshape_p(out, shape=out.shape[1:])


# -- the mean -----------------------------------------------------------------------------------------------------------


@primitive(
    vjp=lambda g, input_shape, size, stride, padding: window_spread_p(
        g, sizes=input_shape[2:], size=size, stride=stride, padding=padding
    ),
    batch="rows",
    jvp="linear",
)
def window_sum_p(xp, input, *, size, stride, padding, where):
    parts = _taps(xp, input, size, where, stride, padding, (1,) * len(size))
    total = parts[0].copy() if len(parts) == 1 else parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total


@primitive(
    vjp=lambda g, input_shape, size, stride, padding: window_sum_p(
        g, size=size, stride=stride, padding=padding, where=input_shape[2:]
    ),
    batch="rows",
    jvp="linear",
)
def window_spread_p(xp, input, *, sizes, size, stride, padding):
    """The transpose of `window_sum_p`."""
    where = input.shape[2:]
    columns = xp.broadcast_to(input[:, :, None], (*input.shape[:2], math.prod(size), *where))
    return _spread(xp, columns, sizes, size, where, stride, padding, (1,) * len(size))


def _floating(name: str, input: Tensor) -> None:
    if not dt.is_floating(input.dtype):
        raise DTypeError(f"{name} takes floats", received=dt.name_of(input.dtype), fix="input.float()")


def _wide(function, input, *args):
    """16-bit floats are summed in float32 and rounded once."""
    return cast(function(cast(input, dt.float32), *args), input.dtype) if is_half(input) else function(input, *args)


def _avg_pool(name, rank, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    if input.dtype.kind not in "iuf" and not dt.is_floating(input.dtype):
        _floating(name, input)
    if divisor_override is not None and not (hasattr(divisor_override, "__index__") and divisor_override):
        raise ArgumentError(f"{name}: divisor_override is a whole number, not 0", received=repr(divisor_override))
    w = _windows(name, rank, input, kernel_size, stride, padding, 1, ceil_mode)
    sizes = w.input.shape[2:]
    # A window that ceil_mode cuts off reaches into padding of its own, which never counts.
    after = [
        builtins.max(p, (o - 1) * s + k - n - p)
        for n, o, k, s, p in zip(sizes, w.where, w.size, w.stride, w.padding)
    ]  # fmt: skip
    params = {"size": w.size, "stride": w.stride, "padding": tuple(zip(w.padding, after)), "where": w.where}
    counts = [] if divisor_override else [
        _counts(*geometry, count_include_pad) for geometry in zip(sizes, w.where, w.size, w.stride, w.padding)
    ]  # fmt: skip

    def mean(x):
        total = apply(window_sum_p, (x,), params)
        return div(
            total, _divisor(x, counts, divisor_override), rounding_mode=None if dt.is_floating(x.dtype) else "trunc"
        )

    return w.done(_wide(mean, w.input))


def _counts(n: int, count: int, k: int, s: int, p: int, include_pad: bool) -> list[int]:
    """How many elements of a dimension count in each window."""
    ends = [(i * s - p, builtins.min(i * s - p + k, n + p)) for i in range(count)]
    return [end - first if include_pad else builtins.min(end, n) - builtins.max(first, 0) for first, end in ends]


def _divisor(x: Tensor, counts: list[list[int]], override: int | None):
    """What the sums of windows are divided by: a number where it is the same for all."""
    if override or all(len(set(each)) == 1 for each in counts):
        return override or math.prod(each[0] for each in counts)
    total = None
    for d, each in enumerate(counts):
        along = as_tensor([[n] for n in each] if d < len(counts) - 1 else each, x.dtype, x.backend)
        along = reshape_p(along, shape=(-1, *(1,) * (len(counts) - 1 - d)))
        total = along if total is None else total * along
    return total


def _adaptive_avg_pool(name, rank, input, output_size):
    _floating(name, input)
    x, batched = _batch(name, rank, input)
    where = _output_sizes(name, rank, x.shape[2:], output_size)

    def mean(x):
        if all(o and n % o == 0 for n, o in zip(x.shape[2:], where)):
            size = tuple(n // o for n, o in zip(x.shape[2:], where))
            params = {"size": size, "stride": size, "padding": ((0, 0),) * rank, "where": where}
            return apply(window_sum_p, (x,), params) / math.prod(size)
        for d, o in enumerate(where, 2):
            x = apply(weighted_taps_p, (x,), {"dim": d, "length": o, "taps": adaptive_taps, "options": ()})
        return x

    out = _wide(mean, x)
    return out if batched else reshape_p(out, shape=out.shape[1:])


def adaptive_taps(xp, n: int, length: int):
    places = adaptive_places(xp, n, length)
    inside = (places >= 0).astype(dt.float64)
    return xp.maximum(places, 0), inside / xp.maximum(inside.sum(1, keepdims=True), 1)


@primitive(
    vjp=lambda g, input_shape, dim, taps, options: spread_taps_p(
        g, dim=dim, length=input_shape[dim], taps=taps, options=options
    ),
    batch="dim",
    jvp="linear",
)
def weighted_taps_p(xp, input, *, dim, length, taps, options):
    """out[…, i, …] = Σₖ weights[i, k] · input[…, places[i, k], …] along `dim`, of which the result has `length`.

    (places, weights) = taps(xp, length of the input, length of the result, *options).
    """
    places, weights = taps(xp, input.shape[dim], length, *options)
    weights = weights.astype(input.dtype).reshape(*weights.shape, *(1,) * (input.ndim - dim - 1))
    total = xp.take(input, places[:, 0], axis=dim) * weights[:, 0]
    for k in range(1, places.shape[1]):
        total += xp.take(input, places[:, k], axis=dim) * weights[:, k]
    return total


@primitive(
    vjp=lambda g, input_shape, dim, taps, options: weighted_taps_p(
        g, dim=dim, length=input_shape[dim], taps=taps, options=options
    ),
    batch="dim",
    jvp="linear",
)
def spread_taps_p(xp, input, *, dim, length, taps, options):
    """The transpose of `weighted_taps_p`."""
    places, weights = taps(xp, length, input.shape[dim], *options)
    weights = weights.astype(input.dtype).reshape(*weights.shape, *(1,) * (input.ndim - dim - 1))
    out = xp.zeros((*input.shape[:dim], length, *input.shape[dim + 1 :]), dtype=input.dtype)
    before = (slice(None),) * dim
    for k in range(places.shape[1]):
        xp.scatter_add(out, (*before, places[:, k]), input * weights[:, k])
    return out


def _lp_pool(name, rank, input, norm_type, kernel_size, stride, ceil_mode):
    size = numbers(name, "kernel_size", kernel_size, rank, 1)
    if isinstance(norm_type, bool) or not math.isfinite(norm_type) or not norm_type:
        raise ArgumentError(f"{name}: norm_type is a number, not 0", received=repr(norm_type))
    out = _avg_pool(name, rank, pow_(input, norm_type), size, stride, 0, ceil_mode, True, None)
    return pow_((sign(out) * relu(abs_(out))) * math.prod(size), 1.0 / norm_type)


# -- public -------------------------------------------------------------------------------------------------------------


def _max_samples(*shape):
    return lambda make: [
        sample(make(2, 2, *shape), 2),
        sample(make(2, *shape), 3, stride=1, padding=1),
        sample(make(1, 2, *shape), 2, stride=2, ceil_mode=True),
        sample(make(1, 1, *shape), 2, stride=1, dilation=1, padding=1, return_indices=True),
    ]


def _avg_samples(*shape):
    return lambda make: [
        sample(make(2, 2, *shape), 2),
        sample(make(2, *shape), 3, stride=1, padding=1, count_include_pad=False),
        sample(make(1, 2, *shape), 2, stride=2, padding=1, ceil_mode=True),
        sample(make(1, 1, *shape), 2, divisor_override=3),
    ]


def _adaptive_max_samples(*shape):
    return lambda make: [sample(make(2, 2, *shape), 2), sample(make(2, *shape), 3, return_indices=True)]


def _adaptive_avg_samples(*shape):
    return lambda make: [sample(make(2, 2, *shape), 2), sample(make(2, *shape), 1), sample(make(1, 1, *shape), 3)]


def _lp_samples(*shape):
    return lambda make: [
        sample(make(2, 2, *shape, low=0.5), 2, 2),
        sample(make(1, *shape, low=0.5), 3, 2, stride=1),
    ]


@functional
@composite(examples=_max_samples(5), method=False)
@takes_arrays
def max_pool1d(
    input,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
):
    """The largest element of each window: (N, C, L) → the same with
    ⌊(L + 2·padding - dilation·(kernel_size - 1) - 1) / stride⌋ + 1 windows along each dimension of length L, or ⌈…⌉ + 1 with
    `ceil_mode`.

    `stride`: default kernel_size. Padding never wins. With `return_indices` also where in each channel's flattened input
    the elements are.
    """
    return _max_pool("max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@functional
@composite(examples=_max_samples(4, 5), method=False)
@takes_arrays
def max_pool2d(
    input,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
):
    """The largest element of each window: (N, C, H, W) → the same with
    ⌊(L + 2·padding - dilation·(kernel_size - 1) - 1) / stride⌋ + 1 windows along each dimension of length L, or ⌈…⌉ + 1 with
    `ceil_mode`.

    `stride`: default kernel_size. Padding never wins. With `return_indices` also where in each channel's flattened input
    the elements are.
    """
    return _max_pool("max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@functional
@composite(examples=_max_samples(3, 4, 2), method=False)
@takes_arrays
def max_pool3d(
    input,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
):
    """The largest element of each window: (N, C, D, H, W) → the same with
    ⌊(L + 2·padding - dilation·(kernel_size - 1) - 1) / stride⌋ + 1 windows along each dimension of length L, or ⌈…⌉ + 1 with
    `ceil_mode`.

    `stride`: default kernel_size. Padding never wins. With `return_indices` also where in each channel's flattened input
    the elements are.
    """
    return _max_pool("max_pool3d", 3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@functional
@composite(examples=lambda make: _avg_samples(5)(make)[:3], method=False)
@takes_arrays
def avg_pool1d(
    input,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
):
    """The mean of each window: (N, C, L) → the same with ⌊(L + 2·padding - kernel_size) / stride⌋ + 1 windows along each
    dimension of length L, or ⌈…⌉ + 1 with `ceil_mode`.

    `stride`: default kernel_size. Zeros around the input count with `count_include_pad`.
    """
    return _avg_pool("avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@functional
@composite(examples=_avg_samples(4, 5), method=False)
@takes_arrays
def avg_pool2d(
    input,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
):
    """The mean of each window: (N, C, H, W) → the same with ⌊(L + 2·padding - kernel_size) / stride⌋ + 1 windows along each
    dimension of length L, or ⌈…⌉ + 1 with `ceil_mode`.

    `stride`: default kernel_size. Zeros around the input count with `count_include_pad`; `divisor_override`
    divides the sums instead of the number of elements.
    """
    return _avg_pool(
        "avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


@functional
@composite(examples=_avg_samples(3, 4, 2), method=False)
@takes_arrays
def avg_pool3d(
    input,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
):
    """The mean of each window: (N, C, D, H, W) → the same with ⌊(L + 2·padding - kernel_size) / stride⌋ + 1 windows along each
    dimension of length L, or ⌈…⌉ + 1 with `ceil_mode`.

    `stride`: default kernel_size. Zeros around the input count with `count_include_pad`; `divisor_override`
    divides the sums instead of the number of elements.
    """
    return _avg_pool(
        "avg_pool3d", 3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


@functional
@composite(examples=_adaptive_max_samples(5), method=False)
@takes_arrays
def adaptive_max_pool1d(input, output_size: int | tuple[int | None, ...] | None, return_indices: bool = False):
    """The largest element of each of `output_size` windows that cover the input: (N, C, L) → (N, C, *output_size).

    Window i of a length L reaches from ⌊i·L / size⌋ to ⌈(i + 1)·L / size⌉; None keeps a length.
    """
    return _adaptive_max_pool("adaptive_max_pool1d", 1, input, output_size, return_indices)


@functional
@composite(examples=_adaptive_max_samples(4, 5), method=False)
@takes_arrays
def adaptive_max_pool2d(input, output_size: int | tuple[int | None, ...] | None, return_indices: bool = False):
    """The largest element of each of `output_size` windows that cover the input: (N, C, H, W) → (N, C, *output_size).

    Window i of a length L reaches from ⌊i·L / size⌋ to ⌈(i + 1)·L / size⌉; None keeps a length.
    """
    return _adaptive_max_pool("adaptive_max_pool2d", 2, input, output_size, return_indices)


@functional
@composite(examples=_adaptive_max_samples(3, 4, 2), method=False)
@takes_arrays
def adaptive_max_pool3d(input, output_size: int | tuple[int | None, ...] | None, return_indices: bool = False):
    """The largest element of each of `output_size` windows that cover the input: (N, C, D, H, W) → (N, C, *output_size).

    Window i of a length L reaches from ⌊i·L / size⌋ to ⌈(i + 1)·L / size⌉; None keeps a length.
    """
    return _adaptive_max_pool("adaptive_max_pool3d", 3, input, output_size, return_indices)


@functional
@composite(examples=_adaptive_avg_samples(5), method=False)
@takes_arrays
def adaptive_avg_pool1d(input, output_size: int | tuple[int | None, ...] | None):
    """The mean of each of `output_size` windows that cover the input: (N, C, L) → (N, C, *output_size).

    Window i of a length L reaches from ⌊i·L / size⌋ to ⌈(i + 1)·L / size⌉; None keeps a length.
    """
    return _adaptive_avg_pool("adaptive_avg_pool1d", 1, input, output_size)


@functional
@composite(examples=_adaptive_avg_samples(4, 5), method=False)
@takes_arrays
def adaptive_avg_pool2d(input, output_size: int | tuple[int | None, ...] | None):
    """The mean of each of `output_size` windows that cover the input: (N, C, H, W) → (N, C, *output_size).

    Window i of a length L reaches from ⌊i·L / size⌋ to ⌈(i + 1)·L / size⌉; None keeps a length.
    """
    return _adaptive_avg_pool("adaptive_avg_pool2d", 2, input, output_size)


@functional
@composite(examples=_adaptive_avg_samples(3, 4, 2), method=False)
@takes_arrays
def adaptive_avg_pool3d(input, output_size: int | tuple[int | None, ...] | None):
    """The mean of each of `output_size` windows that cover the input: (N, C, D, H, W) → (N, C, *output_size).

    Window i of a length L reaches from ⌊i·L / size⌋ to ⌈(i + 1)·L / size⌉; None keeps a length.
    """
    return _adaptive_avg_pool("adaptive_avg_pool3d", 3, input, output_size)


@functional
@composite(examples=_lp_samples(5), method=False)
@takes_arrays
def lp_pool1d(
    input,
    norm_type: float,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    ceil_mode: bool = False,
):
    """(Σ xᵖ)^(1/p) of each window, p being `norm_type`: (N, C, L); windows as for `avg_pool1d`."""
    return _lp_pool("lp_pool1d", 1, input, norm_type, kernel_size, stride, ceil_mode)


@functional
@composite(examples=_lp_samples(4, 5), method=False)
@takes_arrays
def lp_pool2d(
    input,
    norm_type: float,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    ceil_mode: bool = False,
):
    """(Σ xᵖ)^(1/p) of each window, p being `norm_type`: (N, C, H, W); windows as for `avg_pool2d`."""
    return _lp_pool("lp_pool2d", 2, input, norm_type, kernel_size, stride, ceil_mode)


@functional
@composite(examples=_lp_samples(3, 4, 2), method=False)
@takes_arrays
def lp_pool3d(
    input,
    norm_type: float,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    ceil_mode: bool = False,
):
    """(Σ xᵖ)^(1/p) of each window, p being `norm_type`: (N, C, D, H, W); windows as for `avg_pool3d`."""
    return _lp_pool("lp_pool3d", 3, input, norm_type, kernel_size, stride, ceil_mode)


@functional
@takes_arrays
def max_unpool1d(
    input,
    indices,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    output_size: tuple[int, ...] | None = None,
):
    """Zeros, with the input at the `indices` of `max_pool1d(…, return_indices=True)`: (N, C, L).

    The result has (L - 1)·stride - 2·padding + kernel_size elements along a dimension of length L, or `output_size`.
    """
    return _max_unpool("max_unpool1d", 1, input, indices, kernel_size, stride, padding, output_size)


@functional
@takes_arrays
def max_unpool2d(
    input,
    indices,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    output_size: tuple[int, ...] | None = None,
):
    """Zeros, with the input at the `indices` of `max_pool2d(…, return_indices=True)`: (N, C, H, W).

    The result has (L - 1)·stride - 2·padding + kernel_size elements along a dimension of length L, or `output_size`.
    """
    return _max_unpool("max_unpool2d", 2, input, indices, kernel_size, stride, padding, output_size)


@functional
@takes_arrays
def max_unpool3d(
    input,
    indices,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    output_size: tuple[int, ...] | None = None,
):
    """Zeros, with the input at the `indices` of `max_pool3d(…, return_indices=True)`: (N, C, D, H, W).

    The result has (L - 1)·stride - 2·padding + kernel_size elements along a dimension of length L, or `output_size`.
    """
    return _max_unpool("max_unpool3d", 3, input, indices, kernel_size, stride, padding, output_size)
