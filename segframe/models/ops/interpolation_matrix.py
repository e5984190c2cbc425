"""Bilinear resizing along one axis as a banded matrix: what it reads, and its products with some rows or columns."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from segframe.models.ops import bilinear

TILE = 64
"""How many columns are made by one product: they read few cells."""


class InterpolationMatrix(NamedTuple):
    """Along one axis, how pixels are weighted sums of cells near to them."""

    weights: Tensor
    """float32 (pixels, cells), zero but between `first` and `last`"""
    first: list[int]
    last: list[int]
    """The cells that each pixel reads, both included; on the host, so that no device is waited for."""

    @classmethod
    def bilinear(
        cls, pixels: int, cells: int, aligned_stride: int | None, device: torch.device
    ) -> "InterpolationMatrix":
        """As bilinear.resize."""
        low, high, _ = bilinear.axis(pixels, cells, aligned_stride, torch.device("cpu"))
        return cls(bilinear.matrix(pixels, cells, aligned_stride, device), low.tolist(), high.tolist())

    def mirrored(self) -> "InterpolationMatrix":
        """With the pixels in reverse order."""
        return InterpolationMatrix(self.weights.flip(0), self.first[::-1], self.last[::-1])

    def at(self, pixels: list[int]) -> "InterpolationMatrix":
        """Of these pixels alone."""
        chosen = torch.tensor(pixels, device=self.weights.device)
        return InterpolationMatrix(
            self.weights[chosen], [self.first[p] for p in pixels], [self.last[p] for p in pixels]
        )

    def resized(self, pixels: int) -> "InterpolationMatrix":
        """The pixels resized to another number of them."""
        low, high, share = bilinear.axis(pixels, len(self.first), None, torch.device("cpu"))
        near, far = self.at(low.tolist()), self.at(high.tolist())
        weights = torch.lerp(near.weights, far.weights, share[:, None].to(self.weights.device))
        return InterpolationMatrix(weights, near.first, far.last)

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
    def columns(self, lines: Tensor, out: Tensor | None = None) -> Tensor:
        """All columns of pixels (..., pixels) from contiguous cells (..., cells), in `out` if given."""
        if out is None:
            out = lines.new_empty(*lines.shape[:-1], len(self.first))
        near, far = lines.flatten(0, -2), out.flatten(0, -2)
        for start, end in self._tiles():
            cells, weights = self.between(start, end)
            torch.mm(near[:, cells], weights.T, out=far[:, start:end])
        return out

    @torch.no_grad()
    def columns_back(self, gradient: Tensor, out: Tensor) -> None:
        """The gradient (..., pixels) of `columns` by its cells, added to `out` (..., cells)."""
        far, near = gradient.flatten(0, -2), out.flatten(0, -2)
        for start, end in self._tiles():
            cells, weights = self.between(start, end)
            near[:, cells].addmm_(far[:, start:end], weights)

    def _tiles(self) -> Iterator[tuple[int, int]]:
        pixels = len(self.first)
        return ((start, min(start + TILE, pixels)) for start in range(0, pixels, TILE))


def enlarging(
    values: Tensor, size: tuple[int, int], aligned_stride: int | None
) -> tuple[InterpolationMatrix, InterpolationMatrix]:
    """What happens to the rows and to the columns of logits (N, C, h, w) that become `size` (see heads.base.Logits)."""
    cells = (values.shape[-2], values.shape[-1])
    # Logits that are full size already stay what they are.
    stride = None if cells == size else aligned_stride
    rows, columns = (
        InterpolationMatrix.bilinear(n, c, stride, values.device) for n, c in zip(size, cells, strict=True)
    )
    return rows, columns


def by_rows(values: Tensor) -> Tensor:
    """Maps (N, C, h, w) as (N, h, C, w), contiguous, float32."""
    return values.float().transpose(1, 2).contiguous()
