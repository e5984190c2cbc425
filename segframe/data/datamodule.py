"""The LightningDataModule: a training loader that can resume at any batch, and a validation loader."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import move_data_to_device
from torch.utils._pytree import tree_leaves

from segframe import distributed
from segframe.data.base import SegmentationDataset
from segframe.data.image_batches import AtOnce, ImageBatches, image_batches, join_images, one_by_one
from segframe.data.loader import Loader, count_workers, loader_settings
from segframe.data.sampling import BatchSampler

COPIED = "copied"
"""Key of a batch's event, which the GPU reaches when the batch has arrived."""


class StreamLoader(Loader):
    """The loader of a whole run, which hands out one epoch of `epoch_batches` batches per iteration.

    The epochs share one iterator, so that workers prefetch across their borders. With `gpu`, batches are copied there.
    """

    batch_sampler: BatchSampler
    epoch_batches: int
    step_batches: int
    gpu: torch.device | None = None
    _stream: Iterator[Any] | None = None
    _copies: torch.cuda.Stream | None = None

    def __len__(self) -> int:
        return self.epoch_batches

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        first = 0
        if self._stream is None:
            self._stream = super().__iter__()
            first = self.batch_sampler.start % self.epoch_batches
        batches: Iterator[Any] = islice(self._stream, self.epoch_batches - first)
        if self.step_batches > 1 or distributed.world() > 1:
            batches = with_step_masks(batches, self.step_batches)
        if self.gpu is None:
            return batches
        # One for all epochs: memory that a stream has allocated and freed is reused by that stream alone.
        self._copies = self._copies or torch.cuda.Stream(self.gpu)
        return copied_ahead(batches, self.gpu, self._copies)

    def state_dict(self) -> dict[str, int]:
        """Return nothing: the position follows from the trainer's step. Without it Lightning warns at a resume."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Do nothing."""


def with_step_masks(batches: Iterator[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """The batches, `count` of them read ahead: the first then has "step_masks", the masks of them all."""
    while step := list(islice(batches, count)):
        step[0]["step_masks"] = [batch["mask"] for batch in step]
        yield from step


def copied_ahead(
    batches: Iterator[dict[str, Any]], device: torch.device, stream: torch.cuda.Stream
) -> Iterator[dict[str, Any]]:
    """Yield batches whose copy to a GPU runs on a CUDA stream of its own; call `wait_for_copy` on each before use.

    Each batch is yielded after the next one's copy has started, so that copies and steps overlap.
    """
    last = None
    for batch in batches:
        with torch.cuda.stream(stream):
            moved = move_data_to_device(batch, device)
        moved[COPIED] = stream.record_event()
        if last is not None:
            yield last
        last = moved
    if last is not None:
        yield last


def wait_for_copy(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Make the GPU's current stream wait until a batch of `copied_ahead` has been copied; return the batch."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(batch.pop(COPIED))
    for tensor in tree_leaves(batch):
        if isinstance(tensor, torch.Tensor):
            tensor.record_stream(stream)  # else its memory could be reused for another copy while this stream reads it
    return batch


class DataModule(pl.LightningDataModule):
    """Training and validation loaders of two datasets with the same classes.

    `batch_size` counts the images of a batch on all devices; each gets an equal part, and its share of the validation
    images. `num_batches` is the length of the whole run, `epoch_batches` that of an epoch; with `step_batches` above 1,
    or several devices, the first of so many batches has the masks of all of them; `num_workers`: see count_workers;
    `val_limit`: see image_batches.
    """

    def __init__(
        self,
        train: SegmentationDataset,
        val: SegmentationDataset,
        *,
        batch_size: int,
        num_workers: int | None,
        num_batches: int,
        epoch_batches: int | None = None,
        step_batches: int = 1,
        seed: int,
        pin_memory: bool = False,
        val_limit: float | None = None,
    ) -> None:
        super().__init__()
        self.train = train
        self.val = val
        self.sampler = BatchSampler(len(train), batch_size, num_batches, seed)
        self.epoch_batches = epoch_batches or num_batches
        self.step_batches = step_batches
        self.num_workers = count_workers(num_workers, pin_memory)
        self.pin_memory = pin_memory
        self.val_limit = val_limit
        self.at_once: AtOnce = one_by_one
        """The number of validation images that run at once, by their size."""

    def train_dataloader(self) -> StreamLoader:
        """Return the loader of the augmented batches from the trainer's step on; equal for any number of workers."""
        if self.trainer is not None:
            self.sampler.start = self.trainer.global_step * self.trainer.accumulate_grad_batches
        settings = loader_settings(self.num_workers, self.pin_memory)
        loader = StreamLoader(self.train, batch_sampler=self.sampler, **settings)
        loader.epoch_batches, loader.step_batches = self.epoch_batches, self.step_batches
        if self.trainer is not None and self.trainer.strategy.root_device.type == "cuda":
            # For float64 Lightning converts a batch before its copy is awaited.
            loader.gpu = self.trainer.strategy.root_device if self.trainer.precision != "64-true" else None
        return loader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return a batch on the device; a training batch is there, or on its way."""
        if isinstance(batch, list):
            return join_images(batch, device)
        if COPIED in batch:
            return wait_for_copy(batch, device)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def val_dataloader(self) -> ImageBatches:
        """Return the loader of the validation images."""
        return image_batches(self.val, self.num_workers, self.pin_memory, self.at_once, self.val_limit)
