"""Samples from CSV, NPY, PNG, JPEG and IDX files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

import numpy as np

from deepcore.errors import DataError, FileFormatError, ShapeError
from deepcore.io import images
from deepcore.io.files import open_regular
from deepcore.io.foreign import identify
from deepcore.io.idx import read_idx
from deepcore.io.npy import read_npy
from deepcore.io.tables import read_numbers

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
    if head.startswith((images.PNG, images.JPEG)):
        return _read_image(name, sample_shape)
    if head.startswith(b"\x93NUMPY"):
        array = read_npy(name)
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


def _read_image(name: str, shape: tuple[int, ...] | None) -> np.ndarray:
    channels, size = _image_target(shape, name)
    pixels = images.read_pixels(name, channels, size)
    values = np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)).astype(np.float32)
    values /= np.float32(255)
    return values.reshape(1, *(values.shape if shape is None else shape))


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
