"""Datasets and loaders of a run's config."""

import logging
from typing import Any

import torch
from omegaconf import DictConfig

from segframe.config.instantiate import instantiate
from segframe.config.run_length import RunLength, measure_run
from segframe.config.schema import DataConfig
from segframe.config.validate import accepts, annotation
from segframe.data.base import SegmentationDataset
from segframe.data.cache_setup import add_caches
from segframe.data.datamodule import DataModule
from segframe.data.inspection.quick_check import quick_check
from segframe.data.transforms import Transform
from segframe.errors import UserError, error_context

log = logging.getLogger(__name__)


def build_datasets(data: DataConfig, transforms: Any, seed: int) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The training split with its transforms, and the validation split as it is: at its original size."""
    if transforms.train is None:
        raise UserError("transforms.train=null: [] trains on the images as they are")
    steps = instantiate(transforms.train, "transforms")
    with error_context("transforms"):
        transform = Transform(steps)
    make_dataset = instantiate(data.dataset, "data.dataset")
    if data.root is None and not accepts(annotation(make_dataset.func, "root"), None):
        raise UserError("data.root must be given: data.root=..., the folder of the data")
    with error_context("data"):
        if data.download:
            make_dataset.func.download(data.root)
        train = make_dataset(root=data.root, split=data.train_split, transform=transform, seed=seed)
        val = make_dataset(root=data.root, split=data.val_split)
        if data.cache is not None:
            add_caches([train, val], data.cache, data.cache_dir)
        return train, val


def build_data_module(
    config: DictConfig, train: SegmentationDataset, val: SegmentationDataset
) -> tuple[DataModule, RunLength]:
    """Loaders of the training stream (the batches of the whole run) and of the validation images."""
    for warning in quick_check(train, val):
        log.warning(warning)
    length = measure_run(config.trainer, len(train), config.data.batch_size)
    data = DataModule(
        train,
        val,
        batch_size=config.data.batch_size,
        num_workers=config.data.num_workers,
        num_batches=length.total_steps * config.trainer.accumulate_grad_batches,
        seed=config.seed,
        pin_memory=config.trainer.accelerator != "cpu" and torch.cuda.is_available(),
    )
    return data, length
