"""WAV files: uncompressed whole numbers of 8 to 32 bits, and floats. Format: Microsoft, "Multiple channel audio data", 2007."""

from __future__ import annotations

import io
import os
import struct
from typing import BinaryIO

import numpy as np

from deepcore.errors import ArgumentError, FileFormatError, ShapeError
from deepcore.io.files import atomic_write, open_regular
from deepcore.io.foreign import identify
from deepcore.tensor import Tensor

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_NAMES = {2: "ADPCM", 6: "A-law", 7: "µ-law", 17: "ADPCM", 85: "MP3", 0x161: "WMA"}
_MAX_CHUNKS, _MAX_CHANNELS, _MAX_RATE = 10_000, 1024, 1 << 24
#: What a writer gives as size that does not know it yet.
_OPEN = (0, 0xFFFFFFFF)
ENCODINGS = {"pcm8": (_PCM, 8), "pcm16": (_PCM, 16), "pcm24": (_PCM, 24), "pcm32": (_PCM, 32), "float32": (_FLOAT, 32)}


def read_wav(file, start: int = 0, frames: int | None = None) -> tuple[np.ndarray, int]:
    """(samples (channels, frames) float32, frames a second) of a WAV file: its path, its bytes, or a file open for reading.

    Whole numbers of b bits are divided by 2ᵇ⁻¹, so samples are in [-1, 1); 8-bit ones are without sign, around 128.
    Floats stay as they are. start, frames: the first frame to read and how many; the others are not.
    Errors: `FileFormatError` for anything but a complete WAV file of numbers that are not compressed.
    """
    for name, value in (("start", start), ("frames", 0 if frames is None else frames)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise ArgumentError(f"{name} is a whole number of at least 0", received=repr(value))
    if isinstance(file, (bytes, bytearray, memoryview)):
        return _read(io.BytesIO(file), "a recording", start, frames)
    if hasattr(file, "read"):
        name = str(getattr(file, "name", "a recording"))
        if not file.seekable():
            raise ArgumentError(f"{name!r} cannot be searched for its samples", fix="read_wav(file.read())")
        return _read(file, name, start, frames)
    with open_regular(file) as opened:
        return _read(opened, os.fsdecode(file), start, frames)


def _read(file: BinaryIO, name: str, start: int, frames: int | None) -> tuple[np.ndarray, int]:
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        foreign = identify(head + file.read(500), "")
        known = {b"RIFX": "a big-endian WAV file", b"RF64": "a WAV file of more than 4 GiB", b"fLaC": "a FLAC file",
                 b"OggS": "an Ogg file", b"FORM": "an AIFF file", b"ID3\3": "an MP3 file", b"ID3\4": "an MP3 file"}  # fmt: skip
        what = foreign[0] if foreign else known.get(head[:4], "not a WAV file" if head else "empty")
        raise FileFormatError(f"{name!r} is {what}", expected="RIFF … WAVE", fix="convert it: ffmpeg -i in out.wav")
    form: tuple[int, int, int, int] | None = None
    for _ in range(_MAX_CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8:
            raise FileFormatError(f"{name!r} has no samples: it ends before a data chunk", fix="take another copy")
        kind, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if kind == b"data":
            if form is None:
                raise FileFormatError(f"{name!r} has its data before its format", fix="take another copy")
            return _samples(file, name, form, size, start, frames), form[2]
        if kind == b"fmt ":
            form = _format(file.read(min(size, 40)), name)
            size -= min(size, 40)
        _skip(file, size + (int.from_bytes(chunk[4:], "little") & 1), name)
    raise FileFormatError(f"{name!r} has more than {_MAX_CHUNKS:,} chunks before its data", fix="take another copy")


def _skip(file: BinaryIO, size: int, name: str) -> None:
    try:
        file.seek(size, 1)
    except (OSError, ValueError):
        raise FileFormatError(f"{name!r} cannot be read: its chunks have no valid sizes") from None


def _format(fields: bytes, name: str) -> tuple[int, int, int, int]:
    """(format, channels, frames a second, bits) of a format chunk."""
    if len(fields) < 16:
        raise FileFormatError(f"{name!r} ends inside its format", fix="take another copy")
    tag, channels, rate, _, align, bits = struct.unpack("<HHIIHH", fields[:16])
    if tag == _EXTENSIBLE and len(fields) >= 26:
        tag = int.from_bytes(fields[24:26], "little")
    if (tag, bits) not in {*((_PCM, b) for b in (8, 16, 24, 32)), (_FLOAT, 32), (_FLOAT, 64)}:
        kind = _NAMES.get(tag, f"format {tag}") if tag not in (_PCM, _FLOAT) else "numbers"
        raise FileFormatError(
            f"{name!r} holds {kind} of {bits} bits",
            expected="whole numbers of 8, 16, 24 or 32 bits, or floats of 32 or 64",
            fix="convert it: ffmpeg -i in -c:a pcm_s16le out.wav",
        )
    if not 1 <= channels <= _MAX_CHANNELS or not 1 <= rate <= _MAX_RATE or align != channels * bits // 8:
        raise FileFormatError(
            f"{name!r} has an impossible format",
            received=f"{channels} channels, {rate} Hz, {align} bytes a frame of {bits} bits",
            fix="take another copy",
        )
    return tag, channels, rate, bits


def _samples(
    file: BinaryIO, name: str, form: tuple[int, int, int, int], size: int, start: int, frames: int | None
) -> np.ndarray:
    tag, channels, _, bits = form
    align = channels * bits // 8
    begin = file.tell()
    rest = file.seek(0, 2) - begin
    if size in _OPEN and rest != size:  # written to a pipe
        size = rest - rest % align
    if size > rest:
        raise FileFormatError(
            f"{name!r} is truncated: {size:,} bytes of samples are announced and {rest:,} are there",
            fix="take another copy",
        )
    if size % align:
        raise FileFormatError(f"{name!r} ends inside a frame: {size:,} bytes are not frames of {align}")
    total = size // align
    first = min(start, total)
    count = total - first if frames is None else min(frames, total - first)
    file.seek(begin + first * align)
    content = file.read(count * align)
    values: np.ndarray
    if bits == 24:
        wide = np.zeros((count * channels, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        values = wide.view("<i4")[:, 0] / np.float32(2147483648)
    elif tag == _FLOAT:
        values = np.frombuffer(content, f"<f{bits // 8}")
    elif bits == 8:
        values = (np.frombuffer(content, np.uint8) - np.float32(128)) / np.float32(128)
    else:
        values = np.frombuffer(content, f"<i{bits // 8}") / np.float32(1 << (bits - 1))
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values.reshape(count, channels).T, dtype=np.float32)


def write_wav(path, samples, rate: int, encoding: str = "pcm16") -> None:
    """Write samples (channels, frames) or (frames,) as a WAV file of `rate` frames a second. Atomic.

    encoding: "pcm8", "pcm16", "pcm24", "pcm32": round(x·2ᵇ⁻¹), clipped; "float32": as they are.
    Errors: `ArgumentError` for numbers that are not finite, and arguments outside what the format has.
    """
    if encoding not in ENCODINGS:
        raise ArgumentError(f"encoding is one of {', '.join(map(repr, ENCODINGS))}", received=repr(encoding))
    if isinstance(rate, bool) or not isinstance(rate, (int, np.integer)) or not 1 <= rate <= _MAX_RATE:
        raise ArgumentError(f"rate is a whole number from 1 to {_MAX_RATE:,}", received=repr(rate))
    values = samples.numpy() if isinstance(samples, Tensor) else np.asarray(samples)
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2 or not 1 <= len(values) <= _MAX_CHANNELS:
        raise ShapeError("samples are (channels, frames) or (frames,)", received=str(values.shape))
    if values.dtype.kind != "f":
        raise ArgumentError("samples are floats in [-1, 1]", received=str(values.dtype), fix="samples / 32768")
    if not np.isfinite(values).all():
        raise ArgumentError("samples are not finite", fix="check what made them")
    tag, bits = ENCODINGS[encoding]
    frames = values.T
    if tag == _FLOAT:
        body = frames.astype("<f4").tobytes()
    else:
        scale = 1 << (bits - 1)
        whole = np.clip(np.rint(frames.astype(np.float64) * scale), -scale, scale - 1).astype("<i4")
        if bits == 8:
            body = (whole + 128).astype(np.uint8).tobytes()
        elif bits == 24:
            body = np.ascontiguousarray(whole).view(np.uint8).reshape(*whole.shape, 4)[..., :3].tobytes()
        else:
            body = whole.astype(f"<i{bits // 8}").tobytes()
    channels = len(values)
    align = channels * bits // 8
    if len(body) > 0xFFFFFF00:
        raise ArgumentError("a WAV file holds less than 4 GiB", received=f"{len(body):,} bytes", fix="write several")
    form = struct.pack("<HHIIHH", tag, channels, rate, min(rate * align, 0xFFFFFFFF), align, bits)
    pad = b"\0" * (len(body) & 1)
    head = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(body))
    with atomic_write(path) as file:
        file.write(b"RIFF" + struct.pack("<I", len(head) + len(body) + len(pad)) + head + body + pad)
