"""Scores that are never whole: made and compared a few rows at a time."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from segframe.models.logits import Logits
from segframe.models.ops.argmax import best

ELEMENTS = 2**20
"""How many scores a band has, if it has several rows: 4 MiB stay in a processor's caches."""
ROWS = 16
"""How many rows at most: a row costs a product with all the cells that its band reads."""


def band_rows(channels: int, width: int) -> int:
    """How many rows a band of so many scores has."""
    return min(max(1, ELEMENTS // (channels * width)), ROWS)


class BandedScores(NamedTuple):
    """Scores (see inference.base) that are made anew whenever they are asked for."""

    bands: Callable[[], Iterator[Tensor]]
    """Makes the scores of the image from top to bottom, (N, some rows, C, W) float32 each; they may be overwritten."""
    size: tuple[int, int]
    """(H, W)"""
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
        return self.stacked(best)

    def full(self) -> Tensor:
        """See Scores."""
        tiny = torch.finfo(torch.float32).tiny
        full = self.stacked(lambda band: band.clamp_min_(tiny).log_() if self.probabilities else band)
        return full.transpose(1, 2)

    def stacked(self, of: Callable[[Tensor], Tensor]) -> Tensor:
        """Something of each band (N, rows, ...), one below the other."""
        out, above = torch.empty(0), 0
        for part in map(of, self.bands()):
            # At once for all: small results between large temporary ones would keep the latters' memory in use.
            if not out.numel():
                out = part.new_empty(len(part), self.size[0], *part.shape[2:])
            out[:, above : above + part.shape[1]] = part
            above += part.shape[1]
        return out


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
