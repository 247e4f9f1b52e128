"""Pooling on the CPU: a row of windows at a time, tap by tap, so that the loop over windows is the innermost.

One and two dimensions are three of which the first have length 1.
"""

from __future__ import annotations

import math

import numpy as np

from deepcore.backend.dtypes import int64
from deepcore.kernels.codegen.kernel import In, Operand, Out, Size, Type, args
from deepcore.kernels.cpu.reductions import FLOATS, kernels_of, share
from deepcore.kernels.plan import Launch, Lowering, Plan, Spec, contiguous
from deepcore.kernels.registry import register

#: Windows of a row whose results are held at a time.
_BLOCK = 256
#: Windows, input and filter along three dimensions; steps, padding before and dilation.
_WINDOWS: dict[str, Type] = dict.fromkeys(
    ("od", "oh", "ow", "depth", "height", "width", "kd", "kh", "kw", "sd", "sh", "sw", "pd", "ph", "pw", "dd", "dh", "dw"),
    Size,
)  # fmt: skip


@args(x=In, out=Out(int64), rows=Size, each=Size, **_WINDOWS)
def _largest(tools, dtype: str):
    """out[p, oz, oy, ox] = where in plane p of x the largest element of the window is: of equals the first, of NaNs the last.

    `rows`: rows of windows of all planes, `each`: those of a chunk.
    """
    dt = np.dtype(dtype)
    after, after_place = tools.after(dt), tools.after(int64)
    values, places = tools.local(dt, _BLOCK), tools.local(int64, _BLOCK)
    lowest = dt.type(-math.inf)

    def kernel(
        x, out, rows, each, od, oh, ow, depth, height, width, kd, kh, kw, sd, sh, sw, pd, ph, pw, dd, dh, dw, chunk
    ):  # fmt: skip
        best, found = values(), places()
        for r in range(chunk * each, min(rows, (chunk + 1) * each)):
            plane, oz, oy = r // (od * oh), r // oh % od, r % oh
            source, result = after(x, plane * depth * height * width), after_place(out, r * ow)
            for first in range(0, ow, _BLOCK):
                count = min(_BLOCK, ow - first)
                for j in range(count):
                    best[j] = lowest
                    found[j] = -1
                for a in range(kd):
                    z = oz * sd - pd + a * dd
                    for b in range(kh):
                        y = oy * sh - ph + b * dh
                        if z < 0 or z >= depth or y < 0 or y >= height:
                            continue
                        for c in range(kw):
                            shift = c * dw - pw
                            low = max(0, -(shift // sw) - first)
                            high = min(count, (width - 1 - shift) // sw + 1 - first)
                            start = (z * height + y) * width + first * sw + shift
                            for j in range(low, high):
                                value, at = source[start + j * sw], start + j * sw
                                better = (value > best[j]) | (value != value) | (found[j] < 0)
                                best[j] = value if better else best[j]
                                found[j] = at if better else found[j]
                for j in range(count):
                    result[first + j] = found[j]
        return 0

    return kernel


@args(x=In, out=Out, rows=Size, each=Size, **_WINDOWS)
def _sums(tools, dtype: str):
    """out[p, oz, oy, ox] = Σ of the window's elements in plane p of x, tap by tap."""
    dt = np.dtype(dtype)
    after, values, zero = tools.after(dt), tools.local(dt, _BLOCK), dt.type(0)

    def kernel(
        x, out, rows, each, od, oh, ow, depth, height, width, kd, kh, kw, sd, sh, sw, pd, ph, pw, dd, dh, dw, chunk
    ):  # fmt: skip
        total = values()
        for r in range(chunk * each, min(rows, (chunk + 1) * each)):
            plane, oz, oy = r // (od * oh), r // oh % od, r % oh
            source, result = after(x, plane * depth * height * width), after(out, r * ow)
            for first in range(0, ow, _BLOCK):
                count = min(_BLOCK, ow - first)
                for j in range(count):
                    total[j] = zero
                for a in range(kd):
                    z = oz * sd - pd + a * dd
                    for b in range(kh):
                        y = oy * sh - ph + b * dh
                        if z < 0 or z >= depth or y < 0 or y >= height:
                            continue
                        for c in range(kw):
                            shift = c * dw - pw
                            low = max(0, -(shift // sw) - first)
                            high = min(count, (width - 1 - shift) // sw + 1 - first)
                            start = (z * height + y) * width + first * sw + shift
                            for j in range(low, high):
                                total[j] += source[start + j * sw]
                for j in range(count):
                    result[first + j] = total[j]
        return 0

    return kernel


@args(x=In, out=Out, rows=Size, each=Size, **_WINDOWS)
def _spread(tools, dtype: str):
    """The transpose of `_sums`: each window's x is added to its elements of a plane of out, tap by tap. `rows`: planes."""
    dt = np.dtype(dtype)
    after, zero = tools.after(dt), dt.type(0)

    def kernel(
        x, out, rows, each, od, oh, ow, depth, height, width, kd, kh, kw, sd, sh, sw, pd, ph, pw, dd, dh, dw, chunk
    ):  # fmt: skip
        size = depth * height * width
        for plane in range(chunk * each, min(rows, (chunk + 1) * each)):
            source, result = after(x, plane * od * oh * ow), after(out, plane * size)
            for j in range(size):
                result[j] = zero
            for tap in range(kd * kh * kw):
                a, b, c = tap // (kh * kw), tap // kw % kh, tap % kw
                shift = c * dw - pw
                low, high = max(0, -(shift // sw)), min(ow, (width - 1 - shift) // sw + 1)
                for line in range(od * oh):
                    z, y = line // oh * sd - pd + a * dd, line % oh * sh - ph + b * dh
                    if z < 0 or z >= depth or y < 0 or y >= height:
                        continue
                    start, at = (z * height + y) * width + shift, line * ow
                    for j in range(low, high):
                        result[start + j * sw] += source[at + j]
        return 0

    return kernel


_LARGEST, _SUMS, _SPREAD = (
    kernels_of("largest", _largest),
    kernels_of("window_sum", _sums),
    kernels_of("spread", _spread),
)


def _geometry(sizes, where, size, stride, padding, dilation) -> dict[str, int]:
    """The arguments of `_WINDOWS`."""
    columns = [(*each,) for each in zip(where, sizes, size, stride, padding, dilation)]
    columns = [(1, 1, 1, 1, 0, 1)] * (3 - len(columns)) + columns
    return dict(zip(_WINDOWS, (number for row in zip(*columns) for number in row)))


def _planned(kernels: dict, specs, result: Spec, planes: int, lines: int, geometry: dict) -> Plan | bool | None:
    """The launch over `planes`, each of so many independent `lines`."""
    (x,) = specs
    if x.dtype not in FLOATS or not x.size or not result.size or not kernels[x.dtype].ready():
        return None
    if not x.plain:
        return True
    taps = geometry["kd"] * geometry["kh"] * geometry["kw"]
    rows = planes * lines
    each = max(1, share(result.size * taps) * rows // (result.size * taps))
    return Plan(
        result,
        [Launch(kernels[x.dtype], -(-rows // each), x=Operand(0), out=Operand(1), rows=rows, each=each, **geometry)],
    )


def _plan_largest(specs, params) -> Plan | bool | None:
    (x,) = specs
    sizes, where, rank = x.shape[2:], params["where"], len(x.shape) - 2
    size, stride, padding, dilation = (params[name] for name in ("size", "stride", "padding", "dilation"))
    if size is None:  # adaptive: windows of one size where they fit
        if not all(o and n % o == 0 for n, o in zip(sizes, where)):
            return None
        size = stride = tuple(n // o for n, o in zip(sizes, where))
        padding, dilation = (0,) * rank, (1,) * rank
    geometry = _geometry(sizes, where, size, stride, padding, dilation)
    result = contiguous((*x.shape[:2], *where), int64, x.backend)
    return _planned(_LARGEST, specs, result, math.prod(x.shape[:2]), math.prod(where[:-1]), geometry)


def _plan_sum(specs, params) -> Plan | bool | None:
    (x,) = specs
    where, before = params["where"], [low for low, _ in params["padding"]]
    geometry = _geometry(x.shape[2:], where, params["size"], params["stride"], before, (1,) * len(where))
    result = contiguous((*x.shape[:2], *where), x.dtype, x.backend)
    return _planned(_SUMS, specs, result, math.prod(x.shape[:2]), math.prod(where[:-1]), geometry)


def _plan_spread(specs, params) -> Plan | bool | None:
    (x,) = specs
    sizes, before = params["sizes"], [low for low, _ in params["padding"]]
    geometry = _geometry(sizes, x.shape[2:], params["size"], params["stride"], before, (1,) * len(sizes))
    result = contiguous((*x.shape[:2], *sizes), x.dtype, x.backend)
    return _planned(_SPREAD, specs, result, math.prod(x.shape[:2]), 1, geometry)


def _cost(specs, params) -> float:
    """One operation for each tap of each window."""
    windows = params.get("where") or specs[0].shape[2:]
    taps = math.prod(params["size"]) if params["size"] else math.prod(specs[0].shape[2:]) // max(1, math.prod(windows))
    return math.prod(specs[0].shape[:2]) * math.prod(windows) * taps


for _lowering in (
    Lowering("largest", _plan_largest, ("size", "stride", "padding", "dilation", "where"), cost=_cost),
    Lowering("window_sum", _plan_sum, ("size", "stride", "padding", "where"), cost=_cost),
    Lowering("window_spread", _plan_spread, ("sizes", "size", "stride", "padding"), cost=_cost),
):
    register(_lowering.op_name, "cpu", needs_numba=False)(_lowering)
