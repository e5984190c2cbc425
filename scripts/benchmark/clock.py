"""A Lightning callback that records when training began and ended; segframe's runs and the peer script share it."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer


class Clock(Callback):
    """Record Unix seconds: "start" and "second" (start of the first two batches), "batches" (end of the last), "end".

    Validation and checkpoints between the first batch and the end count. The times are written to `path` as JSON, if
    given. `last` is the index of the last batch; with it, the GPU is synchronized before "second" and that batch's end.
    """

    def __init__(self, path: str | None = None, last: int | None = None) -> None:
        self.path = path
        self.last = last
        self.times: dict[str, float] = {}

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        for name in ("start", "second"):
            if name not in self.times:
                self._synchronize(name == "second")
                self.times[name] = time.time()
                break

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._synchronize(batch_idx == self.last)
        self.times["batches"] = time.time()

    def on_fit_end(self, trainer: Trainer, module: Any) -> None:
        self.times["end"] = time.time()
        if self.path is not None and trainer.is_global_zero:
            Path(self.path).write_text(json.dumps(self.times))

    def _synchronize(self, due: bool) -> None:
        if due and self.last is not None and torch.cuda.is_available():
            torch.cuda.synchronize()
