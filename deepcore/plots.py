"""Pictures of a run, as matplotlib Figures: nothing is shown, and no window or global state is touched."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepcore.errors import ArgumentError, MissingDependencyError, ShapeError
from deepcore.io.files import writing
from deepcore.metrics import check_matrix
from deepcore.tensor import Tensor

_TRAIN, _VALIDATION, _GREY = "#3b6fb6", "#d1602d", "#666666"


@functools.cache
def _figure_class() -> type:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError(
            "plots need matplotlib, which is not installed", fix='pip install "deepcore-nn[plot]"'
        ) from None

    class DeepcoreFigure(Figure):
        """A Figure that notebooks draw without pyplot."""

        def savefig(self, fname, **kwargs):
            """As matplotlib's. Errors: `FileAccessError` for a file that cannot be written."""
            with writing(os.fsdecode(fname)) if isinstance(fname, (str, os.PathLike)) else contextlib.nullcontext():
                super().savefig(fname, **kwargs)

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=110)
            return file.getvalue()

    return DeepcoreFigure


def _figure(width: float, height: float) -> Any:
    return _figure_class()(figsize=(width, height), layout="constrained")


def history(history: Mapping[int, Mapping[str, float]]):
    """The curves of a `History`: a panel for the loss and for each metric, training and validation in one.

    The best validation epoch is marked where it is known which way is better: for the loss. The learning rate has a
    panel of its own if it changes.
    """
    epochs = list(history)
    if not epochs:
        raise ArgumentError("there is no finished epoch to plot", fix="fit(…, epochs=1) or more")
    names = list(dict.fromkeys(name for epoch in epochs for name in history[epoch]))
    curves = {name: np.array([history[e].get(name, math.nan) for e in epochs], dtype=float) for name in names}
    panels = list(dict.fromkeys(name.removeprefix("val_") for name in names))
    if "lr" in panels and len(np.unique(curves["lr"])) == 1:
        panels.remove("lr")
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = _figure(0.6 + 3.9 * columns, 0.3 + 2.9 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for ax, name in zip(axes, panels):
        _curve_panel(ax, name, epochs, curves)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    return figure


def _curve_panel(ax, name: str, epochs: list[int], curves: dict[str, np.ndarray]) -> None:
    from matplotlib.ticker import MaxNLocator

    style: dict[str, Any] = {"linewidth": 1.8}
    if len(epochs) <= 40:
        style |= {"marker": "o", "markersize": 3.5}
    both = name in curves and f"val_{name}" in curves
    for key, color, label in ((name, _TRAIN, "training"), (f"val_{name}", _VALIDATION, "validation")):
        if key in curves:
            ax.plot(epochs, curves[key], color=_GREY if name == "lr" else color, label=label, **style)
    validation = curves.get("val_loss")
    if name == "loss" and validation is not None and np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        ax.axvline(epochs[best], color=_GREY, linewidth=0.9, linestyle=":", zorder=0)
        ax.plot(epochs[best], validation[best], "o", markersize=7, markerfacecolor="none", color=_VALIDATION)
    if name == "lr" and (curves[name] > 0).all() and curves[name].max() > 5 * curves[name].min():
        ax.set_yscale("log")
    ax.set_title({"lr": "learning rate"}.get(name, name.replace("_", " ")), fontsize=11)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(True, color="#e4e4e4", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if both:
        ax.legend(frameon=False, fontsize=9)


def confusion_matrix(matrix, classes: Sequence[str] | None = None, title: str | None = None):
    """True classes down, predicted ones across. Colour is the share of the true class, the number is the count.

    The scale of colours stops where the errors do: the diagonal has a colour of its own, so that rare confusions show.
    """
    array, names = check_matrix(matrix, classes)
    n = len(array)
    if not n:
        raise ShapeError("there is no class to plot", received="shape (0, 0)")
    share = array / np.maximum(array.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(n, dtype=bool)
    side = max(3.2, 0.42 * n + 1.4)
    long = max(map(len, names))
    figure = _figure(side + 0.07 * long, side + (0.3 if title else 0.0))
    ax = figure.subplots()
    worst = max(float(share[~diagonal].max(initial=0.0)), 0.05)
    ax.imshow(np.where(diagonal, np.nan, share), cmap="Oranges", vmin=0, vmax=worst * 1.6)
    ax.imshow(np.where(diagonal, share, np.nan), cmap="Blues", vmin=0, vmax=1.5)
    size = max(5.0, min(10.0, 120 / max(n, 10)))
    for i in range(n):
        for j in range(n):
            if array[i, j] or i == j:
                weight = "bold" if i == j else "normal"
                ax.text(j, i, f"{array[i, j]}", ha="center", va="center", fontsize=size, fontweight=weight)
    ax.set_xticks(range(n), names, rotation=45 if long > 3 else 0, ha="right" if long > 3 else "center")
    ax.set_yticks(range(n), names)
    ax.tick_params(length=0, labelsize=9)
    ax.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="minor", length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    right = int(np.trace(array))
    total = int(array.sum())
    ax.set_title(
        title or (f"{right:,} of {total:,} right ({right / total:.1%})" if total else "no samples"), fontsize=11
    )
    return figure


def images(images, labels: Sequence | None = None, predictions: Sequence | None = None, columns: int = 8):
    """A grid of images (N, H, W), (N, 1, H, W) or (N, 3, H, W); one of them may come without N.

    Floating images are shown from their own least to largest value (RGB: 0 to 1), whole ones from 0 to 255.
    `labels` stand above them; with `predictions` too, a wrong one is written in red as "predicted (label)".
    """
    array = _host(images)
    if array.ndim == 2 or (array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[1] > 3):
        array = array[None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        array = array[:, 0] if array.shape[1] == 1 else np.moveaxis(array, 1, -1)
    if array.ndim != 3 and not (array.ndim == 4 and array.shape[-1] == 3):
        raise ShapeError(
            "images have the shape (N, H, W), (N, 1, H, W) or (N, 3, H, W)",
            received=str(_host(images).shape),
            fix="images.reshape(-1, 1, height, width)",
        )
    if not len(array):
        raise ShapeError("there is no image to plot")
    for name, given in (("labels", labels), ("predictions", predictions)):
        if given is not None and len(given) != len(array):
            raise ArgumentError(f"{len(given)} {name} for {len(array)} images")
    columns = min(columns, len(array))
    rows = -(-len(array) // columns)
    head = 0.24 if labels is not None or predictions is not None else 0.04
    cell = 0.95 * array.shape[1] / array.shape[2]
    figure = _figure(0.95 * columns + 0.2, rows * (cell + head) + 0.2)
    scale: dict[str, Any] = {"cmap": "gray"}
    if array.dtype.kind in "iub":
        scale |= {"vmin": 0, "vmax": 1 if array.dtype.kind == "b" else 255}
    elif array.ndim == 3:
        scale |= {"vmin": float(np.nanmin(array)), "vmax": float(np.nanmax(array))}
    for index, ax in enumerate(figure.subplots(rows, columns, squeeze=False).reshape(-1)):
        ax.set_axis_off()
        if index < len(array):
            ax.imshow(
                np.clip(array[index], 0, 1) if array.dtype.kind == "f" and array.ndim == 4 else array[index], **scale
            )
            text, wrong = _caption(labels, predictions, index)
            ax.set_title(text, fontsize=9, pad=2, color="#c0281c" if wrong else "black")
    return figure


def _caption(labels, predictions, index: int) -> tuple[str, bool]:
    label, prediction = (None if v is None else _plain(v[index]) for v in (labels, predictions))
    if label is None or prediction is None:
        return str(prediction if label is None else label) if (label, prediction) != (None, None) else "", False
    wrong = label != prediction
    return (f"{prediction} ({label})" if wrong else str(label)), wrong


def _plain(value):
    return value.item() if hasattr(value, "item") else value


def _host(value) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.backend.to_host(value._data)
    elif hasattr(value, "get"):  # a CuPy array
        value = value.get()
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "V" else array
