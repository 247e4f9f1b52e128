"""Sequences of unequal lengths: padded to one tensor, or packed without padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from deepcore.autograd import constant
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, ShapeError
from deepcore.ops.shape import cat, pad, stack
from deepcore.tensor import Tensor, arange, full, tensor

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


class _Packed(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None = None
    unsorted_indices: Tensor | None = None


class PackedSequence(_Packed):
    """Sequences without padding: time step by time step, the longest sequence first.

    `data` (rows, *) has the elements of all sequences at the first time step, then those at the second, and so on;
    `batch_sizes`, on the CPU, the number of sequences at each time step. `sorted_indices` order the sequences of the
    batch by length, and `unsorted_indices` undo it; both are None where the batch was sorted. Made by
    `pack_padded_sequence` and `pack_sequence`.
    """

    __slots__ = ()

    def __new__(cls, data, batch_sizes=None, sorted_indices=None, unsorted_indices=None):
        if batch_sizes is None and isinstance(data, (tuple, list)):
            data, batch_sizes = data
        if batch_sizes is None or (isinstance(batch_sizes, Tensor) and batch_sizes.backend != "cpu"):
            raise ArgumentError(
                "a PackedSequence has batch_sizes, on the CPU",
                fix="pack_padded_sequence(…) or pack_sequence(…) makes one",
            )
        if unsorted_indices is None and isinstance(sorted_indices, Tensor):
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args, **kwargs) -> PackedSequence:
        """With `data` on another backend or of another dtype, as `Tensor.to`; the indices move along."""
        data = self.data.to(*args, **kwargs)
        if data is self.data:
            return self
        indices = [None if i is None else i.to(data.backend) for i in self[2:]]
        return type(self)(data, self.batch_sizes, *indices)

    def cpu(self) -> PackedSequence:
        return self.to("cpu")

    def cuda(self, device: Any = "cuda") -> PackedSequence:
        return self.to(device=device)

    def double(self) -> PackedSequence:
        return self.to(dtype=dt.float64)

    def float(self) -> PackedSequence:
        return self.to(dtype=dt.float32)

    def half(self) -> PackedSequence:
        return self.to(dtype=dt.float16)

    @property
    def is_cuda(self) -> bool:
        return self.data.is_cuda


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The indices that undo an order of rows."""
    return None if permutation is None else permutation.argsort()


def _lengths(name: str, lengths) -> list[int]:
    values = lengths.tolist() if hasattr(lengths, "tolist") else list(lengths)
    if not isinstance(values, list) or any(not hasattr(n, "__index__") for n in values):
        raise ArgumentError(f"{name}: lengths are whole numbers, one for each sequence", received=repr(lengths))
    return [int(n) for n in values]


def _time_first(name: str, input, batch_first: bool) -> Tensor:
    input = constant(name, input)
    if input.ndim < 2:
        form = "(batch, time, *)" if batch_first else "(time, batch, *)"
        raise ShapeError(f"{name} takes a padded batch", expected=f"shape {form}", received=f"shape {input.shape}")
    return input.transpose(0, 1) if batch_first else input


def pack_padded_sequence(
    input, lengths: Tensor | Sequence[int], batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack a padded batch of sequences, (time, batch, *) or, `batch_first`, (batch, time, *).

    `enforce_sorted`: the lengths are in decreasing order already; else they are sorted, and layers and
    `pad_packed_sequence` restore the order of the batch.
    """
    x, counts = _time_first("pack_padded_sequence", input, batch_first), _lengths("pack_padded_sequence", lengths)
    time, batch = x.shape[:2]
    if len(counts) != batch:
        raise ShapeError(
            "pack_padded_sequence takes a length for each sequence of the batch",
            expected=f"{batch} lengths", received=f"{len(counts)}, with shape {x.shape}",
        )  # fmt: skip
    if not counts or min(counts) < 1 or max(counts) > time:
        raise ShapeError(
            f"pack_padded_sequence: lengths are from 1 to the padded length, {time}", received=f"lengths {counts}"
        )
    order = sorted(range(batch), key=lambda i: -counts[i])
    if enforce_sorted and any(a < b for a, b in pairwise(counts)):
        raise ArgumentError(
            "pack_padded_sequence: lengths are not in decreasing order", received=f"lengths {counts}",
            fix="enforce_sorted=False",
        )  # fmt: skip
    ordered = tensor([counts[i] for i in order], dtype=dt.int64, backend="cpu")
    indices = tensor(order, dtype=dt.int64, backend="cpu")
    inside = arange(max(counts), backend="cpu").reshape(-1, 1) < ordered
    places = inside.nonzero()
    rows = places[:, 0] * batch + indices[places[:, 1]]
    data = x.reshape(time * batch, *x.shape[2:]).index_select(0, rows.to(x.backend))
    return PackedSequence(data, inside.sum(1), None if enforce_sorted else indices.to(x.backend))


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """(the padded batch, the lengths): the inverse of `pack_padded_sequence`, to `total_length` time steps at least."""
    data, batch_sizes, _, unsorted = sequence
    longest, batch = len(batch_sizes), int(batch_sizes[0])
    time = longest if total_length is None else total_length
    if time < longest:
        raise ArgumentError(
            "pad_packed_sequence: total_length is below the longest sequence",
            expected=f"at least {longest}", received=f"total_length={total_length}",
        )  # fmt: skip
    column = arange(batch, backend="cpu") if unsorted is None else unsorted.to("cpu")
    inside = column < batch_sizes.reshape(-1, 1)
    lengths = inside.sum(0)
    rows = (batch_sizes.cumsum(0) - batch_sizes).reshape(-1, 1) + column
    if time > longest:
        inside = _extended(inside, time)
        rows = _extended(rows, time)
    rows = (rows * inside).reshape(-1).to(data.backend)
    padded = data.index_select(0, rows).reshape(time, batch, *data.shape[1:])
    outside = inside.logical_not()
    if outside.any():
        outside = outside.to(data.backend).reshape(time, batch, *(1,) * (data.ndim - 1))
        padded = padded.masked_fill(outside, padding_value)
    return (padded.transpose(0, 1) if batch_first else padded), lengths


def _extended(rows: Tensor, count: int) -> Tensor:
    """`rows` with further rows of zeros, `count` in all."""
    return cat([rows, full((count - len(rows), *rows.shape[1:]), 0, dtype=rows.dtype, backend=rows.backend)])


def pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """One padded batch, (time, batch, *) or (batch, time, *), of sequences (length, *)."""
    if padding_side not in ("left", "right"):
        raise ArgumentError("pad_sequence pads on one side", expected='"left" or "right"', received=repr(padding_side))
    items = [constant("pad_sequence", s) for s in sequences]
    if not items or any(s.ndim < 1 or s.shape[1:] != items[0].shape[1:] for s in items):
        raise ShapeError(
            "pad_sequence takes at least one sequence, all of shape (length, *) and equal but for the length",
            received=f"shapes {[s.shape for s in items]}",
        )
    longest = max(len(s) for s in items)
    padded = []
    for s in items:
        missing = longest - len(s)
        sides = (missing, 0) if padding_side == "left" else (0, missing)
        padded.append(pad(s, (0, 0) * (s.ndim - 1) + sides, value=padding_value) if missing else s)
    return stack(padded, 0 if batch_first else 1)


def unpad_sequence(padded_sequences, lengths: Tensor | Sequence[int], batch_first: bool = False) -> list[Tensor]:
    """The sequences of a padded batch, without their padding."""
    x, counts = _time_first("unpad_sequence", padded_sequences, batch_first), _lengths("unpad_sequence", lengths)
    if len(counts) != x.shape[1]:
        raise ShapeError(
            "unpad_sequence takes a length for each sequence of the batch",
            expected=f"{x.shape[1]} lengths", received=str(len(counts)),
        )  # fmt: skip
    return [x[:n, i] for i, n in enumerate(counts)]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences (length, *) of unequal lengths: `pack_padded_sequence` of `pad_sequence`."""
    items = list(sequences)
    return pack_padded_sequence(pad_sequence(items), [len(s) for s in items], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences of a packed batch, in the order of the batch."""
    return unpad_sequence(*pad_packed_sequence(packed_sequences))
