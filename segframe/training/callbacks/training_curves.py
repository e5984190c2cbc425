"""Training curves: loss, learning rates and speed."""

from collections import defaultdict
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch.optim import Optimizer

from segframe.errors import check_range
from segframe.training.step_timer import StepTimer


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Learning rates by part of the network (`backbone`), or by parameter group (`backbone/bias`) where they differ."""
    parts: dict[str, dict[str, float]] = defaultdict(dict)
    for group in optimizer.param_groups:
        parts[group["name"].split("/")[0]][group["name"]] = group["lr"]
    rates: dict[str, float] = {}
    for part, groups in parts.items():
        distinct = set(groups.values())
        rates |= {part: distinct.pop()} if len(distinct) == 1 else groups
    return rates


class TrainingCurves(Callback):
    """Logs loss, learning rates and speed every n optimizer steps and before each validation.

    Straight to the loggers: `self.log` in each step would cost more than a small step. `last` holds what was logged
    last; reading it does not synchronize with the device.
    """

    def __init__(self, every_n_steps: int = 20) -> None:
        check_range("callbacks.curves.every_n_steps", every_n_steps, 1)
        self.every_n_steps = every_n_steps
        self.last: dict[str, float] = {}
        self._step = 0  # of the last row
        self._images = 0
        self._resumed = False  # and no batch trained since
        self._timer = StepTimer()
        self._rates: dict[str, float] = {}  # of the current step; the scheduler sets the next before it ends
        self._batches = 0
        # Not averaged by Lightning, which would wait for the device in each step.
        self._loss = torch.zeros(())

    def state_dict(self) -> dict[str, Any]:
        running_loss = self._batches, self._loss
        return {"step": self._step, "last": self.last, "rates": self._rates, "running_loss": running_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._step, self.last = state_dict["step"], state_dict.get("last", {})
        self._rates = state_dict.get("rates", {})
        self._batches, self._loss = state_dict.get("running_loss", (0, torch.zeros(())))
        self._resumed = True

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self._resumed = False
        self._rates = learning_rates(trainer.optimizers[0])
        self._timer.start(module.device, module.idle_since)

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._images += len(batch["image"])
        self._batches += 1
        # A zero of the CPU would make a GPU wait for its copy.
        self._loss = self._loss.to(module.device) + module.batch_loss if self._batches > 1 else module.batch_loss
        if trainer.global_step != self._step and trainer.global_step % self.every_n_steps == 0:
            self._write(trainer, module)

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        """Log, so that a step's training and validation metrics are in one row, and pause the timer."""
        if trainer.sanity_checking:
            return
        if trainer.global_step != self._step:
            self._write(trainer, module)
        elif self._resumed:  # at a validation that is repeated, whose step's metrics were discarded
            self._log(trainer)
        self._images = 0
        self._timer.take(module.device)
        self._timer.pause(module.device)

    def _write(self, trainer: Trainer, module: Any) -> None:
        # The loss first: reading it waits for the device; else the timer would show only the launch.
        loss = self._loss.item() / max(self._batches, 1)
        self._batches, self._loss = 0, torch.zeros(())
        waited, seconds = self._timer.take(module.device)
        self.last = {
            "epoch": trainer.global_step / module.length.steps_per_epoch,
            "train/loss": loss,
            **{f"lr/{name}": rate for name, rate in self._rates.items()},
            "speed/images_per_second": self._images * trainer.world_size / seconds,
            "speed/data_wait": waited,
        }
        self._step, self._images = trainer.global_step, 0
        self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(self.last, step=self._step)
