"""The primitives of complex numbers: parts, pairs and conjugates. Views reinterpret the memory."""

from __future__ import annotations

from deepcore.autograd import graph
from deepcore.backend import dtypes as dt
from deepcore.ops.common import zeros
from deepcore.ops.registry import cast, primitive


@primitive(vjp=lambda g: conj_physical_p(g), complex=True, batch="elementwise", jvp="linear")
def conj_physical_p(xp, input):
    return xp.conj(input)


graph.conjugate = conj_physical_p


@primitive(vjp=(lambda g: real_p(g), lambda g: imag_p(g)), complex=True, batch="elementwise", jvp="linear")
def complex_p(xp, real, imag):
    """real + i · imag of operands of one floating dtype, without arithmetic."""
    out = xp.empty(xp.broadcast_shapes(real.shape, imag.shape), dtype=dt.complex_of(real.dtype))
    out.real[...] = real
    out.imag[...] = imag
    return out


@primitive(
    view="sometimes",
    vjp=lambda g: cast(g, dt.complex_of(g.dtype)),
    complex=True,
    batch="elementwise",
    jvp="linear",
)
def real_p(xp, input):
    return input.real


@primitive(view="sometimes", vjp=lambda g: complex_p(zeros(g), g), complex=True, batch="elementwise", jvp="linear")
def imag_p(xp, input):
    return input.imag


@primitive(view="sometimes", vjp=lambda g: view_as_complex_p(g), complex=True, batch="trailing", jvp="linear")
def view_as_real_p(xp, input):
    if input.ndim and input.strides[-1] == input.itemsize:
        return input.view(dt.real_of(input.dtype)).reshape(*input.shape, 2)
    part = input.real
    shape, strides = (*part.shape, 2), (*part.strides, part.itemsize)
    return xp.lib.stride_tricks.as_strided(part, shape, strides)


@primitive(view="sometimes", vjp=lambda g: view_as_real_p(g), complex=True, batch="trailing", jvp="linear")
def view_as_complex_p(xp, input):
    if input.strides[-1] != input.itemsize:  # a gradient in another layout
        input = xp.ascontiguousarray(input)
    return input.view(dt.complex_of(input.dtype))[..., 0]


#: The views whose elements are not those of their base.
REINTERPRETING = (real_p, imag_p, view_as_real_p, view_as_complex_p)


def real_array(xp, raw):
    """A raw complex array as its real and imaginary parts, in the same memory; a real one itself."""
    return view_as_real_p.forward(xp, raw) if raw.dtype.kind == "c" else raw
