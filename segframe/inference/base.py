"""The contract of an inference, of the scores that it gives, of what may follow, and the classes that all lead to."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segframe.config.validate import did_you_mean
from segframe.errors import UserError
from segframe.models.segmenter import Segmenter, logit_stride

Postprocess = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.float32]]
"""Called as postprocess(image (H, W, 3) RGB, probabilities (C, H, W)) -> probabilities (C, H, W)."""

MODES = ("exact", "fast")
MOST_AT_ONCE = 1_000_000
PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_strides: WeakKeyDictionary[Segmenter, int] = WeakKeyDictionary()


class Scores(Protocol):
    """What a network says of images, scores whose softmax are the probabilities: a head's Logits, or a mean of many."""

    @property
    def values(self) -> Tensor:
        """(N, C, h, w), as fine or coarse as they are known."""

    @property
    def aligned_stride(self) -> int | None:
        """Where the cells of `values` lie: see heads.base.resize."""

    def classes(self) -> Tensor:
        """The best class of every pixel (N, H, W), uint8."""

    def full(self) -> Tensor:
        """(N, C, H, W), float32."""


class Inference(ABC):
    """How a trained network is run on images: as they are, shifted, in windows, at several scales, ..."""

    @abstractmethod
    def __call__(self, segmenter: Segmenter, images: Tensor) -> Scores:
        """Images uint8 (N, 3, H, W), on the network's device, to scores for that (H, W).

        The network may run as late as when the scores are asked for, then each time.
        """

    @abstractmethod
    def __str__(self) -> str:
        """What is done, in words: for the terminal and metrics.json."""

    def with_training_defaults(self, config: dict[str, Any]) -> Self:
        """This for a network that was trained by such a config: what is not given may follow from it."""
        return self


def classify(scores: Scores, images: Tensor, postprocess: Postprocess | None) -> Tensor:
    """The best class of every pixel of images (N, 3, H, W): (N, H, W) uint8, after `postprocess` of each if given."""
    if postprocess is None:
        return scores.classes()
    classes = []
    for image, full in zip(images, scores.full(), strict=True):
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        probabilities = postprocess(pixels, full.softmax(0).cpu().numpy())
        classes.append(torch.from_numpy(probabilities.argmax(0).astype(np.uint8)))
    return torch.stack(classes).to(images.device)


def autocast_dtype(precision: str | None, trained_with: dict[str, Any]) -> torch.dtype | None:
    """What a network multiplies in by Lightning's name for it; null: as in training, by its config. None: float32."""
    if precision not in (None, *PRECISIONS):
        raise UserError(f"precision={precision}: it is null, {', '.join(PRECISIONS)}")
    # A checkpoint may hold anything.
    trainer = trained_with.get("trainer")
    return PRECISIONS.get(str(precision or (trainer.get("precision") if isinstance(trainer, dict) else None)))


def stride_of(segmenter: Segmenter) -> int:
    """The input pixels per cell of a network's logits, measured once."""
    if segmenter not in _strides:
        _strides[segmenter] = logit_stride(segmenter)
    return _strides[segmenter]


def check_run(mode: str, batch_size: int) -> None:
    """Fails on values of the settings that sliding windows and augmentation share."""
    if mode not in MODES:
        raise UserError(f"inference.mode={mode}: there is no such mode{did_you_mean(mode, MODES)}")
    if batch_size < 1:
        raise UserError(f"inference.batch_size must be at least 1, got {batch_size}")
    if batch_size > MOST_AT_ONCE:
        raise UserError(f"inference.batch_size must be at most {MOST_AT_ONCE:,}, got {batch_size}")
