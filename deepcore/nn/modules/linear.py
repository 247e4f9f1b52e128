"""Linear, Identity, Flatten, Unflatten."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, ShapeError
from deepcore.nn import functional as F
from deepcore.nn import init
from deepcore.nn.modules.module import Module
from deepcore.nn.parameter import Parameter
from deepcore.nn.registry import LAYERS, Example
from deepcore.tensor import Tensor, empty, from_raw


def new_parameter(shape, backend, dtype) -> Parameter:
    """An uninitialized parameter, for `reset_parameters` to fill."""
    return Parameter(new_tensor(shape, backend, dtype))


def new_tensor(shape, backend, dtype) -> Tensor:
    """An uninitialized tensor of `shape`; under `init.skip_init` one 0 broadcast to it."""
    if not init.skipping():
        return empty(shape, dtype=dtype, backend=backend)
    xp = get_backend(backend)
    return from_raw(xp.broadcast_to(xp.zeros((), dtype=dt.as_dtype(dtype or dt.default_float)), shape), xp)


def check_sizes(layer: Module, **sizes: int) -> None:
    """Constructor sizes are positive whole numbers."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not hasattr(size, "__index__") or size < 1:
            raise ArgumentError(
                f"{type(layer).__name__}: {name} is a whole number of at least 1", received=f"{name}={size!r}"
            )


@LAYERS.register
class Linear(Module):
    """y = x Wᵀ + b.

    Input (*, in_features), output (*, out_features); `weight` (out_features, in_features), `bias` (out_features,).
    Both start uniform in ±1/√in_features.
    """

    examples = (
        Example({"in_features": 3, "out_features": 4}, ((5, 3),)),
        Example({"in_features": 3, "out_features": 1, "bias": False}, ((2, 5, 3),)),
        Example({"in_features": 2, "out_features": 2}, ((2,),)),
    )

    #: A Sequential passes `forward` the name of the activation that follows.
    takes_activation = True

    def __init__(self, in_features: int, out_features: int, bias: bool = True, backend=None, dtype=None, device=None):
        super().__init__()
        check_sizes(self, in_features=in_features, out_features=out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.weight = new_parameter((out_features, in_features), backend, dtype)
        self.register_parameter("bias", new_parameter((out_features,), backend, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weight and bias."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input, activation: str | None = None):
        if input.shape[-1:] != (self.in_features,):
            raise ShapeError(
                f"Linear expects {self.in_features} features in the last dimension",
                expected=f"shape (*, {self.in_features})",
                received=f"shape {input.shape}",
                fix=_linear_fix(input.shape, self.in_features),
            )
        return F.linear(input, self.weight, self.bias, activation=activation)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def _linear_fix(shape: tuple[int, ...], features: int) -> str:
    if len(shape) > 1 and math.prod(shape[1:]) == features:
        return "put nn.Flatten() before it"
    if len(shape) == features == 1:
        return "x[:, None], if these are samples of one feature"
    if shape:
        return f"nn.Linear({shape[-1]}, …) takes this input"
    return "the input needs at least one dimension"


@LAYERS.register
class Identity(Module):
    """y = x. Takes and ignores any arguments, to stand in for another layer."""

    examples = (Example({}, ((2, 3),)),)

    def __init__(self, *args, **kwargs):
        super().__init__()

    def forward(self, input):
        return input


@LAYERS.register
class Flatten(Module):
    """Dimensions start_dim … end_dim as one: (N, C, H, W) to (N, C·H·W) by default."""

    examples = (
        Example({}, ((2, 3, 4),)),
        Example({"start_dim": 0, "end_dim": 1}, ((2, 3, 4),)),
        Example({"start_dim": -2}, ((2, 3, 4),)),
    )

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input):
        return F.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


@LAYERS.register
class Unflatten(Module):
    """Dimension `dim` as several: (N, 12) to (N, 3, 4) with `Unflatten(1, (3, 4))`; one size may be -1."""

    examples = (
        Example({"dim": 1, "unflattened_size": (3, 4)}, ((2, 12),)),
        Example({"dim": -1, "unflattened_size": (2, -1)}, ((3, 2, 8),)),
    )

    def __init__(self, dim: int, unflattened_size: Sequence[int]):
        super().__init__()
        self.dim = dim
        self.unflattened_size = tuple(unflattened_size)

    def forward(self, input):
        shape = input.shape
        if not -len(shape) <= self.dim < len(shape):
            raise ShapeError(f"Unflatten splits dimension {self.dim}", received=f"shape {shape}")
        dim = self.dim % len(shape)
        sizes = self.unflattened_size
        product = math.prod(s for s in sizes if s != -1)
        rest = shape[dim] % product if product else 1  # a -1 beside a 0 could be any length
        if sizes.count(-1) > 1 or (rest if -1 in sizes else shape[dim] != product):
            raise ShapeError(
                f"dimension {dim} of length {shape[dim]} cannot be split into {sizes}", received=f"shape {shape}"
            )
        return F.unflatten(input, dim, sizes)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
