"""IDX, the format of MNIST: 00 00, a type, the number of dimensions, the dimensions (u32), then the values; big-endian.

Plain or compressed with gzip. Format: http://yann.lecun.com/exdb/mnist/ (LeCun, Cortes and Burges, 1998).
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib

import numpy as np

from deepcore.errors import ArgumentError, DTypeError, FileFormatError
from deepcore.io.files import atomic_write, open_regular
from deepcore.io.foreign import refusal

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CODES = {np.dtype(kind).newbyteorder("="): code for code, kind in _TYPES.items()}
_MAX_RANK = 64
# The highest compression ratio of deflate: a file that announces more is invalid.
_MAX_RATIO = 1032


def max_unpacked(size: int) -> int:
    """The bytes that a compressed file of `size` bytes may unpack to, unless the caller allows more.

    64 MiB, or 128 times its own size: real images compress to a hundredth at most, files made to fill the memory to
    a thousandth.
    """
    return max(1 << 26, 128 * size)


def read_idx(path, max_bytes: int | None = None) -> np.ndarray:
    """The array of an IDX file, plain or gzip, in native byte order.

    `max_bytes` bounds the array; the default is 4 GiB, and for a compressed file the larger of 64 MiB and 128 times its
    size. The header's shape is checked against it and the file's size before memory is allocated.
    Errors: `FileFormatError` for anything but one complete IDX array.
    """
    name = os.fsdecode(path)
    with open_regular(path) as raw:
        size = os.fstat(raw.fileno()).st_size
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if max_bytes is None:
            max_bytes = min(1 << 32, max_unpacked(size)) if packed else 1 << 32
        if not packed:
            return _read_array(raw, name, size, False, max_bytes)
        with gzip.GzipFile(fileobj=raw) as file:
            try:
                return _read_array(file, name, size, True, max_bytes)
            except (OSError, EOFError, zlib.error) as error:
                raise _bad(name, f"cannot be decompressed: {error}", "it is damaged or cut short: take another copy") \
                    from None  # fmt: skip


def _read_array(file, name: str, size: int, packed: bool, max_bytes: int) -> np.ndarray:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= _MAX_RANK:
        foreign = None if packed else refusal(head + file.read(512), name)
        if foreign is not None:
            raise foreign
        raise _bad(name, f"is not an IDX file: it begins with {head.hex(' ') or 'nothing'}", "check the path")
    dtype, rank = np.dtype(_TYPES[head[2]]), head[3]
    dims = file.read(4 * rank)
    if len(dims) < 4 * rank:
        raise _bad(name, "ends inside its header")
    shape = struct.unpack(f">{rank}I", dims)
    count, begin = math.prod(shape) * dtype.itemsize, 4 + 4 * rank
    if math.prod(n for n in shape if n) * dtype.itemsize >= 1 << 63 or count > max_bytes:
        unpack = "unpack it first (gunzip), or " if packed else ""
        raise _bad(name, f"announces shape {shape}, more than {max_bytes:,} bytes",
                   f"if the file is right, {unpack}read_idx(path, max_bytes={count})")  # fmt: skip
    if packed and begin + count > size * _MAX_RATIO:
        raise _bad(name, f"announces {count:,} bytes of values, which its {size:,} compressed bytes cannot hold")
    if not packed and begin + count != size:
        fault = "is truncated" if begin + count > size else "has bytes after its last value"
        raise _bad(name, f"{fault}: shape {shape} takes {begin + count:,} bytes and the file has {size:,}")
    values = np.empty(count, np.uint8)
    view, filled = values.data, 0
    while filled < count:
        count_read = file.readinto(view[filled:])
        if not count_read:
            raise _bad(name, f"is truncated: {filled:,} of {count:,} bytes of values are there")
        filled += count_read
    if file.read(1):
        raise _bad(name, "has bytes after its last value")
    array = values.view(dtype).reshape(shape)
    return array if dtype.isnative else array.byteswap(inplace=True).view(dtype.newbyteorder("="))


def _bad(name: str, fault: str, fix: str = "it is damaged: take another copy") -> FileFormatError:
    return FileFormatError(f"{name!r} {fault}", fix=fix)


def write_idx(array, path) -> None:
    """Write `array` (uint8, int8, int16, int32, float32 or float64) to `path`, with gzip if it ends in `.gz`.

    Atomic; the same array gives the same bytes.
    """
    array = np.asarray(array)
    dtype = array.dtype.newbyteorder("=")
    if dtype not in _CODES:
        raise DTypeError(f"IDX cannot hold dtype {array.dtype}", expected="one of " + ", ".join(str(d) for d in _CODES))
    if not 1 <= array.ndim <= _MAX_RANK or max(array.shape) >= 1 << 32:
        raise ArgumentError("IDX holds 1 to 64 dimensions below 2**32", received=f"shape {array.shape}")
    head = bytes((0, 0, _CODES[dtype], array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    body = head + array.astype(dtype.newbyteorder(">")).tobytes()
    with atomic_write(path) as file:
        file.write(gzip.compress(body, 9, mtime=0) if os.fsdecode(path).endswith(".gz") else body)
