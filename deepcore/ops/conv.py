"""Convolution and its transpose over one to three dimensions, patches of images, and their gradients.

Three primitives serve all ranks: each is linear in both operands, and their gradients are each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from deepcore.autograd import apply, constant, mixed_backends
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.index import basic
from deepcore.ops.parts import complex_p, imag_p, real_p
from deepcore.ops.registry import Tensor, cast, composite, functional, is_half, primitive, sample, takes_arrays
from deepcore.ops.shape import pad, permute_p, reshape_p, stack, unsqueeze

# Parameters of all primitives: stride and dilation have a number for each dimension, padding a pair (before, after).


def _taps(xp, image, size, where, stride, padding, dilation):
    """For each tap of the filter, the part of the padded image (a view) that it meets at all positions."""
    if any(map(any, padding)):
        shape = (*image.shape[:2], *(n + low + high for n, (low, high) in zip(image.shape[2:], padding)))
        inner = tuple(slice(low, low + n) for n, (low, _) in zip(image.shape[2:], padding))
        padded = xp.zeros(shape, dtype=image.dtype)
        padded[(slice(None), slice(None), *inner)] = image
    else:
        padded = image
    return [padded[(slice(None), slice(None), *place)] for place in _slices(size, where, stride, dilation)]


def _slices(size, where, stride, dilation) -> list[tuple[slice, ...]]:
    """For each tap, in row order, the places of a padded image that it meets."""
    places: list[tuple[slice, ...]] = [()]
    for taps, n, s, d in zip(size, where, stride, dilation):
        along = [slice(k * d, k * d + s * (n - 1) + 1, s) for k in range(taps)]
        places = [(*place, at) for place in places for at in along]
    return places


def _gathered(xp, image, size, where, stride, padding, dilation, groups: int):
    """The image as a matrix for each sample and group: (n, groups, channels · taps, positions)."""
    parts = _taps(xp, image, size, where, stride, padding, dilation)
    n, c = image.shape[:2]
    return xp.stack(parts, 2).reshape(n, groups, c // groups * math.prod(size), math.prod(where))


def _spread(xp, columns, size, taps, where, stride, padding, dilation):
    """The transpose of `_gathered`: what each tap, (n, channels, taps, positions …), adds to an image of `size`."""
    shape = tuple(n + low + high for n, (low, high) in zip(size, padding))
    padded = xp.zeros((*columns.shape[:2], *shape), dtype=columns.dtype)
    for tap, place in enumerate(_slices(taps, where, stride, dilation)):
        padded[(slice(None), slice(None), *place)] += columns[:, :, tap]
    inner = tuple(slice(low, low + n) for n, (low, _) in zip(size, padding))
    return padded[(slice(None), slice(None), *inner)]


def positions(shape, size, stride, padding, dilation) -> tuple[int, ...]:
    """How many positions a filter of `size` has along each dimension of an image of this shape."""
    return tuple(
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(shape[2:], size, stride, padding, dilation)
    )  # fmt: skip


def _merged(t: Tensor, m: bool, size: int) -> Tensor:
    """(batch, n, channels, …) as (n, batch · channels, …)."""
    t = t.movedim(0, 1) if m else t.unsqueeze(1).expand((t.shape[0], size, *t.shape[1:]))
    return t.reshape(t.shape[0], size * t.shape[2], *t.shape[3:])


def _conv_batch(op, inputs, mapped, params, size):
    """Examples are further images, or where they have filters of their own, further groups of channels."""
    image, weight, *bias = inputs
    if not mapped[1]:
        apart = any(mapped[2:])
        flat = image.reshape(size * image.shape[1], *image.shape[2:]) if mapped[0] else image
        out = apply(op, (flat, weight) if apart else (flat, weight, *bias), params)
        if mapped[0]:
            out = out.reshape(size, image.shape[1], *out.shape[1:])
        return out + bias[0].reshape(size, 1, -1, *(1,) * (weight.ndim - 2)) if apart else out
    filters = weight.reshape(size * weight.shape[1], *weight.shape[2:])
    bias = [(b if m else b.unsqueeze(0).expand((size, *b.shape))).reshape(-1) for b, m in zip(bias, mapped[2:])]
    if not mapped[0] and op is conv_p and params["groups"] == 1:
        out = apply(op, (image, filters, *bias), params)
    else:
        groups = {**params, "groups": params["groups"] * size}
        out = apply(op, (_merged(image, mapped[0], size), filters, *bias), groups)
    return out.reshape(out.shape[0], size, out.shape[1] // size, *out.shape[2:]).movedim(1, 0)


def _conv_weight_batch(op, inputs, mapped, params, size):
    merged = tuple(_merged(t, m, size) for t, m in zip(inputs, mapped))
    out = apply(op, merged, {**params, "groups": params["groups"] * size})
    return out.reshape(size, out.shape[0] // size, *out.shape[1:])


def _to_input(g, weight, input_shape, stride, padding, dilation, groups):
    return conv_input_p(
        g, weight, size=input_shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def _to_weight(g, input, weight_shape, stride, padding, dilation, groups):
    return conv_weight_p(
        input, g, size=weight_shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
    )


@primitive(vjp=(_to_input, _to_weight, lambda g: g.sum((0, *range(2, g.ndim)))), batch=_conv_batch, jvp="product")
def conv_p(xp, input, weight, bias=None, *, stride, padding, dilation, groups):
    channels, depth, *size = weight.shape
    where = positions(input.shape, size, stride, padding, dilation)
    columns = _gathered(xp, input, size, where, stride, padding, dilation, groups)
    rows = weight.reshape(groups, channels // groups, depth * math.prod(size))
    out = xp.matmul(rows, columns).reshape(len(input), channels, *where)
    return out if bias is None else out + bias.reshape(-1, *(1,) * len(size))


@primitive(
    vjp=(
        lambda g, weight, stride, padding, dilation, groups: conv_p(
            g, weight, stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
        lambda g, input, weight_shape, stride, padding, dilation, groups: _to_weight(
            input, g, weight_shape, stride, padding, dilation, groups
        ),
    ),
    batch=_conv_batch,
    jvp="product",
)
def conv_input_p(xp, input, weight, *, size, stride, padding, dilation, groups):
    """The gradient of a convolved image of this `size`, by the result's gradient `input`: the transposed convolution."""
    (channels, depth, *taps), (n, _, *where) = weight.shape, input.shape
    rows = weight.reshape(groups, channels // groups, depth * math.prod(taps)).swapaxes(1, 2)
    columns = xp.matmul(rows, input.reshape(n, groups, channels // groups, math.prod(where)))
    columns = columns.reshape(n, groups * depth, math.prod(taps), *where)
    return _spread(xp, columns, size, taps, where, stride, padding, dilation)


@primitive(
    vjp=(
        lambda g, other, input_shape, stride, padding, dilation, groups: _to_input(
            other, g, input_shape, stride, padding, dilation, groups
        ),
        lambda g, input, stride, padding, dilation, groups: conv_p(
            input, g, stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
    ),
    batch=_conv_weight_batch,
    jvp="product",
)
def conv_weight_p(xp, input, other, *, size, stride, padding, dilation, groups):
    """The gradient of filters of this `size` over the image `input`, by the result's gradient `other`."""
    n, channels, *where = other.shape
    columns = _gathered(xp, input, size, where, stride, padding, dilation, groups)
    depth, length = input.shape[1] // groups, n * math.prod(where)
    columns = columns.transpose(1, 0, 3, 2).reshape(groups, length, depth * math.prod(size))
    rows = other.reshape(n, groups, channels // groups, math.prod(where)).transpose(1, 2, 0, 3)
    out = xp.matmul(rows.reshape(groups, channels // groups, length), columns)
    return out.reshape(channels, depth, *size)


@primitive(
    vjp=lambda g, input_shape, size, stride, padding, dilation: fold_p(
        g, size=input_shape[2:], taps=size, stride=stride, padding=padding, dilation=dilation
    ),
    batch="rows",
    jvp="linear",
)
def unfold_p(xp, input, *, size, stride, padding, dilation):
    """(n, channels, taps, positions …) of the patches that a filter of `size` meets."""
    where = positions(input.shape, size, stride, padding, dilation)
    return xp.stack(_taps(xp, input, size, where, stride, padding, dilation), 2)


@primitive(
    vjp=lambda g, taps, stride, padding, dilation: unfold_p(
        g, size=taps, stride=stride, padding=padding, dilation=dilation
    ),
    batch="rows",
    jvp="linear",
)
def fold_p(xp, input, *, size, taps, stride, padding, dilation):
    """The sum of patches, each at its place of an image of `size`."""
    return _spread(xp, input, size, taps, input.shape[3:], stride, padding, dilation)


# -- arguments ----------------------------------------------------------------------------------------------------------


def numbers(name: str, argument: str, value, count: int, least: int) -> tuple[int, ...]:
    """A whole number for each of `count` dimensions, of one for all or a sequence."""
    given = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    given = given * count if len(given) == 1 else given
    if len(given) != count or any(isinstance(n, bool) or not hasattr(n, "__index__") or n < least for n in given):
        several = "" if count == 1 else ", or a pair of such" if count == 2 else f", or {count} of such"
        raise ArgumentError(
            f"{name}: {argument} is a whole number of at least {least}{several}", received=f"{argument}={value!r}"
        )
    return tuple(map(int, given))


def paddings(name: str, padding, size, stride, dilation) -> tuple[tuple[int, int], ...]:
    """(before, after) for each dimension, of numbers, "valid" or "same"."""
    if padding == "valid":
        return ((0, 0),) * len(size)
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ArgumentError(
                f'{name}: padding "same" is for stride 1', received=f"stride={stride}", fix="padding=kernel_size // 2"
            )
        both = [d * (k - 1) for k, d in zip(size, dilation)]
        return tuple((total // 2, total - total // 2) for total in both)
    if isinstance(padding, str):
        raise ArgumentError(
            f"{name}: unknown padding", expected='whole numbers, "valid" or "same"', received=repr(padding)
        )
    return tuple((n, n) for n in numbers(name, "padding", padding, len(size), 0))


def _operands(name: str, input, weight, bias) -> list[Tensor]:
    operands = [constant(name, t) for t in ((input, weight) if bias is None else (input, weight, bias))]
    image = operands[0]
    if any(t.backend is not image.backend for t in operands):
        raise mixed_backends(name, operands)
    if any(t.dtype != image.dtype for t in operands) or image.dtype == dt.bool_:
        raise DTypeError(
            f"{name} takes an image and parameters of one dtype of numbers",
            received=" and ".join(dt.name_of(t.dtype) for t in operands),
            fix="input.float()" if image.dtype == dt.bool_ else f"input.to({dt.name_of(operands[1].dtype)!r})",
        )
    return operands


_SIZES = {1: "L", 2: "H, W", 3: "D, H, W"}
_KERNELS = {1: "k", 2: "kh, kw", 3: "kd, kh, kw"}


def _check(name: str, rank: int, image, weight, bias, groups, transposed: bool = False) -> None:
    channels = "in, out / groups" if transposed else "out, in / groups"
    if len(weight) != rank + 2 or not all(weight):
        raise ShapeError(
            f"{name} needs filters of shape ({channels}, {_KERNELS[rank]}), none of them 0", received=f"shape {weight}"
        )
    if isinstance(groups, bool) or not hasattr(groups, "__index__") or groups < 1 or weight[0] % groups:
        raise ArgumentError(
            f"{name}: groups is a whole number that divides the number of "
            + ("input channels" if transposed else "filters"),
            received=f"groups={groups!r} and {weight[0]} {'input channels' if transposed else 'filters'}",
        )
    wanted = weight[0] if transposed else weight[1] * groups
    if len(image) not in (rank + 1, rank + 2) or image[-rank - 1] != wanted:
        sizes = _SIZES[rank]
        raise ShapeError(
            f"{name} expects {wanted} channels", expected=f"shape (N, {wanted}, {sizes}) or ({wanted}, {sizes})",
            received=f"shape {image}", fix=_fix(name, rank, image, wanted, groups),
        )  # fmt: skip
    filters = weight[1] * groups if transposed else weight[0]
    if bias is not None and bias != (filters,):
        raise ShapeError(f"{name}: the bias has a number for each filter", expected=f"({filters},)", received=f"{bias}")


def _fix(name: str, rank: int, image, wanted: int, groups: int) -> str:
    if len(image) == rank + 2 and image[-1] == wanted:
        order = ", ".join(map(str, (0, rank + 1, *range(1, rank + 1))))
        return f"images of shape (N, {_SIZES[rank]}, C) are put in order by x.permute({order})"
    if wanted == 1 and len(image) in (rank, rank + 1):
        return f"a channel dimension: x.unsqueeze({len(image) - rank})"
    if len(image) in (rank + 1, rank + 2):
        layer = "".join(word.capitalize() for word in name.split("_"))
        return f"{layer}({image[-rank - 1]}, …)" + (", or other groups" if groups > 1 else "")
    return f"x.reshape(N, C, {_SIZES[rank]})"


def _check_size(name: str, image, size, padding, dilation) -> None:
    padded = [n + sum(p) for n, p in zip(image[2:], padding)]
    reach = [d * (k - 1) + 1 for k, d in zip(size, dilation)]
    if any(n < k for n, k in zip(padded, reach)):
        raise ShapeError(
            f"{name}: the filter is larger than the padded image", expected=f"at least {tuple(reach)}",
            received=f"an image of {tuple(padded)} with padding", fix="more padding, a smaller kernel, or fewer strides before",
        )  # fmt: skip


def _computed(op, operands: list[Tensor], params: dict) -> Tensor:
    """The op; 16-bit floats are summed in float32 and rounded once."""
    dtype = operands[0].dtype
    if not is_half(operands[0]):
        return apply(op, tuple(operands), params)
    return cast(apply(op, tuple(cast(t, dt.float32) for t in operands), params), dtype)


# -- convolution --------------------------------------------------------------------------------------------------------


def _of_parts(convolve: Callable[..., Tensor], image: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution of complex numbers by four of their parts."""
    (a, b), (c, d) = ((real_p(t), imag_p(t)) for t in (image, weight))
    first, second = (None, None) if bias is None else (real_p(bias), imag_p(bias))
    return complex_p(convolve(a, c, first) - convolve(b, d, None), convolve(a, d, second) + convolve(b, c, None))


def _conv(name: str, rank: int, input, weight, bias, stride, padding, dilation, groups) -> Tensor:
    operands = _operands(name, input, weight, bias)
    image, filters = operands[:2]
    if image._data.dtype.kind == "c":
        return _of_parts(lambda x, w, b: _conv(name, rank, x, w, b, stride, padding, dilation, groups), *operands)
    steps, spread = numbers(name, "stride", stride, rank, 1), numbers(name, "dilation", dilation, rank, 1)
    _check(name, rank, image.shape, filters.shape, None if bias is None else operands[2].shape, groups)
    around = paddings(name, padding, filters.shape[2:], steps, spread)
    batched = image.ndim == rank + 2
    if not batched:
        operands[0] = reshape_p(image, shape=(1, *image.shape))
    _check_size(name, operands[0].shape, filters.shape[2:], around, spread)
    if rank == 1:  # by the kernels of two dimensions
        operands[:2] = [unsqueeze(t, 2) for t in operands[:2]]
        steps, spread, around = (1, *steps), (1, *spread), ((0, 0), *around)
    if rank == 3:
        return _in_shape(_by_slices(operands, steps, around, spread, groups), rank, batched)
    params = {"stride": steps, "padding": around, "dilation": spread, "groups": groups}
    return _in_shape(_computed(conv_p, operands, params), rank, batched)


def _by_slices(operands: list[Tensor], stride, padding, dilation, groups) -> Tensor:
    """Three dimensions by the kernels of two: the slices that a filter meets along the first are further channels."""
    image, weight, *bias = operands
    (filters, depth, taps, *size), (low, high) = weight.shape, padding[0]
    if low or high:
        image = pad(image, (0, 0, 0, 0, low, high))
    n, channels, length, h, w = image.shape
    count = (length - dilation[0] * (taps - 1) - 1) // stride[0] + 1
    slices = permute_p(image, order=(0, 2, 1, 3, 4))
    met = [
        basic(slices, index=(slice(None), slice(start := k * dilation[0], start + stride[0] * (count - 1) + 1, stride[0])))
        for k in range(taps)
    ]  # fmt: skip
    image = reshape_p(stack(met, 3), shape=(n * count, channels * taps, h, w))
    weight = reshape_p(weight, shape=(filters, depth * taps, *size))
    params = {"stride": stride[1:], "padding": padding[1:], "dilation": dilation[1:], "groups": groups}
    out = _computed(conv_p, [image, weight, *bias], params)
    return permute_p(reshape_p(out, shape=(n, count, *out.shape[1:])), order=(0, 2, 1, 3, 4)).contiguous()


def _in_shape(out: Tensor, rank: int, batched: bool) -> Tensor:
    """Without the dimensions that were added."""
    shape = out.shape if batched else out.shape[1:]
    if rank == 1:
        shape = (*shape[:-2], shape[-1])
    return out if shape == out.shape else reshape_p(out, shape=shape)


def _examples_1d(make):
    x, w = make(2, 4, 7), make(6, 2, 3)
    return [
        sample(x, make(3, 4, 2), make(3), stride=2, padding=1),
        sample(x, w, make(6), padding="same", dilation=2, groups=2),
        sample(make(1, 5), make(2, 1, 5)),
    ]


@functional
@composite(examples=_examples_1d, method=False)
def conv1d(
    input,
    weight,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
):
    """out[n, o, t] = bias[o] + Σ weight[o, c, i] · input[n, c, t·stride + i·dilation - padding]

    input (N, C, L) or (C, L), weight (out, C / groups, k), bias (out,); result (N, out, L') with
    L' = ⌊(L + 2·padding - dilation·(k - 1) - 1) / stride⌋ + 1. The rest is as for `conv2d`.
    """
    return _conv("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


def _examples_2d(make):
    x, w = make(2, 2, 4, 3), make(2, 2, 2, 2)
    return [
        sample(x, w, make(2)),
        sample(make(1, 2, 3, 3), make(1, 2, 2, 1)),
        sample(make(1, 1, 3, 3), make(1, 1, 2, 2), make(1)),
        sample(x, w, stride=2, padding=1),
        sample(x, w, make(2), stride=(1, 2), padding=(0, 2), dilation=(2, 1)),
        sample(make(2, 6, 5, 2), make(6, 1, 2, 2), groups=6, padding="same"),
        sample(make(1, 6, 2, 5), make(6, 2, 1, 2), make(6), groups=3, padding="valid"),
        sample(make(2, 3, 3), make(1, 2, 3, 1), padding=1, dilation=2),
        sample(make(0, 2, 3, 3), make(2, 2, 2, 2), make(2)),
    ]


@functional
@composite(examples=_examples_2d, method=False)
def conv2d(
    input,
    weight,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
):
    """out[n, o, y, x] = bias[o] + Σ weight[o, c, i, j] · input[n, c, y·stride + i·dilation - padding, x·… + j·… - …]

    input (N, C, H, W) or (C, H, W), weight (out, C / groups, kh, kw), bias (out,); result (N, out, H', W') with
    H' = ⌊(H + 2·padding - dilation·(kh - 1) - 1) / stride⌋ + 1. Zeros surround the image; `padding`: numbers, "valid" (none)
    or "same" (the result has the image's size; stride 1 only). `groups`: each part of the channels has its own filters.
    """
    return _conv("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


def _examples_3d(make):
    return [
        sample(make(1, 2, 2, 5, 4), make(2, 2, 2, 1, 2), make(2), padding=(1, 0, 1)),
        sample(make(2, 3, 2, 4), make(2, 1, 2, 2, 2), stride=(1, 1, 2), padding=1, dilation=(2, 1, 1), groups=2),
    ]


@functional
@composite(examples=_examples_3d, method=False)
def conv3d(
    input,
    weight,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
):
    """out[n, o, z, y, x] = bias[o] + Σ weight[o, c, h, i, j] · input[n, c, z·stride + h·dilation - padding, y·…, x·…]

    input (N, C, D, H, W) or (C, D, H, W), weight (out, C / groups, kd, kh, kw), bias (out,); result (N, out, D', H', W')
    with D' = ⌊(D + 2·padding - dilation·(kd - 1) - 1) / stride⌋ + 1. The rest is as for `conv2d`.
    """
    return _conv("conv3d", 3, input, weight, bias, stride, padding, dilation, groups)


# -- transposed convolution ---------------------------------------------------------------------------------------------


def _conv_transpose(name: str, rank: int, input, weight, bias, stride, padding, output_padding, groups, dilation):
    operands = _operands(name, input, weight, bias)
    image, filters = operands[:2]
    if image._data.dtype.kind == "c":
        others = stride, padding, output_padding, groups, dilation
        return _of_parts(lambda x, w, b: _conv_transpose(name, rank, x, w, b, *others), *operands)
    steps, spread = numbers(name, "stride", stride, rank, 1), numbers(name, "dilation", dilation, rank, 1)
    cut = numbers(name, "padding", padding, rank, 0)
    extra = numbers(name, "output_padding", output_padding, rank, 0)
    _check(name, rank, image.shape, filters.shape, None if bias is None else operands[2].shape, groups, transposed=True)
    if any(e >= max(s, d) for e, s, d in zip(extra, steps, spread)):
        raise ArgumentError(
            f"{name}: output_padding is below the stride or the dilation",
            received=f"output_padding={output_padding}, stride={stride}, dilation={dilation}",
        )
    taps, batched = filters.shape[2:], image.ndim == rank + 2
    sizes = image.shape[-rank:]
    size = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(sizes, steps, cut, spread, taps, extra)
    )  # fmt: skip
    if any(n < 1 for n in size) or 0 in sizes:
        raise ShapeError(
            f"{name}: nothing is left of the result", expected="at least 1 in each dimension",
            received=f"{size}, of an image of {sizes}", fix="less padding, or a larger image",
        )  # fmt: skip
    # An output_padding of a stride or more cuts less at the end, and nothing reaches what lies beyond that.
    cut_after = tuple(p if e < s else max(p - e, 0) for p, e, s in zip(cut, extra, steps))
    beyond = tuple(0 if e < s else max(e - p, 0) for p, e, s in zip(cut, extra, steps))
    around, size = tuple(zip(cut, cut_after)), tuple(n - b for n, b in zip(size, beyond))
    if not batched:
        operands[0] = reshape_p(image, shape=(1, *image.shape))
    if rank == 1:
        operands[:2] = [unsqueeze(t, 2) for t in operands[:2]]
        steps, spread, around, size = (1, *steps), (1, *spread), ((0, 0), *around), (1, *size)
    params = {"size": size, "stride": steps, "padding": around, "dilation": spread, "groups": groups}
    out = _computed(conv_input_p, operands[:2], params)
    if any(beyond):
        out = pad(out, [n for b in reversed(beyond) for n in (0, b)])
    if bias is not None:
        out = out + reshape_p(operands[2], shape=(-1, *(1,) * (out.ndim - 2)))
    return _in_shape(out, rank, batched)


def _transposed_examples_1d(make):
    return [
        sample(make(2, 4, 5), make(4, 3, 2), make(3), stride=2, padding=1, output_padding=1),
        sample(make(2, 4), make(2, 2, 3), groups=2, dilation=2),
    ]


@functional
@composite(examples=_transposed_examples_1d, method=False)
def conv_transpose1d(
    input,
    weight,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    output_padding: int | tuple[int, ...] = 0,
    groups: int = 1,
    dilation: int | tuple[int, ...] = 1,
):
    """The transpose of `conv1d`: out[n, o, t·stride + i·dilation - padding] += weight[c, o, i] · input[n, c, t], plus bias[o].

    input (N, C, L) or (C, L), weight (C, out / groups, k), bias (out,); result (N, out, L') with
    L' = (L - 1)·stride - 2·padding + dilation·(k - 1) + output_padding + 1.
    """
    return _conv_transpose(
        "conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def _transposed_examples_2d(make):
    return [
        sample(make(2, 3, 3, 2), make(3, 2, 2, 3), make(2)),
        sample(make(1, 4, 3, 3), make(4, 2, 3, 2), make(4), stride=(2, 3), padding=1, output_padding=(1, 2), groups=2),
        sample(make(2, 2, 3), make(2, 1, 2, 2), dilation=2, padding=(0, 1)),
    ]


@functional
@composite(examples=_transposed_examples_2d, method=False)
def conv_transpose2d(
    input,
    weight,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    output_padding: int | tuple[int, ...] = 0,
    groups: int = 1,
    dilation: int | tuple[int, ...] = 1,
):
    """The transpose of `conv2d`: its gradient with respect to the image, plus bias.

    input (N, C, H, W) or (C, H, W), weight (C, out / groups, kh, kw), bias (out,); result (N, out, H', W') with
    H' = (H - 1)·stride - 2·padding + dilation·(kh - 1) + output_padding + 1.
    """
    return _conv_transpose(
        "conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def _transposed_examples_3d(make):
    return [
        sample(make(1, 2, 2, 3, 2), make(2, 3, 2, 1, 2), make(3), stride=(2, 1, 1), output_padding=(1, 0, 0)),
        sample(make(2, 2, 2, 3), make(2, 2, 1, 2, 3), padding=(0, 1, 1), groups=2),
    ]


@functional
@composite(examples=_transposed_examples_3d, method=False)
def conv_transpose3d(
    input,
    weight,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    output_padding: int | tuple[int, ...] = 0,
    groups: int = 1,
    dilation: int | tuple[int, ...] = 1,
):
    """The transpose of `conv3d`: its gradient with respect to the image, plus bias.

    input (N, C, D, H, W) or (C, D, H, W), weight (C, out / groups, kd, kh, kw), bias (out,); result (N, out, D', H', W')
    with D' = (D - 1)·stride - 2·padding + dilation·(kd - 1) + output_padding + 1.
    """
    return _conv_transpose(
        "conv_transpose3d", 3, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


# -- patches ------------------------------------------------------------------------------------------------------------


def _patches(name: str, kernel_size, dilation, padding, stride) -> dict:
    size = numbers(name, "kernel_size", kernel_size, 2, 1)
    around = tuple((n, n) for n in numbers(name, "padding", padding, 2, 0))
    return {
        "size": size, "stride": numbers(name, "stride", stride, 2, 1), "padding": around,
        "dilation": numbers(name, "dilation", dilation, 2, 1),
    }  # fmt: skip


@functional
@takes_arrays
def unfold(
    input,
    kernel_size: int | tuple[int, ...],
    dilation: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    stride: int | tuple[int, ...] = 1,
):
    """The patches that a filter of `kernel_size` meets, as columns: (N, C, H, W) → (N, C · kh · kw, positions)."""
    params = _patches("unfold", kernel_size, dilation, padding, stride)
    if input.ndim not in (3, 4):
        raise ShapeError("unfold takes images", expected="(N, C, H, W) or (C, H, W)", received=f"shape {input.shape}")
    image = input if input.ndim == 4 else reshape_p(input, shape=(1, *input.shape))
    _check_size("unfold", image.shape, params["size"], params["padding"], params["dilation"])
    n, channels, taps, *where = (out := apply(unfold_p, (image,), params)).shape
    shape = (n, channels * taps, math.prod(where))
    return reshape_p(out, shape=shape if input.ndim == 4 else shape[1:])


@functional
@takes_arrays
def fold(
    input,
    output_size: int | tuple[int, ...],
    kernel_size: int | tuple[int, ...],
    dilation: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    stride: int | tuple[int, ...] = 1,
):
    """The sum of patches at their places, the transpose of `unfold`: (N, C · kh · kw, positions) → (N, C, H, W)."""
    params = _patches("fold", kernel_size, dilation, padding, stride)
    size = numbers("fold", "output_size", output_size, 2, 1)
    taps = params.pop("size")
    _check_size("fold", (0, 0, *size), taps, params["padding"], params["dilation"])
    where = positions((0, 0, *size), taps, params["stride"], params["padding"], params["dilation"])
    batched, count = input.ndim == 3, math.prod(taps)
    if input.ndim not in (2, 3) or input.shape[-2] % count or input.shape[-1] != math.prod(where):
        raise ShapeError(
            f"fold takes {math.prod(where)} patches of a multiple of {count} elements for an image of {size}",
            expected=f"(N, C · {count}, {math.prod(where)})", received=f"shape {input.shape}",
        )  # fmt: skip
    n, channels = input.shape[0] if batched else 1, input.shape[-2] // count
    patches = reshape_p(input, shape=(n, channels, count, *where))
    out = apply(fold_p, (patches,), {"size": size, "taps": taps, **params})
    return out if batched else reshape_p(out, shape=out.shape[1:])


# -- rearranged channels ------------------------------------------------------------------------------------------------


def _leading(name: str, input, factor: int, rank: int) -> None:
    if isinstance(factor, bool) or not hasattr(factor, "__index__") or factor < 1:
        raise ArgumentError(f"{name} takes a whole number of at least 1", received=repr(factor))
    if input.ndim < rank:
        raise ShapeError(f"{name} takes images", expected="(*, C, H, W)", received=f"shape {input.shape}")


@functional
@composite(examples=lambda make: [sample(make(2, 8, 2, 3), 2), sample(make(9, 1, 2), 3)], method=False)
@takes_arrays
def pixel_shuffle(input, upscale_factor: int):
    """out[…, c, y·r + i, x·r + j] = input[…, (c·r + i)·r + j, y, x]: (*, C·r², H, W) → (*, C, H·r, W·r).

    (Shi et al., 2016)
    """
    _leading("pixel_shuffle", input, r := upscale_factor, 3)
    *batch, channels, h, w = input.shape
    if channels % (r * r):
        raise ShapeError(f"pixel_shuffle by {r} needs a multiple of {r * r} channels", received=f"shape {input.shape}")
    b = len(batch)
    parts = reshape_p(input, shape=(*batch, channels // (r * r), r, r, h, w))
    parts = permute_p(parts, order=(*range(b + 1), b + 3, b + 1, b + 4, b + 2))
    return reshape_p(parts, shape=(*batch, channels // (r * r), h * r, w * r))


@functional
@composite(examples=lambda make: [sample(make(2, 2, 4, 6), 2), sample(make(1, 3, 6), 3)], method=False)
@takes_arrays
def pixel_unshuffle(input, downscale_factor: int):
    """The inverse of `pixel_shuffle`: (*, C, H·r, W·r) → (*, C·r², H, W)."""
    _leading("pixel_unshuffle", input, r := downscale_factor, 3)
    *batch, channels, h, w = input.shape
    if h % r or w % r:
        raise ShapeError(
            f"pixel_unshuffle by {r} needs height and width that are multiples of it",
            received=f"shape {input.shape}",
        )
    b = len(batch)
    parts = reshape_p(input, shape=(*batch, channels, h // r, r, w // r, r))
    parts = permute_p(parts, order=(*range(b + 1), b + 2, b + 4, b + 1, b + 3))
    return reshape_p(parts, shape=(*batch, channels * r * r, h // r, w // r))


@functional
@composite(examples=lambda make: [sample(make(2, 6, 2, 2), 3), sample(make(1, 4, 3), 2)], method=False)
@takes_arrays
def channel_shuffle(input, groups: int):
    """out[n, i·groups + g] = input[n, g·(C / groups) + i]: channels of all groups take turns. (Zhang et al., 2018)"""
    _leading("channel_shuffle", input, groups, 3)
    n, channels, *rest = input.shape
    if channels % groups:
        raise ShapeError(
            f"channel_shuffle: {groups} groups do not divide {channels} channels", received=f"shape {input.shape}"
        )
    parts = reshape_p(input, shape=(n, groups, channels // groups, *rest))
    parts = permute_p(parts, order=(0, 2, 1, *range(3, parts.ndim)))
    return reshape_p(parts, shape=input.shape)
