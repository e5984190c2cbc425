"""Bilinear resizing along one axis as a banded matrix: what it reads, and its products with some rows or columns."""

from typing import NamedTuple

import torch
from torch import Tensor

from segframe.heads.base import Logits
from segframe.ops import bilinear

TILE = 64
"""How many columns are made by one product: they read few cells."""


class Blend(NamedTuple):
    """Along one axis, how pixels are weighted sums of cells near to them."""

    weights: Tensor
    """float32 (pixels, cells), zero but between `first` and `last`"""
    first: list[int]
    last: list[int]
    """The cells that each pixel reads, both included; on the host, so that no device is waited for."""

    @classmethod
    def bilinear(cls, pixels: int, cells: int, aligned_stride: int | None, device: torch.device) -> "Blend":
        """As heads.base.resize."""
        low, high, _ = bilinear.axis(pixels, cells, aligned_stride, torch.device("cpu"))
        return cls(bilinear.matrix(pixels, cells, aligned_stride, device), low.tolist(), high.tolist())

    def mirrored(self) -> "Blend":
        """With the pixels in reverse order."""
        return Blend(self.weights.flip(0), self.first[::-1], self.last[::-1])

    def at(self, pixels: list[int]) -> "Blend":
        """Of these pixels alone."""
        chosen = torch.tensor(pixels, device=self.weights.device)
        return Blend(self.weights[chosen], [self.first[p] for p in pixels], [self.last[p] for p in pixels])

    def resized(self, pixels: int) -> "Blend":
        """The pixels resized to another number of them."""
        low, high, share = bilinear.axis(pixels, len(self.first), None, torch.device("cpu"))
        near, far = self.at(low.tolist()), self.at(high.tolist())
        weights = torch.lerp(near.weights, far.weights, share[:, None].to(self.weights.device))
        return Blend(weights, near.first, far.last)

    def between(self, start: int, end: int) -> tuple[slice, Tensor]:
        """The cells that pixels start ... end - 1 read, and their weights (end - start, those cells)."""
        # In reverse order the first pixel reads the last cells.
        cells = slice(min(self.first[start], self.first[end - 1]), max(self.last[start], self.last[end - 1]) + 1)
        return cells, self.weights[start:end, cells]

    def rows(self, lines: Tensor, start: int, end: int, origin: int = 0) -> Tensor:
        """Rows start ... end - 1 of pixels (N, end - start, C, W).

        From `lines` of cells (N, h, C, W), of which the first is cell `origin`: by rows first, so that the product is
        one of long contiguous rows.
        """
        cells, weights = self.between(start, end)
        read = lines[:, cells.start - origin : cells.stop - origin].flatten(2)
        return torch.matmul(weights, read).view(len(lines), end - start, *lines.shape[2:])

    @torch.no_grad()
    def columns(self, lines: Tensor) -> Tensor:
        """All columns of pixels (..., pixels) from contiguous cells (..., cells)."""
        pixels, flat = len(self.first), lines.flatten(0, -2)
        out = flat.new_empty(len(flat), pixels)
        for start in range(0, pixels, TILE):
            end = min(start + TILE, pixels)
            cells, weights = self.between(start, end)
            torch.mm(flat[:, cells], weights.T, out=out[:, start:end])
        return out.view(*lines.shape[:-1], pixels)


def enlarging(logits: Logits) -> tuple[Blend, Blend]:
    """What `logits.full()` does to rows and to columns."""
    cells = (logits.values.shape[-2], logits.values.shape[-1])
    # Logits that are full size already stay what they are.
    stride = None if cells == logits.size else logits.aligned_stride
    rows, columns = (
        Blend.bilinear(n, c, stride, logits.values.device) for n, c in zip(logits.size, cells, strict=True)
    )
    return rows, columns


def by_rows(values: Tensor) -> Tensor:
    """Maps (N, C, h, w) as (N, h, C, w), contiguous, float32."""
    return values.float().transpose(1, 2).contiguous()
