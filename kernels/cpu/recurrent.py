"""Recurrent layers on the CPU: a launch for each time step, which multiplies the state and applies the gates.

The weights are packed once for all steps. A task has the gates of some hidden units, for some sequences: products in
register tiles, then the gates, while these are in the nearest cache. Backward, it multiplies the gradient of the step
after by the weights, and computes the gradients of its units' gates. Tasks depend on the shapes alone.

Rows are packed, as in `deepcore/ops/recurrent.py`: a step has `rows` of them from `start`, of which the first `kept` go on
from the step before, which starts at `before`; the others begin with the initial state. The first `next` go on after it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import Address, Operand, Size, Type, args
from deepcore.kernels.cpu import gemm_tables, gemm_tile, panels
from deepcore.kernels.cpu.conv_tile import columns, multiplier
from deepcore.kernels.cpu.reductions import FLOATS
from deepcore.kernels.math import elementary
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous
from deepcore.kernels.registry import register

#: Sequences of a task: whole heights of the register tile.
_ROWS = 48
#: The gates of each kind of layer.
_GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}


_STEP = ("start", "rows", "before", "kept", "next")
_TASK = ("total", "batch", "width", "across", "run")
_FORWARD: dict[str, Type] = {
    **dict.fromkeys(("x", "h", "c", "bias", "panels", "out", "gates", "cells", "inner"), Address),
    **dict.fromkeys((*_STEP, *_TASK), Size),
}  # fmt: skip


@functools.cache
def _mover(tools, dtype: str):
    """move(from, to, count): copy `count` elements of a row of a panel."""
    panel, lines = columns(dtype), gemm_tile.Shape(dtype, gemm_tables.own().bytes // np.dtype(dtype).itemsize)
    whole, masked = (make(tools, lines, gemm_tables.own().across) for make in (gemm_tile.mover, gemm_tile.masked_mover))

    @tools.inline
    def move(start, to, count):
        if count == panel:
            whole(start, to)
        else:
            masked(start, to, count)

    return move


@args(**_FORWARD)
def _forward(tools, kind: str, dtype: str):
    """One step of the states: `across` panels of units and `_ROWS` sequences a chunk.

    `out` has the hidden states of all rows, then the states of all sequences after their last steps; `cells` has c of all
    rows, `gates` the activated gates, `inner` tanh(c) of an LSTM, and h Wₙᵀ + bₙ of a GRU. `run`: steps of a sum.
    """
    gates_of, dt = _GATES[kind], np.dtype(dtype)
    size, panel, view, move = dt.itemsize, columns(dtype), tools.view(dt), _mover(tools, dtype)
    multiply, pitch, part = multiplier(tools, dtype), panel * size, _ROWS * panel * size
    sums_space, zero = gemm_tile.space(tools, gates_of * part), dt.type(0)
    old_space, state_space, new_space = (gemm_tile.space(tools, pitch) for _ in range(3))
    bias_space = gemm_tile.space(tools, 3 * pitch)
    sigmoid, tanh = tools.lift(elementary.sigmoid, dt), tools.lift(elementary.tanh, dt)
    is_lstm, is_gru, is_relu = kind == "lstm", kind == "gru", kind == "rnn_relu"

    # Each over one row of a panel: loops of a constant length are whole vectors.

    @tools.inline
    def lstm(z, c, t, h):
        i, f, n, o = view(z), view(z + part), view(z + 2 * part), view(z + 3 * part)
        cell, squashed, hidden = view(c), view(t), view(h)
        for j in range(panel):
            i[j] = sigmoid(i[j])
        for j in range(panel):
            f[j] = sigmoid(f[j])
        for j in range(panel):
            n[j] = tanh(n[j])
        for j in range(panel):
            o[j] = sigmoid(o[j])
        for j in range(panel):
            cell[j] = f[j] * cell[j] + i[j] * n[j]
        for j in range(panel):
            squashed[j] = tanh(cell[j])
        for j in range(panel):
            hidden[j] = o[j] * squashed[j]

    @tools.inline
    def gru(z, x, b, state, old, h):
        r, u, n, inner = view(z), view(z + part), view(z + 2 * part), view(state)
        of_r, of_u, of_n = view(b), view(b + pitch), view(b + 2 * pitch)
        new, before, hidden = view(x), view(old), view(h)
        for j in range(panel):
            r[j] = sigmoid(r[j] + of_r[j])
        for j in range(panel):
            u[j] = sigmoid(u[j] + of_u[j])
        for j in range(panel):
            inner[j] = n[j] + of_n[j]
        for j in range(panel):
            n[j] = tanh(new[j] + r[j] * inner[j])
        for j in range(panel):
            hidden[j] = n[j] + u[j] * (before[j] - n[j])

    @tools.inline
    def rnn(z):
        x = view(z)
        if is_relu:
            for j in range(panel):
                x[j] = zero if x[j] <= zero else x[j]
        else:
            for j in range(panel):
                x[j] = tanh(x[j])

    def kernel(
        x, h, c, bias, panels, out, gates, cells, inner, start, rows, before, kept, next, total, batch, width, across, run,
        chunk,
    ):  # fmt: skip
        blocks, line, of_gates = -(-width // panel), width * size, gates_of * width * size
        last_h, last_c = out + total * line, out + (total + batch) * line
        groups = -(-blocks // across)
        first_row, first_block = chunk // groups * _ROWS, chunk % groups * across
        end_row, sums = min(rows, first_row + _ROWS), sums_space()
        old, state, new, biases = old_space(), state_space(), new_space(), bias_space()
        middle = max(first_row, min(kept, end_row))  # rows from here on begin
        for block in range(first_block, min(blocks, first_block + across)):
            at, count = block * pitch, min(panel, width - block * panel)
            for g in range(gates_of):
                weights, to, added = panels + (g * blocks + block) * width * pitch, sums + g * part, not is_gru or g < 2
                if added:
                    for i in range(first_row, end_row):
                        move(x + (start + i) * of_gates + g * line + at, to + (i - first_row) * pitch, count)
                if middle > first_row:
                    multiply(
                        out + (before + first_row) * line, line, size, weights, pitch, width, middle - first_row, to, pitch,
                        added, run,
                    )  # fmt: skip
                if end_row > middle:
                    multiply(
                        h + middle * line, line, size, weights, pitch, width, end_row - middle,
                        to + (middle - first_row) * pitch, pitch, added, run,
                    )  # fmt: skip
            if is_gru:
                for g in range(3):
                    b = view(biases + g * pitch)
                    for j in range(panel):
                        b[j] = zero
                    if bias:
                        move(bias + g * line + at, biases + g * pitch, count)
            for i in range(first_row, end_row):
                row, z = start + i, sums + (i - first_row) * pitch
                active, place = gates + row * of_gates + at, row * line + at
                if is_lstm:
                    move(cells + (before + i) * line + at if i < kept else c + i * line + at, old, count)
                    lstm(z, old, state, new)
                    move(old, cells + place, count)
                    if i >= next:
                        move(old, last_c + i * line + at, count)
                elif is_gru:
                    move(out + (before + i) * line + at if i < kept else h + i * line + at, old, count)
                    move(x + row * of_gates + 2 * line + at, new, count)
                    gru(z, new, biases, state, old, new)
                else:
                    rnn(z)
                    new = z
                if is_lstm or is_gru:
                    for g in range(gates_of):
                        move(z + g * part, active + g * line, count)
                    move(state, inner + place, count)
                move(new, out + place, count)
                if i >= next:
                    move(new, last_h + i * line + at, count)
        return 0

    return kernel


_BACKWARD: dict[str, Type] = {
    **dict.fromkeys((
        "g", "h", "c", "panels", "out", "gates", "cells", "inner", "dx", "dstate", "dh", "dc",
    ), Address),
    **dict.fromkeys((*_STEP, "after", "begin", *_TASK), Size),
}  # fmt: skip


@args(**_BACKWARD)
def _backward(tools, kind: str, dtype: str):
    """One step of the gradients, against time. The step after it starts at row `after`.

    `g` is the gradient of `out`, `dstate` is the gradient of h Wᵀ, which but for a GRU's is `dx`. dh and dc carry what does not pass through the
    weights. With `begin`, dh instead gets the gradient of the initial states of this step's rows from `kept` on.
    """
    gates_of, dt = _GATES[kind], np.dtype(dtype)
    size, panel, view, move = dt.itemsize, columns(dtype), tools.view(dt), _mover(tools, dtype)
    multiply, pitch, one, zero = multiplier(tools, dtype), panel * size, dt.type(1), dt.type(0)
    sums_space = gemm_tile.space(tools, _ROWS * pitch)
    # One row of a panel each: activated gates, the old state, the gates' gradients, and others.
    gates_space, grads_space = gemm_tile.space(tools, 4 * pitch), gemm_tile.space(tools, 4 * pitch)
    old_space, inner_space, carry_space = (gemm_tile.space(tools, pitch) for _ in range(3))
    is_lstm, is_gru, is_relu = kind == "lstm", kind == "gru", kind == "rnn_relu"

    @tools.inline
    def lstm(d, gate, grads, c, t, dc):
        i, f, n, o = view(gate), view(gate + pitch), view(gate + 2 * pitch), view(gate + 3 * pitch)
        di, df, dn, do = view(grads), view(grads + pitch), view(grads + 2 * pitch), view(grads + 3 * pitch)
        dh, old, squashed, dcell = view(d), view(c), view(t), view(dc)
        for j in range(panel):
            out = dh[j] * o[j]
            do[j] = (out * squashed[j]) * (one - o[j])
            grad = out * (one - squashed[j] * squashed[j]) + dcell[j]
            by_input = grad * i[j]
            di[j] = (by_input * n[j]) * (one - i[j])
            dn[j] = by_input * (one - n[j] * n[j])
            dcell[j] = grad * f[j]
            df[j] = (dcell[j] * old[j]) * (one - f[j])

    @tools.inline
    def gru(d, gate, grads, h, state, carry):
        r, u, n = view(gate), view(gate + pitch), view(gate + 2 * pitch)
        dr, du, dn, by_reset = view(grads), view(grads + pitch), view(grads + 2 * pitch), view(grads + 3 * pitch)
        dh, old, inner, through = view(d), view(h), view(state), view(carry)
        for j in range(panel):
            through[j] = dh[j] * u[j]
            dn[j] = (dh[j] - through[j]) * (one - n[j] * n[j])
            du[j] = (through[j] * (one - u[j])) * (old[j] - n[j])
            by_reset[j] = dn[j] * r[j]
            dr[j] = (by_reset[j] * inner[j]) * (one - r[j])

    @tools.inline
    def rnn(d, h):
        dh, hidden = view(d), view(h)
        for j in range(panel):
            if is_relu:
                dh[j] = dh[j] if hidden[j] > zero else zero
            else:
                dh[j] = dh[j] * (one - hidden[j] * hidden[j])

    @tools.inline
    def add(to, x):
        total, addend = view(to), view(x)
        for j in range(panel):
            total[j] += addend[j]

    def kernel(
        g, h, c, panels, out, gates, cells, inner, dx, dstate, dh, dc, start, rows, before, kept, next, after, begin, total,
        batch, width, across, run, chunk,
    ):  # fmt: skip
        blocks, line, of_gates = -(-width // panel), width * size, gates_of * width * size
        last_h, last_c = g + total * line, g + (total + batch) * line
        groups = -(-blocks // across)
        first_row, first_block = chunk // groups * _ROWS, chunk % groups * across
        sums, gate, grads = sums_space(), gates_space(), grads_space()
        old, state, carry = old_space(), inner_space(), carry_space()
        source = dstate + (start if begin else after) * of_gates
        first_row += kept if begin else 0
        end_row = min(rows, first_row + _ROWS)
        middle = end_row if begin else max(first_row, min(next, end_row))  # rows from here on end
        for block in range(first_block, min(blocks, first_block + across)):
            at, count = block * pitch, min(panel, width - block * panel)
            if middle > first_row:
                multiply(
                    source + first_row * of_gates, of_gates, size, panels + block * gates_of * width * pitch, pitch,
                    gates_of * width, middle - first_row, sums, pitch, 0, run,
                )  # fmt: skip
            for i in range(first_row, end_row):
                d, of_sequence = sums + (i - first_row) * pitch, i * line + at
                if i >= middle:
                    move(last_h + of_sequence, d, count)
                elif is_gru:
                    move(dh + of_sequence, carry, count)
                    add(d, carry)
                if begin:
                    move(d, dh + of_sequence, count)
                    continue
                row = start + i
                place, of_row = row * line + at, row * of_gates + at
                move(g + place, state, count)
                add(d, state)
                if is_lstm or is_gru:
                    for k in range(gates_of):
                        move(gates + of_row + k * line, gate + k * pitch, count)
                    move(inner + place, state, count)
                if is_lstm:
                    move(cells + (before + i) * line + at if i < kept else c + of_sequence, old, count)
                    move((last_c if i >= next else dc) + of_sequence, carry, count)
                    lstm(d, gate, grads, old, state, carry)
                    move(carry, dc + of_sequence, count)
                elif is_gru:
                    move(out + (before + i) * line + at if i < kept else h + of_sequence, old, count)
                    gru(d, gate, grads, old, state, carry)
                    move(carry, dh + of_sequence, count)
                    move(grads, dstate + of_row, count)
                    move(grads + pitch, dstate + of_row + line, count)
                    move(grads + 3 * pitch, dstate + of_row + 2 * line, count)
                else:
                    move(out + place, old, count)
                    rnn(d, old)
                    move(d, dx + of_row, count)
                if is_lstm or is_gru:
                    for k in range(gates_of):
                        move(grads + k * pitch, dx + of_row + k * line, count)
        return 0

    return kernel


_STEPS, _GRADIENTS = (
    {(kind, d): Kernel(f"{kind}{suffix}_{d.name}", build, kind, d.name) for kind in _GATES for d in FLOATS}
    for suffix, build in (("_step", _forward), ("_step_grad", _backward))
)


class _Step(NamedTuple):
    """The rows of a step, as the kernels name them; `after` is the row at which the step after it starts."""

    start: int
    rows: int
    before: int
    kept: int
    next: int
    after: int


def _steps(sizes: tuple[int, ...], reverse: bool) -> list[_Step]:
    """The steps in the order of computation."""
    starts = np.cumsum((0, *sizes)).tolist()
    order = list(zip(starts, sizes))[:: -1 if reverse else 1]
    ends = [(0, 0), *order, (0, 0)]
    return [
        _Step(start, n, before, min(n, n_before), min(n, n_after), after)
        for (before, n_before), (start, n), (after, n_after) in zip(ends, order, ends[2:])
    ]


def _tasks(gates: int, width: int, dtype: np.dtype, rows: int) -> tuple[int, int]:
    """(panels of units of a chunk, chunks) of a step; a chunk has about as much work as those of other products."""
    t, blocks, groups = gemm_tables.own(), -(-width // columns(dtype)), -(-rows // _ROWS)
    work = rows * gates * width**2 * dtype.itemsize // 4
    count = 1 if work < t.one_chunk else 2 if work < t.two_chunks else max(2, min(32, work // t.chunk))
    across = -(-blocks // max(1, -(-count // groups)))
    return across, groups * -(-blocks // across)


_AUX = {"rnn_tanh": (), "rnn_relu": (), "lstm": ("gates", "cells", "inner"), "gru": ("gates", "inner")}


def _plan(kind: str, backward: bool, names: tuple[str, ...], specs, params) -> Plan | bool | None:
    """The plan for operands of these names."""
    given = dict(zip(names, specs))
    first, width, batch = specs[0], given["weight"].shape[1], params["sizes"][0]
    dtype, gates, item = first.dtype, _GATES[kind], first.dtype.itemsize
    kernel = (_GRADIENTS if backward else _STEPS).get((kind, dtype))
    if kernel is None or not first.size or any(s.dtype != dtype for s in specs):
        return None
    if not panels.ready(dtype) or not kernel.ready():
        return None
    if any(not s.plain for s in specs):
        return True
    total, states = sum(params["sizes"]), 2 if kind == "lstm" else 1
    rows, state = (total, width), (batch, width)
    shapes: dict[str, tuple[int, ...]] = {"out": (total * width + states * batch * width,)}
    shapes |= {name: (total, gates * width) if name == "gates" else rows for name in _AUX[kind]}
    if backward:
        shapes = {"dx": (total, gates * width)}
        shapes |= {"dstate": shapes["dx"]} if kind == "gru" else {}
        shapes |= {"dh": state} | ({"dc": state} if kind == "lstm" else {})
    numbers = {name: Operand(k) for k, name in enumerate((*given, "panels", *shapes))}
    # h Wᵀ by gates, or g W, of which all gates are the steps.
    places = np.arange(1 if backward else gates) * (width * width * item)
    steps, along, across = (gates * width, width * item, item) if backward else (width, item, width * item)
    pack, size = panels.launch(dtype, numbers["weight"], numbers["panels"], places, steps, width, along, across)
    operands: dict[str, Any] = {
        name: numbers.get(name) for name, of in kernel.arguments.items() if of.kind == "Address"
    }
    if backward and kind != "gru":
        operands["dstate"] = numbers["dx"]
    operands |= {"total": total, "batch": batch, "width": width, "run": gemm_tables.steps(steps)}

    def launch(step: _Step, rows: int, **more) -> Launch:
        across, chunks = _tasks(gates, width, dtype, rows)
        of_step = {name: n for name, n in step._asdict().items() if name in kernel.arguments}
        return Launch(kernel, chunks, **operands, **of_step, across=across, **more)

    order = _steps(params["sizes"], params["reverse"])
    launches = [pack]
    if backward:
        launches += [launch(step, step.rows, begin=0) for step in reversed(order)]
        launches += [launch(step, step.rows - step.kept, begin=1) for step in order if step.rows > step.kept]
    else:
        launches += [launch(step, step.rows) for step in order]
    result, *aux = [contiguous(shape, dtype, first.backend) for shape in shapes.values()]
    return Plan(result, launches, (size,), owner=places, aux=aux)


def _lower(kind: str, backward: bool, *names: str):
    def lower(specs, params) -> Plan | bool | None:
        if len(specs) > len(names):  # a projection, which the reference computes
            return None
        name = ("rnn_relu" if params["relu"] else "rnn_tanh") if kind == "rnn" else kind
        return _plan(name, backward, names, specs, params)

    return lower


def _cost(specs, params) -> float:
    """A product of every row and the weights, the last matrix."""
    return 2 * sum(params["sizes"]) * next(s.size for s in reversed(specs) if s.ndim == 2)


for _kind, _inputs, _saved in (
    ("rnn", ("x", "h", "weight"), ("g", "out", "weight")),
    ("lstm", ("x", "h", "c", "weight"), ("g", "gates", "cells", "inner", "c", "weight")),
    ("gru", ("x", "h", "weight", "bias"), ("g", "out", "gates", "inner", "h", "weight")),
):
    _keys = ("sizes", "reverse", *("relu",) * (_kind == "rnn"))
    for _name, _operands, _backward_ in (
        (f"{_kind}_sequence", _inputs, False),
        (f"{_kind}_sequence_grad", _saved, True),
    ):
        register(_name, "cpu")(
            Lowering(_name, _lower(_kind, _backward_, *_operands), _keys, many=_backward_, cost=_cost)
        )
