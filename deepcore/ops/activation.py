"""Activations and the error function: each is one op forward and one backward."""

from __future__ import annotations

import math

from deepcore.autograd import apply
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError
from deepcore.ops.arithmetic import neg
from deepcore.ops.common import flat_in, in_float32, no_bool
from deepcore.ops.comparison import clamp, where
from deepcore.ops.exponential import exp
from deepcore.ops.registry import (
    Tensor,
    composite,
    elementwise,
    functional,
    fused,
    primitive,
    promote,
    sample,
    unary_samples,
)


@functional
@elementwise("float", vjp=lambda g, out: sigmoid_grad(g, out))
@in_float32
def sigmoid(xp, input):
    """1 / (1 + e⁻ˣ)"""
    out = xp.negative(input)
    out = xp.exp(out)
    return xp.true_divide(xp.ones((), dtype=input.dtype), out + xp.ones((), dtype=input.dtype))


@fused
def sigmoid_grad(g, out):
    return g * ((1.0 - out) * out)


@elementwise("float", vjp=lambda g, input: g * (exp(neg(input * input)) * (2 / math.sqrt(math.pi))))
def erf(xp, input):
    """2/√π ∫₀ˣ e^(−t²) dt"""
    return xp.special("erf", input)


@functional
@elementwise("numeric", vjp=lambda g, out: relu_grad(g, out))
def relu(xp, input):
    """max(0, x)"""
    no_bool("relu", "convert with .float()", input)
    return xp.maximum(input, xp.zeros((), dtype=input.dtype))


@fused
def relu_grad(g, out):
    return flat_in(where(out <= 0, 0.0, g), out)


def _float_op(op, input, **params) -> Tensor:
    if not isinstance(input, Tensor) or not dt.is_floating(input._data.dtype):
        (input,) = promote(op.name, "float", input)
    for name, value in params.items():
        if not hasattr(value, "__float__"):
            raise DTypeError(f"{op.name}: {name} is a number", received=repr(value))
    return apply(op, (input,), params)


@primitive(vjp=lambda g, input, slope: leaky_relu_grad(g, input, slope=slope))
@in_float32
def _leaky_relu(xp, input, *, slope):
    return xp.where(input > 0, input, input * xp.constant(slope, input.dtype))


@fused
def leaky_relu_grad(g, input, *, slope):
    return flat_in(where(input > 0, g, g * slope), input)


@functional
@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5), 0.2)])
def leaky_relu(input, negative_slope: float = 0.01):
    """max(0, x) + negative_slope · min(0, x)"""
    return _float_op(_leaky_relu, input, slope=negative_slope)


@primitive(vjp=lambda g, input, alpha: elu_grad(g, input, alpha=alpha))
@in_float32
def _elu(xp, input, *, alpha):
    return xp.where(input > 0, input, xp.expm1(xp.minimum(input, 0)) * alpha)


@fused
def elu_grad(g, input, *, alpha):
    positive = input > 0
    return where(positive, g, g * (exp(where(positive, 0.0, input)) * alpha))


@functional
@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5), 0.7)])
def elu(input, alpha: float = 1.0):
    """x for x > 0, alpha · (eˣ − 1) otherwise (Clevert et al. 2015)"""
    return _float_op(_elu, input, alpha=alpha)


# Beyond ±1e4 GELU and SiLU are 0 or x, with slopes 0 or 1, in every dtype; at infinity the formulas give 0·∞.
_FAR = 1e4


@primitive(vjp=lambda g, input: gelu_grad(g, input))
@in_float32
def _gelu(xp, input):
    input = xp.maximum(input, -_FAR)
    return input * ((xp.special("erf", input * math.sqrt(0.5)) + 1) * 0.5)


@fused
def gelu_grad(g, input):
    input = clamp(input, -_FAR, _FAR)
    density = exp(input * input * -0.5) * (1 / math.sqrt(2 * math.pi))
    return g * ((erf(input * math.sqrt(0.5)) + 1.0) * 0.5 + input * density)


_GELU_SCALE, _GELU_CUBE = 2 * math.sqrt(2 / math.pi), 0.044715


@primitive(vjp=lambda g, input: gelu_tanh_grad(g, input))
@in_float32
def _gelu_tanh(xp, input):
    input = xp.maximum(input, -_FAR)
    inner = (input + input * input * input * _GELU_CUBE) * (0.5 * _GELU_SCALE)
    return input * 0.5 * (xp.tanh(inner) + 1)


@fused
def gelu_tanh_grad(g, input):
    input = clamp(input, -_FAR, _FAR)
    square = input * input
    half = sigmoid((input + square * input * _GELU_CUBE) * _GELU_SCALE)
    return g * (half + input * (half * (1.0 - half) * ((square * (3 * _GELU_CUBE) + 1.0) * _GELU_SCALE)))


@functional
@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5), approximate="tanh")])
def gelu(input, approximate: str = "none"):
    """x · Φ(x), Φ the normal distribution function; "tanh": ½x(1 + tanh(√(2/π)(x + 0.044715x³))) (Hendrycks 2016)"""
    if approximate == "none":
        return _float_op(_gelu, input)
    if approximate == "tanh":
        return _float_op(_gelu_tanh, input)
    raise ArgumentError("unknown approximation of gelu", expected="'none' or 'tanh'", received=repr(approximate))


@primitive(vjp=lambda g, input: silu_grad(g, input))
@in_float32
def _silu(xp, input):
    input = xp.maximum(input, -_FAR)
    return input / (xp.exp(-input) + 1)


@fused
def silu_grad(g, input):
    input = clamp(input, -_FAR, _FAR)
    half = sigmoid(input)
    return g * (half * (input * (1.0 - half) + 1.0))


@functional
@composite(examples=unary_samples())
def silu(input):
    """x · sigmoid(x) (Elfwing et al. 2017)"""
    return _float_op(_silu, input)


@primitive(vjp=lambda g, input, beta, threshold: softplus_grad(g, input, beta=beta, threshold=threshold))
@in_float32
def _softplus(xp, input, *, beta, threshold):
    scaled = input * beta
    bent = xp.maximum(scaled, 0) + xp.log1p(xp.exp(-xp.abs(scaled)))
    return xp.where(scaled > threshold, input, bent / beta)


@fused
def softplus_grad(g, input, *, beta, threshold):
    scaled = input * beta
    return where(scaled > threshold, g, g * sigmoid(scaled))


@functional
@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5), 2.0, 1.0)])
def softplus(input, beta: float = 1.0, threshold: float = 20.0):
    """ln(1 + e^(beta·x)) / beta; x itself where beta·x > threshold"""
    return _float_op(_softplus, input, beta=beta, threshold=threshold)


@primitive(vjp=lambda g, input: logsigmoid_grad(g, input))
@in_float32
def _logsigmoid(xp, input):
    return xp.minimum(input, 0) - xp.log1p(xp.exp(-xp.abs(input)))


@fused
def logsigmoid_grad(g, input):
    return g * sigmoid(neg(input))


@functional
@composite(examples=unary_samples())
def logsigmoid(input):
    """ln sigmoid(x) = min(0, x) − ln(1 + e^−|x|)"""
    return _float_op(_logsigmoid, input)
