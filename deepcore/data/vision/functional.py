"""Functions of one image: a PIL image, a NumPy array (H, W) or (H, W, C), or a tensor (…, C, H, W).

Each returns what it was given. 8-bit arrays of 1, 3 or 4 channels are computed as PIL images, and arrays of other numbers
as tensors; formulas are torchvision's. Numbers of floating-point images are in [0, 1].
"""

from __future__ import annotations

import enum
import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.io.images import pillow
from deepcore.nn import functional as F
from deepcore.ops.shape import stack
from deepcore.tensor import Tensor, from_raw


class InterpolationMode(enum.Enum):
    """How pixels between pixels are computed; functions also take the value, such as "bilinear"."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


#: `InterpolationMode` → Pillow's name.
_RESAMPLING = {
    "nearest": "NEAREST", "nearest-exact": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC", "box": "BOX",
    "hamming": "HAMMING", "lanczos": "LANCZOS",
}  # fmt: skip
PADDING_MODES = {"constant": "constant", "edge": "edge", "reflect": "reflect", "symmetric": "symmetric"}


def _mode(interpolation) -> str:
    name = getattr(interpolation, "value", interpolation)
    if name not in _RESAMPLING:
        raise ArgumentError(
            "there is no such interpolation", expected=", ".join(map(repr, _RESAMPLING)), received=repr(interpolation)
        )
    return name


def _resampling(interpolation):
    return pillow().Resampling[_RESAMPLING[_mode(interpolation)]]


# -- kinds of images ----------------------------------------------------------------------------------
def kind_of(image) -> str:
    """ "pil", "array" or "tensor". Errors: `ArgumentError` for anything else, `ShapeError` for a wrong number of dimensions."""
    if isinstance(image, Tensor):
        if image.ndim < 2:
            raise ShapeError("an image tensor is (…, C, H, W)", received=str(tuple(image.shape)))
        return "tensor"
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3):
            raise ShapeError("an image array is (H, W) or (H, W, C)", received=str(image.shape))
        return "array"
    module = sys.modules.get("PIL.Image")
    if module is not None and isinstance(image, module.Image):
        return "pil"
    raise ArgumentError(
        "this is no image",
        expected="a PIL image, an array (H, W, C), or a tensor (C, H, W)",
        received=type(image).__name__,
        fix="ImageFolder(root) reads files as PIL images",
    )


def get_dimensions(image) -> tuple[int, int, int]:
    """(channels, height, width)."""
    kind = kind_of(image)
    if kind == "pil":
        return len(image.getbands()), image.height, image.width
    if kind == "array":
        return image.shape[2] if image.ndim == 3 else 1, *image.shape[:2]
    return image.shape[-3] if image.ndim > 2 else 1, *image.shape[-2:]


def as_pil(array: np.ndarray) -> Any:
    """An 8-bit array (H, W), or (H, W, C) of 1, 3 or 4 channels, as a PIL image."""
    return pillow().fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))


def _of_array(array: np.ndarray, function: Callable) -> np.ndarray:
    """`function` of an array: of the PIL image of 8-bit arrays, else of the tensor."""
    if array.dtype == np.uint8 and array.shape[2:] in ((), (1,), (3,), (4,)):
        out = np.asarray(function(as_pil(array)))
        return out[..., None] if array.ndim == 3 and out.ndim == 2 else out
    planes = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    out = function(from_raw(np.ascontiguousarray(planes), get_backend("cpu"))).numpy()
    return out[0] if array.ndim == 2 else out.transpose(1, 2, 0)


def _from_array(pil, array: np.ndarray):
    """The array as an image like `pil`."""
    out = as_pil(array)
    return out if out.mode == pil.mode else out.convert(pil.mode)


# -- conversions --------------------------------------------------------------------------------------
def _channels_first(image) -> np.ndarray:
    array = np.asarray(image)
    if array.dtype == np.bool_ and kind_of(image) == "pil":  # mode "1"
        array = array.astype(np.uint8) * np.uint8(255)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def to_tensor(image) -> Tensor:
    """A PIL image or an array (H, W, C) as a tensor (C, H, W): 8-bit numbers as float32, divided by 255, others as they are."""
    kind = kind_of(image)
    if kind == "tensor":
        raise ArgumentError("to_tensor takes a PIL image or an array", received="a tensor", fix="leave it out")
    planes = _channels_first(image)
    if planes.dtype == np.uint8:
        out = np.empty(planes.shape, np.float32)
        np.divide(planes, np.float32(255), out=out)
    else:
        out = np.array(planes, order="C")
    return from_raw(out, get_backend("cpu"))


def pil_to_tensor(image) -> Tensor:
    """A PIL image or an array (H, W, C) as a tensor (C, H, W) of the same numbers."""
    return from_raw(np.array(_channels_first(image), order="C"), get_backend("cpu"))


def to_pil_image(image):
    """A tensor (C, H, W) or (H, W), or an array, as a PIL image; floating-point numbers times 255, rounded down."""
    kind = kind_of(image)
    if kind == "pil":
        return image
    if kind == "tensor":
        array = image.numpy()
        if array.ndim not in (2, 3):
            raise ShapeError("one image is (C, H, W)", received=str(array.shape))
        array = array if array.ndim == 2 else array.transpose(1, 2, 0)
    else:
        array = image
    if array.dtype.kind == "f":
        array = (array * 255).clip(0, 255).astype(np.uint8)
    if array.dtype != np.uint8 or array.shape[2:] not in ((), (1,), (2,), (3,), (4,)):
        raise DTypeError(
            "this does not become a PIL image",
            expected="uint8 or floats, 1 to 4 channels",
            received=f"{array.dtype} {array.shape}",
        )
    return as_pil(array)


def convert_image_dtype(image: Tensor, dtype=dt.float32) -> Tensor:
    """A tensor in another dtype, [0, 1] in floats and [0, 255] in uint8; floats become ⌊x·(256 - 10⁻³)⌋."""
    dtype = np.dtype(dtype)
    if image.dtype == dtype:
        return image
    if image.dtype.kind == "f" or image.dtype == dt.bfloat16:
        if dtype == np.uint8:
            return (image * (256.0 - 1e-3)).to(dtype)
        return image.to(dtype)
    if image.dtype == np.uint8 and (dtype.kind == "f" or dtype == dt.bfloat16):
        return image.to(dtype) / 255
    raise DTypeError("images are uint8 or floats", received=f"{image.dtype} to {dtype}")


@functools.lru_cache(maxsize=64)
def _statistics(values: tuple[float, ...], dtype, backend) -> Tensor:
    return from_raw(backend.from_host(np.array(values, dtype).reshape(-1, 1, 1)), backend)


def normalize(image, mean: Sequence[float], std: Sequence[float], inplace: bool = False):
    """(image - mean) / std by channel, of floating-point tensors (…, C, H, W) and arrays (H, W, C)."""
    kind = kind_of(image)
    if kind == "pil" or not (image.dtype.kind == "f" or image.dtype == dt.bfloat16):
        raise DTypeError(
            "normalize takes floating-point numbers",
            received="a PIL image" if kind == "pil" else str(image.dtype),
            fix="ToTensor() before Normalize(…), or ConvertImageDtype() of tensors",
        )
    if not all(std):
        raise ArgumentError("normalize divides by std", expected="no zeros", received=f"std={tuple(std)}")
    channels = get_dimensions(image)[0]
    if any(len(values) not in (1, channels) for values in (mean, std)):
        raise ArgumentError(
            f"normalize takes a mean and std for each of the {channels} channels",
            received=f"{len(mean)} and {len(std)}",
        )
    if kind == "array":
        out = np.subtract(image, np.array(mean, image.dtype), out=image if inplace else None)
        out /= np.array(std, image.dtype)
        return out
    shift, scale = (_statistics(tuple(map(float, values)), image.dtype, image.backend) for values in (mean, std))
    return image.sub_(shift).div_(scale) if inplace else (image - shift) / scale


# -- geometry -----------------------------------------------------------------------------------------
def hflip(image):
    """The image mirrored left to right."""
    kind = kind_of(image)
    if kind == "pil":
        return image.transpose(pillow().Transpose.FLIP_LEFT_RIGHT)
    return image[:, ::-1] if kind == "array" else image.flip(-1)


def vflip(image):
    """The image mirrored top to bottom."""
    kind = kind_of(image)
    if kind == "pil":
        return image.transpose(pillow().Transpose.FLIP_TOP_BOTTOM)
    return image[::-1] if kind == "array" else image.flip(-2)


def _padding(padding) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of one number, (horizontal, vertical) or all four."""
    sizes = [padding] if isinstance(padding, (int, np.integer)) else list(padding)
    if len(sizes) not in (1, 2, 4) or any(isinstance(n, bool) or int(n) != n or n < 0 for n in sizes):
        raise ArgumentError("padding is 1, 2 or 4 whole numbers of at least 0", received=repr(padding))
    left, top, right, bottom = (int(n) for n in sizes * (4 // len(sizes)))
    return left, top, right, bottom


def pad(image, padding, fill: float | Sequence[float] = 0, padding_mode: str = "constant"):
    """The image with a border: `padding` is that of all sides, (left and right, top and bottom), or (left, top, right, bottom).

    padding_mode: "constant" (`fill`, a number or one for each channel), "edge", "reflect" (without the last pixel) or
    "symmetric" (with it).
    """
    if padding_mode not in PADDING_MODES:
        raise ArgumentError(
            "there is no such padding_mode", expected=", ".join(map(repr, PADDING_MODES)), received=repr(padding_mode)
        )
    left, top, right, bottom = _padding(padding)
    if not any((left, top, right, bottom)):
        return image
    channels, height, width = get_dimensions(image)
    if padding_mode == "reflect" and (max(left, right) >= width or max(top, bottom) >= height):
        raise ArgumentError("reflect pads by less than the image's size", received=f"{padding} of {height}×{width}")
    kind = kind_of(image)
    if kind == "pil":
        return _from_array(image, pad(np.asarray(image), padding, fill, padding_mode))
    if padding_mode != "constant":
        rows, columns = (
            np.pad(np.arange(size), around, mode=PADDING_MODES[padding_mode])  # type: ignore[call-overload]
            for size, around in ((height, (top, bottom)), (width, (left, right)))
        )
        if kind == "array":
            return image[rows[:, None], columns]
        for dim, index in ((-2, rows), (-1, columns)):
            image = image.index_select(dim, from_raw(image.backend.from_host(index), image.backend))
        return image
    values = [fill] if isinstance(fill, (int, float)) else list(fill)
    if len(values) not in (1, channels):
        raise ArgumentError(f"fill is one number, or one for each of the {channels} channels", received=repr(fill))
    size = (height + top + bottom, width + left + right)
    if kind == "array":
        out = np.empty((*size, *image.shape[2:]), image.dtype)
        out[...] = values if image.ndim == 3 else values[0]
        out[top : top + height, left : left + width] = image
        return out
    out = image.new_empty((*image.shape[:-2], *size))
    for c, value in enumerate(values):
        if len(values) == 1:
            out.fill_(value)
        else:
            out[..., c, :, :] = value
    out[..., top : top + height, left : left + width] = image
    return out


def crop(image, top: int, left: int, height: int, width: int):
    """The pixels from (top, left) on; 0 where they are outside the image."""
    kind = kind_of(image)
    if kind == "pil":
        return image.crop((left, top, left + width, top + height))
    _, h, w = get_dimensions(image)
    outside = (max(-left, 0), max(-top, 0), max(left + width - w, 0), max(top + height - h, 0))
    if any(outside):
        image = pad(image, outside)
        left, top = left + outside[0], top + outside[1]
    rows, columns = slice(top, top + height), slice(left, left + width)
    return image[rows, columns] if kind == "array" else image[..., rows, columns]


def pair(size, name: str = "size") -> tuple[int, int]:
    """(height, width) of one number, for both, or two."""
    sizes = [size] if isinstance(size, (int, np.integer)) else list(size)
    if len(sizes) not in (1, 2) or any(isinstance(n, bool) or int(n) != n or n < 1 for n in sizes):
        raise ArgumentError(f"{name} is a whole number of at least 1, or (height, width)", received=repr(size))
    return int(sizes[0]), int(sizes[-1])


def center_crop(image, output_size):
    """The middle of the image, (height, width); a smaller image is padded with 0."""
    height, width = pair(output_size, "output_size")
    _, h, w = get_dimensions(image)
    if h < height or w < width:
        across, down = max(width - w, 0), max(height - h, 0)
        image = pad(image, (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2))
        _, h, w = get_dimensions(image)
    return crop(image, round((h - height) / 2), round((w - width) / 2), height, width)


def resized(height: int, width: int, size, max_size: int | None = None) -> tuple[int, int]:
    """(height, width) of an image resized to `size`: the smaller edge if that is one number."""
    one = isinstance(size, (int, np.integer)) or len(size) == 1
    if not one:
        if max_size is not None:
            raise ArgumentError("max_size is for a size of one number, the smaller edge", received=f"{size=}")
        return pair(size)
    small = pair(size)[0]
    short, long = min(height, width), max(height, width)
    new_short, new_long = small, int(small * long / short)
    if max_size is not None:
        if max_size <= small:
            raise ArgumentError("max_size is more than size", received=f"size={small}, max_size={max_size}")
        if new_long > max_size:
            new_short, new_long = int(max_size * new_short / new_long), max_size
    new_short = max(new_short, 1)
    return (new_short, new_long) if height <= width else (new_long, new_short)


def resize(image, size, interpolation=InterpolationMode.BILINEAR, max_size: int | None = None, antialias: bool = True):
    """The image in another size: (height, width), or one number for its smaller edge, then the larger at most `max_size`.

    A smaller image averages all pixels that it stands for (`antialias`, which PIL images always do).
    Tensors: "nearest", "nearest-exact", "bilinear", "bicubic"; 8-bit ones are computed in float32 and rounded.
    """
    mode = _mode(interpolation)
    _, h, w = get_dimensions(image)
    height, width = resized(h, w, size, max_size)
    if (height, width) == (h, w):
        return image
    kind = kind_of(image)
    if kind == "pil":
        return image.resize((width, height), _resampling(mode))
    if kind == "array":
        return _of_array(image, lambda x: resize(x, (height, width), mode, None, antialias))
    if mode not in ("nearest", "nearest-exact", "bilinear", "bicubic"):
        raise ArgumentError("tensors have no such interpolation", received=repr(mode), fix="resize before ToTensor()")
    smooth = mode in ("bilinear", "bicubic")
    planes = image.reshape(-1, 1, h, w)
    whole = image.dtype.kind in "iu"
    out = F.interpolate(planes.float() if whole else planes, (height, width), mode=mode, antialias=antialias and smooth)
    if whole:
        limits = np.iinfo(image.dtype)
        out = out.round().clamp(limits.min, limits.max).to(image.dtype)
    return out.reshape(*image.shape[:-2], height, width)


def resized_crop(
    image, top: int, left: int, height: int, width: int, size, interpolation=InterpolationMode.BILINEAR, antialias=True
):
    """`crop`, then `resize` to (height, width) `size`."""
    return resize(crop(image, top, left, height, width), pair(size), interpolation, None, antialias)


def rotate(
    image,
    angle: float,
    interpolation=InterpolationMode.NEAREST,
    expand: bool = False,
    center: Sequence[float] | None = None,
    fill: float | Sequence[float] = 0,
):
    """The image turned counter-clockwise by `angle` degrees, around its middle or `center` (x, y).

    expand: the result is so large that it has all of the image, turned around its middle. fill: of what is outside.
    interpolation: "nearest", "bilinear", and of PIL images "bicubic".
    """
    mode = _mode(interpolation)
    kind = kind_of(image)
    if kind == "pil":
        bands = len(image.getbands())
        colour = tuple(int(v) for v in ([fill] * bands if isinstance(fill, (int, float)) else fill))
        return image.rotate(
            angle,
            _resampling(mode),
            expand=expand,
            center=None if center is None else tuple(center),
            fillcolor=colour[0] if bands == 1 else colour,
        )
    if kind == "array":
        return _of_array(image, lambda x: rotate(x, angle, mode, expand, center, fill))
    if mode not in ("nearest", "bilinear"):
        raise ArgumentError("tensors turn by 'nearest' or 'bilinear'", received=repr(mode))
    channels, h, w = get_dimensions(image)
    quarters = angle / 90 % 4
    if center is None and quarters % 1 == 0 and (quarters % 2 == 0 or expand or h == w):
        return image.rot90(int(quarters), (-2, -1))  # exact, as Pillow does
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    height, width = h, w
    if expand:
        across = max(abs(cos * w + sign * sin * h) / 2 for sign in (1, -1))
        down = max(abs(sin * w + sign * cos * h) / 2 for sign in (1, -1))
        width, height = (_enclosing(size, extent) for size, extent in ((w, across), (h, down)))
    cx, cy = (0.0, 0.0) if center is None or expand else (center[0] - w / 2, center[1] - h / 2)
    x = np.arange(width) - width / 2 + 0.5 - cx
    y = (np.arange(height) - height / 2 + 0.5 - cy)[:, None]
    source = (cos * x - sin * y + cx) / (w / 2), (sin * x + cos * y + cy) / (h / 2)
    grid = np.stack(source, axis=-1).astype(np.float32)
    planes = image.reshape(-1, channels, h, w)
    whole = image.dtype.kind in "iu"
    planes = planes.float() if whole else planes
    where = from_raw(image.backend.from_host(grid[None]), image.backend).expand(planes.shape[0], -1, -1, -1)
    where = where.to(planes.dtype)
    out = F.grid_sample(planes, where, mode=mode, padding_mode="zeros", align_corners=False)
    values = [fill] if isinstance(fill, (int, float)) else list(fill)
    if any(values):
        inside = F.grid_sample(planes.new_ones((1, 1, h, w)), where[:1], mode=mode, align_corners=False)
        colour = planes.new_tensor(values).reshape(-1, 1, 1)
        out = out + colour * (1 - inside) if mode == "bilinear" else out.where(inside >= 0.5, colour)
    if whole:
        out = out.round().to(image.dtype)
    return out.reshape(*image.shape[:-2], height, width)


def _enclosing(size: int, extent: float) -> int:
    """Whole pixels that have size/2 ± extent, cut to 10⁻⁴, so that a quarter turn adds none."""
    low, high = (math.trunc((size / 2 + e) * 1e4) / 1e4 for e in (-extent, extent))
    return math.ceil(high) - math.floor(low)


# -- colours ------------------------------------------------------------------------------------------
def _bound(image: Tensor) -> float:
    return 255.0 if image.dtype == np.uint8 else 1.0


def _blend(image: Tensor, other, factor: float) -> Tensor:
    """factor·image + (1 - factor)·other, within the image's bounds; 8-bit numbers are cut to whole ones."""
    own = image.float() if image.dtype == np.uint8 else image
    return (own * factor + other * (1.0 - factor)).clamp(0, _bound(image)).to(image.dtype)


def _factor(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not value >= 0:
        raise ArgumentError(f"{name} is a number of at least 0", received=repr(value))
    return float(value)


def _enhanced(image, name: str, factor: float):
    from PIL import ImageEnhance

    return getattr(ImageEnhance, name)(image).enhance(factor)


def _rgb(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if image.ndim < 3 or image.shape[-3] != 3:
        raise ShapeError("colours are those of tensors (…, 3, H, W)", received=str(tuple(image.shape)))
    return image[..., 0, :, :], image[..., 1, :, :], image[..., 2, :, :]


def rgb_to_grayscale(image, num_output_channels: int = 1):
    """0.2989·red + 0.587·green + 0.114·blue, in 1 or 3 equal channels; PIL images: Pillow's conversion to "L"."""
    if num_output_channels not in (1, 3):
        raise ArgumentError("num_output_channels is 1 or 3", received=repr(num_output_channels))
    kind = kind_of(image)
    if kind == "pil":
        grey = image.convert("L")
        return grey if num_output_channels == 1 else pillow().merge("RGB", [grey] * 3)
    if kind == "array":
        if image.ndim == 2 or image.shape[2] == 1:
            return np.repeat(image.reshape(*image.shape[:2], 1), num_output_channels, 2)
        out = _of_array(image, rgb_to_grayscale)
        return out if num_output_channels == 1 else np.repeat(out.reshape(*out.shape[:2], 1), 3, 2)
    if image.shape[-3] == 1:
        grey = image
    else:
        red, green, blue = _rgb(image.float() if image.dtype == np.uint8 else image)
        grey = (red * 0.2989 + green * 0.587 + blue * 0.114).to(image.dtype).unsqueeze(-3)
    return grey if num_output_channels == 1 else grey.expand(*image.shape[:-3], 3, *image.shape[-2:])


def adjust_brightness(image, brightness_factor: float):
    """brightness_factor·image: 0 is black, 1 the image."""
    factor = _factor("brightness_factor", brightness_factor)
    kind = kind_of(image)
    if kind == "pil":
        return _enhanced(image, "Brightness", factor)
    if kind == "array":
        return _of_array(image, lambda x: adjust_brightness(x, factor))
    return _blend(image, 0.0, factor)


def adjust_contrast(image, contrast_factor: float):
    """contrast_factor·image + (1 - contrast_factor)·(mean of the grey image): 0 is grey, 1 the image."""
    factor = _factor("contrast_factor", contrast_factor)
    kind = kind_of(image)
    if kind == "pil":
        return _enhanced(image, "Contrast", factor)
    if kind == "array":
        return _of_array(image, lambda x: adjust_contrast(x, factor))
    grey = rgb_to_grayscale(image)
    grey = grey.float() if image.dtype == np.uint8 else grey
    return _blend(image, grey.mean((-3, -2, -1), keepdim=True), factor)


def adjust_saturation(image, saturation_factor: float):
    """saturation_factor·image + (1 - saturation_factor)·(the grey image): 0 is without colour, 1 the image."""
    factor = _factor("saturation_factor", saturation_factor)
    kind = kind_of(image)
    if kind == "pil":
        return _enhanced(image, "Color", factor)
    if kind == "array":
        return _of_array(image, lambda x: adjust_saturation(x, factor))
    if image.shape[-3] == 1:
        return image
    grey = rgb_to_grayscale(image)
    return _blend(image, grey.float() if image.dtype == np.uint8 else grey, factor)


def adjust_hue(image, hue_factor: float):
    """The image with its hue turned by `hue_factor` of a circle, -½ to ½, in HSV; grey images stay."""
    if not isinstance(hue_factor, (int, float)) or not -0.5 <= hue_factor <= 0.5:
        raise ArgumentError("hue_factor is between -0.5 and 0.5", received=repr(hue_factor))
    kind = kind_of(image)
    if kind == "pil":
        if image.mode in ("L", "1", "I", "F"):
            return image
        bands = image.convert("HSV").split()
        moved = np.asarray(bands[0]) + np.uint8(int(hue_factor * 255) % 256)
        return pillow().merge("HSV", (pillow().fromarray(moved), *bands[1:])).convert(image.mode)
    if kind == "array":
        if image.ndim == 2 or image.shape[2] == 1:
            return image
        return _of_array(image, lambda x: adjust_hue(x, hue_factor))
    if image.shape[-3] == 1:
        return image
    hue, saturation, value = _to_hsv(convert_image_dtype(image) if image.dtype == np.uint8 else image)
    turned = (hue + hue_factor) % 1.0
    return convert_image_dtype(_to_rgb(turned, saturation, value), image.dtype)


def _to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    red, green, blue = _rgb(image)
    value, least = image.amax(-3), image.amin(-3)
    spread = value - least
    grey = spread == 0
    saturation = spread / value.masked_fill(grey, 1.0)
    divisor = spread.masked_fill(grey, 1.0)
    r, g, b = ((value - channel) / divisor for channel in (red, green, blue))
    is_red = value == red
    is_green = (value == green) & ~is_red
    hue = (b - g).where(is_red, (r - b + 2.0).where(is_green, g - r + 4.0))
    return (hue / 6.0 + 1.0) % 1.0, saturation, value


def _to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    sector = (hue * 6.0).floor()
    part = hue * 6.0 - sector
    p = (value * (1.0 - saturation)).clamp(0.0, 1.0)
    q = (value * (1.0 - saturation * part)).clamp(0.0, 1.0)
    t = (value * (1.0 - saturation * (1.0 - part))).clamp(0.0, 1.0)
    sector = sector.to(dt.int64) % 6
    channels = []
    for choices in ((value, q, p, p, t, value), (t, value, value, q, p, p), (p, p, t, value, value, q)):
        channel = choices[5]
        for i in range(5):
            channel = choices[i].where(sector == i, channel)
        channels.append(channel)
    return stack(channels, -3)


def erase(image, top: int, left: int, height: int, width: int, value, inplace: bool = False):
    """The image with `value` in a rectangle: a number, one for each channel, or an array of it."""
    kind = kind_of(image)
    if kind == "pil":
        return _from_array(image, erase(np.array(image), top, left, height, width, value, True))
    rows, columns = slice(top, top + height), slice(left, left + width)
    if kind == "array":
        out = image if inplace else image.copy()
        out[rows, columns] = value
        return out
    out = image if inplace else image.clone()
    if not isinstance(value, Tensor):
        value = image.new_tensor(value)
        value = value.reshape(-1, 1, 1) if value.ndim == 1 else value
    out[..., rows, columns] = value
    return out
