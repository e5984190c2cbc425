"""Loaders for Lightning: a training stream that resumes at any batch, validation images one by one."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.queues import Queue
from typing import Any

import cv2
import pytorch_lightning as pl
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, default_collate

from segframe.data.base import SegmentationDataset
from segframe.data.sampling import BatchSampler
from segframe.errors import UserError
from segframe.preemption import SIGNALS


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack items into {"image" uint8 (N, 3, H, W), channels last in memory; "mask" (N, H, W); "name": N names}."""
    sizes = {tuple(item["mask"].shape) for item in items}
    if len(sizes) > 1:
        raise UserError(f"a batch holds images of sizes {sorted(sizes)}: end the training transforms with a crop")
    # Stacked as (H, W, 3), in which they lie in memory: stacked as (3, H, W) they would be rearranged.
    images = default_collate([item["image"].permute(1, 2, 0) for item in items])
    masks = default_collate([item["mask"] for item in items])
    return {"image": images.permute(0, 3, 1, 2), "mask": masks, "name": [item["name"] for item in items]}


class Loader(DataLoader[dict[str, Any]]):
    """A DataLoader whose workers begin deaf to the signals that may reach all processes, see _start_worker.

    When a worker dies, the program is told where it waits for a batch: torch's handler of SIGCHLD, which would tell a
    few seconds earlier, raises wherever the program is, while it writes a file or in a weakref's callback.
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


class ResumableLoader(Loader):
    """A loader over a BatchSampler that knows how many of the run's batches it has handed out."""

    batch_sampler: BatchSampler
    batches = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.batches = self.batch_sampler.start
        for batch in super().__iter__():
            self.batches += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches handed out since the run began; Lightning stores it in the checkpoint."""
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration begin after as many batches."""
        self.batch_sampler.start = self.batches = state["batches"]


class DataModule(pl.LightningDataModule):
    """Training and validation loaders of two datasets with the same classes.

    `num_batches` is the length of the whole run on this process; `num_workers` None means one per core, at most 8.
    `pin_memory`: batches are copied to a GPU from here.
    """

    def __init__(
        self,
        train: SegmentationDataset,
        val: SegmentationDataset,
        *,
        batch_size: int,
        num_workers: int | None,
        num_batches: int,
        seed: int,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        if train.classes != val.classes:
            raise UserError(f"training has the classes {list(train.classes)}, validation {list(val.classes)}")
        self.train = train
        self.val = val
        self.sampler = BatchSampler(len(train), batch_size, num_batches, seed)
        self.num_workers = num_workers
        self.pin_memory = pin_memory

    def train_dataloader(self) -> ResumableLoader:
        """Return the loader of the run's augmented batches, the same for any number of workers."""
        return ResumableLoader(self.train, batch_sampler=self.sampler, **loading(self.num_workers, self.pin_memory))

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the loader of the validation images."""
        return image_loader(self.val, self.num_workers, self.pin_memory)


def image_loader(
    dataset: SegmentationDataset, num_workers: int | None, pin_memory: bool = False
) -> DataLoader[dict[str, Any]]:
    """Return the loader of a dataset's images, in order, one at a time and at their own size."""
    return Loader(dataset, batch_size=1, **loading(num_workers, pin_memory))


def loading(num_workers: int | None, pin_memory: bool) -> dict[str, Any]:
    """Return what every loader is made with; `num_workers` None means one per core, at most 8."""
    num_workers = count_workers(num_workers)
    return {
        "collate_fn": collate,
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "multiprocessing_context": "fork" if num_workers and sys.platform == "linux" else None,
        "pin_memory": pin_memory,
        "worker_init_fn": _start_worker,
    }


def count_workers(num_workers: int | None) -> int:
    """Return data.num_workers as a number: None means one per core, at most 8."""
    if num_workers is None:
        return min(8, num_cores())
    if num_workers < 0:
        raise UserError(f"data.num_workers is {num_workers}: it must be 0 (none) or more")
    return num_workers


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    # Otherwise a batch that cannot be sent is dropped, and the program waits for it for ever.
    Queue._on_queue_feeder_error = _not_sent  # type: ignore[attr-defined]
    # Another worker's death may end the program in the midst of fetching a batch: no traceback of that.
    sys.excepthook = lambda *_: None
    # A terminal's Ctrl-C and a scheduler's signals may reach all processes; the program ends its workers.
    for number in set(SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # where Loader has blocked SIGTERM, so that the thread gets it
        threading.Thread(target=_obey_program, daemon=True).start()


def _obey_program() -> None:
    # torch's own handler ends a worker whoever asks, upon which the program fails before it has saved.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _not_sent(queue: "Queue[Any]", error: Exception, item: tuple[int, Any]) -> None:
    # A batch is sent through shared memory, file descriptors and a socket in the folder for temporary files.
    if isinstance(error, OSError):
        said = f"a worker of the loader cannot hand on a batch: {error}; with data.num_workers=0 none has to"
        error = UserError(said).with_traceback(error.__traceback__)
    queue.put((item[0], ExceptionWrapper((type(error), error, error.__traceback__))))
