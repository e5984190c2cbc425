"""When a training began and ended, written to a file: a callback for either side's Lightning."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer


class Clock(Callback):
    """Writes {"start": first training batch, "batches": end of the last one, "end": end of the run}, in Unix seconds.

    Validation and checkpoints between the first batch and the end count. `path` None writes nothing. `last`: the index
    of the last batch; a GPU is waited for before the second batch's start and this one's end are noted.
    """

    def __init__(self, path: str | None = None, last: int | None = None) -> None:
        self.path = path
        self.last = last
        self.times: dict[str, float] = {}

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        """Notes when the first batch is there, and when the second one is."""
        for name in ("start", "second"):
            if name not in self.times:
                self.wait(name == "second")
                self.times[name] = time.time()
                break

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Notes the end of the latest batch."""
        self.wait(batch_idx == self.last)
        self.times["batches"] = time.time()

    def wait(self, now: bool) -> None:
        """Waits for a GPU, if `last` says that it is waited for."""
        if now and self.last is not None and torch.cuda.is_available():
            torch.cuda.synchronize()

    def on_fit_end(self, trainer: Trainer, module: Any) -> None:
        """Writes."""
        self.times["end"] = time.time()
        if self.path is not None:
            Path(self.path).write_text(json.dumps(self.times))
