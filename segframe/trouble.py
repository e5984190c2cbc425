"""What the machine refuses while a run goes on, in a sentence with a cure: memory, workers, operators, tiny images."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import torch

from segframe.data.base import SegmentationDataset
from segframe.errors import UserError

TO_TRAIN = (
    "lower data.batch_size (trainer.accumulate_grad_batches keeps the images per step), or data.crop_size, "
    "or set trainer.activation_checkpointing=true"
)
TO_PREDICT = "inference=sliding_window reads images in windows (inference.window=...); or precision=bf16-mixed"


class UnfitImage(UserError):
    """What is wrong with one image alone: others may do."""


@contextmanager
def named(*datasets: SegmentationDataset, less: str = TO_TRAIN, image: Path | None = None) -> Iterator[None]:
    """Turns what torch says of missing memory, workers that died, tiny images and deterministic=true into a UserError.

    `less`: what makes the work at hand need less memory; `image`: what is worked on, where that is a single one; it
    is an UnfitImage then.
    """
    try:
        yield
    except UserError:
        raise
    except (cv2.error, RuntimeError, MemoryError, ValueError, ConnectionError, EOFError) as error:
        message = explain(error, datasets, less)
        if message is None:
            raise
        raise (UnfitImage(f"{image}: {message}") if image else UserError(message)) from error


def explain(error: Exception, datasets: tuple[SegmentationDataset, ...], less: str) -> str | None:
    """The sentence; None for what is ours to mend."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return f"the GPU's memory is full ({text.partition(' GiB')[0].rpartition(' ')[2]} GiB more were asked): {less}"
    if isinstance(error, MemoryError) or "Insufficient memory" in text or "DefaultCPUAllocator" in text:
        return f"the machine's memory is full: {less}"
    if "Output size is too small" in text or "Expected more than 1 value per channel" in text:
        return (
            f"the images are too small for this network ({text.partition(chr(10))[0]}): a training's are as large as "
            "data.crop_size, and batch norm needs a data.batch_size above 1 where a single pixel is left of them"
        )
    if "does not have a deterministic implementation" in text:
        return f"deterministic=true: this device has no {text.split()[0]} that gives equal bits; choose another part"
    died = re.match(r"DataLoader worker \(pid\(s\) ([\d, ]+)\) exited unexpectedly", text)
    # Its connection breaks a moment before torch can tell that it has ended; that ends the thread that pins memory.
    broken = isinstance(error, ConnectionError | EOFError) and "multiprocessing" in source(error)
    if died is None and not broken and "Pin memory thread exited unexpectedly" not in text:
        return None
    pids = {int(pid) for pid in died[1].split(",")} if died else set()
    reading = [str(sample) for dataset in datasets for sample in dataset.read_by(pids)]
    where = f" while reading {' or '.join(reading)}" if reading else ""
    return (
        f"a worker of the loader exited unexpectedly{where}: with data.num_workers=0 the file's own error shows; where "
        "memory ran out, lower data.num_workers"
    )


def source(error: Exception) -> str:
    """The file that raised it."""
    return traceback.extract_tb(error.__traceback__)[-1].filename
