"""Cross-entropy on CUDA: loss and gradient of a row in one kernel."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import float64, int64
from deepcore.kernels.codegen.kernel import Float, In, Out, Size, args
from deepcore.kernels.codegen.ptx import THREADS, Kernel
from deepcore.kernels.cuda.reductions import ALL, over_all
from deepcore.kernels.cuda.rows import FLOATS, add, by_dtype_and_group, larger, reduction, run_rows, select_kernel
from deepcore.kernels.math import elementary
from deepcore.kernels.registry import register


@args(
    target=In(int64), weight=In, out=Out(float64), scale=Out, rows=Size, classes=Size, ignored=Size, weighted=Size, mean=Size
)  # fmt: skip
def _targets(tools, dtype: str):
    """out[0] = Σ of the weights of targets that are not ignored, out[1] = the count of classes out of range; scale is 1, or
    1/out[0] with `mean`."""

    @tools.inline
    def weigh(y, weight, classes, ignored, weighted):
        if (y == ignored) | (y < 0) | (y >= classes):
            return 0.0
        return np.float64(weight[y]) if weighted else 1.0

    return over_all(
        tools, "target, weight, out, scale, rows, classes, ignored, weighted, mean",
        "{y} = target[{i}] if {i} < rows else ignored",
        "total += weigh({y}, weight, classes, ignored, weighted); "
        "bad += 1.0 if ({y} != ignored) & (({y} < 0) | ({y} >= classes)) else 0.0",
        "out[0], out[1] = total, bad\nscale[0] = real(1.0 / total) if mean & (total != 0.0) else real(1.0)",
        weigh=weigh, real=np.dtype(dtype).type,
    )  # fmt: skip


@args(losses=In, totals=In(float64), out=Out, rows=Size, mean=Size)
def _loss(tools, dtype: str):
    """The sum of the losses, with `mean` divided by the sum of weights from `_targets`."""
    return over_all(
        tools, "losses, totals, out, rows, mean", "{y} = np.float64(losses[{i}]) if {i} < rows else 0.0",
        "total += {y}",
        "out[0] = real(total / totals[0]) if mean else real(total)", np=np, real=np.dtype(dtype).type,
    )  # fmt: skip


@args(
    x=In, target=In(int64), weight=In, losses=Out, out=Out, weight_sum=In, scales=In, rows=Size, n=Size, ignored=Size,
    weighted=Size, smoothing=Float,
)  # fmt: skip
def _cross_entropy(tools, dtype: str, group: int, recorded: bool, smoothed: bool):
    """The losses of the rows of x, and where recorded the gradient of their sum times `scale`.

    The weight of class c is weight[c], or 1 unless `weighted`, and `weight_sum` has the sum over all classes then. A class out
    of range counts as ignored.
    """
    dt = np.dtype(dtype)
    thread, block, blocks, rows_per_block = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    best_of, sum_of = reduction(tools, larger, dt, group), reduction(tools, add, dt, group)
    exp, log, better = tools.lift(elementary.exp, dt), tools.lift(elementary.log, dt), tools.lift(larger)
    least, zero, one, real = dt.type(-np.inf), dt.type(0), dt.type(1), dt.type

    def kernel(x, target, weight, losses, out, weight_sum, scales, rows, n, ignored, weighted, smoothing):
        t, share, weights, scale = thread() % group, smoothing / real(n), real(n), scales[0]
        if weighted & smoothed:
            weights = weight_sum[0]
        for r in range(block() * rows_per_block + thread() // group, rows, blocks() * rows_per_block):
            at, y, q = r * n, target[r], zero
            counts = (y != ignored) & (y >= 0) & (y < n)
            if counts:
                q = weight[y] if weighted else one
            if not counts if smoothed else q == zero:
                if t == 0:
                    losses[r] = zero
                if recorded:
                    for i in range(t, n, group):
                        out[at + i] = zero
                continue
            best, total = least, zero
            for i in range(t, n, group):
                best = better(best, x[at + i])
            best = best_of(best)
            for i in range(t, n, group):
                total += exp(x[at + i] - best)
            total = sum_of(total)
            lead = log(total)
            q = (one - smoothing) * q
            loss = q * (lead - (x[at + y] - best)) if q != zero else zero
            if smoothed:
                others = zero
                for i in range(t, n, group):
                    term = lead - (x[at + i] - best)
                    if weighted:
                        term = weight[i] * term if weight[i] != zero else zero
                    others += term
                loss += share * sum_of(others)
            if t == 0:
                losses[r] = loss
            if recorded:
                q = q * scale
                b = share * scale
                k = (q + b * weights) / total if smoothed else q / total
                for i in range(t, n, group):
                    v = exp(x[at + i] - best) * k
                    if smoothed:
                        v -= b * weight[i] if weighted else b
                    out[at + i] = v - q if i == y else v

    return kernel


_TARGETS = {d: Kernel(f"targets_{d.name}", _targets, d.name, threads=ALL) for d in FLOATS}
_LOSS = {d: Kernel(f"losses_{d.name}", _loss, d.name, threads=ALL) for d in FLOATS}
_CROSS_ENTROPY = {
    (recorded, smoothed): by_dtype_and_group(
        f"cross_entropy{'_grad' * recorded}{'_smoothed' * smoothed}", _cross_entropy, recorded, smoothed
    )
    for recorded in (False, True)
    for smoothed in (False, True)
}


@register("cross_entropy", "cuda", needs_numba=False)
def cross_entropy(xp, input, target, weight=None, *, dim, ignore_index, smoothing, reduction, recorded):
    dtype, n = input.dtype, input.shape[dim]
    kernels = select_kernel(_CROSS_ENTROPY[recorded, smoothing > 0], dtype, n), _TARGETS.get(dtype), _LOSS.get(dtype)
    if None in kernels or not input.size or not all(map(xp.ready, kernels)):
        return NotImplemented
    kernel, check, add_up = kernels
    x = xp.ascontiguousarray(xp.moveaxis(input, dim, -1))
    rows, target = x.size // n, xp.ascontiguousarray(target.astype(int64, copy=False))
    weighted = weight is not None
    weights = xp.ascontiguousarray(weight.astype(dtype, copy=False)) if weighted else x
    totals, scale, mean = xp.empty(2, dtype=float64), xp.empty(1, dtype=dtype), reduction == "mean"
    xp.launch(
        check, 1, target=target, weight=weights, out=totals, scale=scale, rows=rows, classes=n, ignored=ignore_index,
        weighted=weighted, mean=mean,
    )  # fmt: skip
    weight_sum = xp.sum(weights).reshape(1) if weighted and smoothing > 0 else x
    losses = xp.empty(target.shape, dtype=dtype)
    gradients = xp.empty(x.shape, dtype=dtype) if recorded else x
    loss = losses if reduction == "none" else xp.empty((), dtype=dtype)
    wrong = xp.any_wrong_by_now(totals[1:])
    run_rows(
        xp, kernel, rows=rows, x=x, target=target, weight=weights, losses=losses, out=gradients,
        weight_sum=weight_sum, scales=scale,
        n=n, ignored=ignore_index, weighted=weighted, smoothing=smoothing,
    )  # fmt: skip
    if reduction != "none":
        xp.launch(add_up, 1, losses=losses, totals=totals, out=loss, rows=rows, mean=mean)
    if wrong():
        return NotImplemented  # the reference raises the error
    if not recorded:
        return loss
    return loss, xp.ascontiguousarray(xp.moveaxis(gradients, -1, dim))
