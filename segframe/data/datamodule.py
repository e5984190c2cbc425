"""Data loaders: training batches that can be resumed at any batch, validation images one by one."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import islice
from multiprocessing.queues import Queue
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch._utils import ExceptionWrapper
from torch.multiprocessing import get_sharing_strategy
from torch.utils.data import DataLoader, default_collate, get_worker_info

from segframe import distributed
from segframe.config.machine import num_cores
from segframe.data.base import SegmentationDataset
from segframe.data.gpu_copies import COPIED, copied_ahead, wait_for_copy
from segframe.data.sampling import BatchSampler
from segframe.errors import UserError
from segframe.preemption import SIGNALS


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack items into {"image" (N, C, H, W), channels last in memory; "mask" (N, H, W); "name": N names}."""
    sizes = {tuple(item["mask"].shape) for item in items}
    if len(sizes) > 1:
        raise UserError(f"a batch holds images of sizes {sorted(sizes)}: end the training transforms with a crop")
    images = batch_images([item["image"].permute(1, 2, 0) for item in items])
    masks = _stack([item["mask"] for item in items])
    return {"image": images, "mask": masks, "name": [item["name"] for item in items]}


def batch_images(images: Sequence[Tensor]) -> Tensor:
    """Stack images (H, W, C) to a batch (N, C, H, W), channels last in memory, so that nothing is transposed."""
    return _stack(images).permute(0, 3, 1, 2)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    # In a worker, default_collate copies into new shared memory, each page of which interrupts it once more. Written as
    # the file that it is, a batch takes two thirds of the time. torch has no public way to the descriptor.
    if get_worker_info() is None or get_sharing_strategy() != "file_descriptor":
        batch: Tensor = default_collate(list(tensors))
        return batch
    storage = torch.UntypedStorage._new_shared(sum(tensor.nbytes for tensor in tensors))
    file, _ = storage._share_fd_cpu_()
    start = 0
    for tensor in tensors:
        content = np.ascontiguousarray(tensor).data.cast("B")
        while content:
            written = os.pwrite(file, content, start)
            start, content = start + written, content[written:]
    return torch.empty(0, dtype=tensors[0].dtype).set_(storage).view(len(tensors), *tensors[0].shape)


class Loader(DataLoader[dict[str, Any]]):
    """A DataLoader whose workers start with preemption signals blocked, see _start_worker.

    The death of a worker is reported by the loop that waits for batches. torch's handler of SIGCHLD, which reports it
    some seconds earlier, is removed: it raises at any point of the program, such as while a file is written.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if sys.platform == "win32":
            return super().__iter__()
        handler = signal.getsignal(signal.SIGCHLD)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # which forked workers inherit
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if signal.getsignal(signal.SIGCHLD) is not handler:
                signal.signal(signal.SIGCHLD, handler)


class StreamLoader(Loader):
    """The loader of a whole run, which hands out one epoch of `epoch_batches` batches per iteration.

    The epochs share one iterator, so that workers prefetch across their borders. With `gpu`, batches are copied there.
    """

    batch_sampler: BatchSampler
    epoch_batches: int
    step_batches: int
    gpu: torch.device | None = None
    _stream: Iterator[Any] | None = None

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
        return batches if self.gpu is None else copied_ahead(batches, self.gpu)

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


class DataModule(pl.LightningDataModule):
    """Training and validation loaders of two datasets with the same classes.

    `batch_size` counts the images of a batch on all devices; each gets an equal part, and its share of the validation
    images. `num_batches` is the length of the whole run, `epoch_batches` that of an epoch; with `step_batches` above 1,
    or several devices, the first of so many batches has the masks of all of them; `num_workers`: see count_workers.
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
    ) -> None:
        super().__init__()
        if train.classes != val.classes:
            raise UserError(f"training has the classes {list(train.classes)}, validation {list(val.classes)}")
        self.train = train
        self.val = val
        self.sampler = BatchSampler(len(train), batch_size, num_batches, seed)
        self.epoch_batches = epoch_batches or num_batches
        self.step_batches = step_batches
        self.num_workers = count_workers(num_workers, pin_memory)
        self.pin_memory = pin_memory

    def train_dataloader(self) -> StreamLoader:
        """Return the loader of the augmented batches from the trainer's step on; equal for any number of workers."""
        if self.trainer is not None:
            self.sampler.start = self.trainer.global_step * self.trainer.accumulate_grad_batches
        settings = loader_settings(self.num_workers, self.pin_memory)
        loader = StreamLoader(self.train, batch_sampler=self.sampler, **settings)
        loader.epoch_batches, loader.step_batches = self.epoch_batches, self.step_batches
        if self.trainer is not None and self.trainer.strategy.root_device.type == "cuda":
            loader.gpu = self.trainer.strategy.root_device
        return loader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return a batch on the device; a training batch is there, or on its way."""
        if COPIED in batch:
            return wait_for_copy(batch, device)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the loader of the validation images."""
        return image_loader(self.val, self.num_workers, self.pin_memory)


def image_loader(
    dataset: SegmentationDataset, num_workers: int | None, pin_memory: bool = False
) -> DataLoader[dict[str, Any]]:
    """Return a loader of single images in order, at their original size: with W devices, of each W-th image."""
    share = range(distributed.rank(), len(dataset), distributed.world())
    return Loader(dataset, batch_size=1, sampler=share, **loader_settings(num_workers, pin_memory))


def loader_settings(num_workers: int | None, pin_memory: bool) -> dict[str, Any]:
    """Return the settings that all loaders share; `pin_memory`: for a GPU; `num_workers`: see count_workers."""
    num_workers = count_workers(num_workers, pin_memory)
    return {
        "collate_fn": collate,
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "multiprocessing_context": "fork" if num_workers and sys.platform == "linux" else None,
        "pin_memory": pin_memory,
        "worker_init_fn": _start_worker,
    }


def count_workers(num_workers: int | None, for_gpu: bool = False) -> int:
    """Return the number of workers of a process: None means one per core of its share, at most 8.

    For a GPU, whose main process needs a core for itself and which is faster than a CPU, one fewer, at most 16.
    """
    if num_workers is None:
        share = num_cores() // distributed.local_world()
        return max(1, min(16, share - 1) if for_gpu else min(8, share))
    if num_workers < 0:
        raise UserError(f"data.num_workers={num_workers}: it must be 0 (none) or more")
    return num_workers


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    # By default a batch that cannot be sent is dropped, and the program waits for it for ever.
    Queue._on_queue_feeder_error = _on_send_error  # type: ignore[attr-defined]
    # No traceback when the program ends while this worker sends a batch, as after the death of another worker.
    sys.excepthook = lambda *_: None
    # Ctrl-C and a scheduler's signals may reach all processes; the program ends its workers itself.
    for number in set(SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # Loader has blocked SIGTERM, so that the thread receives it
        threading.Thread(target=_exit_on_sigterm_of_parent, daemon=True).start()


def _exit_on_sigterm_of_parent() -> None:
    # torch's handler ends a worker whoever sends SIGTERM, which fails the program before it has saved a checkpoint.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _on_send_error(queue: "Queue[Any]", error: Exception, item: tuple[int, Any]) -> None:
    # Batches are sent through shared memory, file descriptors and a socket in the folder for temporary files.
    if isinstance(error, OSError):
        message = f"a data loading worker cannot send a batch: {error}; set data.num_workers=0, which sends none"
        error = UserError(message).with_traceback(error.__traceback__)
    queue.put((item[0], ExceptionWrapper((type(error), error, error.__traceback__))))
