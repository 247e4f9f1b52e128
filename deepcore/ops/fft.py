"""Discrete Fourier transforms, by the array library (cuFFT on CUDA), as in `torch.fft`.

Three primitives: complex to complex, real to half a spectrum, and back. Each one's gradient is its adjoint, which is the
transform in the other direction with the same factor; half spectra count their inner frequencies twice.
"""

from __future__ import annotations

from deepcore.autograd import graph
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, DTypeError, ShapeError, suggest
from deepcore.ops.parts import complex_p
from deepcore.ops.registry import Tensor, cast, composite, primitive, sample, takes_arrays
from deepcore.ops.shape import narrow, normalize_dim, pad, roll
from deepcore.tensor import factory, made

#: The factor of the other direction that equals this one's: forward transforms divide by n with "forward".
_ADJOINT = {"backward": "forward", "ortho": "ortho", "forward": "backward"}

# -- primitives ---------------------------------------------------------------------------------------------------------


@primitive(
    vjp=lambda g, dims, norm, inverse: _fft(g, dims=dims, norm=_ADJOINT[norm], inverse=not inverse),
    complex=True,
    batch="dims",
    jvp="linear",
)
def _fft(xp, input, *, dims, norm, inverse):
    return xp.transform("ifftn" if inverse else "fftn", input, axes=dims, norm=norm)


def _rfft_back(g, input_shape, dims, norm):
    length = input_shape[dims[-1]]
    return _irfft(_weighed(g, dims[-1], length, 0.5), dims=dims, norm=_ADJOINT[norm], length=length)


@primitive(vjp=_rfft_back, batch="dims", jvp="linear")
def _rfft(xp, input, *, dims, norm):
    """The frequencies 0 … n/2 of the last of `dims`, all of the others."""
    return xp.transform("rfftn", input, axes=dims, norm=norm)


def _irfft_back(g, dims, norm, length):
    return _weighed(_rfft(g, dims=dims, norm=_ADJOINT[norm]), dims[-1], length, 2.0)


@primitive(vjp=_irfft_back, complex=True, batch="dims", jvp="linear")
def _irfft(xp, input, *, dims, norm, length):
    """The inverse of `_rfft`: real numbers, `length` of them in the last of `dims`."""
    if len(dims) > 1:
        input = xp.transform("ifftn", input, axes=dims[:-1], norm=norm)
    return xp.transform("irfft", input, n=length, axis=dims[-1], norm=norm)


def _weighed(half: Tensor, dim: int, length: int, weight: float) -> Tensor:
    """Half a spectrum times `weight`, but for the frequencies that occur once in the whole: 0, and n/2 of an even n."""
    xp, count = half.backend, length // 2 + 1
    weights = xp.full((count,), weight, dtype=dt.real_of(half.dtype))
    weights[0] = 1.0
    if not length % 2:
        weights[-1] = 1.0
    return half * made(weights.reshape((count,) + (1,) * (half.ndim - dim - 1)), xp)


# -- arguments ----------------------------------------------------------------------------------------------------------


def _operand(name: str, input: Tensor, real: bool = False) -> Tensor:
    """The operand in a floating or complex dtype; with `real`, a real one."""
    dtype = input._data.dtype
    if dtype.kind == "c":
        if real:
            whole = name.replace("r" if name.startswith("r") else "h", "", 1)
            raise DTypeError(
                f"{name} takes real tensors", received=dt.name_of(dtype), fix=f"dc.fft.{whole}(t) of complex ones"
            )
        return input
    if dtype.itemsize == 2 and dt.is_floating(dtype):
        raise DTypeError(f"{name} takes single and double precision", received=dt.name_of(dtype), fix="t.float()")
    input = input if dt.is_floating(dtype) else cast(input, dt.default_float)
    return input if real else cast(input, dt.complex_of(input.dtype))


def _norm(name: str, norm) -> str:
    if norm is None:
        return "backward"
    if norm not in _ADJOINT:
        raise ArgumentError(
            f"{name}: unknown norm",
            expected='"backward" (1/n in the inverse), "ortho" (1/√n in both) or "forward" (1/n)',
            received=repr(norm),
            fix=suggest(str(norm), _ADJOINT),
        )
    return norm


def _dims(name: str, input: Tensor, s, dim, least: int = 0) -> tuple[tuple[int, ...], list[int | None]]:
    """(the dimensions of an n-dimensional transform in order, the requested length of each or None)."""
    rank = input.ndim
    s = None if s is None else [s] if isinstance(s, int) else list(s)
    if dim is None:
        count = rank if s is None else len(s)
        if count > rank:
            raise ShapeError(f"{name}: s has {count} lengths", received=f"a tensor of shape {input.shape}")
        dims = tuple(range(rank - count, rank))
    else:
        named = (dim,) if isinstance(dim, int) else tuple(dim)
        if named and not rank:
            raise ShapeError(f"{name}: a 0-d tensor has no dimension {named[0]}", fix="t.reshape(1)")
        dims = tuple(normalize_dim(d, rank) for d in named)
    if len(set(dims)) != len(dims):
        raise ArgumentError(f"{name}: a dimension is named twice", received=f"dim={dim!r}")
    if s is not None and len(s) != len(dims):
        raise ArgumentError(f"{name}: s has one length for each of dim", received=f"s={tuple(s)}, dim={dim!r}")
    if len(dims) < least:
        raise ShapeError(f"{name} transforms at least one dimension", received=f"shape {input.shape}, dim={dim!r}")
    return dims, [None if n == -1 else n for n in s] if s is not None else [None] * len(dims)


def _dim(name: str, input: Tensor, n, dim: int) -> tuple[tuple[int, ...], list[int | None]]:
    if not input.ndim:
        raise ShapeError(f"{name} needs a tensor that has a dimension", received="a 0-d tensor", fix="t.reshape(1)")
    return (normalize_dim(dim, input.ndim),), [n]


def _points(name: str, n: int) -> int:
    if n < 1:
        raise ShapeError(f"{name} transforms at least one point", received=f"{n} points")
    return n


def _resized(name: str, input: Tensor, dims, lengths) -> Tensor:
    """Each of `dims` cut, or filled up with zeros at its end, to its length (None: as it is)."""
    for d, n in zip(dims, lengths):
        size = input.shape[d]
        n = _points(name, size if n is None else int(n))
        if n < size:
            input = narrow(input, d, 0, n)
        elif n > size:
            input = pad(input, (0, 0) * (input.ndim - d - 1) + (0, n - size))
    return input


def _complex_to_complex(name: str, input, dims, lengths, norm, inverse: bool) -> Tensor:
    norm, input = _norm(name, norm), _operand(name, input)
    input = _resized(name, input, dims, lengths)
    return _fft(input, dims=dims, norm=norm, inverse=inverse) if dims else input.clone()


def _real_to_complex(name: str, input, dims, lengths, norm, inverse: bool = False) -> Tensor:
    norm, input = _norm(name, norm), _operand(name, input, real=True)
    out = _rfft(_resized(name, input, dims, lengths), dims=dims, norm=_ADJOINT[norm] if inverse else norm)
    return graph.conj(out) if inverse else out


def _complex_to_real(name: str, input, dims, lengths, norm, inverse: bool = True) -> Tensor:
    norm, input = _norm(name, norm), _operand(name, input)
    length = 2 * (input.shape[dims[-1]] - 1) if lengths[-1] is None else int(lengths[-1])
    _points(name, length)
    input = _resized(name, input, dims, [*lengths[:-1], length // 2 + 1])
    if not inverse:
        input, norm = graph.conj(input), _ADJOINT[norm]
    return _irfft(input, dims=dims, norm=norm, length=length)


# -- samples ------------------------------------------------------------------------------------------------------------


def _spectrum(make, *shape) -> Tensor:
    return complex_p(make(*shape), make(*shape)).detach().requires_grad_()


def _one(of, *, real: bool = False):
    """Samples of a transform of one dimension, of complex operands, or of real ones."""

    def examples(make):
        x = lambda *shape: make(*shape) if real else of(make, *shape)
        return [
            sample(x(5)), sample(x(2, 4)), sample(x(3, 2), dim=0, norm="ortho"), sample(x(2, 4), 3, norm="forward"),
            sample(x(4), 6), sample(make(4)),
        ]  # fmt: skip

    return examples


def _several(real: bool = False, least: int = 1):
    def examples(make):
        x = lambda *shape: make(*shape) if real else _spectrum(make, *shape)
        return [
            sample(x(3, 4)), sample(x(2, 2, 3), dim=(0, 2), norm="ortho"), sample(x(2, 3), (3, 2), norm="forward"),
            sample(make(3, 2)),
        ]  # fmt: skip

    return examples


# -- one dimension ------------------------------------------------------------------------------------------------------


@composite(place="fft", method=False, examples=_one(_spectrum))
@takes_arrays
def fft_fft(input, n: int | None = None, dim: int = -1, norm: str | None = None):
    """X[k] = Σⱼ x[j] e^(−2πi jk/n) along `dim`.

    `n`: the input is cut, or filled up with zeros, to this length. `norm`: "backward" (the default) divides the inverse
    by n, "forward" this, "ortho" both by √n. float32 gives complex64; 16-bit floats raise.
    """
    return _complex_to_complex("fft", input, *_dim("fft", input, n, dim), norm, False)


@composite(place="fft", method=False, examples=_one(_spectrum))
@takes_arrays
def ifft(input, n: int | None = None, dim: int = -1, norm: str | None = None):
    """x[j] = 1/n Σₖ X[k] e^(2πi jk/n) along `dim`: the inverse of `fft`"""
    return _complex_to_complex("ifft", input, *_dim("ifft", input, n, dim), norm, True)


@composite(place="fft", method=False, examples=_one(_spectrum, real=True))
@takes_arrays
def rfft(input, n: int | None = None, dim: int = -1, norm: str | None = None):
    """The frequencies 0 … n/2 of `fft` of a real tensor: the others are their conjugates"""
    return _real_to_complex("rfft", input, *_dim("rfft", input, n, dim), norm)


@composite(place="fft", method=False, examples=_one(_spectrum))
@takes_arrays
def irfft(input, n: int | None = None, dim: int = -1, norm: str | None = None):
    """The inverse of `rfft`: n real numbers (default: 2 (m − 1) of m frequencies); n tells 2 (m − 1) from 2 m − 1"""
    return _complex_to_real("irfft", input, *_dim("irfft", input, n, dim), norm)


@composite(place="fft", method=False, examples=_one(_spectrum))
@takes_arrays
def hfft(input, n: int | None = None, dim: int = -1, norm: str | None = None):
    """`fft` of a signal with x[−j] = conj(x[j]), whose half (0 … n/2) is `input`: n real numbers"""
    return _complex_to_real("hfft", input, *_dim("hfft", input, n, dim), norm, inverse=False)


@composite(place="fft", method=False, examples=_one(_spectrum, real=True))
@takes_arrays
def ihfft(input, n: int | None = None, dim: int = -1, norm: str | None = None):
    """The inverse of `hfft`: half (0 … n/2) of `ifft` of a real tensor"""
    return _real_to_complex("ihfft", input, *_dim("ihfft", input, n, dim), norm, inverse=True)


# -- several dimensions -------------------------------------------------------------------------------------------------


@composite(place="fft", method=False, examples=_several())
@takes_arrays
def fftn(input, s=None, dim=None, norm: str | None = None):
    """`fft` along each of `dim` (None: all, or the last len(s)); `s`: the length of each, −1 as it is"""
    return _complex_to_complex("fftn", input, *_dims("fftn", input, s, dim), norm, False)


@composite(place="fft", method=False, examples=_several())
@takes_arrays
def ifftn(input, s=None, dim=None, norm: str | None = None):
    """The inverse of `fftn`"""
    return _complex_to_complex("ifftn", input, *_dims("ifftn", input, s, dim), norm, True)


@composite(place="fft", method=False, examples=_several(real=True))
@takes_arrays
def rfftn(input, s=None, dim=None, norm: str | None = None):
    """`fftn` of a real tensor, with the frequencies 0 … n/2 of the last of `dim`"""
    return _real_to_complex("rfftn", input, *_dims("rfftn", input, s, dim, 1), norm)


@composite(place="fft", method=False, examples=_several())
@takes_arrays
def irfftn(input, s=None, dim=None, norm: str | None = None):
    """The inverse of `rfftn`: real numbers, by default 2 (m − 1) of m frequencies in the last of `dim`"""
    return _complex_to_real("irfftn", input, *_dims("irfftn", input, s, dim, 1), norm)


@composite(place="fft", method=False, examples=_several())
@takes_arrays
def hfftn(input, s=None, dim=None, norm: str | None = None):
    """`fftn` of a signal that is the conjugate of its mirror image, whose half in the last of `dim` is `input`: real"""
    return _complex_to_real("hfftn", input, *_dims("hfftn", input, s, dim, 1), norm, inverse=False)


@composite(place="fft", method=False, examples=_several(real=True))
@takes_arrays
def ihfftn(input, s=None, dim=None, norm: str | None = None):
    """The inverse of `hfftn`"""
    return _real_to_complex("ihfftn", input, *_dims("ihfftn", input, s, dim, 1), norm, inverse=True)


def _of_two(name: str, function, real: bool = False) -> None:
    """Declare the form of a transform whose `dim` defaults to the last two."""

    def transform(input, s=None, dim=(-2, -1), norm: str | None = None):
        return function(input, s, dim, norm)

    transform.__name__ = transform.__qualname__ = name
    transform.__doc__ = f"`{name[:-1]}n` along the last two dimensions"
    declared = composite(place="fft", method=False, examples=_several(real=real))(takes_arrays(transform))
    globals()[name] = declared


for _name in ("fft2", "ifft2", "rfft2", "irfft2", "hfft2", "ihfft2"):
    _of_two(_name, globals()[f"{_name[:-1]}n"], real=_name in ("rfft2", "ihfft2"))


# -- frequencies --------------------------------------------------------------------------------------------------------


@factory
def fftfreq(n: int, d: float = 1.0, *, dtype=None, backend=None, requires_grad: bool = False, device=None) -> Tensor:
    """The frequencies of `fft` of n points with a step of d: 0 … (n − 1)/2, −n/2 … −1, over n d."""
    return _frequencies("fftfreq", n, d, dtype, backend, requires_grad, lambda k: (k + n // 2) % n - n // 2)


@factory
def rfftfreq(n: int, d: float = 1.0, *, dtype=None, backend=None, requires_grad: bool = False, device=None) -> Tensor:
    """The frequencies of `rfft` of n points with a step of d: 0 … n/2, over n d."""
    return _frequencies("rfftfreq", n, d, dtype, backend, requires_grad, lambda k: k[: n // 2 + 1])


def _frequencies(name: str, n: int, d: float, dtype, backend, requires_grad: bool, order) -> Tensor:
    kind = dt.as_dtype(dtype or dt.default_float)
    if not dt.is_inexact(kind):
        raise DTypeError(f"{name} needs a floating dtype", received=dt.name_of(kind), fix="leave dtype out")
    xp = get_backend(backend)
    steps = order(xp.arange(_points(name, n), dtype=dt.int64)).astype(dt.real_of(kind))
    out = made((steps / xp.constant(float(n * d), steps.dtype)).astype(kind), xp)
    return out.requires_grad_() if requires_grad else out


def _shift_samples(make):
    return [sample(make(5)), sample(make(2, 4)), sample(make(2, 3, 4), (0, 2)), sample(make(3, 4), 1)]


def _shifted(input: Tensor, dim, half) -> Tensor:
    dims = tuple(range(input.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    return roll(input, [half(input.shape[normalize_dim(d, input.ndim)]) for d in dims], dims) if dims else input.clone()


@composite(place="fft", method=False, examples=_shift_samples)
@takes_arrays
def fftshift(input, dim=None):
    """The frequencies in ascending order along `dim` (None: all): 0 is in the middle"""
    return _shifted(input, dim, lambda n: n // 2)


@composite(place="fft", method=False, examples=_shift_samples)
@takes_arrays
def ifftshift(input, dim=None):
    """The inverse of `fftshift`"""
    return _shifted(input, dim, lambda n: (n + 1) // 2)
