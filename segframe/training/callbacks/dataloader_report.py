"""Report when training waits for data, and which setting to change."""

from statistics import median
from time import perf_counter
from typing import Any

from pytorch_lightning import Callback, Trainer

from segframe import distributed
from segframe.config.machine import num_cores
from segframe.training.step_timer import StepTimer


class DataloaderReport(Callback):
    """Prints a line after the first epoch that spent more than `tolerated` (0 ... 1) of its time waiting for data."""

    def __init__(self, tolerated: float) -> None:
        self.tolerated = tolerated
        self._reported = False
        self._timer = StepTimer()

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self._timer.start(module.device, module.idle_since)

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        accumulates = (batch_idx + 1) % trainer.accumulate_grad_batches
        if accumulates or trainer.global_step % module.length.steps_per_epoch:
            return
        share, _ = self._timer.take(module.device)
        if share > self.tolerated and trainer.is_global_zero and not self._reported:
            self._reported = True
            loader: Any = trainer.train_dataloader
            epoch = trainer.global_step // module.length.steps_per_epoch
            print_line = trainer.progress_bar_callback.print if trainer.progress_bar_callback else print
            print_line(
                f"epoch {epoch}: the model waited {100 * share:.0f} % of the time for data "
                f"({loader.num_workers or 'no'} workers, {num_cores()} cores): {advice(loader)}"
            )

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        self._timer.pause(module.device)


def advice(loader: Any) -> str:
    """The setting whose change helps most."""
    dataset, workers, cores = loader.dataset, loader.num_workers, max(1, num_cores() // distributed.local_world())
    has_more_cores = workers < cores - 1 or not workers
    if dataset.cache is None and dataset.reads_files:
        share = reading_share(dataset)
        # A cache leaves 1 - share of the time, more workers workers / cores.
        if not has_more_cores or (1 - share) * cores < workers:
            return f"data.cache=disk (or ram) would keep decoded images, whose reading takes {share:.0%} of the loading"
    if has_more_cores:
        return f"data.num_workers={cores} would load with every core"
    return "transforms=light or a smaller data.crop_size would load faster, if the recipe allows"


def reading_share(dataset: Any) -> float:
    """The median share of reading the files in the time of loading a sample, of the first samples."""
    shares = []
    for index in range(min(5, len(dataset))):
        start = perf_counter()
        dataset.read(index)
        middle = perf_counter()
        dataset[index]
        shares.append((middle - start) / (perf_counter() - middle))
    return min(1.0, median(shares))
