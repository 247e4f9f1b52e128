"""Normalisation: batch, layer and RMS norm, and vectors of length 1."""

from __future__ import annotations

from deepcore.autograd import apply
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.arithmetic import abs as abs_
from deepcore.ops.arithmetic import pow as pow_
from deepcore.ops.arithmetic import square
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
    momentum: float = 0.1,
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
                batch = from_raw(statistics._data[row], input.backend)
                write(running, apply(running_average, (running, batch), {"keep": keep, "take": take}))
    elif training:  # an empty batch: no statistics, and the running ones are unchanged
        statistics = made(input.backend.ones((3, shape[1]), dtype=input.dtype), input.backend)
    else:
        if running_mean is None or running_var is None:
            raise ArgumentError("batch_norm outside training needs running_mean and running_var")
        running_stats = running_mean.detach(), running_var.detach()
        statistics = apply(running_statistics, running_stats, {"dtype": input.dtype, "eps": eps})
    return _with_parameters(batch_norm_p, (input, statistics), weight, bias, (shape[1],), 1, batch=training, eps=eps)


# Machine epsilon of each dtype.
_EPS = {dt.float16: 2.0**-10, dt.bfloat16: 2.0**-7, dt.float32: 2.0**-23, dt.float64: 2.0**-52}


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


@functional
@takes_arrays
def normalize(input, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(‖x‖ₚ, eps) along `dim`."""
    if p == float("inf"):
        norm = amax(abs_(input), dim, keepdim=True)
    elif p == 0:
        norm = sum_((input != 0).to(input.dtype), dim, keepdim=True)
    elif input.ndim and input.shape[dim] == 1:
        norm = abs_(input)  # without the rounding of powers
    else:
        total = sum_(square(input) if p == 2 else pow_(abs_(input), p), dim, keepdim=True)
        nonzero = total > 0  # the root's slope at 0 is infinite
        norm = where(nonzero, pow_(where(nonzero, total, 1.0), 1.0 / p), 0.0)
    return input / clamp(norm, min=eps)
