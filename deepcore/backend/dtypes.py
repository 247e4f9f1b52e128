"""The dtypes (NumPy's own objects) and PyTorch's promotion rules over them."""

from __future__ import annotations

import math
from functools import cache

import ml_dtypes
import numpy as np

bool_ = np.dtype(np.bool_)
uint8 = np.dtype(np.uint8)
int8 = np.dtype(np.int8)
int16 = np.dtype(np.int16)
int32 = np.dtype(np.int32)
int64 = np.dtype(np.int64)
uint16 = np.dtype(np.uint16)
uint32 = np.dtype(np.uint32)
uint64 = np.dtype(np.uint64)
float16 = np.dtype(np.float16)
float32 = np.dtype(np.float32)
float64 = np.dtype(np.float64)
bfloat16 = np.dtype(ml_dtypes.bfloat16)
complex64 = np.dtype(np.complex64)
complex128 = np.dtype(np.complex128)

#: The class of every dtype.
dtype = np.dtype

#: Every dtype a tensor may have, by its name in PyTorch.
DTYPES = {
    "bool": bool_,
    "uint8": uint8,
    "int8": int8,
    "int16": int16,
    "int32": int32,
    "int64": int64,
    "uint16": uint16,
    "uint32": uint32,
    "uint64": uint64,
    "float16": float16,
    "bfloat16": bfloat16,
    "float32": float32,
    "float64": float64,
    "complex64": complex64,
    "complex128": complex128,
}
# NumPy may represent one dtype by several objects; a canonical object lets ops compare dtypes by identity.
_SUPPORTED = {dtype: dtype for dtype in DTYPES.values()}
_BOOL, _INT, _FLOAT, _COMPLEX = 0, 1, 2, 3

default_float = float32


def as_dtype(dtype) -> np.dtype:
    """`dc.float32`, `"float32"`, `float`, `np.float32` … to the dtype; Python's types mean the defaults."""
    from deepcore.errors import DTypeError, suggest

    if dtype is float or (isinstance(dtype, str) and dtype == "float"):  # NumPy's "float" is float64
        return default_float
    if dtype is int:
        return int64
    if dtype is complex:
        return complex_of(default_float)
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    candidate = _numpy_dtype(dtype)
    if candidate is None:
        raise DTypeError(f"{dtype!r} is not a dtype", fix=suggest(str(dtype).rpartition(".")[2], DTYPES))
    native = _SUPPORTED.get(candidate.newbyteorder("="))
    if native is None:
        raise DTypeError(
            f"tensors cannot hold dtype {candidate}",
            expected="one of " + ", ".join(DTYPES),
            fix=_FIXES.get(candidate.kind),
        )
    return native


_FIXES = {
    "c": "array.astype('complex128')",
    "O": "array.astype('float64') if it holds numbers only",
    "V": "take its fields one by one: array['name']",
    "M": "array.astype('int64') counts its units",
    "m": "array.astype('int64') counts its units",
    "f": "convert the array first: array.astype('float64')",
}


def _numpy_dtype(dtype) -> np.dtype | None:
    """`np.dtype(dtype)`, or None where that fails or `dtype` is None, which NumPy reads as float64."""
    try:
        return None if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError):
        return None


def is_dtype_name(text: str) -> bool:
    """Whether `text` names a dtype of PyTorch or NumPy ("float32", "f4"), rather than a backend."""
    return text in DTYPES or _numpy_dtype(text) is not None


def is_supported(dtype) -> bool:
    return dtype in _SUPPORTED


def canonical(array):
    """`array` with its dtype as the object in `DTYPES`, over the same memory.

    NumPy creates other objects for the same dtype when it unpickles an array or names a byte order.
    """
    supported = _SUPPORTED.get(array.dtype)
    return array if supported is None or supported is array.dtype else array.view(supported)


@cache
def span(dtype) -> tuple:
    """The open interval of numbers that fit: those that truncate to an integer of the dtype, or round to a finite float.

    Of a complex dtype: that of its real and imaginary parts.
    """
    dtype = real_of(dtype)
    if dtype == bool_:
        return -1, 2
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return int(limits.min) - 1, int(limits.max) + 1
    info = ml_dtypes.finfo(dtype)
    edge = int(float(info.max)) + 2 ** (int(info.maxexp) - int(info.nmant) - 2)  # half a step above the largest
    edge = edge if dtype == float64 else float(edge)  # the edge of float64 is not a float64
    return -edge, edge


def largest(dtype) -> float:
    """The largest finite number of a floating dtype."""
    return float(ml_dtypes.finfo(dtype).max)


def holds(dtype, source) -> bool:
    """Whether every number of dtype `source` is within the range of `dtype`: none wraps or becomes infinite."""
    return _holds(_SUPPORTED.get(dtype, dtype), _SUPPORTED.get(source, source))


@cache
def _holds(dtype, source) -> bool:
    if dtype in (bool_, source):
        return True
    if _category(source) > max(_category(dtype), _INT):
        return False
    low, high = span(dtype)
    source = real_of(source)
    if is_floating(source):
        return float(ml_dtypes.finfo(source).max) < high
    return low < span(source)[0] + 1 and span(source)[1] - 1 < high


def fits(value, dtype) -> bool:
    """Whether a Python number can be stored in `dtype`: integers truncate fractions, floats round."""
    if dtype == bool_:
        return True
    if isinstance(value, complex):
        return is_complex(dtype) and fits(value.real, dtype) and fits(value.imag, dtype)
    if isinstance(value, float) and not math.isfinite(value):
        return is_inexact(dtype)
    low, high = span(dtype)
    return low < value < high


def misfit(value, dtype, place: str = ""):
    """The error for a value that `dtype` cannot hold; `place` is its position in the data."""
    from deepcore.errors import DTypeError

    name = name_of(dtype)
    if isinstance(value, complex) and not is_complex(dtype):
        return DTypeError(
            f"{value!r} does not fit dtype {name}",
            expected="a real number",
            received=f"{value!r} at {place}" if place else "a complex number",
            fix="use a complex dtype (dc.complex64), or the parts z.real and z.imag",
        )
    if isinstance(value, complex):  # one of its parts does not fit
        value, dtype = max(value.real, value.imag, key=abs), real_of(dtype)
    if not isinstance(value, (int, float)):
        return DTypeError(f"{value!r} does not fit dtype {name}", expected="a number", received=type(value).__name__)
    low, high = span(dtype)
    if is_floating(dtype):
        limits = f"finite numbers up to ±{float(ml_dtypes.finfo(dtype).max):.6g}, ±inf, nan"
    else:
        limits = f"{low + 1} … {high - 1}"
    fix: str | None
    if isinstance(value, float) and not math.isfinite(value):
        fix = "use a floating dtype, or replace it first: dc.where(dc.isfinite(x), x, 0)"
    else:
        wider = (int16, int32, int64, uint64, float32, float64)[4 * is_floating(dtype) :]
        fits_in = next((name_of(d) for d in wider if fits(value, d)), None)
        fix = f"{fits_in} holds it: dtype=dc.{fits_in}, or t.to(dc.{fits_in})" if fits_in else None
    huge = isinstance(value, int) and value.bit_length() > 128
    shown = f"a whole number of {value.bit_length()} bits" if huge else repr(value)
    return DTypeError(
        f"{shown} does not fit dtype {name}",
        expected=limits,
        received=f"{shown} at {place}" if place else None,
        fix=fix,
    )


def is_floating(dtype) -> bool:
    """True for float16, bfloat16, float32 and float64."""
    return dtype.kind == "f" or dtype == bfloat16


def is_complex(dtype) -> bool:
    """True for complex64 and complex128."""
    return dtype.kind == "c"


def is_inexact(dtype) -> bool:
    """True for floating and complex dtypes: those of tensors that have gradients."""
    return dtype.kind in "fc" or dtype == bfloat16


def complex_of(dtype) -> np.dtype:
    """The complex dtype whose parts hold a floating dtype: complex128 for float64, else complex64; itself if complex."""
    return dtype if dtype.kind == "c" else complex128 if dtype == float64 else complex64


def real_of(dtype) -> np.dtype:
    """The dtype of the parts of a complex dtype; any other dtype itself."""
    return dtype if dtype.kind != "c" else float32 if dtype == complex64 else float64


def is_integer(dtype) -> bool:
    """True for signed and unsigned integers (not bool)."""
    return dtype.kind in "iu"


def _category(dtype) -> int:
    if dtype.kind == "c":
        return _COMPLEX
    return _FLOAT if is_floating(dtype) else _INT if dtype.kind in "iu" else _BOOL


@cache
def promote_types(a, b) -> np.dtype:
    """The dtype that holds both, as torch.promote_types: int64 with float32 is float32."""
    ca, cb = _category(a), _category(b)
    if ca != cb:
        high, low = (a, b) if ca > cb else (b, a)
        return np.promote_types(high, complex_of(low)) if min(ca, cb) == _FLOAT else high
    if a == b:
        return a
    if bfloat16 in (a, b):
        other = b if a == bfloat16 else a
        return float32 if other == float16 else other
    promoted = np.promote_types(a, b)
    # NumPy answers float64 for uint64 with a signed integer; an integer op stays an integer.
    return promoted if _category(promoted) == ca else int64


def result_type(operands) -> np.dtype:
    """The dtype of an op over `operands`: (dtype, rank) pairs, and bare Python types for scalars.

    PyTorch's rule: tensors with dimensions decide; a 0-d tensor counts only when its category
    (bool < integer < floating < complex) is higher; a Python scalar only when its category is higher still.
    Floating operands beside a complex one of lower rank keep their precision.
    """
    ranked: list[np.dtype | None] = [None, None, None]
    for operand in operands:
        if isinstance(operand, type):
            level, dtype = 2, bool_ if operand is bool else int64 if operand is int else as_dtype(operand)
        else:
            level, dtype = (0 if operand[1] > 0 else 1), operand[0]
        current = ranked[level]
        ranked[level] = dtype if current is None else promote_types(current, dtype)
    result: np.dtype | None = None
    for current in ranked:
        if current is not None and (result is None or _category(current) > _category(result)):
            is_kept = result is not None and is_floating(result)
            result = complex_of(result) if is_kept and current.kind == "c" else current
    assert result is not None
    return result


def name_of(dtype) -> str:
    """`float32`: the name of the dtype in PyTorch, without its prefix."""
    return next((name for name, candidate in DTYPES.items() if candidate == dtype), str(dtype))


def set_default_dtype(dtype) -> None:
    """Set the dtype of Python floats, and of tensors created without a dtype: a floating one."""
    global default_float
    kind = as_dtype(dtype)
    if not is_floating(kind):
        from deepcore.errors import DTypeError

        raise DTypeError("the default dtype is a floating one", received=name_of(kind))
    default_float = kind


def get_default_dtype() -> np.dtype:
    """The dtype of Python floats: float32, unless changed by `set_default_dtype`."""
    return default_float


def can_cast(from_, to) -> bool:
    """Whether a result of dtype `from_` may be written in dtype `to`: complex not in floats, floats not in integers,
    nor integers in bool."""
    return _category(as_dtype(from_)) <= _category(as_dtype(to))


class finfo:
    """The limits of a floating dtype (default: the default one), as torch.finfo; of a complex one, those of its parts."""

    __slots__ = ("bits", "dtype", "eps", "max", "min", "resolution", "smallest_normal", "tiny")

    def __init__(self, dtype=None):
        kind = default_float if dtype is None else real_of(as_dtype(dtype))
        _expect(is_floating(kind), "finfo", "a floating", "iinfo", kind)
        info = ml_dtypes.finfo(kind)
        self.bits: int = int(info.bits)
        self.dtype: str = name_of(kind)
        self.eps, self.max, self.min = float(info.eps), float(info.max), float(info.min)
        self.tiny = self.smallest_normal = float(info.tiny)
        self.resolution = 10.0 ** -int(info.precision)

    def __repr__(self) -> str:
        return (
            f"finfo(resolution={self.resolution:g}, min={self.min:g}, max={self.max:g}, eps={self.eps:g}, "
            f"smallest_normal={self.smallest_normal:g}, tiny={self.tiny:g}, dtype={self.dtype})"
        )


class iinfo:
    """The limits of an integer dtype, as torch.iinfo."""

    __slots__ = ("bits", "dtype", "max", "min")

    def __init__(self, dtype):
        kind = as_dtype(dtype)
        _expect(is_integer(kind), "iinfo", "an integer", "finfo", kind)
        self.min, self.max = (edge + step for edge, step in zip(span(kind), (1, -1)))
        self.bits: int = 8 * kind.itemsize
        self.dtype: str = name_of(kind)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"


def _expect(is_valid: bool, name: str, kind_text: str, alternative: str, kind) -> None:
    if not is_valid:
        from deepcore.errors import DTypeError

        fix = None if kind == bool_ else f"dc.{alternative}(dc.{name_of(kind)})"
        raise DTypeError(f"{name} takes {kind_text} dtype", received=name_of(kind), fix=fix)
