"""Positions in a sequence: sinusoidal, learned and rotary."""

from __future__ import annotations

from deepcore.autograd import constant
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError, non_negative
from deepcore.nn import init
from deepcore.nn.modules.linear import check_sizes, new_parameter
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LAYERS, Example
from deepcore.ops.shape import cat, flatten, stack
from deepcore.tensor import Tensor, arange


def _angles(x: Tensor, width: int, base: float, offset: int) -> Tensor:
    """t · base^(-2i / width) for the positions t of x (…, L, ·) and i = 0 … ⌈width / 2⌉ - 1, in float64."""
    positions = arange(offset, offset + x.shape[-2], dtype=dt.float64, backend=x.backend)
    powers = arange(0, width, 2, dtype=dt.float64, backend=x.backend) * (-1.0 / width)
    return positions.unsqueeze(1) * (base**powers)


def _sequence(layer: Module, input, width: int, name: str) -> Tensor:
    x = constant(type(layer).__name__, input)
    if x.ndim < 2 or x.shape[-1] != width:
        raise ShapeError(
            f"{type(layer).__name__} takes sequences of vectors of length {name}={width}",
            expected=f"(*, L, {width})",
            received=f"shape {x.shape}",
        )
    if not dt.is_floating(x.dtype):
        raise DTypeError(f"{type(layer).__name__} takes floats", received=dt.name_of(x.dtype), fix="x.float()")
    return x


def _check_even(layer: Module, name: str, width: int) -> None:
    if width % 2:
        raise ArgumentError(f"{type(layer).__name__}: {name} is even", received=f"{name}={width}")


@LAYERS.register
class SinusoidalPositionalEncoding(Module):
    """y[…, t, 2i] = x[…, t, 2i] + sin θ, y[…, t, 2i + 1] = x[…, t, 2i + 1] + cos θ with θ = t · base^(-2i / d_model).

    Input and output (*, L, d_model), t = offset … offset + L - 1; `offset` is an argument of the call, for sequences that
    continue. (Vaswani et al., 2017)
    """

    examples = (Example({"d_model": 6}, ((2, 3, 6),)), Example({"d_model": 4, "base": 100.0}, ((5, 4),)))

    def __init__(self, d_model: int, base: float = 10000.0):
        super().__init__()
        check_sizes(self, d_model=d_model)
        _check_even(self, "d_model", d_model)
        self.d_model = d_model
        self.base = non_negative("base", base, zero=False)

    def forward(self, input, offset: int = 0):
        x = _sequence(self, input, self.d_model, "d_model")
        angles = _angles(x, self.d_model, self.base, offset)
        return x + flatten(stack([angles.sin(), angles.cos()], -1), -2).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.d_model}, base={self.base}"


@LAYERS.register
class LearnedPositionalEncoding(Module):
    """y[…, t, :] = x[…, t, :] + weight[t].

    Input and output (*, L, d_model), t = offset … offset + L - 1 below `max_len`; `weight` (max_len, d_model) starts
    N(0, 0.02²), as in BERT and GPT-2. (Gehring et al., 2017)
    """

    examples = (Example({"max_len": 5, "d_model": 3}, ((2, 4, 3),)), Example({"max_len": 4, "d_model": 2}, ((4, 2),)))

    def __init__(self, max_len: int, d_model: int, backend=None, dtype=None, device=None):
        super().__init__()
        check_sizes(self, max_len=max_len, d_model=d_model)
        self.max_len = max_len
        self.d_model = d_model
        self.weight = new_parameter((max_len, d_model), backend, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a new table."""
        init.normal_(self.weight, 0.0, 0.02)

    def forward(self, input, offset: int = 0):
        x = _sequence(self, input, self.d_model, "d_model")
        end = offset + x.shape[-2]
        if end > self.max_len or offset < 0:
            raise ShapeError(
                f"LearnedPositionalEncoding has {self.max_len} positions",
                expected=f"at most {self.max_len}, from 0",
                received=f"positions {offset} … {end - 1}",
                fix=f"max_len={end}",
            )
        return x + self.weight[offset:end]

    def extra_repr(self) -> str:
        return f"{self.max_len}, {self.d_model}"


@LAYERS.register
class RotaryEmbedding(Module):
    """(a, b) → (a cos θ - b sin θ, a sin θ + b cos θ) for pair i of each vector, θ = t · base^(-2i / dim).

    Input and output (*, L, dim): queries or keys (N, heads, L, dim) before their product, which then depends on the
    distance of two positions alone. t = offset … offset + L - 1. Pair i is the elements i and i + dim / 2, as in Llama's and
    GPT-NeoX's checkpoints on Hugging Face; with `interleaved` the elements 2i and 2i + 1, as in the paper and torchtune.
    (Su et al., 2021)
    """

    examples = (
        Example({"dim": 6}, ((2, 2, 3, 6),)),
        Example({"dim": 4, "base": 500.0, "interleaved": True}, ((5, 4),)),
    )

    def __init__(self, dim: int, base: float = 10000.0, interleaved: bool = False):
        super().__init__()
        check_sizes(self, dim=dim)
        _check_even(self, "dim", dim)
        self.dim = dim
        self.base = non_negative("base", base, zero=False)
        self.interleaved = interleaved

    def forward(self, input, offset: int = 0):
        x = _sequence(self, input, self.dim, "dim")
        angles = _angles(x, self.dim, self.base, offset)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        half = self.dim // 2
        a, b = (x[..., ::2], x[..., 1::2]) if self.interleaved else (x[..., :half], x[..., half:])
        pair = [a * cos - b * sin, a * sin + b * cos]
        return flatten(stack(pair, -1), -2) if self.interleaved else cat(pair, -1)

    def extra_repr(self) -> str:
        return f"{self.dim}, base={self.base}, interleaved={self.interleaved}"
