"""Interfaces of inference: Inference, the Scores it returns, and Postprocess; the classes computed from them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segframe.config.validate import did_you_mean
from segframe.errors import UserError, check_range
from segframe.inference.network import Network
from segframe.visualization.overlays import as_rgb

Postprocess = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.float32]]
"""Called as postprocess(image (H, W, 3) RGB, probabilities (C, H, W)) -> probabilities (C, H, W)."""

MODES = ("exact", "fast")

MOST_PIXELS = {"cpu": 2**18, "gpu": 2**22}
"""Maximum number of pixels (N x H x W) of a batch whose size is chosen automatically, by device.

Measured on two CPU cores, DeepLabV3+ on ResNet-18 and ResNet-50, time per image against batches of one: 0.3 for 96x96
in batches of 16, 0.8 to 0.9 for 240x240 in batches of four, 1.1 for windows of 513x513 in batches of four (ResNet-18).
"""


class Scores(Protocol):
    """Scores of images, whose softmax gives probabilities: a head's Logits, or a mean over several runs."""

    @property
    def values(self) -> Tensor:
        """(N, C, h, w), at the resolution at which they were computed."""

    @property
    def aligned_stride(self) -> int | None:
        """The positions of the cells of `values`: see models.ops.bilinear.resize."""

    def classes(self) -> Tensor:
        """The class with the highest score at every pixel, uint8 (N, H, W)."""

    def full(self) -> Tensor:
        """Scores at the images' size, float32 (N, C, H, W)."""


class Inference(ABC):
    """A way to run a trained network on images: whole, shifted, in sliding windows, at several scales, ..."""

    @abstractmethod
    def __call__(self, network: Network, images: Tensor) -> Scores:
        """Return scores of size (H, W) for images (N, C, H, W), uint8 or float in 0 ... 255, on the network's device.

        The network may run only when the scores are used, then once for each use.
        """

    def images_at_once(self, size: tuple[int, int], device: torch.device) -> int:
        """Return the number of images (H, W) = `size` that validations and evaluations hand over together."""
        return 1

    @abstractmethod
    def __str__(self) -> str:
        """A description with all settings, for the terminal and metrics.json."""

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the largest (H, W) at which the network runs for images of a size."""
        return size

    def with_training_defaults(self, config: Mapping[str, Any]) -> Self:
        """Return this inference with settings that are null taken from the config a network was trained with."""
        return self

    def without_seams(self) -> "Inference":
        """Return the inference for heat maps, where a jump of the scores at a window's border would be seen."""
        return self


class WholeImage(Inference):
    """One run of the network on whole images.

    `batch_size`: how many images of one size a validation or an evaluation runs at once; None: see automatic_batch.
    """

    batch_size: int | None = 1

    def __init__(self, batch_size: int | None = 1) -> None:
        check_batch_size(batch_size)
        self.batch_size = batch_size

    def __str__(self) -> str:
        return "whole images"

    def images_at_once(self, size: tuple[int, int], device: torch.device) -> int:
        return self.batch_size or automatic_batch(size, device)

    def __call__(self, network: Network, images: Tensor) -> Scores:
        return network.outputs(images)["main"]


def classify(scores: Scores, images: Tensor, postprocess: Postprocess | None) -> Tensor:
    """Return the classes uint8 (N, H, W) of images (N, C, H, W), after `postprocess` of each image if given."""
    if postprocess is None:
        return scores.classes()
    classes = []
    for image, full in zip(images, scores.full(), strict=True):
        pixels = as_rgb(image.permute(1, 2, 0).cpu().numpy())
        probabilities = postprocess(pixels, full.softmax(0).cpu().numpy())
        classes.append(torch.from_numpy(probabilities.argmax(0).astype(np.uint8)))
    return torch.stack(classes).to(images.device)


def automatic_batch(size: tuple[int, int], device: torch.device) -> int:
    """Return the batch size for images of `size` (H, W): at most 16 images and MOST_PIXELS, at least one image."""
    most_pixels = MOST_PIXELS["cpu" if device.type == "cpu" else "gpu"]
    return max(1, min(16, most_pixels // (size[0] * size[1])))


def check_settings(mode: str, batch_size: int | None) -> None:
    """Raise UserError for wrong values of the settings that SlidingWindow and TTA share."""
    if mode not in MODES:
        raise UserError(f"inference.mode={mode}: unknown mode{did_you_mean(mode, MODES)}")
    check_batch_size(batch_size)


def check_batch_size(batch_size: int | None) -> None:
    """Raise UserError unless inference.batch_size is None (chosen automatically) or at least 1."""
    if batch_size is not None:
        check_range("inference.batch_size", batch_size, 1, 1_000_000)
