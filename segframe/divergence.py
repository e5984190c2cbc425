"""A loss that is no number any more: the run ends there, and what it was computed from is kept."""

from pathlib import Path
from typing import Any

import torch

from segframe import checkpoint
from segframe.callbacks.curves import learning_rates
from segframe.errors import UserError
from segframe.whole import replacing

CURE = "lower optimizer.lr, set scheduler.warmup_steps or trainer.gradient_clip_val, or trainer.precision=32-true"
SHOWN = 4  # of a batch's names


def diverged(task: Any, batch: dict[str, Any], loss: float) -> UserError:
    """The error of a step whose loss is not finite; keeps batch and network in diverged.pt, as torch.load reads it.

    The file holds what a checkpoint says of its network, its state dict before the step, and "batch", "step", "loss",
    "learning_rates" and "seed", which torch.manual_seed takes before the forward pass (dropout).
    """
    rates = learning_rates(task.trainer.optimizers[0])
    path = Path(task.trainer.default_root_dir) / "diverged.pt"
    state = {f"segmenter.{name}": tensor for name, tensor in task.segmenter.state_dict().items()}
    step = task.global_step + 1
    content = {
        checkpoint.KEY: checkpoint.describe(task.about),
        "state_dict": state,
        "batch": batch,
        "step": step,
        "loss": loss,
        "learning_rates": rates,
        "seed": torch.initial_seed(),
    }
    with replacing(path) as file:
        torch.save(content, file)
    names = batch["name"]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    broken = next((name for name, parameter in task.segmenter.named_parameters() if not parameter.isfinite().all()), "")
    since = f"; {broken} is not finite since the step before" if broken else ""
    told = ", ".join(f"{part} {rate:g}" for part, rate in rates.items())
    return UserError(
        f"the loss of step {step} is {loss}{since} (images {', '.join(names[:SHOWN])}{more}; learning rate {told}): "
        f"{CURE}; batch and network are in {path}"
    )
