"""bfloat16 by DLPack: NumPy neither reads nor writes its type code, so the same bits are handed over as int16.

Structures and codes: https://dmlc.github.io/dlpack/latest/c_api.html
"""

from __future__ import annotations

import ctypes

_INT, _BFLOAT = 0, 4  # DLDataTypeCode


class AsInt16:
    """An array of bfloat16 of any library, exported as int16."""

    def __init__(self, source):
        self._source = source
        self.__dlpack_device__ = source.__dlpack_device__

    def __dlpack__(self, **options):
        return _recoded(self._source.__dlpack__(**options), _BFLOAT, _INT)


def export_bfloat16(int16_array, options: dict):
    """The capsule of an array whose int16 elements are the bits of bfloat16."""
    return _recoded(int16_array.__dlpack__(**options), _INT, _BFLOAT)


def _recoded(capsule, before: int, after: int):
    """The capsule with the code of its 16-bit type changed. Errors: `BufferError` for one of another type."""
    api = ctypes.pythonapi
    name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))(capsule)
    address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", api))(
        capsule, name
    )
    # DLManagedTensorVersioned: version, context, deleter and flags, 8 bytes each, then what DLManagedTensor begins with: the
    # DLTensor, whose data, device and ndim are before the type.
    kind = (ctypes.c_uint8 * 2).from_address(address + (32 if name == b"dltensor_versioned" else 0) + 20)
    if list(kind) != [before, 16]:
        raise BufferError("not an array of bfloat16")
    kind[0] = after
    return capsule
