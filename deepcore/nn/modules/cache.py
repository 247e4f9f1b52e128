"""Keys and values of attention, kept from one call to the next."""

from __future__ import annotations

from deepcore.autograd import constant, is_grad_enabled
from deepcore.backend import dtypes as dt
from deepcore.errors import DTypeError, GradientError, IndexRangeError, ShapeError
from deepcore.nn.modules.linear import check_sizes
from deepcore.nn.modules.module import Module
from deepcore.tensor import Tensor, arange, zeros


class KVCache(Module):
    """keysₜ₊ᵢ = kᵢ, valuesₜ₊ᵢ = vᵢ, i = 0 … L - 1: what attention computed of a sequence that grows from call to call.

    `keys` and `values`, (batch, heads, length, width), are buffers that start at 0 and that a state dict leaves out.
    `MultiheadAttention` and the layers of a transformer take `cache=` and `position=`, stacks of them `caches=`, one for each
    layer; a token is then computed in time linear in `length`. Sizes never change, so one compiled program serves all steps,
    if `position` is a tensor:

        caches = [nn.KVCache(batch, heads, length, d_model // heads) for _ in range(layers)]

        @dc.compile
        def step(token, position):  # (batch, 1) and a 0-d integer
            return model(token, caches, position)

    A sequence starts anew at position 0, and may go back to any earlier one: what follows is masked. (Pope et al., 2022)
    """

    def __init__(self, batch: int, heads: int, length: int, width: int, backend=None, dtype=None, device=None):
        super().__init__()
        check_sizes(self, batch=batch, heads=heads, length=length, width=width)
        for name in ("keys", "values"):
            new = zeros(batch, heads, length, width, backend=backend, dtype=dtype)
            self.register_buffer(name, new, persistent=False)

    def update(self, position, k, v) -> tuple[Tensor, Tensor, Tensor]:
        """(keys, values, mask) after k and v (batch, heads, L, width) are written at `position` … `position` + L - 1.

        mask (L, length), bool: query i attends to the positions 0 … `position` + i. `position`: an integer, or a 0-d tensor.
        `IndexRangeError` where it exceeds `length`; `GradientError` where k or v is recorded, as the cache outlives its graph.
        """
        k, v = self._checked("keys", k), self._checked("values", v)
        count, length = k.shape[-2], self.keys.shape[-2]
        if v.shape[-2] != count:
            raise ShapeError("KVCache: every key has one value", received=f"keys {k.shape}, values {v.shape}")
        if isinstance(position, int) and not 0 <= position <= length - count:
            raise IndexRangeError(
                f"KVCache has {length} positions",
                received=f"positions {position} … {position + count - 1}",
                fix=f"length={position + count}" if position >= 0 else None,
            )
        if isinstance(position, Tensor) and position.ndim:
            raise ShapeError("KVCache writes at one position", expected="a 0-d tensor", received=str(position.shape))
        every = arange(length, backend=k.backend)
        # Read by index, so that a position out of range raises in programs, too.
        places = every.gather(0, position + arange(count, backend=k.backend))
        self.keys[:, :, places], self.values[:, :, places] = k, v
        return self.keys, self.values, every <= places.unsqueeze(1)

    def _checked(self, name: str, new) -> Tensor:
        new, kept = constant("KVCache", new), getattr(self, name)
        batch, heads, length, width = kept.shape
        if new.ndim != 4 or new.shape != (batch, heads, new.shape[2], width) or not 0 < new.shape[2] <= length:
            raise ShapeError(
                f"KVCache has other {name}",
                expected=f"({batch}, {heads}, L ≤ {length}, {width})",
                received=f"shape {new.shape}",
            )
        if new.dtype != kept.dtype:
            raise DTypeError(
                f"KVCache has {name} of another dtype",
                expected=dt.name_of(kept.dtype),
                received=dt.name_of(new.dtype),
                fix=f"KVCache(…, dtype=dc.{dt.name_of(new.dtype)})",
            )
        if is_grad_enabled() and new.requires_grad:
            raise GradientError(f"KVCache keeps {name} that require a gradient", fix="call it under dc.no_grad()")
        return new

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.keys.shape))
