"""Full-size scores computed a few rows at a time, so that they are never stored."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from segframe.inference.base import Scores
from segframe.models.logits import Logits
from segframe.models.ops.argmax import best

ELEMENTS = 2**20
"""Maximum scores per band of several rows: 4 MiB stay in a processor's caches."""
ROWS = 16
"""Maximum rows per band: each row costs a product with all the cells that its band reads."""


def band_rows(channels: int, width: int) -> int:
    return min(max(1, ELEMENTS // (channels * width)), ROWS)


class BandedScores(NamedTuple):
    """Scores (see inference.base) that are computed anew, in bands of rows, at each use."""

    bands: Callable[[], Iterator[Tensor]]
    """Returns the scores from top to bottom, float32 (N, rows of the band, C, W); callers may overwrite them."""
    size: tuple[int, int]
    """(H, W)"""
    probabilities: bool
    """Whether the bands hold probabilities, whose logarithms are the scores."""

    @property
    def values(self) -> Tensor:
        return self.full()

    @property
    def aligned_stride(self) -> None:
        return

    def classes(self) -> Tensor:
        return self.concatenate(best)

    def full(self) -> Tensor:
        tiny = torch.finfo(torch.float32).tiny
        full = self.concatenate(lambda band: band.clamp_min_(tiny).log_() if self.probabilities else band)
        return full.transpose(1, 2)

    def stored(self) -> "BandedScores":
        """Return the same scores, computed now and kept in memory at full size."""
        rows = self.concatenate(lambda band: band)
        return self._replace(bands=lambda: (band.clone() for band in rows.split(ROWS, dim=1)))

    def concatenate(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the results (N, rows, ...) of `function` for all bands, concatenated along the rows."""
        out, top = torch.empty(0), 0
        for part in map(function, self.bands()):
            # Allocated once: small results between large temporary tensors would keep the latters' memory in use.
            if not out.numel():
                out = part.new_empty(len(part), self.size[0], *part.shape[2:])
            out[:, top : top + part.shape[1]] = part
            top += part.shape[1]
        return out


class CroppedLogits(NamedTuple):
    """The upper left part of an image's logits, as Scores (see inference.base)."""

    logits: Logits
    size: tuple[int, int]

    @property
    def values(self) -> Tensor:
        """(N, C, h, w); the last cells may lie beyond the image."""
        return self.logits.values

    @property
    def aligned_stride(self) -> int | None:
        return self.logits.aligned_stride

    def classes(self) -> Tensor:
        return self.logits.classes()[..., : self.size[0], : self.size[1]]

    def full(self) -> Tensor:
        return self.logits.full()[..., : self.size[0], : self.size[1]]


def classes_and_logits(scores: Scores, images: Tensor) -> tuple[Tensor, Logits]:
    """Return the classes uint8 (N, H, W) of images (N, C, H, W), and what a loss takes; the network runs once."""
    if isinstance(scores, BandedScores):
        scores = scores.stored()  # classes and loss would run the network once each
    size = (images.shape[-2], images.shape[-1])
    return scores.classes(), scores if isinstance(scores, Logits) else Logits(scores.full(), size, None)
