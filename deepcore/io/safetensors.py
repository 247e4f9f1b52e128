"""The safetensors format, read and written here: an 8-byte length, a JSON header, then the tensors' bytes.

    u64 n, little-endian | header: n bytes of JSON | data
    header: {"__metadata__": {str: str}, name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …}

Files written here also carry, in the metadata, a format version, a CRC-32 of every tensor, and one of the header.
Format: https://huggingface.co/docs/safetensors. This module works on NumPy arrays; `deepcore.save` on tensors.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, NoReturn

import ml_dtypes
import numpy as np

from deepcore.backend import dtypes
from deepcore.errors import ArgumentError, DTypeError, FileFormatError, suggest
from deepcore.io.files import atomic_write, open_regular
from deepcore.io.foreign import refusal

FORMAT_VERSION = 1
MAX_HEADER_BYTES = 100_000_000  # the format's own bound
MAX_TENSORS = 1_000_000
_MAX_BRACKETS = 4 * MAX_TENSORS
_MAX_RANK = 64  # NumPy's

_VERSION_KEY, _CRC_KEY = "deepcore.format", "deepcore.crc32"
_TAKE_ANOTHER = f"take another copy of the file; a tool that changes it must drop {_CRC_KEY!r} from its metadata"

DTYPE_NAMES: dict[np.dtype, str] = {
    dtypes.bool_: "BOOL",
    dtypes.uint8: "U8",
    dtypes.int8: "I8",
    dtypes.int16: "I16",
    dtypes.uint16: "U16",
    dtypes.float16: "F16",
    dtypes.bfloat16: "BF16",
    dtypes.int32: "I32",
    dtypes.uint32: "U32",
    dtypes.float32: "F32",
    dtypes.int64: "I64",
    dtypes.uint64: "U64",
    dtypes.float64: "F64",
}
for _name, _kind in (("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2"), ("F8_E8M0", "float8_e8m0fnu")):
    if hasattr(ml_dtypes, _kind):
        DTYPE_NAMES[np.dtype(getattr(ml_dtypes, _kind))] = _name
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


class TensorInfo(NamedTuple):
    """What the header says of one tensor; `begin` and `end` count from the start of the data."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


# -- writing --------------------------------------------------------------------------------------
def save_file(tensors: Mapping[str, np.ndarray], path, metadata: Mapping[str, str] | None = None) -> None:
    """Write `tensors` (and `metadata`, str to str) to `path`, atomically. The same input gives the same bytes.

    Errors: `DTypeError` for a dtype the format lacks; `ArgumentError` for a name or metadata it cannot hold.
    """
    header, order = _layout(tensors, metadata)
    with atomic_write(path) as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for array in order:
            file.write(_bytes_of(array))


def _layout(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None) -> tuple[bytes, list[np.ndarray]]:
    """The header, in the order of `tensors`, and the arrays in the order of their bytes: widest dtype first."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        _check_text(name, "a tensor's name")
        if name == "__metadata__":
            raise ArgumentError("'__metadata__' is reserved in the safetensors format", fix="rename the tensor")
        if not isinstance(value, (np.ndarray, np.generic)):
            raise ArgumentError(
                f"entry {name!r} is not an array", expected="numpy.ndarray", received=type(value).__name__
            )
        array = np.asarray(value)  # also drops subclasses, whose methods may differ
        if array.dtype.newbyteorder("=") not in DTYPE_NAMES:
            raise DTypeError(
                f"safetensors cannot hold dtype {array.dtype} (entry {name!r})",
                expected="one of " + ", ".join(str(d) for d in DTYPE_NAMES),
                fix="convert it first, for example array.astype('float32')",
            )
        arrays[name] = np.require(array, array.dtype.newbyteorder("<"), "C")
    order = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)  # stable: every tensor stays aligned
    begin, offsets = 0, {}
    for name in order:
        offsets[name] = [begin, begin + arrays[name].nbytes]
        begin += arrays[name].nbytes
    entries = {
        name: {
            "dtype": DTYPE_NAMES[array.dtype.newbyteorder("=")],
            "shape": list(array.shape),
            "data_offsets": offsets[name],
        }
        for name, array in arrays.items()
    }
    notes = {_VERSION_KEY: str(FORMAT_VERSION)}
    for key, text in (metadata or {}).items():
        _check_text(key, "a metadata key")
        _check_text(text, f"metadata {key!r}")
        if key in (_VERSION_KEY, _CRC_KEY):
            raise ArgumentError(f"metadata key {key!r} is written by deepcore itself", fix="use another key")
        notes[key] = text
    sums = {name: zlib.crc32(_bytes_of(array)) for name, array in arrays.items()}
    notes[_CRC_KEY] = _dump({"header": _header_sum(entries, notes), "tensors": sums})
    header = _dump({"__metadata__": notes, **entries}).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > MAX_HEADER_BYTES or _brackets(header) > _MAX_BRACKETS:
        raise ArgumentError(
            f"the header would take {len(header):,} bytes and describe {_brackets(header):,} lists and objects",
            expected=f"at most {MAX_HEADER_BYTES:,} and {_MAX_BRACKETS:,}",
            fix="save large lists as arrays, or in several files",
        )
    return header, [arrays[name] for name in order]


def _check_text(text, what: str) -> None:
    if not isinstance(text, str):
        raise ArgumentError(f"{what} must be a string", received=repr(text))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ArgumentError(f"{what} is not valid Unicode text", received=ascii(text)) from None


def _dump(value) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _brackets(header: bytes) -> int:
    return header.count(b"{") + header.count(b"[")


def _header_sum(entries: Mapping[str, Mapping], notes: Mapping[str, str]) -> int:
    # Without the offsets: a tool that writes the same tensors in another order has changed nothing.
    kinds = sorted((name, entry["dtype"], entry["shape"]) for name, entry in entries.items())
    text = _dump([kinds, sorted((k, v) for k, v in notes.items() if k != _CRC_KEY)])
    return zlib.crc32(text.encode())


def _bytes_of(array: np.ndarray) -> memoryview:
    # A view as bytes first: the buffer protocol knows neither bfloat16 nor arrays of size 0.
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


# -- reading --------------------------------------------------------------------------------------
class SafetensorsFile:
    """An open file: its header is checked whole when it is opened, its tensors are read when asked for.

    >>> with SafetensorsFile("model.safetensors") as file:
    ...     file.names, file.info("fc.weight").shape, file.read("fc.weight")

    `names` are in the file's order; `metadata` leaves out deepcore's own version and checksums.
    Anything wrong with the file is a `FileFormatError`, before memory is taken for a tensor.
    """

    def __init__(self, path) -> None:
        self.path = os.fsdecode(path)
        self.metadata: dict[str, str] = {}
        self._infos: dict[str, TensorInfo] = {}
        self._sums: dict[str, int] | None = None
        self._data_start = 0
        self._mapped: np.ndarray | None = None
        self._file: BinaryIO = open_regular(path)
        try:
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @property
    def names(self) -> list[str]:
        return list(self._infos)

    def __contains__(self, name) -> bool:
        return name in self._infos

    def __len__(self) -> int:
        return len(self._infos)

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def info(self, name: str) -> TensorInfo:
        """dtype, shape and place of one tensor."""
        try:
            return self._infos[name]
        except KeyError:
            raise ArgumentError(f"{self.path!r} has no tensor {name!r}", fix=suggest(str(name), self._infos)) from None

    def read(self, name: str) -> np.ndarray:
        """One tensor as a new array, its checksum compared where the file has one."""
        info = self.info(name)
        raw = np.empty(info.end - info.begin, np.uint8)
        self._file.seek(self._data_start + info.begin)
        view, filled = raw.data, 0
        while filled < len(view):
            count = self._file.readinto(view[filled:])  # type: ignore[attr-defined]
            if not count:
                self._bad(f"ended while tensor {name!r} was read", fix="another program is writing it: try again")
            filled += count
        return self._as_array(name, info, raw, verify=True)

    def map(self, name: str, verify: bool = False) -> np.ndarray:
        """One tensor as a read-only view of the mapped file: pages are read when touched.

        `verify` reads it all once to compare the checksum. The file must not change while the array lives.
        """
        info = self.info(name)
        if info.begin == info.end:
            return self.read(name)
        if self._mapped is None:
            self._mapped = np.memmap(self._file, np.uint8, "r", offset=0)
        raw = np.asarray(self._mapped[self._data_start + info.begin : self._data_start + info.end])
        if raw.ctypes.data % info.dtype.alignment:
            raw = raw.copy()  # foreign writers may place a tensor anywhere; compiled kernels want it aligned
            raw.flags.writeable = False
        return self._as_array(name, info, raw, verify)

    def _as_array(self, name: str, info: TensorInfo, raw: np.ndarray, verify: bool) -> np.ndarray:
        if verify and self._sums is not None and zlib.crc32(raw.data) != self._sums[name]:
            self._bad(
                f"tensor {name!r} is corrupt: its CRC-32 is not the one stored when it was written",
                fix=_TAKE_ANOTHER,
            )
        if verify and info.dtype == dtypes.bool_ and raw.size and raw.max() > 1:
            self._bad(f"tensor {name!r} is of type BOOL and has bytes other than 0 and 1")
        stored = info.dtype.newbyteorder("<") if info.dtype.isbuiltin == 1 else info.dtype
        return raw.view(stored).reshape(info.shape).astype(info.dtype, copy=False)

    # -- the header: everything is checked here -----------------------------------------------------
    def _read_header(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        head = self._file.read(512)
        length = int.from_bytes(head[:8], "little")
        if len(head) < 9 or head[8:9] != b"{" or length > MAX_HEADER_BYTES:
            foreign = refusal(head, self.path)
            if foreign is not None:
                raise foreign
        if size < 8:
            self._bad(f"has {size} bytes, too few for a safetensors file", fix="it is truncated, or empty")
        if size > 8 and head[8:9] != b"{":
            self._bad("is not a safetensors file: no JSON follows the header's length", fix="check the path")
        if length > MAX_HEADER_BYTES:
            self._bad(f"announces a header of {length:,} bytes", expected=f"at most {MAX_HEADER_BYTES:,}")
        if length > size - 8:
            self._bad(
                f"announces a header of {length:,} bytes and has {size - 8:,} after the length",
                fix="it is truncated, or not a safetensors file: take another copy",
            )
        self._data_start = 8 + length
        self._file.seek(8)
        header = self._file.read(length)
        if len(header) != length:
            self._bad("ended while its header was read", fix="another program is writing it: try again")
        self._check_entries(self._parse(header), size - self._data_start)

    def _parse(self, header: bytes) -> dict[str, Any]:
        if _brackets(header) > _MAX_BRACKETS:  # each would take 20 times its bytes in memory
            self._bad(f"has a header of {_brackets(header):,} lists and objects", expected=f"at most {_MAX_BRACKETS:,}")
        try:
            return _strict_json(header.decode("utf-8"))
        except UnicodeDecodeError as error:
            self._bad(f"has a header that is not UTF-8: {error.reason} at byte {error.start}")
        except RecursionError:
            self._bad("has a header nested too deeply")
        except ValueError as error:
            self._bad(f"has a header that is not valid JSON: {error}")

    def _check_entries(self, header: dict[str, Any], data_size: int) -> None:
        notes = header.pop("__metadata__", {})
        if not isinstance(notes, dict) or not all(isinstance(v, str) for v in notes.values()):
            self._bad("has metadata that is not a map of strings to strings")
        self._check_version(notes)
        if len(header) > MAX_TENSORS:
            self._bad(f"has {len(header):,} tensors", expected=f"at most {MAX_TENSORS:,}")
        for text in (*header, *notes, *notes.values()):
            if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
                self._bad(f"has a name or metadata that is not valid Unicode: {text[:60]!a}")
        for name, entry in header.items():
            self._infos[name] = self._check_entry(name, entry)
        end = 0
        for name, info in sorted(self._infos.items(), key=lambda item: item[1][2:]):
            if info.begin != end:
                fault = "overlaps the tensor before it" if info.begin < end else "leaves a hole before it"
                self._bad(f"has tensor {name!r} at offset {info.begin:,}, which {fault}", expected=f"offset {end:,}")
            end = info.end
        if end > data_size:
            self._bad(
                f"is truncated: its tensors take {end:,} bytes and {data_size:,} are there",
                fix="take another copy: the download or copy was cut short",
            )
        if end < data_size:
            self._bad(f"has {data_size - end:,} bytes after its last tensor", fix="it is damaged: take another copy")
        self._check_notes(header, notes)

    def _check_entry(self, name: str, entry) -> TensorInfo:
        where = f"has a bad entry for tensor {name!r}: "
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            self._bad(where + "it needs dtype, shape and data_offsets, and nothing else")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in _DTYPES:
            self._bad(where + f"dtype {kind!r} is not known", expected="one of " + ", ".join(_DTYPES),
                      fix="convert the tensor with the tool that wrote it")  # fmt: skip
        if not isinstance(shape, list) or len(shape) > _MAX_RANK or not all(_is_size(n) for n in shape):
            self._bad(where + "its shape is not a list of sizes", received=repr(shape)[:200])
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n) for n in offsets):
            self._bad(where + "data_offsets is not a pair of offsets", received=repr(offsets)[:200])
        dtype, (begin, end) = _DTYPES[kind], offsets
        if math.prod(n for n in shape if n) * dtype.itemsize >= 1 << 63:
            self._bad(where + f"shape {shape} overflows")
        count = math.prod(shape) * dtype.itemsize
        if end - begin != count:
            self._bad(where + f"shape {shape} of {kind} takes {count:,} bytes and data_offsets span {end - begin:,}")
        return TensorInfo(dtype, tuple(shape), begin, end)

    def _check_version(self, notes: dict[str, str]) -> None:
        version = notes.get(_VERSION_KEY, "1")
        if not (version.isascii() and version.isdigit()) or int(version[:9]) > FORMAT_VERSION:
            self._bad(
                f"is of deepcore's format {version[:20]!r}",
                expected=f"at most {FORMAT_VERSION}",
                fix="pip install -U deepcore",
            )

    def _check_notes(self, entries: dict[str, Any], notes: dict[str, str]) -> None:
        self.metadata = {k: v for k, v in notes.items() if k not in (_VERSION_KEY, _CRC_KEY)}
        if _CRC_KEY not in notes:
            return
        try:
            sums = _strict_json(notes[_CRC_KEY])
            tensors, header = sums["tensors"], sums["header"]
            if tensors.keys() != entries.keys() or not all(_is_size(v) for v in (header, *tensors.values())):
                raise ValueError
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            self._bad("has checksums that do not fit its tensors", fix=_TAKE_ANOTHER)
        if header != _header_sum(entries, notes):
            self._bad("has a corrupt header: its CRC-32 is not the one stored when it was written", fix=_TAKE_ANOTHER)
        self._sums = tensors

    def _bad(self, fault: str, *, expected=None, received=None, fix=None) -> NoReturn:
        raise FileFormatError(
            f"{self.path!r} {fault}",
            expected=expected,
            received=received,
            fix=fix or "it is damaged or was written by a faulty tool: take another copy",
        ) from None


def _is_size(value) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _strict_json(text: str) -> dict[str, Any]:
    """A JSON object without duplicate keys and without NaN or Infinity; anything else is a ValueError."""
    value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:100]!r} is there twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not allowed")


def load_file(path, names: Iterable[str] | None = None, *, mmap: bool = False) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, in its order; `names` reads only those.

    `mmap=True` gives read-only views of the mapped file instead: nothing is read, or checked against its CRC,
    until it is touched.
    """
    with SafetensorsFile(path) as file:
        read = file.map if mmap else file.read
        return {name: read(name) for name in (file.names if names is None else names)}


def load_with_metadata(path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a safetensors file."""
    with SafetensorsFile(path) as file:
        return {name: file.read(name) for name in file.names}, file.metadata
