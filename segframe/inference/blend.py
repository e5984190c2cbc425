"""Bilinear resizing along one axis as a banded matrix: what it reads, and its products with some rows or columns."""

from typing import NamedTuple

import torch
from torch import Tensor

from segframe.heads.base import Logits
from segframe.ops import bilinear

COLUMNS = 64
"""How many columns are made by one product; they read few cells."""


class Blend(NamedTuple):
    """Along one axis, how pixels are weighted sums of cells near to them."""

    weights: Tensor
    """float32 (pixels, cells), zero but for those in between `first` and `stop`"""
    first: list[int]
    stop: list[int]
    """The cells that each pixel reads: first ... stop - 1."""

    @classmethod
    def of(cls, weights: Tensor) -> "Blend":
        """From the weights alone (pixels, cells); every pixel has at least one."""
        read = (weights != 0).to(torch.uint8)
        first, back = read.argmax(1), read.flip(1).argmax(1)
        return cls(weights, first.tolist(), (weights.shape[1] - back).tolist())

    def between(self, start: int, end: int) -> tuple[slice, Tensor]:
        """The cells that pixels start ... end - 1 read, and their weights (end - start, those cells)."""
        cells = slice(min(self.first[start:end]), max(self.stop[start:end]))
        return cells, self.weights[start:end, cells]

    def rows(self, values: Tensor, start: int, end: int) -> Tensor:
        """Rows start ... end - 1 of pixels from cells (N, C, cells, W): (N, C, end - start, W)."""
        cells, weights = self.between(start, end)
        return weights @ values[:, :, cells]

    def columns(self, values: Tensor) -> Tensor:
        """All columns of pixels from cells (N, C, h, cells): (N, C, h, pixels)."""
        pixels = len(self.first)
        out = values.new_empty(*values.shape[:3], pixels)
        for start in range(0, pixels, COLUMNS):
            end = min(start + COLUMNS, pixels)
            cells, weights = self.between(start, end)
            out[..., start:end] = values[..., cells] @ weights.T
        return out


def enlarging(logits: Logits) -> tuple[Tensor, Tensor]:
    """What `logits.full()` does to rows and to columns: weights (H, h) and (W, w)."""
    cells = (logits.values.shape[-2], logits.values.shape[-1])
    # Logits that are full size already stay what they are.
    stride = None if cells == logits.size else logits.aligned_stride
    device = logits.values.device
    return (
        bilinear.matrix(logits.size[0], cells[0], stride, device),
        bilinear.matrix(logits.size[1], cells[1], stride, device),
    )
