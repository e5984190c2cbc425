"""The learning task: training and validation steps, optimizer groups, and what goes into a checkpoint."""

import logging
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from segframe.config.schema import ParamGroupsConfig
from segframe.errors import UserError, error_context
from segframe.inference.metrics import ConfusionMatrix, compute_metrics
from segframe.models.losses.base import Loss
from segframe.models.segmenter import Segmenter
from segframe.models.weights import checkpoint
from segframe.training.callbacks.divergence import LossWatch, step_of
from segframe.training.loggers import forget_after
from segframe.training.parameter_groups import group_parameters
from segframe.training.resume import (
    Recipe,
    check_classes,
    check_groups,
    check_optimizer,
    follow_config,
    had_stopped,
    last_scores,
    move,
    recipe_of,
)

log = logging.getLogger(__name__)

ENDED = ": the run had ended, trainer.max_steps=... makes it longer"


class SegmentationModule(pl.LightningModule):
    """Trains a Segmenter for `total_steps` optimizer steps; one Lightning epoch is the whole run.

    Batches are {"image": uint8 (N, 3, H, W), "mask": uint8 (N, H, W), "name": list[str]}. After a validation,
    `confusion.matrix` and `figures` hold its result, `figures` also under the names that are logged.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        loss: Loss,
        output_weights: dict[str, float],
        make_optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        make_scheduler: Callable[..., LRScheduler],
        param_groups: ParamGroupsConfig,
        total_steps: int,
        steps_per_epoch: int,
        seed: int,
        metadata: checkpoint.CheckpointMetadata,
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.loss = loss
        self.output_weights = output_weights
        self.make_optimizer = make_optimizer
        self.make_scheduler = make_scheduler
        self.param_groups = param_groups
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.metadata = metadata
        self.confusion = ConfusionMatrix(len(metadata.classes))
        self.metrics: dict[str, float] = {}
        self.watch = LossWatch()
        self.recipe: Recipe = []
        self.scores: dict[str, Tensor] = {}  # of a resumed run's last validation
        self.running_batches = 0
        self.validates_at = 0  # the step whose validation has not ended yet
        # Not buffers: those would follow the network into 16 bits, in which sums stall.
        self.running_loss = torch.zeros(())
        self.val_loss = torch.zeros(())

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.metadata.classes

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """The classes' colours."""
        return self.metadata.palette

    @property
    def flat_config(self) -> dict[str, str | int | float | bool]:
        """The config's plain values under dotted names; without paths, which differ in every run."""
        paths = ("output_dir", "resume", "init_from", "callbacks.", "logger.", "data.root", "data.cache_dir")
        return {name: value for name, value in flatten(self.metadata.config) if not name.startswith(paths)}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The weighted sum of the losses of all outputs."""
        # Dropout is a function of (seed, batch) alone, as augmentation is of (seed, epoch, index): a resumed run draws
        # what the uninterrupted one would have drawn.
        seed = self.seed + batch_idx
        seed_generators(seed, batch["image"].device)
        outputs = self.segmenter.outputs(batch["image"])
        losses = [self.output_weights[name] * self.loss(logits, batch["mask"]) for name, logits in outputs.items()]
        total = torch.stack(losses).sum()
        self.watch.ask(self, step_of(self, batch, seed), total.detach())
        self.running_loss = self.running_loss.to(total.device) + total.detach()
        self.running_batches += 1
        every: Any = self.trainer.val_check_batch
        if (batch_idx + 1) % every == 0:
            self.validates_at = (batch_idx + 1) // self.trainer.accumulate_grad_batches
        return total

    def take_running_loss(self) -> float:
        """Mean training loss per batch since the last call; UserError where one of them was not finite."""
        mean = self.running_loss.item() / max(self.running_batches, 1)
        self.watch.check(self, wait=True)
        self.running_loss.zero_()
        self.running_batches = 0
        return mean

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning does, which refuses fused optimizers though nothing is scaled in bfloat16."""
        clip = nn.utils.clip_grad_value_ if gradient_clip_algorithm == "value" else nn.utils.clip_grad_norm_
        if gradient_clip_val:
            clip(self.parameters(), gradient_clip_val)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Forgets the gradients with the step: Lightning would keep them, as large as the weights, until backward."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Does nothing; `optimizer_step` has done it."""

    def on_train_start(self) -> None:
        """Has a resumed run follow its config; stops one again that had stopped early, unless it has more patience."""
        (optimizer,), (scheduler,) = self.trainer.optimizers, self.trainer.lr_scheduler_configs
        follow_config(optimizer, scheduler.scheduler, self.recipe)
        self.watch.hold(optimizer, self.device)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping) and had_stopped(callback, self.scores):
                self.trainer.should_stop = True

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stops after the last step: Lightning then validates, wherever that step falls."""
        if self.global_step >= self.total_steps:
            self.trainer.should_stop = True

    def on_validation_epoch_start(self) -> None:
        """Starts new counts."""
        self.confusion.reset()
        self.val_loss = torch.zeros((), device=self.device)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Counts a batch at its original size; returns the predicted classes (N, H, W)."""
        logits = self.segmenter.outputs(batch["image"])["main"]
        self.val_loss += self.loss(logits, batch["mask"])
        classes = logits.classes()
        self.confusion.update(classes, batch["mask"])
        return {"classes": classes}

    def on_validation_epoch_end(self) -> None:
        """Makes the figures and hands them to checkpoints, early stopping and, beside the step, the loggers."""
        mean_loss = self.val_loss.item() / self.trainer.num_val_batches[0]
        self.validates_at = 0
        self.metrics = {"val/loss": mean_loss, **compute_metrics(self.confusion.matrix, self.classes, "val")}
        # Lightning's own writing would be one step behind.
        self.log_dict(self.metrics, logger=False)
        if not self.trainer.sanity_checking:
            for logger in self.loggers:
                logger.log_metrics(self.metrics, step=self.global_step)

    def configure_optimizers(self) -> Any:
        """Optimizer over the parameter groups, scheduler stepped after every optimizer step."""
        with error_context("optimizer"):
            optimizer = self.make_optimizer(group_parameters(self.segmenter, self.make_optimizer, self.param_groups))
        self.recipe = recipe_of(optimizer)
        with error_context("scheduler"):
            scheduler = self.make_scheduler(optimizer, total_steps=self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        """Lets a run that had ended, or whose folder was moved, go on; and a changed patience or accumulation count."""
        check_classes(self.classes, checkpoint_[checkpoint.KEY].get("classes"))
        self._check_shapes(checkpoint_["state_dict"])
        check_optimizer(self.metadata.config, checkpoint_[checkpoint.KEY]["config"])
        check_groups(
            group_parameters(self.segmenter, self.make_optimizer, self.param_groups), checkpoint_["optimizer_states"][0]
        )
        self.running_batches, self.running_loss = checkpoint_[checkpoint.KEY].get("running_loss", (0, torch.zeros(())))
        validates = checkpoint_[checkpoint.KEY].get("validates", False)
        # What a validation wrote that is made anew goes too.
        forget_after(checkpoint_["global_step"] - validates, self.trainer.loggers)
        self.scores = last_scores(checkpoint_["callbacks"])
        step, more = checkpoint_["global_step"], "" if checkpoint_["global_step"] < self.total_steps else ENDED
        log.info("going on from step %d of %d (%s)%s", step, self.total_steps, self.trainer.ckpt_path, more)
        loop = checkpoint_["loops"]["fit_loop"]
        batches = checkpoint_["global_step"] * self.trainer.accumulate_grad_batches
        # A checkpoint between two validations is written before Lightning calls the step's batch completed. Within or
        # before a validation it has Lightning make that anew, as if only its first image had been begun.
        done = dict.fromkeys(("ready", "started", "processed", "completed"), batches)
        loop["epoch_loop.batch_progress"] |= {"total": dict(done), "current": dict(done), "is_last_batch": False}
        if validates:
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            loop["epoch_loop.val_loop.batch_progress"] |= {"total": begun, "current": dict(begun)}
        for loader in loop["state_dict"]["combined_loader"]:
            loader["batches"] = batches
        callbacks = {callback.state_key: callback for callback in self.trainer.callbacks}  # type: ignore[attr-defined]
        for name, state in checkpoint_["callbacks"].items():
            callback = callbacks.get(name)
            if isinstance(callback, ModelCheckpoint) and "dirpath" in state:
                move(state, str(callback.dirpath))
            if isinstance(callback, EarlyStopping):
                state["patience"] = callback.patience

    def _check_shapes(self, state: dict[str, Tensor]) -> None:
        own = self.state_dict()
        for name in sorted(own.keys() | state.keys()):
            here, there = (tuple(d[name].shape) if name in d else "missing" for d in (own, state))
            if here != there:
                raise UserError(f"the checkpoint is of another network: {name} is {there} there, {here} by config.yaml")

    def on_save_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        """Adds what is needed to build the network again, the loss that no curve shows yet, and what is to be done."""
        self.watch.check(self, wait=True)
        for logger in self.trainer.loggers:
            logger.save()  # what was logged up to here must not be lost while the steps are kept
        checkpoint_[checkpoint.KEY] = {
            **self.metadata.as_dict(),
            "running_loss": (self.running_batches, self.running_loss),
            "validates": self.validates_at == checkpoint_["global_step"],
        }


def seed_generators(seed: int, device: torch.device) -> None:
    """Seeds what draws on the CPU and on `device`.

    torch.manual_seed also notes down a stack trace for every kind of device that is not there: 0.8 ms in each step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def flatten(node: Any, path: str = "") -> list[tuple[str, str | int | float | bool]]:
    """The leaves of nested dicts and lists under dotted names."""
    if isinstance(node, dict):
        return [leaf for key, child in node.items() for leaf in flatten(child, f"{path}.{key}" if path else str(key))]
    if isinstance(node, list):
        return [(path, str(node))] if not any(isinstance(child, dict) for child in node) else []
    return [(path, node if isinstance(node, bool | int | float) else str(node))]
