"""The length of a run in optimizer steps."""

from typing import NamedTuple

from segframe.config.schema import TrainerConfig
from segframe.errors import UserError


class RunLength(NamedTuple):
    """A run in optimizer steps, each of trainer.accumulate_grad_batches batches."""

    total_steps: int
    steps_per_epoch: int
    val_every_n_steps: int


def measure_run(trainer: TrainerConfig, num_samples: int, batch_size: int) -> RunLength:
    """The length of a run, whether its config gives epochs or steps."""
    for name in ("max_epochs", "max_steps", "val_every_n_epochs", "val_every_n_steps", "accumulate_grad_batches"):
        value = getattr(trainer, name)
        if value is not None and value <= 0:
            raise UserError(f"trainer.{name}={value}: it must be above 0")
    if (trainer.gradient_clip_val or 0) < 0:
        raise UserError(f"trainer.gradient_clip_val={trainer.gradient_clip_val}: it must be above 0, or null")
    if batch_size <= 0:
        raise UserError(f"data.batch_size={batch_size}: it must be above 0")
    steps_per_epoch = max(1, num_samples // (batch_size * trainer.accumulate_grad_batches))
    total = trainer.max_steps if trainer.max_steps is not None else trainer.max_epochs * steps_per_epoch
    every = trainer.val_every_n_steps or max(1, round(trainer.val_every_n_epochs * steps_per_epoch))
    return RunLength(total, steps_per_epoch, min(every, total))
