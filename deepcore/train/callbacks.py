"""Callbacks of the training loop. Names and behaviour are Keras's (F. Chollet et al.)."""

from __future__ import annotations

import csv
import inspect
import io
import math
import operator
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from deepcore.errors import ArgumentError, FileFormatError, suggest
from deepcore.io.files import atomic_write, make_folder, open_regular, writing

if TYPE_CHECKING:
    from deepcore.train.trainer import Trainer


class Callback:
    """Base of callbacks; override any method. `epoch` and `batch` count from 0; `logs` are {name: value}.

    During a call, `self.trainer` and `self.model` are the run's. To end it: `self.trainer.stop_training = True`, or, as
    in Keras, `self.model.stop_training = True`. `on_batch_begin` and `on_batch_end` are other names of
    `on_train_batch_begin` and `on_train_batch_end`.
    In `on_train_batch_end` logs are means over the epoch so far; in `on_epoch_end` all of the epoch's values, and
    numbers added to them go into the history (list their names in `log_names`, so that others can monitor them).

    `state_dict` and `load_state_dict` are part of checkpoints: state that changes between calls belongs there. A
    resumed run calls `on_train_begin` first, then `load_state_dict`; resumed inside an epoch, it continues without
    calling `on_epoch_begin` again.
    """

    log_names: tuple[str, ...] = ()
    #: Whether the callback handles a NaN or infinite loss or gradient, which is otherwise an error: `logs` then have the
    #: loss (NaN for a gradient), and the batch has changed nothing.
    handles_non_finite = False
    trainer: Trainer

    def set_trainer(self, trainer: Trainer) -> None:
        self.trainer = trainer

    @property
    def model(self):
        return self.trainer.model

    @property
    def params(self) -> dict[str, Any]:
        """What the fit runs with: epochs, steps (batches of an epoch, or None) and verbose."""
        return self.trainer.history.params

    def on_train_begin(self, logs) -> None: ...
    def on_train_end(self, logs) -> None: ...
    def on_epoch_begin(self, epoch: int, logs) -> None: ...
    def on_epoch_end(self, epoch: int, logs) -> None: ...
    def on_train_batch_begin(self, batch: int, logs) -> None: ...
    def on_train_batch_end(self, batch: int, logs) -> None: ...
    def on_test_begin(self, logs) -> None: ...
    def on_test_end(self, logs) -> None: ...
    def on_test_batch_begin(self, batch: int, logs) -> None: ...
    def on_test_batch_end(self, batch: int, logs) -> None: ...
    def on_predict_begin(self, logs) -> None: ...
    def on_predict_end(self, logs) -> None: ...
    def on_predict_batch_begin(self, batch: int, logs) -> None: ...
    def on_predict_batch_end(self, batch: int, logs) -> None: ...

    def close(self) -> None:
        """Called when the run ends, also by an error."""

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a `state_dict()`."""
        vars(self).update(state)


EVENTS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class LambdaCallback(Callback):
    """Functions as a callback: `LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))`."""

    def __init__(self, **functions: Callable):
        for name, function in functions.items():
            if name not in EVENTS:
                raise ArgumentError(f"callbacks have no event {name!r}", fix=suggest(name, EVENTS))
            setattr(self, name, function)


class _Monitor(Callback):
    """Base of callbacks that monitor one value of the logs at the end of every epoch."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0):
        if mode not in ("auto", "min", "max"):
            raise ArgumentError("mode is 'min', 'max' or 'auto'", received=repr(mode))
        self.monitor, self.mode, self.min_delta = monitor, mode, abs(min_delta)
        self._better = operator.lt

    def check(self) -> None:
        """Raise unless the logs will have the monitored name and its direction of improvement is known."""
        names = self.trainer.log_names()
        kind = type(self).__name__
        if self.monitor not in names:
            fix = suggest(self.monitor, names)
            if self.monitor.startswith("val_") and "val_loss" not in names:
                fix = f"fit(…, validation=data), or {kind}(monitor={self.monitor[4:]!r})"
                if self.monitor[4:] not in names:
                    validation_names = [f"val_{name}" for name in names if name != "lr"]
                    fix = f"{suggest(self.monitor, [*names, *validation_names])} (val_… needs fit(…, validation=data))"
            raise ArgumentError(f"{kind} monitors {self.monitor!r}, which no epoch will have", fix=fix)
        mode = self.mode if self.mode != "auto" else self._mode_of(self.monitor.removeprefix("val_"))
        if mode is None:
            raise ArgumentError(
                f"{kind} cannot tell whether {self.monitor!r} should fall or rise", fix="mode='min' or 'max'"
            )
        self._better = operator.lt if mode == "min" else operator.gt

    def _mode_of(self, name: str) -> str | None:
        if name in self.trainer.loss_names():
            return "min"
        return next((metric.mode for metric in self.trainer.metrics if metric.name == name), None)

    def improved(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than `best` by more than `min_delta`; NaN never is."""
        if best is None:
            return not math.isnan(value)
        return self._better(value + self.min_delta if self._better is operator.lt else value - self.min_delta, best)

    def skips(self, logs) -> bool:
        """Whether this epoch has no value because the run did not validate after it (`validation_freq`)."""
        return self.monitor not in logs and self.monitor.startswith("val_") and self.monitor in self.trainer.log_names()

    def value(self, logs) -> float:
        if self.monitor not in logs:
            raise ArgumentError(
                f"{type(self).__name__} monitors {self.monitor!r}, which this epoch does not have",
                fix=suggest(self.monitor, logs),
            )
        return float(logs[self.monitor])


class EarlyStopping(_Monitor):
    """Ends the run when `monitor` has not improved by more than `min_delta` for `patience` epochs.

    mode: "min", "max", or "auto" by the metric. baseline: patience also runs out unless the value beats it.
    start_from_epoch: epochs to skip first. restore_best_weights: at the end the model has the weights of the best
    epoch, whether or not the run stopped early (not after an interrupt: model and optimizer stay consistent).
    After the run, `stopped_epoch` (0: was not stopped), `best` and `best_epoch` have the outcome, epochs from 0.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ):
        super().__init__(monitor, mode, min_delta)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch
        self._reset()

    def _reset(self) -> None:
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best: float | None = None
        self.best_weights: dict[str, Any] | None = None

    def on_train_begin(self, logs) -> None:
        self._reset()
        self.check()

    def on_epoch_end(self, epoch: int, logs) -> None:
        if self.skips(logs):
            return
        value = self.value(logs)
        if epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._save_weights(epoch)
        self.wait += 1
        if self.improved(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self._save_weights(epoch)
            if self.baseline is None or self.improved(value, self.baseline):
                self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.trainer.stop_training = True

    def _save_weights(self, epoch: int) -> None:
        self.best_weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.best_epoch = epoch

    def on_train_end(self, logs) -> None:
        if self.verbose and self.stopped_epoch:
            print(
                f"epoch {self.stopped_epoch + 1}: stopped early, {self.monitor} was best in epoch {self.best_epoch + 1}"
            )
        if self.best_weights is not None and not self.trainer.history.interrupted:
            self.model.load_state_dict(self.best_weights)
            if self.verbose:
                print(f"the model has the weights of epoch {self.best_epoch + 1}")

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("wait", "best", "best_epoch", "best_weights")}


class ReduceLROnPlateau(_Monitor):
    """lr ← max(lr · factor, min_lr), in every parameter group, when `monitor` has not improved for `patience` epochs.

    After a reduction, `cooldown` epochs pass before waiting begins again.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ):
        if not 0 < factor < 1:
            raise ArgumentError("factor lies between 0 and 1", received=f"factor={factor!r}")
        super().__init__(monitor, mode, min_delta)
        self.factor, self.patience, self.verbose = factor, patience, verbose
        self.cooldown, self.min_lr = cooldown, min_lr
        self._reset()

    def _reset(self) -> None:
        self.wait = self.cooldown_counter = 0
        self.best: float | None = None

    def on_train_begin(self, logs) -> None:
        self._reset()
        self.check()

    def on_epoch_end(self, epoch: int, logs) -> None:
        if self.skips(logs):
            return
        value = self.value(logs)
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.improved(value, self.best):
            self.best, self.wait = value, 0
        elif self.cooldown_counter == 0:
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce(epoch)

    def _reduce(self, epoch: int) -> None:
        groups = [g for g in self.trainer.optimizer.param_groups if g["lr"] > self.min_lr]
        for group in groups:
            group["lr"] = max(group["lr"] * self.factor, self.min_lr)
        if groups:
            self.cooldown_counter, self.wait = self.cooldown, 0
            if self.verbose:
                print(f"epoch {epoch + 1}: learning rate reduced to {self.trainer.lr:.3g}")

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("wait", "cooldown_counter", "best")}


class ModelCheckpoint(_Monitor):
    """Saves the run, or the model alone, at the end of epochs or every `save_freq` batches.

    filepath: may name `{epoch}` (from 1), `{batch}` and the logs, as "weights-{epoch:02d}-{val_loss:.3f}.safetensors";
    missing folders are made. save_weights_only: `model.save(path)`; else a whole checkpoint, for `fit(resume=path)`.
    save_best_only: only when `monitor` improves, at first on `initial_value_threshold`. save_freq: "epoch", or a
    number of batches. asynchronous: a copy of the state is written by a background thread; an error of that is raised after
    the next batch or at the end of the run, and a process that is killed leaves the file before or after, never a part.
    """

    def __init__(
        self,
        filepath: str | os.PathLike,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
        asynchronous: bool = False,
    ):
        super().__init__(monitor, mode)
        self.asynchronous = asynchronous
        self.save_freq = _check_save_freq(save_freq)
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only
        self.best = initial_value_threshold
        self._batches, self._last = 0, 0

    def on_train_begin(self, logs) -> None:
        if self.save_best_only:
            self.check()

    def on_train_batch_end(self, batch: int, logs) -> None:
        self._batches, self._last = self._batches + 1, batch
        if self.save_freq != "epoch" and self._batches % self.save_freq == 0:
            self._save(self.trainer.epoch, batch, logs)

    def on_epoch_end(self, epoch: int, logs) -> None:
        if self.save_freq == "epoch":
            self._save(epoch, self._last, logs)

    def _save(self, epoch: int, batch: int, logs) -> None:
        if self.save_best_only:
            if self.skips(logs):
                return
            value = self.value(logs)
            if not self.improved(value, self.best):
                return
            self.best = value
        path = self._path(epoch, batch, logs)
        make_folder(os.path.dirname(path) or os.curdir)
        if self.save_weights_only:
            self.trainer.follow(self.model.save(path, wait=not self.asynchronous))
        else:
            self.trainer.save_checkpoint(path, wait=not self.asynchronous)
        if self.verbose:
            print(f"epoch {epoch + 1}: saved {path}")

    def _path(self, epoch: int, batch: int, logs) -> str:
        names = {**logs, "epoch": epoch + 1, "batch": batch + 1}
        try:
            return self.filepath.format(**names)
        except (KeyError, IndexError, ValueError) as error:
            name = error.args[0] if isinstance(error, KeyError) else ""
            raise ArgumentError(
                f"ModelCheckpoint cannot fill in {self.filepath!r}: {error}", fix=suggest(str(name), names)
            ) from None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "_batches": self._batches}


class BackupAndRestore(Callback):
    """Makes a run survive a crash: a checkpoint in `backup_dir`, from which the same script resumes when run again.

    save_freq: "epoch", or a number of batches. A run that finishes removes the checkpoint (unless
    `delete_checkpoint=False`); one that is interrupted writes it for the step it stopped at.
    """

    def __init__(self, backup_dir: str | os.PathLike, save_freq: str | int = "epoch", delete_checkpoint: bool = True):
        self.directory, self.delete_checkpoint = os.fspath(backup_dir), delete_checkpoint
        self.save_freq = _check_save_freq(save_freq)
        self._batches = 0

    @property
    def path(self) -> str:
        return os.path.join(self.directory, "backup.safetensors")

    def on_train_begin(self, logs) -> None:
        make_folder(self.directory)
        if os.path.exists(self.path):
            self.trainer.resume_from(self.path)

    def on_train_batch_end(self, batch: int, logs) -> None:
        self._batches += 1
        if self.save_freq != "epoch" and self._batches % self.save_freq == 0:
            self.trainer.save_checkpoint(self.path)

    def on_epoch_end(self, epoch: int, logs) -> None:
        if self.save_freq == "epoch":
            self.trainer.save_checkpoint(self.path)

    def on_train_end(self, logs) -> None:
        if self.trainer.history.interrupted:
            self.trainer.save_checkpoint(self.path)
        elif self.delete_checkpoint and os.path.exists(self.path):
            with writing(self.path):
                os.remove(self.path)

    def state_dict(self) -> dict[str, Any]:
        return {"_batches": self._batches}


class CSVLogger(Callback):
    """A line of `filename` per epoch, written as it ends: epoch (from 1, as in the history's table) and the logs.

    append: add to an existing file. A resumed run always does, after the epochs it has finished. Names without a column
    in the file get one, with NA in earlier lines. Errors: `FileAccessError`, an OSError.
    """

    def __init__(self, filename: str | os.PathLike, separator: str = ",", append: bool = False):
        self.filename, self.separator, self.append = os.fspath(filename), separator, append
        self._names: list[str] | None = None

    def on_train_begin(self, logs) -> None:
        self._names = None

    def on_epoch_end(self, epoch: int, logs) -> None:
        if self._names is None:
            rows = self._read_rows() if self.append or self.trainer.resumed else []
            if self.trainer.resumed and not self.append:
                rows[1:] = [row for row in rows[1:] if row and row[0].isdigit() and int(row[0]) <= epoch]
            self._rewrite(rows or [["epoch"]], logs)
        elif not logs.keys() <= set(self._names):
            self._rewrite(self._read_rows() or [["epoch", *self._names]], logs)
        assert self._names is not None
        line = self._lines([[epoch + 1, *(logs.get(name, "NA") for name in self._names)]])
        with writing(self.filename), open(self.filename, "ab") as file:
            file.write(line)

    def _read_rows(self) -> list[list[str]]:
        """The rows of the file; [] where it is not a regular file."""
        if not os.path.isfile(self.filename):
            return []
        with open_regular(self.filename) as file:
            content = file.read()
        try:
            rows = list(csv.reader(io.StringIO(content.decode(), newline=""), delimiter=self.separator))
        except (UnicodeDecodeError, csv.Error) as error:
            raise FileFormatError(
                f"CSVLogger cannot add to {self.filename!r}: {error}", fix="another file, or append=False"
            ) from None
        return [row for row in rows if row]

    def _rewrite(self, rows: list[list[str]], logs) -> None:
        """Write the existing rows, of which the first has the names, with a column for each name in `logs`."""
        previous = rows[0][1:]
        added = [name for name in logs if name not in previous]
        self._names = [*previous, *added]
        padded = [[*row, *["NA"] * (len(self._names) + 1 - len(row))] for row in rows[1:]]
        with atomic_write(self.filename) as file:
            file.write(self._lines([["epoch", *self._names], *padded]))

    def _lines(self, rows) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self.separator, lineterminator="\n").writerows(rows)
        return text.getvalue().encode()


class TerminateOnNaN(Callback):
    """Ends the run, without an error, at a loss or gradient that is NaN or infinite; the batch changes nothing."""

    handles_non_finite = True

    def on_train_batch_end(self, batch: int, logs) -> None:
        if not math.isfinite(logs["loss"]):
            print(f"epoch {self.trainer.epoch + 1}, batch {batch + 1}: {self.trainer.refused}, stopping")
            self.trainer.stop_training = True


class LearningRateScheduler(Callback):
    """lr ← schedule(epoch, lr), or schedule(epoch), when an epoch begins, in every parameter group; epochs from 0."""

    def __init__(self, schedule: Callable[..., float], verbose: int = 0):
        if not callable(schedule):
            raise ArgumentError("schedule is a function of (epoch, lr)", received=type(schedule).__name__)
        self.schedule, self.verbose = schedule, verbose
        try:
            inspect.signature(schedule).bind(0, 0.1)
            self._takes_lr = True
        except TypeError:
            self._takes_lr = False
        except ValueError:  # a builtin without a signature
            self._takes_lr = True

    def on_epoch_begin(self, epoch: int, logs) -> None:
        for group in self.trainer.optimizer.param_groups:
            lr = self.schedule(epoch, float(group["lr"])) if self._takes_lr else self.schedule(epoch)
            lr = lr.item() if hasattr(lr, "item") else lr
            if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not lr >= 0:
                raise ArgumentError(f"the schedule gave no learning rate for epoch {epoch}", received=repr(lr))
            group["lr"] = lr
        if self.verbose:
            print(f"epoch {epoch + 1}: learning rate {self.trainer.lr:.3g}")


def _check_save_freq(save_freq):
    if save_freq != "epoch" and (isinstance(save_freq, bool) or not isinstance(save_freq, int) or save_freq < 1):
        raise ArgumentError("save_freq is 'epoch' or a number of batches", received=repr(save_freq))
    return save_freq
