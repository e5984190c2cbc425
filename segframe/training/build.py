"""Where names become objects: config -> data, network, task, trainer."""

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segframe.config.instantiate import instantiate
from segframe.config.run_length import RunLength
from segframe.config.validate import did_you_mean
from segframe.data.base import SegmentationDataset
from segframe.data.class_weights import class_weights
from segframe.errors import UserError, check_range
from segframe.models.segmenter import Segmenter
from segframe.models.weights import checkpoint
from segframe.training import monitor
from segframe.training.module import SegmentationModule

log = logging.getLogger(__name__)


def resolve_auto_weights(loss: Any, train: SegmentationDataset) -> None:
    """Replaces `class_weights: auto`, anywhere in the loss's config, by the masks' median-frequency weights."""
    if OmegaConf.is_dict(loss):
        for key, child in loss.items():
            if key == "class_weights" and child == "auto":
                loss[key] = class_weights(train)
                told = ", ".join(f"{name} {w:.2f}" for name, w in zip(train.classes, loss[key], strict=True))
                log.info("class weights (median frequency): %s", told)
            else:
                resolve_auto_weights(child, train)


def build_module(
    config: DictConfig, segmenter: Segmenter, dataset: SegmentationDataset, length: RunLength
) -> SegmentationModule:
    """The LightningModule of a run."""
    monitor.resolve_monitor(config, dataset.classes)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    for name in segmenter.output_names:
        if name not in config.output_weights:
            raise UserError(f"output_weights has no entry {name}, an output of this network: output_weights.{name}=1.0")
        check_range(f"output_weights.{name}", config.output_weights[name], 0)
    known = {*segmenter.output_names, "aux"}  # which train.yaml weighs for all networks
    for name in map(str, config.output_weights):
        if name not in known and not name.startswith("scale_"):
            raise UserError(f"output_weights.{name} is no output of this network{did_you_mean(name, known)}")
    if not any(config.output_weights[name] for name in segmenter.output_names):
        raise UserError("output_weights are all 0: nothing would be learned")
    metadata = checkpoint.CheckpointMetadata(
        {str(key): value for key, value in plain.items()}, dataset.classes, dataset.palette
    )
    return SegmentationModule(
        segmenter,
        instantiate(config.loss, "loss"),
        dict(config.output_weights),
        instantiate(config.optimizer, "optimizer"),
        instantiate(config.scheduler, "scheduler"),
        config.param_groups,
        length.total_steps,
        length.steps_per_epoch,
        config.seed,
        metadata,
    )
