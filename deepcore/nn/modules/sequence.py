"""Sequences of different lengths in one batch: PaddedSequential, and SequencePool, which ends it."""

from __future__ import annotations

from deepcore.autograd import constant
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError, suggest
from deepcore.nn.modules.attention import TransformerEncoderLayer
from deepcore.nn.modules.container import Sequential
from deepcore.nn.modules.module import Module
from deepcore.nn.modules.recurrent import PaddedBatch, RNNBase, steps_of
from deepcore.nn.registry import LAYERS, Example
from deepcore.tensor import Tensor

MODES = ("mean", "max", "last")


@LAYERS.register
class SequencePool(Module):
    """y = the mean (`mode` "mean") or maximum ("max") over t of x[:, t], or x at the last t ("last").

    Input (N, L, d), output (N, d). `padding` (N, L), a second argument of the call, is True where a position does not
    count; "last" takes it to follow those that do. A sequence of padding alone gives 0, with "max" -inf.
    """

    examples = (
        Example({}, ((2, 3, 4),)),
        Example({"mode": "max"}, ((2, 5, 3),)),
        Example({"mode": "last"}, ((3, 2, 2),)),
    )

    def __init__(self, mode: str = "mean"):
        super().__init__()
        if mode not in MODES:
            raise ArgumentError(f"SequencePool has no mode {mode!r}", fix=suggest(str(mode), MODES))
        self.mode = mode

    def forward(self, input, padding=None):
        x = constant("SequencePool", input)
        if x.ndim != 3 or not x.shape[1]:
            raise ShapeError("SequencePool takes sequences of vectors", expected="(N, L, d)", received=f"{x.shape}")
        if padding is None:
            if self.mode == "last":
                return x[:, -1]
            return x.mean(1) if self.mode == "mean" else x.amax(1)
        if padding.shape != x.shape[:2] or padding.dtype != dt.bool_:
            raise ShapeError(
                "SequencePool's padding is True where a position does not count",
                expected=f"{x.shape[:2]} of bool",
                received=f"{padding.shape} of {dt.name_of(padding.dtype)}",
            )
        if self.mode == "max":
            return x.masked_fill(padding.unsqueeze(2), float("-inf")).amax(1)
        x = x.masked_fill(padding.unsqueeze(2), 0.0)
        count = padding.logical_not().sum(1, keepdim=True).clamp(min=1)
        if self.mode == "mean":
            return x.sum(1) / count.to(x.dtype)
        return steps_of(x, count - 1).squeeze(1)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}"


@LAYERS.register
class PaddedSequential(Sequential):
    """y = fₙ(… f₂(f₁(x))) for sequences of different lengths, each padded to the longest.

    Input (N, L) of whole numbers: positions equal to the `padding_idx` of the first layer, an `Embedding`, are padding,
    and follow those that count. Input (N, L, d) of floats has no padding. RNN, LSTM and GRU pass their output alone on,
    and their reverse direction begins at the last position that counts, as for a `PackedSequence`;
    `TransformerEncoderLayer` attends to no padding; `SequencePool` counts none. They are `batch_first`. All other layers
    are applied as in `Sequential`.
    """

    def forward(self, input):
        layers = list(self)
        padding_idx = getattr(layers[0], "padding_idx", None) if layers else None
        padding = None
        if padding_idx is not None:
            input = constant("PaddedSequential", input)
            if dt.is_floating(input.dtype):
                raise DTypeError("PaddedSequential takes numbers of tokens", received=dt.name_of(input.dtype))
            padding = input == padding_idx
        for layer in layers:
            input = apply(layer, input, padding)
        return input


def is_sequential(layer: type[Module]) -> bool:
    """Whether a class of layers treats the positions of a sequence specially in `PaddedSequential`."""
    return issubclass(layer, (RNNBase, TransformerEncoderLayer, SequencePool))


def apply(layer: Module, x, padding: Tensor | None):
    """The output of one layer of a `PaddedSequential`."""
    if isinstance(layer, SequencePool):
        return layer(x, padding)
    if isinstance(layer, RNNBase):
        _check_batch_first(layer, layer.batch_first)
        return layer(PaddedBatch(x, padding))
    if isinstance(layer, TransformerEncoderLayer):
        _check_batch_first(layer, layer.self_attn.batch_first)
        return layer(x, src_key_padding_mask=padding)
    return layer(x)


def _check_batch_first(layer: Module, batch_first: bool) -> None:
    if not batch_first:
        name = type(layer).__name__
        raise ArgumentError(f"PaddedSequential: the {name} is not batch_first", fix=f"{name}(…, batch_first=True)")
