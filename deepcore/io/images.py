"""Images in files, by Pillow: size and structure are checked before anything is decoded, and metadata never is."""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from deepcore.errors import DeepcoreError, FileFormatError, MissingDependencyError
from deepcore.io.files import open_regular

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
#: Pillow's names of the formats that `open_image` reads.
FORMATS = ("PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP")
_MAX_BYTES, _MAX_PIXELS = 1 << 28, 1 << 26
#: Pixels allowed for any image, and above that per byte of the file: a few kilobytes could else decode to gigabytes.
_FREE_PIXELS, _PIXELS_PER_BYTE = 1 << 23, 16
_MAX_SCANS = 500  # of a JPEG; progressive ones have about ten
_MAX_PARTS = 10_000  # of an image file, and one more for each kilobyte


def pillow() -> Any:
    """The module `PIL.Image`. Errors: `MissingDependencyError`."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingDependencyError("reading images needs Pillow", fix="pip install pillow") from None
    return Image


def open_image(path, mode: str | None = "RGB", upright: bool = False) -> Any:
    """The image of a PNG, JPEG, PPM, BMP, TIFF or WebP file, decoded, as a `PIL.Image.Image`.

    mode: Pillow's, to convert to; None leaves the file's. upright: apply the EXIF orientation, which PyTorch's
    `ImageFolder` does not.
    Errors: `FileFormatError` for a file that is no image, damaged, or of too many pixels for its size.
    """
    with _decoding(path, FORMATS) as (image, orientation):
        if upright and orientation in _TURNS:
            image = image.transpose(pillow().Transpose[_TURNS[orientation]])
        image.load()
        return image if mode is None or image.mode == mode else image.convert(mode)


def read_pixels(path, channels: int | None, size: tuple[int, int] | None) -> np.ndarray:
    """The pixels of a PNG or JPEG, (H, W) or (H, W, 3) uint8, upright; transparency over black or white.

    channels: 1, 3, or None for the file's own; size: (width, height) to resize to (bilinear).
    """
    Image = pillow()
    with _decoding(path, ("PNG", "JPEG")) as (image, orientation):
        if channels is None:
            channels = 1 if image.mode in ("1", "L", "LA", "I;16", "I") else 3
        grey = image.transpose(Image.Transpose[_TURNS[orientation]]) if orientation in _TURNS else image
        if "A" in grey.getbands() or "transparency" in grey.info:
            grey = _opaque(grey)
        if image.mode in ("I;16", "I"):  # 16-bit grey: Pillow's own conversion clips
            wide = np.asarray(grey).astype(np.float32) / np.float32(257)
            grey = Image.fromarray(np.rint(wide).clip(0, 255).astype(np.uint8))
        picture = grey.convert("L" if channels == 1 else "RGB")
        if size is not None and picture.size != size:
            picture = picture.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(picture)


@contextlib.contextmanager
def _decoding(path, formats: tuple[str, ...]) -> Iterator[tuple[Any, int]]:
    """The opened image and its EXIF orientation; anything that Pillow raises meanwhile becomes a typed error."""
    Image, name = pillow(), os.fsdecode(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings about odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            data, orientation = _strip_metadata(name)
            with Image.open(io.BytesIO(data), formats=formats) as image:
                _check_image(image, data, name)
                yield image, orientation
    except DeepcoreError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FileFormatError(f"{name!r} cannot be decoded: {error}", fix="scale it down") from None
    except Image.UnidentifiedImageError:
        fix = f"take another copy; these formats can be read: {', '.join(formats)}"
        raise FileFormatError(f"{name!r} cannot be decoded: it is no image of a known format", fix=fix) from None
    except Exception as error:  # decoders raise errors of any type
        reason = str(error).partition(" <_io")[0]
        raise FileFormatError(f"{name!r} cannot be decoded: {reason}", fix="take another copy") from None


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
        size = os.fstat(file.fileno()).st_size
        data = file.read(size) if size <= _MAX_BYTES else b""  # Python allocates what it is told to read
    if size > _MAX_BYTES:
        raise FileFormatError(f"{name!r} is no image of a usual size", expected=f"at most {_MAX_BYTES:,} bytes")
    if not data.startswith((PNG, JPEG)):
        return data, 0
    parts = _png_parts(data) if data.startswith(PNG) else _jpeg_parts(data)
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
