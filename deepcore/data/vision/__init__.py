"""Images: folders of them, boxes, and transforms."""

from __future__ import annotations

from deepcore.data.vision import functional, transforms
from deepcore.data.vision.folder import IMG_EXTENSIONS, DatasetFolder, ImageFolder, find_classes
from deepcore.data.vision.functional import InterpolationMode
from deepcore.data.vision.voc import VOCDetection, detection_collate, read_annotation
from deepcore.io.images import open_image as read_image

__all__ = [
    "IMG_EXTENSIONS",
    "DatasetFolder",
    "ImageFolder",
    "InterpolationMode",
    "VOCDetection",
    "detection_collate",
    "find_classes",
    "functional",
    "read_annotation",
    "read_image",
    "transforms",
]
