"""Print the class and its probability for every sample in a file.

RUN is a folder that `deepcore train` made. FILE is CSV (a sample in each row), NPY or IDX (a sample per first index),
or a PNG or JPEG image, which becomes grey (RGB for a network of three channels), is resized to the network's input,
and is inverted when its edge is light where the training images' is dark. Pixels in CSV, NPY and IDX files may be
fractions of 1, the data set's own units (digits: 0 to 16) or 8-bit (0 to 255).

A network that was trained on a CSV file takes the columns it was trained on from FILE: by name where both files name
them, else by position, with or without the target. Texts become what they were in training.

For a network that was trained on text, FILE is text, a sample in each line.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from deepcore.errors import printable

_BATCH = 1024


def arguments(parser) -> None:
    parser.add_argument("folder", metavar="RUN", help="a folder that train made")
    parser.add_argument("file", metavar="FILE", help="CSV, NPY, PNG, JPEG or IDX; text")
    parser.add_argument("--top", metavar="K", type=int, default=1, help="print the K likeliest classes (default 1)")
    parser.add_argument("--json", action="store_true", help="print a JSON object per sample")
    parser.add_argument("--backend", "--device", metavar="NAME", help='"cpu", "cuda", "cuda:1" or "auto"')


def run(args) -> int:
    import deepcore as dc
    from deepcore.cli import runs
    from deepcore.errors import ArgumentError

    if args.top < 1:
        raise ArgumentError("--top is at least 1", received=str(args.top))
    backend = dc.get_backend(args.backend)
    model, inputs = runs.load(args.folder, backend.name)
    samples = inputs.read(args.file)
    for start in range(0, len(samples), _BATCH):
        x = dc.tensor(inputs(samples[start : start + _BATCH]), backend=backend)
        with dc.no_grad():
            scores = probabilities(model(x), inputs.output).numpy()
        for row in scores:
            line = describe(row, inputs.classes, args.top)
            sys.stdout.write((json.dumps(line) if args.json else text(line)) + "\n")
    return 0


def probabilities(out, output: str):
    """The model's outputs as probabilities, by the kind of output; "values" are unchanged."""
    import deepcore as dc

    if output == "logits":
        return dc.softmax(out, 1)
    if output == "log_probabilities":
        return dc.exp(out)
    return dc.sigmoid(out) if output == "logit" else out


def describe(row: np.ndarray, classes, top: int) -> dict[str, Any]:
    """A sample's likeliest classes, or its values."""
    if classes is None:
        return {"values": row.astype(float).ravel().tolist()}
    names = class_names(classes, len(row))
    best = np.argsort(-row, kind="stable")[:top]
    ranked = [{"class": names[i], "probability": float(row[i])} for i in best]
    return ranked[0] if top == 1 else {**ranked[0], "top": ranked}


def class_names(classes, outputs: int) -> list[str]:
    """The names of the classes, and numbers for the outputs beyond them."""
    return [*classes, *(str(i) for i in range(len(classes), outputs))]


def text(line: dict[str, Any]) -> str:
    if "values" in line:
        return " ".join(f"{v:.6g}" for v in line["values"])
    return "  ".join(f"{printable(entry['class'])} {entry['probability']:.4f}" for entry in line.get("top", [line]))
