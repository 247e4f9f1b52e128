# Written by `python -m deepcore.ops.stubs` from the op registry; not edited by hand.

import builtins
from collections.abc import Sequence
from typing import Any

from deepcore.ops.reduction import ValuesAndIndices
from deepcore.tensor import Tensor

Operand = Tensor | builtins.complex | builtins.float | builtins.int | builtins.bool

class TensorMethods:
    T: Tensor
    mT: Tensor
    mH: Tensor
    H: Tensor
    real: Tensor
    imag: Tensor

    def abs(self) -> Tensor:
        """|input|"""

    def absolute(self) -> Tensor:
        """|input|"""

    def acos(self) -> Tensor:
        """inverse cosine, in radians"""

    def arccos(self) -> Tensor:
        """inverse cosine, in radians"""

    def acosh(self) -> Tensor:
        """inverse hyperbolic cosine"""

    def arccosh(self) -> Tensor:
        """inverse hyperbolic cosine"""

    def add(self, other: Operand, *, alpha: Any = ...) -> Tensor:
        """input + alpha · other"""

    def addbmm(self, batch1: Any, batch2: Any, *, beta: Any = ..., alpha: Any = ...) -> Tensor:
        """beta · input + alpha · Σ batch1 @ batch2, summed over the first dimension"""

    def addcdiv(self, tensor1: Any, tensor2: Any, *, value: Operand = ...) -> Tensor:
        """input + value · tensor1 / tensor2"""

    def addcmul(self, tensor1: Any, tensor2: Any, *, value: Operand = ...) -> Tensor:
        """input + value · tensor1 · tensor2"""

    def addmm(self, mat1: Tensor, mat2: Tensor, *, beta: Any = ..., alpha: Any = ...) -> Tensor:
        """beta · input + alpha · (mat1 @ mat2)"""

    def addmv(self, mat: Any, vec: Tensor, *, beta: Any = ..., alpha: Any = ...) -> Tensor:
        """beta · input + alpha · (mat @ vec)"""

    def addr(self, vec1: Any, vec2: Tensor, *, beta: Any = ..., alpha: Any = ...) -> Tensor:
        """beta · input + alpha · (vec1 ⊗ vec2)"""

    def adjoint(self) -> Tensor:
        """The last two dimensions exchanged, a view; of complex numbers the conjugates"""

    def alias(self) -> Tensor:
        """The same elements as a new tensor over the same memory"""

    def all(self, dim: Any = ..., keepdim: builtins.bool = ...) -> Tensor:
        """Whether every element over `dim` (None: of all) is non-zero; uint8 for uint8, else bool"""

    def amax(self, dim: Any = ..., keepdim: builtins.bool = ...) -> Tensor:
        """The largest element over `dim` (None: all); equal ones share the gradient"""

    def amin(self, dim: Any = ..., keepdim: builtins.bool = ...) -> Tensor:
        """The smallest element over `dim` (None: all); equal ones share the gradient"""

    def aminmax(self, *, dim: builtins.int | None = ..., keepdim: builtins.bool = ...) -> Any:
        """(min, max) over one dimension (None: all); equal ones share the gradient"""

    def angle(self) -> Tensor:
        """The angle of a number with the positive axis, in radians (−π … π); of a real number 0, π below 0, or NaN"""

    def any(self, dim: Any = ..., keepdim: builtins.bool = ...) -> Tensor:
        """Whether some element over `dim` (None: of all) is non-zero; uint8 for uint8, else bool"""

    def argmax(self, dim: builtins.int | None = ..., keepdim: builtins.bool = ...) -> Tensor:
        """The index (int64) of the first largest element along `dim` (None: of all, counted in row order)"""

    def argmin(self, dim: builtins.int | None = ..., keepdim: builtins.bool = ...) -> Tensor:
        """The index (int64) of the first smallest element along `dim` (None: of all, counted in row order)"""

    def argsort(self, dim: builtins.int = ..., descending: builtins.bool = ..., stable: builtins.bool = ...) -> Tensor:
        """The indices (int64) that sort along `dim`; equal elements keep their order"""

    def argwhere(self) -> Tensor:
        """The indices (n × rank, int64) of the elements that are not zero"""

    def asin(self) -> Tensor:
        """inverse sine, in radians"""

    def arcsin(self) -> Tensor:
        """inverse sine, in radians"""

    def asinh(self) -> Tensor:
        """inverse hyperbolic sine"""

    def arcsinh(self) -> Tensor:
        """inverse hyperbolic sine"""

    def atan(self) -> Tensor:
        """inverse tangent, in radians"""

    def arctan(self) -> Tensor:
        """inverse tangent, in radians"""

    def atan2(self, other: Operand) -> Tensor:
        """the angle of the point (other, input), in radians"""

    def arctan2(self, other: Operand) -> Tensor:
        """the angle of the point (other, input), in radians"""

    def atanh(self) -> Tensor:
        """inverse hyperbolic tangent"""

    def arctanh(self) -> Tensor:
        """inverse hyperbolic tangent"""

    def baddbmm(self, batch1: Any, batch2: Any, *, beta: Any = ..., alpha: Any = ...) -> Tensor:
        """beta · input + alpha · (batch1 @ batch2), a product for each index of the first dimension"""

    def bincount(self, weights: Any = ..., minlength: builtins.int = ...) -> Tensor:
        """How often each of 0, 1, … occurs in a vector of integers, or the sum of its weights; at least `minlength` numbers"""

    def bitwise_and(self, other: Operand) -> Tensor:
        """the bits set in both"""

    def bitwise_left_shift(self, other: Operand) -> Tensor:
        """input · 2 ^ other; 0 where all bits are shifted out"""

    def bitwise_not(self) -> Tensor:
        """every bit flipped"""

    def bitwise_or(self, other: Operand) -> Tensor:
        """the bits set in either"""

    def bitwise_right_shift(self, other: Operand) -> Tensor:
        """⌊input / 2 ^ other⌋"""

    def bitwise_xor(self, other: Operand) -> Tensor:
        """the bits set in exactly one"""

    def bmm(self, mat2: Tensor) -> Tensor:
        """The products of two stacks of matrices"""

    def broadcast_to(self, shape: Any) -> Tensor:
        """The elements repeated along dimensions of length 1 and new leading ones; a read-only view"""

    def ceil(self) -> Tensor:
        """the smallest whole number ≥ input"""

    def celu(self, alpha: builtins.float = ..., inplace: builtins.bool = ...) -> Tensor:
        """max(0, x) + min(0, alpha · (e^(x/alpha) − 1)) (Barron 2017). `inplace` changes nothing."""

    def cholesky(self, upper: builtins.bool = ...) -> Tensor:
        """`linalg.cholesky`"""

    def cholesky_inverse(self, upper: builtins.bool = ...) -> Tensor:
        """(L Lᴴ)⁻¹, or (Lᴴ L)⁻¹ where the triangle is the `upper` one"""

    def cholesky_solve(self, L: Any, upper: builtins.bool = ...) -> Tensor:
        """The X with L Lᴴ X = B, or Lᴴ L X = B where the triangle is the `upper` one"""

    def chunk(self, chunks: builtins.int, dim: builtins.int = ...) -> builtins.tuple[Tensor, ...]:
        """`chunks` views of nearly equal size"""

    def clamp(self, min: Operand | None = ..., max: Operand | None = ...) -> Tensor:
        """min(max(input, min), max); the gradient passes where min ≤ input ≤ max"""

    def clip(self, min: Operand | None = ..., max: Operand | None = ...) -> Tensor:
        """min(max(input, min), max); the gradient passes where min ≤ input ≤ max"""

    def clamp_max(self, max: Operand | None) -> Tensor:
        """min(input, max)"""

    def clamp_min(self, min: Operand | None) -> Tensor:
        """max(input, min)"""

    def clone(self, *, memory_format: Any = ...) -> Tensor:
        """A copy, through which gradients flow"""

    def combinations(self, r: builtins.int = ..., with_replacement: builtins.bool = ...) -> Tensor:
        """All sets of `r` elements of a vector, in order, as rows"""

    def conj(self) -> Tensor:
        """The complex conjugate, computed at once; a real tensor itself"""

    def conj_physical(self) -> Tensor:
        """The complex conjugate; a real tensor itself"""

    def contiguous(self, memory_format: Any = ...) -> Tensor:
        """The tensor itself if its memory is in row order, else a copy that is"""

    def copysign(self, other: Operand) -> Tensor:
        """|input| with the sign of other"""

    def corrcoef(self) -> Tensor:
        """The correlations of variables in rows, of observations in columns, limited to −1 … 1 (complex ones, both parts)"""

    def cos(self) -> Tensor:
        """cosine, in radians"""

    def cosh(self) -> Tensor:
        """hyperbolic cosine"""

    def count_nonzero(self, dim: Any = ...) -> Tensor:
        """How many elements over `dim` (None: of all) are non-zero"""

    def cov(self, *, correction: builtins.int = ..., fweights: Any = ..., aweights: Any = ...) -> Tensor:
        """The covariances of variables in rows, of observations in columns: Σ w (x − x̄) conj(y − ȳ) / (Σ w − correction)"""

    def cross(self, other: Operand, dim: builtins.int | None = ...) -> Tensor:
        """The cross product along `dim`, by default the first dimension of length 3; the other dimensions broadcast"""

    def cummax(self, dim: builtins.int) -> ValuesAndIndices:
        """(values, indices) of the largest element so far along `dim`, of equal ones the last; NaN is the largest"""

    def cummin(self, dim: builtins.int) -> ValuesAndIndices:
        """(values, indices) of the smallest element so far along `dim`, of equal ones the last; NaN counts as the smallest"""

    def cumprod(self, dim: builtins.int, *, dtype: Any = ...) -> Tensor:
        """Running products along `dim`"""

    def cumsum(self, dim: builtins.int, *, dtype: Any = ...) -> Tensor:
        """Running sums along `dim`"""

    def deg2rad(self) -> Tensor:
        """degrees as radians"""

    def diag(self, diagonal: builtins.int = ...) -> Tensor:
        """The matrix that has a vector as its diagonal; the diagonal of a matrix, as a copy"""

    def diag_embed(self, offset: builtins.int = ..., dim1: builtins.int = ..., dim2: builtins.int = ...) -> Tensor:
        """Matrices with `input`'s last dimension on their diagonals, zeros elsewhere"""

    def diagflat(self, offset: builtins.int = ...) -> Tensor:
        """The matrix that has all elements of `input` as its diagonal"""

    def diagonal(self, offset: builtins.int = ..., dim1: builtins.int = ..., dim2: builtins.int = ...) -> Tensor:
        """The diagonal of dimensions `dim1` and `dim2`, as the last dimension; `offset`: how far above. A view"""

    def diagonal_scatter(self, src: Tensor, offset: builtins.int = ..., dim1: builtins.int = ..., dim2: builtins.int = ...) -> Tensor:
        """`input` with `src` on the diagonal"""

    def diff(self, n: builtins.int = ..., dim: builtins.int = ..., prepend: Any = ..., append: Any = ...) -> Tensor:
        """The n-th differences of neighbours along `dim`, of `prepend`, `input` and `append` joined; of bools, whether they differ"""

    def digamma(self) -> Tensor:
        """ψ(input), the derivative of ln Γ"""

    def dist(self, other: Operand, p: Any = ...) -> Tensor:
        """‖input − other‖ₚ of all elements; the shapes broadcast"""

    def div(self, other: Operand, *, rounding_mode: Any = ...) -> Tensor:
        """input / other; `rounding_mode` "floor" or "trunc" rounds the quotient and keeps integers integer"""

    def divide(self, other: Operand, *, rounding_mode: Any = ...) -> Tensor:
        """input / other; `rounding_mode` "floor" or "trunc" rounds the quotient and keeps integers integer"""

    def dot(self, tensor: Tensor) -> Tensor:
        """Σ input · tensor for two vectors"""

    def dsplit(self, indices_or_sections: Any) -> builtins.tuple[Tensor, ...]:
        """Parts of the third dimension"""

    def elu(self, alpha: builtins.float = ..., inplace: builtins.bool = ...) -> Tensor:
        """x for x > 0, alpha · (eˣ − 1) otherwise (Clevert et al. 2015). `inplace` changes nothing."""

    def eq(self, other: Operand) -> Tensor:
        """input = other"""

    def erf(self) -> Tensor:
        """2/√π ∫₀ˣ e^(−t²) dt"""

    def erfc(self) -> Tensor:
        """1 − erf(input), without cancellation"""

    def erfinv(self) -> Tensor:
        """the y with erf(y) = input; NaN outside −1 … 1"""

    def exp(self) -> Tensor:
        """e ^ input"""

    def exp2(self) -> Tensor:
        """2 ^ input"""

    def expand(self, *args: Any, size: Any = ...) -> Tensor:
        """`broadcast_to`, where −1 keeps a dimension"""

    def expand_as(self, other: Operand) -> Tensor:
        """`expand` to the shape of `other`"""

    def expm1(self) -> Tensor:
        """e ^ input − 1, exact near 0"""

    def flatten(self, start_dim: builtins.int = ..., end_dim: builtins.int = ...) -> Tensor:
        """The dimensions from `start_dim` to `end_dim` as one"""

    def flip(self, *args: Any, dims: Any = ...) -> Tensor:
        """The order of the elements reversed along `dims`; a copy"""

    def fliplr(self) -> Tensor:
        """The second dimension reversed; a copy"""

    def flipud(self) -> Tensor:
        """The first dimension reversed; a copy"""

    def float_power(self, exponent: Any) -> Tensor:
        """input ^ exponent, computed in float64"""

    def floor(self) -> Tensor:
        """the largest whole number ≤ input"""

    def floor_divide(self, other: Operand) -> Tensor:
        """⌊input / other⌋"""

    def fmax(self, other: Operand) -> Tensor:
        """the larger, of a number and NaN the number"""

    def fmin(self, other: Operand) -> Tensor:
        """the smaller, of a number and NaN the number"""

    def fmod(self, other: Operand) -> Tensor:
        """input − other · trunc(input / other): the sign of `input`"""

    def frac(self) -> Tensor:
        """input − trunc(input)"""

    def frexp(self) -> Any:
        """(mantissa, exponent): input = mantissa · 2 ^ exponent with ½ ≤ |mantissa| < 1; the exponent is int32"""

    def gather(self, dim: builtins.int, index: Tensor) -> Tensor:
        """out[i, j] = input[index[i, j], j] for dim 0, and so on; `index` has the rank of `input`"""

    def gcd(self, other: Operand) -> Tensor:
        """the greatest common divisor"""

    def ge(self, other: Operand) -> Tensor:
        """input ≥ other"""

    def greater_equal(self, other: Operand) -> Tensor:
        """input ≥ other"""

    def gelu(self, approximate: builtins.str = ...) -> Tensor:
        """x · Φ(x), Φ the normal distribution function; "tanh": ½x(1 + tanh(√(2/π)(x + 0.044715x³))) (Hendrycks 2016)"""

    def getitem(self, index: Tensor) -> Tensor:
        """`input[index]`: integers, slices, None and … give a view; integer and bool tensors a copy"""

    def glu(self, dim: builtins.int = ...) -> Tensor:
        """a · sigmoid(b), a and b the halves of x along `dim` (Dauphin et al. 2017)"""

    def gt(self, other: Operand) -> Tensor:
        """input > other"""

    def greater(self, other: Operand) -> Tensor:
        """input > other"""

    def hardshrink(self, lambd: builtins.float = ...) -> Tensor:
        """x where |x| > lambd, 0 elsewhere"""

    def hardsigmoid(self, inplace: builtins.bool = ...) -> Tensor:
        """min(max(x + 3, 0), 6) / 6 (Howard et al. 2019). `inplace` changes nothing."""

    def hardswish(self, inplace: builtins.bool = ...) -> Tensor:
        """x · min(max(x + 3, 0), 6) / 6 (Howard et al. 2019). `inplace` changes nothing."""

    def hardtanh(self, min_val: builtins.float = ..., max_val: builtins.float = ..., inplace: builtins.bool = ...) -> Tensor:
        """min(max(x, min_val), max_val); the slope is 1 strictly inside, and 0 elsewhere. `inplace` changes nothing."""

    def heaviside(self, other: Operand) -> Tensor:
        """0 below 0 and for NaN, other at 0, 1 above"""

    def histc(self, bins: builtins.int = ..., min: Operand | None = ..., max: Operand | None = ...) -> Tensor:
        """How many elements are in each of `bins` equal parts of min … max (equal: of the range of the elements)"""

    def histogram(self, bins: Any = ..., *, range: Any = ..., weight: Tensor | None = ..., density: builtins.bool = ...) -> Any:
        """(hist, bin_edges): the elements (or their weights) in each bin, the last with its right edge."""

    def hsplit(self, indices_or_sections: Any) -> builtins.tuple[Tensor, ...]:
        """Parts of the second dimension (the first, of vectors)"""

    def hypot(self, other: Operand) -> Tensor:
        """√(input² + other²), without overflow"""

    def i0(self) -> Tensor:
        """the modified Bessel function of the first kind of order 0"""

    def index_add(self, dim: builtins.int, index: Tensor, source: Any, *, alpha: Any = ...) -> Tensor:
        """`input` with alpha · the slices of `source` added at the indices of `dim`; equal indices add up"""

    def index_copy(self, dim: builtins.int, index: Tensor, source: Any) -> Tensor:
        """`input` with the slices of `source` written at the indices of `dim`"""

    def index_fill(self, dim: builtins.int, index: Tensor, value: Operand) -> Tensor:
        """`input` with a number (or 0-d tensor) written into the slices that the indices of `dim` name"""

    def index_put(self, indices: Tensor, values: Any, accumulate: builtins.bool = ...) -> Tensor:
        """`input` with `values` written (added, with `accumulate`) at input[indices]"""

    def index_reduce(self, dim: builtins.int, index: Tensor, source: Any, reduce: builtins.str, *, include_self: builtins.bool = ...) -> Tensor:
        """`input` combined with the slices of `source` at the indices of `dim`; `reduce`: "prod", "mean", "amax" or "amin"."""

    def index_select(self, dim: builtins.int, index: Tensor) -> Tensor:
        """The slices of `input` along `dim` that the vector `index` names"""

    def inner(self, other: Operand) -> Tensor:
        """Σ over the last dimension of both: (…, n) and (*, n) to (…, *); with a 0-d tensor, the product"""

    def isclose(self, other: Operand, rtol: builtins.float = ..., atol: builtins.float = ..., equal_nan: builtins.bool = ...) -> Tensor:
        """|input − other| ≤ atol + rtol · |other|; infinities are close to themselves, NaN only with `equal_nan`"""

    def isfinite(self) -> Tensor:
        """input is neither NaN nor infinite"""

    def isinf(self) -> Tensor:
        """input is infinite"""

    def isnan(self) -> Tensor:
        """input is NaN"""

    def isneginf(self) -> Tensor:
        """input is −∞"""

    def isposinf(self) -> Tensor:
        """input is +∞"""

    def isreal(self) -> Tensor:
        """the imaginary part is 0, as that of every real number"""

    def istft(self, n_fft: builtins.int, hop_length: builtins.int | None = ..., win_length: builtins.int | None = ..., window: Any = ..., center: builtins.bool = ..., normalized: builtins.bool = ..., onesided: builtins.bool | None = ..., length: builtins.int | None = ..., return_complex: builtins.bool = ...) -> Tensor:
        """The inverse of `stft` with the same arguments: (…, frequencies, frames) to (…, L)."""

    def kron(self, other: Operand) -> Tensor:
        """The Kronecker product: every element of input times all of other, as blocks"""

    def kthvalue(self, k: builtins.int, dim: builtins.int = ..., keepdim: builtins.bool = ...) -> ValuesAndIndices:
        """(values, indices) of the k-th smallest element along `dim`; k counts from 1"""

    def lcm(self, other: Operand) -> Tensor:
        """the least common multiple"""

    def ldexp(self, other: Operand) -> Tensor:
        """input · 2 ^ other"""

    def le(self, other: Operand) -> Tensor:
        """input ≤ other"""

    def less_equal(self, other: Operand) -> Tensor:
        """input ≤ other"""

    def leaky_relu(self, negative_slope: builtins.float = ..., inplace: builtins.bool = ...) -> Tensor:
        """max(0, x) + negative_slope · min(0, x). `inplace` changes nothing."""

    def lerp(self, end: Any, weight: Tensor) -> Tensor:
        """input + weight · (end − input); `weight` is a number or a tensor"""

    def lgamma(self) -> Tensor:
        """ln |Γ(input)|"""

    def det(self) -> Tensor:
        """The determinant"""

    def inverse(self) -> Tensor:
        """A⁻¹; raises `LinAlgError` for a singular matrix"""

    def matrix_exp(self) -> Tensor:
        """exp(A) = Σ Aᵏ / k!, by scaling and squaring (Higham 2005)"""

    def matrix_power(self, n: builtins.int) -> Tensor:
        """Aⁿ by repeated squaring; a negative n inverts"""

    def slogdet(self) -> Any:
        """(sign, logabsdet): det A = sign · exp(logabsdet), without overflow"""

    def log(self) -> Tensor:
        """ln input"""

    def log10(self) -> Tensor:
        """log₁₀ input"""

    def log1p(self) -> Tensor:
        """ln(1 + input), exact near 0"""

    def log2(self) -> Tensor:
        """log₂ input"""

    def log_softmax(self, dim: builtins.int, dtype: Any = ...) -> Tensor:
        """x − ln Σ eˣ along `dim`, without overflow"""

    def logaddexp(self, other: Operand) -> Tensor:
        """ln(eˣ + eʸ), without overflow"""

    def logaddexp2(self, other: Operand) -> Tensor:
        """log₂(2ˣ + 2ʸ), without overflow"""

    def logcumsumexp(self, dim: builtins.int) -> Tensor:
        """ln of the running sums of eˣ along `dim`, without overflow"""

    def logdet(self) -> Tensor:
        """ln det input; NaN where the determinant is negative"""

    def logical_and(self, other: Operand) -> Tensor:
        """both are non-zero"""

    def logical_not(self) -> Tensor:
        """input is zero"""

    def logical_or(self, other: Operand) -> Tensor:
        """at least one is non-zero"""

    def logical_xor(self, other: Operand) -> Tensor:
        """exactly one is non-zero"""

    def logit(self, eps: builtins.float | None = ...) -> Tensor:
        """ln(x / (1 − x)); with `eps`, x is first limited to eps … 1 − eps. NaN outside 0 … 1"""

    def logsigmoid(self) -> Tensor:
        """ln sigmoid(x) = min(0, x) − ln(1 + e^−|x|)"""

    def logsumexp(self, dim: Any, keepdim: builtins.bool = ...) -> Tensor:
        """ln Σ eˣ over `dim`, without overflow"""

    def lt(self, other: Operand) -> Tensor:
        """input < other"""

    def less(self, other: Operand) -> Tensor:
        """input < other"""

    def lu(self, pivot: builtins.bool = ..., get_infos: builtins.bool = ...) -> Any:
        """(LU, pivots): `linalg.lu_factor`; with `get_infos` also whether a pivot is 0, from 1, for each matrix"""

    def lu_solve(self, LU_data: Any, LU_pivots: Any) -> Tensor:
        """The X with A X = b of the factors that `lu_factor` returned"""

    def masked_fill(self, mask: Tensor, value: Operand) -> Tensor:
        """`value` where `mask`, `input` elsewhere"""

    def masked_scatter(self, mask: Tensor, source: Any) -> Tensor:
        """`input` with the first elements of `source`, in row order, where `mask`"""

    def masked_select(self, mask: Tensor) -> Tensor:
        """The elements of `input` where `mask`, in row order"""

    def matmul(self, other: Operand) -> Tensor:
        """input @ other over the last two dimensions; leading ones broadcast; vectors are rows on the left, columns on the right"""

    def max(self, dim: Any = ..., keepdim: builtins.bool = ...) -> Any:
        """The largest element; with `dim`, (values, indices) along it; with a tensor, the elementwise maximum"""

    def maximum(self, other: Operand) -> Tensor:
        """the larger, NaN where either is; equal values share the gradient"""

    def mean(self, dim: Any = ..., keepdim: builtins.bool = ..., *, dtype: Any = ...) -> Tensor:
        """Σ input / n over `dim` (None: all)"""

    def median(self, dim: builtins.int | None = ..., keepdim: builtins.bool = ...) -> Any:
        """The lower median of all elements; with `dim`, (values, indices) along it. NaN where there is one"""

    def min(self, dim: Any = ..., keepdim: builtins.bool = ...) -> Any:
        """The smallest element; with `dim`, (values, indices) along it; with a tensor, the elementwise minimum"""

    def minimum(self, other: Operand) -> Tensor:
        """the smaller, NaN where either is; equal values share the gradient"""

    def mish(self, inplace: builtins.bool = ...) -> Tensor:
        """x · tanh(ln(1 + eˣ)) (Misra 2019). `inplace` changes nothing."""

    def mm(self, mat2: Tensor) -> Tensor:
        """The product of two matrices"""

    def mode(self, dim: builtins.int = ..., keepdim: builtins.bool = ...) -> ValuesAndIndices:
        """(values, indices) of the most frequent element along `dim`, the smallest of several; the index is that of its last place"""

    def movedim(self, source: Any, destination: Any) -> Tensor:
        """Dimensions `source` moved to the positions `destination`; a view"""

    def moveaxis(self, source: Any, destination: Any) -> Tensor:
        """Dimensions `source` moved to the positions `destination`; a view"""

    def msort(self) -> Tensor:
        """The elements sorted along the first dimension"""

    def mul(self, other: Operand) -> Tensor:
        """input · other"""

    def multiply(self, other: Operand) -> Tensor:
        """input · other"""

    def mv(self, vec: Tensor) -> Tensor:
        """A matrix times a vector"""

    def mvlgamma(self, p: builtins.int) -> Tensor:
        """ln Γₚ(input) = p (p − 1) / 4 · ln π + Σ lgamma(input − k / 2) over k = 0 … p − 1; defined above (p − 1) / 2"""

    def nan_to_num(self, nan: builtins.float | None = ..., posinf: builtins.float | None = ..., neginf: builtins.float | None = ...) -> Tensor:
        """NaN replaced by `nan` (0), +∞ and −∞ by `posinf` and `neginf` (the largest and smallest number of the dtype); of"""

    def nanmean(self, dim: Any = ..., keepdim: builtins.bool = ..., *, dtype: Any = ...) -> Tensor:
        """The mean of the elements that are not NaN over `dim` (None: all)"""

    def nanmedian(self, dim: builtins.int | None = ..., keepdim: builtins.bool = ...) -> Any:
        """`median` of the elements that are not NaN"""

    def nanquantile(self, q: Any, dim: builtins.int | None = ..., keepdim: builtins.bool = ..., *, interpolation: builtins.str = ...) -> Tensor:
        """`quantile` of the elements that are not NaN"""

    def nansum(self, dim: Any = ..., keepdim: builtins.bool = ..., *, dtype: Any = ...) -> Tensor:
        """Σ of the elements that are not NaN over `dim` (None: all)"""

    def narrow(self, dim: builtins.int, start: builtins.int, length: builtins.int) -> Tensor:
        """Elements `start` to `start + length` of dimension `dim`; a view"""

    def narrow_copy(self, dim: builtins.int, start: builtins.int, length: builtins.int) -> Tensor:
        """`narrow`, as a copy"""

    def ne(self, other: Operand) -> Tensor:
        """input ≠ other"""

    def not_equal(self, other: Operand) -> Tensor:
        """input ≠ other"""

    def neg(self) -> Tensor:
        """−input"""

    def negative(self) -> Tensor:
        """−input"""

    def nextafter(self, other: Operand) -> Tensor:
        """the number next to input towards other"""

    def nonzero(self, *, as_tuple: builtins.bool = ...) -> Any:
        """The indices (n × rank, int64) of the elements that are not zero; a tuple of vectors with `as_tuple`"""

    def norm(self, p: Any = ..., dim: Any = ..., keepdim: builtins.bool = ..., dtype: Any = ...) -> Tensor:
        """(Σ |x|ᵖ)^(1/p) over `dim` (None: all elements), also of matrices: "fro" is p = 2. "nuc": `linalg.matrix_norm`"""

    def outer(self, vec2: Tensor) -> Tensor:
        """input ⊗ vec2: every product of an element of one with an element of the other"""

    def ger(self, vec2: Tensor) -> Tensor:
        """input ⊗ vec2: every product of an element of one with an element of the other"""

    def permute(self, *args: Any, dims: Any = ...) -> Tensor:
        """The dimensions in another order; a view"""

    def pinverse(self, rcond: Any = ...) -> Tensor:
        """`linalg.pinv`; singular values up to rcond · the largest count as 0"""

    def polygamma(self, input: Tensor) -> Tensor:
        """The n-th derivative of ψ: (−1)ⁿ⁺¹ n! ζ(n + 1, input); n = 0 is `digamma`."""

    def positive(self) -> Tensor:
        """input, unchanged"""

    def pow(self, other: Operand) -> Tensor:
        """input ^ other; a whole number to a negative power that is a tensor is rounded towards 0, to a number raises."""

    def prelu(self, weight: Tensor) -> Tensor:
        """max(0, x) + weight · min(0, x); input (N, C, *), weight of one number or C of them (He et al. 2015)"""

    def prod(self, dim: builtins.int | None = ..., keepdim: builtins.bool = ..., *, dtype: Any = ...) -> Tensor:
        """Π input over one dimension (None: all), multiplied in pairs"""

    def put(self, index: Tensor, source: Any, accumulate: builtins.bool = ...) -> Tensor:
        """`input` with `source` written (added, with `accumulate`) at indices that count in row order"""

    def qr(self, some: builtins.bool = ...) -> Any:
        """`linalg.qr`, reduced, or complete where not `some`"""

    def quantile(self, q: Any, dim: builtins.int | None = ..., keepdim: builtins.bool = ..., *, interpolation: builtins.str = ...) -> Tensor:
        """The element at the share q of the sorted elements along `dim` (None: of all); a vector q adds a leading dimension."""

    def rad2deg(self) -> Tensor:
        """radians as degrees"""

    def ravel(self) -> Tensor:
        """All elements in one dimension"""

    def reciprocal(self) -> Tensor:
        """1 / input"""

    def relu(self, inplace: builtins.bool = ...) -> Tensor:
        """max(0, x). `inplace` changes nothing."""

    def relu6(self, inplace: builtins.bool = ...) -> Tensor:
        """min(max(x, 0), 6) (Krizhevsky 2010). `inplace` changes nothing."""

    def remainder(self, other: Operand) -> Tensor:
        """input − other · ⌊input / other⌋: the sign of `other`"""

    def renorm(self, p: Any, dim: builtins.int, maxnorm: Any) -> Tensor:
        """`input`, whose slices along `dim` of a larger p-norm are scaled to `maxnorm`"""

    def repeat(self, *args: Any, repeats: Any = ..., dims: Any = ...) -> Tensor:
        """The tensor laid out `repeats` times along each dimension (new ones lead); `tile` calls them `dims`"""

    def tile(self, *args: Any, repeats: Any = ..., dims: Any = ...) -> Tensor:
        """The tensor laid out `repeats` times along each dimension (new ones lead); `tile` calls them `dims`"""

    def repeat_interleave(self, repeats: Any, dim: builtins.int | None = ..., *, output_size: builtins.int | None = ...) -> Tensor:
        """Every element `repeats` times (a number, or a vector of one for each index of `dim`); dim None: of all elements"""

    def reshape(self, *args: Any, shape: Any = ...) -> Tensor:
        """The same elements, in row order, in another shape; one size may be −1. Shares memory where it can"""

    def reshape_as(self, other: Operand) -> Tensor:
        """`reshape` with the shape of `other`"""

    def resolve_conj(self) -> Tensor:
        """The tensor itself: conjugates are computed at once"""

    def resolve_neg(self) -> Tensor:
        """The tensor itself: negatives are computed at once"""

    def roll(self, shifts: Any, dims: Any = ...) -> Tensor:
        """Elements moved by `shifts` along `dims`, around the end"""

    def rot90(self, k: builtins.int = ..., dims: Any = ...) -> Tensor:
        """Turned `k` times by 90°, from the first of `dims` to the second; a copy"""

    def round(self, *, decimals: builtins.int = ...) -> Tensor:
        """the nearest multiple of 10 ^ −decimals, halves to the even one"""

    def rsqrt(self) -> Tensor:
        """1 / √input"""

    def scatter(self, dim: builtins.int, index: Tensor, src: Tensor | None = ..., *, reduce: builtins.str | None = ..., value: Operand = ...) -> Tensor:
        """`input` with src[i, j] (or a number) written at [index[i, j], j] for dim 0, and so on; equal indices: any one of them."""

    def scatter_add(self, dim: builtins.int, index: Tensor, src: Tensor) -> Tensor:
        """`input` with src[i, j] added at [index[i, j], j] for dim 0, and so on"""

    def scatter_reduce(self, dim: builtins.int, index: Tensor, src: Tensor, reduce: builtins.str, *, include_self: builtins.bool = ...) -> Tensor:
        """`input` combined with every src[i, j] at [index[i, j], j] for dim 0, and so on."""

    def select(self, dim: builtins.int, index: builtins.int) -> Tensor:
        """`input` at one index of dimension `dim`; a view"""

    def select_scatter(self, src: Tensor, dim: builtins.int, index: builtins.int) -> Tensor:
        """`input` with `src` at one index of dimension `dim`"""

    def selu(self, inplace: builtins.bool = ...) -> Tensor:
        """1.0507 · (x for x > 0, 1.6733 · (eˣ − 1) otherwise) (Klambauer et al. 2017). `inplace` changes nothing."""

    def sgn(self) -> Tensor:
        """input / |input|, and 0 at 0; the `sign` of real numbers"""

    def sigmoid(self) -> Tensor:
        """1 / (1 + e⁻ˣ)"""

    def sign(self) -> Tensor:
        """−1, 0 or 1; 0 for NaN"""

    def signbit(self) -> Tensor:
        """the sign is set: below 0, or −0.0"""

    def silu(self, inplace: builtins.bool = ...) -> Tensor:
        """x · sigmoid(x) (Elfwing et al. 2017). `inplace` changes nothing."""

    def sin(self) -> Tensor:
        """sine, in radians"""

    def sinc(self) -> Tensor:
        """sin(πx) / (πx), and 1 at 0"""

    def sinh(self) -> Tensor:
        """hyperbolic sine"""

    def slice_scatter(self, src: Tensor, dim: builtins.int = ..., start: builtins.int | None = ..., end: builtins.int | None = ..., step: builtins.int = ...) -> Tensor:
        """`input` with `src` at the indices start, start + step, … below `end` of dimension `dim`"""

    def softmax(self, dim: builtins.int, dtype: Any = ...) -> Tensor:
        """eˣ / Σ eˣ along `dim`, without overflow"""

    def softmin(self, dim: builtins.int, dtype: Any = ...) -> Tensor:
        """e⁻ˣ / Σ e⁻ˣ along `dim`, without overflow"""

    def softplus(self, beta: builtins.float = ..., threshold: builtins.float = ...) -> Tensor:
        """ln(1 + e^(beta·x)) / beta; x itself where beta·x > threshold"""

    def softshrink(self, lambd: builtins.float = ...) -> Tensor:
        """x - lambd for x > lambd, x + lambd for x < -lambd, 0 between; `lambd` ≥ 0"""

    def softsign(self) -> Tensor:
        """x / (1 + |x|)"""

    def sort(self, dim: builtins.int = ..., descending: builtins.bool = ..., *, stable: builtins.bool = ...) -> ValuesAndIndices:
        """(values, indices) sorted along `dim`; NaN is the largest"""

    def split(self, split_size_or_sections: Any, dim: builtins.int = ...) -> builtins.tuple[Tensor, ...]:
        """Views of consecutive parts: of one size (the last may be smaller), or of the sizes listed"""

    def split_with_sizes(self, split_sizes: Any, dim: builtins.int = ...) -> builtins.tuple[Tensor, ...]:
        """`split` into parts of the sizes listed"""

    def sqrt(self) -> Tensor:
        """√input"""

    def square(self) -> Tensor:
        """input²"""

    def squeeze(self, dim: Any = ...) -> Tensor:
        """Without the dimensions of length 1 (or those of them that `dim` names); a view"""

    def std(self, dim: Any = ..., unbiased: Any = ..., *, correction: Any = ..., keepdim: builtins.bool = ...) -> Tensor:
        """√var; its gradient is 0 where the deviation is 0"""

    def stft(self, n_fft: builtins.int, hop_length: builtins.int | None = ..., win_length: builtins.int | None = ..., window: Any = ..., center: builtins.bool = ..., pad_mode: builtins.str = ..., normalized: builtins.bool = ..., onesided: builtins.bool | None = ..., return_complex: builtins.bool | None = ..., align_to_window: builtins.bool | None = ...) -> Tensor:
        """X[…, k, t] = Σⱼ window[j] · input[…, t · hop + j] e^(−2πi jk/n_fft): (L) or (B, L) to (…, frequencies, frames)."""

    def sub(self, other: Operand, *, alpha: Any = ...) -> Tensor:
        """input − alpha · other"""

    def subtract(self, other: Operand, *, alpha: Any = ...) -> Tensor:
        """input − alpha · other"""

    def sum(self, dim: Any = ..., keepdim: builtins.bool = ..., *, dtype: Any = ...) -> Tensor:
        """Σ input over `dim` (None: all); integers and bools add up in int64"""

    def sum_to_size(self, *size: Any) -> Tensor:
        """Σ over the dimensions that broadcasting from `size` would add or stretch"""

    def svd(self, some: builtins.bool = ..., compute_uv: builtins.bool = ...) -> Any:
        """(U, S, V), reduced where `some`: V is the conjugate transpose of that of `linalg.svd`. Without `compute_uv`, U and V are 0"""

    def t(self) -> Tensor:
        """The transpose of a matrix; a vector or number as it is"""

    def take(self, index: Tensor) -> Tensor:
        """The elements of `input` at indices that count in row order"""

    def take_along_dim(self, indices: Tensor, dim: builtins.int | None = ...) -> Tensor:
        """`gather` whose index broadcasts and may count from the end; without `dim`, of all elements in row order"""

    def tan(self) -> Tensor:
        """tangent, in radians"""

    def tanh(self) -> Tensor:
        """hyperbolic tangent"""

    def tanhshrink(self) -> Tensor:
        """x − tanh x"""

    def tensor_split(self, indices_or_sections: Any, dim: builtins.int = ...) -> builtins.tuple[Tensor, ...]:
        """Views of `indices_or_sections` nearly equal parts, or of the parts between the indices listed"""

    def threshold(self, threshold: builtins.float, value: builtins.float, inplace: builtins.bool = ...) -> Tensor:
        """x where x > threshold, value elsewhere. `inplace` changes nothing."""

    def to(self, *targets: Any, dtype: Any = ..., backend: Any = ..., device: Any = ..., non_blocking: builtins.bool = ..., copy: builtins.bool = ..., memory_format: Any = ...) -> Tensor:
        """The tensor in another dtype, on another backend, or both: to("cuda"), to(dc.float64), to(other). Itself if it fits"""

    def topk(self, k: builtins.int, dim: builtins.int = ..., largest: builtins.bool = ..., sorted: builtins.bool = ...) -> ValuesAndIndices:
        """(values, indices) of the k largest (or smallest) elements along `dim`, in order"""

    def trace(self) -> Tensor:
        """Σ of the diagonal of a matrix"""

    def transpose(self, dim0: builtins.int, dim1: builtins.int) -> Tensor:
        """Two dimensions exchanged; a view"""

    def swapaxes(self, dim0: builtins.int, dim1: builtins.int) -> Tensor:
        """Two dimensions exchanged; a view"""

    def swapdims(self, dim0: builtins.int, dim1: builtins.int) -> Tensor:
        """Two dimensions exchanged; a view"""

    def tril(self, diagonal: builtins.int = ...) -> Tensor:
        """The lower triangles of the matrices in the last two dimensions, zero elsewhere"""

    def triu(self, diagonal: builtins.int = ...) -> Tensor:
        """The upper triangles of the matrices in the last two dimensions, zero elsewhere"""

    def true_divide(self, other: Operand) -> Tensor:
        """input / other; integers give float32"""

    def trunc(self) -> Tensor:
        """input without its fraction"""

    def fix(self) -> Tensor:
        """input without its fraction"""

    def unbind(self, dim: builtins.int = ...) -> builtins.tuple[Tensor, ...]:
        """A view per index of dimension `dim`"""

    def unflatten(self, dim: builtins.int, sizes: Any) -> Tensor:
        """Dimension `dim` as several; one size may be −1"""

    def unique(self, sorted: builtins.bool = ..., return_inverse: builtins.bool = ..., return_counts: builtins.bool = ..., dim: builtins.int | None = ...) -> Any:
        """The distinct elements, in order; or the distinct slices along `dim`. Every NaN is distinct."""

    def unique_consecutive(self, return_inverse: builtins.bool = ..., return_counts: builtins.bool = ..., dim: builtins.int | None = ...) -> Any:
        """The first element of each run of equal ones; or the first slice along `dim`. See `unique`"""

    def unsqueeze(self, dim: builtins.int) -> Tensor:
        """With a new dimension of length 1 at `dim`; a view"""

    def var(self, dim: Any = ..., unbiased: Any = ..., *, correction: Any = ..., keepdim: builtins.bool = ...) -> Tensor:
        """Σ|x − mean|² / (n − correction) over `dim` (None: all); correction 1 by default"""

    def vdot(self, other: Operand) -> Tensor:
        """Σ conj(input) · other for two vectors"""

    def view(self, *shape: Any) -> Tensor:
        """`reshape` that never copies; raises where the memory does not allow it"""

    def view_as(self, other: Operand) -> Tensor:
        """`view` with the shape of `other`"""

    def vsplit(self, indices_or_sections: Any) -> builtins.tuple[Tensor, ...]:
        """Parts of the first dimension"""

    def xlogy(self, other: Operand) -> Tensor:
        """input · ln other, and 0 where input is 0; NaN where other is"""

    def __abs__(self) -> Tensor: ...
    def __add__(self, other: Any) -> Tensor: ...
    def __and__(self, other: Any) -> Tensor: ...
    def __dir__(self) -> Tensor: ...
    def __eq__(self, other: Any) -> Tensor: ...  # type: ignore[override]
    def __floordiv__(self, other: Any) -> Tensor: ...
    def __ge__(self, other: Any) -> Tensor: ...
    def __getitem__(self, other: Any) -> Tensor: ...
    def __gt__(self, other: Any) -> Tensor: ...
    def __iadd__(self, other: Any) -> Tensor: ...
    def __iand__(self, other: Any) -> Tensor: ...
    def __ifloordiv__(self, other: Any) -> Tensor: ...
    def __imod__(self, other: Any) -> Tensor: ...
    def __imul__(self, other: Any) -> Tensor: ...
    def __invert__(self) -> Tensor: ...
    def __ior__(self, other: Any) -> Tensor: ...
    def __ipow__(self, other: Any) -> Tensor: ...
    def __isub__(self, other: Any) -> Tensor: ...
    def __itruediv__(self, other: Any) -> Tensor: ...
    def __ixor__(self, other: Any) -> Tensor: ...
    def __le__(self, other: Any) -> Tensor: ...
    def __lshift__(self, other: Any) -> Tensor: ...
    def __lt__(self, other: Any) -> Tensor: ...
    def __matmul__(self, other: Any) -> Tensor: ...
    def __mod__(self, other: Any) -> Tensor: ...
    def __mul__(self, other: Any) -> Tensor: ...
    def __ne__(self, other: Any) -> Tensor: ...  # type: ignore[override]
    def __neg__(self) -> Tensor: ...
    def __or__(self, other: Any) -> Tensor: ...
    def __pos__(self) -> Tensor: ...
    def __pow__(self, other: Any) -> Tensor: ...
    def __radd__(self, other: Any) -> Tensor: ...
    def __rand__(self, other: Any) -> Tensor: ...
    def __rfloordiv__(self, other: Any) -> Tensor: ...
    def __rlshift__(self, other: Any) -> Tensor: ...
    def __rmatmul__(self, other: Any) -> Tensor: ...
    def __rmod__(self, other: Any) -> Tensor: ...
    def __rmul__(self, other: Any) -> Tensor: ...
    def __ror__(self, other: Any) -> Tensor: ...
    def __rpow__(self, other: Any) -> Tensor: ...
    def __rrshift__(self, other: Any) -> Tensor: ...
    def __rshift__(self, other: Any) -> Tensor: ...
    def __rsub__(self, other: Any) -> Tensor: ...
    def __rtruediv__(self, other: Any) -> Tensor: ...
    def __rxor__(self, other: Any) -> Tensor: ...
    def __setitem__(self, index: Any, value: Any) -> None: ...
    def __sub__(self, other: Any) -> Tensor: ...
    def __truediv__(self, other: Any) -> Tensor: ...
    def __xor__(self, other: Any) -> Tensor: ...
    def abs_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def absolute_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def acos_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def acosh_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def add_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def addbmm_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def addcdiv_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def addcmul_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def addmm_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def addmv_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def addr_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def allclose(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def arccos_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def arccosh_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def arcsin_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def arcsinh_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def arctan2_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def arctan_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def arctanh_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def asin_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def asinh_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def astype(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def atan2_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def atan_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def atanh_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def baddbmm_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def bernoulli(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def bernoulli_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def bfloat16(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def bitwise_and_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def bitwise_left_shift_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def bitwise_not_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def bitwise_or_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def bitwise_right_shift_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def bitwise_xor_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def bool(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def byte(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def cauchy_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def cdouble(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def ceil_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def cfloat(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def char(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def clamp_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def clamp_max_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def clamp_min_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def clip_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def conj_physical_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def copy_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def copysign_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def cos_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def cosh_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def cumprod_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def cumsum_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def deg2rad_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def digamma_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def div_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def divide_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def double(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def eq_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def equal(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def erf_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def erfc_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def erfinv_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def exp2_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def exp_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def expm1_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def exponential_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def fill_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def fill_diagonal_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def fix_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def float(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def float_power_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def floor_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def floor_divide_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def fmax_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def fmin_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def fmod_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def frac_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def gcd_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def ge_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def geometric_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def greater_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def greater_equal_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def gt_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def half(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def heaviside_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def hypot_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def i0_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def index_add_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def index_copy_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def index_fill_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def index_put_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def index_reduce_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def int(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def lcm_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def ldexp_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def le_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def lerp_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def less_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def less_equal_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def lgamma_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def log10_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def log1p_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def log2_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def log_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def log_normal_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def logaddexp2_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def logaddexp_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def logical_and_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def logical_or_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def logical_xor_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def logit_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def long(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def lt_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def masked_fill_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def masked_scatter_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def maximum_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def minimum_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def mul_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def multinomial(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def multiply_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def mvlgamma_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def nan_to_num_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def ne_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def neg_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def negative_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def new_empty(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def new_full(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def new_ones(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def new_tensor(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def new_zeros(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def nextafter_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def normal_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def not_equal_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def polygamma_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def pow_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def put_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def rad2deg_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def random_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def reciprocal_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def relu_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def remainder_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def renorm_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def round_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def rsqrt_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def scatter_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def scatter_add_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def scatter_reduce_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def sgn_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def short(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def sigmoid_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def sign_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def sin_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def sinc_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def sinh_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def sqrt_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def square_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def squeeze_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def sub_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def subtract_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def swapaxes_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def swapdims_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def t_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def tan_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def tanh_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def transpose_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def tril_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def triu_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def true_divide_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def trunc_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def type(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def type_as(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def unfold(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def uniform_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def unsqueeze_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def where(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def xlogy_(self, *args: Any, **kwargs: Any) -> Tensor: ...
    def zero_(self, *args: Any, **kwargs: Any) -> Tensor: ...
