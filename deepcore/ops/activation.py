"""Activations and the error function: each is one op forward and one backward."""

from __future__ import annotations

import math

from deepcore.autograd import constant
from deepcore.errors import ArgumentError, ShapeError
from deepcore.ops.arithmetic import abs as abs_
from deepcore.ops.arithmetic import neg
from deepcore.ops.common import flat_in, float_op, in_float32, no_bool
from deepcore.ops.comparison import clamp, where
from deepcore.ops.exponential import exp
from deepcore.ops.registry import (
    composite,
    elementwise,
    functional,
    fused,
    primitive,
    sample,
    unary_samples,
)
from deepcore.ops.shape import chunk, normalize_dim
from deepcore.ops.trigonometric import tanh


@functional
@elementwise("float", vjp=lambda g, out: sigmoid_grad(g, out), aliases=("special.expit",), complex="analytic")
@in_float32
def sigmoid(xp, input):
    """1 / (1 + e⁻ˣ)"""
    out = xp.negative(input)
    out = xp.exp(out)
    return xp.true_divide(xp.ones((), dtype=input.dtype), out + xp.ones((), dtype=input.dtype))


@fused
def sigmoid_grad(g, out):
    return g * ((1.0 - out) * out)


@elementwise(
    "float",
    vjp=lambda g, input: g * (exp(neg(input * input)) * (2 / math.sqrt(math.pi))),
    aliases=("special.erf",),
)
def erf(xp, input):
    """2/√π ∫₀ˣ e^(−t²) dt"""
    return xp.special("erf", input)


@elementwise("numeric", vjp=lambda g, out: relu_grad(g, out), public=False)
def _relu(xp, input):
    no_bool("relu", "convert with .float()", input)
    return xp.maximum(input, xp.zeros((), dtype=input.dtype))


@functional
@composite(examples=unary_samples(), inplace=True)
def relu(input, inplace: bool = False):
    """max(0, x). `inplace` changes nothing."""
    return _relu(input)


@fused
def relu_grad(g, out):
    return flat_in(where(out <= 0, 0.0, g), out)


@primitive(vjp=lambda g, input, slope: leaky_relu_grad(g, input, slope=slope), batch="elementwise")
@in_float32
def _leaky_relu(xp, input, *, slope):
    return xp.where(input > 0, input, input * xp.constant(slope, input.dtype))


@fused
def leaky_relu_grad(g, input, *, slope):
    return flat_in(where(input > 0, g, g * slope), input)


@functional
@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5), 0.2)])
def leaky_relu(input, negative_slope: float = 0.01, inplace: bool = False):
    """max(0, x) + negative_slope · min(0, x). `inplace` changes nothing."""
    return float_op(_leaky_relu, input, slope=negative_slope)


@primitive(vjp=lambda g, input, alpha: elu_grad(g, input, alpha=alpha), batch="elementwise")
@in_float32
def _elu(xp, input, *, alpha):
    return xp.where(input > 0, input, xp.expm1(xp.minimum(input, 0)) * alpha)


@fused
def elu_grad(g, input, *, alpha):
    positive = input > 0
    return where(positive, g, g * (exp(where(positive, 0.0, input)) * alpha))


@functional
@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5), 0.7)])
def elu(input, alpha: float = 1.0, inplace: bool = False):
    """x for x > 0, alpha · (eˣ − 1) otherwise (Clevert et al. 2015). `inplace` changes nothing."""
    return float_op(_elu, input, alpha=alpha)


@primitive(
    vjp=lambda g, input, alpha, scale, rate: scaled_elu_grad(g, input, alpha=alpha, scale=scale, rate=rate),
    batch="elementwise",
)
@in_float32
def _scaled_elu(xp, input, *, alpha, scale, rate):
    return xp.where(input > 0, input, xp.expm1(xp.minimum(input, 0) * rate) * alpha) * scale


@fused
def scaled_elu_grad(g, input, *, alpha, scale, rate):
    positive = input > 0
    return g * where(positive, scale, exp(where(positive, 0.0, input) * rate) * (alpha * rate * scale))


@functional
@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5), 0.7)])
def celu(input, alpha: float = 1.0, inplace: bool = False):
    """max(0, x) + min(0, alpha · (e^(x/alpha) − 1)) (Barron 2017). `inplace` changes nothing."""
    if alpha == 0:
        raise ArgumentError("celu: alpha is not 0", received=f"alpha={alpha!r}")
    return float_op(_scaled_elu, input, alpha=alpha, scale=1.0, rate=1.0 / alpha)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


@functional
@composite(examples=unary_samples())
def selu(input, inplace: bool = False):
    """1.0507 · (x for x > 0, 1.6733 · (eˣ − 1) otherwise) (Klambauer et al. 2017). `inplace` changes nothing."""
    return float_op(_scaled_elu, input, alpha=_SELU_ALPHA, scale=_SELU_SCALE, rate=1.0)


# Beyond ±1e4 GELU and SiLU are 0 or x, with slopes 0 or 1, in every dtype; at infinity the formulas give 0·∞.
_FAR = 1e4


@primitive(vjp=lambda g, input: gelu_grad(g, input), batch="elementwise")
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


@primitive(vjp=lambda g, input: gelu_tanh_grad(g, input), batch="elementwise")
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
        return float_op(_gelu, input)
    if approximate == "tanh":
        return float_op(_gelu_tanh, input)
    raise ArgumentError("unknown approximation of gelu", expected="'none' or 'tanh'", received=repr(approximate))


@primitive(vjp=lambda g, input: silu_grad(g, input), batch="elementwise")
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
def silu(input, inplace: bool = False):
    """x · sigmoid(x) (Elfwing et al. 2017). `inplace` changes nothing."""
    return float_op(_silu, input)


#: From 20 on Mish rounds to x.
_MISH_FLAT = 40.0


@primitive(vjp=lambda g, input: mish_grad(g, input), batch="elementwise")
@in_float32
def _mish(xp, input):
    e = xp.exp(xp.minimum(input, _MISH_FLAT))
    e = e * (e + 2)
    return xp.maximum(input, -_FAR) * (e / (e + 2))


@fused
def mish_grad(g, input):
    input = clamp(input, -_FAR, _MISH_FLAT)
    e = exp(input)
    inverse = 1.0 / (e * (e + 2.0) + 2.0)
    return g * ((e * inverse) * ((e + 2.0) + input * (e + 1.0) * (inverse * 4.0)))


@functional
@composite(examples=unary_samples())
def mish(input, inplace: bool = False):
    """x · tanh(ln(1 + eˣ)) (Misra 2019). `inplace` changes nothing."""
    return float_op(_mish, input)


@functional
@composite(examples=unary_samples())
def softsign(input):
    """x / (1 + |x|)"""
    return input / (abs_(input) + 1.0)


@functional
@composite(examples=unary_samples())
def tanhshrink(input):
    """x − tanh x"""
    return input - tanh(input)


@functional
@composite(examples=lambda make: [sample(make(3, 4)), sample(make(4, 3), 0), sample(make(2, 6, 3), dim=1)])
def glu(input, dim: int = -1):
    """a · sigmoid(b), a and b the halves of x along `dim` (Dauphin et al. 2017)"""
    input = constant("glu", input)
    dim = normalize_dim(dim, input.ndim)
    if not input.ndim or input.shape[dim] % 2:
        raise ShapeError(
            "glu halves a dimension",
            expected=f"an even number along dimension {dim}",
            received=f"shape {input.shape}",
        )
    a, b = chunk(input, 2, dim)
    return a * sigmoid(b)


@primitive(
    vjp=lambda g, input, beta, threshold: softplus_grad(g, input, beta=beta, threshold=threshold), batch="elementwise"
)
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
    return float_op(_softplus, input, beta=beta, threshold=threshold)


@primitive(vjp=lambda g, input: logsigmoid_grad(g, input), batch="elementwise")
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
    return float_op(_logsigmoid, input)
