"""NumPy's files: NPY arrays, read whole or mapped into memory, and NPZ archives of them. Nothing is ever unpickled.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. A header is matched against a pattern and
checked against the size of the file before memory is allocated; it is not evaluated.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from deepcore.errors import DataError, FileFormatError, suggest
from deepcore.io.files import open_regular
from deepcore.io.foreign import identify
from deepcore.io.idx import max_unpacked

_MAGIC = b"\x93NUMPY"
_LENGTHS = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}  # version: bytes of the header's length
_MAX_HEADER = 10_000  # numpy.load's own bound
_MAX_MEMBERS = 10_000
#: The three entries in any order, without spaces.
_ENTRIES = re.compile(
    r"\{(?:(?:'descr':'([^']{1,32})'|'fortran_order':(True|False)|'shape':\(((?:\d{1,20}L?(?:,\d{1,20}L?)*,?)?)\)),?){3}\}"
)
_NUMBERS = re.compile(r"[<>|=]?(?:\?|b1|[iu][1248]|f(?:[248]|16))")


def read_npy(path) -> np.ndarray:
    """The array of an NPY file. Errors: `FileFormatError` for anything but one complete array of numbers."""
    name = os.fsdecode(path)
    with open_regular(path) as file:
        dtype, shape, fortran = _header(file, name)
        size = _check_size(name, dtype, shape, os.fstat(file.fileno()).st_size - file.tell())
        flat = np.frombuffer(file.read(size), dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def open_npy(path) -> np.ndarray:
    """The array of an NPY file, mapped into memory read-only: pages are read when first used, and may be dropped again.

    Errors: those of `read_npy`.
    """
    name = os.fsdecode(path)
    with open_regular(path) as file:
        dtype, shape, fortran = _header(file, name)
        begin = file.tell()
        size = _check_size(name, dtype, shape, os.fstat(file.fileno()).st_size - begin)
        if not size:
            return np.empty(shape, dtype)
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(memory, dtype, math.prod(shape), begin).reshape(shape, order="F" if fortran else "C")


def read_npz(path, names=None, max_bytes: int | None = None) -> dict[str, np.ndarray]:
    """The arrays of an NPZ archive, plain or compressed, by name; `names`: only these.

    `max_bytes` bounds their sum; by default it is 4 GiB, or for compressed ones the larger of 64 MiB and 128 times the
    archive. Errors: `FileFormatError` for a damaged archive, for members that are not arrays of numbers (those of
    objects are pickles), and for too large ones; `DataError` for a name that it does not have.
    """
    name = os.fsdecode(path)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(512)
        if not head.startswith((b"PK\3\4", b"PK\5\6")):
            foreign = identify(head, "")
            raise FileFormatError(
                f"{name!r} is {foreign[0] if foreign else 'no NPZ archive'}", fix="write it again: numpy.savez"
            )
        try:
            with zipfile.ZipFile(file) as archive:
                return _read_members(archive, name, size, names, max_bytes)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(f"{name!r} cannot be unpacked: {error}", fix="take another copy") from None


def _read_members(archive, name: str, size: int, names, max_bytes: int | None) -> dict[str, np.ndarray]:
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS:
        raise FileFormatError(f"{name!r} has {len(members):,} members", expected=f"at most {_MAX_MEMBERS:,}")
    available: Mapping[str, zipfile.ZipInfo] = {m.filename.removesuffix(".npy"): m for m in members}
    for wanted in names or ():
        if wanted not in available:
            raise DataError(f"{name!r} has no array {wanted!r}", fix=suggest(str(wanted), available))
    chosen = {key: available[key] for key in (available if names is None else names)}
    packed = any(m.compress_type != zipfile.ZIP_STORED for m in chosen.values())
    limit = (max_unpacked(size) if packed else 1 << 32) if max_bytes is None else max_bytes
    total = sum(m.file_size for m in chosen.values())
    if total > limit:
        raise FileFormatError(
            f"{name!r} unpacks to {total:,} bytes",
            expected=f"at most {limit:,}",
            fix=f"if the file is right, read_npz(path, max_bytes={total})",
        )
    arrays = {}
    for key, member in chosen.items():
        label = f"{name}/{member.filename}"
        with archive.open(member) as file:
            dtype, shape, fortran = _header(file, label)
            count = _check_size(label, dtype, shape, member.file_size - file.tell())
            flat = np.frombuffer(file.read(count), dtype)
            if flat.nbytes != count or file.read(1):
                raise FileFormatError(f"{label!r} is damaged: its size is not what the archive says")
        arrays[key] = flat.reshape(shape, order="F" if fortran else "C")
    return arrays


def _check_size(name: str, dtype: np.dtype, shape: tuple[int, ...], size: int) -> int:
    """The bytes of the values, which must be `size`."""
    if len(shape) > 64 or math.prod(n for n in shape if n) * dtype.itemsize >= 1 << 63:
        raise FileFormatError(f"{name!r} is damaged: no array has shape {shape[:64]}", fix="take another copy")
    count = math.prod(shape) * dtype.itemsize
    if count != size:
        raise FileFormatError(
            f"{name!r} is damaged: shape {shape} of {dtype} takes {count:,} bytes and {size:,} are there",
            fix="take another copy",
        )
    return count


def _header(file, name: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    """(dtype, shape, whether the first index varies fastest) of an NPY file, `file` left at its values."""
    head = file.read(8)
    width = _LENGTHS.get(head[6:8], 0)
    length = int.from_bytes(file.read(width), "little")
    if head[:6] != _MAGIC or not 0 < length <= _MAX_HEADER:
        foreign = None if head[:6] == _MAGIC else identify(head + file.read(504), "")
        if foreign is not None:
            raise FileFormatError(f"{name!r} is {foreign[0]}, not an NPY file", expected="an array of numpy.save")
        raise FileFormatError(f"{name!r} has a bad NPY header: no version known", fix="write it again: numpy.save")
    text = "".join(file.read(length).decode("latin1").split()).replace('"', "'")
    entries = _ENTRIES.fullmatch(text)
    kind, fortran, sizes = entries.groups() if entries else (None, None, None)
    if kind is None and "'descr':[" in text:
        kind = "records"
    if kind is not None and not _NUMBERS.fullmatch(kind):
        raise FileFormatError(
            f"{name!r} holds values of type {kind!r}",
            expected="numbers",
            fix="numpy.save(path, array.astype('float32'))",
        )
    if kind is None or fortran is None or sizes is None:
        raise FileFormatError(f"{name!r} has a bad NPY header: {text[:100]!r}", fix="write it again: numpy.save")
    try:
        shape = tuple(int(n.rstrip("L")) for n in sizes.split(",") if n)
        return np.dtype(kind), shape, fortran == "True"
    except TypeError:  # a float type that this machine lacks
        raise FileFormatError(f"{name!r} holds values of type {kind!r}", expected="numbers known here") from None
