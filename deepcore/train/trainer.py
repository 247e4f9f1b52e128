"""`Trainer`: the training loop, with Keras's verbs."""

from __future__ import annotations

import contextlib
import copy
import math
import operator
import os
from collections.abc import Iterable, Mapping
from typing import Any

from deepcore import metrics as metrics_
from deepcore import nn, random
from deepcore.autograd import no_grad
from deepcore.backend import Backend, get_backend, place
from deepcore.backend import dtypes as dt
from deepcore.data import DataLoader
from deepcore.errors import (
    ArgumentError,
    DataError,
    DeepcoreError,
    FileFormatError,
    OutOfMemoryError,
    ShapeError,
    non_negative,
)
from deepcore.io import save_checkpoint
from deepcore.io.background import Saving
from deepcore.io.checkpoint import restore
from deepcore.io.files import FileAccessError, MissingFileError, make_folder
from deepcore.nn.modules.lazy import LazyModuleMixin
from deepcore.nn.notify import warn_user
from deepcore.nn.summary import remember
from deepcore.optim import Optimizer
from deepcore.optim.lr_scheduler import ReduceLROnPlateau
from deepcore.train import arguments, diagnose, feed, memory, stream
from deepcore.train import names as names_
from deepcore.train.autosave import BEST, CHECKPOINT, Autosave
from deepcore.train.callbacks import Callback, ModelCheckpoint
from deepcore.train.history import History, format_value
from deepcore.train.interrupt import Interrupts
from deepcore.train.measure import Measure
from deepcore.train.outputs import OutputLosses, metrics_of
from deepcore.train.progress import ProgressBar
from deepcore.train.snapshot import Undo
from deepcore.train.state import BatchLogs, PreserveModes, Progress, TrainingModes, as_number, output_losses
from deepcore.train.step import Refused, Steps

#: Events that a resumed run does not repeat: where a callback raises, the run replays the event for the remaining ones.
_REPLAYED = ("on_epoch_begin", "on_train_batch_end", "on_epoch_end")


class Trainer:
    """Trains `model` with `optimizer` on `loss(model(*inputs), target)`.

    optimizer: an Optimizer, or a name. A name that Keras has ("adam", "sgd", "rmsprop", …) means Keras's settings, such as
        a learning rate of 0.01 for "sgd"; other names mean deepcore's class and its defaults. The parameters of lazy layers
        are drawn from the first batch.
    loss: a function of (output, target), one of deepcore.nn, or a name: Keras's ("mse", "binary_crossentropy", …, of
        probabilities as there) or deepcore's ("cross_entropy", "CrossEntropyLoss", of logits). A function with parameters
        named y_true and y_pred is called with these, and may return a value for each sample. For a model that returns
        a tuple, a list or a dict: a list or a dict of losses, by the names of the outputs, whose sum weighed by
        `loss_weights` is minimised. The logs then have "loss", and "<output>_loss" of each.
    metrics: names (`deepcore.metrics.METRICS`, and Keras's), `Metric` objects, and functions. Settings that these leave
        open (task, threshold, ignore_index) come from the loss. None: accuracy with a classification loss, no metric with
        another. A function is called as `f(y_true, y_pred)`, with the target first, as in Keras; it returns a number
        for the batch, or a value for each sample. With several losses: a dict by names of outputs, or a list with an entry
        (one metric, or a list of them) for each output; the logs are "<output>_<metric>".
    backend: where to train; the model, the loss and the optimizer's state are moved there. None: where the model is.
        `device` is a synonym.
    scheduler: a schedule of `optim.lr_scheduler`, stepped after every epoch; `ReduceLROnPlateau` watches the validation
        loss, or without validation the loss.
    clip_grad_norm: the maximum norm of all gradients together; larger gradients are scaled down to it.
    accumulate: batches whose gradients make one update, that of one batch of all their samples.
    seed: `dc.manual_seed(seed)` when the first `fit` starts, so that shuffling and dropout repeat.
    out: a folder for `checkpoint.safetensors`, always the newest complete one. It is written when a fit ends, is
    stopped, interrupted or ended by an error, at the end of an epoch if 10 s have passed since the last such write,
    and every minute within epochs, between two updates.
    save_every: that minute, in seconds (10 s is a sixth of it). 0: after every update; None: when the fit ends.
    keep: the number of end-of-epoch checkpoints kept beside it: `checkpoint-0012.safetensors` has 12 epochs.
    best: a name in the logs, as "val_loss": the checkpoint of its best epoch so far is kept in `best.safetensors`.
    compile: run each step as one program where possible (`dc.compile`): same results to the bit, less time.

    Batches are tuples (input, …, target). Means over batches (losses, accumulated gradients, `evaluate`) weigh each by
    the divisor of its loss, so they do not depend on the batch size: with deepcore's losses the elements, or the
    weights of the labels that are not ignored; with a custom loss the samples, unless it has a method
    `denominator(target)`.

    >>> trainer = Trainer(model, optim.Adam(model.parameters()), nn.CrossEntropyLoss())
    >>> history = trainer.fit((images, labels), epochs=5)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | str,
        loss,
        metrics: Iterable | Mapping[str, Any] | None = None,
        backend: str | Backend | None = None,
        scheduler=None,
        clip_grad_norm: float | None = None,
        accumulate: int = 1,
        seed: int | None = None,
        out: str | os.PathLike | None = None,
        compile: bool = True,
        save_every: float | None = 60.0,
        keep: int = 0,
        best: str | None = None,
        device: Any = None,
        loss_weights: Iterable[float] | Mapping[str, float] | None = None,
    ):
        if not isinstance(model, nn.Module):
            raise ArgumentError("model is a Module", received=_type_text(model), fix=_instance_fix(model))
        make_optimizer = names_.optimizer_of(optimizer) if isinstance(optimizer, str) else None
        if not isinstance(optimizer, (Optimizer, str)):
            raise ArgumentError(
                "optimizer is an Optimizer", received=_type_text(optimizer), fix="optim.Adam(model.parameters())"
            )
        if isinstance(loss, (list, tuple, Mapping)):
            loss = OutputLosses(loss, loss_weights, model)
        elif loss_weights is not None:
            raise ArgumentError("loss_weights is for several losses", fix="loss=[…] or loss={…}, or leave it out")
        else:
            loss = names_.loss_of(loss)
        if not callable(loss) or isinstance(loss, type):
            raise ArgumentError(
                "loss is a function of (output, target)", received=_type_text(loss), fix=_instance_fix(loss)
            )
        self._measure = Measure(loss)
        if self._measure.reduction == "none":
            raise ArgumentError("the loss must be one number", received="reduction='none'", fix="reduction='mean'")
        if scheduler is not None and getattr(scheduler, "optimizer", None) is not optimizer:
            raise ArgumentError(
                "the schedule is not one of this optimizer",
                received=_type_text(scheduler),
                fix="optim.lr_scheduler.StepLR(optimizer, …), with the optimizer given to the Trainer",
            )
        self.model, self.loss, self.scheduler = model, loss, scheduler
        self.optimizer: Any = optimizer
        self.clip_grad_norm = (
            None if clip_grad_norm is None else non_negative("clip_grad_norm", clip_grad_norm, zero=False)
        )
        self.accumulate = _checked_int("accumulate", accumulate, 1)
        self.seed = seed
        self.out = None if out is None else os.fspath(out)
        self.save_every, self.keep = save_every, _checked_int("keep", keep, 0)
        self._autosave = Autosave(self.out, self.save_every, self.keep)
        if best is not None and self.out is None:
            raise ArgumentError("best needs a folder to keep a checkpoint in", fix='Trainer(…, out="folder")')
        self.best = best
        model_backend = next((p.backend for p in model.parameters()), None)
        backend = place(backend, device)
        self.backend = get_backend(model_backend if backend is None else backend)
        #: Makes an optimizer that is given by name, once all parameters have shapes.
        self._make_optimizer = make_optimizer
        self._named: tuple[tuple[str, Any], ...] = ()
        if make_optimizer is not None:
            self.optimizer = None
            self._move()
            self._build(None)
        else:
            self._named = self._named_parameters()
            self._move()
        self._undo = Undo()
        self._steps = Steps(compile, self._undo.prepare)
        self.metrics = self._metrics_from(metrics)
        self._test_metrics = copy.deepcopy(self.metrics)

        #: The reason why the last refused batch made no update: "the loss is nan".
        self.refused = ""
        #: Set by a callback to end the run after the current step.
        self.stop_training = False
        self.history = History()
        #: Epochs of the current `fit`, and batches of an epoch (None: only its end tells).
        self.epochs = 0
        self.batches: int | None = 0
        #: Whether the current `fit` resumed from a checkpoint.
        self.resumed = False
        self._progress = Progress()
        self._interrupts = Interrupts(notice=False)
        self._callbacks: list[Callback] = []
        self._hooks: dict[str, list] = {}
        #: An event in which a callback raised, and the callbacks not yet called: a resumed run calls them.
        self._unfinished_event: tuple[str, list[Callback]] | None = None
        self._loader: DataLoader | None = None
        self._passes: Any = None
        self._steps_per_epoch: int | None = None
        self._validation_steps: int | None = None
        self._validation_freq: int | Iterable[int] = 1
        self._seen = False
        #: The tensors of the run at a failed allocation, before gradients were dropped.
        self._live: list | None = None
        self._validation: DataLoader | None = None
        self._warned: set = set()  # dtypes of inputs whose conversion was reported
        self._inputs = feed.Inputs(model, self.backend, self._warned)
        self._modes = TrainingModes(model)
        self._seeded = False
        self._resume_from: str | None = None
        self._dispatching = False
        #: Path → whether to wait for the write.
        self._pending_saves: dict[str, bool] = {}
        #: Files that are being written in the background.
        self._savings: list[Saving] = []
        #: Whether the current state cannot be resumed from: in validation, and from a batch's start to its update.
        self._defer_saves = False
        self._last_loss: float | None = None
        #: Batches since the last update, and the sum of their denominators.
        self._pending, self._weight = 0, 0.0
        self._validated = True
        #: Whether parameters, random stream and counts are those right after an update.
        self._consistent = True

    # -- setting up ---------------------------------------------------------------------------------------
    def _named_parameters(self) -> tuple[tuple[str, Any], ...]:
        """(path, parameter) of every parameter of the optimizer."""
        paths = {id(p): path for path, p in self.model.named_parameters()}
        if isinstance(self.loss, nn.Module):
            paths |= {id(p): f"loss.{path}" for path, p in self.loss.named_parameters()}
        optimized = [p for group in self.optimizer.param_groups for p in group["params"]]
        if paths and not any(id(p) in paths for p in optimized):
            raise ArgumentError(
                "the optimizer holds no parameter of the model",
                fix="build the optimizer after the model, from this model's parameters()",
            )
        return tuple([(paths.get(id(p), f"parameter {i} of the optimizer"), p) for i, p in enumerate(optimized)])

    def _move(self) -> None:
        for part in (self.model, self.loss):
            if isinstance(part, nn.Module):
                part.to(backend=self.backend)
        if self.optimizer is not None and any(state for state in self.optimizer.state.values()):
            self.optimizer.load_state_dict(self.optimizer.state_dict())  # moves the state to its parameters' backends

    def _build(self, loader: DataLoader | None) -> None:
        """Draw the parameters of lazy layers from the loader's first batch, and make an optimizer that is given by name."""
        if self.optimizer is not None:
            return
        lazy = [name for name, module in self.model.named_modules() if isinstance(module, LazyModuleMixin)]
        if lazy and loader is not None:
            batch = stream.peek(loader)
            if batch is not None:
                inputs, _, _ = feed.Inputs(self.model, self.backend, self._warned).split(batch, loader)
                with PreserveModes(self.model), no_grad():
                    self.model.eval()
                    self.model(*inputs)
            lazy = []
        if not lazy:
            assert self._make_optimizer is not None
            self.optimizer = self._make_optimizer(self.model.parameters())
            self._named = self._named_parameters()

    def _metrics_from(self, metrics) -> list[metrics_.Metric]:
        if isinstance(self.loss, OutputLosses):
            resolved = metrics_of(self.loss, metrics)
        else:
            if metrics is None:
                metrics = () if self._measure.task is None else ("accuracy",)
            if isinstance(metrics, (str, metrics_.Metric)) or (callable(metrics) and not isinstance(metrics, Iterable)):
                metrics = (metrics,)
            if isinstance(metrics, Mapping):
                raise ArgumentError(
                    "a dict of metrics is for several losses, by the names of the outputs", fix="metrics=[…]"
                )
            resolved = [names_.metric_of(metric) for metric in metrics]
            for metric in resolved:
                metric.follow(self._measure)
        names = [*self.loss_names(), "lr", *(m.name for m in resolved)]
        for name in names:
            if names.count(name) > 1 or name.startswith("val_"):
                raise ArgumentError(
                    f"{name!r} cannot be the name of a metric here",
                    expected="names that differ, other than loss and lr, not beginning with val_",
                    fix='give another: Accuracy(name="…")',
                )
        return resolved

    def _set_steps(self) -> None:
        """Copy the current attributes to the steps."""
        steps = self._steps
        steps.model, steps.loss, steps.optimizer, steps.named = self.model, self.loss, self.optimizer, self._named
        if self._measure.loss is not self.loss:
            self._measure = Measure(self.loss)
        steps.module, steps.summed = self._measure.module, self._measure.reduction == "sum"
        steps.measure, steps.several = self._measure, self._measure.several
        steps.clip_grad_norm, steps.watched = self.clip_grad_norm, bool(self.metrics)
        self._undo.watch(self.model, self.loss)

    # -- fit ----------------------------------------------------------------------------------------------
    def fit(
        self,
        train=None,
        validation=None,
        *settings,
        epochs: int = 1,
        batch_size: int | None = None,
        callbacks: Iterable[Callback] | None = None,
        shuffle: bool | None = None,
        verbose: int | str = 1,
        resume: str | os.PathLike | bool | None = None,
        x=None,
        y=None,
        validation_data=None,
        validation_split: float = 0.0,
        sample_weight=None,
        class_weight: Mapping[int, float] | None = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Iterable[int] = 1,
    ) -> History:
        """Train for `epochs` epochs, validating after each; returns the `History` (also `self.history`).

        train, validation: a DataLoader, a Dataset, a tuple (x, y), or a list of samples (x, y). x and y are arrays,
        tensors, lists of numbers or tables (DataFrame); x may be a tuple of several inputs, y of several targets.
        As in Keras, `fit(x, y)` works as well: where the first argument is inputs alone, the second is their targets.
        Batches (x, y) or (x, y, sample_weight) come from an iterable without items by index, such as another library's
        loader, from a function that returns one, or, with `steps_per_epoch`, from a generator.
        `batch_size` (32) and `shuffle` (True; never for validation) apply to data that is not in a loader. Inputs of a
        dtype that the model rejects, such as integers, are converted to the model's, with one warning.
        x, y, sample_weight: inputs, targets and a weight for each sample, lists or dicts of arrays where there are several.
        validation_data: as `validation`, where a tuple is (x, y) or (x, y, sample_weight).
        validation_split: the last fraction of the samples, before they are shuffled, is the validation data.
        sample_weight, class_weight ({class: weight}; other classes 1): a sample's loss is multiplied by its weight, and the
        sum divided by what it is divided by without weights, as in Keras. Metrics do not see weights.
        initial_epoch: the number of the first epoch; `epochs` is that after the last one.
        steps_per_epoch: batches of an epoch; the next one goes on where it ended, and the data begins again at its end.
        validation_steps: batches to validate on; validation_batch_size: of validation data that is not in a loader.
        validation_freq: validate after every so many epochs, or after those listed, which count from 1.
        settings: by position, epochs and batch_size may follow validation data; after targets, where Keras has another
        order, they are named.
        verbose: 0 prints nothing, 1 or "auto" a progress bar in terminals and notebooks, 2 only a line per epoch.
        resume: a checkpoint (file, its folder, or True for the one in `out`) to resume from until `epochs`
        epochs are done in total: with the same data and settings, the result has the bits of an uninterrupted run.
        Where `out` has no checkpoint yet, the run starts from the beginning, with a message.

        Modules in evaluation mode stay in it, such as a frozen BatchNorm, also when a callback sets it;
        a model that is in evaluation mode as a whole is trained in training mode. Afterwards all modes are restored.

        Ctrl-C (and a notebook's interrupt): the running step finishes, a checkpoint is written to `out` and the
        history is returned with `interrupted` set. The second one raises `KeyboardInterrupt` at once. SIGTERM and
        SIGHUP do the same; then the signal is raised again under the previous handler, by default to end
        the process. An error leaves a checkpoint of the last update, unless it occurs inside a group of accumulated
        batches or in the bookkeeping after an update: then the last one written stays. Where a callback raises, the
        resumed run repeats that event for it and those after it.
        A validation loss that is NaN or infinite is a warning, once: training itself is not harmed.

        Errors: `OutOfMemoryError`, which lists the largest tensors by module path; the model then has its last update.
        `DataError` for no data, and for validation data in which nothing counts. `NonFiniteError` for a loss or
        gradient that is NaN or infinite, before the update it would make: the batch, or with `accumulate` the group of a
        bad gradient, leaves parameters, optimizer, buffers and random streams as they were; so does a batch whose forward
        raises. `StateDictError`, `FileFormatError` for a checkpoint that does not fit or cannot be read.
        """
        if settings:
            arguments.check_settings(settings, feed.Inputs(self.model, self.backend, self._warned), train, validation)
            epochs, batch_size = (settings[0], settings[1] if settings[1:] else batch_size)
        self.epochs = _checked_int("epochs", epochs, 0)
        initial_epoch = _checked_int("initial_epoch", initial_epoch, 0)
        bar, verbose = _check_verbose(verbose), 1 if isinstance(verbose, str) else verbose
        self._seed_once()
        self._inputs = feed.Inputs(self.model, self.backend, self._warned, class_weight)
        train, validation = arguments.resolve(
            self._inputs, train, validation, x, y, validation_data, sample_weight, "fit"
        )
        loaders = [data for data in (train, validation) if isinstance(data, DataLoader)]
        if batch_size is not None and len(loaders) == (1 if validation is None else 2):
            raise ArgumentError("batch_size does nothing here: the data is in a DataLoader", fix="leave it out")
        if shuffle is not None and isinstance(train, DataLoader):
            raise ArgumentError("shuffle does nothing here: the data is in a DataLoader", fix="leave it out")
        arguments.check_pairs(train, validation)
        self._steps_per_epoch, self._validation_steps = (
            None if steps is None else _checked_int(name, steps, 1)
            for name, steps in (("steps_per_epoch", steps_per_epoch), ("validation_steps", validation_steps))
        )
        self._validation_freq = arguments.frequency(validation_freq)
        dtype = feed.model_dtype(self.model)
        if validation_split:
            if validation is not None:
                raise ArgumentError("validation_split and validation data exclude each other", fix="leave one out")
            train, validation = feed.split(train, validation_split, dtype)
        self._loader = feed.as_loader(
            train, batch_size, shuffle is None or shuffle, self.backend, dtype, steps=self._steps_per_epoch
        )
        if validation_batch_size is None and not stream.is_stream(validation):
            validation_batch_size = batch_size
        self._validation = (
            None
            if validation is None
            else feed.as_loader(
                validation, validation_batch_size, False, self.backend, dtype, steps=self._validation_steps
            )
        )
        self._check_weights(sample_weight, class_weight)
        self._build(self._loader)
        self._passes = stream.Passes(self._loader, self._steps_per_epoch)
        self.batches = self._steps_per_epoch or feed.length_of(self._loader)
        self._set_callbacks(callbacks, bar)
        if self.best is not None and self.out is not None:
            self._callbacks.append(ModelCheckpoint(os.path.join(self.out, BEST), self.best, save_best_only=True))
            self._callbacks[-1].set_trainer(self)
        self._progress, self.stop_training, self.resumed, self._seen = Progress(), False, False, False
        self._progress.epoch = initial_epoch
        self.history = History(initial_epoch)
        self.history.model = self.model
        self.history.params = {"epochs": self.epochs, "steps": self.batches, "verbose": verbose}
        vars(self.model).pop("stop_training", None)
        self._last_loss, self._pending_saves, self._pending, self._weight = None, {}, 0, 0.0
        self._consistent = self._validated = True
        self._unfinished_event = None
        self._resume_from = self._resolve(resume, verbose)
        if self.out is not None:
            make_folder(self.out)
        try:
            try:
                with Interrupts(notice=verbose > 0) as self._interrupts, PreserveModes(self.model):
                    self._modes = TrainingModes(self.model)
                    self._set_steps()
                    self._steps.clear_gradients()
                    self._dispatch("on_train_begin", {})
                    if self._resume_from is not None:
                        self._restore(self._resume_from)
                        if verbose > 0:
                            print(f"resumed {self._position_text()}", flush=True)
                    self._autosave = Autosave(self.out, self.save_every, self.keep)
                    self._run_and_save()
                    self._dispatch("on_train_end", self.history.last)
                    self._check_savings(wait=True)
            finally:
                self._passes.close()
                for saving in self._savings:  # after another error; theirs are printed when the process ends
                    saving.finish()
                self._savings = []
                for callback in self._callbacks:
                    callback.close()
            if self.history.interrupted and verbose > 0:
                print(self._interruption_text())
        except BaseException as error:
            self._interrupts.redeliver(error)
            raise
        finally:
            self._undo.forget()
        self._interrupts.redeliver()
        return self.history

    def _seed_once(self) -> None:
        if self.seed is not None and not self._seeded:
            random.manual_seed(self.seed)
            self._seeded = True

    def _run_and_save(self) -> None:
        """Run, and write a checkpoint at the end, also after an error."""
        full: OutOfMemoryError | None = None
        try:
            self._run()
        except Exception as error:
            if isinstance(error, MemoryError) and not isinstance(error, OutOfMemoryError):
                full = self._out_of_memory(error)
                self._drop_group()
            self._save_after(error if full is None else full)
            if full is None:
                raise
        if full is not None:  # raised here, where it does not refer to the first error, whose frames hold activations
            raise full
        self.history.interrupted = self._interrupts.requested and self._progress.epoch < self.epochs
        if self.out is not None:
            self.save_checkpoint(self._autosave.path)

    def _out_of_memory(self, error: MemoryError, where: str | None = None) -> OutOfMemoryError:
        if where is None:
            where = f" at {self._location(self._progress.batch)}"
        tensors, self._live = self._live, None
        return memory.report(self, error, where, tensors)

    def _run(self) -> None:
        progress = self._progress
        self._dispatch_unfinished()
        while progress.epoch < self.epochs and not self._stopping():
            if not progress.begun:
                for metric in self.metrics:
                    metric.reset()
                progress.begun = True
                self._dispatch("on_epoch_begin", progress.epoch, {})
            if not progress.trained:
                self._modes.renew()
                try:
                    if not self._train_epoch():
                        return
                except DataError:
                    # As in `_validate`: the signal ended the workers before this process stopped.
                    if self._interrupts.requested and self._consistent:
                        return
                    raise
                progress.trained = True
            logs = dict(BatchLogs(self))
            if self._validation is not None and self._validates(progress.epoch):
                self._save_if_due()
                self._modes.renew()
                with PreserveModes(self.model):
                    results = self._validate(self._validation)
                if results is None:
                    return
                logs |= {f"val_{name}": value for name, value in results.items()}
            logs["lr"] = self.lr
            self._consistent = False
            self.history.append(logs)
            if isinstance(self.scheduler, ReduceLROnPlateau):
                if self._validation is None or "val_loss" in logs:
                    self.scheduler.step(logs.get("val_loss", logs["loss"]))
            elif self.scheduler is not None:
                self.scheduler.step()
            epoch = progress.epoch
            progress.epoch += 1
            progress.start_epoch()
            self._consistent = True
            self._dispatch("on_epoch_end", epoch, logs)
            self._save_if_due(at_end=True)

    def _validates(self, epoch: int) -> bool:
        """Whether the run validates after this epoch."""
        freq = self._validation_freq
        return (epoch + 1) % freq == 0 if isinstance(freq, int) else epoch + 1 in freq

    def _check_weights(self, sample_weight, class_weight) -> None:
        if class_weight is not None and self._measure.several:
            raise ArgumentError("class_weight is for one output", fix="sample_weight, or loss_weights of the Trainer")
        if (sample_weight is not None or class_weight is not None) and not self._measure.several:
            self._measure.check_weighable()

    def _validate(self, loader: DataLoader) -> dict[str, float] | None:
        """The results, or None after an interrupt. Unless it completes, loader and random stream are restored."""
        before, stream = loader.state_dict(), random.default_generator._mark()
        results = None
        self._defer_saves = True
        try:
            reader = self._inputs
            if reader.weighs_classes:
                reader = feed.Inputs(self.model, self.backend, self._warned)
            results = self._test(loader, reader, steps=self._validation_steps)
        except DataError:
            if not self._interrupts.requested:  # a signal to the process group also ends the workers
                raise
        finally:
            self._defer_saves = False
            if results is None:
                loader.load_state_dict(before)
                random.default_generator._go_back(stream)
        if results is not None and self._validated:
            self._validated = diagnose.validation(self, results["loss"])
        return results

    def _train_epoch(self) -> bool:
        """Train on the remaining batches of the epoch; False if it was stopped before the last one."""
        progress, loader = self._progress, self._loader
        assert loader is not None
        last = math.inf if self.batches is None else self.batches - 1
        timed, generator = self._autosave.timed, random.default_generator
        start = loader.position if self._steps_per_epoch is None else progress.batch
        batches: Any = self._passes.epoch(start)
        with contextlib.closing(batches):  # ends the workers at once, also after an error
            for number, batch in enumerate(batches, start):
                position, mark = loader.position - 1, generator._mark()
                self._defer_saves = True
                try:
                    self._dispatch("on_train_batch_begin", number, {})
                    self._modes.restore()
                    closes = (number + 1) % self.accumulate == 0 or number == last
                    fault = self._train_batch(batch, closes)
                except Exception as error:
                    if self._consistent:  # no update was made: resume with this batch
                        loader.position = position
                        generator._go_back(mark)
                    if isinstance(error, DeepcoreError):
                        shapes = ", ".join(f"{t.shape} {dt.name_of(t.dtype)}" for t in feed.leaves(batch))
                        error.add_note(f"in {self._location(number)}; the batch: {shapes}")
                    raise
                finally:
                    self._defer_saves = False
                progress.batch = number + 1
                self._consistent = not self._pending
                if fault is not None:
                    self._dispatch("on_train_batch_end", number, {"loss": fault})
                    if self.stop_training:
                        self._drop_group()
                        return False
                    continue
                self._dispatch("on_train_batch_end", number, BatchLogs(self))
                if self._savings:
                    self._check_savings()
                if not self._pending and number < last:
                    if self._stopping():
                        return False
                    if timed:
                        self._save_if_due()
        if self._steps_per_epoch is not None and progress.batch < self._steps_per_epoch:
            warn_user(
                f"the data ended after {progress.batch} of the {self._steps_per_epoch} batches of epoch "
                f"{progress.epoch + 1}, and training ends with it: pass a function that returns the iterator, which then "
                "begins again, or fewer steps"
            )
            self.stop_training = True
            if not progress.batch and len(self.history):
                return False
        if not progress.batch:
            raise DataError(
                f"the loader gave no batch in epoch {progress.epoch + 1}",
                expected="one or more" if self.batches is None else f"{self.batches}, as its length says",
                fix="a sampler, or an iterable dataset, that can be read in every epoch, such as a list",
            )
        return self._close_partial_group() if self._pending else True

    def _close_partial_group(self) -> bool:
        """Update from an incomplete group, where the loader gave fewer batches than its length."""
        if self._update_group((), None) is not None:
            return not self.stop_training
        self._consistent = True
        if self._pending_saves:
            self._write_checkpoints()
        return True

    def _train_batch(self, batch, closes: bool) -> float | None:
        """Forward, backward and, where the batch `closes` a group, the update. Returns the loss if it is not finite."""
        progress, steps, measure = self._progress, self._steps, self._measure
        inputs, target, sample_weight = self._inputs.split(batch, self._loader)
        self._remember(inputs)
        scale: tuple = ()
        if sample_weight is not None:
            scale = (measure.scale(inputs, target, sample_weight, self.accumulate == 1),)
        fault = None
        self._undo.begin(group=self.accumulate > 1 and not self._pending)
        try:
            if self.accumulate == 1:
                loss, output = steps.train(inputs, target, *scale)
            else:
                weight = measure.weight(inputs, target, self.backend)
                loss, output = steps.gradients(inputs, target, weight, *scale)
        except Exception as error:
            if isinstance(error, MemoryError):
                self._live = memory.live(self)
            self._undo.batch()
            if self.accumulate == 1:
                steps.clear_gradients()
            fault = self._handle_refused(error, inputs, target)
        else:
            count = measure.denominator(inputs, target)
            if self.accumulate > 1:
                self._pending += 1
                self._weight += count
        if closes and self._pending:
            closed = self._update_group(inputs, target)
            fault = closed if fault is None else fault
        if fault is not None:
            return fault
        self._consistent = False
        progress.step += self.accumulate == 1
        if measure.several:
            means = loss.tolist()
            self._add_outputs(progress.outputs, means, inputs, target)
            self._last_loss = sum(map(operator.mul, means, self.loss.weights.values()))
            self._update_metrics(self.metrics, output, target)
            return None
        value = float(loss)
        if self.accumulate == 1:
            progress.loss += value if measure.reduction == "sum" else value * count
            self._last_loss = value
        else:
            progress.loss += value
            self._last_loss = value / count if count else self._last_loss
        progress.samples += count
        self._update_metrics(self.metrics, output, target)
        return None

    def _add_outputs(self, sums: list[list[float]], means: list[float], inputs: tuple, target) -> None:
        """Add a batch to the (sum of the terms, of the denominators) of each output."""
        sums[:] = sums or [[0.0, 0.0] for _ in means]
        summed = [measure.reduction == "sum" for measure in self.loss.measures.values()]
        for entry, mean, count, whole in zip(sums, means, self._measure.denominators(inputs, target), summed):
            if count:
                entry[0] += mean if whole else mean * count
            entry[1] += count

    def _update_metrics(self, metrics: list[metrics_.Metric], output, target) -> None:
        if metrics:
            target = self._measure.target_for(output, target)
        for metric in metrics:
            metric.update(output, target)

    def _remember(self, inputs: tuple) -> None:
        """Let `model.summary()` know the shapes of the inputs, once in a fit."""
        if not self._seen:
            self._seen = True
            remember(self.model, inputs)

    def _update_group(self, inputs: tuple, target) -> float | None:
        """One update with the mean of the accumulated gradients. Returns the loss if it is not finite."""
        try:
            if self._measure.reduction != "sum":
                if not self._weight:
                    raise Refused("the loss is nan", math.nan)
                self._scale_gradients(1 / self._weight)
            self._steps.update()
        except Exception as error:
            self._undo.group()
            self._drop_group()
            return self._handle_refused(error, inputs, target)
        self._pending, self._weight = 0, 0.0
        self._progress.step += 1
        return None

    def _drop_group(self) -> None:
        """Discard the gradients of the current group of batches."""
        self._steps.clear_gradients()
        self._pending, self._weight = 0, 0.0

    def _scale_gradients(self, factor: float) -> None:
        for _, p in self._named:
            if p.grad is not None:
                p.grad._data[...] *= factor
                p.grad.bump_version()

    def _stopping(self) -> bool:
        asked = self.stop_training or vars(self.model).get("stop_training", False)  # Keras's callbacks set the latter
        return asked or self._interrupts.requested

    # -- evaluate and predict -------------------------------------------------------------------------------
    def evaluate(
        self,
        data=None,
        y=None,
        *,
        batch_size: int | None = None,
        callbacks: Iterable[Callback] | None = None,
        verbose: int | str = 0,
        x=None,
        sample_weight=None,
        steps: int | None = None,
        return_dict: bool = True,
    ) -> Any:
        """{"loss": …, metric: …} over `data`, in evaluation mode: the same whatever the batch size, to rounding.

        data, or x and y, and sample_weight: as in `fit`. steps: the number of batches, if not all.
        return_dict=False: Keras's list of the values, or the loss alone where there are no metrics.
        Errors: `DataError` where nothing counts in the loss, such as labels that are all ignored.
        """
        bar = _check_verbose(verbose)
        if isinstance(y, int) and batch_size is None:  # evaluate(data, 100)
            y, batch_size = None, y
        inputs = feed.Inputs(self.model, self.backend, self._warned)
        data, _ = arguments.resolve(inputs, data, None, x, y, None, sample_weight, "evaluate")
        if sample_weight is not None:
            self._check_weights(sample_weight, None)
        loader = self._loader_of(data, batch_size, steps=steps)
        self._build(loader)
        self._set_steps()
        previous = self._callbacks, self._hooks  # a callback of fit may evaluate
        results, full = None, None
        self._set_callbacks(callbacks, bar)
        try:
            with PreserveModes(self.model):
                results = self._test(loader, inputs, watch=False, steps=steps)
        except MemoryError as error:
            full = error if isinstance(error, OutOfMemoryError) else self._out_of_memory(error, " in evaluate")
        finally:
            for callback in self._callbacks:
                callback.close()
            self._callbacks, self._hooks = previous
        if full is not None:
            raise full
        assert results is not None
        return results if return_dict else _as_list(results)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict: bool = True) -> Any:
        """One update with one batch, in training mode: {"loss": …, metric: …} of it, before the update.

        x, y, …: as in `fit`; a tuple (input, …, target) without y. return_dict=False: Keras's list, or the loss alone.
        Errors: `NonFiniteError` as in `fit`; the batch then changes nothing.
        """
        if self.accumulate > 1:
            raise ArgumentError("train_on_batch makes an update, and the Trainer accumulates batches", fix="fit")
        self._seed_once()
        self._inputs = feed.Inputs(self.model, self.backend, self._warned, class_weight)
        data, _ = arguments.resolve(self._inputs, x, None, None, y, None, sample_weight, "train_on_batch")
        self._check_weights(sample_weight, class_weight)
        self._loader = self._one_batch(data)
        self._build(self._loader)
        progress, self._progress = self._progress, Progress()
        self._progress.step = progress.step
        self._set_callbacks((), None)
        self._set_steps()
        for metric in self.metrics:
            metric.reset()
        try:
            with PreserveModes(self.model):
                TrainingModes(self.model)._set()
                self._steps.clear_gradients()
                for batch in self._loader:
                    self._train_batch(batch, True)
            logs = dict(BatchLogs(self))
            progress.step = self._progress.step
        finally:
            self._progress, self._consistent = progress, True
            self._undo.forget()
        return logs if return_dict else _as_list(logs)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict: bool = True) -> Any:
        """{"loss": …, metric: …} of one batch, in evaluation mode, as `evaluate`."""
        data, _ = arguments.resolve(
            feed.Inputs(self.model, self.backend, self._warned), x, None, None, y, None, sample_weight, "test_on_batch"
        )
        return self.evaluate(self._one_batch(data), return_dict=return_dict)

    def predict_on_batch(self, x):
        """The model's outputs for one batch, in evaluation mode, as `predict`."""
        reader = feed.Inputs(self.model, self.backend, self._warned)
        return self.predict(self._one_batch(x, reader))

    def _one_batch(self, data, reader: feed.Inputs | None = None) -> DataLoader:
        loader = self._loader_of(data, None, reader)
        samples = len(loader.dataset)
        return DataLoader(loader.dataset, samples, backend=self.backend)

    def predict(
        self,
        x,
        batch_size: int | None = None,
        *,
        verbose: int | str = 0,
        steps: int | None = None,
        callbacks: Iterable[Callback] | None = None,
    ):
        """The model's outputs for every sample, in order, on the trainer's backend, in evaluation mode.

        x: an array, a tensor, a table or a list of rows; a tuple of as many as the model's forward takes; or a Dataset
        or a DataLoader. Where the model does not need the last part of the samples, that is the target and left out,
        as in `evaluate`. An iterable gives batches. steps: the number of batches, if not all. verbose: prints nothing.
        callbacks: their on_predict_… events.
        """
        if feed.is_column(batch_size):
            raise ArgumentError("predict takes inputs only", received="a second array", fix="predict(x)")
        _check_verbose(verbose)
        reader = feed.Inputs(self.model, self.backend, self._warned)
        loader = self._loader_of(x, batch_size, reader, steps)
        if loader.shuffle or loader.drop_last:
            raise ArgumentError(
                "predict gives one output per sample, in order",
                received=f"a DataLoader with shuffle={loader.shuffle}, drop_last={loader.drop_last}",
                fix="predict(loader.dataset)",
            )
        if self.optimizer is not None:
            self._set_steps()
        else:
            self._steps.model = self.model
        columns = isinstance(loader.dataset, feed.Columns)
        previous = self._callbacks, self._hooks  # a callback of fit may predict
        full: MemoryError | None = None
        outputs: list = []
        if callbacks is not None:
            self._set_callbacks(callbacks, None)
        try:
            with PreserveModes(self.model):
                self.model.eval()
                if callbacks is not None:
                    self._dispatch("on_predict_begin", {})
                for number, batch in enumerate(stream.limited(loader, steps)):
                    if callbacks is not None:
                        self._dispatch("on_predict_batch_begin", number, {})
                    inputs = reader.inputs_of(batch, columns)
                    try:
                        output = self._steps.predict(inputs)
                    except DeepcoreError:
                        self._check_batched(x)
                        raise
                    sizes = {t.shape[0] for t in feed.leaves(output) if t.ndim}
                    if not outputs and feed.samples_in(inputs) not in sizes:
                        self._check_batched(x)
                    outputs.append(output)
                    if callbacks is not None:
                        self._dispatch("on_predict_batch_end", number, {"outputs": output})
                if callbacks is not None:
                    self._dispatch("on_predict_end", {})
        except MemoryError as error:
            outputs = []
            full = error if isinstance(error, OutOfMemoryError) else self._out_of_memory(error, " in predict")
        finally:
            if callbacks is not None:
                for callback in self._callbacks:
                    callback.close()
            self._callbacks, self._hooks = previous
        if full is not None:
            raise full
        if not outputs:
            raise DataError("there is no batch to predict")
        return feed.concatenate(outputs)

    def _check_batched(self, x) -> None:
        """Raise `ShapeError` if `x` is a single sample rather than an array of samples, judged by running the model."""
        if not feed.is_array(x):
            return
        shape = tuple(x.shape)
        try:
            (sample,) = self._loader_of(x[None], None)
            self._steps.predict(feed.Inputs(self.model, self.backend, self._warned).inputs_of(sample, True))
        except Exception:
            return
        raise ShapeError(
            "predict takes an array of samples, and this one is a single sample",
            expected=f"shape {(1, *shape)}",
            received=f"shape {shape}, which would be {shape[0]} samples of shape {shape[1:]}",
            fix="predict(x[None])",
        ) from None

    def _loader_of(
        self, data, batch_size: int | None, inputs: feed.Inputs | None = None, steps: int | None = None
    ) -> DataLoader:
        if isinstance(data, DataLoader) and batch_size is not None:
            raise ArgumentError("batch_size does nothing here: the data is in a DataLoader", fix="leave it out")
        dtype = feed.model_dtype(self.model)
        return feed.as_loader(data, batch_size, False, self.backend, dtype, inputs, steps)

    def _test(
        self, loader: DataLoader, reader: feed.Inputs, watch: bool = True, steps: int | None = None
    ) -> dict[str, float] | None:
        """Loss and metrics over the loader; None after an interrupt, with `watch`."""
        total, denominator_sum = 0.0, 0.0
        sums: list[list[float]] = []
        for metric in self._test_metrics:
            metric.reset()
        self.model.eval()
        measure = self._measure
        summed = measure.reduction == "sum"
        self._dispatch("on_test_begin", {"batches": steps or feed.length_of(loader)})
        for number, batch in enumerate(stream.limited(loader, steps)):
            if watch and self._interrupts.requested:
                return None
            self._dispatch("on_test_batch_begin", number, {})
            inputs, target, weight = reader.split(batch, loader)
            self._remember(inputs)
            scale = () if weight is None else (measure.scale(inputs, target, weight),)
            loss, output = self._steps.test(inputs, target, *scale)
            if measure.several:
                self._add_outputs(sums, loss.tolist(), inputs, target)
                denominator_sum = min(count for _, count in sums)
                logs = output_losses(self.loss, sums)
            else:
                value, count = float(loss), measure.denominator(inputs, target)
                if count:  # else the mean is 0/0
                    total += value if summed else value * count
                denominator_sum += count
                logs = {"loss": total / denominator_sum if denominator_sum else math.nan}
            self._update_metrics(self._test_metrics, output, target)
            self._dispatch("on_test_batch_end", number, logs)
        if not denominator_sum:
            raise DataError(
                "the loss of this data is 0/0: nothing in it counts",
                received="only labels that are ignore_index, or of classes of weight 0",
                fix="check the labels of the evaluation data",
            )
        results = output_losses(self.loss, sums) if measure.several else {"loss": total / denominator_sum}
        results |= self._compute(self._test_metrics)
        self._dispatch("on_test_end", results)
        return results

    def _compute(self, metrics: list[metrics_.Metric]) -> dict[str, float]:
        return {metric.name: as_number(metric.name, metric.compute()) for metric in metrics}

    # -- callbacks ------------------------------------------------------------------------------------------
    def _set_callbacks(self, callbacks: Iterable[Callback] | None, bar: bool | None) -> None:
        self._callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
        for callback in self._callbacks:
            if not isinstance(callback, Callback):
                raise ArgumentError(
                    "a callback is a Callback", received=_type_text(callback), fix=_instance_fix(callback)
                )
        if bar is not None and not any(isinstance(c, ProgressBar) for c in self._callbacks):
            self._callbacks.append(ProgressBar(bar=bar))
        self._hooks = {}
        for callback in self._callbacks:
            callback.set_trainer(self)

    def _dispatch(self, event: str, *args) -> None:
        hooks = self._hooks.get(event)
        if hooks is None:
            hooks = self._hooks[event] = self._hooks_of(event, self._callbacks)
        self._call(event, hooks, args)

    def _hooks_of(self, event: str, callbacks: list[Callback]) -> list:
        """(callback, method) of the callbacks that override the event's method."""
        base = getattr(Callback, event)
        short = event.replace("_train_batch_", "_batch_")  # Keras's older name
        methods = [(callback, getattr(callback, event)) for callback in callbacks]
        if short != event:
            methods += [(callback, getattr(callback, short)) for callback in callbacks if hasattr(callback, short)]
        return [(callback, hook) for callback, hook in methods if getattr(hook, "__func__", None) is not base]

    def _dispatch_unfinished(self) -> None:
        """Replay the event that ended the resumed run by an error, for the callbacks not yet called."""
        if self._unfinished_event is None:
            return
        progress, (event, callbacks) = self._progress, self._unfinished_event
        self._unfinished_event = None
        args: tuple[int, Any] = (progress.epoch, {})
        if event == "on_train_batch_end":
            args = (progress.batch - 1, BatchLogs(self))
        elif event == "on_epoch_end":
            args = (progress.epoch - 1, self.history.last)
        self._call(event, self._hooks_of(event, callbacks), args)

    def _call(self, event: str, hooks: list, args: tuple) -> None:
        was_dispatching, self._dispatching = self._dispatching, True
        completed = 0
        try:
            for _, hook in hooks:
                hook(*args)
                completed += 1
        except Exception:
            if event in _REPLAYED and not was_dispatching:
                self._unfinished_event = event, [callback for callback, _ in hooks[completed:]]
            raise
        finally:
            self._dispatching = was_dispatching
        if event == "on_epoch_end":
            logs = args[-1]
            logs.update({name: as_number(name, value) for name, value in logs.items()})
        if self._may_save():
            self._write_checkpoints()

    def loss_names(self) -> list[str]:
        """The names of losses in the logs: "loss", and with several outputs "<output>_loss" of each."""
        several = isinstance(self.loss, OutputLosses)
        return ["loss", *(f"{name}_loss" for name in (self.loss.losses if several else ()))]

    def log_names(self) -> list[str]:
        """The names that an epoch's logs will have in the current `fit`."""
        names = [*self.loss_names(), *(metric.name for metric in self.metrics)]
        if self._validation is not None:
            names += [f"val_{name}" for name in names]
        return [*names, "lr", *(name for callback in self._callbacks for name in callback.log_names)]

    @property
    def lr(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def epoch(self) -> int:
        """Epochs finished in the current `fit`, so the index of the current epoch."""
        return self._progress.epoch

    @property
    def step(self) -> int:
        """Updates made in the current `fit`, including those before a resume."""
        return self._progress.step

    # -- checkpoints ----------------------------------------------------------------------------------------
    def save_checkpoint(self, path: str | os.PathLike, wait: bool = True) -> None:
        """Everything `fit(resume=path)` needs: parameters, optimizer, schedule, random streams, the loader's position,
        history, metrics and callbacks.

        Called by a callback, it writes once every callback has handled the event, between two updates; called when a
        batch begins, after that batch; during validation, when the epoch ends. wait=False: a copy of the state is written
         in the background. An error of that is raised after the next batch, or at the end of the run.
        """
        path = os.fspath(path)
        self._pending_saves[path] = wait or self._pending_saves.get(path, False)
        if self._may_save():
            self._write_checkpoints()

    def _may_save(self) -> bool:
        """Whether checkpoints are pending, and the current state can be resumed from."""
        return bool(self._pending_saves) and not (self._pending or self._dispatching or self._defer_saves)

    def _write_checkpoints(self) -> None:
        paths, self._pending_saves = self._pending_saves, {}
        for path, wait in paths.items():
            saving = save_checkpoint(path, extra=self._extra(), wait=wait, **self._parts())
            if saving is not None:
                self._savings.append(saving)

    def follow(self, saving: Saving | None) -> None:
        """Raise the error of a write in the background (`dc.save(…, wait=False)`) after a batch, or at the run's end."""
        if saving is not None:
            self._savings.append(saving)

    def _check_savings(self, wait: bool = False) -> None:
        """Raise the error of a write in the background that has failed; `wait` for those under way."""
        for saving in self._savings if wait else [saving for saving in self._savings if saving.done()]:
            self._savings = [other for other in self._savings if other is not saving]
            try:
                saving.wait()
            except Exception:
                for other in self._savings:  # one error is enough
                    other.dismiss()
                raise

    def _save_if_due(self, at_end: bool = False) -> None:
        """Write the run's own checkpoint if it is due. A full disk does not end the run."""
        saves, progress = self._autosave, self._progress
        if not saves.is_due(at_end) or self._pending:
            return
        try:
            self.save_checkpoint(saves.path)
            if saves.keep and at_end:
                self.save_checkpoint(saves.numbered(progress.epoch))
                saves.prune(progress.epoch)
        except (FileAccessError, MissingFileError) as error:
            warn_user(
                f"{error.problem}; training goes on without this checkpoint" + (f" ({error.fix})" if error.fix else "")
            )
        saves.mark_written(at_end)

    def _save_after(self, error: Exception) -> None:
        """After an error, write a checkpoint of the last update and name it in a note on the error."""
        progress = self._progress
        if self.out is None or not self._consistent or not progress.step:
            return
        self._pending_saves = {self._autosave.path: True, **self._pending_saves}  # before those requested by callbacks
        try:
            self._write_checkpoints()
        except Exception as failure:
            error.add_note(f"no checkpoint could be written after it: {getattr(failure, 'problem', failure)}")
        else:
            error.add_note(f"the run {self._position_text()} is saved in {self._autosave.path}")

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
        missed = None
        if self._unfinished_event is not None:
            event, callbacks = self._unfinished_event
            missed = [event, [i for i, c in enumerate(self._callbacks) if any(c is m for m in callbacks)]]
        return {
            "progress": self._progress.state_dict(),
            "history": self.history.state_dict(),
            "metrics": {metric.name: metric.state_dict() for metric in self.metrics},
            "validation": None if self._validation is None else self._validation.state_dict(),
            "callbacks": [[type(c).__name__, c.state_dict()] for c in self._callbacks],
            "modes": self._modes.state_dict(),
            "missed": missed,
        }

    def resume_from(self, path: str | os.PathLike) -> None:
        """For a callback's `on_train_begin`: resume from this checkpoint, as `fit(resume=path)` does."""
        self._resume_from = os.fspath(path)

    def _resolve(self, resume, verbose: int) -> str | None:
        """The file to resume from; None to start from the beginning."""
        if resume is None or resume is False:
            return None
        if resume is True:
            if self.out is None:
                raise ArgumentError("resume=True needs a Trainer with out=", fix="resume=path")
            resume = self.out
        path = os.fspath(resume)
        is_out = self.out is not None and os.path.abspath(path) == os.path.abspath(self.out)
        if is_out or os.path.isdir(path):
            path = os.path.join(path, CHECKPOINT)
        if is_out and not os.path.exists(path):
            if verbose > 0:
                print(f"there is no {path} yet: starting from the beginning", flush=True)
            return None
        return path

    def _restore(self, path: str) -> None:
        try:
            restore(path, self._parts(), self._extra_states, backend=self.backend)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DeepcoreError):
                raise
            raise FileFormatError(
                f"{path!r} is a checkpoint, but not one that Trainer.fit wrote",
                fix="deepcore.io.load_checkpoint(path, model=model) restores its parts",
            ) from None
        self.optimizer._stepped = self.optimizer._stepped or self._progress.step > 0
        self.resumed = True

    def _extra_states(self, extra) -> list[tuple[Any, Any]]:
        """(object, saved state) of everything that `_extra` saves."""
        states = [(self._progress, extra["progress"]), (self.history, extra["history"])]
        states += [
            (metric, extra["metrics"][metric.name]) for metric in self.metrics if metric.name in extra["metrics"]
        ]
        if self._validation is not None and extra["validation"] is not None:
            states.append((self._validation, extra["validation"]))
        if "modes" in extra:
            states.append((self._modes, extra["modes"]))
        event, unseen = extra.get("missed") or (None, ())
        unmatched, missed = list(enumerate(extra["callbacks"])), []
        for callback in self._callbacks:
            match = next((pair for pair in unmatched if pair[1][0] == type(callback).__name__), None)
            if match is not None:
                number, (_, state) = match
                unmatched = [pair for pair in unmatched if pair[0] != number]
                states.append((callback, state))
                if number in unseen:
                    missed.append(callback)
        self._unfinished_event = (event, missed) if event in _REPLAYED else None
        return states

    # -- messages -------------------------------------------------------------------------------------------
    def _location(self, number: int, group: bool = False) -> str:
        """The position of batch `number` in the run, or of its group of accumulated batches."""
        progress, first = self._progress, number - number % self.accumulate
        batches = f"batches {first + 1} to {number + 1}" if group and first < number else f"batch {number + 1}"
        return f"epoch {progress.epoch + 1}, {batches}{self._of_batches()} (step {progress.step + 1})"

    def _of_batches(self) -> str:
        return "" if self.batches is None else f" of {self.batches}"

    def _position_text(self) -> str:
        progress = self._progress
        return (
            f"in epoch {progress.epoch + 1} after batch {progress.batch}{self._of_batches()}"
            if progress.begun
            else f"after epoch {progress.epoch}"
        )

    def _interruption_text(self) -> str:
        progress = self._progress
        text = f"interrupted {self._position_text()}"
        if progress.samples:
            text += f", loss {format_value('loss', progress.loss / progress.samples)}"
        if self.out is not None:
            text += f"; fit(…, resume=True) goes on from {os.path.join(self.out, CHECKPOINT)}"
        return text

    def _handle_refused(self, error: Exception, inputs, target) -> float:
        """The loss of a refused batch, if a callback handles non-finite losses; otherwise raises the error."""
        if not isinstance(error, Refused):
            raise error
        self.refused = error.problem
        if not any(callback.handles_non_finite for callback in self._callbacks):
            location = self._location(self._progress.batch, group=bool(error.gradients))
            raise diagnose.non_finite(self, error, location, self._last_loss, inputs, target) from None
        return error.loss

    def __repr__(self) -> str:
        return (
            f"Trainer({type(self.model).__name__}, {type(self.optimizer).__name__}, {_name(self.loss)}, "
            f"metrics={[m.name for m in self.metrics]}, backend={str(self.backend)!r})"
        )


def _checked_int(name: str, value, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise ArgumentError(f"{name} is a whole number of at least {least}", received=f"{name}={value!r}")
    return value.__index__()


def _as_list(results: dict[str, float]) -> Any:
    values = list(results.values())
    return values[0] if len(values) == 1 else values


def _check_verbose(verbose) -> bool | None:
    """None: silent; True: a bar where it can be drawn; False: lines."""
    if verbose == "auto":
        verbose = 1
    if verbose not in (0, 1, 2):
        raise ArgumentError("verbose is 0 (nothing), 1 (progress bar) or 2 (a line per epoch)", received=repr(verbose))
    return None if verbose == 0 else verbose == 1


def _type_text(value) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _instance_fix(value) -> str | None:
    return f"{value.__name__}(…)" if isinstance(value, type) else None


def _name(loss) -> str:
    return getattr(loss, "__name__", type(loss).__name__)
