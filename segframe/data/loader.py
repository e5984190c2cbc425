"""The loader that all programs share: its workers, and how items are stacked into batches."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.queues import Queue
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch._utils import ExceptionWrapper
from torch.multiprocessing import get_sharing_strategy
from torch.utils.data import DataLoader, default_collate, get_worker_info

from segframe import distributed
from segframe.config.machine import num_cores
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
    """Return the number of loader workers of this process; None: one for each of its CPU cores, at most 8.

    For a GPU, whose main process needs a core for itself and which is faster than a CPU, one fewer, at most 16.
    """
    if num_workers is None:
        share = num_cores() // distributed.local_world()
        return max(1, min(16, share - 1) if for_gpu else min(8, share))
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
