"""Scores that are never whole: made and compared a few rows at a time."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from segframe.heads.base import Logits

ELEMENTS = 2**21
"""How many scores a band has at most, if it has several rows: 8 MiB stay in a processor's caches."""
ROWS = 16
"""How many rows at most: a row costs a product with all the cells that its band reads."""


def band_rows(channels: int, width: int) -> int:
    """How many rows a band of so many scores has."""
    return min(max(1, ELEMENTS // (channels * width)), ROWS)


class BandedScores(NamedTuple):
    """Scores (see inference.base) that are made anew whenever they are asked for."""

    bands: Callable[[], Iterator[Tensor]]
    """Makes the scores of the image from top to bottom, (N, C, some rows, W) float32 each."""
    probabilities: bool
    """Whether the bands are probabilities: then their logarithm is the scores."""

    @property
    def values(self) -> Tensor:
        """See Scores."""
        return self.full()

    @property
    def aligned_stride(self) -> None:
        """See Scores: a cell is a pixel."""
        return

    def classes(self) -> Tensor:
        """See Scores; no more than a band of scores is stored."""
        return torch.cat([best(band) for band in self.bands()], dim=1)

    def full(self) -> Tensor:
        """See Scores."""
        if self.probabilities:
            tiny = torch.finfo(torch.float32).tiny
            return torch.cat([band.clamp_min(tiny).log() for band in self.bands()], dim=2)
        return torch.cat(list(self.bands()), dim=2)


class Cropped(NamedTuple):
    """The upper left part of an image's logits, as Scores (see inference.base)."""

    logits: Logits
    size: tuple[int, int]

    @property
    def values(self) -> Tensor:
        """See Scores; the last cells may reach beyond the image."""
        return self.logits.values

    @property
    def aligned_stride(self) -> int | None:
        """See Scores."""
        return self.logits.aligned_stride

    def classes(self) -> Tensor:
        """See Scores."""
        return self.logits.classes()[..., : self.size[0], : self.size[1]]

    def full(self) -> Tensor:
        """See Scores."""
        return self.logits.full()[..., : self.size[0], : self.size[1]]


def best(scores: Tensor) -> Tensor:
    """The first of the best classes: (N, C, h, w) to (N, h, w) uint8, C at most 255.

    In bytes, of which a processor compares many at a time; torch's own argmax over planes is 1 to 9 times as slow.
    """
    assert scores.shape[1] <= 255
    index = torch.arange(scores.shape[1], dtype=torch.uint8, device=scores.device)[:, None, None]
    # 255 where a class is not the best, 0 where it is.
    worse = (scores == scores.amax(1, keepdim=True)).view(torch.uint8).sub_(1)
    return worse.bitwise_or_(index).amin(1)
