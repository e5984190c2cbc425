"""Tells when the model waits for its data, and which setting to change."""

from time import perf_counter
from typing import Any

from pytorch_lightning import Callback, Trainer

from segframe.data.datamodule import num_cores


class LoaderReport(Callback):
    """A line at the end of every epoch of which training spent more than `tolerated` (0 ... 1) waiting for batches."""

    def __init__(self, tolerated: float) -> None:
        self.tolerated = tolerated
        self._waited = self._busy = 0.0
        self._moment: float | None = None  # when the last batch ended; none where something else lay between

    def on_train_batch_start(self, trainer: Trainer, task: Any, batch: Any, batch_idx: int) -> None:
        """Counts the time since the last batch as waiting."""
        now = perf_counter()
        if self._moment is not None:
            self._waited += now - self._moment
        self._moment = now

    def on_train_batch_end(self, trainer: Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Counts the time since the batch's start as work, and ends the epoch."""
        now = perf_counter()
        self._busy += now - (self._moment or now)
        self._moment = now
        accumulates = (batch_idx + 1) % trainer.accumulate_grad_batches
        if accumulates or trainer.global_step % task.steps_per_epoch:
            return
        share = self._waited / max(self._waited + self._busy, 1e-9)
        if share > self.tolerated and trainer.is_global_zero:
            loader: Any = trainer.train_dataloader
            epoch = trainer.global_step // task.steps_per_epoch
            print_line = trainer.progress_bar_callback.print if trainer.progress_bar_callback else print
            print_line(
                f"epoch {epoch}: the model waited {100 * share:.0f} % of the time for data "
                f"({loader.num_workers or 'no'} workers, {num_cores()} cores): {advice(loader)}"
            )
        self._waited = self._busy = 0.0

    def on_validation_start(self, trainer: Trainer, task: Any) -> None:
        """Stops the clock."""
        self._moment = None


def advice(loader: Any) -> str:
    """The setting whose change helps most."""
    workers, cores = loader.num_workers, num_cores()
    if workers < cores:
        return f"data.num_workers={cores} would load with every core"
    if loader.dataset.cache is None and loader.dataset.samples[0].image.name:
        return "data.cache=disk (or ram) would keep decoded images"
    return "transforms=light or a smaller data.crop_size would load faster, if the recipe allows"
