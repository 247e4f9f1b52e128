"""Preprocessing of samples from files as in training; saved in a run as input.json."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deepcore.cli.columns import Columns
from deepcore.cli.text import Text
from deepcore.errors import DataError, DeepcoreError, FileFormatError
from deepcore.io.files import atomic_write, open_regular
from deepcore.io.readers import read_samples
from deepcore.io.tables import read_numbers

#: The kinds of a model's output.
OUTPUTS = ("logits", "log_probabilities", "logit", "probability", "values")
_MAX_VALUES = 1 << 28
_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


@dataclass
class Inputs:
    """x ↦ (x - mean) / std, on samples of `shape`.

    `unit`: the value in the data set's own files that is 1.0 in the inputs (16 for the digits, 255 for MNIST), if scaled.
    `background`: 0.0 or 1.0, the usual colour of an image's edge, if samples are grey images; else None.
    `classes`: their names, for a classifier. `output`: the kind of the model's output. `columns`: the table columns of the
    samples, if they come from a table. `text`: their vocabulary, if they are text, which is not normalised.
    """

    shape: tuple[int, ...]
    mean: Any = 0.0
    std: Any = 1.0
    unit: float | None = None
    background: float | None = None
    classes: tuple[str, ...] | None = None
    output: str = "values"
    columns: Columns | None = None
    text: Text | None = None

    @classmethod
    def fit(cls, inputs: np.ndarray, normalize: str, unit, classes, output: str, columns=None, text=None) -> Inputs:
        """Mean, deviation and background from the training inputs."""
        inputs_ = cls(tuple(inputs.shape[1:]), unit=unit, classes=classes, output=output, columns=columns, text=text)
        if normalize != "none":
            axis = None if normalize == "all" else 0
            values = inputs.astype(np.float64)
            mean, std = values.mean(axis), values.std(axis)
            inputs_.mean, inputs_.std = mean.tolist(), np.where(std > 0, std, 1.0).tolist()
        grey = len(inputs_.shape) == 3 and inputs_.shape[0] == 1 and min(inputs_.shape[1:]) > 2
        if grey and unit is not None:
            inputs_.background = float(np.median(_edge(inputs)) > 0.5)
        return inputs_

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self.text is not None:
            return x
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return ((x - mean) / std).astype(np.float32, copy=False)

    def read(self, path) -> np.ndarray:
        """The samples of a file, in the units of the training data and not yet normalised.

        An image becomes grey (or RGB, as the model needs), is resized to the model's input, and is inverted when its
        edge is light and the training data's is dark, or vice versa. Numbers of a scaled data set are read as fractions
        of 1 when none is above 1, as the set's own units (digits: 0 to 16) when none is above those, and else
        as 8-bit (0 to 255). From a CSV file, a network trained on one reads its training columns. For a network trained
        on text, each line is a sample.
        """
        if self.text is not None:
            return self.text.read(path)
        x = read_samples(path, self.shape, read_numbers if self.columns is None else self.columns.read)
        with open(path, "rb") as file:
            head = file.read(8)
        if head.startswith(_IMAGES):
            if self.background is not None and abs(float(np.median(_edge(x))) - self.background) > 0.5:
                x = 1 - x
        elif self.unit is not None:
            x = self._scaled(x, str(path))
        if not np.isfinite(x).all():
            raise DataError(f"{str(path)!r} has values that are not finite", fix="fill in missing values")
        return x

    def _scaled(self, x: np.ndarray, name: str) -> np.ndarray:
        assert self.unit is not None
        largest = float(x.max(initial=0.0))
        if largest > 255:
            raise DataError(
                f"{name!r} has values that are no pixels", expected=f"at most {self.unit:g}, or 255",
                received=f"{largest:g}",
            )  # fmt: skip
        if largest > 1:
            return x / np.float32(self.unit if largest <= self.unit else 255)
        # read_samples scales 8-bit values to fractions of 255; values this dark are in the set's own, smaller units.
        if self.unit < 255 and 0 < largest <= self.unit / 255 * (1 + 1e-6):
            return x * np.float32(255 / self.unit)
        return x

    def save(self, path) -> None:
        with atomic_write(path) as file:
            file.write((json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path) -> Inputs:
        """Errors: `FileFormatError` for a file that does not describe inputs."""
        try:
            with open_regular(path) as file:
                loaded = cls(**json.loads(file.read().decode()))
            loaded._check()
        except DeepcoreError:
            raise
        except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
            raise FileFormatError(
                f"{str(path)!r} does not describe a model's inputs: {error}", fix="train the run again"
            ) from None
        return loaded

    def _check(self) -> None:
        """Convert values from JSON to their types; ValueError, TypeError or OverflowError for invalid ones."""
        self.shape = tuple(int(n) for n in self.shape)
        if not self.shape or min(self.shape) < 1 or math.prod(self.shape) > _MAX_VALUES:
            raise ValueError(f"a sample has no shape {self.shape}")
        for values in (self.mean, self.std):
            with np.errstate(over="ignore"):
                array = np.asarray(values, np.float32)
            np.broadcast_to(array, self.shape)
            if not np.isfinite(array).all() or (values is self.std and not array.all()):
                raise ValueError("mean and std are finite, and std is not 0")
        self.unit = None if self.unit is None else float(self.unit)
        self.background = None if self.background is None else float(self.background)
        if self.unit is not None and not 0 < self.unit < math.inf:
            raise ValueError("unit is above 0")
        self.columns = None if self.columns is None else Columns.parse(self.columns)  # type: ignore[arg-type]
        if self.columns is not None and self.columns.inputs != math.prod(self.shape):
            raise ValueError(f"the columns do not fill a sample of shape {self.shape}")
        self.text = None if self.text is None else Text.parse(self.text)  # type: ignore[arg-type]
        if self.text is not None and self.shape != (self.text.length,):
            raise ValueError(f"a text of {self.text.length} tokens has no shape {self.shape}")
        self.classes = None if self.classes is None else tuple(str(name) for name in self.classes)
        if self.output not in OUTPUTS:
            raise ValueError(f"output is one of {', '.join(OUTPUTS)}")


def _edge(images: np.ndarray) -> np.ndarray:
    """The outermost pixels of images (N, 1, H, W)."""
    if images.ndim != 4:
        return images
    inner = np.zeros(images.shape[-2:], bool)
    inner[1:-1, 1:-1] = True
    return images[..., ~inner]
