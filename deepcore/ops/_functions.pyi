# Written by `python -m deepcore.ops.stubs` from the op registry; not edited by hand.

import builtins
from collections.abc import Sequence
from typing import Any

from deepcore.ops.reduction import ValuesAndIndices
from deepcore.tensor import Tensor

Operand = Tensor | builtins.complex | builtins.float | builtins.int | builtins.bool

def abs(input: Tensor) -> Tensor:
    """|input|"""

def absolute(input: Tensor) -> Tensor:
    """|input|"""

def acos(input: Tensor) -> Tensor:
    """inverse cosine, in radians"""

def arccos(input: Tensor) -> Tensor:
    """inverse cosine, in radians"""

def acosh(input: Tensor) -> Tensor:
    """inverse hyperbolic cosine"""

def arccosh(input: Tensor) -> Tensor:
    """inverse hyperbolic cosine"""

def adaptive_avg_pool1d(input: Tensor, output_size: builtins.int | builtins.tuple[builtins.int | None, ...] | None) -> Tensor:
    """The mean of each of `output_size` windows that cover the input: (N, C, L) → (N, C, *output_size)."""

def adaptive_avg_pool2d(input: Tensor, output_size: builtins.int | builtins.tuple[builtins.int | None, ...] | None) -> Tensor:
    """The mean of each of `output_size` windows that cover the input: (N, C, H, W) → (N, C, *output_size)."""

def adaptive_avg_pool3d(input: Tensor, output_size: builtins.int | builtins.tuple[builtins.int | None, ...] | None) -> Tensor:
    """The mean of each of `output_size` windows that cover the input: (N, C, D, H, W) → (N, C, *output_size)."""

def adaptive_max_pool1d(input: Tensor, output_size: builtins.int | builtins.tuple[builtins.int | None, ...] | None, return_indices: builtins.bool = ...) -> Any:
    """The largest element of each of `output_size` windows that cover the input: (N, C, L) → (N, C, *output_size)."""

def adaptive_max_pool2d(input: Tensor, output_size: builtins.int | builtins.tuple[builtins.int | None, ...] | None, return_indices: builtins.bool = ...) -> Any:
    """The largest element of each of `output_size` windows that cover the input: (N, C, H, W) → (N, C, *output_size)."""

def adaptive_max_pool3d(input: Tensor, output_size: builtins.int | builtins.tuple[builtins.int | None, ...] | None, return_indices: builtins.bool = ...) -> Any:
    """The largest element of each of `output_size` windows that cover the input: (N, C, D, H, W) → (N, C, *output_size)."""

def add(input: Tensor, other: Operand, *, alpha: Any = ...) -> Tensor:
    """input + alpha · other"""

def addbmm(input: Tensor, batch1: Any, batch2: Any, *, beta: Any = ..., alpha: Any = ...) -> Tensor:
    """beta · input + alpha · Σ batch1 @ batch2, summed over the first dimension"""

def addcdiv(input: Tensor, tensor1: Any, tensor2: Any, *, value: Operand = ...) -> Tensor:
    """input + value · tensor1 / tensor2"""

def addcmul(input: Tensor, tensor1: Any, tensor2: Any, *, value: Operand = ...) -> Tensor:
    """input + value · tensor1 · tensor2"""

def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = ..., alpha: Any = ...) -> Tensor:
    """beta · input + alpha · (mat1 @ mat2)"""

def addmv(input: Tensor, mat: Any, vec: Tensor, *, beta: Any = ..., alpha: Any = ...) -> Tensor:
    """beta · input + alpha · (mat @ vec)"""

def addr(input: Tensor, vec1: Any, vec2: Tensor, *, beta: Any = ..., alpha: Any = ...) -> Tensor:
    """beta · input + alpha · (vec1 ⊗ vec2)"""

def adjoint(input: Tensor) -> Tensor:
    """The last two dimensions exchanged, a view; of complex numbers the conjugates"""

def affine_grid(theta: Any, size: Any, align_corners: builtins.bool = ...) -> Tensor:
    """grid[n, y, x] = theta[n] · (x', y', 1), where x' and y' go from -1 to 1 over the image, for `grid_sample`."""

def alias(input: Tensor) -> Tensor:
    """The same elements as a new tensor over the same memory"""

def all(input: Tensor, dim: Any = ..., keepdim: builtins.bool = ...) -> Tensor:
    """Whether every element over `dim` (None: of all) is non-zero; uint8 for uint8, else bool"""

def amax(input: Tensor, dim: Any = ..., keepdim: builtins.bool = ...) -> Tensor:
    """The largest element over `dim` (None: all); equal ones share the gradient"""

def amin(input: Tensor, dim: Any = ..., keepdim: builtins.bool = ...) -> Tensor:
    """The smallest element over `dim` (None: all); equal ones share the gradient"""

def aminmax(input: Tensor, *, dim: builtins.int | None = ..., keepdim: builtins.bool = ...) -> Any:
    """(min, max) over one dimension (None: all); equal ones share the gradient"""

def angle(input: Tensor) -> Tensor:
    """The angle of a number with the positive axis, in radians (−π … π); of a real number 0, π below 0, or NaN"""

def any(input: Tensor, dim: Any = ..., keepdim: builtins.bool = ...) -> Tensor:
    """Whether some element over `dim` (None: of all) is non-zero; uint8 for uint8, else bool"""

def argmax(input: Tensor, dim: builtins.int | None = ..., keepdim: builtins.bool = ...) -> Tensor:
    """The index (int64) of the first largest element along `dim` (None: of all, counted in row order)"""

def argmin(input: Tensor, dim: builtins.int | None = ..., keepdim: builtins.bool = ...) -> Tensor:
    """The index (int64) of the first smallest element along `dim` (None: of all, counted in row order)"""

def argsort(input: Tensor, dim: builtins.int = ..., descending: builtins.bool = ..., stable: builtins.bool = ...) -> Tensor:
    """The indices (int64) that sort along `dim`; equal elements keep their order"""

def argwhere(input: Tensor) -> Tensor:
    """The indices (n × rank, int64) of the elements that are not zero"""

def asin(input: Tensor) -> Tensor:
    """inverse sine, in radians"""

def arcsin(input: Tensor) -> Tensor:
    """inverse sine, in radians"""

def asinh(input: Tensor) -> Tensor:
    """inverse hyperbolic sine"""

def arcsinh(input: Tensor) -> Tensor:
    """inverse hyperbolic sine"""

def atan(input: Tensor) -> Tensor:
    """inverse tangent, in radians"""

def arctan(input: Tensor) -> Tensor:
    """inverse tangent, in radians"""

def atan2(input: Tensor, other: Operand) -> Tensor:
    """the angle of the point (other, input), in radians"""

def arctan2(input: Tensor, other: Operand) -> Tensor:
    """the angle of the point (other, input), in radians"""

def atanh(input: Tensor) -> Tensor:
    """inverse hyperbolic tangent"""

def arctanh(input: Tensor) -> Tensor:
    """inverse hyperbolic tangent"""

def atleast_1d(*tensors: Sequence[Tensor]) -> Any:
    """The tensors with at least 1 dimensions: those of length 1 that are missing are added"""

def atleast_2d(*tensors: Sequence[Tensor]) -> Any:
    """The tensors with at least 2 dimensions: those of length 1 that are missing are added"""

def atleast_3d(*tensors: Sequence[Tensor]) -> Any:
    """The tensors with at least 3 dimensions: those of length 1 that are missing are added"""

def avg_pool1d(input: Tensor, kernel_size: builtins.int | builtins.tuple[builtins.int, ...], stride: builtins.int | builtins.tuple[builtins.int, ...] | None = ..., padding: builtins.int | builtins.tuple[builtins.int, ...] = ..., ceil_mode: builtins.bool = ..., count_include_pad: builtins.bool = ...) -> Tensor:
    """The mean of each window: (N, C, L) → the same with ⌊(L + 2·padding - kernel_size) / stride⌋ + 1 windows along each"""

def avg_pool2d(input: Tensor, kernel_size: builtins.int | builtins.tuple[builtins.int, ...], stride: builtins.int | builtins.tuple[builtins.int, ...] | None = ..., padding: builtins.int | builtins.tuple[builtins.int, ...] = ..., ceil_mode: builtins.bool = ..., count_include_pad: builtins.bool = ..., divisor_override: builtins.int | None = ...) -> Tensor:
    """The mean of each window: (N, C, H, W) → the same with ⌊(L + 2·padding - kernel_size) / stride⌋ + 1 windows along each"""

def avg_pool3d(input: Tensor, kernel_size: builtins.int | builtins.tuple[builtins.int, ...], stride: builtins.int | builtins.tuple[builtins.int, ...] | None = ..., padding: builtins.int | builtins.tuple[builtins.int, ...] = ..., ceil_mode: builtins.bool = ..., count_include_pad: builtins.bool = ..., divisor_override: builtins.int | None = ...) -> Tensor:
    """The mean of each window: (N, C, D, H, W) → the same with ⌊(L + 2·padding - kernel_size) / stride⌋ + 1 windows along each"""

def baddbmm(input: Tensor, batch1: Any, batch2: Any, *, beta: Any = ..., alpha: Any = ...) -> Tensor:
    """beta · input + alpha · (batch1 @ batch2), a product for each index of the first dimension"""

def bincount(input: Tensor, weights: Any = ..., minlength: builtins.int = ...) -> Tensor:
    """How often each of 0, 1, … occurs in a vector of integers, or the sum of its weights; at least `minlength` numbers"""

def bitwise_and(input: Tensor, other: Operand) -> Tensor:
    """the bits set in both"""

def bitwise_left_shift(input: Tensor, other: Operand) -> Tensor:
    """input · 2 ^ other; 0 where all bits are shifted out"""

def bitwise_not(input: Tensor) -> Tensor:
    """every bit flipped"""

def bitwise_or(input: Tensor, other: Operand) -> Tensor:
    """the bits set in either"""

def bitwise_right_shift(input: Tensor, other: Operand) -> Tensor:
    """⌊input / 2 ^ other⌋"""

def bitwise_xor(input: Tensor, other: Operand) -> Tensor:
    """the bits set in exactly one"""

def block_diag(*tensors: Sequence[Tensor]) -> Tensor:
    """The matrices along the diagonal of one, zeros elsewhere; vectors are rows"""

def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """The products of two stacks of matrices"""

def broadcast_tensors(*tensors: Sequence[Tensor]) -> builtins.tuple[Tensor, ...]:
    """All tensors broadcast to their common shape"""

def broadcast_to(input: Tensor, shape: Any) -> Tensor:
    """The elements repeated along dimensions of length 1 and new leading ones; a read-only view"""

def bucketize(input: Tensor, boundaries: Any, *, out_int32: builtins.bool = ..., right: builtins.bool = ...) -> Tensor:
    """The number of the bucket of each element: boundaries[i − 1] < x ≤ boundaries[i], or ≤ and < if `right`"""

def cartesian_prod(*tensors: Sequence[Tensor]) -> Tensor:
    """All tuples of an element of each vector, as rows"""

def cat(tensors: Sequence[Tensor], dim: builtins.int = ...) -> Tensor:
    """The tensors joined along an existing dimension"""

def concat(tensors: Sequence[Tensor], dim: builtins.int = ...) -> Tensor:
    """The tensors joined along an existing dimension"""

def concatenate(tensors: Sequence[Tensor], dim: builtins.int = ...) -> Tensor:
    """The tensors joined along an existing dimension"""

def cdist(x1: Any, x2: Any, p: builtins.float = ..., compute_mode: builtins.str = ...) -> Tensor:
    """‖x1ᵢ − x2ⱼ‖ₚ of all pairs of rows: (…, P, M) and (…, R, M) to (…, P, R). `compute_mode` changes nothing"""

def ceil(input: Tensor) -> Tensor:
    """the smallest whole number ≥ input"""

def celu(input: Tensor, alpha: builtins.float = ..., inplace: builtins.bool = ...) -> Tensor:
    """max(0, x) + min(0, alpha · (e^(x/alpha) − 1)) (Barron 2017). `inplace` changes nothing."""

def chain_matmul(*matrices: Any) -> Tensor:
    """`linalg.multi_dot`"""

def channel_shuffle(input: Tensor, groups: builtins.int) -> Tensor:
    """out[n, i·groups + g] = input[n, g·(C / groups) + i]: channels of all groups take turns. (Zhang et al., 2018)"""

def cholesky(input: Tensor, upper: builtins.bool = ...) -> Tensor:
    """`linalg.cholesky`"""

def cholesky_inverse(L: Any, upper: builtins.bool = ...) -> Tensor:
    """(L Lᴴ)⁻¹, or (Lᴴ L)⁻¹ where the triangle is the `upper` one"""

def cholesky_solve(B: Any, L: Any, upper: builtins.bool = ...) -> Tensor:
    """The X with L Lᴴ X = B, or Lᴴ L X = B where the triangle is the `upper` one"""

def chunk(input: Tensor, chunks: builtins.int, dim: builtins.int = ...) -> builtins.tuple[Tensor, ...]:
    """`chunks` views of nearly equal size"""

def clamp(input: Tensor, min: Operand | None = ..., max: Operand | None = ...) -> Tensor:
    """min(max(input, min), max); the gradient passes where min ≤ input ≤ max"""

def clip(input: Tensor, min: Operand | None = ..., max: Operand | None = ...) -> Tensor:
    """min(max(input, min), max); the gradient passes where min ≤ input ≤ max"""

def clamp_max(input: Tensor, max: Operand | None) -> Tensor:
    """min(input, max)"""

def clamp_min(input: Tensor, min: Operand | None) -> Tensor:
    """max(input, min)"""

def clone(input: Tensor, *, memory_format: Any = ...) -> Tensor:
    """A copy, through which gradients flow"""

def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the second dimension; vectors are columns"""

def combinations(input: Tensor, r: builtins.int = ..., with_replacement: builtins.bool = ...) -> Tensor:
    """All sets of `r` elements of a vector, in order, as rows"""

def complex(real: Any, imag: Any) -> Tensor:
    """real + i · imag, of tensors of one floating dtype; the shapes broadcast"""

def conj(input: Tensor) -> Tensor:
    """The complex conjugate, computed at once; a real tensor itself"""

def conj_physical(input: Tensor) -> Tensor:
    """The complex conjugate; a real tensor itself"""

def contiguous(input: Tensor, memory_format: Any = ...) -> Tensor:
    """The tensor itself if its memory is in row order, else a copy that is"""

def conv1d(input: Tensor, weight: Tensor, bias: Tensor | None = ..., stride: builtins.int | builtins.tuple[builtins.int, ...] = ..., padding: builtins.int | builtins.tuple[builtins.int, ...] | builtins.str = ..., dilation: builtins.int | builtins.tuple[builtins.int, ...] = ..., groups: builtins.int = ...) -> Tensor:
    """out[n, o, t] = bias[o] + Σ weight[o, c, i] · input[n, c, t·stride + i·dilation - padding]"""

def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = ..., stride: builtins.int | builtins.tuple[builtins.int, ...] = ..., padding: builtins.int | builtins.tuple[builtins.int, ...] | builtins.str = ..., dilation: builtins.int | builtins.tuple[builtins.int, ...] = ..., groups: builtins.int = ...) -> Tensor:
    """out[n, o, y, x] = bias[o] + Σ weight[o, c, i, j] · input[n, c, y·stride + i·dilation - padding, x·… + j·… - …]"""

def conv3d(input: Tensor, weight: Tensor, bias: Tensor | None = ..., stride: builtins.int | builtins.tuple[builtins.int, ...] = ..., padding: builtins.int | builtins.tuple[builtins.int, ...] | builtins.str = ..., dilation: builtins.int | builtins.tuple[builtins.int, ...] = ..., groups: builtins.int = ...) -> Tensor:
    """out[n, o, z, y, x] = bias[o] + Σ weight[o, c, h, i, j] · input[n, c, z·stride + h·dilation - padding, y·…, x·…]"""

def conv_transpose1d(input: Tensor, weight: Tensor, bias: Tensor | None = ..., stride: builtins.int | builtins.tuple[builtins.int, ...] = ..., padding: builtins.int | builtins.tuple[builtins.int, ...] = ..., output_padding: builtins.int | builtins.tuple[builtins.int, ...] = ..., groups: builtins.int = ..., dilation: builtins.int | builtins.tuple[builtins.int, ...] = ...) -> Tensor:
    """The transpose of `conv1d`: out[n, o, t·stride + i·dilation - padding] += weight[c, o, i] · input[n, c, t], plus bias[o]."""

def conv_transpose2d(input: Tensor, weight: Tensor, bias: Tensor | None = ..., stride: builtins.int | builtins.tuple[builtins.int, ...] = ..., padding: builtins.int | builtins.tuple[builtins.int, ...] = ..., output_padding: builtins.int | builtins.tuple[builtins.int, ...] = ..., groups: builtins.int = ..., dilation: builtins.int | builtins.tuple[builtins.int, ...] = ...) -> Tensor:
    """The transpose of `conv2d`: its gradient with respect to the image, plus bias."""

def conv_transpose3d(input: Tensor, weight: Tensor, bias: Tensor | None = ..., stride: builtins.int | builtins.tuple[builtins.int, ...] = ..., padding: builtins.int | builtins.tuple[builtins.int, ...] = ..., output_padding: builtins.int | builtins.tuple[builtins.int, ...] = ..., groups: builtins.int = ..., dilation: builtins.int | builtins.tuple[builtins.int, ...] = ...) -> Tensor:
    """The transpose of `conv3d`: its gradient with respect to the image, plus bias."""

def copysign(input: Tensor, other: Operand) -> Tensor:
    """|input| with the sign of other"""

def corrcoef(input: Tensor) -> Tensor:
    """The correlations of variables in rows, of observations in columns, limited to −1 … 1 (complex ones, both parts)"""

def cos(input: Tensor) -> Tensor:
    """cosine, in radians"""

def cosh(input: Tensor) -> Tensor:
    """hyperbolic cosine"""

def count_nonzero(input: Tensor, dim: Any = ...) -> Tensor:
    """How many elements over `dim` (None: of all) are non-zero"""

def cov(input: Tensor, *, correction: builtins.int = ..., fweights: Any = ..., aweights: Any = ...) -> Tensor:
    """The covariances of variables in rows, of observations in columns: Σ w (x − x̄) conj(y − ȳ) / (Σ w − correction)"""

def cross(input: Tensor, other: Operand, dim: builtins.int | None = ...) -> Tensor:
    """The cross product along `dim`, by default the first dimension of length 3; the other dimensions broadcast"""

def cummax(input: Tensor, dim: builtins.int) -> ValuesAndIndices:
    """(values, indices) of the largest element so far along `dim`, of equal ones the last; NaN is the largest"""

def cummin(input: Tensor, dim: builtins.int) -> ValuesAndIndices:
    """(values, indices) of the smallest element so far along `dim`, of equal ones the last; NaN counts as the smallest"""

def cumprod(input: Tensor, dim: builtins.int, *, dtype: Any = ...) -> Tensor:
    """Running products along `dim`"""

def cumsum(input: Tensor, dim: builtins.int, *, dtype: Any = ...) -> Tensor:
    """Running sums along `dim`"""

def cumulative_trapezoid(y: Any, x: Any = ..., *, dx: Any = ..., dim: builtins.int = ...) -> Tensor:
    """The running integral of y along `dim` by trapezoids: one number less than y"""

def deg2rad(input: Tensor) -> Tensor:
    """degrees as radians"""

def diag(input: Tensor, diagonal: builtins.int = ...) -> Tensor:
    """The matrix that has a vector as its diagonal; the diagonal of a matrix, as a copy"""

def diag_embed(input: Tensor, offset: builtins.int = ..., dim1: builtins.int = ..., dim2: builtins.int = ...) -> Tensor:
    """Matrices with `input`'s last dimension on their diagonals, zeros elsewhere"""

def diagflat(input: Tensor, offset: builtins.int = ...) -> Tensor:
    """The matrix that has all elements of `input` as its diagonal"""

def diagonal(input: Tensor, offset: builtins.int = ..., dim1: builtins.int = ..., dim2: builtins.int = ...) -> Tensor:
    """The diagonal of dimensions `dim1` and `dim2`, as the last dimension; `offset`: how far above. A view"""

def diagonal_scatter(input: Tensor, src: Tensor, offset: builtins.int = ..., dim1: builtins.int = ..., dim2: builtins.int = ...) -> Tensor:
    """`input` with `src` on the diagonal"""

def diff(input: Tensor, n: builtins.int = ..., dim: builtins.int = ..., prepend: Any = ..., append: Any = ...) -> Tensor:
    """The n-th differences of neighbours along `dim`, of `prepend`, `input` and `append` joined; of bools, whether they differ"""

def digamma(input: Tensor) -> Tensor:
    """ψ(input), the derivative of ln Γ"""

def dist(input: Tensor, other: Operand, p: Any = ...) -> Tensor:
    """‖input − other‖ₚ of all elements; the shapes broadcast"""

def div(input: Tensor, other: Operand, *, rounding_mode: Any = ...) -> Tensor:
    """input / other; `rounding_mode` "floor" or "trunc" rounds the quotient and keeps integers integer"""

def divide(input: Tensor, other: Operand, *, rounding_mode: Any = ...) -> Tensor:
    """input / other; `rounding_mode` "floor" or "trunc" rounds the quotient and keeps integers integer"""

def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """Σ input · tensor for two vectors"""

def dsplit(input: Tensor, indices_or_sections: Any) -> builtins.tuple[Tensor, ...]:
    """Parts of the third dimension"""

def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the third dimension; vectors and matrices gain it"""

def einsum(equation: builtins.str, *operands: Tensor) -> Tensor:
    """Products of elements with equal labels, summed over the labels that the result does not name ("ij,jk->ik")"""

def elu(input: Tensor, alpha: builtins.float = ..., inplace: builtins.bool = ...) -> Tensor:
    """x for x > 0, alpha · (eˣ − 1) otherwise (Clevert et al. 2015). `inplace` changes nothing."""

def embedding(input: Tensor, weight: Tensor, padding_idx: builtins.int | None = ..., max_norm: builtins.float | None = ..., norm_type: builtins.float = ...) -> Tensor:
    """weight[input]: a row of `weight` for every index; the row `padding_idx` gets no gradient."""

def eq(input: Tensor, other: Operand) -> Tensor:
    """input = other"""

def erf(input: Tensor) -> Tensor:
    """2/√π ∫₀ˣ e^(−t²) dt"""

def erfc(input: Tensor) -> Tensor:
    """1 − erf(input), without cancellation"""

def erfinv(input: Tensor) -> Tensor:
    """the y with erf(y) = input; NaN outside −1 … 1"""

def exp(input: Tensor) -> Tensor:
    """e ^ input"""

def exp2(input: Tensor) -> Tensor:
    """2 ^ input"""

def expand(input: Tensor, *args: Any, size: Any = ...) -> Tensor:
    """`broadcast_to`, where −1 keeps a dimension"""

def expand_as(input: Tensor, other: Operand) -> Tensor:
    """`expand` to the shape of `other`"""

def expm1(input: Tensor) -> Tensor:
    """e ^ input − 1, exact near 0"""

def flatten(input: Tensor, start_dim: builtins.int = ..., end_dim: builtins.int = ...) -> Tensor:
    """The dimensions from `start_dim` to `end_dim` as one"""

def flip(input: Tensor, *args: Any, dims: Any = ...) -> Tensor:
    """The order of the elements reversed along `dims`; a copy"""

def fliplr(input: Tensor) -> Tensor:
    """The second dimension reversed; a copy"""

def flipud(input: Tensor) -> Tensor:
    """The first dimension reversed; a copy"""

def float_power(input: Tensor, exponent: Any) -> Tensor:
    """input ^ exponent, computed in float64"""

def floor(input: Tensor) -> Tensor:
    """the largest whole number ≤ input"""

def floor_divide(input: Tensor, other: Operand) -> Tensor:
    """⌊input / other⌋"""

def fmax(input: Tensor, other: Operand) -> Tensor:
    """the larger, of a number and NaN the number"""

def fmin(input: Tensor, other: Operand) -> Tensor:
    """the smaller, of a number and NaN the number"""

def fmod(input: Tensor, other: Operand) -> Tensor:
    """input − other · trunc(input / other): the sign of `input`"""

def frac(input: Tensor) -> Tensor:
    """input − trunc(input)"""

def frexp(input: Tensor) -> Any:
    """(mantissa, exponent): input = mantissa · 2 ^ exponent with ½ ≤ |mantissa| < 1; the exponent is int32"""

def gather(input: Tensor, dim: builtins.int, index: Tensor) -> Tensor:
    """out[i, j] = input[index[i, j], j] for dim 0, and so on; `index` has the rank of `input`"""

def gcd(input: Tensor, other: Operand) -> Tensor:
    """the greatest common divisor"""

def ge(input: Tensor, other: Operand) -> Tensor:
    """input ≥ other"""

def greater_equal(input: Tensor, other: Operand) -> Tensor:
    """input ≥ other"""

def gelu(input: Tensor, approximate: builtins.str = ...) -> Tensor:
    """x · Φ(x), Φ the normal distribution function; "tanh": ½x(1 + tanh(√(2/π)(x + 0.044715x³))) (Hendrycks 2016)"""

def getitem(input: Tensor, index: Tensor) -> Tensor:
    """`input[index]`: integers, slices, None and … give a view; integer and bool tensors a copy"""

def glu(input: Tensor, dim: builtins.int = ...) -> Tensor:
    """a · sigmoid(b), a and b the halves of x along `dim` (Dauphin et al. 2017)"""

def grid_sample(input: Tensor, grid: Any, mode: builtins.str = ..., padding_mode: builtins.str = ..., align_corners: builtins.bool | None = ...) -> Tensor:
    """out[n, :, y, x] = input[n, :, …] at the point grid[n, y, x] = (x', y'), where -1 and 1 are the image's edges."""

def gru(input: Tensor, hx: Any, params: Any, has_biases: builtins.bool, num_layers: builtins.int, dropout: builtins.float, train: builtins.bool, bidirectional: builtins.bool, batch_first: builtins.bool = ...) -> builtins.tuple[Tensor, ...]:
    """(output, hₙ) of stacked GRU layers: what `nn.GRU` computes. `params` as in its state dict, `hx` is h₀."""

def gru_cell(input: Tensor, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = ..., b_hh: Any = ...) -> Tensor:
    """h' = (1 - z) n + z h, n = tanh(xₙ + r (h Wₙᵀ + bₙ)), (r, z) = σ(x + h Wₕᵀ + bₕ), where x is x Wᵢᵀ + bᵢ."""

def gt(input: Tensor, other: Operand) -> Tensor:
    """input > other"""

def greater(input: Tensor, other: Operand) -> Tensor:
    """input > other"""

def hardshrink(input: Tensor, lambd: builtins.float = ...) -> Tensor:
    """x where |x| > lambd, 0 elsewhere"""

def hardsigmoid(input: Tensor, inplace: builtins.bool = ...) -> Tensor:
    """min(max(x + 3, 0), 6) / 6 (Howard et al. 2019). `inplace` changes nothing."""

def hardswish(input: Tensor, inplace: builtins.bool = ...) -> Tensor:
    """x · min(max(x + 3, 0), 6) / 6 (Howard et al. 2019). `inplace` changes nothing."""

def hardtanh(input: Tensor, min_val: builtins.float = ..., max_val: builtins.float = ..., inplace: builtins.bool = ...) -> Tensor:
    """min(max(x, min_val), max_val); the slope is 1 strictly inside, and 0 elsewhere. `inplace` changes nothing."""

def heaviside(input: Tensor, other: Operand) -> Tensor:
    """0 below 0 and for NaN, other at 0, 1 above"""

def histc(input: Tensor, bins: builtins.int = ..., min: Operand | None = ..., max: Operand | None = ...) -> Tensor:
    """How many elements are in each of `bins` equal parts of min … max (equal: of the range of the elements)"""

def histogram(input: Tensor, bins: Any = ..., *, range: Any = ..., weight: Tensor | None = ..., density: builtins.bool = ...) -> Any:
    """(hist, bin_edges): the elements (or their weights) in each bin, the last with its right edge."""

def hsplit(input: Tensor, indices_or_sections: Any) -> builtins.tuple[Tensor, ...]:
    """Parts of the second dimension (the first, of vectors)"""

def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the second dimension (the first, for vectors)"""

def hypot(input: Tensor, other: Operand) -> Tensor:
    """√(input² + other²), without overflow"""

def i0(input: Tensor) -> Tensor:
    """the modified Bessel function of the first kind of order 0"""

def imag(input: Tensor) -> Tensor:
    """The imaginary part, a view. A real tensor has none: `DTypeError`"""

def index_add(input: Tensor, dim: builtins.int, index: Tensor, source: Any, *, alpha: Any = ...) -> Tensor:
    """`input` with alpha · the slices of `source` added at the indices of `dim`; equal indices add up"""

def index_copy(input: Tensor, dim: builtins.int, index: Tensor, source: Any) -> Tensor:
    """`input` with the slices of `source` written at the indices of `dim`"""

def index_fill(input: Tensor, dim: builtins.int, index: Tensor, value: Operand) -> Tensor:
    """`input` with a number (or 0-d tensor) written into the slices that the indices of `dim` name"""

def index_put(input: Tensor, indices: Tensor, values: Any, accumulate: builtins.bool = ...) -> Tensor:
    """`input` with `values` written (added, with `accumulate`) at input[indices]"""

def index_reduce(input: Tensor, dim: builtins.int, index: Tensor, source: Any, reduce: builtins.str, *, include_self: builtins.bool = ...) -> Tensor:
    """`input` combined with the slices of `source` at the indices of `dim`; `reduce`: "prod", "mean", "amax" or "amin"."""

def index_select(input: Tensor, dim: builtins.int, index: Tensor) -> Tensor:
    """The slices of `input` along `dim` that the vector `index` names"""

def inner(input: Tensor, other: Operand) -> Tensor:
    """Σ over the last dimension of both: (…, n) and (*, n) to (…, *); with a 0-d tensor, the product"""

def interpolate(input: Tensor, size: builtins.int | builtins.tuple[builtins.int, ...] | None = ..., scale_factor: builtins.float | builtins.tuple[builtins.float, ...] | None = ..., mode: builtins.str = ..., align_corners: builtins.bool | None = ..., recompute_scale_factor: builtins.bool | None = ..., antialias: builtins.bool = ...) -> Tensor:
    """The input (N, C, *) at another size, `size` or ⌊length · scale_factor⌋: out[i] = Σ weight(i, j) · input[j] along each dimension."""

def isclose(input: Tensor, other: Operand, rtol: builtins.float = ..., atol: builtins.float = ..., equal_nan: builtins.bool = ...) -> Tensor:
    """|input − other| ≤ atol + rtol · |other|; infinities are close to themselves, NaN only with `equal_nan`"""

def isfinite(input: Tensor) -> Tensor:
    """input is neither NaN nor infinite"""

def isin(elements: Any, test_elements: Any, *, assume_unique: builtins.bool = ..., invert: builtins.bool = ...) -> Tensor:
    """Whether each element is one of `test_elements`; the opposite with `invert`"""

def isinf(input: Tensor) -> Tensor:
    """input is infinite"""

def isnan(input: Tensor) -> Tensor:
    """input is NaN"""

def isneginf(input: Tensor) -> Tensor:
    """input is −∞"""

def isposinf(input: Tensor) -> Tensor:
    """input is +∞"""

def isreal(input: Tensor) -> Tensor:
    """the imaginary part is 0, as that of every real number"""

def istft(input: Tensor, n_fft: builtins.int, hop_length: builtins.int | None = ..., win_length: builtins.int | None = ..., window: Any = ..., center: builtins.bool = ..., normalized: builtins.bool = ..., onesided: builtins.bool | None = ..., length: builtins.int | None = ..., return_complex: builtins.bool = ...) -> Tensor:
    """The inverse of `stft` with the same arguments: (…, frequencies, frames) to (…, L)."""

def kron(input: Tensor, other: Operand) -> Tensor:
    """The Kronecker product: every element of input times all of other, as blocks"""

def kthvalue(input: Tensor, k: builtins.int, dim: builtins.int = ..., keepdim: builtins.bool = ...) -> ValuesAndIndices:
    """(values, indices) of the k-th smallest element along `dim`; k counts from 1"""

def lcm(input: Tensor, other: Operand) -> Tensor:
    """the least common multiple"""

def ldexp(input: Tensor, other: Operand) -> Tensor:
    """input · 2 ^ other"""

def le(input: Tensor, other: Operand) -> Tensor:
    """input ≤ other"""

def less_equal(input: Tensor, other: Operand) -> Tensor:
    """input ≤ other"""

def leaky_relu(input: Tensor, negative_slope: builtins.float = ..., inplace: builtins.bool = ...) -> Tensor:
    """max(0, x) + negative_slope · min(0, x). `inplace` changes nothing."""

def lerp(input: Tensor, end: Any, weight: Tensor) -> Tensor:
    """input + weight · (end − input); `weight` is a number or a tensor"""

def lgamma(input: Tensor) -> Tensor:
    """ln |Γ(input)|"""

def det(A: Any) -> Tensor:
    """The determinant"""

def inverse(A: Any) -> Tensor:
    """A⁻¹; raises `LinAlgError` for a singular matrix"""

def matrix_exp(A: Any) -> Tensor:
    """exp(A) = Σ Aᵏ / k!, by scaling and squaring (Higham 2005)"""

def matrix_power(A: Any, n: builtins.int) -> Tensor:
    """Aⁿ by repeated squaring; a negative n inverts"""

def matrix_rank(A: Any, tol: Any = ..., hermitian: builtins.bool = ..., *, atol: Any = ..., rtol: Any = ...) -> Tensor:
    """How many singular values are above max(atol, rtol · the largest); of `hermitian` matrices, how many |eigenvalues|."""

def slogdet(A: Any) -> Any:
    """(sign, logabsdet): det A = sign · exp(logabsdet), without overflow"""

def linear(input: Tensor, weight: Tensor, bias: Tensor | None = ..., *, activation: builtins.str | None = ...) -> Tensor:
    """activation(input @ weightᵀ + bias); weight is (out, in)."""

def log(input: Tensor) -> Tensor:
    """ln input"""

def log10(input: Tensor) -> Tensor:
    """log₁₀ input"""

def log1p(input: Tensor) -> Tensor:
    """ln(1 + input), exact near 0"""

def log2(input: Tensor) -> Tensor:
    """log₂ input"""

def log_softmax(input: Tensor, dim: builtins.int, dtype: Any = ...) -> Tensor:
    """x − ln Σ eˣ along `dim`, without overflow"""

def logaddexp(input: Tensor, other: Operand) -> Tensor:
    """ln(eˣ + eʸ), without overflow"""

def logaddexp2(input: Tensor, other: Operand) -> Tensor:
    """log₂(2ˣ + 2ʸ), without overflow"""

def logcumsumexp(input: Tensor, dim: builtins.int) -> Tensor:
    """ln of the running sums of eˣ along `dim`, without overflow"""

def logdet(input: Tensor) -> Tensor:
    """ln det input; NaN where the determinant is negative"""

def logical_and(input: Tensor, other: Operand) -> Tensor:
    """both are non-zero"""

def logical_not(input: Tensor) -> Tensor:
    """input is zero"""

def logical_or(input: Tensor, other: Operand) -> Tensor:
    """at least one is non-zero"""

def logical_xor(input: Tensor, other: Operand) -> Tensor:
    """exactly one is non-zero"""

def logit(input: Tensor, eps: builtins.float | None = ...) -> Tensor:
    """ln(x / (1 − x)); with `eps`, x is first limited to eps … 1 − eps. NaN outside 0 … 1"""

def logsigmoid(input: Tensor) -> Tensor:
    """ln sigmoid(x) = min(0, x) − ln(1 + e^−|x|)"""

def logsumexp(input: Tensor, dim: Any, keepdim: builtins.bool = ...) -> Tensor:
    """ln Σ eˣ over `dim`, without overflow"""

def lp_pool1d(input: Tensor, norm_type: builtins.float, kernel_size: builtins.int | builtins.tuple[builtins.int, ...], stride: builtins.int | builtins.tuple[builtins.int, ...] | None = ..., ceil_mode: builtins.bool = ...) -> Tensor:
    """(Σ xᵖ)^(1/p) of each window, p being `norm_type`: (N, C, L); windows as for `avg_pool1d`."""

def lp_pool2d(input: Tensor, norm_type: builtins.float, kernel_size: builtins.int | builtins.tuple[builtins.int, ...], stride: builtins.int | builtins.tuple[builtins.int, ...] | None = ..., ceil_mode: builtins.bool = ...) -> Tensor:
    """(Σ xᵖ)^(1/p) of each window, p being `norm_type`: (N, C, H, W); windows as for `avg_pool2d`."""

def lp_pool3d(input: Tensor, norm_type: builtins.float, kernel_size: builtins.int | builtins.tuple[builtins.int, ...], stride: builtins.int | builtins.tuple[builtins.int, ...] | None = ..., ceil_mode: builtins.bool = ...) -> Tensor:
    """(Σ xᵖ)^(1/p) of each window, p being `norm_type`: (N, C, D, H, W); windows as for `avg_pool3d`."""

def lstm(input: Tensor, hx: Any, params: Any, has_biases: builtins.bool, num_layers: builtins.int, dropout: builtins.float, train: builtins.bool, bidirectional: builtins.bool, batch_first: builtins.bool = ...) -> builtins.tuple[Tensor, ...]:
    """(output, hₙ, cₙ) of stacked LSTM layers: what `nn.LSTM` computes. `params` as in its state dict, `hx` is (h₀, c₀)."""

def lstm_cell(input: Tensor, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = ..., b_hh: Any = ...) -> builtins.tuple[Tensor, ...]:
    """(h', c') of one step: c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c'), (i, f, g, o) = x Wᵢᵀ + bᵢ + h Wₕᵀ + bₕ."""

def lt(input: Tensor, other: Operand) -> Tensor:
    """input < other"""

def less(input: Tensor, other: Operand) -> Tensor:
    """input < other"""

def lu(A: Any, pivot: builtins.bool = ..., get_infos: builtins.bool = ...) -> Any:
    """(LU, pivots): `linalg.lu_factor`; with `get_infos` also whether a pivot is 0, from 1, for each matrix"""

def lu_solve(b: Any, LU_data: Any, LU_pivots: Any) -> Tensor:
    """The X with A X = b of the factors that `lu_factor` returned"""

def lu_unpack(LU_data: Any, LU_pivots: Any, unpack_data: builtins.bool = ..., unpack_pivots: builtins.bool = ...) -> Any:
    """(P, L, U) of what `lu_factor` returned; empty tensors for what is not asked for"""

def masked_fill(input: Tensor, mask: Tensor, value: Operand) -> Tensor:
    """`value` where `mask`, `input` elsewhere"""

def masked_scatter(input: Tensor, mask: Tensor, source: Any) -> Tensor:
    """`input` with the first elements of `source`, in row order, where `mask`"""

def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements of `input` where `mask`, in row order"""

def matmul(input: Tensor, other: Operand) -> Tensor:
    """input @ other over the last two dimensions; leading ones broadcast; vectors are rows on the left, columns on the right"""

def max(input: Tensor, dim: Any = ..., keepdim: builtins.bool = ...) -> Any:
    """The largest element; with `dim`, (values, indices) along it; with a tensor, the elementwise maximum"""

def max_pool1d(input: Tensor, kernel_size: builtins.int | builtins.tuple[builtins.int, ...], stride: builtins.int | builtins.tuple[builtins.int, ...] | None = ..., padding: builtins.int | builtins.tuple[builtins.int, ...] = ..., dilation: builtins.int | builtins.tuple[builtins.int, ...] = ..., ceil_mode: builtins.bool = ..., return_indices: builtins.bool = ...) -> Any:
    """The largest element of each window: (N, C, L) → the same with"""

def max_pool2d(input: Tensor, kernel_size: builtins.int | builtins.tuple[builtins.int, ...], stride: builtins.int | builtins.tuple[builtins.int, ...] | None = ..., padding: builtins.int | builtins.tuple[builtins.int, ...] = ..., dilation: builtins.int | builtins.tuple[builtins.int, ...] = ..., ceil_mode: builtins.bool = ..., return_indices: builtins.bool = ...) -> Any:
    """The largest element of each window: (N, C, H, W) → the same with"""

def max_pool3d(input: Tensor, kernel_size: builtins.int | builtins.tuple[builtins.int, ...], stride: builtins.int | builtins.tuple[builtins.int, ...] | None = ..., padding: builtins.int | builtins.tuple[builtins.int, ...] = ..., dilation: builtins.int | builtins.tuple[builtins.int, ...] = ..., ceil_mode: builtins.bool = ..., return_indices: builtins.bool = ...) -> Any:
    """The largest element of each window: (N, C, D, H, W) → the same with"""

def maximum(input: Tensor, other: Operand) -> Tensor:
    """the larger, NaN where either is; equal values share the gradient"""

def mean(input: Tensor, dim: Any = ..., keepdim: builtins.bool = ..., *, dtype: Any = ...) -> Tensor:
    """Σ input / n over `dim` (None: all)"""

def median(input: Tensor, dim: builtins.int | None = ..., keepdim: builtins.bool = ...) -> Any:
    """The lower median of all elements; with `dim`, (values, indices) along it. NaN where there is one"""

def meshgrid(*tensors: Sequence[Tensor], indexing: builtins.str | None = ...) -> builtins.tuple[Tensor, ...]:
    """A grid for each vector: out[k][i₀, i₁, …] = tensors[k][iₖ]; `indexing` "xy" exchanges the first two dimensions"""

def min(input: Tensor, dim: Any = ..., keepdim: builtins.bool = ...) -> Any:
    """The smallest element; with `dim`, (values, indices) along it; with a tensor, the elementwise minimum"""

def minimum(input: Tensor, other: Operand) -> Tensor:
    """the smaller, NaN where either is; equal values share the gradient"""

def mish(input: Tensor, inplace: builtins.bool = ...) -> Tensor:
    """x · tanh(ln(1 + eˣ)) (Misra 2019). `inplace` changes nothing."""

def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices"""

def mode(input: Tensor, dim: builtins.int = ..., keepdim: builtins.bool = ...) -> ValuesAndIndices:
    """(values, indices) of the most frequent element along `dim`, the smallest of several; the index is that of its last place"""

def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Dimensions `source` moved to the positions `destination`; a view"""

def moveaxis(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Dimensions `source` moved to the positions `destination`; a view"""

def msort(input: Tensor) -> Tensor:
    """The elements sorted along the first dimension"""

def mul(input: Tensor, other: Operand) -> Tensor:
    """input · other"""

def multiply(input: Tensor, other: Operand) -> Tensor:
    """input · other"""

def mv(input: Tensor, vec: Tensor) -> Tensor:
    """A matrix times a vector"""

def mvlgamma(input: Tensor, p: builtins.int) -> Tensor:
    """ln Γₚ(input) = p (p − 1) / 4 · ln π + Σ lgamma(input − k / 2) over k = 0 … p − 1; defined above (p − 1) / 2"""

def nan_to_num(input: Tensor, nan: builtins.float | None = ..., posinf: builtins.float | None = ..., neginf: builtins.float | None = ...) -> Tensor:
    """NaN replaced by `nan` (0), +∞ and −∞ by `posinf` and `neginf` (the largest and smallest number of the dtype); of"""

def nanmean(input: Tensor, dim: Any = ..., keepdim: builtins.bool = ..., *, dtype: Any = ...) -> Tensor:
    """The mean of the elements that are not NaN over `dim` (None: all)"""

def nanmedian(input: Tensor, dim: builtins.int | None = ..., keepdim: builtins.bool = ...) -> Any:
    """`median` of the elements that are not NaN"""

def nanquantile(input: Tensor, q: Any, dim: builtins.int | None = ..., keepdim: builtins.bool = ..., *, interpolation: builtins.str = ...) -> Tensor:
    """`quantile` of the elements that are not NaN"""

def nansum(input: Tensor, dim: Any = ..., keepdim: builtins.bool = ..., *, dtype: Any = ...) -> Tensor:
    """Σ of the elements that are not NaN over `dim` (None: all)"""

def narrow(input: Tensor, dim: builtins.int, start: builtins.int, length: builtins.int) -> Tensor:
    """Elements `start` to `start + length` of dimension `dim`; a view"""

def narrow_copy(input: Tensor, dim: builtins.int, start: builtins.int, length: builtins.int) -> Tensor:
    """`narrow`, as a copy"""

def ne(input: Tensor, other: Operand) -> Tensor:
    """input ≠ other"""

def not_equal(input: Tensor, other: Operand) -> Tensor:
    """input ≠ other"""

def neg(input: Tensor) -> Tensor:
    """−input"""

def negative(input: Tensor) -> Tensor:
    """−input"""

def nextafter(input: Tensor, other: Operand) -> Tensor:
    """the number next to input towards other"""

def nonzero(input: Tensor, *, as_tuple: builtins.bool = ...) -> Any:
    """The indices (n × rank, int64) of the elements that are not zero; a tuple of vectors with `as_tuple`"""

def norm(input: Tensor, p: Any = ..., dim: Any = ..., keepdim: builtins.bool = ..., dtype: Any = ...) -> Tensor:
    """(Σ |x|ᵖ)^(1/p) over `dim` (None: all elements), also of matrices: "fro" is p = 2. "nuc": `linalg.matrix_norm`"""

def one_hot(input: Tensor, num_classes: builtins.int = ...) -> Tensor:
    """int64: 1 at each class index along a new last dimension, 0 elsewhere"""

def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """input ⊗ vec2: every product of an element of one with an element of the other"""

def ger(input: Tensor, vec2: Tensor) -> Tensor:
    """input ⊗ vec2: every product of an element of one with an element of the other"""

def pad(input: Tensor, pad: Any, mode: builtins.str = ..., value: Operand = ...) -> Tensor:
    """`pad` lists (before, after) for the last dimension, then the one before it, …; negative widths crop."""

def pdist(input: Tensor, p: builtins.float = ...) -> Tensor:
    """‖xᵢ − xⱼ‖ₚ of the pairs i < j of rows: (N, M) to (N (N − 1) / 2)"""

def permute(input: Tensor, *args: Any, dims: Any = ...) -> Tensor:
    """The dimensions in another order; a view"""

def pinverse(input: Tensor, rcond: Any = ...) -> Tensor:
    """`linalg.pinv`; singular values up to rcond · the largest count as 0"""

def pixel_shuffle(input: Tensor, upscale_factor: builtins.int) -> Tensor:
    """out[…, c, y·r + i, x·r + j] = input[…, (c·r + i)·r + j, y, x]: (*, C·r², H, W) → (*, C, H·r, W·r)."""

def pixel_unshuffle(input: Tensor, downscale_factor: builtins.int) -> Tensor:
    """The inverse of `pixel_shuffle`: (*, C, H·r, W·r) → (*, C·r², H, W)."""

def polar(abs: Any, angle: Any) -> Tensor:
    """abs · (cos angle + i sin angle)"""

def polygamma(n: Any, input: Tensor) -> Tensor:
    """The n-th derivative of ψ: (−1)ⁿ⁺¹ n! ζ(n + 1, input); n = 0 is `digamma`."""

def positive(input: Tensor) -> Tensor:
    """input, unchanged"""

def pow(input: Tensor, other: Operand) -> Tensor:
    """input ^ other; a whole number to a negative power that is a tensor is rounded towards 0, to a number raises."""

def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """max(0, x) + weight · min(0, x); input (N, C, *), weight of one number or C of them (He et al. 2015)"""

def prod(input: Tensor, dim: builtins.int | None = ..., keepdim: builtins.bool = ..., *, dtype: Any = ...) -> Tensor:
    """Π input over one dimension (None: all), multiplied in pairs"""

def put(input: Tensor, index: Tensor, source: Any, accumulate: builtins.bool = ...) -> Tensor:
    """`input` with `source` written (added, with `accumulate`) at indices that count in row order"""

def qr(input: Tensor, some: builtins.bool = ...) -> Any:
    """`linalg.qr`, reduced, or complete where not `some`"""

def quantile(input: Tensor, q: Any, dim: builtins.int | None = ..., keepdim: builtins.bool = ..., *, interpolation: builtins.str = ...) -> Tensor:
    """The element at the share q of the sorted elements along `dim` (None: of all); a vector q adds a leading dimension."""

def rad2deg(input: Tensor) -> Tensor:
    """radians as degrees"""

def ravel(input: Tensor) -> Tensor:
    """All elements in one dimension"""

def real(input: Tensor) -> Tensor:
    """The real part, a view; a real tensor itself"""

def reciprocal(input: Tensor) -> Tensor:
    """1 / input"""

def relu(input: Tensor, inplace: builtins.bool = ...) -> Tensor:
    """max(0, x). `inplace` changes nothing."""

def relu6(input: Tensor, inplace: builtins.bool = ...) -> Tensor:
    """min(max(x, 0), 6) (Krizhevsky 2010). `inplace` changes nothing."""

def remainder(input: Tensor, other: Operand) -> Tensor:
    """input − other · ⌊input / other⌋: the sign of `other`"""

def renorm(input: Tensor, p: Any, dim: builtins.int, maxnorm: Any) -> Tensor:
    """`input`, whose slices along `dim` of a larger p-norm are scaled to `maxnorm`"""

def repeat(input: Tensor, *args: Any, repeats: Any = ..., dims: Any = ...) -> Tensor:
    """The tensor laid out `repeats` times along each dimension (new ones lead); `tile` calls them `dims`"""

def tile(input: Tensor, *args: Any, repeats: Any = ..., dims: Any = ...) -> Tensor:
    """The tensor laid out `repeats` times along each dimension (new ones lead); `tile` calls them `dims`"""

def repeat_interleave(input: Tensor, repeats: Any, dim: builtins.int | None = ..., *, output_size: builtins.int | None = ...) -> Tensor:
    """Every element `repeats` times (a number, or a vector of one for each index of `dim`); dim None: of all elements"""

def reshape(input: Tensor, *args: Any, shape: Any = ...) -> Tensor:
    """The same elements, in row order, in another shape; one size may be −1. Shares memory where it can"""

def reshape_as(input: Tensor, other: Operand) -> Tensor:
    """`reshape` with the shape of `other`"""

def resolve_conj(input: Tensor) -> Tensor:
    """The tensor itself: conjugates are computed at once"""

def resolve_neg(input: Tensor) -> Tensor:
    """The tensor itself: negatives are computed at once"""

def rnn_relu(input: Tensor, hx: Any, params: Any, has_biases: builtins.bool, num_layers: builtins.int, dropout: builtins.float, train: builtins.bool, bidirectional: builtins.bool, batch_first: builtins.bool = ...) -> builtins.tuple[Tensor, ...]:
    """(output, hₙ) of stacked RNN layers with relu: what `nn.RNN` computes. `params` as in its state dict, `hx` is h₀."""

def rnn_relu_cell(input: Tensor, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = ..., b_hh: Any = ...) -> Tensor:
    """h' = max(0, x Wᵢᵀ + bᵢ + h Wₕᵀ + bₕ)"""

def rnn_tanh(input: Tensor, hx: Any, params: Any, has_biases: builtins.bool, num_layers: builtins.int, dropout: builtins.float, train: builtins.bool, bidirectional: builtins.bool, batch_first: builtins.bool = ...) -> builtins.tuple[Tensor, ...]:
    """(output, hₙ) of stacked RNN layers with tanh: what `nn.RNN` computes. `params` as in its state dict, `hx` is h₀."""

def rnn_tanh_cell(input: Tensor, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = ..., b_hh: Any = ...) -> Tensor:
    """h' = tanh(x Wᵢᵀ + bᵢ + h Wₕᵀ + bₕ)"""

def roll(input: Tensor, shifts: Any, dims: Any = ...) -> Tensor:
    """Elements moved by `shifts` along `dims`, around the end"""

def rot90(input: Tensor, k: builtins.int = ..., dims: Any = ...) -> Tensor:
    """Turned `k` times by 90°, from the first of `dims` to the second; a copy"""

def round(input: Tensor, *, decimals: builtins.int = ...) -> Tensor:
    """the nearest multiple of 10 ^ −decimals, halves to the even one"""

def rsqrt(input: Tensor) -> Tensor:
    """1 / √input"""

def scaled_dot_product_attention(query: Any, key: Any, value: Operand, attn_mask: Tensor | None = ..., dropout_p: builtins.float = ..., is_causal: builtins.bool = ..., scale: builtins.float | None = ..., enable_gqa: builtins.bool = ...) -> Tensor:
    """softmax(scale · query keyᵀ + mask) value, the softmax over the keys."""

def scatter(input: Tensor, dim: builtins.int, index: Tensor, src: Tensor | None = ..., *, reduce: builtins.str | None = ..., value: Operand = ...) -> Tensor:
    """`input` with src[i, j] (or a number) written at [index[i, j], j] for dim 0, and so on; equal indices: any one of them."""

def scatter_add(input: Tensor, dim: builtins.int, index: Tensor, src: Tensor) -> Tensor:
    """`input` with src[i, j] added at [index[i, j], j] for dim 0, and so on"""

def scatter_reduce(input: Tensor, dim: builtins.int, index: Tensor, src: Tensor, reduce: builtins.str, *, include_self: builtins.bool = ...) -> Tensor:
    """`input` combined with every src[i, j] at [index[i, j], j] for dim 0, and so on."""

def searchsorted(sorted_sequence: Any, input: Tensor, *, out_int32: builtins.bool = ..., right: builtins.bool = ..., side: builtins.str | None = ..., sorter: Any = ...) -> Tensor:
    """Where the elements would be inserted into the sorted last dimension: the first place, or the last one if `right`."""

def select(input: Tensor, dim: builtins.int, index: builtins.int) -> Tensor:
    """`input` at one index of dimension `dim`; a view"""

def select_scatter(input: Tensor, src: Tensor, dim: builtins.int, index: builtins.int) -> Tensor:
    """`input` with `src` at one index of dimension `dim`"""

def selu(input: Tensor, inplace: builtins.bool = ...) -> Tensor:
    """1.0507 · (x for x > 0, 1.6733 · (eˣ − 1) otherwise) (Klambauer et al. 2017). `inplace` changes nothing."""

def sgn(input: Tensor) -> Tensor:
    """input / |input|, and 0 at 0; the `sign` of real numbers"""

def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ)"""

def sign(input: Tensor) -> Tensor:
    """−1, 0 or 1; 0 for NaN"""

def signbit(input: Tensor) -> Tensor:
    """the sign is set: below 0, or −0.0"""

def silu(input: Tensor, inplace: builtins.bool = ...) -> Tensor:
    """x · sigmoid(x) (Elfwing et al. 2017). `inplace` changes nothing."""

def sin(input: Tensor) -> Tensor:
    """sine, in radians"""

def sinc(input: Tensor) -> Tensor:
    """sin(πx) / (πx), and 1 at 0"""

def sinh(input: Tensor) -> Tensor:
    """hyperbolic sine"""

def slice_scatter(input: Tensor, src: Tensor, dim: builtins.int = ..., start: builtins.int | None = ..., end: builtins.int | None = ..., step: builtins.int = ...) -> Tensor:
    """`input` with `src` at the indices start, start + step, … below `end` of dimension `dim`"""

def softmax(input: Tensor, dim: builtins.int, dtype: Any = ...) -> Tensor:
    """eˣ / Σ eˣ along `dim`, without overflow"""

def softmin(input: Tensor, dim: builtins.int, dtype: Any = ...) -> Tensor:
    """e⁻ˣ / Σ e⁻ˣ along `dim`, without overflow"""

def softplus(input: Tensor, beta: builtins.float = ..., threshold: builtins.float = ...) -> Tensor:
    """ln(1 + e^(beta·x)) / beta; x itself where beta·x > threshold"""

def softshrink(input: Tensor, lambd: builtins.float = ...) -> Tensor:
    """x - lambd for x > lambd, x + lambd for x < -lambd, 0 between; `lambd` ≥ 0"""

def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)"""

def sort(input: Tensor, dim: builtins.int = ..., descending: builtins.bool = ..., *, stable: builtins.bool = ...) -> ValuesAndIndices:
    """(values, indices) sorted along `dim`; NaN is the largest"""

def split(input: Tensor, split_size_or_sections: Any, dim: builtins.int = ...) -> builtins.tuple[Tensor, ...]:
    """Views of consecutive parts: of one size (the last may be smaller), or of the sizes listed"""

def split_with_sizes(input: Tensor, split_sizes: Any, dim: builtins.int = ...) -> builtins.tuple[Tensor, ...]:
    """`split` into parts of the sizes listed"""

def sqrt(input: Tensor) -> Tensor:
    """√input"""

def square(input: Tensor) -> Tensor:
    """input²"""

def squeeze(input: Tensor, dim: Any = ...) -> Tensor:
    """Without the dimensions of length 1 (or those of them that `dim` names); a view"""

def stack(tensors: Sequence[Tensor], dim: builtins.int = ...) -> Tensor:
    """The tensors, all of one shape, joined along a new dimension"""

def std(input: Tensor, dim: Any = ..., unbiased: Any = ..., *, correction: Any = ..., keepdim: builtins.bool = ...) -> Tensor:
    """√var; its gradient is 0 where the deviation is 0"""

def std_mean(input: Tensor, dim: Any = ..., unbiased: Any = ..., *, correction: Any = ..., keepdim: builtins.bool = ...) -> Any:
    """(`std`, `mean`) over `dim` (None: all)"""

def stft(input: Tensor, n_fft: builtins.int, hop_length: builtins.int | None = ..., win_length: builtins.int | None = ..., window: Any = ..., center: builtins.bool = ..., pad_mode: builtins.str = ..., normalized: builtins.bool = ..., onesided: builtins.bool | None = ..., return_complex: builtins.bool | None = ..., align_to_window: builtins.bool | None = ...) -> Tensor:
    """X[…, k, t] = Σⱼ window[j] · input[…, t · hop + j] e^(−2πi jk/n_fft): (L) or (B, L) to (…, frequencies, frames)."""

def sub(input: Tensor, other: Operand, *, alpha: Any = ...) -> Tensor:
    """input − alpha · other"""

def subtract(input: Tensor, other: Operand, *, alpha: Any = ...) -> Tensor:
    """input − alpha · other"""

def sum(input: Tensor, dim: Any = ..., keepdim: builtins.bool = ..., *, dtype: Any = ...) -> Tensor:
    """Σ input over `dim` (None: all); integers and bools add up in int64"""

def sum_to_size(input: Tensor, *size: Any) -> Tensor:
    """Σ over the dimensions that broadcasting from `size` would add or stretch"""

def svd(input: Tensor, some: builtins.bool = ..., compute_uv: builtins.bool = ...) -> Any:
    """(U, S, V), reduced where `some`: V is the conjugate transpose of that of `linalg.svd`. Without `compute_uv`, U and V are 0"""

def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; a vector or number as it is"""

def take(input: Tensor, index: Tensor) -> Tensor:
    """The elements of `input` at indices that count in row order"""

def take_along_dim(input: Tensor, indices: Tensor, dim: builtins.int | None = ...) -> Tensor:
    """`gather` whose index broadcasts and may count from the end; without `dim`, of all elements in row order"""

def tan(input: Tensor) -> Tensor:
    """tangent, in radians"""

def tanh(input: Tensor) -> Tensor:
    """hyperbolic tangent"""

def tanhshrink(input: Tensor) -> Tensor:
    """x − tanh x"""

def tensor_split(input: Tensor, indices_or_sections: Any, dim: builtins.int = ...) -> builtins.tuple[Tensor, ...]:
    """Views of `indices_or_sections` nearly equal parts, or of the parts between the indices listed"""

def tensordot(a: Any, b: Any, dims: Any = ...) -> Tensor:
    """Σ over the last `dims` dimensions of a and the first of b, or over the pairs that two lists name"""

def threshold(input: Tensor, threshold: builtins.float, value: builtins.float, inplace: builtins.bool = ...) -> Tensor:
    """x where x > threshold, value elsewhere. `inplace` changes nothing."""

def to(input: Tensor, *targets: Any, dtype: Any = ..., backend: Any = ..., device: Any = ..., non_blocking: builtins.bool = ..., copy: builtins.bool = ..., memory_format: Any = ...) -> Tensor:
    """The tensor in another dtype, on another backend, or both: to("cuda"), to(dc.float64), to(other). Itself if it fits"""

def topk(input: Tensor, k: builtins.int, dim: builtins.int = ..., largest: builtins.bool = ..., sorted: builtins.bool = ...) -> ValuesAndIndices:
    """(values, indices) of the k largest (or smallest) elements along `dim`, in order"""

def trace(input: Tensor) -> Tensor:
    """Σ of the diagonal of a matrix"""

def transpose(input: Tensor, dim0: builtins.int, dim1: builtins.int) -> Tensor:
    """Two dimensions exchanged; a view"""

def swapaxes(input: Tensor, dim0: builtins.int, dim1: builtins.int) -> Tensor:
    """Two dimensions exchanged; a view"""

def swapdims(input: Tensor, dim0: builtins.int, dim1: builtins.int) -> Tensor:
    """Two dimensions exchanged; a view"""

def trapezoid(y: Any, x: Any = ..., *, dx: Any = ..., dim: builtins.int = ...) -> Tensor:
    """The integral of y along `dim` by trapezoids, over the places x or with the step dx (default 1)"""

def trapz(y: Any, x: Any = ..., *, dx: Any = ..., dim: builtins.int = ...) -> Tensor:
    """The integral of y along `dim` by trapezoids, over the places x or with the step dx (default 1)"""

def tril(input: Tensor, diagonal: builtins.int = ...) -> Tensor:
    """The lower triangles of the matrices in the last two dimensions, zero elsewhere"""

def triu(input: Tensor, diagonal: builtins.int = ...) -> Tensor:
    """The upper triangles of the matrices in the last two dimensions, zero elsewhere"""

def true_divide(input: Tensor, other: Operand) -> Tensor:
    """input / other; integers give float32"""

def trunc(input: Tensor) -> Tensor:
    """input without its fraction"""

def fix(input: Tensor) -> Tensor:
    """input without its fraction"""

def unbind(input: Tensor, dim: builtins.int = ...) -> builtins.tuple[Tensor, ...]:
    """A view per index of dimension `dim`"""

def unflatten(input: Tensor, dim: builtins.int, sizes: Any) -> Tensor:
    """Dimension `dim` as several; one size may be −1"""

def unique(input: Tensor, sorted: builtins.bool = ..., return_inverse: builtins.bool = ..., return_counts: builtins.bool = ..., dim: builtins.int | None = ...) -> Any:
    """The distinct elements, in order; or the distinct slices along `dim`. Every NaN is distinct."""

def unique_consecutive(input: Tensor, return_inverse: builtins.bool = ..., return_counts: builtins.bool = ..., dim: builtins.int | None = ...) -> Any:
    """The first element of each run of equal ones; or the first slice along `dim`. See `unique`"""

def unravel_index(indices: Tensor, shape: Any) -> builtins.tuple[Tensor, ...]:
    """The index in each dimension of `shape` of elements counted in row order"""

def unsqueeze(input: Tensor, dim: builtins.int) -> Tensor:
    """With a new dimension of length 1 at `dim`; a view"""

def vander(x: Any, N: builtins.int | None = ..., increasing: builtins.bool = ...) -> Tensor:
    """The powers N − 1 to 0 of each number, as rows; from 0 up where `increasing`"""

def var(input: Tensor, dim: Any = ..., unbiased: Any = ..., *, correction: Any = ..., keepdim: builtins.bool = ...) -> Tensor:
    """Σ|x − mean|² / (n − correction) over `dim` (None: all); correction 1 by default"""

def var_mean(input: Tensor, dim: Any = ..., unbiased: Any = ..., *, correction: Any = ..., keepdim: builtins.bool = ...) -> Any:
    """(`var`, `mean`) over `dim` (None: all)"""

def vdot(input: Tensor, other: Operand) -> Tensor:
    """Σ conj(input) · other for two vectors"""

def view(input: Tensor, *shape: Any) -> Tensor:
    """`reshape` that never copies; raises where the memory does not allow it"""

def view_as(input: Tensor, other: Operand) -> Tensor:
    """`view` with the shape of `other`"""

def view_as_complex(input: Tensor) -> Tensor:
    """A complex view (…) of pairs (…, 2) of float32 or float64 numbers, which lie side by side in memory"""

def view_as_real(input: Tensor) -> Tensor:
    """A real view (…, 2) of complex numbers (…): real and imaginary parts lie side by side in the last dimension"""

def vsplit(input: Tensor, indices_or_sections: Any) -> builtins.tuple[Tensor, ...]:
    """Parts of the first dimension"""

def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the first dimension, vectors as rows"""

def where(condition: Tensor, input: Tensor | None = ..., other: Operand = ...) -> Tensor:
    """input where condition, other elsewhere; with the condition alone, the indices of its true elements"""

def xlogy(input: Tensor, other: Operand) -> Tensor:
    """input · ln other, and 0 where input is 0; NaN where other is"""
