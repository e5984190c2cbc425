"""Progress of a run: a bar on a terminal, and one line after every validation."""

from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning import callbacks as lightning
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from segframe.errors import check_range
from segframe.training.callbacks.training_curves import TrainingCurves


class ProgressBar(lightning.ProgressBar):
    """One bar for the run and a second one during a validation; none where standard output is no terminal."""

    def __init__(self, refresh_every_n_steps: int = 20) -> None:
        super().__init__()
        check_range("callbacks.progress.refresh_every_n_steps", refresh_every_n_steps, 1)
        self.refresh_every_n_steps = refresh_every_n_steps
        self.best = 0.0
        self._console = Console(highlight=False)
        self._enabled = True
        self._progress: Progress | None = None
        self._run = self._validation = TaskID(0)
        self._figures: dict[str, float] = {}

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bars."""
        self._console.print(*args, soft_wrap=True, markup=False)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        if not self._enabled or not self._console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", table_column=Column(ratio=1, no_wrap=True)),  # cut off where too long
            console=self._console,
            refresh_per_second=2,
            expand=True,
        )
        self._progress.start()
        self._run = self._progress.add_task("", total=module.length.total_steps, figures="")
        self._refresh(trainer, module)

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.refresh_every_n_steps == 0:
            self._refresh(trainer, module)

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        if self._progress:
            self._refresh(trainer, module)
            self._validation = self._progress.add_task("validation", total=trainer.num_val_batches[0], figures="")

    def on_validation_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._progress:
            self._progress.advance(self._validation)

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        """Remove the second bar and print the step's line."""
        if trainer.sanity_checking or not self._enabled:
            return
        self._figures = module.metrics
        self.best = max(self.best, module.metrics["val/miou"])
        if self._progress:
            self._progress.remove_task(self._validation)
            self._refresh(trainer, module)
        self.print(self._line(trainer, module))

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
            metrics = _last_curves(trainer) | self._figures
            short = {"train/loss": "loss {:.3f}", "val/loss": "val {:.3f}", "val/miou": "miou {:.4f}"}  # in 80 columns
            shown = [text.format(metrics[name]) for name, text in short.items() if name in metrics]
            self._progress.update(
                self._run, completed=trainer.global_step, description=f"epoch {epochs}", figures=" ".join(shown)
            )

    def _line(self, trainer: Trainer, module: Any) -> str:
        step, metrics, curves = trainer.global_step, module.metrics, _last_curves(trainer)
        parts = [f"step {step}/{module.length.total_steps}", f"epoch {step / module.length.steps_per_epoch:.1f}"]
        parts += [f"train/loss {curves['train/loss']:.3f}"] if curves else []
        parts += [f"val/loss {metrics['val/loss']:.3f}", f"val/miou {metrics['val/miou']:.4f} (best {self.best:.4f})"]
        if curves:
            parts.append(f"{curves['speed/images_per_second']:.1f} images/s")
            parts.append(f"{100 * curves['speed/data_wait']:.0f} % waiting for data")
        return " · ".join(parts)


def _last_curves(trainer: Trainer) -> dict[str, float]:
    """What TrainingCurves logged last; empty without it."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.last for callback in callbacks if isinstance(callback, TrainingCurves)), {})
