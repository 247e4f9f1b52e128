"""Transforms of a batch: pairs of images, and their labels, mixed."""

from __future__ import annotations

import math

from deepcore.backend import get_backend
from deepcore.distributions import Beta
from deepcore.errors import ArgumentError, DTypeError, ShapeError, non_negative
from deepcore.nn import functional as F
from deepcore.random import raw_integers
from deepcore.tensor import Tensor, as_tensor


class _Mixing:
    def __init__(self, *, alpha: float = 1.0, num_classes: int | None = None):
        self.alpha = non_negative("alpha", alpha, zero=False)
        if num_classes is not None and (isinstance(num_classes, bool) or int(num_classes) != num_classes):
            raise ArgumentError("num_classes is a whole number", received=repr(num_classes))
        self.num_classes = num_classes

    def __call__(self, images, labels=None) -> tuple[Tensor, Tensor]:
        """(images, labels) of the batch, mixed; a batch may also be one tuple of the two."""
        if labels is None:
            if not isinstance(images, (tuple, list)) or len(images) != 2:
                raise ArgumentError(f"{type(self).__name__} takes images and labels", received=type(images).__name__)
            images, labels = images
        images, labels = as_tensor(images), as_tensor(labels)
        if images.ndim < 4 or labels.ndim not in (1, 2) or len(labels) != len(images):
            raise ShapeError(
                f"{type(self).__name__} takes a batch",
                expected="images (N, C, H, W), labels (N,) or (N, classes)",
                received=f"{tuple(images.shape)}, {tuple(labels.shape)}",
                fix="behind the loader, or in collate_fn=lambda samples: mix(*default_collate(samples))",
            )
        if images.dtype.kind in "iub":
            raise DTypeError(
                f"{type(self).__name__} mixes floating-point images", received=str(images.dtype), fix="ToTensor()"
            )
        labels = self._rows(labels)
        images, share = self.mix(images, float(Beta(self.alpha, self.alpha).sample().item()))
        return images, labels.roll(1, 0) * (1.0 - share) + labels * share

    def _rows(self, labels: Tensor) -> Tensor:
        """Labels as probabilities (N, classes)."""
        if labels.ndim == 2:
            return labels.float() if labels.dtype.kind in "iub" else labels
        if labels.dtype.kind not in "iu":
            raise DTypeError("class numbers are whole", received=str(labels.dtype), fix="labels.long()")
        if self.num_classes is None:
            raise ArgumentError(
                f"{type(self).__name__} needs the number of classes for labels (N,)",
                fix=f"{type(self).__name__}(num_classes=…)",
            )
        return F.one_hot(labels.long(), self.num_classes).float()

    def mix(self, images: Tensor, share: float) -> tuple[Tensor, float]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}(alpha={self.alpha}, num_classes={self.num_classes})"


class MixUp(_Mixing):
    """λ·xᵢ + (1 - λ)·xᵢ₋₁ with λ ~ Beta(alpha, alpha), one for the batch; labels (N, classes) alike.

    Labels (N,) need `num_classes`. (Zhang et al., 2018)
    """

    def mix(self, images: Tensor, share: float) -> tuple[Tensor, float]:
        return images.roll(1, 0) * (1.0 - share) + images * share, share


class CutMix(_Mixing):
    """A rectangle of xᵢ₋₁ in xᵢ, one for the batch, of 1 - λ of the area before it is cut at the edges, λ ~ Beta(alpha, alpha).

    Labels (N, classes) are mixed by the area; labels (N,) need `num_classes`. (Yun et al., 2019)
    """

    def mix(self, images: Tensor, share: float) -> tuple[Tensor, float]:
        h, w = images.shape[-2:]
        cpu = get_backend("cpu")
        x, y = (int(raw_integers(cpu, None, 0, size, (1,))[0]) for size in (w, h))
        half = 0.5 * math.sqrt(1.0 - share)
        left, right = max(x - int(half * w), 0), min(x + int(half * w), w)
        top, bottom = max(y - int(half * h), 0), min(y + int(half * h), h)
        out = images.clone()
        out[..., top:bottom, left:right] = images.roll(1, 0)[..., top:bottom, left:right]
        return out, 1.0 - (right - left) * (bottom - top) / (w * h)
