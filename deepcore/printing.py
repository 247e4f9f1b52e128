"""How a tensor prints: PyTorch's layout, four digits, long dimensions shortened to their ends."""

from __future__ import annotations

import math

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, non_negative, suggest


class _Options:
    """What `set_printoptions` sets."""

    __slots__ = ("edgeitems", "linewidth", "precision", "sci_mode", "threshold")

    def __init__(self):
        self.precision, self.threshold, self.edgeitems, self.linewidth = _PROFILES["default"]
        self.sci_mode: bool | None = None


_PROFILES = {"default": (4, 1000, 3, 80), "short": (2, 1000, 2, 80), "full": (4, math.inf, 3, 80)}
_options = _Options()


def set_printoptions(
    precision=None, threshold=None, edgeitems=None, linewidth=None, profile=None, sci_mode=None
) -> None:
    """How tensors print.

    `precision`: digits after the point (4). `threshold`: elements from which a print is shortened (1000), to `edgeitems`
    (3) at each end. `linewidth`: characters of a line (80). `sci_mode`: True or False; None goes by the numbers.

    `profile` "default", "short" or "full" sets the first four, before what else is given.
    """
    if profile is not None:
        if profile not in _PROFILES:
            raise ArgumentError(
                "a profile of printing is a name", received=repr(profile), fix=suggest(str(profile), _PROFILES)
            )
        _options.precision, _options.threshold, _options.edgeitems, _options.linewidth = _PROFILES[profile]
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "linewidth": linewidth}
    for name, value in given.items():
        if value is not None:
            setattr(_options, name, int(non_negative(name, value)) if value != math.inf else value)
    _options.sci_mode = sci_mode


def describe(t, prefix: str = "tensor(") -> str:
    """`tensor([[1., 2.]], backend='cuda:0', requires_grad=True)`"""
    values = t.backend.to_host(t._data)
    short = values.size > _options.threshold
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
    plain = (dt.float32,) if not values.size else (dt.float32, dt.int64, dt.bool_, dt.complex64)
    if values.dtype not in plain:
        notes.append(f"dtype=dc.{dt.name_of(values.dtype)}")
    if t._node is not None:
        notes.append(f"grad_fn=<{t._node.name}>")
    elif t._requires_grad:
        notes.append("requires_grad=True")
    text = prefix + body
    last = len(text) - text.rfind("\n") + 1
    for note in notes:
        if last + len(note) + 2 > _options.linewidth:
            text, last = f"{text},\n{' ' * len(prefix)}{note}", len(prefix) + len(note)
        else:
            text, last = f"{text}, {note}", last + len(note) + 2
    return text + ")"


def _ends(values):
    """Only the elements that a shortened print shows."""
    for axis, n in enumerate(values.shape):
        if n > 2 * _options.edgeitems:
            values = values.take([*range(_options.edgeitems), *range(n - _options.edgeitems, n)], axis)
    return values


def _style(values, short: bool):
    """(a function from a number to its text, the common width)."""
    shown = (_ends(values) if short else values).reshape(-1).tolist()
    if values.dtype.kind == "c":
        return _complex_style([v.real for v in shown], [v.imag for v in shown])
    if not dt.is_floating(values.dtype):
        return str, max(len(str(v)) for v in shown)
    return _float_style(shown)


def _complex_style(real: list, imag: list):
    """As `_style`: the imaginary part follows the real one, and is padded behind its sign."""
    (real_text, real_width), (imag_text, imag_width) = _float_style(real), _float_style(imag)

    def text(v) -> str:
        second = imag_text(v.imag).rjust(imag_width).lstrip() + "j"
        return real_text(v.real).rjust(real_width) + ("" if second[0] in "+-" else "+") + second

    return text, real_width + imag_width + 1


def _float_style(shown: list):
    """`_style` of Python floats."""
    sizes = [abs(v) for v in shown if v and math.isfinite(v)]
    if not sizes:
        return _number("{:.0f}."), 1
    low, high = min(sizes), max(sizes)
    whole = all(v == math.ceil(v) for v in sizes)
    scientific = high / low > 1000 or high > 1e8 or (not whole and low < 1e-4)
    if scientific if _options.sci_mode is None else _options.sci_mode:
        form = f"{{:.{_options.precision}e}}"
    else:
        form = "{:.0f}." if whole else f"{{:.{_options.precision}f}}"
    return _number(form), max(len(form.format(v)) for v in shown if v and math.isfinite(v))


def _number(form: str):
    return lambda v: form.format(v) if math.isfinite(v) else str(v)


def _block(values, shape, style, indent: int) -> str:
    text, width = style
    if not values.ndim:
        return text(values.item())
    cut = shape[0] > len(values)
    if values.ndim == 1:
        cells = [text(v) if values.dtype.kind == "c" else text(v).rjust(width) for v in values.tolist()]
        if cut:
            cells[_options.edgeitems : _options.edgeitems] = [" ..."]
        per_line = max(1, (_options.linewidth - indent) // (width + 2))
        lines = [", ".join(cells[i : i + per_line]) for i in range(0, len(cells), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    parts = [_block(v, shape[1:], style, indent + 1) for v in values]
    if cut:
        parts[_options.edgeitems : _options.edgeitems] = ["..."]
    return "[" + ("," + "\n" * (values.ndim - 1) + " " * (indent + 1)).join(parts) + "]"
