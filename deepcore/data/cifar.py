"""CIFAR-10 and CIFAR-100, from the files as published."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deepcore.backend import Backend, takes_device
from deepcore.data.dataset import TensorDataset
from deepcore.data.datasets import data_folders, image_dataset, parse_split
from deepcore.errors import DataError, FileFormatError
from deepcore.io.files import open_regular
from deepcore.io.pickles import read_pickled_dict

_PIXELS = 3 * 32 * 32
_MAX_BYTES = 1 << 28

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish "
    "forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle "
    "mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine "
    "possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale "
    "willow_tree wolf woman worm"
)
CIFAR100_CLASSES = tuple(_CIFAR100_CLASSES.split())
_CIFAR100_SUPERCLASSES = (
    "aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture "
    "insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores "
    "medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2"
)
CIFAR100_SUPERCLASSES = tuple(_CIFAR100_SUPERCLASSES.split())


class _Version(NamedTuple):
    """How one of the two published forms of a dataset is stored."""

    folder: str
    archive: str
    files: dict[str, tuple[str, ...]]
    read: Callable[[Path], tuple[np.ndarray, np.ndarray]]


@takes_device
def cifar10(
    root: str | os.PathLike | None = None,
    split: str = "train",
    *,
    flatten: bool = False,
    backend: str | Backend | None = None,
    device=None,
) -> TensorDataset:
    """CIFAR-10: colour images (N, 3, 32, 32) float32 in [0, 1], labels (N,) int64 of ten classes.

    split: "train" (50,000) or "test" (10,000), or a part such as "train[:1000]". `flatten` gives images (N, 3072).
    root: the folder with the unpacked files of the binary version (`data_batch_1.bin` …) or of the Python version
    (`data_batch_1` …), or the one that has their folder `cifar-10-batches-bin` or `cifar-10-batches-py`; default: `cifar10` in
    the folder named by DEEPCORE_DATA, then the user's cache. The Python version's pickles are read as data; nothing of them is
    run.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009
    (https://www.cs.toronto.edu/~kriz/cifar.html). Errors: `DataError` when files are missing.
    """
    batches = tuple(f"data_batch_{i}" for i in range(1, 6))
    versions = (
        _Version(
            "cifar-10-batches-bin",
            "cifar-10-binary.tar.gz",
            {"train": tuple(f"{name}.bin" for name in batches), "test": ("test_batch.bin",)},
            lambda path: _binary(path, 1, 0, 10),
        ),
        _Version(
            "cifar-10-batches-py",
            "cifar-10-python.tar.gz",
            {"train": batches, "test": ("test_batch",)},
            lambda path: _pickled(path, "labels", 10),
        ),
    )
    return _dataset("CIFAR-10", root, "cifar10", split, versions, CIFAR10_CLASSES, flatten, backend)


@takes_device
def cifar100(
    root: str | os.PathLike | None = None,
    split: str = "train",
    *,
    coarse: bool = False,
    flatten: bool = False,
    backend: str | Backend | None = None,
    device=None,
) -> TensorDataset:
    """CIFAR-100: colour images (N, 3, 32, 32) float32 in [0, 1], labels (N,) int64 of 100 classes, or with `coarse` 20.

    split: "train" (50,000) or "test" (10,000), or a part such as "train[:1000]". `flatten` gives images (N, 3072).
    root: the folder with the unpacked files of the binary version (`train.bin`, `test.bin`) or of the Python version (`train`,
    `test`), or the one that has their folder `cifar-100-binary` or `cifar-100-python`; default: `cifar100` in the folder named
    by DEEPCORE_DATA, then the user's cache. The Python version's pickles are read as data; nothing of them is run.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009
    (https://www.cs.toronto.edu/~kriz/cifar.html). Errors: `DataError` when files are missing.
    """
    classes = CIFAR100_SUPERCLASSES if coarse else CIFAR100_CLASSES
    versions = (
        _Version(
            "cifar-100-binary",
            "cifar-100-binary.tar.gz",
            {"train": ("train.bin",), "test": ("test.bin",)},
            lambda path: _binary(path, 2, 0 if coarse else 1, len(classes)),
        ),
        _Version(
            "cifar-100-python",
            "cifar-100-python.tar.gz",
            {"train": ("train",), "test": ("test",)},
            lambda path: _pickled(path, "coarse_labels" if coarse else "fine_labels", len(classes)),
        ),
    )
    return _dataset("CIFAR-100", root, "cifar100", split, versions, classes, flatten, backend)


def _dataset(title: str, root, name: str, split: str, versions, classes, flatten: bool, backend) -> TensorDataset:
    which, part = parse_split(split, ("train", "test"))
    folders = [
        inner for folder in data_folders(root, name) for inner in (folder, *(folder / v.folder for v in versions))
    ]
    for folder in folders:
        for version in versions:
            paths = [folder / file for file in version.files[which]]
            if all(path.is_file() for path in paths):
                images, labels = (np.concatenate(parts) for parts in zip(*map(version.read, paths)))
                pixels = images[part].reshape(-1, 3, 32, 32)
                return image_dataset(pixels, labels[part], 255, flatten, backend, classes)
    raise _missing(title, which, data_folders(root, name), folders, versions)


def _missing(title: str, which: str, roots: list[Path], folders: list[Path], versions) -> DataError:
    """The error for files that are not there, or not all of them."""
    for folder in folders:
        for version in versions:
            files = version.files[which]
            absent = [file for file in files if not (folder / file).is_file()]
            if len(absent) < len(files):
                return DataError(
                    f"{folder} has some of {title}'s {which} files, and not {', '.join(absent)}",
                    fix=f"unpack {version.archive} again",
                )
            if (folder / version.archive).is_file():
                return DataError(
                    f"{title} in {folder} is still packed", fix=f"tar -xf {folder / version.archive} -C {folder}"
                )
    archives = " or ".join(version.archive for version in versions)
    return DataError(
        f"{title}'s {which} files are not in {', '.join(map(str, roots))}",
        fix=f"download {archives} from https://www.cs.toronto.edu/~kriz/cifar.html and unpack it in {roots[0]}",
    )


def _binary(path: Path, n_labels: int, which: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3072) and labels (N,) of records of `n_labels` label bytes and 3,072 pixels."""
    record = n_labels + _PIXELS
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not size or size % record or size > _MAX_BYTES:
            raise FileFormatError(
                f"{str(path)!r} is not a file of CIFAR's records",
                expected=f"a multiple of {record:,} bytes, at most {_MAX_BYTES:,}",
                received=f"{size:,} bytes",
                fix="it is damaged, or of the other dataset: take another copy",
            )
        records = np.frombuffer(file.read(size), np.uint8).reshape(-1, record)
    return records[:, n_labels:], _checked(path, records[:, which].astype(np.int64), classes)


def _pickled(path: Path, key: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3072) and labels (N,) of a pickled dict of `data` and lists of labels."""
    content: dict[str, Any] = read_pickled_dict(path, _MAX_BYTES)
    images, labels = content.get("data"), content.get(key)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (_PIXELS,):
        received = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else f"keys {', '.join(content)}"
        raise FileFormatError(
            f"{str(path)!r} has no images of CIFAR", expected=f"'data', uint8 (N, {_PIXELS})", received=received
        )
    if isinstance(labels, list) and all(type(label) is int and 0 <= label < classes for label in labels):
        labels = np.array(labels, np.int64)
    if not isinstance(labels, np.ndarray) or labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise FileFormatError(
            f"{str(path)!r} has no labels for its {len(images):,} images",
            expected=f"{key!r}, as many whole numbers from 0 to {classes - 1}",
            received=f"keys {', '.join(content)}" if labels is None else f"other {key}",
        )
    return images, _checked(path, labels.astype(np.int64), classes)


def _checked(path: Path, labels: np.ndarray, classes: int) -> np.ndarray:
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise FileFormatError(
            f"{str(path)!r} has labels from {labels.min()} to {labels.max()}",
            expected=f"from 0 to {classes - 1}",
            fix="it is damaged, or of the other dataset: take another copy",
        )
    return labels
