"""Samples from CSV, NPY, PNG, JPEG and IDX files."""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from deepcore.errors import DataError, FileFormatError, MissingDependencyError, ShapeError
from deepcore.io.files import open_regular
from deepcore.io.foreign import identify
from deepcore.io.idx import read_idx
from deepcore.io.tables import read_numbers

_IMAGES = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"))
_MAX_PIXELS = 1 << 26
#: Pixels allowed for any image, and above that per byte of the file: a few kilobytes could else decode to gigabytes.
_FREE_PIXELS, _PIXELS_PER_BYTE = 1 << 23, 16
_MAX_SCANS = 500  # of a JPEG; progressive ones have about ten
_MAX_PARTS = 10_000  # of an image file, and one more for each kilobyte
_FIX = "give a CSV, NPY, PNG, JPEG or IDX file"


def read_samples(
    path, shape: Sequence[int] | None = None, table: Callable[[str], np.ndarray] = read_numbers
) -> np.ndarray:
    """The samples in a file as float32 of shape (N, *shape); the format is detected from the content.

    CSV: one sample a row, values unchanged; a first row that is not numbers is skipped as column names. NPY and IDX:
    one sample per first index, or a single one: an array of exactly `shape`, or of its size where a row of it is not.
    PNG and JPEG: one sample, rotated by its EXIF orientation; transparent pixels become black around light strokes and
    white elsewhere.
    Eight-bit values (images, and uint8 arrays) become fractions of 255; other numbers are unchanged.

    shape: that of one sample, the network's input. An image becomes grey for 1 channel or a flat square shape,
    RGB for 3, and is resized to it (bilinear); other values must fill the shape exactly. None keeps the shape of
    the file: an image as (1, C, H, W).

    table: reads a CSV file, by its name, to (N, columns).

    Errors: `FileFormatError` for a damaged or unknown file, `DataError` for ragged, empty or non-numeric rows,
    `ShapeError` for samples of another size, `MissingDependencyError` for images without Pillow.
    """
    name = os.fsdecode(path)
    sample_shape = None if shape is None else tuple(int(n) for n in shape)
    with open_regular(path) as file:
        head = file.read(512)
    if any(head.startswith(magic) for magic, _ in _IMAGES):
        return _read_image(name, sample_shape)
    if head.startswith(b"\x93NUMPY"):
        array = _read_npy(name)
    elif head[:2] == b"\0\0" or head.startswith(b"\x1f\x8b"):
        array = read_idx(path)
    elif name.lower().endswith(".npy"):
        raise FileFormatError(f"{name!r} is not an NPY file, whatever its name says", fix=_FIX)
    else:
        identified = identify(head, name)
        if identified is not None:
            raise FileFormatError(f"{name!r} is {identified[0]}, which holds no samples to read", fix=_FIX)
        array = table(name)
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / np.float32(255)
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    return _fit(array, sample_shape, name)


def _fit(array: np.ndarray, shape: tuple[int, ...] | None, name: str) -> np.ndarray:
    single = shape is not None and array.size == math.prod(shape) != math.prod(array.shape[1:])
    if array.shape == shape or (single and array.ndim > 1):
        array = array[None]
    if array.ndim == 0 or len(array) == 0:
        raise DataError(f"{name!r} holds no samples")
    if shape is None:
        return array
    sample = array.shape[1:]
    if math.prod(sample) != math.prod(shape):
        raise ShapeError(
            f"the samples in {name!r} have another size than the network takes",
            expected=f"shape {shape}, {math.prod(shape)} values each",
            received=f"shape {sample}, {math.prod(sample)} values each",
            fix="write one sample per row (CSV) or per first index (NPY, IDX)",
        )
    return np.ascontiguousarray(array.reshape(len(array), *shape))


# -- NPY --------------------------------------------------------------------------------------------
_NPY_LENGTHS = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}  # version: bytes of the header's length
_MAX_NPY_HEADER = 10_000  # numpy.load's own bound
#: The three entries in any order, without spaces.
_NPY_ENTRIES = re.compile(
    r"\{(?:(?:'descr':'([^']{1,32})'|'fortran_order':(True|False)|'shape':\(((?:\d{1,20}L?(?:,\d{1,20}L?)*,?)?)\)),?){3}\}"
)
_NPY_NUMBERS = re.compile(r"[<>|=]?(?:\?|b1|[iu][1248]|f(?:[248]|16))")


def _read_npy(name: str) -> np.ndarray:
    """An NPY array; its header is checked against the file's size before memory is allocated, and never evaluated."""
    with open_regular(name) as file:
        dtype, shape, fortran = _npy_header(file, name)
        size = os.fstat(file.fileno()).st_size - file.tell()
        if len(shape) > 64 or math.prod(n for n in shape if n) * dtype.itemsize >= 1 << 63:
            raise FileFormatError(f"{name!r} is damaged: no array has shape {shape[:64]}", fix="take another copy")
        if math.prod(shape) * dtype.itemsize != size:
            raise FileFormatError(
                f"{name!r} is damaged: shape {shape} of {dtype} takes {math.prod(shape) * dtype.itemsize:,} bytes "
                f"and {size:,} are there",
                fix="take another copy",
            )
        flat = np.frombuffer(file.read(size), dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _npy_header(file, name: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    """(dtype, shape, whether the first index varies fastest) of an NPY file, `file` left at its values."""
    head = file.read(8)
    width = _NPY_LENGTHS.get(head[6:8], 0)
    length = int.from_bytes(file.read(width), "little")
    if head[:6] != b"\x93NUMPY" or not 0 < length <= _MAX_NPY_HEADER:
        raise FileFormatError(f"{name!r} has a bad NPY header: no version known", fix="write it again: numpy.save")
    text = "".join(file.read(length).decode("latin1").split()).replace('"', "'")
    entries = _NPY_ENTRIES.fullmatch(text)
    kind, fortran, sizes = entries.groups() if entries else (None, None, None)
    if kind is None and "'descr':[" in text:
        kind = "records"
    if kind is not None and not _NPY_NUMBERS.fullmatch(kind):
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


# -- images -----------------------------------------------------------------------------------------
def _read_image(name: str, shape: tuple[int, ...] | None) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError:
        raise MissingDependencyError("reading images needs Pillow", fix="pip install pillow") from None
    channels, size = _image_target(shape, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings about odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            data, orientation = _strip_metadata(name)
            with Image.open(io.BytesIO(data), formats=[kind for _, kind in _IMAGES]) as image:
                _check_image(image, data, name)
                if channels is None:
                    channels = 1 if image.mode in ("1", "L", "LA", "I;16", "I") else 3
                grey: Image.Image = (
                    image.transpose(Image.Transpose[_TURNS[orientation]]) if orientation in _TURNS else image
                )
                if "A" in grey.getbands() or "transparency" in grey.info:
                    grey = _opaque(grey)
                if image.mode in ("I;16", "I"):  # 16-bit grey: Pillow's own conversion clips
                    wide = np.asarray(grey).astype(np.float32) / np.float32(257)
                    grey = Image.fromarray(np.rint(wide).clip(0, 255).astype(np.uint8))
                picture = grey.convert("L" if channels == 1 else "RGB")
                if size is not None and picture.size != size:
                    picture = picture.resize(size, Image.Resampling.BILINEAR)
                pixels = np.asarray(picture)
    except FileFormatError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FileFormatError(f"{name!r} cannot be decoded: {error}", fix="scale it down") from None
    except Exception as error:  # decoders raise errors of any type
        reason = str(error).partition(" <_io")[0]
        raise FileFormatError(f"{name!r} cannot be decoded: {reason}", fix="take another copy") from None
    values = np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)).astype(np.float32)
    values /= np.float32(255)
    return values.reshape(1, *(values.shape if shape is None else shape))


def _check_image(image, data: bytes, name: str) -> None:
    """Raise for an image that would take too much time or memory, from its header, before decoding."""
    width, height = image.size
    size = os.path.getsize(name)
    maximum = min(_MAX_PIXELS, max(_FREE_PIXELS, _PIXELS_PER_BYTE * size))
    if width * height > maximum:
        raise FileFormatError(
            f"{name!r} is too large an image: {width:,} × {height:,} pixels in {size:,} bytes",
            expected=f"at most {maximum:,} pixels",
            fix="scale it down",
        )
    scans = data.count(b"\xff\xda") if image.format == "JPEG" else 0
    if scans > _MAX_SCANS:
        raise FileFormatError(
            f"{name!r} has {scans:,} scans", expected=f"at most {_MAX_SCANS}", fix="save the image again"
        )


#: EXIF orientation → how to transpose the image.
_TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip


def _strip_metadata(name: str) -> tuple[bytes, int]:
    """(the parts of an image file that the decoder needs, the EXIF orientation): metadata never reaches the decoder.

    Texts, profiles and EXIF data unpack to many times their size, and a million empty parts take seconds.
    """
    with open_regular(name) as file:
        data = file.read()
    parts = _png_parts(data) if data.startswith(_IMAGES[0][0]) else _jpeg_parts(data)
    max_parts, orientation = _MAX_PARTS + (len(data) >> 10), 0
    spans: list[tuple[int, int]] = []
    for count, (begin, end, exif) in enumerate(parts):
        if count > max_parts:
            raise FileFormatError(
                f"{name!r} has more than {max_parts:,} parts", expected="an image", fix="save the image again"
            )
        if exif is not None:
            orientation = orientation or _orientation(data[exif : min(end, exif + (1 << 16))])
        elif spans and spans[-1][1] == begin:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((begin, end))
    if len(spans) == 1:
        return data[slice(*spans[0])], orientation
    return b"".join([memoryview(data)[begin:end] for begin, end in spans]), orientation


#: The chunks that the decoder needs.
_PNG_CHUNKS = frozenset([b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"])


def _png_parts(data: bytes) -> Iterator[tuple[int, int, int | None]]:
    """Yield (begin, end, None) of parts that the decoder needs; else (begin, end, offset of EXIF data, or end)."""
    yield 0, 8, None
    at = 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        yield at, end, None if kind in _PNG_CHUNKS else at + 8 if kind == b"eXIf" else end
        at = end


def _jpeg_parts(data: bytes) -> Iterator[tuple[int, int, int | None]]:
    """As `_png_parts`. Everything from the first scan on is one part."""
    yield 0, 2, None
    at = 2
    while (at := data.find(b"\xff", at)) >= 0:
        match = _FILL.match(data, at)
        assert match is not None
        at = match.end()  # where the marker's second byte is
        kind = data[at] if at < len(data) else 0xD9
        if kind == 0 or kind == 1 or 0xD0 <= kind <= 0xD8:  # without a length
            continue
        if kind in (0xD9, 0xDA):
            yield at - 1, len(data), None
            return
        end = at + 1 + max(2, int.from_bytes(data[at + 1 : at + 3], "big"))
        note = (0xE1 <= kind <= 0xEF and kind != 0xEE) or kind == 0xFE  # not JFIF's and Adobe's
        exif = kind == 0xE1 and data[at + 3 : at + 9] == b"Exif\0\0"
        yield at - 1, end, (at + 9 if exif else end) if note else None
        at = end


_FILL = re.compile(b"\xff+")


def _orientation(exif: bytes) -> int:
    """The orientation in EXIF data, a TIFF header and its first directory; 0 where there is none."""
    exif = exif.removeprefix(b"Exif\0\0")
    order: Literal["little", "big"] = "little" if exif[:2] == b"II" else "big"
    start = int.from_bytes(exif[4:8], order)
    count = int.from_bytes(exif[start : start + 2], order)
    for at in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        if int.from_bytes(exif[at : at + 2], order) == 0x0112:
            size = {3: 2, 4: 4}.get(int.from_bytes(exif[at + 2 : at + 4], order), 0)
            return int.from_bytes(exif[at + 8 : at + 8 + size], order)
    return 0


def _opaque(image):
    """A transparent image over black or white, whichever contrasts with its strokes."""
    from PIL import Image

    image = image.convert("RGBA")
    pixels = np.asarray(image.convert("LA"))
    total = weight = 0
    for start in range(0, len(pixels), 64):  # int64 for 64 rows at a time, to bound memory
        grey, alpha = np.moveaxis(pixels[start : start + 64].astype(np.int64), -1, 0)
        total, weight = total + int((grey * alpha).sum()), weight + int(alpha.sum())
    light = 2 * total > 255 * weight
    ground = Image.new("RGBA", image.size, "black" if light else "white")
    return Image.alpha_composite(ground, image).convert("RGB")


def _image_target(shape: tuple[int, ...] | None, name: str) -> tuple[int | None, tuple[int, int] | None]:
    """(channels, (width, height)) that an image must have to fill `shape`."""
    if shape is None:
        return None, None
    if len(shape) == 3 and shape[0] in (1, 3):
        return shape[0], (shape[2], shape[1])
    if len(shape) == 2:
        return 1, (shape[1], shape[0])
    side = math.isqrt(shape[0]) if len(shape) == 1 else 0
    if side and side * side == shape[0]:
        return 1, (side, side)
    raise ShapeError(
        f"an image ({name!r}) does not fill a sample of shape {shape}",
        expected="(1, H, W), (3, H, W), (H, W) or a flat square",
        fix="give the network's input as CSV or NPY",
    )
