"""The interface of a trained network to inference, which a Segmenter has and an exported file; its logits."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from segframe.errors import UserError
from segframe.models.logits import Logits


class ClassMap(NamedTuple):
    """Classes without scores, as Scores (see inference.base): the output of a file exported with scores=false."""

    indices: Tensor
    """uint8 (N, H, W)"""
    path: Path

    @property
    def values(self) -> Tensor:
        raise no_scores(self.path)

    @property
    def aligned_stride(self) -> int | None:
        raise no_scores(self.path)

    def classes(self) -> Tensor:
        return self.indices

    def full(self) -> Tensor:
        raise no_scores(self.path)


class Network(Hashable, Protocol):
    """A trained network: a Segmenter, or an OnnxNetwork."""

    @property
    def channels(self) -> int:
        """The number of channels of the images."""

    @property
    def device(self) -> torch.device:
        """The device of images and logits."""

    def outputs(self, images: Tensor) -> Mapping[str, Logits | ClassMap]:
        """Return the prediction, "main", for images (N, C, H, W) in 0 ... 255, uint8 or float."""


def no_scores(path: Path) -> UserError:
    return UserError(f"{path}: this file has no scores; export it with scores=true")


def main_logits(network: Network, images: Tensor) -> Logits:
    """Return the logits of images (N, C, H, W); UserError where the network gives classes alone."""
    output = network.outputs(images)["main"]
    if isinstance(output, ClassMap):
        raise no_scores(output.path)
    return output


_strides: WeakKeyDictionary[Network, int] = WeakKeyDictionary()


def logit_stride(network: Network) -> int:
    """Return the input pixels per cell of the logits, measured at two heights so that padding and cropping cancel."""
    if network not in _strides:
        sizes = ((1, network.channels, height, 256) for height in (256, 512))
        short, tall = (
            main_logits(network, torch.zeros(size, dtype=torch.uint8, device=network.device)) for size in sizes
        )
        _strides[network] = 256 // (tall.values.shape[-2] - short.values.shape[-2])
    return _strides[network]
