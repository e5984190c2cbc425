"""The LightningModule: training and validation steps, optimizer, and the description of its network in checkpoints."""

import inspect
import logging
from collections.abc import Callable
from math import fsum, isfinite
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from segframe import IGNORE_INDEX, distributed
from segframe.config.instantiate import instantiate
from segframe.config.run_schema import TrainerConfig
from segframe.config.validate import did_you_mean
from segframe.data.base import SegmentationDataset
from segframe.data.build import RunLength
from segframe.errors import UserError, error_context
from segframe.inference.banded_scores import classes_and_logits
from segframe.inference.build import build_inference
from segframe.inference.metrics import ConfusionMatrix, compute_metrics, describe_missing
from segframe.models.losses.base import Loss
from segframe.models.losses.combined import total_loss
from segframe.models.segmenter import Segmenter
from segframe.models.weights import checkpoint
from segframe.training.ddp import average_statistics, gather_masks
from segframe.training.parameter_groups import group_parameters
from segframe.training.performance import for_any_size
from segframe.training.resume import check_fits
from segframe.training.step_timer import moment

log = logging.getLogger(__name__)


class SegmentationModule(pl.LightningModule):
    """Trains a Segmenter on a dataset, with the loss, optimizer and scheduler of the finished config of its run.

    Batches are {"image" (N, C, H, W), "mask": uint8 (N, H, W), "name": list[str]}. After a validation,
    `confusion.matrix` and `metrics` hold its result, `metrics` by the names that are logged.
    """

    def __init__(
        self, config: DictConfig, segmenter: Segmenter, dataset: SegmentationDataset, length: RunLength
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.loss: Loss = instantiate(config.loss, "loss")
        self.make_optimizer: Callable[..., Optimizer] = instantiate(config.optimizer, "optimizer")
        self.make_scheduler: Callable[..., LRScheduler] = instantiate(config.scheduler, "scheduler")
        self.config = config
        self.length = length
        self.classes = dataset.classes
        self.palette = dataset.palette
        self.inference = build_inference(config.inference, config)
        # Reading a DictConfig in each step would take longer than the rest of the bookkeeping.
        self.output_weights = dict(config.output_weights)
        self.first_seed = int(config.seed)
        self.compiled = config.trainer.compile is True
        self.step_masks: list[Tensor] = []  # of the current optimizer step, see Loss.forward
        self.idle_since: Any = None  # when the last training step or validation ended, see StepTimer
        self.batch_loss = torch.zeros(())  # of the last training batch, on all devices
        self.confusion = ConfusionMatrix(len(dataset.classes))
        self.metrics: dict[str, float] = {}
        self.best: float | None = None  # value of config.monitor so far, also before the run was resumed
        self.warned = False  # of missing classes
        self.val_losses: list[Tensor] = []  # of the images of this device
        self.val_labelled: list[Tensor] = []  # whether the image has any pixel that is not void
        check_step_masks(self.loss, config.trainer)
        check_output_weights(config.output_weights, segmenter.output_names)
        self.configure_optimizers()  # refuses wrong settings before a logger writes; Lightning makes its own later

    @property
    def description(self) -> dict[str, Any]:
        """The entry of checkpoints from which the network is built: config, classes and palette as plain containers."""
        return checkpoint.describe(self.config, self.classes, self.palette)

    def step_seed(self, batch_idx: int) -> int:
        """The seed of the forward pass of an epoch's batch on this device, in which dropout draws."""
        epoch_batches = self.length.steps_per_epoch * self.trainer.accumulate_grad_batches
        return self.first_seed + self.trainer.current_epoch * epoch_batches + batch_idx + (distributed.rank() << 32)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The weighted sum of the losses of all outputs."""
        # Dropout is a function of (seed, batch, device) alone, as augmentation is of (seed, epoch, index): a resumed
        # run draws what the uninterrupted one would have drawn.
        seed_generators(self.step_seed(batch_idx), batch["image"].device)
        outputs = self.segmenter.outputs(batch["image"])
        if "step_masks" in batch:
            self.step_masks = gather_masks(batch["step_masks"])
        masks = (batch["mask"], self.step_masks) if self.step_masks else (batch["mask"],)
        loss = total_loss(self.loss, self.output_weights, outputs, *masks)
        # Lightning divides the losses of a step's batches by their number, and DDP their gradients by that of devices.
        if self.step_masks:
            loss = loss * len(self.step_masks)
        self.batch_loss = distributed.total(loss.detach()) / distributed.world()
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, which refuses fused optimizers though nothing is scaled in bfloat16."""
        clip = nn.utils.clip_grad_value_ if gradient_clip_algorithm == "value" else nn.utils.clip_grad_norm_
        if gradient_clip_val:
            clip(self.parameters(), gradient_clip_val)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Free the gradients with the step: Lightning would keep them, as large as the weights, until backward."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Do nothing; `optimizer_step` has done it."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record when the step ended, for StepTimer; callbacks, which Lightning calls first, count as work."""
        self.idle_since = moment(self.device)

    def on_validation_end(self) -> None:
        """Record when the validation ended, for StepTimer."""
        self.idle_since = moment(self.device)

    def on_validation_epoch_start(self) -> None:
        average_statistics(self.segmenter)
        self.confusion.to(self.device).reset()
        self.val_losses = []
        self.val_labelled = []

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Count a batch at its original size; returns the predicted classes (N, H, W)."""
        images = batch["image"]
        # As in evaluate: only the network computes in 16 bits.
        with torch.autocast(images.device.type, enabled=False), for_any_size(self.compiled):
            classes, logits = classes_and_logits(self.inference(self.segmenter, images), images)
        for values, mask in zip(logits.values.split(1), batch["mask"].split(1), strict=True):
            self.val_losses.append(self.loss(logits._replace(values=values), mask))
            self.val_labelled.append((mask != IGNORE_INDEX).any())
        self.confusion.update(classes, batch["mask"])
        return {"classes": classes}

    def on_validation_epoch_end(self) -> None:
        """Compute the metrics for checkpoints and early stopping, and log them beside their step."""
        own = torch.stack(self.val_losses)[torch.stack(self.val_labelled)].tolist()
        losses = [loss for share in distributed.gather(own) for loss in share] or [0.0]  # all images are void alone
        self.confusion.matrix = distributed.total(self.confusion.matrix)
        mean_loss = fsum(losses) / len(losses)  # exact, hence the same for any number of devices
        self.metrics = {"val/loss": mean_loss, **compute_metrics(self.confusion.matrix, self.classes, "val")}
        self.log_dict(self.metrics, logger=False)  # Lightning would log them one step later
        if not self.trainer.sanity_checking:
            self.best = better(self.best, self.metrics[self.config.monitor], self.config.monitor_mode)
            check_monitor(self.config.monitor, self.confusion.matrix, self.classes)
            missing = describe_missing(self.confusion.matrix, self.classes, "val")
            if missing and not self.warned:
                log.warning(missing)
                self.warned = True
            for logger in self.loggers:
                logger.log_metrics(self.metrics, step=self.global_step)

    def configure_optimizers(self) -> Any:
        """Optimizer over the parameter groups, scheduler stepped after every optimizer step."""
        groups = group_parameters(self.segmenter, self.make_optimizer, self.config.param_groups)
        with error_context("optimizer", settings=self.config.optimizer):
            optimizer = self.make_optimizer(groups)
        with error_context("scheduler", settings=self.config.scheduler):
            scheduler = self.make_scheduler(optimizer, total_steps=self.length.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        average_statistics(self.segmenter)  # in place, so that the checkpoint has them
        best = {"monitor": self.config.monitor, "best": self.best}
        checkpoint_.setdefault(checkpoint.KEY, {}).update(self.description | best)

    def on_load_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        """Refuse the checkpoint of another network or optimizer before Lightning loads it."""
        check_fits(self, checkpoint_)
        self.best = stored_best(checkpoint_, self.config.monitor)


def better(best: float | None, value: float, mode: str) -> float | None:
    """The better of two values of a metric, the first of which may be missing; NaN and infinity are none."""
    if not isfinite(value):
        return best
    return value if best is None else max(best, value) if mode == "max" else min(best, value)


def stored_best(checkpoint_: dict[str, Any], monitor: str) -> float | None:
    """A checkpoint's best value of the monitored metric; older ones have ModelCheckpoint's, in float32."""
    own = checkpoint_[checkpoint.KEY]
    if "best" in own:
        return own["best"] if own["monitor"] == monitor else None
    for state in checkpoint_["callbacks"].values():
        if state.get("monitor") == monitor and state.get("best_model_score") is not None:
            return better(None, float(state["best_model_score"]), "max")
    return None


def check_output_weights(weights: DictConfig, outputs: list[str]) -> None:
    """UserError where the weights of the losses do not name the network's outputs."""
    for name in outputs:
        if name not in weights:
            raise UserError(f"output_weights has no entry {name}, an output of this network: output_weights.{name}=1.0")
    known = {*outputs, "aux"}  # which train.yaml weighs for all networks
    for name in map(str, weights):
        if name not in known and not name.startswith("scale_"):
            raise UserError(f"output_weights.{name} is no output of this network{did_you_mean(name, known)}")
    if not any(weights[name] for name in outputs):
        raise UserError("output_weights are all 0: nothing would be learned; set one above 0")


def check_monitor(monitor: str, matrix: Tensor, classes: tuple[str, ...]) -> None:
    """UserError where the monitored metric is the IoU of a class that the validation masks do not show."""
    name = monitor.removeprefix("val/iou/")
    if name != monitor and not matrix[classes.index(name)].any():
        raise UserError(
            f"monitor={monitor}: no validation mask shows {name}, so that no checkpoint would be the best; set "
            "monitor=val/miou, or data.val_split=... to images that do"
        )


def check_step_masks(loss: Loss, trainer: TrainerConfig) -> None:
    """UserError where a step has several batches or devices, and a loss does not take the masks of all of them."""
    parts = [part for part in loss.modules() if part is loss or isinstance(part, Loss)]
    lacking = [type(part) for part in parts if "step_masks" not in inspect.signature(part.forward).parameters]
    if lacking and distributed.world() > 1:
        raise UserError(
            f"trainer.devices={trainer.devices}: {lacking[0].__name__}.forward takes no step_masks, so its mean is "
            "that of one device's images; see the losses of docs/extending.md, or set trainer.devices=1"
        )
    if lacking and trainer.accumulate_grad_batches > 1 and trainer.accumulated_mean == "pixels":
        raise UserError(
            f"trainer.accumulated_mean=pixels: {lacking[0].__name__}.forward takes no step_masks, so its mean is that "
            "of a batch; set trainer.accumulated_mean=batches"
        )


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of `device`.

    torch.manual_seed also records a stack trace for every kind of device that is not there: 0.8 ms in each step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
