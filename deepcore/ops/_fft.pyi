# Written by `python -m deepcore.ops.stubs` from the op registry; not edited by hand.

import builtins
from collections.abc import Sequence
from typing import Any

from deepcore.ops.reduction import ValuesAndIndices
from deepcore.tensor import Tensor

Operand = Tensor | builtins.complex | builtins.float | builtins.int | builtins.bool

def fft(input: Tensor, n: builtins.int | None = ..., dim: builtins.int = ..., norm: builtins.str | None = ...) -> Tensor:
    """X[k] = Σⱼ x[j] e^(−2πi jk/n) along `dim`."""

def fft2(input: Tensor, s: Any = ..., dim: Any = ..., norm: builtins.str | None = ...) -> Tensor:
    """`fftn` along the last two dimensions"""

def fftn(input: Tensor, s: Any = ..., dim: Any = ..., norm: builtins.str | None = ...) -> Tensor:
    """`fft` along each of `dim` (None: all, or the last len(s)); `s`: the length of each, −1 as it is"""

def fftshift(input: Tensor, dim: Any = ...) -> Tensor:
    """The frequencies in ascending order along `dim` (None: all): 0 is in the middle"""

def hfft(input: Tensor, n: builtins.int | None = ..., dim: builtins.int = ..., norm: builtins.str | None = ...) -> Tensor:
    """`fft` of a signal with x[−j] = conj(x[j]), whose half (0 … n/2) is `input`: n real numbers"""

def hfft2(input: Tensor, s: Any = ..., dim: Any = ..., norm: builtins.str | None = ...) -> Tensor:
    """`hfftn` along the last two dimensions"""

def hfftn(input: Tensor, s: Any = ..., dim: Any = ..., norm: builtins.str | None = ...) -> Tensor:
    """`fftn` of a signal that is the conjugate of its mirror image, whose half in the last of `dim` is `input`: real"""

def ifft(input: Tensor, n: builtins.int | None = ..., dim: builtins.int = ..., norm: builtins.str | None = ...) -> Tensor:
    """x[j] = 1/n Σₖ X[k] e^(2πi jk/n) along `dim`: the inverse of `fft`"""

def ifft2(input: Tensor, s: Any = ..., dim: Any = ..., norm: builtins.str | None = ...) -> Tensor:
    """`ifftn` along the last two dimensions"""

def ifftn(input: Tensor, s: Any = ..., dim: Any = ..., norm: builtins.str | None = ...) -> Tensor:
    """The inverse of `fftn`"""

def ifftshift(input: Tensor, dim: Any = ...) -> Tensor:
    """The inverse of `fftshift`"""

def ihfft(input: Tensor, n: builtins.int | None = ..., dim: builtins.int = ..., norm: builtins.str | None = ...) -> Tensor:
    """The inverse of `hfft`: half (0 … n/2) of `ifft` of a real tensor"""

def ihfft2(input: Tensor, s: Any = ..., dim: Any = ..., norm: builtins.str | None = ...) -> Tensor:
    """`ihfftn` along the last two dimensions"""

def ihfftn(input: Tensor, s: Any = ..., dim: Any = ..., norm: builtins.str | None = ...) -> Tensor:
    """The inverse of `hfftn`"""

def irfft(input: Tensor, n: builtins.int | None = ..., dim: builtins.int = ..., norm: builtins.str | None = ...) -> Tensor:
    """The inverse of `rfft`: n real numbers (default: 2 (m − 1) of m frequencies); n tells 2 (m − 1) from 2 m − 1"""

def irfft2(input: Tensor, s: Any = ..., dim: Any = ..., norm: builtins.str | None = ...) -> Tensor:
    """`irfftn` along the last two dimensions"""

def irfftn(input: Tensor, s: Any = ..., dim: Any = ..., norm: builtins.str | None = ...) -> Tensor:
    """The inverse of `rfftn`: real numbers, by default 2 (m − 1) of m frequencies in the last of `dim`"""

def rfft(input: Tensor, n: builtins.int | None = ..., dim: builtins.int = ..., norm: builtins.str | None = ...) -> Tensor:
    """The frequencies 0 … n/2 of `fft` of a real tensor: the others are their conjugates"""

def rfft2(input: Tensor, s: Any = ..., dim: Any = ..., norm: builtins.str | None = ...) -> Tensor:
    """`rfftn` along the last two dimensions"""

def rfftn(input: Tensor, s: Any = ..., dim: Any = ..., norm: builtins.str | None = ...) -> Tensor:
    """`fftn` of a real tensor, with the frequencies 0 … n/2 of the last of `dim`"""
