"""Connectionist temporal classification on the CPU: a sequence a chunk, its loss and gradient in two passes through time."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import int64
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import Address, In, InOut, Operand, Out, Size, args
from deepcore.kernels.cpu.reductions import FLOATS
from deepcore.kernels.cpu.rows import exp_below
from deepcore.kernels.math import elementary
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous
from deepcore.kernels.registry import register

# States are processed this many at a time, ends padded with -inf, so that none runs in scalar code.
_WIDTH = 16
# Every fourth time step is scaled: t & 3 is 0.
_SCALED = 3


@args(
    x=In, targets=In(int64), input_lengths=In(int64), target_lengths=In(int64), losses=Out, gradients=Address, work=InOut,
    time=Size, batch=Size, classes=Size, width=Size, blank=Size, zero_infinity=Size,
)  # fmt: skip
def _ctc(tools, recorded: bool, dtype: str):
    """losses[n] = -log p(targets of n), and where recorded its gradient exp(x) - posterior; chunk n is sequence n.

    `width`: labels of a row of targets, or -1 where they are concatenated. A row of `work` has numbers of the blanks, then of
    the labels. The rows of a sequence: those of the forward pass (all time steps, or two), two of the backward pass, and one
    with the labels' emissions and the cost of the step to them from the label before, 0 or -inf.

    Scaling subtracts a row's largest number from the next row, so that numbers, and with them their rounding errors, stay small;
    the sum of what was subtracted is in float64, and each row of the forward pass ends with its `shift`.
    """
    dt = np.dtype(dtype)
    view, after, after_label = tools.view(dt), tools.after(dt), tools.after(int64)
    log, exp, small_exp = (tools.lift(f, dt) for f in (elementary.log, elementary.exp, exp_below))
    space, copy = tools.local(dt, _WIDTH), tools.copy(dt)
    fold, largest = tools.folded(dt, "sum", _WIDTH), tools.folded(dt, "top", _WIDTH)
    zero, one, least, infinite, nan = (dt.type(v) for v in (0, 1, -np.inf, np.inf, np.nan))
    real = dt.type

    @tools.inline
    def add(a, b):
        """log(eᵃ + eᵇ)"""
        high, low = a if a > b else b, b if a > b else a
        return high + log(one + small_exp(low - (high if high > least else zero)))

    @tools.inline
    def add3(a, b, c):
        first, low = a if a > b else b, b if a > b else a
        high, other = first if first > c else c, c if first > c else first
        base = high if high > least else zero
        return high + log(one + small_exp(low - base) + small_exp(other - base))

    @tools.inline
    def exponentials(x, out, n):
        e = space()
        whole = n // _WIDTH * _WIDTH
        for i in range(0, whole, _WIDTH):
            for j in range(_WIDTH):
                out[i + j] = exp(x[i + j])
        if whole < n:
            for j in range(_WIDTH):
                e[j] = zero
            copy(e, after(x, whole), n - whole)
            for j in range(_WIDTH):
                e[j] = exp(e[j])
            copy(after(out, whole), e, n - whole)

    @tools.inline
    def total(x, n):
        acc = space()
        for j in range(_WIDTH):
            acc[j] = zero
        for i in range(0, n, _WIDTH):
            for j in range(_WIDTH):
                acc[j] += x[i + j]
        return fold(acc)

    @tools.inline
    def scale(x, n):
        """The largest number, or 0 where it is infinite."""
        acc = space()
        for j in range(_WIDTH):
            acc[j] = least
        for i in range(0, n, _WIDTH):
            for j in range(_WIDTH):
                acc[j] = x[i + j] if x[i + j] > acc[j] else acc[j]
        top = largest(acc)
        return top if (top > least) & (top < infinite) else zero

    def kernel(
        x, targets, input_lengths, target_lengths, losses, gradients, work, time, batch, classes, width, blank,
        zero_infinity, chunk,
    ):  # fmt: skip
        n, labels_before, padded = chunk, chunk * width, chunk * (width // _WIDTH + 1)
        if width < 0:
            labels_before, padded = 0, 0
            for i in range(n):
                labels_before += target_lengths[i]
                padded += target_lengths[i] // _WIDTH + 1
        frames, count = input_lengths[n], target_lengths[n]
        places, rows = (count // _WIDTH + 1) * _WIDTH, time if recorded else 2
        each = 2 * places + _WIDTH
        states = after(work, (rows + 3) * _WIDTH * (2 * padded + n))
        labels = after_label(targets, labels_before)
        emitted, step, column = after(states, (rows + 2) * each), batch * classes, n * classes
        jump = after(emitted, places)
        for j in range(places):
            emitted[j], jump[j] = least, least
        for j in range(1, count):
            jump[j] = zero if labels[j] != labels[j - 1] else least

        # Log-probabilities of the beginnings up to a state, less `subtracted`; labels one place to the right, behind a -inf.
        loss, log_total, subtracted, shift = zero if count == 0 else infinite, 0.0, 0.0, zero
        for t in range(frames):
            y = after(x, t * step + column)
            a = after(states, (t if recorded else t & 1) * each)
            b = after(a, places)
            if t == 0:
                for j in range(each):
                    a[j] = least
                a[0] = y[blank]
                if count:
                    b[1] = y[labels[0]]
            else:
                a0 = after(states, (t - 1 if recorded else (t - 1) & 1) * each)
                b0, b1, following, stay = after(a0, places), after(a0, places + 1), after(b, 1), y[blank] - shift
                for j in range(count):
                    emitted[j] = y[labels[j]] - shift
                b[0] = least
                for i in range(0, places, _WIDTH):
                    for j in range(i, i + _WIDTH):
                        a[j] = add(a0[j], b0[j]) + stay
                    for j in range(i, i + _WIDTH):
                        following[j] = add3(b1[j], a0[j], b0[j] + jump[j]) + emitted[j]
            if t == frames - 1:
                log_total = np.float64(add(a[count], b[count])) + subtracted
                loss = real(-log_total)
            else:
                shift = scale(a, 2 * places) if t & _SCALED == 0 else zero
                subtracted += np.float64(shift)
                a[each - 1] = shift
        absent = (loss == infinite) & (zero_infinity != 0)
        losses[n] = zero if absent else loss

        if recorded:
            out, valid = view(gradients), frames if loss < infinite else 0
            for t in range(valid, time):
                row = after(out, t * step + column)
                for i in range(classes):
                    row[i] = zero if absent | (t >= frames) else nan
            # Log-probabilities of the endings behind a state, scaled as well; the labels are followed by a -inf.
            a, a1 = after(states, rows * each), after(states, (rows + 1) * each)
            for j in range(2 * each):
                a[j] = least
            a[count] = zero
            if count:
                a[places + count - 1] = zero
            jump[places] = least
            next_jump = after(jump, 1)
            for t in range(valid - 1, -1, -1):
                y, row, alpha = after(x, t * step + column), after(out, t * step + column), after(states, t * each)
                if t < valid - 1:
                    subtracted -= np.float64(alpha[each - 1])
                alpha_b, b, b1 = after(alpha, places + 1), after(a, places), after(a1, places)
                shift = scale(a, 2 * places) if t & _SCALED == 0 else zero
                stay = y[blank] - shift
                for j in range(count):
                    emitted[j] = y[labels[j]] - shift
                # Posteriors, up to a factor, replace the beginnings; endings with their state those behind it.
                whole = real(log_total - subtracted)
                log_total -= np.float64(shift)
                for i in range(0, places, _WIDTH):
                    for j in range(i, i + _WIDTH):
                        alpha[j] = small_exp(alpha[j] + a[j] - whole)
                        a[j] += stay
                    for j in range(i, i + _WIDTH):
                        alpha_b[j] = small_exp(alpha_b[j] + b[j] - whole)
                        b[j] += emitted[j]
                alpha[places] = zero
                at_blank = total(alpha, places)
                share = one / (at_blank + total(after(alpha, places), places))
                exponentials(y, row, classes)
                row[blank] -= at_blank * share
                for j in range(count):
                    row[labels[j]] -= alpha_b[j] * share
                next_a, next_b = after(a, 1), after(b, 1)
                for i in range(0, places, _WIDTH):
                    for j in range(i, i + _WIDTH):
                        a1[j] = add(a[j], b[j])
                    for j in range(i, i + _WIDTH):
                        b1[j] = add3(b[j], next_a[j], next_b[j] + next_jump[j])
                a, a1 = a1, a
        return 0

    return kernel


_CTC = {
    (recorded, d): Kernel(f"ctc{'_grad' * recorded}_{d.name}", _ctc, recorded, d.name)
    for recorded in (False, True) for d in FLOATS
}  # fmt: skip


def _plan(specs, params) -> Plan | bool | None:
    """Operands: log_probs, targets and both lengths. Results: the losses, and where recorded the gradient of each."""
    x, targets, *lengths = specs
    recorded, dtype = params["recorded"], x.dtype
    kernel = _CTC.get((recorded, dtype))
    if kernel is None or not x.size or any(spec.dtype != int64 for spec in (targets, *lengths)) or not kernel.ready():
        return None
    if not all(spec.plain for spec in specs):
        return True
    time, batch, classes = x.shape
    # At least as many as the kernel's rows have.
    padded = batch * (targets.shape[1] // _WIDTH + 1) if targets.ndim == 2 else targets.size // _WIDTH + batch
    work = ((time if recorded else 2) + 3) * _WIDTH * (2 * padded + batch)
    launch = Launch(
        kernel, batch, x=Operand(0), targets=Operand(1), input_lengths=Operand(2), target_lengths=Operand(3), work=Operand(4),
        losses=Operand(5), gradients=Operand(6) if recorded else None, time=time, batch=batch, classes=classes,
        width=targets.shape[1] if targets.ndim == 2 else -1, blank=params["blank"], zero_infinity=params["zero_infinity"],
    )  # fmt: skip
    aux = [contiguous(x.shape, dtype, x.backend)] * recorded
    return Plan(contiguous((batch,), dtype, x.backend), [launch], (work * dtype.itemsize,), aux=aux)


def _cost(specs, params) -> float:
    """Some 40 operations for each state and time step and direction, 15 for each gradient."""
    time, batch, classes = specs[0].shape
    return time * (40.0 * (1 + params["recorded"]) * (2 * specs[1].size + batch) + 15 * batch * classes)


ctc_loss = Lowering("ctc_loss", _plan, ("blank", "zero_infinity", "recorded"), cost=_cost)
register("ctc_loss", "cpu", needs_numba=False)(ctc_loss)
