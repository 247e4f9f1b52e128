# Written by `python -m deepcore.ops.stubs` from the op registry; not edited by hand.

import builtins
from collections.abc import Sequence
from typing import Any

from deepcore.ops.reduction import ValuesAndIndices
from deepcore.tensor import Tensor

Operand = Tensor | builtins.complex | builtins.float | builtins.int | builtins.bool

def digamma(input: Tensor) -> Tensor:
    """ψ(input), the derivative of ln Γ"""

def psi(input: Tensor) -> Tensor:
    """ψ(input), the derivative of ln Γ"""

def erf(input: Tensor) -> Tensor:
    """2/√π ∫₀ˣ e^(−t²) dt"""

def erfc(input: Tensor) -> Tensor:
    """1 − erf(input), without cancellation"""

def erfinv(input: Tensor) -> Tensor:
    """the y with erf(y) = input; NaN outside −1 … 1"""

def exp2(input: Tensor) -> Tensor:
    """2 ^ input"""

def expm1(input: Tensor) -> Tensor:
    """e ^ input − 1, exact near 0"""

def i0(input: Tensor) -> Tensor:
    """the modified Bessel function of the first kind of order 0"""

def gammaln(input: Tensor) -> Tensor:
    """ln |Γ(input)|"""

def log1p(input: Tensor) -> Tensor:
    """ln(1 + input), exact near 0"""

def log_softmax(input: Tensor, dim: builtins.int, dtype: Any = ...) -> Tensor:
    """x − ln Σ eˣ along `dim`, without overflow"""

def logit(input: Tensor, eps: builtins.float | None = ...) -> Tensor:
    """ln(x / (1 − x)); with `eps`, x is first limited to eps … 1 − eps. NaN outside 0 … 1"""

def logsumexp(input: Tensor, dim: Any, keepdim: builtins.bool = ...) -> Tensor:
    """ln Σ eˣ over `dim`, without overflow"""

def multigammaln(input: Tensor, p: builtins.int) -> Tensor:
    """ln Γₚ(input) = p (p − 1) / 4 · ln π + Σ lgamma(input − k / 2) over k = 0 … p − 1; defined above (p − 1) / 2"""

def polygamma(n: Any, input: Tensor) -> Tensor:
    """The n-th derivative of ψ: (−1)ⁿ⁺¹ n! ζ(n + 1, input); n = 0 is `digamma`."""

def round(input: Tensor, *, decimals: builtins.int = ...) -> Tensor:
    """the nearest multiple of 10 ^ −decimals, halves to the even one"""

def expit(input: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ)"""

def sinc(input: Tensor) -> Tensor:
    """sin(πx) / (πx), and 1 at 0"""

def softmax(input: Tensor, dim: builtins.int, dtype: Any = ...) -> Tensor:
    """eˣ / Σ eˣ along `dim`, without overflow"""

def entr(input: Tensor) -> Tensor:
    """−input · ln input, 0 at 0, −∞ below"""

def erfcx(input: Tensor) -> Tensor:
    """exp(input²) · erfc(input), without overflow"""

def i0e(input: Tensor) -> Tensor:
    """exp(−|input|) · i0(input)"""

def i1(input: Tensor) -> Tensor:
    """the modified Bessel function of the first kind of order 1"""

def i1e(input: Tensor) -> Tensor:
    """exp(−|input|) · i1(input)"""

def log_ndtr(input: Tensor) -> Tensor:
    """ln Φ(input), also where Φ is too small for the dtype"""

def ndtr(input: Tensor) -> Tensor:
    """Φ(input), the distribution function of the normal distribution: (1 + erf(x / √2)) / 2"""

def ndtri(input: Tensor) -> Tensor:
    """the x with Φ(x) = input; NaN outside 0 … 1"""

def xlog1py(input: Tensor, other: Operand) -> Tensor:
    """input · ln(1 + other), and 0 where input is 0; NaN where other is"""

def zeta(input: Tensor, other: Operand) -> Tensor:
    """Hurwitz's ζ(input, other) = Σ (other + k)⁻ⁱⁿᵖᵘᵗ over k = 0, 1, …"""

def xlogy(input: Tensor, other: Operand) -> Tensor:
    """input · ln other, and 0 where input is 0; NaN where other is"""
