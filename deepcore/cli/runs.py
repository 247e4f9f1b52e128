"""Run folders: the model, the description of its inputs, the experiment, and the results of training.

model.safetensors   the network, which predict builds from this file alone
input.json          shape, normalisation, class names
config.toml         the experiment as it was run; `deepcore train` takes it
history.csv         a line per epoch
history.png         its curves, where matplotlib is installed
result.json         loss and metrics on the test data, seconds, versions
checkpoint*.safetensors, best.safetensors   the checkpoint for --resume, and those that [train] keeps
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from deepcore.cli.inputs import Inputs
from deepcore.errors import ArgumentError, DataError
from deepcore.io.files import atomic_write, writing

MODEL, INPUTS, CONFIG, HISTORY, PLOT, RESULT = (
    "model.safetensors",
    "input.json",
    "config.toml",
    "history.csv",
    "history.png",
    "result.json",
)

#: The file names of `Trainer(out=…)`.
CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"


def create(out: str | None, name: str, overwrite: bool) -> Path:
    """A new folder: `out`, or runs/<name>-<time>. An existing run is kept unless `overwrite`."""
    if out is not None:
        folder = Path(out).expanduser()
        if not overwrite:
            if (folder / MODEL).exists():
                raise ArgumentError(f"{out!r} holds a run already", fix="another --out, or --overwrite to replace it")
            if (folder / CHECKPOINT).exists():
                raise ArgumentError(
                    f"{out!r} holds a run that was stopped", fix=f"--resume {out}, or --overwrite to replace it"
                )
    else:
        base = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        folder, count = base, 1
        while folder.exists():
            count += 1
            folder = base.with_name(f"{base.name}-{count}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"the folder {str(folder)!r} cannot be made: {error}", fix="--out another folder") from None
    return folder


def clear(folder: Path) -> None:
    """Remove the files of an earlier run, so that --resume and predict read only those of the new one."""
    for path in (
        *(folder / name for name in (MODEL, HISTORY, PLOT, RESULT, BEST)),
        *folder.glob("checkpoint*.safetensors"),
    ):
        with writing(str(path)):
            path.unlink(missing_ok=True)


def load(path: str, backend: str | None = None) -> tuple[Any, Inputs]:
    """(the model in evaluation mode, its inputs) of a run folder."""
    from deepcore.nn import Sequential

    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no run {path!r}", fix=_nearest(folder))
    missing = [name for name in (MODEL, INPUTS) if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{path!r} is not a finished run: it has no {' and no '.join(missing)}",
            fix=f"deepcore train --out {path}",
        )
    inputs = Inputs.load(folder / INPUTS)
    return Sequential.load(folder / MODEL, backend=backend).eval(), inputs


def _nearest(folder: Path) -> str:
    for parent in (folder.parent, Path("runs")):
        run_folders = sorted(p.parent for p in parent.glob(f"*/{MODEL}"))
        if run_folders:
            return f"for example {run_folders[-1]}"
    return "deepcore train makes one"


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, table: dict[str, Any]) -> None:
    write_text(path, json.dumps(table, indent=1) + "\n")
