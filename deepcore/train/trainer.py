"""`Trainer`: the training loop, with Keras's verbs."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterable
from typing import Any

from deepcore import metrics as metrics_
from deepcore import nn, random
from deepcore.backend import Backend, get_backend
from deepcore.backend import dtypes as dt
from deepcore.data import DataLoader
from deepcore.errors import ArgumentError, DeepcoreError, FileFormatError, non_negative
from deepcore.io import load_checkpoint, save_checkpoint
from deepcore.nn import functional as F
from deepcore.optim import Optimizer
from deepcore.train import diagnose, feed
from deepcore.train.callbacks import Callback
from deepcore.train.history import History, format_value
from deepcore.train.interrupt import Interrupts
from deepcore.train.progress import ProgressBar
from deepcore.train.snapshot import Undo
from deepcore.train.state import BatchLogs, ModesKept, Progress, as_number
from deepcore.train.step import Refused, Steps

CHECKPOINT = "checkpoint.safetensors"
_CLASSIFICATION = (nn.CrossEntropyLoss, nn.NLLLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
_CLASSIFICATION_FUNCTIONS = (F.cross_entropy, F.nll_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
# Losses whose output is on the scale of the target: of two classes, 0.5 lies between them, not 0.
_ON_TARGET_SCALE = (nn.BCELoss, nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
_ON_TARGET_SCALE_FUNCTIONS = (F.binary_cross_entropy, F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)


class Trainer:
    """Trains `model` with `optimizer` on `loss(model(*inputs), target)`.

    metrics: names (`deepcore.metrics.METRICS`) and `Metric` objects. None: accuracy with a classification loss (0.5
    divides two classes under BCELoss, 0 on logits), none with another.
    backend: where to train; the model, the loss and the optimizer's state are moved there. None: where the model is.
    scheduler: a schedule of `optim.lr_scheduler`, stepped after every epoch.
    clip_grad_norm: the largest norm of all gradients together; they are scaled down to it.
    accumulate: batches whose gradients make one update: the mean over all their samples, uneven batches included.
    seed: `dc.manual_seed(seed)` when the first `fit` starts, so that shuffling and dropout repeat.
    out: a folder for `checkpoint.safetensors`, written when a fit ends, is stopped or interrupted.
    compile: run each step as one program where that can be done (`dc.compile`): same results to the bit, less time.

    Batches are tuples (input, …, target). Losses are averaged over samples, so a smaller last batch counts for less.

    >>> trainer = Trainer(model, optim.Adam(model.parameters()), nn.CrossEntropyLoss())
    >>> history = trainer.fit((images, labels), epochs=5)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss,
        metrics: Iterable[str | metrics_.Metric] | None = None,
        backend: str | Backend | None = None,
        scheduler=None,
        clip_grad_norm: float | None = None,
        accumulate: int = 1,
        seed: int | None = None,
        out: str | os.PathLike | None = None,
        compile: bool = True,
    ):
        if not isinstance(model, nn.Module):
            raise ArgumentError("model is a Module", received=_kind(model), fix=_instance_fix(model))
        if not isinstance(optimizer, Optimizer):
            raise ArgumentError(
                "optimizer is an Optimizer", received=_kind(optimizer), fix="optim.Adam(model.parameters())"
            )
        if not callable(loss) or isinstance(loss, type):
            raise ArgumentError("loss is a function of (output, target)", received=_kind(loss), fix=_instance_fix(loss))
        if getattr(loss, "reduction", "mean") == "none":
            raise ArgumentError("the loss must be one number", received="reduction='none'", fix="reduction='mean'")
        if scheduler is not None and getattr(scheduler, "optimizer", None) is not optimizer:
            raise ArgumentError(
                "the schedule is not one of this optimizer",
                received=_kind(scheduler),
                fix="optim.lr_scheduler.StepLR(optimizer, …), with the optimizer given to the Trainer",
            )
        self.model, self.optimizer, self.loss, self.scheduler = model, optimizer, loss, scheduler
        self.clip_grad_norm = (
            None if clip_grad_norm is None else non_negative("clip_grad_norm", clip_grad_norm, zero=False)
        )
        self.accumulate = _whole("accumulate", accumulate, 1)
        self.seed = seed
        self.out = None if out is None else os.fspath(out)
        own = next((p.backend for p in model.parameters()), None)
        self.backend = get_backend(own if backend is None else backend)
        self._named = self._named_parameters()
        self._move()
        self._undo = Undo()
        self._steps = Steps(compile, self._undo.prepare)
        self.metrics = self._metrics_from(metrics)
        self._test_metrics = copy.deepcopy(self.metrics)

        #: Why the last batch without an update had none: "the loss is nan".
        self.refused = ""
        #: Set by a callback to end the run after the current step.
        self.stop_training = False
        self.history = History()
        #: Epochs to train, and batches in one, of the `fit` under way.
        self.epochs = 0
        self.batches = 0
        #: Whether the `fit` under way goes on from a checkpoint.
        self.resumed = False
        self._progress = Progress()
        self._interrupts = Interrupts(notice=False)
        self._callbacks: list[Callback] = []
        self._hooks: dict[str, list] = {}
        self._loader: DataLoader | None = None
        self._validation: DataLoader | None = None
        self._seeded = False
        self._resume_from: str | None = None
        self._dispatching = False
        self._to_save: list[str] = []
        self._last_loss: float | None = None
        self._pending = 0

    # -- setting up ---------------------------------------------------------------------------------------
    def _named_parameters(self) -> tuple[tuple[str, Any], ...]:
        """(path, parameter) of everything the optimizer updates."""
        paths = {id(p): path for path, p in self.model.named_parameters()}
        if isinstance(self.loss, nn.Module):
            paths |= {id(p): f"loss.{path}" for path, p in self.loss.named_parameters()}
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        if paths and not any(id(p) in paths for p in held):
            raise ArgumentError(
                "the optimizer holds no parameter of the model",
                fix="build the optimizer after the model, from this model's parameters()",
            )
        return tuple([(paths.get(id(p), f"parameter {i} of the optimizer"), p) for i, p in enumerate(held)])

    def _move(self) -> None:
        for part in (self.model, self.loss):
            if isinstance(part, nn.Module):
                part.to(backend=self.backend)
        if any(state for state in self.optimizer.state.values()):
            self.optimizer.load_state_dict(self.optimizer.state_dict())  # state goes where its parameter is

    def _metrics_from(self, metrics) -> list[metrics_.Metric]:
        if metrics is None:
            metrics = ("accuracy",) if self._loss_is(_CLASSIFICATION, _CLASSIFICATION_FUNCTIONS) else ()
        if isinstance(metrics, (str, metrics_.Metric)):
            metrics = (metrics,)
        found: list[metrics_.Metric] = []
        for metric in metrics:
            if metric == "accuracy":
                threshold = 0.5 if self._loss_is(_ON_TARGET_SCALE, _ON_TARGET_SCALE_FUNCTIONS) else 0.0
                found.append(metrics_.Accuracy(threshold, getattr(self.loss, "ignore_index", None)))
            else:
                found.append(metrics_.get(metric))
        names = ["loss", "lr", *(m.name for m in found)]
        for name in names:
            if names.count(name) > 1 or name.startswith("val_"):
                raise ArgumentError(
                    f"{name!r} cannot be the name of a metric here",
                    expected="names that differ, other than loss and lr, not beginning with val_",
                    fix='give another: Accuracy(name="…")',
                )
        return found

    def _loss_is(self, classes: tuple, functions: tuple) -> bool:
        return isinstance(self.loss, classes) or self.loss in functions

    def _set_steps(self) -> None:
        """Compute with what the attributes are now."""
        steps = self._steps
        steps.model, steps.loss, steps.optimizer, steps.named = self.model, self.loss, self.optimizer, self._named
        steps.clip_grad_norm, steps.watched = self.clip_grad_norm, bool(self.metrics)
        self._undo.watch(self.model, self.loss)

    # -- fit ----------------------------------------------------------------------------------------------
    def fit(
        self,
        train,
        validation=None,
        epochs: int = 1,
        batch_size: int | None = None,
        callbacks: Iterable[Callback] = (),
        shuffle: bool | None = None,
        verbose: int = 1,
        resume: str | os.PathLike | bool | None = None,
    ) -> History:
        """Train for `epochs` epochs, validating after each; returns the `History` (also `self.history`).

        train, validation: a DataLoader, a Dataset, or arrays or tensors (x, y). `batch_size` (32) and `shuffle`
        (True; never for validation) belong to data that is not in a loader.
        verbose: 0 prints nothing, 1 a progress bar in terminals and notebooks, 2 only a line per epoch.
        resume: a checkpoint (file, the folder it is in, or True for the one in `out`) to go on from until `epochs`
        epochs are done in all: with the same data and settings, the result has the bits of a run that never stopped.

        Ctrl-C (and a notebook's interrupt): the running step finishes, a checkpoint is written to `out` and the
        history is returned with `interrupted` set. The second one raises `KeyboardInterrupt` at once.

        Errors: `DataError` for no data; `NonFiniteError` for a loss or gradient that is NaN or infinite, before the
        update it would make: the batch, or with `accumulate` the group of a bad gradient, leaves parameters, optimizer,
        buffers and random streams as they were; so does a batch whose forward raises. `StateDictError`,
        `FileFormatError` for a checkpoint that does not fit or cannot be read.
        """
        self.epochs = _whole("epochs", epochs, 0)
        bar = _check_verbose(verbose)
        if self.seed is not None and not self._seeded:
            random.manual_seed(self.seed)
            self._seeded = True
        loaders = [data for data in (train, validation) if isinstance(data, DataLoader)]
        if batch_size is not None and len(loaders) == (1 if validation is None else 2):
            raise ArgumentError("batch_size does nothing here: the data is in a DataLoader", fix="leave it out")
        if shuffle is not None and isinstance(train, DataLoader):
            raise ArgumentError("shuffle does nothing here: the data is in a DataLoader", fix="leave it out")
        dtype = feed.model_dtype(self.model)
        self._loader = feed.as_loader(train, batch_size, shuffle is None or shuffle, self.backend, dtype)
        self._validation = (
            None if validation is None else feed.as_loader(validation, batch_size, False, self.backend, dtype)
        )
        self.batches = len(self._loader)
        self._set_callbacks(callbacks, bar)
        self._progress, self.history, self.stop_training, self.resumed = Progress(), History(), False, False
        self._last_loss, self._to_save, self._pending = None, [], 0
        self._resume_from = self._resolve(resume)
        if self.out is not None:
            os.makedirs(self.out, exist_ok=True)
        try:
            with Interrupts(notice=verbose > 0) as self._interrupts, ModesKept(self.model):
                self._set_steps()
                self._steps.clear_gradients()
                self._dispatch("on_train_begin", {})
                if self._resume_from is not None:
                    self._restore(self._resume_from)
                self._run()
                unfinished = self._progress.epoch < self.epochs
                self.history.interrupted = self._interrupts.requested and unfinished
                if self.out is not None:
                    self.save_checkpoint(os.path.join(self.out, CHECKPOINT))
                self._dispatch("on_train_end", self.history[len(self.history)] if self.history else {})
        finally:
            self._undo.forget()
            for callback in self._callbacks:
                callback.close()
        if self.history.interrupted and verbose > 0:
            print(self._interruption())
        return self.history

    def _run(self) -> None:
        at, model = self._progress, self.model
        while at.epoch < self.epochs and not self._stopping():
            if not at.begun:
                for metric in self.metrics:
                    metric.reset()
                at.begun = True
                self._dispatch("on_epoch_begin", at.epoch, {})
            if not at.trained:
                model.train()
                if not self._train_epoch():
                    return
                at.trained = True
            logs = dict(BatchLogs(self))
            if self._validation is not None:
                before = self._validation.state_dict()
                results = self._test(self._validation)
                if results is None:  # interrupted: validate again when resumed
                    self._validation.load_state_dict(before)
                    return
                logs |= {f"val_{name}": value for name, value in results.items()}
            logs["lr"] = self.lr
            self.history.append(logs)
            if self.scheduler is not None:
                self.scheduler.step()
            epoch = at.epoch
            at.epoch += 1
            at.start_epoch()
            self._dispatch("on_epoch_end", epoch, logs)

    def _train_epoch(self) -> bool:
        """Train on what remains of the epoch; False if that was stopped before its last batch."""
        at, loader = self._progress, self._loader
        assert loader is not None
        last = self.batches - 1
        batches: Any = iter(loader)
        with contextlib.closing(batches):  # ends the workers now, whatever comes
            for number, batch in enumerate(batches, loader.position):
                self._dispatch("on_train_batch_begin", number, {})
                try:
                    closes = (number + 1) % self.accumulate == 0 or number == last
                    fault = self._train_batch(batch, closes)
                except DeepcoreError as error:
                    shapes = ", ".join(f"{t.shape} {dt.name_of(t.dtype)}" for t in feed.leaves(batch))
                    error.add_note(f"in {self._place(number)}; the batch: {shapes}")
                    raise
                at.batch = number + 1
                if fault is not None:
                    self._dispatch("on_train_batch_end", number, {"loss": fault})
                    if self.stop_training:
                        self._drop_group()
                        return False
                    continue
                self._dispatch("on_train_batch_end", number, BatchLogs(self))
                if not self._pending and self._stopping() and number < last:
                    return False
        return True

    def _train_batch(self, batch, closes: bool) -> float | None:
        """Forward, backward and, where the batch `closes` a group, the update. Returns a loss that is not finite."""
        at, steps = self._progress, self._steps
        inputs, target = feed.split(batch, self.backend)
        count = feed.samples_in((inputs, target))
        summed = getattr(self.loss, "reduction", "mean") == "sum"
        fault = None
        self._undo.begin(group=self.accumulate > 1 and not self._pending)
        try:
            if self.accumulate == 1:
                loss, output = steps.train(inputs, target)
            else:
                loss, output = steps.gradients(inputs, target, None if summed else count)
                self._pending += count
        except Exception as error:
            self._undo.batch()
            if self.accumulate == 1:
                steps.clear_gradients()
            fault = self._refused(error, inputs, target)
        if closes and self._pending:
            try:
                if not summed:
                    self._scale_gradients(1 / self._pending)
                steps.update()
            except Exception as error:
                self._undo.group()
                self._drop_group()
                fault = self._refused(error, inputs, target)
        if closes and (self._pending or fault is None):
            self._pending = 0
            at.step += 1
        if fault is not None:
            return fault
        value = float(loss)
        at.loss += value if summed else value * count
        at.samples += count
        self._last_loss = value
        for metric in self.metrics:
            metric.update(output, target)
        return None

    def _drop_group(self) -> None:
        """Forget the gradients of the batches that were to make one update."""
        self._steps.clear_gradients()
        self._pending = 0

    def _scale_gradients(self, factor: float) -> None:
        for _, p in self._named:
            if p.grad is not None:
                p.grad._data[...] *= factor
                p.grad.bump_version()

    def _stopping(self) -> bool:
        return self.stop_training or self._interrupts.requested

    # -- evaluate and predict -------------------------------------------------------------------------------
    def evaluate(
        self, data, batch_size: int | None = None, callbacks: Iterable[Callback] = (), verbose: int = 0
    ) -> dict[str, float]:
        """{"loss": …, metric: …} over `data`, in evaluation mode; means over samples."""
        bar = _check_verbose(verbose)
        loader = self._given_loader(data, batch_size)
        self._set_steps()
        outer = self._callbacks, self._hooks  # a callback of fit may evaluate
        self._set_callbacks(callbacks, bar)
        try:
            with ModesKept(self.model):
                results = self._test(loader, watch=False)
        finally:
            for callback in self._callbacks:
                callback.close()
            self._callbacks, self._hooks = outer
        assert results is not None
        return results

    def predict(self, x, batch_size: int | None = None):
        """The model's outputs for every sample, in order, on the trainer's backend, in evaluation mode.

        x: arrays or tensors, a Dataset or a DataLoader. Of samples with several parts, the last is the target and
        left out, as in `evaluate`.
        """
        loader = self._given_loader(x, batch_size)
        if loader.shuffle or loader.drop_last:
            raise ArgumentError(
                "predict gives one output per sample, in order",
                received=f"a DataLoader with shuffle={loader.shuffle}, drop_last={loader.drop_last}",
                fix="predict(loader.dataset)",
            )
        self._set_steps()
        with ModesKept(self.model):
            self.model.eval()
            outputs = [self._steps.predict(feed.inputs_only(batch, self.backend)) for batch in loader]
        return feed.concatenate(outputs)

    def _given_loader(self, data, batch_size: int | None) -> DataLoader:
        if isinstance(data, DataLoader) and batch_size is not None:
            raise ArgumentError("batch_size does nothing here: the data is in a DataLoader", fix="leave it out")
        return feed.as_loader(data, batch_size, False, self.backend, feed.model_dtype(self.model))

    def _test(self, loader: DataLoader, watch: bool = True) -> dict[str, float] | None:
        """Loss and metrics over the loader; None if an interrupt came meanwhile (and is watched for)."""
        total, samples = 0.0, 0
        for metric in self._test_metrics:
            metric.reset()
        self.model.eval()
        summed = getattr(self.loss, "reduction", "mean") == "sum"
        self._dispatch("on_test_begin", {"batches": len(loader)})
        for number, batch in enumerate(loader):
            if watch and self._interrupts.requested:
                return None
            self._dispatch("on_test_batch_begin", number, {})
            inputs, target = feed.split(batch, self.backend)
            loss, output = self._steps.test(inputs, target)
            count = feed.samples_in((inputs, target))
            total += float(loss) if summed else float(loss) * count
            samples += count
            for metric in self._test_metrics:
                metric.update(output, target)
            self._dispatch("on_test_batch_end", number, {"loss": total / samples})
        results = {"loss": total / samples, **self._computed(self._test_metrics)}
        self._dispatch("on_test_end", results)
        return results

    def _computed(self, metrics: list[metrics_.Metric]) -> dict[str, float]:
        return {metric.name: as_number(metric.name, metric.compute()) for metric in metrics}

    # -- callbacks ------------------------------------------------------------------------------------------
    def _set_callbacks(self, callbacks: Iterable[Callback], bar: bool | None) -> None:
        self._callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
        for callback in self._callbacks:
            if not isinstance(callback, Callback):
                raise ArgumentError("a callback is a Callback", received=_kind(callback), fix=_instance_fix(callback))
        if bar is not None and not any(isinstance(c, ProgressBar) for c in self._callbacks):
            self._callbacks.append(ProgressBar(bar=bar))
        self._hooks = {}
        for callback in self._callbacks:
            callback.set_trainer(self)

    def _dispatch(self, event: str, *args) -> None:
        hooks = self._hooks.get(event)
        if hooks is None:
            base = getattr(Callback, event)
            found = [getattr(callback, event) for callback in self._callbacks]
            hooks = self._hooks[event] = [h for h in found if getattr(h, "__func__", None) is not base]
        outer, self._dispatching = self._dispatching, True
        try:
            for hook in hooks:
                hook(*args)
        finally:
            self._dispatching = outer
        if event == "on_epoch_end":
            logs = args[-1]
            logs.update({name: as_number(name, value) for name, value in logs.items()})
        if self._to_save and not self._pending and not self._dispatching:
            self._write_checkpoints()

    def log_names(self) -> list[str]:
        """The names an epoch's logs will have in the `fit` under way."""
        names = ["loss", *(metric.name for metric in self.metrics)]
        if self._validation is not None:
            names += [f"val_{name}" for name in names]
        return [*names, "lr", *(name for callback in self._callbacks for name in callback.log_names)]

    @property
    def lr(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def epoch(self) -> int:
        """Epochs finished in the `fit` under way, so the index of the current one."""
        return self._progress.epoch

    @property
    def step(self) -> int:
        """Updates made in the `fit` under way, those before a resume included."""
        return self._progress.step

    # -- checkpoints ----------------------------------------------------------------------------------------
    def save_checkpoint(self, path: str | os.PathLike) -> None:
        """Everything `fit(resume=path)` needs: parameters, optimizer, schedule, random streams, the loader's position,
        history, metrics and callbacks.

        Asked for by a callback, it is written once every callback has seen the event, and between two updates.
        """
        self._to_save.append(os.fspath(path))
        if not self._dispatching and not self._pending:
            self._write_checkpoints()

    def _write_checkpoints(self) -> None:
        paths, self._to_save = dict.fromkeys(self._to_save), []
        for path in paths:
            save_checkpoint(path, extra=self._extra(), **self._parts())

    def _parts(self) -> dict[str, Any]:
        loss = self.loss if isinstance(self.loss, nn.Module) and self.loss.state_dict() else None
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "loss": loss,
            "loader": self._loader,
        }

    def _extra(self) -> dict[str, Any]:
        return {
            "progress": self._progress.state_dict(),
            "history": self.history.state_dict(),
            "metrics": {metric.name: metric.state_dict() for metric in self.metrics},
            "validation": None if self._validation is None else self._validation.state_dict(),
            "callbacks": [[type(c).__name__, c.state_dict()] for c in self._callbacks],
        }

    def resume_from(self, path: str | os.PathLike) -> None:
        """For a callback's `on_train_begin`: go on from this checkpoint, as `fit(resume=path)` does."""
        self._resume_from = os.fspath(path)

    def _resolve(self, resume) -> str | None:
        if resume is None or resume is False:
            return None
        if resume is True:
            if self.out is None:
                raise ArgumentError("resume=True needs a Trainer with out=", fix="resume=path")
            resume = self.out
        path = os.fspath(resume)
        return os.path.join(path, CHECKPOINT) if os.path.isdir(path) else path

    def _restore(self, path: str) -> None:
        extra = load_checkpoint(path, backend=self.backend, **self._parts())
        try:
            self._progress.load_state_dict(extra["progress"])
            self.history.load_state_dict(extra["history"])
            for metric in self.metrics:
                if metric.name in extra["metrics"]:
                    metric.load_state_dict(extra["metrics"][metric.name])
            if self._validation is not None and extra["validation"] is not None:
                self._validation.load_state_dict(extra["validation"])
            waiting = list(extra["callbacks"])
            for callback in self._callbacks:
                found = next((entry for entry in waiting if entry[0] == type(callback).__name__), None)
                if found is not None:
                    waiting.remove(found)
                    callback.load_state_dict(found[1])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DeepcoreError):
                raise
            raise FileFormatError(
                f"{path!r} is a checkpoint, but not one that Trainer.fit wrote",
                fix="deepcore.io.load_checkpoint(path, model=model) restores its parts",
            ) from None
        self.optimizer._stepped = self.optimizer._stepped or self._progress.step > 0
        self.resumed = True

    # -- messages -------------------------------------------------------------------------------------------
    def _place(self, number: int, group: bool = False) -> str:
        """Where batch `number` is, or the batches that make one update with it."""
        at, first = self._progress, number - number % self.accumulate
        batches = f"batches {first + 1} to {number + 1}" if group and first < number else f"batch {number + 1}"
        return f"epoch {at.epoch + 1}, {batches} of {self.batches} (step {at.step + 1})"

    def _interruption(self) -> str:
        at = self._progress
        text = f"interrupted in epoch {at.epoch + 1} after batch {at.batch} of {self.batches}"
        if at.samples:
            text += f", loss {format_value('loss', at.loss / at.samples)}"
        if self.out is not None:
            text += f"; fit(…, resume=True) goes on from {os.path.join(self.out, CHECKPOINT)}"
        return text

    def _refused(self, error: Exception, inputs, target) -> float:
        """The loss of a batch that was refused, for a callback that deals with such; without one, the error is raised."""
        if not isinstance(error, Refused):
            raise error
        self.refused = error.problem
        if not any(callback.handles_non_finite for callback in self._callbacks):
            place = self._place(self._progress.batch, group=bool(error.gradients))
            raise diagnose.non_finite(self, error, place, self._last_loss, inputs, target) from None
        return error.loss

    def __repr__(self) -> str:
        return (
            f"Trainer({type(self.model).__name__}, {type(self.optimizer).__name__}, {_name(self.loss)}, "
            f"metrics={[m.name for m in self.metrics]}, backend={str(self.backend)!r})"
        )


def _whole(name: str, value, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise ArgumentError(f"{name} is a whole number of at least {least}", received=f"{name}={value!r}")
    return value.__index__()


def _check_verbose(verbose) -> bool | None:
    """None: silent; True: a bar where it can be drawn; False: lines."""
    if verbose not in (0, 1, 2):
        raise ArgumentError("verbose is 0 (nothing), 1 (progress bar) or 2 (a line per epoch)", received=repr(verbose))
    return None if verbose == 0 else verbose == 1


def _kind(value) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _instance_fix(value) -> str | None:
    return f"{value.__name__}(…)" if isinstance(value, type) else None


def _name(loss) -> str:
    return getattr(loss, "__name__", type(loss).__name__)
