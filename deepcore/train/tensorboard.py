"""`TensorBoard`: a run's values and weights as event files, which TensorBoard shows."""

from __future__ import annotations

import os
from typing import Any

from deepcore.errors import ArgumentError, MissingDependencyError
from deepcore.train.callbacks import Callback


class TensorBoard(Callback):
    """Writes logs for TensorBoard to `log_dir`/train and `log_dir`/validation, with Keras's tags, by tensorboardX.

    After each epoch `epoch_loss`, `epoch_<metric>` and `epoch_learning_rate`, against the number of the epoch. update_freq:
    "epoch", "batch", or a number of batches after which `batch_loss` and `batch_<metric>` (means over the epoch so far) are
    written, too, against the number of updates. histogram_freq: histograms of all parameters after every so many epochs
    (0: none). A resumed run adds to the files.

    `scalar(name, value, step)`, `histogram(…)`, `image(…)` and `text(…)` write to the training run as well.
    Errors: `MissingDependencyError` without tensorboardX.
    """

    def __init__(self, log_dir: str | os.PathLike = "logs", histogram_freq: int = 0, update_freq: str | int = "epoch"):
        number = isinstance(update_freq, int) and not isinstance(update_freq, bool) and update_freq >= 1
        if not number and update_freq not in ("epoch", "batch"):
            raise ArgumentError("update_freq is 'epoch', 'batch' or a number of batches", received=repr(update_freq))
        if isinstance(histogram_freq, bool) or not isinstance(histogram_freq, int) or histogram_freq < 0:
            raise ArgumentError("histogram_freq is a number of epochs, or 0", received=repr(histogram_freq))
        self.log_dir, self.histogram_freq = os.fspath(log_dir), histogram_freq
        self.update_freq = 1 if update_freq == "batch" else update_freq
        self._writers: dict[str, Any] = {}
        _module()

    def writer(self, name: str = "train") -> Any:
        """The tensorboardX `SummaryWriter` of one part of the run, "train" or "validation"."""
        if name not in self._writers:
            self._writers[name] = _module().SummaryWriter(os.path.join(self.log_dir, name))
        return self._writers[name]

    def on_train_batch_end(self, batch: int, logs) -> None:
        step = self.trainer.step
        if self.update_freq != "epoch" and step % int(self.update_freq) == 0:
            for name, value in logs.items():
                self.writer().add_scalar(f"batch_{name}", value, step)

    def on_epoch_end(self, epoch: int, logs) -> None:
        for name, value in logs.items():
            part = "validation" if name.startswith("val_") else "train"
            tag = "learning_rate" if name == "lr" else name.removeprefix("val_")
            self.writer(part).add_scalar(f"epoch_{tag}", float(value), epoch)
        if self.histogram_freq and (epoch + 1) % self.histogram_freq == 0:
            for name, parameter in self.model.named_parameters():
                self.writer().add_histogram(name.replace(".", "/"), parameter.numpy(force=True), epoch)
        for writer in self._writers.values():
            writer.flush()

    def scalar(self, name: str, value: float, step: int | None = None) -> None:
        """Write a number; step: the number of updates if not given."""
        self.writer().add_scalar(name, float(value), self.trainer.step if step is None else step)

    def histogram(self, name: str, values, step: int | None = None) -> None:
        """Write the distribution of a tensor's values."""
        values = values.numpy(force=True) if hasattr(values, "detach") else values
        self.writer().add_histogram(name, values, self.trainer.step if step is None else step)

    def image(self, name: str, image, step: int | None = None) -> None:
        """Write an image (C, H, W), of bytes, or of floats from 0 to 1."""
        image = image.numpy(force=True) if hasattr(image, "detach") else image
        self.writer().add_image(name, image, self.trainer.step if step is None else step)

    def text(self, name: str, text: str, step: int | None = None) -> None:
        """Write text, as Markdown."""
        self.writer().add_text(name, text, self.trainer.step if step is None else step)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def state_dict(self) -> dict[str, Any]:
        return {}


def _module():
    try:
        import tensorboardX
    except ImportError:
        raise MissingDependencyError(
            "TensorBoard needs tensorboardX, which is not installed", fix='pip install "deepcore-nn[tensorboard]"'
        ) from None
    return tensorboardX
