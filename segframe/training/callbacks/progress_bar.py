"""Progress of a run: a bar on a terminal, lines elsewhere, and one line after every validation."""

from datetime import timedelta
from math import inf
from time import monotonic
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning import callbacks as lightning
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from segframe.errors import check_range
from segframe.training.callbacks.training_curves import TrainingCurves


class ProgressBar(lightning.ProgressBar):
    """One bar for the run and a second one during a validation.

    Where standard output is no terminal: a line every n minutes, or none (null).
    """

    def __init__(self, refresh_every_n_steps: int = 20, every_n_minutes: float | None = None) -> None:
        super().__init__()
        check_range("callbacks.progress.refresh_every_n_steps", refresh_every_n_steps, 1)
        if every_n_minutes is not None:
            check_range("callbacks.progress.every_n_minutes", every_n_minutes, 0)
        self.refresh_every_n_steps = refresh_every_n_steps
        self._interval = inf if every_n_minutes is None else 60 * every_n_minutes
        self._start = self._printed = monotonic()  # of training, and the moment of the last line
        self._first_step = 0
        self._console = Console(highlight=False)
        self._enabled = True
        self._progress: Progress | None = None
        self._run = self._validation = TaskID(0)
        self._validated = 0  # images
        self._metrics: dict[str, float] = {}

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bars."""
        self._console.print(*args, soft_wrap=True, markup=False)

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        self._start = self._printed = monotonic()
        self._first_step = trainer.global_step
        if not self._enabled or not self._console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}", table_column=Column(ratio=1, no_wrap=True)),  # cut off where too long
            console=self._console,
            refresh_per_second=2,
            expand=True,
        )
        self._progress.start()
        self._run = self._progress.add_task("", total=module.length.total_steps, metrics="")
        self._refresh(trainer, module)

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.refresh_every_n_steps == 0:
            self._refresh(trainer, module)
        self._print_if_due(trainer, module)

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        if self._progress:
            self._refresh(trainer, module)
            self._validation = self._progress.add_task("validation", total=trainer.num_val_batches[0], metrics="")
        self._validated = 0

    def on_validation_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._validated += len(batch["name"])  # num_val_batches counts images too: the length of ImageBatches
        if self._progress:
            self._progress.update(self._validation, completed=self._validated)
        elif not trainer.sanity_checking:
            self._print_if_due(trainer, module, f"validation {self._validated}/{trainer.num_val_batches[0]}")

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        """Remove the second bar and print the step's line."""
        if trainer.sanity_checking or not self._enabled:
            return
        self._metrics = module.metrics
        if self._progress:
            self._progress.remove_task(self._validation)
            self._refresh(trainer, module)
        self.print(self._line(trainer, module))
        self._printed = monotonic()

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, module: Any, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None

    def _refresh(self, trainer: Trainer, module: Any) -> None:
        if self._progress:
            per_epoch = module.length.steps_per_epoch
            epochs = f"{trainer.global_step / per_epoch:.1f}/{module.length.total_steps / per_epoch:.4g}"
            metrics = _last_curves(trainer) | self._metrics
            short = {"train/loss": "loss {:.3f}", "val/loss": "val {:.3f}", "val/miou": "miou {:.4f}"}  # in 80 columns
            shown = [text.format(metrics[name]) for name, text in short.items() if name in metrics]
            self._progress.update(
                self._run, completed=trainer.global_step, description=f"epoch {epochs}", metrics=" ".join(shown)
            )

    def _print_if_due(self, trainer: Trainer, module: Any, *more: str) -> None:
        if self._enabled and not self._progress and monotonic() - self._printed >= self._interval:
            self.print(" · ".join([*self._step(trainer, module), *more, *self._speed(trainer, module)]))
            self._printed = monotonic()

    def _line(self, trainer: Trainer, module: Any) -> str:
        scores = []
        for name in dict.fromkeys(("val/loss", "val/miou", module.config.monitor)):
            number = "{:.3f}" if name == "val/loss" else "{:.4f}"
            is_best = name == module.config.monitor and module.best is not None
            best = f" (best {number.format(module.best)})" if is_best else ""
            scores.append(f"{name} {number.format(module.metrics[name])}{best}")
        return " · ".join([*self._step(trainer, module), *scores, *self._speed(trainer, module)])

    def _step(self, trainer: Trainer, module: Any) -> list[str]:
        step, curves = trainer.global_step, _last_curves(trainer)
        parts = [f"step {step}/{module.length.total_steps}", f"epoch {step / module.length.steps_per_epoch:.1f}"]
        return parts + ([f"train/loss {curves['train/loss']:.3f}"] if curves else [])

    def _speed(self, trainer: Trainer, module: Any) -> list[str]:
        """Images per second, and the remaining time where there is no bar that shows it."""
        curves, parts = _last_curves(trainer), []
        if curves:
            parts.append(f"{curves['speed/images_per_second']:.1f} images/s")
            parts.append(f"{100 * curves['speed/data_wait']:.0f} % waiting for data")
        done, left = trainer.global_step - self._first_step, module.length.total_steps - trainer.global_step
        if not self._progress and done and left:
            seconds = (monotonic() - self._start) / done * left  # validations included
            parts.append(f"{timedelta(seconds=round(seconds))} left")
        return parts


def _last_curves(trainer: Trainer) -> dict[str, float]:
    """The values that TrainingCurves logged last; empty without it."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.last for callback in callbacks if isinstance(callback, TrainingCurves)), {})
