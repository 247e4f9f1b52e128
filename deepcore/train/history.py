"""`History`: the logs of a run, epoch by epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from deepcore.errors import ArgumentError, suggest


class History(Mapping[Any, Any]):
    """Epoch (from 1) → {name: value}; and name → the list of its values.

    >>> history[3]["val_loss"], history["val_loss"][2]     # the same number

    Names: "loss" and the metrics (means over the epoch's training batches), the same with "val_" in front for the
    validation data, "lr" (of the first parameter group), and what callbacks add. `interrupted` is True if Ctrl-C
    or a signal ended the run. Only finished epochs are in it. `print(history)` shows the table.
    """

    def __init__(self, start: int = 0) -> None:
        self.interrupted = False
        self._epochs: list[dict[str, float]] = []
        #: Epochs before the first one here: `fit(initial_epoch=…)`.
        self.start = start
        self.model: Any = None
        #: What `fit` ran with: epochs, steps (batches of an epoch, or None) and verbose.
        self.params: dict[str, Any] = {}

    @property
    def history(self) -> dict[str, list[float]]:
        """Name → the values of the epochs that have it, as Keras's `history.history`."""
        return {name: [logs[name] for logs in self._epochs if name in logs] for name in self.names}

    @property
    def epoch(self) -> list[int]:
        """The numbers of the epochs, from 0, as in Keras."""
        return [self.start + i for i in range(len(self._epochs))]

    @property
    def last(self) -> dict[str, float]:
        """The logs of the last epoch."""
        return self._epochs[-1] if self._epochs else {}

    def append(self, logs: dict[str, float]) -> None:
        """Add the next epoch; `logs` is kept, not copied."""
        self._epochs.append(logs)

    def __getitem__(self, key) -> Any:
        if isinstance(key, str):
            names = self.names
            if key not in names:
                raise _NoSuchName(f"the history has no {key!r}", fix=suggest(key, names))
            return [logs.get(key, float("nan")) for logs in self._epochs]
        first, last = self.start + 1, self.start + len(self._epochs)
        if not isinstance(key, int) or not first <= key <= last:
            raise _NoSuchName(f"the history has no epoch {key!r}", expected=f"{first} to {last}, or a name")
        return self._epochs[key - first]

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start + 1, self.start + len(self._epochs) + 1))

    def __len__(self) -> int:
        return len(self._epochs)

    @property
    def names(self) -> list[str]:
        """Every name that occurs, in order of first occurrence."""
        return list(dict.fromkeys(name for logs in self._epochs for name in logs))

    def plot(self):
        """The curves as a matplotlib Figure."""
        from deepcore import plots

        return plots.history(self)

    def save_csv(self, path) -> None:
        """One line per epoch, with every digit; epochs from 1."""
        from deepcore.io.files import atomic_write

        text = io.StringIO()
        names = self.names
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["epoch", *names])
        for epoch in self:
            writer.writerow([epoch, *(self[epoch].get(name, "") for name in names)])
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": [dict(logs) for logs in self._epochs], "start": self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epochs = [dict(logs) for logs in state["epochs"]]
        self.start = state.get("start", 0)

    def __repr__(self) -> str:
        if not self._epochs:
            return "History(no finished epoch)"
        names = self.names
        rows = [["epoch", *names]]
        for epoch in self:
            logs = self[epoch]
            rows.append([str(epoch), *(format_value(name, logs[name]) if name in logs else "" for name in names)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(lines + (["interrupted"] if self.interrupted else []))


class _NoSuchName(ArgumentError, KeyError):
    """Also a `KeyError`, so that `in` and `get` work."""

    __str__ = ArgumentError.__str__


def format_value(name: str, value: float) -> str:
    """Four decimals; three significant digits for learning rates and for very small or large values."""
    if name == "lr" or (value and not 1e-3 <= abs(value) < 1e5):
        return f"{value:.3g}"
    return f"{value:.4f}"
