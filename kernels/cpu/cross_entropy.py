"""Cross-entropy on the CPU: loss and gradient of a row in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.backend.dtypes import float64, int64
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import Address, Float, In, Operand, Out, Size, args
from deepcore.kernels.cpu.reductions import (
    CHUNK,
    FLOATS,
    LANES,
    extreme,
    in_steps,
    kernels_of,
    plain,
    regions,
    share,
    summing,
)
from deepcore.kernels.cpu.rows import (
    ROW_COST,
    TILE,
    exponentials,
    in_tiles,
    split,
    tile_access,
    tile_exponentials,
    tile_slices,
    turned,
)
from deepcore.kernels.math import elementary
from deepcore.kernels.plan import (
    Launch,
    Lowering,
    Plan,
    contiguous,
    per_element,
    reference_explains,
)
from deepcore.kernels.registry import register


@args(
    target=In(int64), size=Size, classes=Size, ignored=Size, weight=Address, smoothing=Float(float64), mean=Size,
    scalars=Out(float64), ones=Address,
)  # fmt: skip
def _targets(tools, dtype: str):
    """Whether all classes are in range (status 1: no), and the numbers that the losses need.

    `mean`: whether the gradient is that of a mean, `ones`: where weights of 1 are to be written, if anywhere. The numbers
    are float64: Σ of the weights of what counts, the smoothing, Σ weight, the gradients' scale.
    """
    dt = np.dtype(dtype)
    view, one = tools.view(dt), dt.type(1)

    def kernel(target, size, classes, ignored, weight, smoothing, mean, scalars, ones):
        count, bad = 0, 0
        for i in range(size):
            y = target[i]
            count += 1 if y != ignored else 0
            bad += 1 if (y != ignored) & ((y < 0) | (y >= classes)) else 0
        if bad:
            return 1
        total = np.float64(count)
        weights = view(weight)
        if weight:
            total, compensation = np.float64(0.0), np.float64(0.0)
            for i in range(size):
                if target[i] != ignored:
                    # Compensated summation.
                    w = np.float64(weights[target[i]])
                    next_total = total + w
                    part = next_total - total
                    compensation += (total - (next_total - part)) + (w - part)
                    total = next_total
            total += compensation
        scalars[0] = total
        scalars[1] = smoothing
        scalars[2] = np.float64(classes)
        if weight:
            scalars[2] = 0.0
            for i in range(classes):
                scalars[2] += np.float64(weights[i])
        scalars[3] = 1.0 / total if (mean != 0) & (total != 0.0) else 1.0
        if ones:
            for i in range(classes):
                view(ones)[i] = one
        return 0

    return kernel


@args(
    x=In, target=In(int64), weight=Address, losses=Out, gradients=Address, rows=Size, n=Size, ignored=Size,
    rows_per_chunk=Size,
    scalars=In(float64),
)  # fmt: skip
def _cross_entropy(tools, recorded: bool, smoothed: bool, dtype: str):
    """Losses of rows, and where recorded their gradients. Without `weight`, which smoothing needs, weights are 1.

    `scalars`: as `_targets` left them; `rows_per_chunk`: rows of a chunk.
    """
    dt = np.dtype(dtype)
    view, after, size = tools.view(dt), tools.after(dt), dt.itemsize
    log, best, total = tools.lift(elementary.log, dt), extreme(tools, dt, "top"), exponentials(tools, dt, recorded)
    zero, one, real = dt.type(0), dt.type(1), dt.type

    if smoothed:

        @tools.inline
        def term(x, y, weight, i, c, d):
            return weight[i] * (d - (x[i] - c)) if weight[i] != zero else zero

        others = summing(tools, dt, term)

    def kernel(x, target, weight, losses, gradients, rows, n, ignored, rows_per_chunk, scalars, chunk):
        w = view(weight)
        smoothing, weights, scale = real(scalars[1]), real(scalars[2]), real(scalars[3])
        share = smoothing / real(n)
        for r in range(chunk * rows_per_chunk, min(rows, (chunk + 1) * rows_per_chunk)):
            row, out = after(x, r * n), view(gradients + r * n * size)
            y = target[r]
            q = zero if y == ignored else (w[y] if weight else one)
            if (y == ignored) if smoothed else (q == zero):
                losses[r] = zero
                if recorded:
                    for i in range(n):
                        out[i] = zero
                continue
            c = best(row, n)
            s = total(row, out, n, c)
            d = log(s)
            q *= one - smoothing
            loss = q * (d - (row[y] - c)) if q != zero else zero
            if smoothed:
                loss += share * others(row, row, w, n, c, d)
            losses[r] = loss
            if recorded:
                q *= scale
                if smoothed:
                    b = share * scale
                    k = (q + b * weights) / s
                    for i in range(n):
                        out[i] = out[i] * k - b * w[i]
                else:
                    k = q / s
                    for i in range(n):
                        out[i] = out[i] * k
                out[y] -= q
        return 0

    return kernel


@args(
    x=In, target=In(int64), weight=Address, losses=Out, gradients=Address, outer=Size, n=Size, inner=Size,
    tiles_per_chunk=Size,
    ignored=Size, scalars=In(float64),
)  # fmt: skip
def _cross_entropy_tiles(tools, recorded: bool, smoothed: bool, dtype: str):
    """`_cross_entropy` over tiles."""
    dt = np.dtype(dtype)
    view = tools.view(dt)
    log = tools.lift(elementary.log, dt)
    lanes, space = tools.local(dt, LANES), tools.local(dt, LANES * TILE)
    place, load, store = tile_access(tools, dt)
    total = tile_exponentials(tools, dt)
    zero, one, real = dt.type(0), dt.type(1), dt.type

    def kernel(x, target, weight, losses, gradients, outer, n, inner, tiles_per_chunk, ignored, scalars, chunk):
        w, out = view(weight), view(gradients)
        smoothing, weights, scale = real(scalars[1]), real(scalars[2]), real(scalars[3])
        share = smoothing / real(n)
        tile, top, sums, q, chosen, loss = space(), lanes(), lanes(), lanes(), lanes(), lanes()
        tiles = -(-outer // LANES) if inner == 1 else outer * -(-inner // LANES)
        for t in range(chunk * tiles_per_chunk, min(tiles, (chunk + 1) * tiles_per_chunk)):
            base, step, row_step, first, count = place(t, outer, n, inner)
            load(tile, x, base, n, step, row_step, count)
            for j in range(LANES):
                q[j], chosen[j] = zero, zero
            for j in range(count):
                y = target[first + j]
                if y != ignored:
                    chosen[j] = tile[LANES * y + j]
                    q[j] = (one - smoothing) * (w[y] if weight else one)
            if smoothed:
                for j in range(LANES):
                    loss[j] = zero
            total(tile, n, top, sums)
            for j in range(LANES):
                chosen[j] = log(sums[j]) - (chosen[j] - top[j])
            if smoothed:
                for i in range(n):
                    if w[i] != zero:
                        for j in range(count):
                            d = x[base + i * step + j * row_step]
                            loss[j] += w[i] * (log(sums[j]) - (d - top[j]))
            for j in range(count):
                value = q[j] * chosen[j] if q[j] != zero else zero
                if smoothed:
                    value = value + share * loss[j] if target[first + j] != ignored else zero
                losses[first + j] = value
            if recorded:
                if smoothed:
                    b = share * scale
                    for j in range(LANES):
                        top[j] = zero
                    for j in range(count):
                        top[j] = b if target[first + j] != ignored else zero
                    for j in range(LANES):
                        q[j] = q[j] * scale
                        sums[j] = (q[j] + top[j] * weights) / sums[j]
                    for i in range(n):
                        for j in range(LANES):
                            tile[LANES * i + j] = tile[LANES * i + j] * sums[j] - top[j] * w[i]
                else:
                    for j in range(LANES):
                        q[j] = q[j] * scale
                        sums[j] = q[j] / sums[j]
                    for i in range(n):
                        for j in range(LANES):
                            tile[LANES * i + j] = tile[LANES * i + j] * sums[j]
                for j in range(count):
                    y = target[first + j]
                    if (y != ignored) if smoothed else (q[j] != zero):
                        tile[LANES * y + j] -= q[j]
                    else:
                        for i in range(n):
                            tile[LANES * i + j] = zero
                store(out, tile, base, n, step, row_step, count)
        return 0

    return kernel


@args(losses=In, size=Size, scalars=In(float64), mean=Size, out=Out)
def _loss(tools, dtype: str):
    """out[0] = Σ losses, divided by numbers[0] for the mean."""
    dt = np.dtype(dtype)
    total, zero, real = plain(tools, dt), dt.type(0), dt.type

    def kernel(losses, size, scalars, mean, out):
        value = total(losses, losses, losses, size, zero, zero)
        out[0] = value / real(scalars[0]) if mean else value
        return 0

    return kernel


_TARGETS = kernels_of("targets", _targets)
_LOSS = kernels_of("cross_entropy_loss", _loss)
_CROSS_ENTROPY = {
    (recorded, smoothed, tiled, d): Kernel(
        f"cross_entropy{'_grad' * recorded}{'_smoothed' * smoothed}{'_tiles' * tiled}_{d.name}",
        _cross_entropy_tiles if tiled else _cross_entropy, recorded, smoothed, d.name,
    )
    for recorded in (False, True) for smoothed in (False, True) for tiled in (False, True) for d in FLOATS
}  # fmt: skip


class _OperandNumbers:
    """Numbers temporaries in order of allocation, and results behind them."""

    def __init__(self, first: int):
        self.first = first
        self.sizes: list[int] = []

    def temporary(self, size: int) -> Operand:
        self.sizes.append(size)
        return Operand(self.first + len(self.sizes) - 1)

    def result(self, i: int) -> Operand:
        return Operand(self.first + len(self.sizes) + i)


def _plan(specs, params) -> Plan | bool | None:
    """Operands: input, target, weight, the smoothing. Results: the loss, and where recorded the gradient of it."""
    x, target, count = specs[0], specs[1], len(specs)
    check, dtype, size = _TARGETS.get(x.dtype), x.dtype, x.dtype.itemsize
    if check is None or not x.size or target.dtype != int64 or any(w.dtype != dtype for w in specs[2:]):
        return None
    if not all(spec.plain for spec in specs):
        return True
    recorded, mean, ignored = params["recorded"], params["reduction"] == "mean", params["ignore_index"]
    outer, n, inner = split(x.shape, params["dim"])
    rows = outer * inner
    smoothed, transposed = params["smoothing"] > 0, inner > 1 and not in_tiles(n, inner)
    tiled = in_tiles(n, 1 if transposed else inner)
    # All temporaries before the first result, which is numbered behind them.
    operands = _OperandNumbers(count + 1)
    scalars = operands.temporary(32)
    weight = Operand(2) if count > 2 else None
    ones = operands.temporary(n * size) if smoothed and weight is None else None
    source = operands.temporary(x.size * size) if transposed else Operand(0)
    gradient = operands.temporary(x.size * size) if transposed and recorded else None
    losses = operands.temporary(rows * size) if params["reduction"] != "none" else None
    steps = regions("sum", dtype, 1, rows, 1) if losses is not None and rows > CHUNK else []
    partial_sums = [operands.temporary(step.results * size) for step in steps]
    loss = operands.result(0)
    if recorded and not transposed:
        gradient = operands.result(1)

    smoothing = Operand(count)
    launches = [
        Launch(
            check, 1, target=Operand(1), size=rows, classes=n, ignored=ignored, weight=weight, smoothing=smoothing, mean=mean,
            scalars=scalars, ones=ones,
        )
    ]  # fmt: skip
    if transposed:
        launches.append(turned(dtype, outer, n, inner, Operand(0), source))
    arguments: dict[str, Any] = {
        "x": source, "target": Operand(1), "weight": weight or ones, "losses": loss if losses is None else losses,
        "gradients": gradient, "n": n, "ignored": ignored, "scalars": scalars,
    }  # fmt: skip
    kernel = _CROSS_ENTROPY[recorded, smoothed, tiled, dtype]
    if tiled:
        lengths = {"outer": rows, "n": n, "inner": 1} if transposed else {"outer": outer, "n": n, "inner": inner}
        chunks, tiles_per_chunk = tile_slices(*lengths.values())
        launches.append(Launch(kernel, chunks, tiles_per_chunk=tiles_per_chunk, **{**arguments, **lengths}))
    else:
        per_chunk = share(x.size) // (n + ROW_COST) or 1
        launches.append(Launch(kernel, -(-rows // per_chunk), rows=rows, rows_per_chunk=per_chunk, **arguments))
    if transposed and gradient is not None:
        launches.append(turned(dtype, outer, inner, n, gradient, operands.result(1)))
    if losses is not None:
        if steps:
            launches += in_steps(steps, losses, partial_sums[0].number, partial_sums[-1])
        inputs, input_size = (partial_sums[-1], 1) if steps else (losses, rows)
        launches.append(Launch(_LOSS[dtype], 1, losses=inputs, size=input_size, scalars=scalars, mean=mean, out=loss))
    if not all(launch.kernel.ready() for launch in launches):
        return None
    result = contiguous(target.shape if losses is None else (), dtype, x.backend)
    aux = [contiguous(x.shape, dtype, x.backend)] * recorded
    return Plan(result, launches, tuple(operands.sizes), aux=aux)


def _key(params: dict) -> tuple:
    keys = "dim", "ignore_index", "reduction", "recorded"
    return *(params[name] for name in keys), params["smoothing"] > 0


cross_entropy = Lowering(
    "cross_entropy", _plan, _key, ("smoothing",), on_stop=reference_explains, cost=per_element(8)
)  # fmt: skip
register("cross_entropy", "cpu", needs_numba=False)(cross_entropy)
