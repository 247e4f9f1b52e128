"""Images in a folder for each class, as torchvision lays them out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from deepcore.data.dataset import Dataset, _number
from deepcore.errors import ArgumentError, DataError
from deepcore.io.files import path_of
from deepcore.io.images import open_image

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def find_classes(directory) -> tuple[list[str], dict[str, int]]:
    """(names of the folders in `directory`, sorted, their numbers by name). Errors: `DataError` where there are none."""
    name = _folder(directory)
    with os.scandir(name) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir())
    if not classes:
        raise DataError(f"{name!r} has no folder for a class", expected="root/cat/1.png, root/dog/2.png, …")
    return classes, {name: i for i, name in enumerate(classes)}


def _folder(path) -> str:
    name = path_of(path)
    if not os.path.isdir(name):
        what = "is no folder" if os.path.exists(name) else "does not exist"
        raise DataError(f"the folder {name!r} {what}", fix="give the folder that has a folder for each class")
    return name


class DatasetFolder(Dataset):
    """Sample i is (loader(path), class number): files below `root`/class, sorted by class and path.

    extensions or is_valid_file: which files count. transform, target_transform: applied to the two. allow_empty: classes
    may have no files. `classes`, `class_to_idx`, `samples` (path, class number) and `targets` are attributes.
    Errors: `DataError` for no classes, and for classes without files.
    """

    def __init__(
        self,
        root,
        loader: Callable[[str], Any],
        extensions: Sequence[str] | None = None,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ):
        if (extensions is None) == (is_valid_file is None):
            raise ArgumentError("give one of extensions and is_valid_file")
        self.root = path_of(root)
        self.loader, self.extensions = loader, None if extensions is None else tuple(extensions)
        self.transform, self.target_transform = transform, target_transform
        self.classes, self.class_to_idx = self.find_classes(self.root)
        if is_valid_file is None:
            endings = tuple(e.lower() for e in self.extensions or ())
            is_valid_file = lambda path: path.lower().endswith(endings)
        self.samples: list[tuple[str, int]] = []
        for name, number in sorted(self.class_to_idx.items()):
            paths = [path for path in _files(os.path.join(self.root, name)) if is_valid_file(path)]
            if not paths and not allow_empty:
                raise DataError(
                    f"there is no file of class {name!r} in {os.path.join(self.root, name)!r}",
                    expected="files that end in " + ", ".join(self.extensions) if self.extensions else None,
                    fix="remove the folder, or allow_empty=True",
                )
            self.samples += [(path, number) for path in paths]
        self.targets = [number for _, number in self.samples]

    @staticmethod
    def find_classes(directory) -> tuple[list[str], dict[str, int]]:
        """(names, numbers by name): a subclass may define classes by other rules."""
        return find_classes(directory)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        number = _number(index, len(self))
        if number is None:
            raise ArgumentError(f"a {type(self).__name__} gives one sample by its number", received=repr(index))
        path, target = self.samples[number]
        sample = self.loader(path)
        if self.transform is not None:
            sample = self.transform(sample)
        return sample, target if self.target_transform is None else self.target_transform(target)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.root!r}: {len(self)} samples of {len(self.classes)} classes)"


class ImageFolder(DatasetFolder):
    """Sample i is (image, class number): the images below `root`/class, sorted by class and path.

    An image is a PIL image in RGB, decoded from JPEG, PNG, PPM, BMP, TIFF or WebP; `transform` makes a tensor of it:

    >>> from deepcore.data.vision import ImageFolder, transforms
    >>> augment = transforms.Compose([
    ...     transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    >>> train = ImageFolder("train", augment)

    loader: reads a file instead; `functools.partial(read_image, mode="L")` reads grey ones.
    Errors: `DataError` for no classes, and for classes without images; `FileFormatError`, when it is read, for a file that
    is no image, damaged, or so large that decoding it would fill the memory.
    """

    def __init__(
        self,
        root,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        loader: Callable[[str], Any] = open_image,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ):
        extensions = IMG_EXTENSIONS if is_valid_file is None else None
        super().__init__(root, loader, extensions, transform, target_transform, is_valid_file, allow_empty)

    @property
    def imgs(self) -> list[tuple[str, int]]:
        """`samples`, by torchvision's name."""
        return self.samples


def _files(folder: str) -> Iterator[str]:
    """The files below a folder, by sorted path; folders that links lead back to are walked once."""
    seen: set[tuple[int, int]] = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(where)
        key = (status.st_dev, status.st_ino)
        if key in seen and status.st_ino:
            folders.clear()
            continue
        seen.add(key)
        folders.sort()
        yield from (os.path.join(where, name) for name in sorted(files))
