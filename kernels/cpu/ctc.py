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


@args(
    x=In, targets=In(int64), input_lengths=In(int64), target_lengths=In(int64), losses=Out, gradients=Address, work=InOut,
    time=Size, batch=Size, classes=Size, width=Size, blank=Size, zero_infinity=Size,
)  # fmt: skip
def _ctc(tools, recorded: bool, dtype: str):
    """losses[n] = -log p(targets of n), and where recorded its gradient exp(x) - posterior; chunk n is sequence n.

    `width`: labels of a row of targets, or -1 where they are concatenated. A row of `work` has the blanks of one time step,
    then its labels, one place to the right, behind a -inf. The rows: those of the forward pass (all time steps, or two),
    two of the backward pass, and one with the labels' emissions and the cost of a step from label to label, 0 or -inf.
    """
    dt = np.dtype(dtype)
    view, after, after_label = tools.view(dt), tools.after(dt), tools.after(int64)
    log, exp = tools.lift(elementary.log, dt), tools.lift(elementary.exp, dt)
    small_exp = tools.lift(exp_below, dt)
    zero, one, least, infinite, nan = (dt.type(v) for v in (0, 1, -np.inf, np.inf, np.nan))

    @tools.inline
    def add2(a, b):
        """log(eᵃ + eᵇ)"""
        high, low = (a, b) if a > b else (b, a)
        return high + log(one + small_exp(low - (high if high > least else zero)))

    @tools.inline
    def add3(a, b, c):
        high, low = (a, b) if a > b else (b, a)
        high, other = (high, c) if high > c else (c, high)
        base = high if high > least else zero
        return high + log(one + small_exp(low - base) + small_exp(other - base))

    @tools.inline
    def gather(x, labels, out, count):
        for j in range(count):
            out[j] = x[labels[j]]

    def kernel(
        x, targets, input_lengths, target_lengths, losses, gradients, work, time, batch, classes, width, blank,
        zero_infinity, chunk,
    ):  # fmt: skip
        n, first = chunk, chunk * width
        if width < 0:
            first = 0
            for i in range(n):
                first += target_lengths[i]
        frames, count, rows = input_lengths[n], target_lengths[n], time if recorded else 2
        places = count + 1
        # The sequences before this one have `first` labels and n last blanks.
        begin = after(work, (rows + 3) * 2 * (first + n))
        step, column = batch * classes, n * classes
        extra = after(begin, rows * 2 * places)
        emitted, jump = after(extra, 4 * places), after(extra, 5 * places)
        labels = after_label(targets, first)
        jump[0] = least
        for j in range(1, count):
            jump[j] = zero if labels[j] != labels[j - 1] else least

        loss = zero if count == 0 else infinite
        for t in range(frames):
            y = after(x, t * step + column)
            a = after(begin, (t if recorded else t & 1) * 2 * places)
            b = after(a, places)
            b[0] = least
            if t == 0:
                for j in range(places):
                    a[j] = least
                for j in range(count):
                    b[j + 1] = least
                a[0] = y[blank]
                if count:
                    b[1] = y[labels[0]]
                continue
            a0 = after(begin, (t - 1 if recorded else (t - 1) & 1) * 2 * places)
            b0, b1, stay = after(a0, places), after(a0, places + 1), y[blank]
            gather(y, labels, emitted, count)
            for j in range(places):
                a[j] = add2(a0[j], b0[j]) + stay
            for j in range(count):
                b[j + 1] = add3(b1[j], a0[j], b0[j] + jump[j]) + emitted[j]
        if frames:
            a = after(begin, (frames - 1 if recorded else (frames - 1) & 1) * 2 * places)
            loss = -add2(a[count], a[places + count])
        losses[n] = zero if (loss == infinite) & (zero_infinity != 0) else loss

        if recorded:
            out = view(gradients)
            valid = frames if loss < infinite else 0
            for t in range(valid, time):
                fill = nan if t < frames else zero
                if (loss == infinite) & (zero_infinity != 0):
                    fill = zero
                row = after(out, t * step + column)
                for i in range(classes):
                    row[i] = fill
            # Log-probabilities of what follows a state: here labels are not moved, and end with a -inf.
            a, a1 = extra, after(extra, 2 * places)
            for j in range(places):
                a[j], a[places + j] = least, least
            if valid:
                a[count] = zero
            if count:
                a[places + count - 1] = zero
            for t in range(valid - 1, -1, -1):
                y, row = after(x, t * step + column), after(out, t * step + column)
                alpha = after(begin, t * 2 * places)
                alpha_b, b, b1 = after(alpha, places + 1), after(a, places), after(a1, places)
                for i in range(classes):
                    row[i] = exp(y[i])
                gather(y, labels, emitted, count)
                # Posteriors replace the forward pass, the endings with their state those behind it.
                stay = y[blank]
                for j in range(places):
                    alpha[j] = small_exp(alpha[j] + a[j] + loss)
                    a[j] += stay
                for j in range(count):
                    alpha_b[j] = small_exp(alpha_b[j] + b[j] + loss)
                    b[j] += emitted[j]
                at_blank = zero
                for j in range(places):
                    at_blank += alpha[j]
                row[blank] -= at_blank
                for j in range(count):
                    row[labels[j]] -= alpha_b[j]
                next_a, next_b, next_jump = after(a, 1), after(b, 1), after(jump, 1)
                jump[count] = least
                for j in range(places):
                    a1[j] = add2(a[j], b[j])
                for j in range(count):
                    b1[j] = add3(b[j], next_a[j], next_b[j] + next_jump[j])
                b1[count] = least
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
    work = (time if recorded else 2) + 3
    launch = Launch(
        kernel, batch, x=Operand(0), targets=Operand(1), input_lengths=Operand(2), target_lengths=Operand(3), work=Operand(4),
        losses=Operand(5), gradients=Operand(6) if recorded else None, time=time, batch=batch, classes=classes,
        width=targets.shape[1] if targets.ndim == 2 else -1, blank=params["blank"], zero_infinity=params["zero_infinity"],
    )  # fmt: skip
    aux = [contiguous(x.shape, dtype, x.backend)] * recorded
    states = 2 * (targets.size + batch)
    return Plan(contiguous((batch,), dtype, x.backend), [launch], (work * states * dtype.itemsize,), aux=aux)


def _cost(specs, params) -> float:
    """Some 40 operations for each state and time step and direction, 15 for each gradient."""
    time, batch, classes = specs[0].shape
    return time * (40.0 * (1 + params["recorded"]) * (2 * specs[1].size + batch) + 15 * batch * classes)


ctc_loss = Lowering("ctc_loss", _plan, ("blank", "zero_infinity", "recorded"), cost=_cost)
register("ctc_loss", "cpu", needs_numba=False)(ctc_loss)
