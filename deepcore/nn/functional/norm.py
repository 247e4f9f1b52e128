"""Normalisation: batch, instance, group, layer, RMS and local response norm, and vectors of length 1."""

from __future__ import annotations

from deepcore.autograd import apply, mode
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.arithmetic import abs as abs_
from deepcore.ops.arithmetic import div, square
from deepcore.ops.arithmetic import pow as pow_
from deepcore.ops.comparison import clamp, where
from deepcore.ops.index import write
from deepcore.ops.norm import (
    batch_norm_p,
    batch_statistics,
    layer_norm_p,
    rms_norm_p,
    running_average,
    running_statistics,
)
from deepcore.ops.pool import window_sum_p
from deepcore.ops.reduction import amax
from deepcore.ops.reduction import sum as sum_
from deepcore.ops.registry import functional, takes_arrays
from deepcore.tensor import Tensor, from_raw, made


@functional
@takes_arrays
def batch_norm(
    input,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """(x - E[x]) / √(Var[x] + eps) · weight + bias per channel (dimension 1).

    `training`: E and Var are the batch's, and the running ones, if given, move towards them in place,
    running = (1 - momentum) · running + momentum · batch, with the unbiased variance. Otherwise E and Var are the
    running ones. (Ioffe and Szegedy, 2015)
    """
    shape = input.shape
    if len(shape) < 2:
        raise ShapeError("batch_norm needs a batch and a channel dimension", received=f"shape {shape}")
    if _narrow("batch_norm", input):
        weight, bias = _widened(weight), _widened(bias)
        out = batch_norm(_widened(input), running_mean, running_var, weight, bias, training, momentum, eps)
        return out.to(input.dtype)
    size = input.numel()
    if training and size:
        count = size // shape[1]
        if count == 1:
            raise ShapeError(
                "batch norm by the batch's own statistics needs more than one value per channel",
                received=f"shape {shape}",
                fix="a larger batch (drop_last=True in the DataLoader)"
                + ("" if running_mean is None else ", or model.eval(), which uses the running statistics"),
            )
        statistics = batch_statistics(input.detach(), eps=eps)
        if running_mean is not None and running_var is not None:
            keep = 1 - momentum
            for running, row, take in ((running_mean, 0, momentum), (running_var, 1, momentum * count / (count - 1))):
                batch = statistics[row] if mode.level is not None else from_raw(statistics._data[row], input.backend)
                if isinstance(momentum, Tensor):  # of a plain average, which changes from batch to batch
                    write(running, running.detach() * keep + (batch * take).to(running.dtype))
                else:
                    write(running, apply(running_average, (running, batch), {"keep": keep, "take": take}))
    elif training:  # an empty batch: no statistics, and the running ones are unchanged
        statistics = made(input.backend.ones((3, shape[1]), dtype=input.dtype), input.backend)
    else:
        if running_mean is None or running_var is None:
            raise ArgumentError("batch_norm outside training needs running_mean and running_var")
        running_stats = running_mean.detach(), running_var.detach()
        statistics = apply(running_statistics, running_stats, {"dtype": input.dtype, "eps": eps})
    return _with_parameters(batch_norm_p, (input, statistics), weight, bias, (shape[1],), 1, batch=training, eps=eps)


# Machine epsilon of the dtype that a norm computes in, by the dtype of its input.
_EPS = {dt.float16: 2.0**-23, dt.bfloat16: 2.0**-23, dt.float32: 2.0**-23, dt.float64: 2.0**-52}


def _narrow(name: str, input: Tensor) -> bool:
    """Whether the input is float16 or bfloat16, whose norms are computed in float32 and rounded once."""
    dtype = input.dtype
    if dtype == dt.float32 or dtype == dt.float64:
        return False
    if not dt.is_floating(dtype):
        raise DTypeError(f"{name} needs a floating tensor", received=dt.name_of(dtype), fix="input.float()")
    return dtype.itemsize == 2


def _widened(t):
    return t if t is None or t.dtype.itemsize > 2 else t.to(dt.float32)


def _like(t: Tensor, input: Tensor, shape: tuple) -> bool:
    raw = t._data
    return raw.shape == shape and raw.dtype == input._data.dtype


def _with_parameters(op, inputs: tuple, weight: Tensor | None, bias: Tensor | None, shape: tuple, dim: int, **params):
    """op(*inputs, weight, bias) where shape and dtype match; else weight and bias are applied by separate ops."""
    first = inputs[0]
    if weight is not None and _like(weight, first, shape) and (bias is None or _like(bias, first, shape)):
        return apply(op, (*inputs, weight) if bias is None else (*inputs, weight, bias), params)
    out = apply(op, inputs, params)
    if weight is None and bias is None:
        return out
    along = (*shape, *(1,) * (first.ndim - dim - len(shape)))
    if weight is not None:
        out = out * weight.reshape(along)
    return out if bias is None else out + bias.reshape(along)


def as_sizes(normalized_shape) -> tuple:
    """One size, or several, as a tuple."""
    return (normalized_shape,) if hasattr(normalized_shape, "__index__") else tuple(normalized_shape)


def _trailing(name: str, input: Tensor, normalized_shape) -> tuple[int, ...]:
    """`normalized_shape` as a tuple, checked against the input."""
    sizes = as_sizes(normalized_shape)
    if not sizes or input.shape[-len(sizes) :] != sizes:
        raise ShapeError(
            f"{name} normalises trailing dimensions {sizes}",
            expected="shape (*, " + ", ".join(map(str, sizes)) + ")",
            received=f"shape {input.shape}",
            fix=f"nn.{'LayerNorm' if name == 'layer_norm' else 'RMSNorm'}({input.shape[-1]}) takes this input"
            if input.shape
            else None,
        )
    return sizes


@functional
@takes_arrays
def layer_norm(input, normalized_shape, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5):
    """(x - E[x]) / √(Var[x] + eps) · weight + bias over the trailing dimensions `normalized_shape`.

    (Ba, Kiros and Hinton, 2016)
    """
    sizes = _trailing("layer_norm", input, normalized_shape)
    if _narrow("layer_norm", input):
        return layer_norm(_widened(input), sizes, _widened(weight), _widened(bias), eps).to(input.dtype)
    return _with_parameters(
        layer_norm_p, (input,), weight, bias, sizes, input.ndim - len(sizes), rank=len(sizes), eps=eps
    )


@functional
@takes_arrays
def rms_norm(input, normalized_shape, weight: Tensor | None = None, eps: float | None = None):
    """x / √(E[x²] + eps) · weight over the trailing dimensions `normalized_shape`.

    eps is the dtype's own (2⁻²³ for float32) unless given. (Zhang and Sennrich, 2019)
    """
    sizes = _trailing("rms_norm", input, normalized_shape)
    if eps is None:
        eps = _EPS.get(input.dtype, 0.0)
    if _narrow("rms_norm", input):
        return rms_norm(_widened(input), sizes, _widened(weight), eps).to(input.dtype)
    return _with_parameters(
        rms_norm_p, (input,), weight, None, sizes, input.ndim - len(sizes), rank=len(sizes), eps=eps
    )


def _per_channel(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """x · weight + bias, which have one number for each channel."""
    along = (-1, *(1,) * (x.ndim - 2))
    if weight is not None:
        x = x * weight.reshape(along)
    return x if bias is None else x + bias.reshape(along)


def _check_affine(name: str, channels: int, **parameters: Tensor | None) -> None:
    for what, t in parameters.items():
        if t is not None and t.shape != (channels,):
            raise ShapeError(
                f"{name}: {what} has one number for each channel", expected=f"({channels},)", received=f"{t.shape}"
            )


@functional
@takes_arrays
def group_norm(input, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5):
    """(x - E[x]) / √(Var[x] + eps) · weight + bias per channel, E and Var over each of `num_groups` parts of the channels.

    input (N, C, *), weight and bias (C,). (Wu and He, 2018)
    """
    shape = input.shape
    if len(shape) < 2 or isinstance(num_groups, bool) or not hasattr(num_groups, "__index__") or num_groups < 1:
        raise ShapeError(
            "group_norm takes an input (N, C, *) and a number of groups", received=f"shape {shape}, {num_groups=}"
        )
    if shape[1] % num_groups:
        raise ShapeError(
            f"group_norm: {num_groups} groups do not divide {shape[1]} channels", received=f"shape {shape}"
        )
    _check_affine("group_norm", shape[1], weight=weight, bias=bias)
    if _narrow("group_norm", input):
        return group_norm(_widened(input), num_groups, _widened(weight), _widened(bias), eps).to(input.dtype)
    if not input.numel():
        return _per_channel(input, weight, bias)
    rows = input.reshape((shape[0], num_groups, -1))
    out = apply(layer_norm_p, (rows,), {"rank": 1, "eps": eps}).reshape(shape)
    return _per_channel(out, weight, bias)


@functional
@takes_arrays
def instance_norm(
    input,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """(x - E[x]) / √(Var[x] + eps) · weight + bias per channel, E and Var over each sample's channel alone.

    input (N, C, *), weight and bias (C,). Running statistics, if given, move towards the mean over the samples, in place;
    without `use_input_stats` they serve as E and Var. (Ulyanov, Vedaldi and Lempitsky, 2016)
    """
    shape = input.shape
    if len(shape) < 3:
        raise ShapeError("instance_norm takes an input (N, C, *)", received=f"shape {shape}")
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    count = input.numel() // max(shape[0] * shape[1], 1)
    if count == 1:
        raise ShapeError(
            "instance_norm needs more than one element per channel",
            received=f"shape {shape}",
            fix="a larger image, or group_norm, whose groups may have several channels",
        )
    if running_mean is not None and running_var is not None and input.numel():
        rows = _widened(input.detach()).reshape((shape[0], shape[1], count))
        params = {"keep": 1 - momentum, "take": momentum}
        for running, now in ((running_mean, rows.mean(2)), (running_var, rows.var(2))):
            write(running, apply(running_average, (running, now.mean(0).to(running.dtype)), params))
    return group_norm(input, shape[1], weight, bias, eps)


@functional
@takes_arrays
def local_response_norm(input, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x / (k + alpha · E[x²])^beta, E over `size` neighbouring channels; input (N, C, *). (Krizhevsky et al., 2012)"""
    shape = input.shape
    if len(shape) < 3:
        raise ShapeError("local_response_norm takes an input (N, C, *)", received=f"shape {shape}")
    if isinstance(size, bool) or not hasattr(size, "__index__") or size < 1:
        raise ArgumentError("local_response_norm: size is a whole number of at least 1", received=repr(size))
    if not input.numel():
        return input
    planes = square(input).reshape((shape[0], 1, shape[1], -1))
    params = {
        "size": (size, 1), "stride": (1, 1), "padding": ((size // 2, (size - 1) // 2), (0, 0)), "where": planes.shape[2:],
    }  # fmt: skip
    total = apply(window_sum_p, (planes,), params).reshape(shape)
    mean = div(total, size, rounding_mode=None if dt.is_floating(total.dtype) else "trunc")
    return input / pow_(mean * alpha + k, beta)


@functional
@takes_arrays
def normalize(input, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(‖x‖ₚ, eps) along `dim`."""
    if p == float("inf"):
        norm = amax(abs_(input), dim, keepdim=True)
    elif p == 0:
        norm = sum_((input != 0).to(dt.real_of(input.dtype)), dim, keepdim=True)
    elif input.ndim and input.shape[dim] == 1:
        norm = abs_(input)  # without the rounding of powers
    else:
        total = sum_(
            square(abs_(input) if input.is_complex() else input) if p == 2 else pow_(abs_(input), p), dim, keepdim=True
        )
        nonzero = total > 0  # the root's slope at 0 is infinite
        norm = where(nonzero, pow_(where(nonzero, total, 1.0), 1.0 / p), 0.0)
    return input / clamp(norm, min=eps)
