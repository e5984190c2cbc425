"""Bilinear resizing along one axis as a banded matrix, and its products with some rows or columns."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from segframe.models.ops import bilinear

TILE = 64
"""Columns per matrix product: they read few cells."""


class InterpolationMatrix(NamedTuple):
    """Interpolation along one axis: pixels as weighted sums of neighbouring cells."""

    weights: Tensor
    """float32 (pixels, cells), zero outside `first` ... `last`"""
    first: list[int]
    last: list[int]
    """First and last cell that each pixel reads; on the host, so that no GPU is waited for."""

    @classmethod
    def bilinear(
        cls, pixels: int, cells: int, aligned_stride: int | None, device: torch.device
    ) -> "InterpolationMatrix":
        """Return the matrix of bilinear.resize."""
        low, high, _ = bilinear.axis(pixels, cells, aligned_stride, torch.device("cpu"))
        return cls(bilinear.matrix(pixels, cells, aligned_stride, device), low.tolist(), high.tolist())

    def mirrored(self) -> "InterpolationMatrix":
        return InterpolationMatrix(self.weights.flip(0), self.first[::-1], self.last[::-1])

    def at(self, pixels: list[int]) -> "InterpolationMatrix":
        chosen = torch.tensor(pixels, device=self.weights.device)
        return InterpolationMatrix(
            self.weights[chosen], [self.first[p] for p in pixels], [self.last[p] for p in pixels]
        )

    def resized(self, pixels: int) -> "InterpolationMatrix":
        """Return the composition with a bilinear resizing of the pixels to another number."""
        low, high, share = bilinear.axis(pixels, len(self.first), None, torch.device("cpu"))
        near, far = self.at(low.tolist()), self.at(high.tolist())
        weights = torch.lerp(near.weights, far.weights, share[:, None].to(self.weights.device))
        return InterpolationMatrix(weights, near.first, far.last)

    def between(self, start: int, end: int) -> tuple[slice, Tensor]:
        """Return the cells that pixels start ... end - 1 read, and their weights (end - start, cells)."""
        # In reverse order the first pixel reads the last cells.
        cells = slice(min(self.first[start], self.first[end - 1]), max(self.last[start], self.last[end - 1]) + 1)
        return cells, self.weights[start:end, cells]

    def rows(self, lines: Tensor, start: int, end: int, origin: int = 0) -> Tensor:
        """Return rows start ... end - 1 of pixels, (N, end - start, C, W).

        `lines`: rows of cells (N, h, C, W), the first of which is cell `origin`; rows come before channels so that the
        product has long contiguous rows.
        """
        cells, weights = self.between(start, end)
        read = lines[:, cells.start - origin : cells.stop - origin].flatten(2)
        return torch.matmul(weights, read).view(len(lines), end - start, *lines.shape[2:])

    @torch.no_grad()
    def columns(self, lines: Tensor, out: Tensor | None = None) -> Tensor:
        """Return all columns of pixels (..., pixels) from contiguous cells (..., cells), in `out` if given."""
        if out is None:
            out = lines.new_empty(*lines.shape[:-1], len(self.first))
        near, far = lines.flatten(0, -2), out.flatten(0, -2)
        for start, end in self._tiles():
            cells, weights = self.between(start, end)
            torch.mm(near[:, cells], weights.T, out=far[:, start:end])
        return out

    @torch.no_grad()
    def columns_back(self, gradient: Tensor, out: Tensor) -> None:
        """Backward pass of `columns`: add to `out` (..., cells) the gradient of the cells, from that of the pixels."""
        far, near = gradient.flatten(0, -2), out.flatten(0, -2)
        for start, end in self._tiles():
            cells, weights = self.between(start, end)
            near[:, cells].addmm_(far[:, start:end], weights)

    def _tiles(self) -> Iterator[tuple[int, int]]:
        pixels = len(self.first)
        return ((start, min(start + TILE, pixels)) for start in range(0, pixels, TILE))


def resizing_matrices(
    values: Tensor, size: tuple[int, int], aligned_stride: int | None
) -> tuple[InterpolationMatrix, InterpolationMatrix]:
    """Return the matrices that resize rows and columns of logits (N, C, h, w) to `size`."""
    cells = (values.shape[-2], values.shape[-1])
    # Logits at full size are not resized.
    stride = None if cells == size else aligned_stride
    rows, columns = (
        InterpolationMatrix.bilinear(n, c, stride, values.device) for n, c in zip(size, cells, strict=True)
    )
    return rows, columns


def by_rows(values: Tensor) -> Tensor:
    """Return maps (N, C, h, w) as contiguous (N, h, C, w), float32."""
    return values.float().transpose(1, 2).contiguous()
