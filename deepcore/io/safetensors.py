"""Reader and writer of the safetensors format: an 8-byte length, a JSON header, then the tensors' bytes.

    u64 n, little-endian | header: n bytes of JSON | data
    header: {"__metadata__": {str: str}, name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …}

The writer adds a format version, a CRC-32 of every tensor, and one of the header to the metadata.
Large models come in several files, with an index that maps tensors to files; see `ShardedFile`.
Format: https://huggingface.co/docs/safetensors. This module works on NumPy arrays; `deepcore.save` on tensors.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import reprlib
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, NoReturn

import ml_dtypes
import numpy as np

from deepcore.backend import dtypes
from deepcore.errors import ArgumentError, DeepcoreWarning, DTypeError, FileFormatError, suggest
from deepcore.io.files import FileAccessError, MissingFileError, atomic_write, open_regular
from deepcore.io.foreign import refusal
from deepcore.tensor import unmasked

FORMAT_VERSION = 1
MAX_HEADER_BYTES = 100_000_000  # the format's own bound
MAX_TENSORS = 100_000  # of one file
MAX_INDEXED = 500_000  # of all shards
_MAX_BRACKETS = 4 * MAX_TENSORS
_MAX_NOTES = 10_000
_MAX_SHARDS = 10_000
_NOTES_BYTES, _ENTRY_BYTES = 1 << 24, 1 << 10  # of a header: for metadata, and for each tensor
_SMALL_COUNT = 10_000  # below this, headers are not counted exactly
_MAX_RANK = 64  # NumPy's

_VERSION_KEY, _CRC_KEY = "deepcore.format", "deepcore.crc32"
_COPY_FIX = (
    f"take another copy of the file; a tool that changes it must drop {_VERSION_KEY!r} and {_CRC_KEY!r} "
    "from its metadata"
)

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
    np.dtype(np.complex64): "C64",
}
_EIGHT_BITS = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
for _name, _kind in _EIGHT_BITS.items():
    if hasattr(ml_dtypes, _kind):
        DTYPE_NAMES[np.dtype(getattr(ml_dtypes, _kind))] = _name
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


def fix_for(dtype: np.dtype) -> str:
    """What to do with an array of a dtype that the format lacks."""
    if dtype.kind == "c":
        return "save both parts, dc.view_as_real(z), or 64 bits: z.to(dc.complex64)"
    return "convert it first, for example array.astype('float32')"


#: Bits per value, for the dtypes whose size is known.
_BITS = {name: 8 * dtype.itemsize for name, dtype in _DTYPES.items()} | {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


_ENTRY = frozenset(["dtype", "shape", "data_offsets"])


class TensorInfo(NamedTuple):
    """The header entry of one tensor; `begin` and `end` count from the start of the data.

    `stored` is the format's name of the dtype; `dtype` is None where no NumPy dtype corresponds (F4, F6_…).
    """

    dtype: np.dtype | None
    shape: tuple[int, ...]
    begin: int
    end: int
    stored: str


# -- writing --------------------------------------------------------------------------------------
def save_file(tensors: Mapping[str, np.ndarray], path, metadata: Mapping[str, str] | None = None) -> None:
    """Write `tensors` (and `metadata`, str to str) to `path`, atomically. The same input gives the same bytes.

    Errors: `DTypeError` for a dtype the format lacks; `ArgumentError` for a name or metadata it cannot hold.
    """
    with atomic_write(path) as file:
        for part in _parts(tensors, metadata):
            file.write(part)


def to_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of the file that `save_file` would write. Errors: as `save_file`."""
    return b"".join(_parts(tensors, metadata))


def _parts(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None) -> Iterator[bytes | memoryview]:
    header, order = _layout(tensors, metadata)
    yield len(header).to_bytes(8, "little")
    yield header
    yield from map(_bytes_of, order)


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
        array = np.asarray(unmasked(value))  # also drops subclasses, whose methods may differ
        if array.dtype.newbyteorder("=") not in DTYPE_NAMES:
            raise DTypeError(
                f"safetensors cannot hold dtype {array.dtype} (entry {name!r})",
                expected="one of " + ", ".join(str(d) for d in DTYPE_NAMES),
                fix=fix_for(array.dtype),
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
    maximum = min(MAX_HEADER_BYTES, _NOTES_BYTES + _ENTRY_BYTES * len(arrays))
    if len(header) > maximum or _brackets(header) > _MAX_BRACKETS:
        raise ArgumentError(
            f"the header would take {len(header):,} bytes and describe {_brackets(header):,} lists and objects",
            expected=f"at most {maximum:,} and {_MAX_BRACKETS:,}",
            fix="save large lists as arrays, or in several files",
        )
    if len(arrays) > MAX_TENSORS or len(notes) > _MAX_NOTES:
        raise ArgumentError(
            f"a file cannot hold {len(arrays):,} tensors and {len(notes):,} notes",
            expected=f"at most {MAX_TENSORS:,} and {_MAX_NOTES:,}",
            fix="stack small tensors, or save them in several files",
        )
    return header, [arrays[name] for name in order]


def _check_text(text, subject: str) -> None:
    if not isinstance(text, str):
        raise ArgumentError(f"{subject} must be a string", received=repr(text))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ArgumentError(f"{subject} is not valid Unicode text", received=ascii(text)) from None


def _dump(value) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _brackets(header: bytes) -> int:
    return header.count(b"{") + header.count(b"[")


def _header_sum(entries: Mapping[str, Mapping], notes: Mapping[str, str]) -> int:
    # Offsets are excluded: the order in which a tool writes the tensors does not matter.
    kinds = sorted((name, entry["dtype"], entry["shape"]) for name, entry in entries.items())
    text = _dump([kinds, sorted((k, v) for k, v in notes.items() if k != _CRC_KEY)])
    return zlib.crc32(text.encode())


def _bytes_of(array: np.ndarray) -> memoryview:
    # Viewed as bytes first: the buffer protocol supports neither bfloat16 nor arrays of size 0.
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


# -- reading --------------------------------------------------------------------------------------
class TensorFile:
    """Tensors by name in an open file or set of files, read on demand."""

    path: str
    metadata: dict[str, str]
    _infos: dict[str, TensorInfo]

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def close(self) -> None:
        raise NotImplementedError

    def read(self, name: str, verify: bool = True) -> np.ndarray:
        """One tensor as a new array; `verify` compares its checksum, where the file has one."""
        raise NotImplementedError

    def map(self, name: str, verify: bool = False) -> np.ndarray:
        """One tensor as a read-only view of the mapped file: pages are read on access.

        `verify` reads it all once to compare the checksum. The file must not change during the array's lifetime.
        """
        raise NotImplementedError

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
        """dtype, shape and position of one tensor."""
        try:
            return self._infos[name]
        except (KeyError, TypeError):
            raise ArgumentError(f"{self.path!r} has no tensor {name!r}", fix=suggest(str(name), self._infos)) from None

    def select(self, names: Iterable[str] | None = None) -> dict[str, TensorInfo]:
        """The tensors called `names`, or all; raises `FileFormatError` if one of them cannot be read."""
        if isinstance(names, str):
            raise ArgumentError("names is a list of names", received=repr(names), fix=f"names=[{names!r}]")
        chosen = self._infos if names is None else {name: self.info(name) for name in names}
        unreadable = [f"{_quote_name(name)} ({info.stored})" for name, info in chosen.items() if info.dtype is None]
        if unreadable:
            raise FileFormatError(
                f"{self.path!r} holds {len(unreadable)} tensors of a dtype that is not known here: "
                + _list_names(unreadable),
                expected="one of " + ", ".join(_DTYPES),
                fix="convert them with the tool that wrote them; to read others alone, list them: names=[…]",
            )
        return chosen

    def load(self, names: Iterable[str] | None = None, *, mmap: bool = False, verify: bool | None = None) -> dict:
        """{name: array} of `names`, or of all tensors; see `load_file`."""
        read = self.map if mmap else self.read
        return {name: read(name, not mmap if verify is None else verify) for name in self.select(names)}


class SafetensorsFile(TensorFile):
    """An open file: opening checks the whole header; tensors are read on demand.

    >>> with SafetensorsFile("model.safetensors") as file:
    ...     file.names, file.info("fc.weight").shape, file.read("fc.weight")

    `names` are in the file's order; `metadata` leaves out deepcore's own version and checksums.
    Any fault of the file raises `FileFormatError` before memory is allocated for a tensor; a tensor of an unknown
    dtype raises when it is read, and the others can be read. A file with deepcore's version and without its
    checksums, which another tool must have changed, gives a `DeepcoreWarning`.
    """

    def __init__(self, path) -> None:
        self.path = os.fsdecode(path)
        self.metadata = {}
        self._infos = {}
        self._sums: dict[str, int] | None = None
        self._data_start = 0
        self._mapped: np.ndarray | None = None
        self._file, self._size = self._open(path)
        try:
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _open(self, path) -> tuple[BinaryIO, int]:
        """The file, and its size in bytes."""
        file = open_regular(path)
        return file, os.fstat(file.fileno()).st_size

    def close(self) -> None:
        self._file.close()

    def read(self, name: str, verify: bool = True) -> np.ndarray:
        info = self.select([name])[name]
        raw = np.empty(info.end - info.begin, np.uint8)
        self._file.seek(self._data_start + info.begin)
        view, filled = raw.data, 0
        while filled < len(view):
            count = self._file.readinto(view[filled:])  # type: ignore[attr-defined]
            if not count:
                self._bad(
                    f"ended while tensor {_quote_name(name)} was read", fix="another program is writing it: try again"
                )
            filled += count
        return self._as_array(name, info, raw, verify)

    def map(self, name: str, verify: bool = False) -> np.ndarray:
        info = self.select([name])[name]
        if info.begin == info.end:
            return self.read(name)
        if self._mapped is None:
            self._mapped = np.memmap(self._file, np.uint8, "r", offset=0)
        raw = np.asarray(self._mapped[self._data_start + info.begin : self._data_start + info.end])
        if raw.ctypes.data % info.dtype.alignment:  # type: ignore[union-attr]
            raw = raw.copy()  # other writers may not align tensors, which compiled kernels need
            raw.flags.writeable = False
        return self._as_array(name, info, raw, verify)

    def _as_array(self, name: str, info: TensorInfo, raw: np.ndarray, verify: bool) -> np.ndarray:
        if verify and self._sums is not None and zlib.crc32(raw.data) != self._sums[name]:
            self._bad(
                f"tensor {_quote_name(name)} is corrupt: its CRC-32 is not the one stored when it was written",
                fix=_COPY_FIX,
            )
        dtype = info.dtype
        assert dtype is not None
        if dtype == dtypes.bool_ and raw.size and raw.max() > 1:
            self._bad(f"tensor {_quote_name(name)} is of type BOOL and has bytes other than 0 and 1")
        stored = dtype.newbyteorder("<") if dtype.isbuiltin == 1 else dtype
        return dtypes.canonical(raw.view(stored).reshape(info.shape).astype(dtype, copy=False))

    # -- the header, with all checks ----------------------------------------------------------------
    def _read_header(self) -> None:
        size = self._size
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
        return _parse_json(header, "a header", self._bad)

    def _check_entries(self, header: dict[str, Any], data_size: int) -> None:
        notes = header.pop("__metadata__", {})
        if not isinstance(notes, dict) or not all(isinstance(v, str) for v in notes.values()):
            self._bad("has metadata that is not a map of strings to strings")
        self._check_version(notes)
        if len(header) > MAX_TENSORS:
            self._bad(f"has {len(header):,} tensors", expected=f"at most {MAX_TENSORS:,}")
        for text in (*header, *notes, *notes.values()):
            if not _is_text(text):
                self._bad(f"has a name or metadata that is not valid Unicode: {text[:60]!a}")
        for name, entry in header.items():
            self._infos[name] = self._check_entry(name, entry)
        spans = np.array([info[2:4] for info in self._infos.values()], np.int64).reshape(-1, 2)
        order = np.lexsort((spans[:, 1], spans[:, 0]))
        begins, ends = spans[order].T
        before = np.concatenate(([0], ends))
        for position in np.flatnonzero(begins != before[:-1])[:1].tolist():
            name, begin, end = self.names[order[position]], int(begins[position]), int(before[position])
            fault = "overlaps the tensor before it" if begin < end else "leaves a hole before it"
            self._bad(f"has tensor {_quote_name(name)} at offset {begin:,}, which {fault}", expected=f"offset {end:,}")
        end = int(before[-1])
        if end > data_size:
            self._bad(
                f"is truncated: its tensors take {end:,} bytes and {data_size:,} are there",
                fix="take another copy: the download or copy was cut short",
            )
        if end < data_size:
            self._bad(f"has {data_size - end:,} bytes after its last tensor", fix="it is damaged: take another copy")
        self._check_notes(header, notes)

    def _check_entry(self, name: str, entry) -> TensorInfo:
        def bad(fault: str, received=None) -> NoReturn:
            self._bad(
                f"has a bad entry for tensor {_quote_name(name)}: {fault}",
                received=received and reprlib.repr(*received),
            )

        if not isinstance(entry, dict) or entry.keys() != _ENTRY:
            bad("it needs dtype, shape and data_offsets, and nothing else")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or len(kind) > 32:
            bad("its dtype is not the name of one", [kind])
        if not isinstance(shape, list) or len(shape) > _MAX_RANK or not _are_sizes(shape):
            bad("its shape is not a list of sizes", [shape])
        if not isinstance(offsets, list) or len(offsets) != 2 or not _are_sizes(offsets):
            bad("data_offsets is not a pair of offsets", [offsets])
        begin, end = offsets
        bits, count = _BITS.get(kind), math.prod(shape)
        if (count or math.prod(n for n in shape if n)) * (bits or 8) >= 1 << 66:
            bad(f"shape {shape} overflows")
        if end < begin or (bits is not None and 8 * (end - begin) != count * bits):
            takes = "" if bits is None else f" takes {-(-count * bits // 8):,} bytes"
            bad(f"shape {shape} of {kind}{takes} and data_offsets span {end - begin:,}")
        return TensorInfo(_DTYPES.get(kind), tuple(shape), begin, end, kind)

    def _check_version(self, notes: dict[str, str]) -> None:
        version = notes.get(_VERSION_KEY, "1")
        if not (version.isascii() and version.isdigit()) or int(version[:9]) > FORMAT_VERSION:
            self._bad(
                f"is of deepcore's format {version[:20]!r}",
                expected=f"at most {FORMAT_VERSION}",
                fix="read it with a newer deepcore",
            )

    def _check_notes(self, entries: dict[str, Any], notes: dict[str, str]) -> None:
        self.metadata = {k: v for k, v in notes.items() if k not in (_VERSION_KEY, _CRC_KEY)}
        if _CRC_KEY not in notes:
            if _VERSION_KEY in notes:
                warnings.warn(
                    f"{self.path!r} was written by deepcore and has no checksums: another tool has changed it, or it "
                    "is damaged. Its tensors are read without being verified; saving them again adds checksums",
                    DeepcoreWarning,
                    stacklevel=4,
                )
            return
        try:
            sums = _strict_json(notes[_CRC_KEY])
            tensors, header = sums["tensors"], sums["header"]
            if tensors.keys() != entries.keys() or not all(_is_size(v) for v in (header, *tensors.values())):
                raise ValueError
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            self._bad("has checksums that do not fit its tensors", fix=_COPY_FIX)
        if header != _header_sum(entries, notes):
            self._bad("has a corrupt header: its CRC-32 is not the one stored when it was written", fix=_COPY_FIX)
        self._sums = tensors

    def _bad(self, fault: str, *, expected=None, received=None, fix=None) -> NoReturn:
        raise FileFormatError(
            f"{self.path!r} {fault}",
            expected=expected,
            received=received,
            fix=fix or "it is damaged or was written by a faulty tool: take another copy",
        ) from None


class SafetensorsBytes(SafetensorsFile):
    """The content of a file in memory, with the same checks; `name` stands for its path in errors."""

    def __init__(self, data: bytes | bytearray | memoryview, name: str = "safetensors bytes") -> None:
        self._content = memoryview(data).cast("B")
        super().__init__(name)

    def _open(self, path) -> tuple[BinaryIO, int]:
        return io.BytesIO(self._content), self._content.nbytes

    def map(self, name: str, verify: bool = False) -> np.ndarray:
        array = self.read(name, verify)
        array.flags.writeable = False
        return array


class ShardedFile(TensorFile):
    """The tensors of several safetensors files, as mapped by the index beside them.

    >>> with ShardedFile("model.safetensors.index.json") as file:
    ...     file.names, file.read("fc.weight")

    index: {"metadata": {"total_size": bytes of all tensors}, "weight_map": {name: file in the index's folder, …}}

    Every shard's header is read when the index is opened. A shard that is missing or named by a path, a tensor that
    is in no shard, in two, in another than in the index or not in the index, and a wrong total_size raise
    `FileFormatError`. `metadata` has the strings of the index's metadata.
    """

    def __init__(self, path) -> None:
        self.path = os.fsdecode(path)
        self._shards: dict[str, SafetensorsFile] = {}
        index = self._read_index()
        shard_of = index["weight_map"]
        notes = index.get("metadata", {})
        self.metadata = {key: text for key, text in notes.items() if isinstance(text, str)}
        try:
            for shard in dict.fromkeys(shard_of.values()):
                self._shards[shard] = self._open(shard)
            for shard, file in self._shards.items():
                for name in file:
                    if shard_of.get(name) != shard:
                        where = f"places it in {shard_of[name]!r}" if name in shard_of else "does not name it"
                        self._bad(f"{where}, and tensor {_quote_name(name)} is in {shard!r}")
            for name, shard in shard_of.items():
                if name not in self._shards[shard]:
                    self._bad(f"places tensor {_quote_name(name)} in {shard!r}, which does not have it")
        except BaseException:
            self.close()
            raise
        self._files_by_name = {name: self._shards[shard] for name, shard in shard_of.items()}
        self._infos = {name: file.info(name) for name, file in self._files_by_name.items()}
        self._check_size(notes)

    def _read_index(self) -> dict[str, Any]:
        with open_regular(self.path) as file:
            raw = file.read(MAX_HEADER_BYTES + 1)
        if len(raw) > MAX_HEADER_BYTES:
            self._bad(f"has more than {MAX_HEADER_BYTES:,} bytes, too many for an index of shards")
        index = _parse_json(raw, "content", self._bad, names=min(MAX_INDEXED, raw.count(b":")))
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not isinstance(index.get("metadata", {}), dict):
            self._bad("is not an index of shards", expected='{"weight_map": {tensor: file, …}}', fix="check the path")
        if len(set(map(repr, weight_map.values()))) > _MAX_SHARDS:
            self._bad("places tensors in too many files", expected=f"at most {_MAX_SHARDS:,}")
        for name, shard in weight_map.items():
            if not isinstance(shard, str) or not _is_file_name(shard):
                self._bad(
                    f"places tensor {_quote_name(name)} in {reprlib.repr(shard)}",
                    expected="the name of a file in the same folder",
                )
        return index

    def _open(self, shard: str) -> SafetensorsFile:
        try:
            return SafetensorsFile(os.path.join(os.path.dirname(self.path), shard))
        except MissingFileError:
            raise MissingFileError(
                f"{self.path!r} places tensors in {shard!r}, which is not there",
                fix="fetch it into the same folder",
            ) from None

    def _check_size(self, notes: dict[str, Any]) -> None:
        total = sum(info.end - info.begin for info in self._infos.values())
        announced = notes.get("total_size", total)
        if type(announced) not in (int, float) or announced != total:
            self.close()
            self._bad(
                f"announces tensors of {reprlib.repr(announced)} bytes in all, and the shards hold {total:,}",
                fix="take another copy of the index and its shards; a shard can be loaded by itself",
            )

    def close(self) -> None:
        for file in self._shards.values():
            file.close()

    def read(self, name: str, verify: bool = True) -> np.ndarray:
        self.select([name])
        return self._files_by_name[name].read(name, verify)

    def map(self, name: str, verify: bool = False) -> np.ndarray:
        self.select([name])
        return self._files_by_name[name].map(name, verify)

    def _bad(self, fault: str, *, expected=None, fix=None) -> NoReturn:
        raise FileFormatError(
            f"{self.path!r} {fault}",
            expected=expected,
            fix=fix or "the index and the files are not of one model: take another copy of all of them",
        ) from None


def open_file(path) -> TensorFile:
    """Open `path`: a safetensors file, the index of a sharded one (`.json`), or a folder that contains one of them.

    In a folder: model.safetensors, or model.safetensors.index.json, or the only index, or the only such file.
    """
    name = os.fsdecode(path)
    if os.path.isdir(name):
        name = os.path.join(name, _main_file(name))
    return ShardedFile(name) if name.endswith(".json") else SafetensorsFile(name)


def _main_file(folder: str) -> str:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise FileAccessError.of(error, folder, "read") from None
    files = [name for name in names if name.endswith(".safetensors")]
    indexes = [name for name in names if name.endswith(".safetensors.index.json")]
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if name in names:
            return name
    for choice in (indexes, files):
        if len(choice) == 1:
            return choice[0]
    raise FileFormatError(
        f"{folder!r} is a folder with {len(files)} safetensors files and {len(indexes)} indexes of shards",
        expected="a file, or a folder with model.safetensors or one index",
        fix=f"give one of {_list_names([repr(name) for name in indexes or files])}" if files else "check the path",
    )


def _is_file_name(name: str) -> bool:
    """Whether `name` can only be a file of the index's folder, on any system."""
    if name in (".", "..") or not 0 < len(name.encode(errors="replace")) < 256:
        return False
    return not any(c in '/\\:"<>|?*' or c < " " for c in name) and _is_text(name)


def _is_text(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _is_size(value) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _are_sizes(values: list) -> bool:
    for value in values:  # noqa: SIM110 - a generator takes twice the time, and there may be 100,000 tensors
        if type(value) is not int or not 0 <= value < 1 << 63:
            return False
    return True


def _quote_name(name) -> str:
    """A name from a file, quoted and truncated."""
    return repr(name) if len(name) <= 200 else f"{name[:200]!r}…"


def _list_names(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _parse_json(raw: bytes, subject: str, bad, names: int | None = None) -> dict[str, Any]:
    """Parse `raw` as a JSON object; calls `bad` for anything else, and for too many values before they take memory.

    names: the number of tensors it may name; None: the number of entries it has.
    """
    entries = raw.count(b'"data_offsets"') if names is None else names
    if names is None and entries > MAX_TENSORS:
        bad(f"has {subject} of {entries:,} tensors", expected=f"at most {MAX_TENSORS:,}")
    if len(raw) > _NOTES_BYTES + _ENTRY_BYTES * entries:
        bad(f"has {subject} of {len(raw):,} bytes for {entries:,} tensors")
    # Parsed values take up to 30 times their bytes (a list is 56 bytes, a text 49), so their number is bounded by that of
    # a tensor's entry; brackets inside strings do not count.
    texts = (raw.count(b'"') - raw.count(b'\\"')) // 2
    maximum = (5 if names is None else 2) * entries + 2 * _MAX_NOTES
    if texts > maximum:
        bad(f"has {subject} of {texts:,} texts", expected=f"at most {maximum:,}")
    count, commas = _brackets(raw), raw.count(b",")
    if count > 3 * entries + _SMALL_COUNT or commas > 8 * entries + _SMALL_COUNT:
        maximum = _MAX_BRACKETS
        if count <= maximum:
            bare = re.sub(rb'"(?:[^"\\]|\\.)*+"?', b"", raw, flags=re.DOTALL)
            count, commas = _brackets(bare), bare.count(b",")
            maximum = min(maximum, 3 * entries + _SMALL_COUNT)
        if count > maximum:
            bad(f"has {subject} of {count:,} lists and objects", expected=f"at most {maximum:,}")
        if commas > (_MAX_RANK + 4) * entries + _SMALL_COUNT:
            bad(f"has {subject} of {commas:,} values for {entries:,} tensors")
    try:
        return _strict_json(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        bad(f"has {subject} that is not UTF-8: {error.reason} at byte {error.start}")
    except RecursionError:
        bad(f"has {subject} nested too deeply")
    except ValueError as error:
        bad(f"has {subject} that is not valid JSON: {error}")
    raise AssertionError


def _strict_json(text: str) -> dict[str, Any]:
    """A JSON object without duplicate keys and without NaN or Infinity; anything else is a ValueError."""
    value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys: set[str] = set()
        duplicate = next(key for key, _ in pairs if key in keys or keys.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {duplicate[:100]!r} is there twice")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not allowed")


def load_file(
    path, names: Iterable[str] | None = None, *, mmap: bool = False, verify: bool | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, of an index's shards, or of a folder with one of them; see `open_file`.

    In the file's order; `names` reads only those. `mmap=True` gives read-only views of the mapped file instead:
    pages are read on access. `verify` compares each tensor with its CRC-32, where the file has one; the
    default does so for copies, not for views, of which it would read every page.
    """
    with open_file(path) as file:
        return file.load(names, mmap=mmap, verify=verify)


def load_with_metadata(path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a file that `open_file` opens."""
    with open_file(path) as file:
        return file.load(), file.metadata
