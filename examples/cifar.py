"""The textbook's convolutional network for 32×32 colour images, with deepcore or with PyTorch.

    python examples/cifar.py --cifar FOLDER [--library torch]
    python examples/cifar.py [--library torch] [--minutes 2]

The first is CIFAR-10, where you have it: FOLDER holds its unpacked files (https://www.cs.toronto.edu/~kriz/cifar.html).
Without it, the images are blood cells, cut by their boxes from the photographs of BCCD in the folder that DEEPCORE_DATA
names (`bccd/JPEGImages`, `bccd/Annotations`, `bccd/ImageSets/Main`): red cells, white cells and platelets.
The two libraries run the same lines below; the one difference is `compiled`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from two_libraries import compiled, library_called

from deepcore.errors import DataError, DeepcoreError, FileFormatError, MissingDependencyError

CELLS = {"RBC": "red", "WBC": "white", "Platelets": "platelets"}
MOST_BYTES, MOST_BOXES, MOST_PIXELS = 1 << 18, 1000, 1 << 24  # of an annotation, in one, of a photograph


# -- the network ------------------------------------------------------------------------------------------
def network(library, classes: int):
    """Two convolutions without padding, each with a pool, and two linear layers: 167,562 parameters for ten classes.

    32 → 30, pool 15 → 13, pool 6: 64·6·6 = 2,304 numbers reach the first linear layer, which has 147,520 of them.
    """
    nn = library.nn
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2304, 64), nn.ReLU(), nn.Linear(64, classes),
    )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 167_562 - 65 * (10 - classes)
    return model


# -- the data ---------------------------------------------------------------------------------------------
def read_cifar(folder: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) in [0, 1] and their classes."""
    import deepcore as dc

    images, labels = dc.data.cifar10(folder, split, backend="cpu").tensors
    return images.numpy(), labels.numpy()


def read_cells(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The same of the cells in the photographs that `ImageSets/Main/split.txt` lists."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingDependencyError("reading the photographs needs Pillow", fix="pip install pillow") from None
    crops, labels = [], []
    try:
        for name in (folder / "ImageSets" / "Main" / f"{split}.txt").read_text(encoding="utf-8").split():
            with Image.open(folder / "JPEGImages" / f"{name}.jpg", formats=["JPEG"]) as photograph:
                if photograph.width * photograph.height > MOST_PIXELS:
                    raise FileFormatError(f"{name}.jpg is too large", received=photograph.size)
                image = photograph.convert("RGB")
            for kind, box in read_boxes(folder / "Annotations" / f"{name}.xml", image.size):
                crops.append(np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR, box=box)))
                labels.append(list(CELLS).index(kind))
    except FileNotFoundError as error:
        raise DataError(
            f"there is no {error.filename}",
            fix="set DEEPCORE_DATA to a folder with BCCD in bccd/, or give --cifar a folder",
        ) from None
    except (OSError, UnicodeDecodeError, Image.DecompressionBombError) as error:
        raise FileFormatError(f"a file of {folder} cannot be read: {error}") from None
    if not crops:
        raise DataError(f"{folder} has no boxes in its split {split!r}")
    return np.stack(crops).transpose(0, 3, 1, 2) / np.float32(255), np.array(labels, dtype=np.int64)


class NoDoctype(ElementTree.TreeBuilder):
    """Stops at a document type: it could define entities that expand to gigabytes."""

    def doctype(self, name, public, system):
        raise ElementTree.ParseError("it has a document type")


def read_boxes(path: Path, size: tuple[int, int]) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Kind and box (left, top, right, bottom), cut to the photograph, of each object of a file of Pascal VOC.

    Two boxes of BCCD are empty, and left out.
    """
    with open(path, "rb") as file:
        text = file.read(MOST_BYTES + 1)
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        parser = ElementTree.XMLParser(target=NoDoctype())
        parser.feed(text)
        objects = parser.close().findall("object")
        if len(objects) > MOST_BOXES:
            raise ValueError(f"it has more than {MOST_BOXES:,} boxes")
        boxes = []
        for one in objects:
            kind = one.findtext("name", "")
            if kind not in CELLS:
                raise ValueError(f"its kinds are not only {', '.join(CELLS)}: {kind[:40]!r}")
            left, top, right, bottom = (int(one.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax"))
            box = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
            if box[0] < box[2] and box[1] < box[3]:
                boxes.append((kind, box))
        return boxes
    except (ElementTree.ParseError, ValueError) as error:
        raise FileFormatError(f"{path} is not an annotation that can be read: {error}") from None


# -- training and testing ---------------------------------------------------------------------------------
def train(library, model, training, validation, epochs: int, seconds: float, batch: int) -> list[float]:
    """Adam on the cross-entropy, until `epochs` or `seconds` are over; the validation accuracy after each epoch."""
    images, labels = (library.from_numpy(a) for a in training)
    optimizer = library.optim.Adam(model.parameters(), lr=1e-3)
    loss_function = library.nn.CrossEntropyLoss()

    def step(x, y):
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    step, forward = compiled(library, step), compiled(library, model)
    accuracies: list[float] = []
    start = said = time.perf_counter()
    while len(accuracies) < epochs and (not accuracies or time.perf_counter() - start < seconds):
        losses = []
        for rows in library.randperm(len(images)).split(batch):
            losses.append(step(images[rows], labels[rows]).item())
            now = time.perf_counter()
            if now - start >= seconds:
                break
            if now - said >= 5:
                print(f"{now - start:5.0f} s  image {len(losses) * batch:6,}  loss {np.mean(losses):.4f}", flush=True)
                said = now
        accuracies.append(float((predict(library, forward, validation[0], batch) == validation[1]).mean()))
        said = time.perf_counter()
        print(
            f"{said - start:5.0f} s  epoch {len(accuracies)}  loss {np.mean(losses):.4f}  "
            f"validation accuracy {accuracies[-1]:.2%}",
            flush=True,
        )
    return accuracies


def predict(library, forward, images: np.ndarray, batch: int) -> np.ndarray:
    """The class of each image."""
    with library.no_grad():
        parts = library.from_numpy(images).split(batch)
        return np.concatenate([forward(part).argmax(1).numpy() for part in parts])


def main(arguments: list[str] | None = None) -> list[float]:
    """The validation accuracy after each epoch."""
    parser = argparse.ArgumentParser(description="The textbook's convolutional network on CIFAR-10 or blood cells.")
    parser.add_argument("--library", choices=["deepcore", "torch"], default="deepcore")
    parser.add_argument("--cifar", metavar="FOLDER", help="CIFAR-10's files, in place of blood cells")
    parser.add_argument("--epochs", type=int, help="default 5; with --minutes, as many as there is time for")
    parser.add_argument("--minutes", type=float, help="how long to train at most")
    parser.add_argument("--batch", type=int, default=64, help="images in a step (default 64)")
    options = parser.parse_args(arguments)
    library = library_called(options.library)
    if options.cifar is not None:
        from deepcore.data.cifar import CIFAR10_CLASSES as classes

        training, validation = (read_cifar(options.cifar, split) for split in ("train", "test"))
    elif "DEEPCORE_DATA" in os.environ:
        folder, classes = Path(os.environ["DEEPCORE_DATA"]) / "bccd", tuple(CELLS.values())
        training, validation = (read_cells(folder, split) for split in ("trainval", "test"))
    else:
        raise DataError(
            "there are no images", fix="export DEEPCORE_DATA=the folder that has bccd/, or give --cifar a folder"
        )

    library.manual_seed(0)
    model = network(library, len(classes))
    count = sum(p.numel() for p in model.parameters())
    print(
        f"{options.library}: {len(training[0]):,} images to train, {len(validation[0]):,} to validate; {count:,} parameters"
    )
    seconds = float("inf") if options.minutes is None else 60 * options.minutes
    epochs = options.epochs
    if epochs is None:
        epochs = 5 if options.minutes is None else sys.maxsize
    accuracies = train(library, model, training, validation, epochs, seconds, options.batch)

    predicted = predict(library, model, validation[0], options.batch)
    for i, name in enumerate(classes):
        of_class = validation[1] == i
        if of_class.any():
            print(f"{name:>12}: {(predicted[of_class] == i).mean():7.2%} of {of_class.sum():,} right")
    return accuracies


if __name__ == "__main__":
    try:
        main()
    except DeepcoreError as problem:
        sys.exit(str(problem))
