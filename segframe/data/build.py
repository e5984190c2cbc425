"""Datasets and loaders of a run's config."""

import logging
from typing import NamedTuple

import torch
from omegaconf import DictConfig

from segframe import distributed
from segframe.config.instantiate import instantiate
from segframe.config.run_schema import TrainerConfig
from segframe.data.base import SegmentationDataset, open_split
from segframe.data.cache_setup import add_caches
from segframe.data.datamodule import DataModule
from segframe.data.inspection.quick_check import quick_check
from segframe.data.transforms import Transform
from segframe.errors import UserError, error_context

log = logging.getLogger(__name__)


def build_datasets(config: DictConfig) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The training split with its transforms, and the validation split at its original size, without any."""
    data = config.data
    steps = instantiate(config.transforms.train, "transforms")
    make_dataset = instantiate(data.dataset, "data.dataset")
    with error_context("transforms"):
        transform = Transform(steps)
    with error_context("data"):
        with distributed.first_of_machine_first():
            if data.download:
                make_dataset.func.download(data.root)
            train = open_split(make_dataset, data, data.train_split, transform=transform, seed=config.seed)
            val = open_split(make_dataset, data, data.val_split)
        if train.classes != val.classes:  # of annotations that name them
            different = ", ".join(sorted({*train.classes} ^ {*val.classes})) or "in another order"
            raise UserError(
                f"{data.train_split} and {data.val_split} have different classes ({different}): type them, "
                f"data.dataset.classes=[{','.join(train.classes)}]"
            )
        if data.train_split == data.val_split:
            log.warning(
                "data.val_split=%s: the training images are also those of the validation, whose figures are too good",
                data.val_split,
            )
        add_caches([train, val], data.cache, data.cache_dir, data.cache_limit)
        return train, val


class RunLength(NamedTuple):
    """A run in optimizer steps, each of trainer.accumulate_grad_batches batches."""

    total_steps: int
    steps_per_epoch: int
    val_every_n_steps: int


def run_length(trainer: TrainerConfig, num_samples: int, batch_size: int) -> RunLength:
    """The length of a run, whether its config gives epochs or steps."""
    steps_per_epoch = max(1, num_samples // (batch_size * trainer.accumulate_grad_batches))
    total = trainer.max_steps if trainer.max_steps is not None else trainer.max_epochs * steps_per_epoch
    every = trainer.val_every_n_steps or max(1, round(trainer.val_every_n_epochs * steps_per_epoch))
    return RunLength(total, steps_per_epoch, min(every, total))


def check_shares(batch_size: int, val_images: int) -> None:
    """UserError where the devices cannot have equal parts of a batch, or one of them no validation image."""
    devices = distributed.world()
    if batch_size % devices:
        raise UserError(
            f"data.batch_size={batch_size}: it is that of all {devices} devices together, which have equal parts; set "
            f"data.batch_size={-(-batch_size // devices) * devices}, or another number of devices"
        )
    if val_images < devices:
        raise UserError(
            f"trainer.devices={devices}: there are {val_images} validation images to share; set trainer.devices="
            f"{val_images} at most"
        )


def build_data_module(
    config: DictConfig, train: SegmentationDataset, val: SegmentationDataset
) -> tuple[DataModule, RunLength]:
    """Loaders of the training stream (the batches of the whole run) and of the validation images."""
    for warning in quick_check(train, val) if distributed.rank() == 0 else ():
        log.warning(warning)
    length = run_length(config.trainer, len(train), config.data.batch_size)
    check_shares(config.data.batch_size, len(val))
    data = DataModule(
        train,
        val,
        batch_size=config.data.batch_size,
        num_workers=config.data.num_workers,
        num_batches=length.total_steps * config.trainer.accumulate_grad_batches,
        epoch_batches=length.steps_per_epoch * config.trainer.accumulate_grad_batches,
        step_batches=config.trainer.accumulate_grad_batches if config.trainer.accumulated_mean == "pixels" else 1,
        seed=config.seed,
        pin_memory=config.trainer.accelerator != "cpu" and torch.cuda.is_available(),
        val_limit=config.trainer.lightning.get("limit_val_batches"),
    )
    return data, length
