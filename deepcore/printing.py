"""How a tensor prints: PyTorch's layout, four digits, long dimensions shortened to their ends."""

from __future__ import annotations

import math

from deepcore.backend import dtypes as dt

_WIDTH, _EDGE, _LONG, _DIGITS = 80, 3, 1000, 4


def describe(t, prefix: str = "tensor(") -> str:
    """`tensor([[1., 2.]], backend='cuda:0', requires_grad=True)`"""
    values = t.backend.to_host(t._data)
    short = values.size > _LONG
    body = (
        "[]"
        if not values.size
        else _block(_ends(values) if short else values, values.shape, _style(values, short), len(prefix))
    )
    notes = []
    if not values.size and values.ndim != 1:
        notes.append(f"size={values.shape}")
    if t.backend.name != "cpu":
        notes.append(f"backend='{t.backend}'")
    plain = (dt.float32,) if not values.size else (dt.float32, dt.int64, dt.bool_)
    if values.dtype not in plain:
        notes.append(f"dtype=dc.{dt.name_of(values.dtype)}")
    if t._node is not None:
        notes.append(f"grad_fn=<{t._node.name}>")
    elif t._requires_grad:
        notes.append("requires_grad=True")
    text = prefix + body
    last = len(text) - text.rfind("\n") + 1
    for note in notes:
        if last + len(note) + 2 > _WIDTH:
            text, last = f"{text},\n{' ' * len(prefix)}{note}", len(prefix) + len(note)
        else:
            text, last = f"{text}, {note}", last + len(note) + 2
    return text + ")"


def _ends(values):
    """Only the elements that a shortened print shows."""
    for axis, n in enumerate(values.shape):
        if n > 2 * _EDGE:
            values = values.take([*range(_EDGE), *range(n - _EDGE, n)], axis)
    return values


def _style(values, short: bool):
    """(a function from a number to its text, the common width)."""
    shown = (_ends(values) if short else values).reshape(-1).tolist()
    if not dt.is_floating(values.dtype):
        return str, max(len(str(v)) for v in shown)
    sizes = [abs(v) for v in shown if v and math.isfinite(v)]
    if not sizes:
        return _number("{:.0f}."), 1
    low, high = min(sizes), max(sizes)
    whole = all(v == math.ceil(v) for v in sizes)
    if high / low > 1000 or high > 1e8 or (not whole and low < 1e-4):
        form = f"{{:.{_DIGITS}e}}"
    else:
        form = "{:.0f}." if whole else f"{{:.{_DIGITS}f}}"
    return _number(form), max(len(form.format(v)) for v in shown if v and math.isfinite(v))


def _number(form: str):
    return lambda v: form.format(v) if math.isfinite(v) else str(v)


def _block(values, shape, style, indent: int) -> str:
    text, width = style
    if not values.ndim:
        return text(values.item())
    cut = shape[0] > len(values)
    if values.ndim == 1:
        cells = [text(v).rjust(width) for v in values.tolist()]
        if cut:
            cells[_EDGE:_EDGE] = [" ..."]
        per_line = max(1, (_WIDTH - indent) // (width + 2))
        lines = [", ".join(cells[i : i + per_line]) for i in range(0, len(cells), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    parts = [_block(v, shape[1:], style, indent + 1) for v in values]
    if cut:
        parts[_EDGE:_EDGE] = ["..."]
    return "[" + ("," + "\n" * (values.ndim - 1) + " " * (indent + 1)).join(parts) + "]"
