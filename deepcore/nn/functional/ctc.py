"""Connectionist temporal classification: the loss of label sequences without an alignment, and their decoding."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from deepcore.autograd import apply, mixed_backends
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from deepcore.nn.functional.loss import check_reduction, reduced
from deepcore.ops.comparison import clamp, logical_and, logical_or
from deepcore.ops.ctc import ctc_loss_p
from deepcore.ops.index import within
from deepcore.ops.reduction import sum as sum_
from deepcore.ops.registry import functional, is_recorded, takes_arrays
from deepcore.ops.shape import squeeze, unsqueeze
from deepcore.tensor import Tensor, arange, as_tensor


@functional
@takes_arrays
def ctc_loss(
    log_probs,
    targets,
    input_lengths,
    target_lengths,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """-log Σₐ Πₜ p(aₜ | t) over the alignments a of a target: its labels in order, each for one or more frames, and blanks
    anywhere between them, at least one between equal labels.

    `log_probs` (T, N, C) or (T, C): logarithms of probabilities, from `log_softmax`. `targets`: labels (N, S), padded with
    anything, or those of all sequences one after the other, (Σ target_lengths,). `input_lengths` and `target_lengths`: (N,)
    integer tensors or sequences. No label is the class `blank`.

    "mean" divides each loss by its number of labels (at least 1) and averages; "sum" adds, "none" gives (N,). A target that
    does not fit into its frames has the loss inf and a gradient of NaN, with `zero_infinity` both 0. As in PyTorch, the
    gradient of `log_probs` is exp(log_probs) - posterior, which log_softmax passes on unchanged: it is wrong for inputs that
    are not normalised, and cannot be differentiated again. (Graves et al., 2006)
    """
    check_reduction(reduction)
    single = log_probs.ndim == 2
    log_probs = _frames("ctc_loss", log_probs)
    blank = _blank("ctc_loss", blank, log_probs.shape[2])
    targets = _whole("ctc_loss", "targets", targets, log_probs)
    input_lengths = _lengths("ctc_loss", "input_lengths", input_lengths, log_probs)
    target_lengths = _lengths("ctc_loss", "target_lengths", target_lengths, log_probs)
    _check(log_probs, targets, input_lengths, target_lengths, blank)
    half = log_probs.dtype if log_probs.dtype.itemsize == 2 else None
    if half is not None:
        log_probs = log_probs.to(dt.float32)
    params = {"blank": blank, "zero_infinity": bool(zero_infinity), "recorded": is_recorded(log_probs)}
    loss = apply(ctc_loss_p, (log_probs, targets, input_lengths, target_lengths), params)
    if reduction == "mean":
        loss = loss / clamp(target_lengths, min=1).to(loss.dtype)
    loss = squeeze(loss, 0) if single else reduced(loss, reduction)
    return loss if half is None else loss.to(half)


# -- arguments ------------------------------------------------------------------------------------------------------


def _frames(name: str, log_probs: Tensor) -> Tensor:
    """`log_probs` as (T, N, C)."""
    if log_probs.ndim not in (2, 3) or not log_probs.numel():
        raise ShapeError(
            f"{name} takes log-probabilities of the classes at each frame",
            expected="log_probs (T, N, C) or (T, C), not empty",
            received=f"shape {log_probs.shape}",
        )
    if not dt.is_floating(log_probs.dtype):
        raise DTypeError(
            f"{name}: log_probs are logarithms of probabilities",
            received=dt.name_of(log_probs.dtype),
            fix="log_softmax(scores, -1)",
        )
    return unsqueeze(log_probs, 1) if log_probs.ndim == 2 else log_probs


def _blank(name: str, blank, classes: int) -> int:
    if not hasattr(blank, "__index__") or not 0 <= blank < classes:
        raise ArgumentError(
            f"{name}: blank is one of the classes", expected=f"0 … {classes - 1}", received=f"blank={blank!r}"
        )
    return int(blank)


def _whole(name: str, role: str, value, log_probs: Tensor) -> Tensor:
    """A tensor of int64 beside `log_probs`."""
    if not isinstance(value, Tensor):
        value = as_tensor(value, backend=log_probs.backend)
    elif role == "targets" and value.backend is not log_probs.backend:
        raise mixed_backends(name, (log_probs, value))
    if not dt.is_integer(value.dtype):
        raise DTypeError(
            f"{name}: {role} are integers",
            received=f"{role} of dtype {dt.name_of(value.dtype)}",
            fix=f"{role}.to(dc.int64)",
        )
    return value.to(log_probs.backend, dt.int64)


def _lengths(name: str, role: str, value, log_probs: Tensor) -> Tensor:
    lengths, batch = _whole(name, role, value, log_probs), log_probs.shape[1]
    if lengths.shape != (batch,) and not (lengths.ndim == 0 and batch == 1):
        raise ShapeError(
            f"{name} takes a length for each sequence of log_probs {log_probs.shape}",
            expected=f"{role} of shape ({batch},)",
            received=f"shape {lengths.shape}",
        )
    return lengths.reshape(batch)


def _check(log_probs, targets, input_lengths, target_lengths, blank: int) -> None:
    time, batch, classes = log_probs.shape
    if targets.ndim not in (1, 2) or (targets.ndim == 2 and targets.shape[0] != batch):
        raise ShapeError(
            f"ctc_loss: targets do not fit log_probs of shape {log_probs.shape}",
            expected=f"targets ({batch}, S), padded, or (Σ target_lengths,)",
            received=f"shape {targets.shape}",
        )
    most = targets.shape[-1]
    _check_lengths(
        "ctc_loss", "input_lengths", input_lengths, time, f"frames of log_probs, whose shape is {log_probs.shape}"
    )
    _check_lengths(
        "ctc_loss", "target_lengths", target_lengths, most, f"labels of targets, whose shape is {targets.shape}"
    )
    if targets.ndim == 1 and not within(sum_(target_lengths), most, most + 1):
        raise ShapeError(
            "ctc_loss: concatenated targets have as many labels as target_lengths say",
            expected=f"target_lengths whose sum is {most}, as targets have shape {targets.shape}",
            received=f"the sum {sum_(target_lengths).item()}",
        )
    wrong = logical_or(logical_or(targets < 0, targets >= classes), targets == blank)
    if targets.ndim == 2:
        wrong = logical_and(wrong, arange(most, backend=targets.backend) < unsqueeze(target_lengths, 1))
    if not within(wrong.to(dt.int64), 0, 1):
        place = wrong.tolist().index(True) if targets.ndim == 1 else next(
            (n, row.index(True)) for n, row in enumerate(wrong.tolist()) if True in row
        )  # fmt: skip
        label = int(targets[place])
        at = ", ".join(map(str, place)) if isinstance(place, tuple) else place
        raise IndexRangeError(
            f"ctc_loss: label {label} at targets[{at}] is " + ("the blank" if label == blank else "out of range"),
            expected=f"0 … {classes - 1}, for {classes} classes, other than blank={blank}",
            received=str(label),
            fix="target_lengths leave padding out" if targets.ndim == 2 else None,
        )


def _check_lengths(name: str, role: str, lengths: Tensor, most: int, of: str) -> None:
    if not within(lengths, 0, most + 1):
        n, value = next((n, v) for n, v in enumerate(lengths.tolist()) if not 0 <= v <= most)
        raise ArgumentError(
            f"{name}: {role}[{n}] is {value}, of at most {most} {of}",
            expected=f"0 … {most}",
            received=str(value),
        )


# -- decoding -------------------------------------------------------------------------------------------------------


class Decoded(NamedTuple):
    """Labels, without blanks, and the logarithm of their probability."""

    labels: list[int]
    log_prob: float


@functional
@takes_arrays
def ctc_greedy_decode(log_probs, input_lengths=None, blank: int = 0) -> Any:
    """The labels of the most probable alignment: the best class of each frame, repetitions merged, then blanks removed.

    `log_probs` (T, N, C) or (T, C), `input_lengths` (N,) frames that count, by default all. Returns a `Decoded` (labels, log_prob)
    for each sequence, or, for (T, C), one; log_prob is that of the alignment. Among equal classes the first is chosen.
    """
    xp, sequences, blank = _sequences("ctc_greedy_decode", log_probs, input_lengths, blank)
    decoded = []
    for frames in sequences:
        best = xp.argmax(frames, axis=1).tolist()
        labels = [c for c, before in zip(best, [blank, *best]) if c not in (before, blank)]
        decoded.append(Decoded(labels, float(xp.sum(xp.amax(frames, axis=1)))))
    return decoded if log_probs.ndim == 3 else decoded[0]


@functional
@takes_arrays
def ctc_beam_decode(log_probs, input_lengths=None, blank: int = 0, beam_width: int = 10) -> Any:
    """The most probable labels, each summed over its alignments, by prefix beam search: frame by frame, the `beam_width` most
    probable beginnings are kept.

    Arguments as of `ctc_greedy_decode`. Returns, for each sequence, a list of up to `beam_width` `Decoded` (labels, log_prob), the
    best first; for (T, C) one list. A log_prob counts the alignments whose beginnings were kept, so it is a lower bound, and exact
    where none were dropped. (Graves and Jaitly, 2014; Hannun et al., 2014)
    """
    if not hasattr(beam_width, "__index__") or beam_width < 1:
        raise ArgumentError("ctc_beam_decode: beam_width is a whole number, at least 1", received=f"{beam_width!r}")
    xp, sequences, blank = _sequences("ctc_beam_decode", log_probs, input_lengths, blank)
    decoded = [_beam_search(xp, frames, blank, int(beam_width)) for frames in sequences]
    return decoded if log_probs.ndim == 3 else decoded[0]


def _sequences(name: str, log_probs, input_lengths, blank):
    """(NumPy's backend, the frames of each sequence as float64 arrays, the blank)."""
    xp, frames = get_backend("cpu"), _frames(name, log_probs.detach())
    time, batch, classes = frames.shape
    blank = _blank(name, blank, classes)
    lengths = [time] * batch
    if input_lengths is not None:
        checked = _lengths(name, "input_lengths", input_lengths, frames)
        _check_lengths(name, "input_lengths", checked, time, f"frames of log_probs, whose shape is {log_probs.shape}")
        lengths = checked.tolist()
    host = frames.to(xp, dt.float64).array
    return xp, [host[:length, n] for n, length in enumerate(lengths)], blank


def _beam_search(xp, frames, blank: int, width: int) -> list[Decoded]:
    """A prefix ends with a blank or with its last label, and has a log-probability for each."""
    prefixes: list[tuple[int, ...]] = [()]
    by_blank, by_label = xp.zeros(1), xp.full(1, -math.inf)
    for scores in frames:
        rows, total = xp.arange(len(prefixes)), xp.logaddexp(by_blank, by_label)
        last = xp.asarray([prefix[-1] if prefix else blank for prefix in prefixes])
        # A prefix stays itself by a blank or by its last label again, which lengthens it only behind a blank.
        longer = total[:, None] + scores
        longer[rows, last] = by_blank + scores[last]
        longer[:, blank] = -math.inf
        by_blank, by_label = total + scores[blank], xp.where(last == blank, -math.inf, by_label + scores[last])
        numbers = {prefix: i for i, prefix in enumerate(prefixes)}
        for i, prefix in enumerate(prefixes):
            parent = numbers.get(prefix[:-1]) if prefix else None
            if parent is not None:  # the same labels by another way
                by_label[i] = xp.logaddexp(by_label[i], longer[parent, prefix[-1]])
                longer[parent, prefix[-1]] = -math.inf
        candidates = xp.concatenate([xp.logaddexp(by_blank, by_label), longer.reshape(-1)])
        best = xp.argsort(-candidates, kind="stable")[:width]
        best = best[candidates[best] > -math.inf]
        if not best.size:  # no labels are possible
            return []
        stay, count = best[best < len(prefixes)], len(prefixes)
        parents, labels = xp.divmod(best[best >= count] - count, len(scores))
        prefixes = [prefixes[i] for i in stay] + [(*prefixes[p], c) for p, c in zip(parents.tolist(), labels.tolist())]
        none = xp.full(len(parents), -math.inf)
        by_blank, by_label = (
            xp.concatenate([by_blank[stay], none]), xp.concatenate([by_label[stay], longer[parents, labels]])
        )  # fmt: skip
    total = xp.logaddexp(by_blank, by_label)
    return [Decoded(list(prefixes[i]), float(total[i])) for i in xp.argsort(-total, kind="stable")]
