"""Images with boxes in Pascal VOC's layout. The XML parser knows elements and text alone: no document types, no entities."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from xml.parsers import expat

import numpy as np

from deepcore.data.dataset import Dataset, _number
from deepcore.errors import ArgumentError, DataError, FileFormatError, suggest
from deepcore.io.files import decode_utf8, open_regular, path_of
from deepcore.io.images import open_image
from deepcore.tensor import from_numpy

_MAX_XML, _MAX_DEPTH, _MAX_OBJECTS = 1 << 22, 32, 1 << 16
_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VOCDetection(Dataset):
    """Sample i is (image, {"boxes" (n, 4) float32, "labels" (n,) int64, "difficult" (n,) bool, "image_id", "size"}).

    root: the folder with `Annotations`, `ImageSets/Main` and `JPEGImages`, or that of `VOCdevkit/VOC<year>`. image_set: a
    file of `ImageSets/Main` such as "train"; None: all annotations.
    A box is (xmin, ymin, xmax, ymax) as in the file, in pixels, a label the number of its name in `classes` (by default
    the sorted names of all annotations of the set). "image_id" is the file's name, "size" (height, width).
    An image is a PIL image in RGB; transform: of the image, target_transform: of the dict, transforms: of both together.
    keep_difficult: whether boxes marked as difficult are among them.

    Batches of different images need `collate_fn=detection_collate`.
    Errors: `DataError` for files that are missing, and annotations without what is needed, with file and object;
    `FileFormatError` for XML that is damaged, too large, or has a document type.
    """

    def __init__(
        self,
        root,
        image_set: str | None = "train",
        year: str | int | None = None,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        transforms: Callable | None = None,
        classes: Sequence[str] | None = None,
        keep_difficult: bool = True,
    ):
        if transforms is not None and (transform is not None or target_transform is not None):
            raise ArgumentError("transforms excludes transform and target_transform", fix="give one of them")
        self.root = path_of(root) if year is None else os.path.join(path_of(root), "VOCdevkit", f"VOC{year}")
        self.image_set = image_set
        self.transform, self.target_transform, self.transforms = transform, target_transform, transforms
        self.ids = self._ids()
        annotations = [read_annotation(os.path.join(self.root, "Annotations", f"{name}.xml")) for name in self.ids]
        names = {box["name"] for annotation in annotations for box in annotation["objects"]}
        self.classes = sorted(names) if classes is None else list(classes)
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self._targets = [
            self._target(name, annotation, keep_difficult) for name, annotation in zip(self.ids, annotations)
        ]

    def _ids(self) -> list[str]:
        folder = os.path.join(self.root, "Annotations")
        if not os.path.isdir(folder):
            raise DataError(
                f"there is no folder {folder!r}",
                expected="a folder with Annotations, ImageSets and JPEGImages",
                fix="give that folder as root; or the one that has VOCdevkit, and year=2012",
            )
        if self.image_set is None:
            ids = sorted(name[:-4] for name in os.listdir(folder) if name.endswith(".xml"))
        else:
            sets = os.path.join(self.root, "ImageSets", "Main")
            path = os.path.join(sets, f"{self.image_set}.txt")
            if not os.path.isfile(path):
                available = os.listdir(sets) if os.path.isdir(sets) else []
                names = [name[:-4] for name in available if name.endswith(".txt")]
                fix = suggest(self.image_set, names) if names else "image_set=None for all annotations"
                raise DataError(f"there is no image set {self.image_set!r} in {sets!r}", fix=fix)
            with open_regular(path) as file:
                lines = decode_utf8(file.read(), path).splitlines()
            # A class's own sets have 1 or -1 behind each name.
            ids = [line.split()[0] for line in lines if line.split() and line.split()[1:] != ["-1"]]
        for name in ids:
            if os.path.basename(name) != name or name in ("", ".", ".."):
                raise DataError(f"an image set names no image of its own folder: {name!r}", where=self.root)
        if not ids:
            raise DataError(f"the image set {self.image_set!r} has no images", where=self.root)
        return ids

    def _target(self, name: str, annotation: dict[str, Any], keep_difficult: bool) -> dict[str, Any]:
        boxes = [box for box in annotation["objects"] if keep_difficult or not box["difficult"]]
        for box in boxes:
            if box["name"] not in self.class_to_idx:
                raise DataError(
                    f"{name}.xml has an object of no class: {box['name']!r}", fix=suggest(box["name"], self.classes)
                )
        return {
            "boxes": np.array([box["box"] for box in boxes], np.float32).reshape(-1, 4),
            "labels": np.array([self.class_to_idx[box["name"]] for box in boxes], np.int64),
            "difficult": np.array([box["difficult"] for box in boxes], bool),
            "size": annotation["size"],
        }

    def __len__(self) -> int:
        return len(self.ids)

    def image_path(self, index: int) -> str:
        """The file of image `index`."""
        stem = os.path.join(self.root, "JPEGImages", self.ids[index])
        path = next((stem + ending for ending in _IMAGE_ENDINGS if os.path.isfile(stem + ending)), None)
        if path is None:
            raise DataError(f"there is no image {stem + '.jpg'!r}", fix="its annotation is there: complete JPEGImages")
        return path

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        number = _number(index, len(self))
        if number is None:
            raise ArgumentError("a VOCDetection gives one sample by its number", received=repr(index))
        image = open_image(self.image_path(number))
        stored = self._targets[number]
        target: Any = {key: from_numpy(stored[key].copy()) for key in ("boxes", "labels", "difficult")}
        target |= {"image_id": self.ids[number], "size": (image.height, image.width)}
        if self.transforms is not None:
            return self.transforms(image, target)
        if self.transform is not None:
            image = self.transform(image)
        return image, target if self.target_transform is None else self.target_transform(target)

    def __repr__(self) -> str:
        return f"VOCDetection({self.root!r}, {self.image_set!r}: {len(self)} images of {len(self.classes)} classes)"


def detection_collate(samples: Sequence[tuple[Any, Any]]) -> tuple[Any, list[Any]]:
    """(images, targets) of samples with any numbers of boxes: images (N, C, H, W) where all have one shape, else a list."""
    from deepcore.ops.shape import stack

    images, targets = [sample[0] for sample in samples], [sample[1] for sample in samples]
    shapes = {tuple(getattr(image, "shape", ())) for image in images}
    if len(shapes) == 1 and () not in shapes:
        arrays = [from_numpy(image) if isinstance(image, np.ndarray) else image for image in images]
        return stack(arrays), targets
    return images, targets


def read_annotation(path) -> dict[str, Any]:
    """{"size": (height, width) or None, "objects": [{"name", "box", "difficult", "truncated"}]} of an annotation file."""
    name = os.fsdecode(path)
    tree = _parse(path, name)
    if tree.tag != "annotation":
        raise DataError(f"{name!r} is no annotation: its element is {tree.tag!r}", expected="<annotation>")
    size = tree.child("size")
    shape = None
    if size is not None:
        shape = tuple(int(_value(size, key, name, "size")) for key in ("height", "width"))
    objects = []
    for i, element in enumerate(tree.all("object")):
        place = f"object {i + 1}"
        label, box = element.child("name"), element.child("bndbox")
        if label is None or not label.text.strip() or box is None:
            missing = "bndbox" if box is None else "name"
            raise DataError(f"{name!r} has an object without {missing}", where=place)
        corners = tuple(_value(box, key, name, place) for key in _CORNERS)
        if corners[0] > corners[2] or corners[1] > corners[3]:
            raise DataError(
                f"{name!r} has a box whose end is before its start",
                expected="xmin ≤ xmax and ymin ≤ ymax",
                received=str(corners),
                where=place,
            )
        flags = {
            key: element.child(key) is not None and bool(_value(element, key, name, place))
            for key in ("difficult", "truncated")
        }
        objects.append({"name": label.text.strip(), "box": corners, **flags})
        if len(objects) > _MAX_OBJECTS:
            raise FileFormatError(f"{name!r} has too many objects", expected=f"at most {_MAX_OBJECTS:,}")
    return {"size": shape, "objects": objects}


class _Element:
    __slots__ = ("children", "parts", "tag")

    def __init__(self, tag: str):
        self.tag, self.children, self.parts = tag, list[_Element](), list[str]()

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def all(self, tag: str) -> Iterator[_Element]:
        return (child for child in self.children if child.tag == tag)

    def child(self, tag: str) -> _Element | None:
        return next(self.all(tag), None)


def _value(element: _Element, key: str, name: str, place: str) -> float:
    child = element.child(key)
    try:
        value = float("" if child is None else child.text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:
        received = "nothing" if child is None else repr(child.text[:40])
        raise DataError(f"{name!r} has no number as <{key}>", received=received, where=place)
    return value


def _parse(path, name: str) -> _Element:
    """The tree of an XML file; a document type, with which entities would begin, is an error."""
    with open_regular(path) as file:
        content = file.read(_MAX_XML + 1)
    if len(content) > _MAX_XML:
        raise FileFormatError(f"{name!r} is too large an annotation", expected=f"at most {_MAX_XML:,} bytes")
    top = _Element("")
    stack = [top]
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(tag: str, attributes) -> None:
        if len(stack) > _MAX_DEPTH:
            raise FileFormatError(f"{name!r} is nested too deeply", where=f"line {parser.CurrentLineNumber}")
        element = _Element(tag)
        stack[-1].children.append(element)
        stack.append(element)

    def doctype(*arguments) -> None:
        raise FileFormatError(
            f"{name!r} has a document type, which annotations do not need and this reader does not read",
            where=f"line {parser.CurrentLineNumber}",
            fix="remove the line <!DOCTYPE …>, if you trust the file",
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda tag: stack.pop()
    parser.CharacterDataHandler = lambda text: stack[-1].parts.append(text)
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise FileFormatError(f"{name!r} is not XML: {error}", fix="take another copy") from None
    except (ValueError, LookupError) as error:
        if isinstance(error, (FileFormatError, DataError)):
            raise
        raise FileFormatError(
            f"{name!r} is in an encoding that is not known: {error}", fix="save it as UTF-8"
        ) from None
    return top.children[0]
