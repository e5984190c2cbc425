"""Images of a validation or an evaluation: their order on several devices, and batches of those of one size."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import ceil
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from segframe import distributed
from segframe.data.base import SegmentationDataset
from segframe.data.loader import Loader, loader_settings

LARGEST_WINDOW = 16
"""Maximum number of consecutive images among which those of equal size are put into batches, on one device."""
FEWEST_WINDOWS = 32
"""Minimum number of such groups of images in a split, if it has that many images.

Eight devices then get at most a fifth more images than the average.
"""

AtOnce = Callable[[tuple[int, int]], int]
"""Called with an image size (H, W); returns the largest number of such images in a batch."""


def one_by_one(size: tuple[int, int]) -> int:
    """An AtOnce for which images do not run together."""
    return 1


def window_size(num_images: int) -> int:
    """Return the number of images of a window.

    It depends on the number of devices only where there are more of them than FEWEST_WINDOWS: so batches, whose size
    may change the rounding of a network's output, are the same for any number.
    """
    return max(1, min(LARGEST_WINDOW, num_images // max(FEWEST_WINDOWS, distributed.world())))


def device_share(num_images: int, rank: int) -> list[int]:
    """Return the indices of a device's images in order: of W devices each has every W-th window."""
    size = window_size(num_images)
    return [k for k in range(num_images) if k // size % distributed.world() == rank]


class ImageBatches(Loader):
    """A loader of single images that yields lists of them, each of images of one size; its length counts images.

    A list is yielded when it has `at_once` images, or when its window ends. "index" of an image is that in its split.
    """

    at_once: AtOnce
    window: int

    @property
    def indices(self) -> list[int]:
        return list(self.sampler)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:  # type: ignore[override]
        numbered = zip(self.indices, super().__iter__(), strict=True)
        for _, window in groupby(numbered, lambda pair: pair[0] // self.window):
            waiting: dict[tuple[int, int], list[dict[str, Any]]] = {}
            for index, image in window:
                height, width = image["mask"].shape[-2:]
                batch = waiting.setdefault((height, width), [])
                batch.append(image | {"index": [index]})
                if len(batch) >= self.at_once((height, width)):
                    yield waiting.pop((height, width))
            yield from waiting.values()


def limited(num_images: int, limit: float | None) -> int:
    """Return the number of images after trainer.lightning.limit_val_batches: a number, or a share of them (a float)."""
    if limit is None:
        return num_images
    return ceil(limit * num_images) if isinstance(limit, float) else min(int(limit), num_images)


def image_batches(
    dataset: SegmentationDataset,
    num_workers: int | None,
    pin_memory: bool,
    at_once: AtOnce = one_by_one,
    limit: float | None = None,
) -> ImageBatches:
    """Return the loader of this device's images; `limit`: of its first images, as many or such a share (a float)."""
    indices = device_share(len(dataset), distributed.rank())
    indices = indices[: limited(len(indices), limit)]
    loader = ImageBatches(dataset, batch_size=1, sampler=indices, **loader_settings(num_workers, pin_memory))
    loader.at_once, loader.window = at_once, window_size(len(dataset))
    return loader


def val_loader(trainer: pl.Trainer) -> ImageBatches:
    loader = trainer.val_dataloaders
    assert isinstance(loader, ImageBatches)
    return loader


def image_loader(
    dataset: SegmentationDataset,
    num_workers: int | None,
    pin_memory: bool = False,
    indices: Sequence[int] | None = None,
) -> Loader:
    """Return a loader of all images in order, or of those at `indices`, each a batch of one at its original size."""
    return Loader(dataset, batch_size=1, sampler=indices, **loader_settings(num_workers, pin_memory))


def join_images(images: Sequence[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """Return images of one size as one batch on a device."""
    lists = {key: [value for image in images for value in image[key]] for key in ("name", "index")}
    return {key: join_tensors([image[key] for image in images], device) for key in ("image", "mask")} | lists


def join_tensors(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    # Elsewhere than on CUDA a copy that nobody waits for may be read too early (PyTorch's issue 83015).
    moved = [tensor.to(device, non_blocking=device.type == "cuda") for tensor in tensors]
    return moved[0] if len(moved) == 1 else torch.cat(moved)
