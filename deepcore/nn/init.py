"""`nn.init`: fill a tensor in place from a distribution; draws come from `dc.manual_seed`'s stream."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

from deepcore import missing, random
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, ShapeError, suggest
from deepcore.tensor import Tensor

_skipping = False


@contextlib.contextmanager
def skip_init() -> Iterator[None]:
    """Context in which layers are built without values and draw no random numbers; the caller fills them."""
    global _skipping
    before, _skipping = _skipping, True
    try:
        yield
    finally:
        _skipping = before


def skipping() -> bool:
    """Whether layers are being built without values."""
    return _skipping


def _write(tensor: Tensor, values) -> Tensor:
    tensor._data[...] = values
    tensor.bump_version()
    return tensor


def _draw_dtype(tensor: Tensor):
    return tensor.dtype if dt.is_floating(tensor.dtype) else dt.default_float


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator=None) -> Tensor:
    """U(a, b)."""
    if _skipping:
        return tensor
    if not a <= b:
        raise ArgumentError("uniform_ needs a ≤ b", received=f"a={a}, b={b}")
    return _write(tensor, random.raw_uniform(tensor.backend, generator, tensor.shape, _draw_dtype(tensor), a, b))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator=None) -> Tensor:
    """N(mean, std²)."""
    if _skipping:
        return tensor
    if not std >= 0:
        raise ArgumentError("normal_ needs std ≥ 0", received=f"std={std}")
    return _write(tensor, random.raw_normal(tensor.backend, generator, tensor.shape, _draw_dtype(tensor), mean, std))


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator=None
) -> Tensor:
    """N(mean, std²) truncated to [a, b] (absolute bounds): Φ⁻¹ of uniform numbers."""
    if _skipping:
        return tensor
    if not a < b or not std > 0:
        raise ArgumentError("trunc_normal_ needs a < b and std > 0", received=f"a={a}, b={b}, std={std}")
    low, high = (math.erf((bound - mean) / (std * math.sqrt(2))) for bound in (a, b))
    if low == high:
        raise ArgumentError(
            "trunc_normal_: the interval is too far from the mean to draw from",
            received=f"[{a}, {b}] with mean {mean}, std {std}",
        )
    xp = tensor.backend
    # In float64: float32 has no numbers between 1 - 6e-8 and 1, where the tails come from.
    level = random.raw_uniform(xp, generator, tensor.shape, dt.float64, low, high)
    values = xp.special("erfinv", xp.clip(level, -1 + 2**-53, 1 - 2**-53)) * (std * math.sqrt(2)) + mean
    return _write(tensor, xp.clip(values, a, b))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Every element `val`."""
    if _skipping:
        return tensor
    return _write(tensor, val._data if isinstance(val, Tensor) else tensor.backend.constant(val, tensor.dtype))


def zeros_(tensor: Tensor) -> Tensor:
    """Every element 0."""
    return constant_(tensor, 0)


def ones_(tensor: Tensor) -> Tensor:
    """Every element 1."""
    return constant_(tensor, 1)


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix (2-d tensors)."""
    if tensor.ndim != 2:
        raise ShapeError("eye_ fills a matrix", received=f"shape {tensor.shape}")
    return tensor if _skipping else _write(tensor, tensor.backend.eye(*tensor.shape, dtype=tensor.dtype))


def fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """Inputs and outputs of one unit: (in, out)·receptive field, for a weight of shape (out, in, *kernel)."""
    shape = tensor.shape
    if len(shape) < 2:
        raise ShapeError(
            "fan in and fan out need a weight of at least 2 dimensions",
            received=f"shape {shape}",
            fix="nn.init.uniform_",
        )
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance through an activation: ReLU √2, LeakyReLU √(2/(1 + slope²)), tanh 5/3."""
    gains = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2)),
        "selu": 0.75,
    }
    gains |= {f"conv{'_transpose' * t}{n}d": 1.0 for n in (1, 2, 3) for t in (0, 1)}
    if nonlinearity not in gains:
        raise ArgumentError(f"there is no gain for {nonlinearity!r}", fix=suggest(nonlinearity, gains))
    return gains[nonlinearity]


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator=None) -> Tensor:
    """U(-b, b), b = gain · √(6 / (fan_in + fan_out)). (Glorot and Bengio, 2010)"""
    bound = gain * math.sqrt(6 / sum(fan_in_and_fan_out(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator=None) -> Tensor:
    """N(0, std²), std = gain · √(2 / (fan_in + fan_out)). (Glorot and Bengio, 2010)"""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fan_in_and_fan_out(tensor))), generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ArgumentError("unknown mode", expected='"fan_in" or "fan_out"', received=repr(mode))
    fan = fan_in_and_fan_out(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator=None
) -> Tensor:
    """U(-b, b), b = gain · √(3 / fan); `a` is the slope of a leaky ReLU. (He et al., 2015)"""
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator=None
) -> Tensor:
    """N(0, std²), std = gain / √fan; `a` is the slope of a leaky ReLU. (He et al., 2015)"""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator=None) -> Tensor:
    """gain times a random matrix with orthonormal rows or columns, from a QR decomposition. (Saxe et al., 2013)"""
    if tensor.ndim < 2:
        raise ShapeError("orthogonal_ needs at least 2 dimensions", received=f"shape {tensor.shape}")
    if _skipping or not tensor.numel():
        return tensor
    xp = tensor.backend
    rows, columns = tensor.shape[0], tensor.numel() // tensor.shape[0]
    real = dt.float64 if tensor.dtype == dt.float64 else dt.float32
    draw = random.raw_normal(xp, generator, (max(rows, columns), min(rows, columns)), real)
    q, r = xp.linalg.qr(draw)
    q = q * xp.sign(xp.diagonal(r))  # else the sign convention of the decomposition biases q
    return _write(tensor, ((q.T if rows < columns else q) * gain).reshape(tensor.shape))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator=None) -> Tensor:
    """N(0, std²), with ⌈sparsity · rows⌉ zeros in every column of the matrix, at random places. (Martens, 2010)"""
    if tensor.ndim != 2:
        raise ShapeError("sparse_ fills a matrix", received=f"shape {tensor.shape}")
    if not 0 <= sparsity <= 1:
        raise ArgumentError("sparsity is a fraction", expected="0 ≤ sparsity ≤ 1", received=f"sparsity={sparsity!r}")
    if _skipping:
        return tensor
    normal_(tensor, 0.0, std, generator)
    xp = tensor.backend
    # An element's rank among random numbers in its column says whether it is zero.
    ranks = xp.argsort(xp.argsort(random.raw_uniform(xp, generator, tensor.shape), axis=0), axis=0)
    zeros = ranks < math.ceil(sparsity * tensor.shape[0])
    return _write(tensor, xp.where(zeros, xp.zeros((), dtype=tensor.dtype), tensor._data))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """The convolution weight (out, in, *kernel) that passes channel i of each group of inputs on: 1 at (i, i, centre)."""
    if tensor.ndim not in (3, 4, 5):
        raise ShapeError("dirac_ fills the weight of a convolution", received=f"shape {tensor.shape}")
    if isinstance(groups, bool) or not hasattr(groups, "__index__") or groups < 1 or tensor.shape[0] % groups:
        raise ArgumentError(
            "dirac_: groups divides the output channels", received=f"groups={groups!r} for {tensor.shape[0]} channels"
        )
    if _skipping:
        return tensor
    zeros_(tensor)
    out = tensor.shape[0] // groups
    centre = tuple(n // 2 for n in tensor.shape[2:])
    for i in range(min(out, tensor.shape[1])):
        tensor._data[(slice(i, None, out), i, *centre)] = 1
    tensor.bump_version()
    return tensor


#: PyTorch's name, which research code uses.
_calculate_fan_in_and_fan_out = fan_in_and_fan_out

__getattr__ = missing.names_of(__name__, "torch.nn.init")
