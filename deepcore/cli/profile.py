"""`deepcore train --profile FILE`: a trace of some of the first steps."""

from __future__ import annotations

from pathlib import Path

import deepcore as dc
from deepcore.cli.train import AHEAD, PROFILED
from deepcore.errors import ArgumentError
from deepcore.train.callbacks import Callback


class Profile(Callback):
    """Writes a trace of some of the first steps."""

    def __init__(self, file: str):
        self.file = Path(file).expanduser()
        if self.file.is_dir() or not self.file.parent.is_dir():
            raise ArgumentError(
                "--profile takes the name of a file in a folder that exists", received=f"--profile {file}"
            )
        steps = dc.profiler.schedule(wait=0, warmup=AHEAD, active=PROFILED, repeat=1)
        self.prof = dc.profile(schedule=steps, on_trace_ready=self._write)
        self.lines = [f"not profiled: the run ended within {AHEAD} steps"]

    def _write(self, prof) -> None:
        prof.export_chrome_trace(self.file)
        steps = sum(event.name.startswith("ProfilerStep#") for event in prof.events())
        self.lines = [
            *prof.table(row_limit=10).splitlines(),
            f"profile of {steps} steps in {self.file}",
        ]

    def on_train_begin(self, logs) -> None:
        self.prof.start()

    def on_train_batch_end(self, batch: int, logs) -> None:
        self.prof.step()

    def close(self) -> None:
        if self.prof.running:
            self.prof.stop()
