"""`ProgressBar`: a tqdm bar in terminals and notebooks, a line per epoch everywhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from deepcore.data.bars import tqdm_class
from deepcore.train.callbacks import Callback
from deepcore.train.history import format_value


class ProgressBar(Callback):
    """A line per epoch with its values and seconds; while it runs, a bar with the loss and metrics so far.

    bar: draw bars where they can be drawn (a terminal or a notebook); False: lines only. `fit(verbose=1)` adds one.
    """

    def __init__(self, bar: bool = True):
        self._bar_enabled = bar
        self._draws = False
        self._bar: Any = None
        self._in_fit = False
        self._started = time.perf_counter()

    def on_train_begin(self, logs) -> None:
        self._in_fit = True
        self._draws = self._bar_enabled and _can_draw()
        self._started = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs) -> None:
        self._started = time.perf_counter()

    def on_train_batch_begin(self, batch: int, logs) -> None:
        if self._draws and self._bar is None:
            self._open(self._epoch(), self.trainer.batches, batch)

    def on_train_batch_end(self, batch: int, logs) -> None:
        self._advance(logs)

    def on_test_begin(self, logs) -> None:
        self.close()
        if not self._in_fit:
            self._draws = self._bar_enabled and _can_draw()
            self._started = time.perf_counter()
        if self._draws:
            self._open(f"{self._epoch()} validation" if self._in_fit else "evaluation", logs["batches"], 0)

    def on_test_batch_end(self, batch: int, logs) -> None:
        self._advance(logs)

    def on_test_end(self, logs) -> None:
        self.close()
        if not self._in_fit:
            self._line("evaluation", logs)

    def on_epoch_end(self, epoch: int, logs) -> None:
        self.close()
        count = len(str(self.trainer.epochs))
        self._line(f"epoch {epoch + 1:>{count}}/{self.trainer.epochs}", logs)
        self._started = time.perf_counter()

    def _epoch(self) -> str:
        return f"epoch {self.trainer.epoch + 1}/{self.trainer.epochs}"

    def _line(self, head: str, logs) -> None:
        print(f"{head}  {_values(logs, '  ')}  {time.perf_counter() - self._started:.1f} s", flush=True)

    def _open(self, head: str, total: int | None, done: int) -> None:
        self._bar = _bar_class()(total=total, initial=done, desc=head, unit="batch", leave=False, miniters=1)

    def _advance(self, logs) -> None:
        bar = self._bar
        if bar is None:
            return
        # Metrics are computed on access, so only when the bar is drawn.
        if time.time() - bar.last_print_t >= bar.mininterval:
            bar.set_postfix_str(_values(logs, ", "), refresh=False)
        bar.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_train_end(self, logs) -> None:
        self.close()
        self._in_fit = False


def _values(logs, separator: str) -> str:
    return separator.join(f"{name} {format_value(name, float(logs[name]))}" for name in logs)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and hasattr(shell, "kernel")


def _can_draw() -> bool:
    try:
        return sys.stderr.isatty() or _in_notebook()
    except (AttributeError, ValueError):  # no stderr, or a closed one
        return False


def _bar_class() -> type:
    # No monitor thread: it only adjusts a dynamic miniters, and a fork with threads running gives a warning.
    return type("Bar", (tqdm_class(),), {"monitor_interval": 0})
