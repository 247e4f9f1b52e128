"""Built-in datasets: the digits bundled with the package, and MNIST."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from deepcore.backend import Backend, get_backend, takes_device
from deepcore.config import settings
from deepcore.data.bars import tqdm_class
from deepcore.data.dataset import TensorDataset
from deepcore.errors import ArgumentError, DataError, FileFormatError, suggest
from deepcore.io.files import atomic_write
from deepcore.io.idx import read_idx
from deepcore.tensor import from_raw

_DIGIT_NAMES = tuple("0123456789")

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
#: SHA-256 of the files as published.
_MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_MAX_DOWNLOAD = 64 << 20


@takes_device
def digits(
    split: str = "train", *, flatten: bool = False, backend: str | Backend | None = None, device=None
) -> TensorDataset:
    """The 1,797 handwritten digits of UCI: images (N, 1, 8, 8) float32 in [0, 1], labels (N,) int64.

    split: "train" (1,437), "test" (360) or "all", or a part such as "train[:1000]". `flatten` gives images (N, 64).
    The split is stratified and fixed: of a class with n samples, t of them for testing, sample r in the file's order
    is a test sample where floor((r + 1) t / n) > floor(r t / n), so the test samples are spread evenly over the
    writers; t is n's share of 360, the largest remainders rounded up.

    Source: Optical Recognition of Handwritten Digits, test part (E. Alpaydin and C. Kaynak, 1998; UCI Machine
    Learning Repository, https://doi.org/10.24432/C50P49, CC BY 4.0), bundled with its attribution.
    """
    name, part = parse_split(split, ("train", "test", "all"))
    folder = Path(__file__).parent
    images = read_idx(folder / "digits.images.idx.gz")
    labels = read_idx(folder / "digits.labels.idx.gz")
    if name != "all":
        test = _stratified(labels, 360)
        chosen = test if name == "test" else ~test
        images, labels = images[chosen], labels[chosen]
    return image_dataset(images[part], labels[part], 16, flatten, backend)


def _stratified(labels: np.ndarray, count: int) -> np.ndarray:
    """A mask of `count` samples in which every class has its share, spread evenly over the class."""
    sizes = np.bincount(labels)
    share = sizes * count
    take = share // len(labels)
    by_remainder = np.argsort(-(share % len(labels)), kind="stable")
    take[by_remainder[: count - take.sum()]] += 1
    mask = np.zeros(len(labels), dtype=bool)
    for label, (n, t) in enumerate(zip(sizes, take, strict=True)):
        rank = np.arange(n)
        mask[np.flatnonzero(labels == label)] = (rank + 1) * t // n > rank * t // n
    return mask


@takes_device
def mnist(
    root: str | os.PathLike | None = None,
    split: str = "train",
    download: bool = True,
    *,
    flatten: bool = False,
    backend: str | Backend | None = None,
    device=None,
    mirrors: Sequence[str] = MNIST_MIRRORS,
    timeout: float = 20.0,
) -> TensorDataset:
    """MNIST: images (N, 1, 28, 28) float32 in [0, 1], labels (N,) int64.

    split: "train" (60,000) or "test" (10,000), or a part such as "train[:1000]". With only the test files,
    split="test[:8000]" to train on and "test[8000:]" to test on.
    root: the folder with the four IDX files, plain or .gz, under their published names; default: `mnist` in the
    folder named by DEEPCORE_DATA, then the user's cache. Missing files are downloaded there (to the cache, without
    `root`) from the first of `mirrors` that answers within `timeout` seconds, and their SHA-256 is checked.

    Source: Y. LeCun, C. Cortes, C. Burges, 1998. Errors: `DataError` when files are missing and cannot be downloaded.
    """
    name, part = parse_split(split, ("train", "test"))
    prefix = "train" if name == "train" else "t10k"
    folders = data_folders(root, "mnist")
    needed = [f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"]
    paths = [_find(file, folders) for file in needed]
    target = Path(root) if root is not None else _cache() / "mnist"
    failures: list[str] = []
    if download:
        for i, file in enumerate(needed):
            if paths[i] is None:
                paths[i] = _download(file, target, mirrors, timeout, failures)
    missing = [file for file, path in zip(needed, paths, strict=True) if path is None]
    if missing:
        other_prefix = "t10k" if prefix == "train" else "train"
        fix = f"place {' and '.join(missing)} (or the unpacked files) in {target}"
        if prefix == "train" and _find(f"{other_prefix}-images-idx3-ubyte.gz", folders):
            fix += "; the test files are there: split='test[:8000]' and split='test[8000:]' train and test on them"
        raise DataError(
            f"MNIST's {name} files are not in {', '.join(str(f) for f in folders)}"
            + ("" if download else ", and download=False"),
            received="; ".join(failures) or None,
            fix=fix,
        )
    images, labels = (read_idx(path) for path in paths)
    if images.dtype != np.uint8 or images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise FileFormatError(
            f"{paths[0]} and {paths[1]} do not belong together",
            expected="uint8 images (N, rows, columns) and labels (N,)",
            received=f"{images.dtype} {images.shape} and {labels.dtype} {labels.shape}",
        )
    return image_dataset(images[part], labels[part], 255, flatten, backend)


def image_dataset(images, labels, scale: int, flatten: bool, backend, classes=_DIGIT_NAMES) -> TensorDataset:
    """Images (N, H, W) or (N, C, H, W) of whole numbers to `scale`, with one channel or C, and labels."""
    target = get_backend(backend)
    pixels = images.astype(np.float32) / np.float32(scale)
    if flatten:
        pixels = pixels.reshape(len(images), -1)
    elif pixels.ndim == 3:
        pixels = pixels[:, None]
    tensors = (from_raw(target.from_host(a), target) for a in (pixels, labels.astype(np.int64)))
    return TensorDataset(*tensors, classes=classes)


def parse_split(split: str, names: tuple[str, ...]) -> tuple[str, slice]:
    """`"test[:8000]"` to ("test", slice(None, 8000))."""
    match = re.fullmatch(r"(\w+)(?:\[(-?\d*):(-?\d*)\])?", split) if isinstance(split, str) else None
    if match is None or match[1] not in names:
        raise ArgumentError(
            f"there is no split {split!r}",
            expected="one of " + ", ".join(repr(n) for n in names) + f", or a part of it such as '{names[-1]}[:1000]'",
            fix=suggest(str(split), names),
        )
    start, stop = (int(text) if text and text != "-" else None for text in (match[2], match[3]))
    return match[1], slice(start, stop)


def _cache() -> Path:
    """The user's cache folder for deepcore on this system."""
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "deepcore"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "deepcore"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepcore"


def data_folders(root, name: str) -> list[Path]:
    """Where the files of a dataset are looked for: `root`, or its folder in DEEPCORE_DATA and in the cache."""
    if root is not None:
        return [Path(root)]
    if settings.data_dir and not Path(settings.data_dir).is_dir():
        raise DataError(
            "DEEPCORE_DATA names no folder", received=repr(settings.data_dir), fix="name one that is there, or unset it"
        )
    shared = [Path(settings.data_dir) / name] if settings.data_dir else []
    return [*shared, _cache() / name]


def _find(file: str, folders: list[Path]) -> Path | None:
    for folder in folders:
        for name in (file, file.removesuffix(".gz")):
            if (folder / name).is_file():
                return folder / name
    return None


def _download(file: str, folder: Path, mirrors: Sequence[str], timeout: float, failures: list[str]) -> Path | None:
    """`file` from the first mirror that has it, or None, with the reasons added to `failures`."""
    import http.client
    import urllib.request

    for mirror in mirrors:
        url = mirror.rstrip("/") + "/" + file
        try:
            folder.mkdir(parents=True, exist_ok=True)
            request = urllib.request.Request(url, headers={"User-Agent": "deepcore"})
            with urllib.request.urlopen(request, timeout=timeout) as response, atomic_write(folder / file) as out:
                digest = _copy(response, out, file)
                if digest != _MNIST_SHA256[file]:
                    raise DataError(f"its SHA-256 is {digest}, not that of the published file")
            return folder / file
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{url}: {getattr(error, 'problem', None) or error or type(error).__name__}")
    return None


def _copy(response, out: BinaryIO, label: str) -> str:
    """Copy with a progress bar; returns the SHA-256."""
    digest, copied = hashlib.sha256(), 0
    announced = response.headers.get("Content-Length", "")
    total = int(announced) if announced.isdigit() else None
    with _progress(total, label) as progress:
        while block := response.read(1 << 16):
            copied += len(block)
            if copied > _MAX_DOWNLOAD:
                raise DataError(f"more than {_MAX_DOWNLOAD:,} bytes came")
            out.write(block)
            digest.update(block)
            progress.update(len(block))
    if total is not None and copied != total:
        raise DataError(f"the connection ended after {copied:,} of {total:,} bytes")
    return digest.hexdigest()


def _progress(total: int | None, label: str):
    return tqdm_class()(total=total, desc=label, unit="B", unit_scale=True, leave=False)
