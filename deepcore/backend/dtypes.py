"""The dtypes (NumPy's own objects) and PyTorch's promotion rules over them."""

from __future__ import annotations

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

#: Every dtype a tensor may have, by the name PyTorch gives it.
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
}
# NumPy may hold one dtype in several objects; ops tell at once that two are the same if they are one object.
_SUPPORTED = {dtype: dtype for dtype in DTYPES.values()}
_BOOL, _INT, _FLOAT = 0, 1, 2

default_float = float32


def as_dtype(dtype) -> np.dtype:
    """`dc.float32`, `"float32"`, `float`, `np.float32` … to the dtype; Python's float, int, bool mean the defaults."""
    from deepcore.errors import DTypeError, suggest

    if dtype is float:
        return default_float
    if dtype is int:
        return int64
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise DTypeError(f"{dtype!r} is not a dtype", fix=suggest(str(dtype), DTYPES)) from None
    native = _SUPPORTED.get(found.newbyteorder("="))
    if native is None:
        raise DTypeError(
            f"tensors cannot hold dtype {found}",
            expected="one of " + ", ".join(DTYPES),
            fix="convert the array first, for example array.astype('float32')",
        )
    return native


def is_supported(dtype) -> bool:
    return dtype in _SUPPORTED


def is_floating(dtype) -> bool:
    """True for float16, bfloat16, float32 and float64."""
    return dtype.kind == "f" or dtype == bfloat16


def is_integer(dtype) -> bool:
    """True for signed and unsigned integers (not bool)."""
    return dtype.kind in "iu"


def _category(dtype) -> int:
    return _FLOAT if is_floating(dtype) else _INT if dtype.kind in "iu" else _BOOL


@cache
def promote_types(a, b) -> np.dtype:
    """The dtype that holds both, as torch.promote_types: int64 with float32 is float32."""
    ca, cb = _category(a), _category(b)
    if ca != cb:
        return a if ca > cb else b
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
    (bool < integer < floating) is higher; a Python scalar only when its category is higher still.
    """
    ranked: list[np.dtype | None] = [None, None, None]
    for operand in operands:
        if isinstance(operand, type):
            level, dtype = 2, bool_ if operand is bool else int64 if operand is int else default_float
        else:
            level, dtype = (0 if operand[1] > 0 else 1), operand[0]
        held = ranked[level]
        ranked[level] = dtype if held is None else promote_types(held, dtype)
    result: np.dtype | None = None
    for held in ranked:
        if held is not None and (result is None or _category(held) > _category(result)):
            result = held
    assert result is not None
    return result


def name_of(dtype) -> str:
    """`float32`: the name PyTorch gives the dtype, without its prefix."""
    return next((name for name, known in DTYPES.items() if known == dtype), str(dtype))
