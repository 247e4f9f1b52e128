"""Transforms of images under torchvision's names: of PIL images, arrays (H, W, C) and tensors (…, C, H, W).

Random ones draw from deepcore's default generator, so that a `DataLoader` gives the same batches with any number of
workers. Without a tensor in between, decoding and geometry work on 8-bit pixels; `ToTensor` makes the one float copy.
`MixUp` and `CutMix` take batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.data.vision import functional
from deepcore.data.vision.functional import InterpolationMode
from deepcore.data.vision.mixing import CutMix, MixUp
from deepcore.errors import ArgumentError
from deepcore.random import random_bits, raw_integers, raw_normal, raw_uniform
from deepcore.tensor import Tensor, from_raw

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "ConvertImageDtype",
    "CutMix",
    "Grayscale",
    "InterpolationMode",
    "Lambda",
    "MixUp",
    "Normalize",
    "PILToTensor",
    "Pad",
    "RandomApply",
    "RandomChoice",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomOrder",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
    "ToPILImage",
    "ToTensor",
    "functional",
]


# -- draws --------------------------------------------------------------------------------------------
def _uniform(low: float = 0.0, high: float = 1.0) -> float:
    return float(raw_uniform(get_backend("cpu"), None, (1,), dt.float64, low, high)[0])


def _integer(size: int) -> int:
    """A whole number from 0 to size - 1."""
    return int(raw_integers(get_backend("cpu"), None, 0, size, (1,))[0])


def _order(size: int) -> list[int]:
    bits = random_bits(get_backend("cpu"), None, size)
    return np.argsort(bits, kind="stable").tolist()


def _probability(p) -> float:
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise ArgumentError("p is a probability", expected="0 ≤ p ≤ 1", received=repr(p))
    return float(p)


def _range(name: str, values: Sequence[float], least: float = 0.0) -> tuple[float, float]:
    pair = tuple(values) if isinstance(values, Sequence) else (values,)
    if len(pair) != 2 or not least <= pair[0] <= pair[1]:
        raise ArgumentError(f"{name} is (smallest, largest), at least {least:g}", received=repr(values))
    return float(pair[0]), float(pair[1])


class Transform:
    """A callable on images; its repr lists the arguments that it keeps."""

    def __call__(self, image):
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def __repr__(self) -> str:
        shown = (f"{name}={_shown(value)}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({', '.join(shown)})"


def _shown(value) -> str:
    return value.value if isinstance(value, InterpolationMode) else repr(value)


# -- several ------------------------------------------------------------------------------------------
class Compose(Transform):
    """The transforms one after the other."""

    def __init__(self, transforms: Sequence[Callable]):
        self.transforms = list(transforms)
        for transform in self.transforms:
            if not callable(transform):
                raise ArgumentError("Compose takes a list of callables", received=repr(transform))

    def __call__(self, image):
        for transform in self.transforms:
            image = transform(image)
        return image

    def __repr__(self) -> str:
        inner = "".join(f"\n    {transform!r}".replace("\n", "\n    ")[4:] for transform in self.transforms)
        return f"{type(self).__name__}({inner}\n)"


class Lambda(Transform):
    """A function as a transform. Worker processes that are not forked need one that is defined at module level."""

    def __init__(self, lambd: Callable):
        if not callable(lambd):
            raise ArgumentError("Lambda takes a callable", received=repr(lambd))
        self.lambd = lambd

    def __call__(self, image):
        return self.lambd(image)


class RandomApply(Compose):
    """All of the transforms with probability p (0.5), or none."""

    def __init__(self, transforms: Sequence[Callable], p: float = 0.5):
        super().__init__(transforms)
        self.p = _probability(p)

    def __call__(self, image):
        return super().__call__(image) if _uniform() < self.p else image


class RandomChoice(Compose):
    """One of the transforms; `p`: their probabilities, up to a factor."""

    def __init__(self, transforms: Sequence[Callable], p: Sequence[float] | None = None):
        super().__init__(transforms)
        if not self.transforms:
            raise ArgumentError("RandomChoice needs at least one transform")
        if p is not None and (len(p) != len(self.transforms) or min(p) < 0 or not 0 < sum(p) < math.inf):
            raise ArgumentError(f"p has a probability for each of {len(self.transforms)} transforms", received=repr(p))
        self.p = None if p is None else [float(x) for x in p]

    def __call__(self, image):
        share = np.cumsum(self.p or [1.0] * len(self.transforms))
        choice = int(np.searchsorted(share, _uniform() * share[-1], side="right"))
        return self.transforms[min(choice, len(share) - 1)](image)


class RandomOrder(Compose):
    """All of the transforms in a random order."""

    def __call__(self, image):
        for i in _order(len(self.transforms)):
            image = self.transforms[i](image)
        return image


# -- conversions --------------------------------------------------------------------------------------
class ToTensor(Transform):
    """A PIL image or an array (H, W, C) to a tensor (C, H, W): 8-bit numbers as float32 in [0, 1], others as they are."""

    def __call__(self, image) -> Tensor:
        return functional.to_tensor(image)


class PILToTensor(Transform):
    """A PIL image or an array (H, W, C) to a tensor (C, H, W) of the same numbers: a quarter of the bytes of `ToTensor`."""

    def __call__(self, image) -> Tensor:
        return functional.pil_to_tensor(image)


class ToPILImage(Transform):
    """A tensor (C, H, W) or an array (H, W, C) to a PIL image."""

    def __call__(self, image):
        return functional.to_pil_image(image)


class ConvertImageDtype(Transform):
    """A tensor in another dtype: [0, 1] in floats is [0, 255] in uint8."""

    def __init__(self, dtype=dt.float32):
        self.dtype = dtype

    def __call__(self, image: Tensor) -> Tensor:
        return functional.convert_image_dtype(image, self.dtype)


class Normalize(Transform):
    """(image - mean) / std by channel, of floating-point tensors and arrays: behind `ToTensor`."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False):
        self.mean, self.std = ([float(x) for x in (v if isinstance(v, Sequence) else [v])] for v in (mean, std))
        self.inplace = bool(inplace)

    def __call__(self, image):
        return functional.normalize(image, self.mean, self.std, self.inplace)


# -- size ---------------------------------------------------------------------------------------------
class Resize(Transform):
    """The image in another size: (height, width), or one number for its smaller edge; see `functional.resize`."""

    def __init__(self, size, interpolation=InterpolationMode.BILINEAR, max_size: int | None = None, antialias=True):
        functional.pair(size)
        self.size, self.interpolation, self.max_size = size, interpolation, max_size
        self.antialias = antialias is not False

    def __call__(self, image):
        return functional.resize(image, self.size, self.interpolation, self.max_size, self.antialias)


class CenterCrop(Transform):
    """The middle of the image, (height, width) or a square; a smaller image is padded with 0."""

    def __init__(self, size):
        self.size = functional.pair(size)

    def __call__(self, image):
        return functional.center_crop(image, self.size)


class Pad(Transform):
    """The image with a border; see `functional.pad`."""

    def __init__(self, padding, fill: float | Sequence[float] = 0, padding_mode: str = "constant"):
        functional._padding(padding)
        self.padding, self.fill, self.padding_mode = padding, fill, padding_mode

    def __call__(self, image):
        return functional.pad(image, self.padding, self.fill, self.padding_mode)


class RandomCrop(Transform):
    """A part of the image at a random place, after `padding`. pad_if_needed: a smaller image is padded, else an error."""

    def __init__(
        self,
        size,
        padding=None,
        pad_if_needed: bool = False,
        fill: float | Sequence[float] = 0,
        padding_mode: str = "constant",
    ):
        self.size, self.padding, self.pad_if_needed = functional.pair(size), padding, bool(pad_if_needed)
        self.fill, self.padding_mode = fill, padding_mode
        if padding is not None:
            functional._padding(padding)

    @staticmethod
    def get_params(image, output_size: tuple[int, int]) -> tuple[int, int, int, int]:
        """(top, left, height, width) of a random part."""
        _, h, w = functional.get_dimensions(image)
        height, width = output_size
        if h < height or w < width:
            raise ArgumentError(
                f"a crop of {height}×{width} is larger than the image",
                received=f"{h}×{w}",
                fix="pad_if_needed=True, or Resize before",
            )
        return _integer(h - height + 1), _integer(w - width + 1), height, width

    def __call__(self, image):
        if self.padding is not None:
            image = functional.pad(image, self.padding, self.fill, self.padding_mode)
        if self.pad_if_needed:
            _, h, w = functional.get_dimensions(image)
            missing = (max(self.size[1] - w, 0), max(self.size[0] - h, 0))
            image = functional.pad(image, missing, self.fill, self.padding_mode)
        return functional.crop(image, *self.get_params(image, self.size))


class RandomResizedCrop(Transform):
    """A random part of the image, resized: its area by `scale` of the image's, its width / height by `ratio`.

    After ten draws that do not fit, the largest middle part of a ratio within bounds. (Szegedy et al., 2015)
    """

    def __init__(
        self,
        size,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation=InterpolationMode.BILINEAR,
        antialias: bool | None = True,
    ):
        self.size, self.scale, self.ratio = functional.pair(size), _range("scale", scale), _range("ratio", ratio, 1e-9)
        self.interpolation, self.antialias = interpolation, antialias is not False

    @staticmethod
    def get_params(image, scale: Sequence[float], ratio: Sequence[float]) -> tuple[int, int, int, int]:
        """(top, left, height, width) of a random part."""
        _, h, w = functional.get_dimensions(image)
        for _ in range(10):
            area = h * w * _uniform(*scale)
            aspect = math.exp(_uniform(math.log(ratio[0]), math.log(ratio[1])))
            width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < width <= w and 0 < height <= h:
                return _integer(h - height + 1), _integer(w - width + 1), height, width
        width, height = w, h
        if w / h < ratio[0]:
            height = round(w / ratio[0])
        elif w / h > ratio[1]:
            width = round(h * ratio[1])
        height, width = max(1, min(height, h)), max(1, min(width, w))
        return (h - height) // 2, (w - width) // 2, height, width

    def __call__(self, image):
        part = self.get_params(image, self.scale, self.ratio)
        return functional.resized_crop(image, *part, self.size, self.interpolation, self.antialias)


# -- place --------------------------------------------------------------------------------------------
class RandomHorizontalFlip(Transform):
    """The image mirrored left to right with probability p (0.5)."""

    def __init__(self, p: float = 0.5):
        self.p = _probability(p)

    def __call__(self, image):
        return functional.hflip(image) if _uniform() < self.p else image


class RandomVerticalFlip(Transform):
    """The image mirrored top to bottom with probability p (0.5)."""

    def __init__(self, p: float = 0.5):
        self.p = _probability(p)

    def __call__(self, image):
        return functional.vflip(image) if _uniform() < self.p else image


class RandomRotation(Transform):
    """The image turned by a random angle: within ±degrees, or (smallest, largest); see `functional.rotate`."""

    def __init__(
        self,
        degrees: float | Sequence[float],
        interpolation=InterpolationMode.NEAREST,
        expand: bool = False,
        center: Sequence[float] | None = None,
        fill: float | Sequence[float] = 0,
    ):
        if isinstance(degrees, (int, float)):
            if degrees < 0:
                raise ArgumentError("one number of degrees is at least 0", received=f"{degrees=}")
            degrees = (-degrees, degrees)
        self.degrees = _range("degrees", degrees, -math.inf)
        self.interpolation, self.expand, self.center, self.fill = interpolation, bool(expand), center, fill

    def __call__(self, image):
        angle = _uniform(*self.degrees)
        return functional.rotate(image, angle, self.interpolation, self.expand, self.center, self.fill)


# -- colour -------------------------------------------------------------------------------------------
class Grayscale(Transform):
    """The grey image, in 1 or 3 equal channels."""

    def __init__(self, num_output_channels: int = 1):
        self.num_output_channels = num_output_channels

    def __call__(self, image):
        return functional.rgb_to_grayscale(image, self.num_output_channels)


class RandomGrayscale(Transform):
    """The grey image, in as many channels as the image has, with probability p (0.1)."""

    def __init__(self, p: float = 0.1):
        self.p = _probability(p)

    def __call__(self, image):
        if _uniform() >= self.p:
            return image
        channels = 3 if functional.get_dimensions(image)[0] == 3 else 1
        return functional.rgb_to_grayscale(image, channels)


class ColorJitter(Transform):
    """Brightness, contrast, saturation and hue changed by random factors, in a random order.

    A number x draws the factor from [max(0, 1 - x), 1 + x], hue's from [-x, x], at most ½; or give (smallest, largest).
    """

    def __init__(self, brightness=0, contrast=0, saturation=0, hue=0):
        self.brightness, self.contrast, self.saturation = (
            self._bounds(name, value, 1.0, 0.0, math.inf)
            for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation))
        )
        self.hue = self._bounds("hue", hue, 0.0, -0.5, 0.5)

    @staticmethod
    def _bounds(name: str, value, middle: float, least: float, most: float) -> tuple[float, float] | None:
        if isinstance(value, (int, float)):
            if value < 0 or (middle == 0 and value > most):
                raise ArgumentError(f"{name} is at least 0" + (", at most 0.5" if middle == 0 else ""), received=value)
            low, high = max(middle - value, least), middle + value
        else:
            low, high = _range(name, value, least)
            if high > most:
                raise ArgumentError(f"{name} is at most {most:g}", received=repr(value))
        return None if low == high == middle else (low, high)

    def __call__(self, image):
        for i in _order(4):
            name = ("brightness", "contrast", "saturation", "hue")[i]
            bounds = getattr(self, name)
            if bounds is not None:
                image = getattr(functional, f"adjust_{name}")(image, _uniform(*bounds))
        return image


class RandomErasing(Transform):
    """A random rectangle of the image erased with probability p (0.5): its area by `scale`, its height / width by `ratio`.

    value: a number, one for each channel, or "random" for normal noise. (Zhong et al., 2017)
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float | str | Sequence[float] = 0,
        inplace: bool = False,
    ):
        self.p, self.scale, self.ratio = _probability(p), _range("scale", scale), _range("ratio", ratio, 1e-9)
        if self.scale[1] > 1:
            raise ArgumentError("scale is a share of the image, at most 1", received=repr(scale))
        if isinstance(value, str) and value != "random":
            raise ArgumentError('value is a number, one for each channel, or "random"', received=repr(value))
        self.value, self.inplace = value, bool(inplace)

    def __call__(self, image):
        if _uniform() >= self.p:
            return image
        channels, h, w = functional.get_dimensions(image)
        for _ in range(10):
            area = h * w * _uniform(*self.scale)
            aspect = math.exp(_uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < height < h and 0 < width < w:
                top, left = _integer(h - height + 1), _integer(w - width + 1)
                value: Any = self.value
                if value == "random":
                    value = self._noise(image, channels, height, width)
                return functional.erase(image, top, left, height, width, value, self.inplace)
        return image

    @staticmethod
    def _noise(image, channels: int, height: int, width: int):
        cpu = get_backend("cpu")
        if functional.kind_of(image) == "tensor":
            noise = raw_normal(cpu, None, (channels, height, width))
            if image.dtype.kind in "iu":
                noise = (noise * 64 + 128).clip(0, 255)
            return from_raw(image.backend.from_host(noise.astype(image.dtype)), image.backend)
        noise = raw_normal(cpu, None, (height, width, channels))
        is_float = isinstance(image, np.ndarray) and image.dtype.kind == "f"
        noise = noise if is_float else (noise * 64 + 128).clip(0, 255)
        noise = noise.astype(image.dtype if isinstance(image, np.ndarray) else np.uint8)
        return noise if (functional.kind_of(image) == "array" and image.ndim == 3) or channels > 1 else noise[..., 0]
