"""Recurrent layers: a whole sequence is one op for each layer and direction, beside the step it repeats.

An op takes the projected inputs x Wᵀ + b of all time steps, so that a step multiplies only the hidden state. Rows are
packed: `sizes` has the number of sequences at each time step, in decreasing order, and the rows of a step follow those
of the step before. A batch of equal lengths is the special case (batch,) * time. An op's result is one vector: the hidden
states of all rows, then the state of each sequence after its last step.

The gradient runs backward through time in array code. Where it is to be differentiated again, it is that of the step
composed of ops.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from deepcore.autograd import apply, autocasting
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, ShapeError
from deepcore.ops import casting
from deepcore.ops.activation import relu as rectify
from deepcore.ops.activation import sigmoid
from deepcore.ops.dropout import dropped
from deepcore.ops.linalg import linear, matmul
from deepcore.ops.registry import (
    Tensor,
    cast,
    composed_gradients,
    composite,
    gradient,
    is_half,
    is_recorded,
    primitive,
    sample,
    saved_array,
    takes_arrays,
)
from deepcore.ops.shape import cat, chunk, permute_p, stack
from deepcore.ops.trigonometric import tanh

# -- one step -----------------------------------------------------------------------------------------------------------


def rnn_step(x, h, weight_hh, *, relu):
    """h' = act(x + h Wᵀ)"""
    raw = x + linear(h, weight_hh)
    return (rectify(raw) if relu else tanh(raw),)


def lstm_step(x, h, c, weight_hh, weight_hr=None):
    """c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c') Wᵣᵀ, where (i, f, g, o) = x + h Wᵀ"""
    i, f, g, o = chunk(x + linear(h, weight_hh), 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c)
    return (h if weight_hr is None else linear(h, weight_hr)), c


def gru_step(x, h, weight_hh, bias_hh=None):
    """h' = (1 - z) n + z h, where n = tanh(xₙ + r (h Wₙᵀ + bₙ)), r and z = σ(x + h Wᵀ + b)"""
    reset, update, new = chunk(x, 3, -1)
    hidden = chunk(linear(h, weight_hh, bias_hh), 3, -1)
    r, z = sigmoid(reset + hidden[0]), sigmoid(update + hidden[1])
    n = tanh(new + r * hidden[2])
    return (n + z * (h - n),)


def _unrolled(step: Callable, count: int, x, *rest, sizes, reverse, **params):
    """The result of an op, composed of `step`, which takes and returns `count` states."""
    states, weights = list(rest[:count]), rest[count:]
    rows = [x] * len(sizes)
    for t, (start, n) in _in_time(sizes, reverse):
        old = [s[:n] for s in states]
        new = step(x[start : start + n], *old, *weights, **params)
        rows[t] = new[0]
        states = [a if n == len(s) else cat([a, s[n:]]) for a, s in zip(new, states)]
    return cat([t.reshape(-1) for t in (*rows, *states)])


# -- a sequence in array code -------------------------------------------------------------------------------------------


def _in_time(sizes: tuple[int, ...], reverse: bool) -> list[tuple[int, tuple[int, int]]]:
    """(time, (first row, number of rows)) in the order of computation."""
    steps, start = [], 0
    for t, n in enumerate(sizes):
        steps.append((t, (start, n)))
        start += n
    return steps[::-1] if reverse else steps


def _parts(sizes, reverse) -> list[tuple[slice, int]]:
    """(rows, number of rows) in the order of computation."""
    return [(slice(start, start + n), n) for _, (start, n) in _in_time(sizes, reverse)]


def _sigmoid(xp, x, out):
    """1 / (1 + e⁻ˣ) into `out`, which may be x."""
    xp.negative(x, out=out)
    xp.exp(out, out=out)
    out += 1
    xp.reciprocal(out, out=out)


def _columns(x, count: int) -> list:
    """`count` parts of equal width."""
    width = x.shape[1] // count
    return [x[:, k * width : (k + 1) * width] for k in range(count)]


def _split(vector, rows: int, batch: int, widths: tuple[int, ...]) -> list:
    """The parts of a result, or of its gradient: rows, then states of `widths`."""
    end = rows * widths[0]
    parts = [vector[:end].reshape(rows, widths[0])]
    for width in widths:
        parts.append(vector[end : end + batch * width].reshape(batch, width))
        end += batch * width
    return parts


def _before(out: Tensor, initial: Tensor, sizes, reverse) -> Tensor:
    """The hidden state before each row's step, from an op's result."""
    batch, width = initial.shape
    after = out[: sum(sizes) * width].reshape(-1, width)
    if sizes[0] == sizes[-1]:  # equal lengths: all steps at once
        return cat([after[batch:], initial] if reverse else [initial, after[:-batch]])
    parts, last, count = [], 0, 0
    for _, (start, n) in _in_time(sizes, reverse):
        kept = min(n, count)
        parts.append([after[last : last + kept], initial[kept:n]])
        last, count = start, n
    return cat([t for pair in (parts[::-1] if reverse else parts) for t in pair if len(t)])


def _product(g: Tensor, x: Tensor) -> Tensor:
    """gᵀ x: the gradient of a weight from those of all rows."""
    return matmul(permute_p(g, order=(1, 0)), x)


# -- RNN ----------------------------------------------------------------------------------------------------------------


@gradient
def rnn_sequence_grad(xp, g, out, weight_hh, *, sizes, reverse, relu):
    """Of x, which is that of h Wᵀ too, and of h."""
    parts, widths, batch = _parts(sizes, reverse), (weight_hh.shape[1],), sizes[0]
    after = _split(out, sum(sizes), batch, widths)[0]
    grads, dh = _split(g, sum(sizes), batch, widths)
    dh = dh.copy()
    slope = (after > 0).astype(g.dtype) if relu else 1 - after * after
    dx = grads * slope
    for rows, n in reversed(parts):
        part = dx[rows]
        part += dh[:n] * slope[rows]
        dh[:n] = xp.matmul(part, weight_hh)
    return dx, dh


def _rnn_joint(g, x, h, weight_hh, out, sizes, reverse, relu, needs):
    params = {"sizes": sizes, "reverse": reverse, "relu": relu}
    if is_recorded(g, x, h, weight_hh):
        return composed_gradients(functools.partial(_rnn_unrolled, **params), g, (x, h, weight_hh), needs)
    dx, dh = apply(rnn_sequence_grad, (g, out, weight_hh), params)
    return dx, dh, _product(dx, _before(out, h, sizes, reverse)) if needs[2] else None


@primitive(joint=_rnn_joint)
def rnn_sequence(xp, x, h, weight_hh, *, sizes, reverse, relu):
    """All steps of h' = act(x + h Wᵀ)."""
    by_state, count, widths = xp.ascontiguousarray(weight_hh.T), len(x), (h.shape[1],)
    out = xp.uninitialized(count * widths[0] + h.size, x.dtype)
    hidden, last = _split(out, count, len(h), widths)
    last[...] = h
    for rows, n in _parts(sizes, reverse):
        z = xp.matmul(last[:n], by_state)
        z += x[rows]
        if relu:
            xp.maximum(z, xp.zeros((), z.dtype), out=z)
        else:
            xp.tanh(z, out=z)
        hidden[rows] = last[:n] = z
    return out


# -- LSTM ---------------------------------------------------------------------------------------------------------------


@gradient
def lstm_sequence_grad(xp, g, gates, cells, tanhs, c, weight_hh, weight_hr=None, *, sizes, reverse):
    """Of x, which is that of h Wᵀ too, of h and c; with a projection, of all rows' hidden states as well."""
    parts, width, count, batch = _parts(sizes, reverse), c.shape[1], sum(sizes), len(c)
    grads, dh, dc = _split(g, count, batch, (weight_hh.shape[1], width))
    dh, dc = dh.copy(), dc.copy()
    dx, old = xp.uninitialized(gates.shape, gates.dtype), c.copy()
    projected = None if weight_hr is None else xp.uninitialized(grads.shape, grads.dtype)
    for at in range(len(parts) - 1, -1, -1):
        rows, n = parts[at]
        i, f, new, o = _columns(gates[rows], 4)
        di, df, dnew, do = _columns(dx[rows], 4)
        t = tanhs[rows]
        dhidden = grads[rows] + dh[:n]
        if projected is not None:
            projected[rows] = dhidden
            dhidden = xp.matmul(dhidden, weight_hr)
        # σ' = σ (1 - σ) and tanh' = 1 - tanh²
        dhidden *= o
        xp.multiply(dhidden * t, 1 - o, out=do)
        dcell = dhidden * (1 - t * t)
        dcell += dc[:n]
        by_input = dcell * i
        xp.multiply(by_input * new, 1 - i, out=di)
        xp.multiply(by_input, 1 - new * new, out=dnew)
        dcell *= f
        dc[:n] = dcell
        old[...] = c
        if at:
            before, kept = parts[at - 1]
            old[:kept] = cells[before]
        dcell *= old[:n]
        xp.multiply(dcell, 1 - f, out=df)
        dh[:n] = xp.matmul(dx[rows], weight_hh)
    return (dx, dh, dc) if projected is None else (dx, dh, dc, projected)


def _lstm_joint(g, x, h, c, weight_hh, weight_hr, out, aux, sizes, reverse, needs):
    params, inputs = {"sizes": sizes, "reverse": reverse}, (x, h, c, weight_hh, weight_hr)
    if is_recorded(g, *inputs):
        return composed_gradients(functools.partial(_lstm_unrolled, **params), g, inputs, needs)
    gates, cells, tanhs = (saved_array(a, g.backend) for a in aux)
    weights = (weight_hh,) if weight_hr is None else (weight_hh, weight_hr)
    dx, dh, dc, *projected = apply(lstm_sequence_grad, (g, gates, cells, tanhs, c, *weights), params)
    dweight = _product(dx, _before(out, h, sizes, reverse)) if needs[3] else None
    if not projected or not needs[4]:
        return dx, dh, dc, dweight, None
    return dx, dh, dc, dweight, _product(projected[0], gates[:, 3 * c.shape[1] :] * tanhs)


@primitive(joint=_lstm_joint)
def lstm_sequence(xp, x, h, c, weight_hh, weight_hr=None, *, sizes, reverse):
    """All steps of an LSTM; x has the input's share of the gates (i, f, g, o)."""
    by_state, count, width = xp.ascontiguousarray(weight_hh.T), len(x), c.shape[1]
    widths = h.shape[1], width
    out = xp.uninitialized(count * widths[0] + h.size + c.size, x.dtype)
    hidden, last, cell = _split(out, count, len(h), widths)
    last[...], cell[...] = h, c
    gates = xp.uninitialized(x.shape, x.dtype)
    cells, tanhs = xp.uninitialized((count, width), x.dtype), xp.uninitialized((count, width), x.dtype)
    for rows, n in _parts(sizes, reverse):
        z, active, t = xp.matmul(last[:n], by_state), gates[rows], tanhs[rows]
        z += x[rows]
        i, f, new, o = _columns(active, 4)
        candidate = xp.tanh(z[:, 2 * width : 3 * width])
        _sigmoid(xp, z, active)  # of all columns: passes over contiguous memory are the fastest
        new[...] = candidate
        after = xp.multiply(f, cell[:n], out=cells[rows])
        after += i * new
        cell[:n] = after
        xp.tanh(after, out=t)
        output = o * t
        hidden[rows] = last[:n] = output if weight_hr is None else xp.matmul(output, weight_hr.T)
    return out, gates, cells, tanhs


# -- GRU ----------------------------------------------------------------------------------------------------------------


@gradient
def gru_sequence_grad(xp, g, out, gates, inner, h, weight_hh, *, sizes, reverse):
    """Of x, of h Wᵀ + b, and of h."""
    parts, width, count, batch = _parts(sizes, reverse), h.shape[1], sum(sizes), len(h)
    after = _split(out, count, batch, (width,))[0]
    grads, dh = _split(g, count, batch, (width,))
    dh, old = dh.copy(), h.copy()
    dx, dstate = xp.uninitialized(gates.shape, gates.dtype), xp.uninitialized(gates.shape, gates.dtype)
    for at in range(len(parts) - 1, -1, -1):
        rows, n = parts[at]
        r, z, new = _columns(gates[rows], 3)
        dr, dz, dnew = _columns(dx[rows], 3)
        old[...] = h
        if at:
            before, kept = parts[at - 1]
            old[:kept] = after[before]
        dhidden = grads[rows] + dh[:n]
        through = dhidden * z
        xp.multiply((dhidden - through), 1 - new * new, out=dnew)
        xp.multiply(through * (1 - z), old[:n] - new, out=dz)
        by_reset = dnew * r
        xp.multiply(by_reset * inner[rows], 1 - r, out=dr)
        dstate[rows, : 2 * width] = dx[rows, : 2 * width]
        dstate[rows, 2 * width :] = by_reset
        through += xp.matmul(dstate[rows], weight_hh)
        dh[:n] = through
    return dx, dstate, dh


def _gru_joint(g, x, h, weight_hh, bias_hh, out, aux, sizes, reverse, needs):
    params, inputs = {"sizes": sizes, "reverse": reverse}, (x, h, weight_hh, bias_hh)
    if is_recorded(g, *inputs):
        return composed_gradients(functools.partial(_gru_unrolled, **params), g, inputs, needs)
    gates, inner = (saved_array(a, g.backend) for a in aux)
    dx, dstate, dh = apply(gru_sequence_grad, (g, out, gates, inner, h, weight_hh), params)
    dweight = _product(dstate, _before(out, h, sizes, reverse)) if needs[2] else None
    return dx, dh, dweight, dstate.sum(0) if bias_hh is not None and needs[3] else None


@primitive(joint=_gru_joint)
def gru_sequence(xp, x, h, weight_hh, bias_hh=None, *, sizes, reverse):
    """All steps of a GRU; x has the input's share of the gates (r, z, n)."""
    by_state, count, width = xp.ascontiguousarray(weight_hh.T), len(x), h.shape[1]
    out = xp.uninitialized(count * width + h.size, x.dtype)
    hidden, last = _split(out, count, len(h), (width,))
    last[...] = h
    gates, inner = xp.uninitialized(x.shape, x.dtype), xp.uninitialized((count, width), x.dtype)
    for rows, n in _parts(sizes, reverse):
        state, active = xp.matmul(last[:n], by_state), gates[rows]
        if bias_hh is not None:
            state += bias_hh
        inner[rows] = state[:, 2 * width :]
        state[:, : 2 * width] += x[rows, : 2 * width]
        _sigmoid(xp, state[:, : 2 * width], active[:, : 2 * width])
        r, z, new = _columns(active, 3)
        xp.tanh(x[rows, 2 * width :] + r * inner[rows], out=new)
        after = last[:n] - new
        after *= z
        after += new
        hidden[rows] = last[:n] = after
    return out, gates, inner


_rnn_unrolled = functools.partial(_unrolled, rnn_step, 1)
_lstm_unrolled = functools.partial(_unrolled, lstm_step, 2)
_gru_unrolled = functools.partial(_unrolled, gru_step, 1)

# -- layers and directions ----------------------------------------------------------------------------------------------

#: States of each kind of layer: h, and of an LSTM c; the gates of a step.
STATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 2, "GRU": 1}
_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}


def _check_shapes(kind: str, x, states, weight_ih, weight_hh, biases, projection, sizes) -> None:
    gates = _GATES[kind]
    width = weight_hh.shape[0] // gates if weight_hh.ndim else 0
    hidden, batch, features = projection[0].shape[0] if projection else width, sizes[0], x.shape[1]
    expected = {
        "weight_ih": (weight_ih, (gates * width, features)), "weight_hh": (weight_hh, (gates * width, hidden)),
        **{f"bias_{name}": (b, (gates * width,)) for name, b in zip(("ih", "hh"), biases)},
        **{f"weight_{name}": (w, (hidden, width)) for name, w in zip(("hr",), projection)},
        **{name: (s, (batch, n)) for name, s, n in zip("hc", states, (hidden, width))},
    }  # fmt: skip
    for name, (t, shape) in expected.items():
        if t.shape != shape:
            raise ShapeError(
                f"{kind.split('_')[0].lower()}: {name} does not fit {batch} sequences of {features} features and {gates} · "
                f"{width} gates",
                expected=f"{name} {shape}",
                received=f"{name} {t.shape}, where weight_hh is {weight_hh.shape}",
            )


def _sequence(kind: str, x, states: Sequence[Tensor], weights: Sequence[Tensor], biased: bool, sizes, reverse) -> list:
    """[rows, final states …] of one layer in one direction. `weights`: weight_ih, weight_hh, biases, weight_hr."""
    weight_ih, weight_hh, *others = weights
    biases, more = (others[:2], others[2:]) if biased else ([], others)
    _check_shapes(kind, x, states, weight_ih, weight_hh, biases, more, sizes)
    op, params, bias = lstm_sequence, {"sizes": sizes, "reverse": reverse}, biases[0] if biased else None
    if kind == "GRU":  # whose new state contains r (h Wᵀ + b_hh)
        op, more = gru_sequence, biases[1:]
    elif biased:
        bias = biases[0] + biases[1]
    if kind.startswith("RNN"):
        op, params["relu"] = rnn_sequence, kind == "RNN_RELU"
    operands = [linear(x, weight_ih, bias), *states, weight_hh, *more]
    half = is_half(operands[0])
    if half:  # sums over time are computed in float32
        operands = [cast(t, dt.float32) for t in operands]
    out = apply(op, tuple(operands), params)
    return _split(cast(out, x.dtype) if half else out, len(x), len(states[0]), tuple(s.shape[1] for s in states))


def layers(
    kind: str, x, sizes: tuple[int, ...], states: Sequence[Tensor], params: Sequence[Tensor], biased: bool,
    num_layers: int, dropout: float, training: bool, bidirectional: bool,
) -> tuple:  # fmt: skip
    """(rows of the last layer, final states) of stacked layers over packed rows x.

    `states`: h, and for an LSTM c, each (num_layers · directions, batch, width). `params`: those of each layer and direction
    in turn, as in PyTorch's `torch.lstm`.
    """
    if autocasting.used:
        arguments = (kind, x, sizes, states, params, biased, num_layers, dropout, training, bidirectional)
        result = casting.call(kind.lower(), layers, arguments, {})
        if result is not NotImplemented:
            return result
    directions = 2 if bidirectional else 1
    each = len(params) // (num_layers * directions)
    finals: list[list[Tensor]] = [[] for _ in states]
    for layer in range(num_layers):
        if layer and dropout and training:
            x = dropped(x, dropout)
        rows = []
        for direction in range(directions):
            k = layer * directions + direction
            out, *last = _sequence(
                kind, x, [s[k] for s in states], params[k * each : (k + 1) * each], biased, sizes, direction == 1
            )
            rows.append(out)
            for into, state in zip(finals, last):
                into.append(state)
        x = rows[0] if directions == 1 else cat(rows, 1)
    return x, *(stack(f) if len(f) > 1 else f[0].reshape(1, *f[0].shape) for f in finals)


def _batch(kind, input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first) -> tuple:
    """(output, final states) of a padded batch."""
    name = kind.lower()
    if input.ndim != 3:
        expected = "(batch, time, features)" if batch_first else "(time, batch, features)"
        raise ShapeError(f"{name} takes a batch of sequences", expected=expected, received=f"shape {input.shape}")
    each = 2 + 2 * has_biases
    layers_ = num_layers * (2 if bidirectional else 1)
    states = [hx] if isinstance(hx, Tensor) or STATES[kind] == 1 else list(hx)
    if (
        len(params) not in (each * layers_, (each + 1) * layers_ if kind == "LSTM" else 0)
        or len(states) != STATES[kind]
    ):
        raise ArgumentError(
            f"{name}: {layers_} layers and directions take {each} parameters each, and {STATES[kind]} initial states",
            received=f"{len(params)} parameters, {len(states)} states",
        )
    x = input.transpose(0, 1) if batch_first else input
    time, batch, features = x.shape
    if not time:
        raise ShapeError(f"{name}: the sequences have no time steps", received=f"shape {input.shape}")
    sizes, rows = (batch,) * time, x.reshape(time * batch, features)
    out, *finals = layers(
        kind, rows, sizes, states, params, has_biases, num_layers, dropout, train, bidirectional
    )  # fmt: skip
    out = out.reshape(time, batch, out.shape[1])
    return (out.transpose(0, 1) if batch_first else out), *finals


def _examples(gates: int, states: int):
    def examples(make):
        def call(time, batch, features, width, layers=1, both=False, biases=True, batch_first=False, project=0):
            hidden, directions, params = project or width, 2 if both else 1, []
            for layer in range(layers):
                for _ in range(directions):
                    params += [make(gates * width, hidden * directions if layer else features)]
                    params += [make(gates * width, hidden)]
                    params += [make(gates * width), make(gates * width)] if biases else []
                    params += [make(project, width)] if project else []
            hx = [make(layers * directions, batch, w) for w in (hidden, width)[:states]]
            input = make(*((batch, time) if batch_first else (time, batch)), features)
            hx = hx[0] if states == 1 else tuple(hx)
            return sample(input, hx, params, biases, layers, 0.0, False, both, batch_first)

        # The first has few leaves, for second derivatives.
        calls = [call(2, 1, 1, 1, biases=False), call(2, 1, 1, 1, 1, True, batch_first=True)]
        return calls + ([call(1, 1, 1, 2, project=1)] if states == 2 else [])

    return examples


def _cell_examples(gates: int, states: int):
    def examples(make):
        def call(batch, features, width, biases=True):
            hx = tuple(make(*batch, width) for _ in range(states))
            weights = [make(gates * width, features), make(gates * width, width)]
            biases = [make(gates * width), make(gates * width)] if biases else []
            return sample(make(*batch, features), hx[0] if states == 1 else hx, *weights, *biases)

        return [call((1,), 1, 1), call((2,), 2, 1, biases=False)]

    return examples


@composite(examples=_examples(4, 2), method=False)
@takes_arrays
def lstm(
    input, hx, params, has_biases: bool, num_layers: int, dropout: float, train: bool, bidirectional: bool,
    batch_first: bool = False,
):  # fmt: skip
    """(output, hₙ, cₙ) of stacked LSTM layers: what `nn.LSTM` computes. `params` as in its state dict, `hx` is (h₀, c₀)."""
    return _batch("LSTM", input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


@composite(examples=_examples(3, 1), method=False)
@takes_arrays
def gru(
    input, hx, params, has_biases: bool, num_layers: int, dropout: float, train: bool, bidirectional: bool,
    batch_first: bool = False,
):  # fmt: skip
    """(output, hₙ) of stacked GRU layers: what `nn.GRU` computes. `params` as in its state dict, `hx` is h₀."""
    return _batch("GRU", input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


@composite(examples=_examples(1, 1), method=False)
@takes_arrays
def rnn_tanh(
    input, hx, params, has_biases: bool, num_layers: int, dropout: float, train: bool, bidirectional: bool,
    batch_first: bool = False,
):  # fmt: skip
    """(output, hₙ) of stacked RNN layers with tanh: what `nn.RNN` computes. `params` as in its state dict, `hx` is h₀."""
    return _batch("RNN_TANH", input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


@composite(examples=_examples(1, 1), method=False)
@takes_arrays
def rnn_relu(
    input, hx, params, has_biases: bool, num_layers: int, dropout: float, train: bool, bidirectional: bool,
    batch_first: bool = False,
):  # fmt: skip
    """(output, hₙ) of stacked RNN layers with relu: what `nn.RNN` computes. `params` as in its state dict, `hx` is h₀."""
    return _batch("RNN_RELU", input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


def _cell(name: str, gates: int, input, h, w_ih, w_hh, b_ih, b_hh=None) -> Tensor:
    """The input's share of the gates, after a check of the shapes."""
    rows, width = w_hh.shape
    if w_ih.shape != (rows, input.shape[-1]) or h.shape != (*input.shape[:-1], width) or rows != gates * width:
        raise ShapeError(
            f"{name}: input, state and weights do not fit together",
            expected="input (batch, features), state (batch, width), "
            f"weights ({gates} · width, features) and ({gates} · width, width)",
            received=f"input {input.shape}, state {h.shape}, weights {w_ih.shape} and {w_hh.shape}",
        )
    return linear(input, w_ih, b_ih if b_ih is None or b_hh is None else b_ih + b_hh)


@composite(examples=_cell_examples(4, 2), method=False)
@takes_arrays
def lstm_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """(h', c') of one step: c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c'), (i, f, g, o) = x Wᵢᵀ + bᵢ + h Wₕᵀ + bₕ."""
    h, c = hx
    return lstm_step(_cell("lstm_cell", 4, input, h, w_ih, w_hh, b_ih, b_hh), h, c, w_hh)


@composite(examples=_cell_examples(3, 1), method=False)
@takes_arrays
def gru_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """h' = (1 - z) n + z h, n = tanh(xₙ + r (h Wₙᵀ + bₙ)), (r, z) = σ(x + h Wₕᵀ + bₕ), where x is x Wᵢᵀ + bᵢ."""
    return gru_step(_cell("gru_cell", 3, input, hx, w_ih, w_hh, b_ih), hx, w_hh, b_hh)[0]


@composite(examples=_cell_examples(1, 1), method=False)
@takes_arrays
def rnn_tanh_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """h' = tanh(x Wᵢᵀ + bᵢ + h Wₕᵀ + bₕ)"""
    return rnn_step(_cell("rnn_tanh_cell", 1, input, hx, w_ih, w_hh, b_ih, b_hh), hx, w_hh, relu=False)[0]


@composite(examples=_cell_examples(1, 1), method=False)
@takes_arrays
def rnn_relu_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """h' = max(0, x Wᵢᵀ + bᵢ + h Wₕᵀ + bₕ)"""
    return rnn_step(_cell("rnn_relu_cell", 1, input, hx, w_ih, w_hh, b_ih, b_hh), hx, w_hh, relu=True)[0]
