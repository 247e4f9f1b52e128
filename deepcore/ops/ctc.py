"""Connectionist temporal classification: the probability of a sequence of labels, summed over its alignments.

The states of a sequence of L labels alternate: blank, label 0, blank, label 1, …, label L - 1, blank. They are kept as two
arrays of L + 1 numbers, the blanks and, one place to the right, the labels: place j has blank j and the label before it.
"""

from __future__ import annotations

import math

from deepcore.autograd import apply, mode
from deepcore.errors import GradientError
from deepcore.ops.registry import primitive, saved_array


def _no_second_derivative(g):
    raise GradientError(
        "ctc_loss has a first derivative only, as in PyTorch",
        expected="a gradient that is not differentiated again",
        fix="leave create_graph=True out, or detach() the gradient",
    )


@primitive(vjp=(_no_second_derivative, _no_second_derivative, None))
def ctc_loss_backward(xp, g, log_probs, slope):
    return slope * g.reshape(1, -1, 1)


def _ctc_vjp(g, log_probs, aux):
    slope = saved_array(aux[0], g.backend)
    if mode.grad:
        return apply(ctc_loss_backward, (g, log_probs, slope))
    return slope * g.reshape(1, -1, 1)


@primitive(vjp=(_ctc_vjp, None, None, None))
def ctc_loss_p(xp, log_probs, targets, input_lengths, target_lengths, *, blank, zero_infinity, recorded):
    """-log p of each sequence, (N,), and with `recorded` its gradient exp(log_probs) - posterior, (T, N, C).

    log_probs (T, N, C), targets (N, S) or concatenated, both lengths (N,); all checked by `nn.functional.ctc_loss`. The gradient
    is that of the inputs of a log_softmax. It is 0 behind a sequence's end, and NaN where the loss is infinite.
    """
    time, batch, classes = log_probs.shape
    labels = _padded(xp, targets, target_lengths, blank, classes)
    blanks, emitted = log_probs[:, :, blank, None], _emissions(xp, log_probs, labels)
    jump = _jumps(xp, labels, log_probs.dtype)
    alpha = _forward(xp, blanks, emitted, jump)
    rows, last = xp.arange(batch), xp.maximum(input_lengths - 1, 0)
    ends = [part[last, rows, target_lengths] for part in alpha]
    inf = xp.full((), math.inf, dtype=log_probs.dtype)
    nothing = xp.where(target_lengths == 0, xp.zeros_like(inf), inf)
    exact = xp.where(input_lengths > 0, xp.negative(xp.logaddexp(*ends)), nothing)
    loss = xp.where(exact == inf, xp.zeros_like(inf), exact) if zero_infinity else exact
    if not recorded:
        return loss
    # (N, S, C): which class each label is.
    chosen = (labels[:, :, None] == xp.arange(classes)).astype(log_probs.dtype)
    at_blank, at_label = _posteriors(xp, alpha, blanks, emitted, jump, exact, last, target_lengths)
    grads = xp.exp(log_probs) - xp.matmul(at_label.swapaxes(0, 1), chosen).swapaxes(0, 1)
    grads[:, :, blank] -= at_blank.sum(2)
    without = xp.where(exact == inf, xp.zeros_like(inf), inf - inf) if zero_infinity else inf - inf
    grads = xp.where((exact < inf)[:, None], grads, xp.broadcast_to(without, (batch,))[:, None])
    within = xp.arange(time)[:, None, None] < input_lengths[:, None]
    return loss, xp.where(within, grads, xp.zeros_like(inf))


def _padded(xp, targets, lengths, blank: int, classes: int):
    """Targets as (N, S), blanks behind each sequence's end. Every one is a class, whatever the targets hold."""
    if targets.ndim == 1:
        columns = xp.arange(int(lengths.max()))
        places = (xp.cumsum(lengths) - lengths)[:, None] + columns
        padded = targets[xp.clip(places, 0, max(targets.size - 1, 0))] if targets.size else places
    else:
        columns, padded = xp.arange(targets.shape[1]), targets
    return xp.clip(xp.where(columns < lengths[:, None], padded, blank), 0, classes - 1)


def _emissions(xp, log_probs, labels):
    """(T, N, S + 1): place j + 1 has the log-probabilities of label j, place 0 those of no label, -inf."""
    index = xp.broadcast_to(labels, (len(log_probs), *labels.shape))
    emitted = xp.full((len(log_probs), len(labels), labels.shape[1] + 1), -math.inf, dtype=log_probs.dtype)
    emitted[:, :, 1:] = xp.take_along_axis(log_probs, index, axis=2)
    return emitted


def _jumps(xp, labels, dtype):
    """(N, S + 1): at place j + 1, 0 where label j may follow label j - 1 without a blank, and -inf elsewhere."""
    jump = xp.full((len(labels), labels.shape[1] + 1), -math.inf, dtype=dtype)
    jump[:, 2:] = xp.where(labels[:, 1:] != labels[:, :-1], xp.zeros((), dtype=dtype), jump[:, 2:])
    return jump


def _forward(xp, blanks, emitted, jump):
    """Log-probabilities of all beginnings that end in a state: of the blanks and of the labels, each (T, N, S + 1)."""
    at_blank, at_label = xp.full_like(emitted, -math.inf), xp.full_like(emitted, -math.inf)
    at_blank[0, :, 0], at_label[0, :, 1:2] = blanks[0, :, 0], emitted[0, :, 1:2]
    for t in range(1, len(emitted)):
        a, b = at_blank[t - 1], at_label[t - 1]
        at_blank[t] = xp.logaddexp(a, b) + blanks[t]
        at_label[t] = emitted[t]
        at_label[t, :, 1:] += xp.logaddexp(xp.logaddexp(b[:, 1:], a[:, :-1]), b[:, :-1] + jump[:, 1:])
    return at_blank, at_label


def _posteriors(xp, alpha, blanks, emitted, jump, exact, last, target_lengths):
    """Probabilities of being in a state, given the labels: of the blanks (T, N, S + 1), and of the labels (T, N, S)."""
    at_blank, at_label = alpha
    time, batch, places = emitted.shape
    # Log-probabilities of all endings behind a state, and of the state and its endings.
    least = xp.full((batch, places), -math.inf, dtype=emitted.dtype)
    a, b = least, least
    ends = xp.arange(places) == target_lengths[:, None]
    begin = xp.where(ends, xp.zeros_like(least), least)
    for t in range(time - 1, -1, -1):
        if t < time - 1:
            with_a, with_b = a + blanks[t + 1], b + emitted[t + 1]
            a, b = with_a.copy(), xp.logaddexp(with_a, with_b)
            a[:, :-1] = xp.logaddexp(with_a[:, :-1], with_b[:, 1:])
            b[:, :-1] = xp.logaddexp(b[:, :-1], with_b[:, 1:] + jump[:, 1:])
        final = (last == t)[:, None]
        a, b = xp.where(final, begin, a), xp.where(final, begin, b)
        at_blank[t] = xp.exp(at_blank[t] + a + exact[:, None])
        at_label[t] = xp.exp(at_label[t] + b + exact[:, None])
    return at_blank, at_label[:, :, 1:]
