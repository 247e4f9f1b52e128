"""Complex numbers: their parts, views of them, conjugates, angles.

Gradients are PyTorch's: of a real loss L, ∂L/∂Re z + i ∂L/∂Im z, which is twice the conjugate Wirtinger derivative.
"""

from __future__ import annotations

import math

from deepcore.autograd import apply, constant, graph
from deepcore.backend import dtypes as dt
from deepcore.errors import DTypeError, ShapeError
from deepcore.ops.arithmetic import abs as abs_
from deepcore.ops.arithmetic import mul, sgn_p, sign
from deepcore.ops.common import zeros
from deepcore.ops.comparison import where
from deepcore.ops.parts import complex_p, imag_p, real_p, view_as_complex_p, view_as_real_p
from deepcore.ops.registry import (
    Tensor,
    as_number,
    binary_samples,
    composite,
    primitive,
    promote,
    sample,
    takes_arrays,
)
from deepcore.ops.shape import transpose
from deepcore.ops.trigonometric import cos, sin


def _complex_samples(make):
    """Tensors of one and two dimensions, a 0-d one, one of no elements; and a real one."""
    shapes = ((3,), (2, 3), (), (0, 2))
    return [*(sample(complex_p(make(*s), make(*s)).detach().requires_grad_()) for s in shapes), sample(make(3))]


# -- parts --------------------------------------------------------------------------------------------------------------


@composite(examples=_complex_samples, method=False)
@takes_arrays
def real(input):
    """The real part, a view; a real tensor itself"""
    return apply(real_p, (input,)) if input._data.dtype.kind == "c" else input


@composite(examples=lambda make: _complex_samples(make)[:-1], method=False)
@takes_arrays
def imag(input):
    """The imaginary part, a view. A real tensor has none: `DTypeError`"""
    _complex_only("imag", input)
    return apply(imag_p, (input,))


def _complex_only(name: str, input: Tensor) -> None:
    if input._data.dtype.kind != "c":
        raise DTypeError(f"{name} takes complex tensors", received=dt.name_of(input.dtype), fix="t.cfloat()")


@composite(examples=lambda make: _complex_samples(make)[:-1], method=False)
@takes_arrays
def view_as_real(input):
    """A real view (…, 2) of complex numbers (…): real and imaginary parts lie side by side in the last dimension"""
    _complex_only("view_as_real", input)
    return apply(view_as_real_p, (input,))


@composite(examples=lambda make: [sample(make(3, 2)), sample(make(2)), sample(make(2, 3, 2))], method=False)
@takes_arrays
def view_as_complex(input):
    """A complex view (…) of pairs (…, 2) of float32 or float64 numbers, which lie side by side in memory"""
    raw = input._data
    if raw.dtype not in (dt.float32, dt.float64):
        raise DTypeError("view_as_complex takes float32 and float64", received=dt.name_of(raw.dtype), fix="t.float()")
    if not raw.ndim or raw.shape[-1] != 2:
        raise ShapeError(
            "view_as_complex takes pairs: real and imaginary part", expected="(…, 2)", received=str(input.shape)
        )
    if raw.size and (raw.strides[-1] != raw.itemsize or any(s % (2 * raw.itemsize) for s in raw.strides[:-1])):
        raise ShapeError(
            "view_as_complex: the parts of a number do not lie side by side in memory",
            expected="stride 1 in the last dimension and even strides elsewhere",
            received=f"strides {input.stride()}",
            fix="t.contiguous() first",
        )
    return apply(view_as_complex_p, (input,))


@composite(examples=binary_samples(scalar=0.5), method=False)
@takes_arrays
def complex(real, imag):
    """real + i · imag, of tensors of one floating dtype; the shapes broadcast"""
    if not isinstance(real, Tensor) or not isinstance(imag, Tensor):
        number = next((x for x in (real, imag) if as_number(x) is not None), None)
        if number is None:
            constant("complex", real), constant("complex", imag)
        real, imag = promote("complex", "float", real, imag)
    if real.dtype != imag.dtype or real.dtype not in (dt.float32, dt.float64):
        raise DTypeError(
            "complex takes two tensors of one dtype, float32 or float64",
            received=f"{dt.name_of(real.dtype)} and {dt.name_of(imag.dtype)}",
            fix="convert them: t.float()",
        )
    return complex_p(real, imag)


@composite(examples=binary_samples(0.3, 2.0, -3.0, 3.0, scalar=0.5), method=False)
@takes_arrays
def polar(abs, angle):
    """abs · (cos angle + i sin angle)"""
    abs, angle = promote("polar", "float", abs, angle) if as_number(abs) or as_number(angle) else (abs, angle)
    return complex(abs * cos(angle), abs * sin(angle))


# -- conjugates ---------------------------------------------------------------------------------------------------------


@composite(examples=_complex_samples, inplace=True)
@takes_arrays
def conj_physical(input):
    """The complex conjugate; a real tensor itself"""
    return graph.conj(input)


@composite(examples=_complex_samples)
@takes_arrays
def conj(input):
    """The complex conjugate, computed at once; a real tensor itself"""
    return graph.conj(input)


@composite(examples=_complex_samples)
@takes_arrays
def resolve_conj(input):
    """The tensor itself: conjugates are computed at once"""
    return constant("resolve_conj", input)


@composite(examples=_complex_samples)
@takes_arrays
def resolve_neg(input):
    """The tensor itself: negatives are computed at once"""
    return constant("resolve_neg", input)


# -- directions ---------------------------------------------------------------------------------------------------------


def _angle_back(g, input):
    """θ of x + iy grows by (x dy − y dx) / r²: the gradient is i z / r²."""
    zero = input == 0
    safe = where(zero, 1.0, input)
    size = abs_(safe)
    return where(zero, 0.0, mul(safe / size, 1j) * (g / size))


@primitive(vjp=_angle_back, complex=True, batch="elementwise")
def _angle(xp, input):
    return xp.angle(input)


@composite(examples=_complex_samples)
@takes_arrays
def angle(input):
    """The angle of a number with the positive axis, in radians (−π … π); of a real number 0, π below 0, or NaN"""
    if input.dtype.kind == "c":
        return apply(_angle, (input,))
    (input,) = promote("angle", "float", input)
    return where(input != input, input.detach(), where(input < 0, math.pi, zeros(input)))


@composite(examples=_complex_samples, inplace=True)
@takes_arrays
def sgn(input):
    """input / |input|, and 0 at 0; the `sign` of real numbers"""
    return apply(sgn_p, (input,)) if input._data.dtype.kind == "c" else sign(input)


def _part(function, name: str):
    def get(self):
        return function(self)

    def set_(self, value) -> None:
        function(self).copy_(value)

    return property(get, set_, doc=f"`dc.{name}`; assignment writes into the tensor.")


Tensor.real, Tensor.imag = _part(real, "real"), _part(imag, "imag")


def _adjoint(self):
    return graph.conj(transpose(self, -2, -1))


Tensor.mH = property(_adjoint, doc="The conjugate transpose of the last two dimensions.")
Tensor.H = property(
    lambda self: graph.conj(self) if not self.ndim else graph.conj(transpose(self, 0, 1)),
    doc="The conjugate transpose of a matrix.",
)
