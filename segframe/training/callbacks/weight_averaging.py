"""Moving average of the weights."""

from itertools import chain
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer, callbacks
from torch import Tensor, nn


class EMAWeightAveraging(callbacks.EMAWeightAveraging):
    """Lightning's EMAWeightAveraging of parameters and buffers, updated without waiting for the device.

    Lightning's own update reads a counter from the device, and runs several operators for each tensor instead of one
    for all. Integers, batch norm's counters, are copied. Until the first update, validations and
    checkpoints use the current weights, not the initial ones as in Lightning.
    """

    def __init__(
        self,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(
            device=device,
            decay=decay,
            update_every_n_steps=update_every_n_steps,
            update_starting_at_step=update_starting_at_step,
        )
        self.decay = decay

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step > self._latest_update_step and self.should_update(step_idx=step - 1):
            assert self._average_model is not None
            weight = 1 - self.decay if self._latest_update_step else 1
            update_average(self._average_model.module, pl_module, weight)
            self._average_model.n_averaged += 1  # which a checkpoint holds
            self._latest_update_step = step

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.follow(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.follow(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.follow(pl_module)
        super().on_train_end(trainer, pl_module)

    def follow(self, model: nn.Module) -> None:
        """Before the first update, copy the model's weights into the average."""
        if self._average_model is not None and not self._latest_update_step:
            update_average(self._average_model.module, model, weight=1)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, weight: float) -> None:
    """Move an average towards a model's parameters and buffers, by `weight` of the difference; copy integers."""
    floats: tuple[list[Tensor], list[Tensor]] = ([], [])
    counters: tuple[list[Tensor], list[Tensor]] = ([], [])
    for target, source in zip(tensors(average), tensors(model), strict=True):
        targets, sources = floats if target.is_floating_point() else counters
        targets.append(target)
        sources.append(source.to(target.device))
    torch._foreach_lerp_(*floats, weight)
    if counters[0]:
        torch._foreach_copy_(*counters)


def tensors(module: nn.Module) -> chain[Tensor]:
    return chain(module.parameters(), module.buffers())
