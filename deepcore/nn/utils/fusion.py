"""Batch norm with its running statistics folded into the layer before it, for inference."""

from __future__ import annotations

import copy
from typing import TypeVar

from deepcore.autograd import no_grad
from deepcore.errors import ArgumentError
from deepcore.nn.modules.module import Module
from deepcore.nn.parameter import Parameter
from deepcore.ops.arithmetic import rsqrt
from deepcore.tensor import Tensor, zeros_like

_Layer = TypeVar("_Layer", bound=Module)


def fuse_conv_bn_weights(
    conv_w: Tensor,
    conv_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:
    """W·s and (b - mean)·s + β, s = γ / √(var + eps) of each output channel: weight and bias of both layers as one.

    `conv_w` is (out, in/groups, …), or (in, out/groups, …) with `transpose`. None stands for b = 0, γ = 1, β = 0.
    """
    with no_grad():
        scale = rsqrt(bn_rv + bn_eps)
        if bn_w is not None:
            scale = bn_w * scale
        ones = [1] * (conv_w.ndim - 2)
        per_channel = scale.reshape([1, -1, *ones] if transpose else [-1, 1, *ones])
        bias = ((zeros_like(bn_rm) if conv_b is None else conv_b) - bn_rm) * scale
        if bn_b is not None:
            bias = bias + bn_b
        weight = conv_w * per_channel
    trained = conv_b is None or conv_b.requires_grad
    bias_dtype = conv_w.dtype if conv_b is None else conv_b.dtype
    return Parameter(weight.to(conv_w.dtype), conv_w.requires_grad), Parameter(bias.to(bias_dtype), trained)


def fuse_linear_bn_weights(
    linear_w: Tensor,
    linear_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
) -> tuple[Parameter, Parameter]:
    """`fuse_conv_bn_weights` of a linear layer, whose weight is (out, in)."""
    return fuse_conv_bn_weights(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)


def fuse_conv_bn_eval(conv: _Layer, bn: Module, transpose: bool = False) -> _Layer:
    """A copy of the convolution that computes bn(conv(x)) in evaluation; both are left as they are.

    `transpose`: the layer is a transposed convolution, of one group.
    Errors: `ArgumentError` for a module in training mode, and for a norm without running statistics or of another width.
    """
    if transpose and getattr(conv, "groups", 1) != 1:
        raise ArgumentError("a transposed convolution is fused with a batch norm where it has one group")
    fused = _copy_of(conv, bn)
    weight, bias = conv.weight, getattr(conv, "bias", None)
    norm = (bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    fused.weight, fused.bias = fuse_conv_bn_weights(weight, bias, *norm, transpose=transpose)
    return fused


def fuse_linear_bn_eval(linear: _Layer, bn: Module) -> _Layer:
    """A copy of the linear layer that computes bn(linear(x)) in evaluation; both are left as they are.

    Errors: `ArgumentError` for a module in training mode, and for a norm without running statistics or of another width.
    """
    return fuse_conv_bn_eval(linear, bn)


def _copy_of(layer: _Layer, bn: Module) -> _Layer:
    for module in (layer, bn):
        if module.training:
            raise ArgumentError(
                f"layers are fused for inference, and {type(module).__name__} is in training mode",
                fix="model.eval() first",
            )
    if getattr(bn, "running_mean", None) is None:
        raise ArgumentError(
            f"{type(bn).__name__} has no running statistics, so what it computes depends on the batch",
            fix="track_running_stats=True",
        )
    width = getattr(layer, "out_channels", getattr(layer, "out_features", None))
    if bn.running_mean.shape != (width,):
        raise ArgumentError(
            f"{type(layer).__name__} has {width} outputs, and {type(bn).__name__} norms {bn.running_mean.shape[0]}"
        )
    return copy.deepcopy(layer)
