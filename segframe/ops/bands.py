"""Logits at the images' size in bands of rows, and the way back for their gradient; never the whole at once."""

from collections.abc import Iterator

import torch
from torch import Tensor

from segframe.ops.bilinear import axis, matrix

CPU_BAND = 1 << 20
"""Bytes of a band on a CPU: about what its core keeps at hand."""
GPU_BAND = 64 << 20
"""The same on any other device: enough work for one call."""
BLOCK = 4
"""Rows of cells, in bands, that are widened at once: each such block shares a row with the next."""
TILE = 64
"""Pixels of a row per matrix product: it reads the few cells around them; a single product would read all cells."""

Band = tuple[slice, slice, Tensor]
"""Which images, which of their rows, and their logits (M, C, P): M x P are images x rows x columns, in this order."""


def bands(
    values: Tensor, size: tuple[int, int], aligned_stride: int | None, scale: float, gradient: Tensor | None
) -> Iterator[Band]:
    """Logits (N, C, h, w) at `size` as `heads.base.resize` has it, in float32 and times `scale`, band by band.

    With a `gradient` (float32, zero, as `values`): what the caller leaves in a band is taken for the gradient by its
    logits before they were scaled, and pulled back to it.
    """
    (height, width), classes, device = size, values.shape[1], values.device
    rows = max(1, (CPU_BAND if device.type == "cpu" else GPU_BAND) // (4 * classes * width))
    images, rows = min(max(1, rows // height), len(values)), min(rows, height)
    buffer = torch.empty(images * rows * classes * width, device=device)
    for some in slices(0, len(values), images):
        part = None if gradient is None else gradient[some]
        if values.shape[-2:] == size:
            inner = _fine(values[some], scale, part, rows, buffer)
        else:
            inner = _coarse(values[some], size, aligned_stride, scale, part, rows, buffer)
        for band, logits in inner:
            yield some, band, logits


def _fine(
    values: Tensor, scale: float, gradient: Tensor | None, rows: int, buffer: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    for band in slices(0, values.shape[2], rows):
        part = values[:, :, band]
        logits = buffer[: part.numel()].view(part.shape)
        yield band, logits.copy_(part).mul_(scale).flatten(2)
        if gradient is not None:
            gradient[:, :, band] = logits


def _coarse(
    values: Tensor,
    size: tuple[int, int],
    aligned_stride: int | None,
    scale: float,
    gradient: Tensor | None,
    rows: int,
    buffer: Tensor,
) -> Iterator[tuple[slice, Tensor]]:
    images, classes, h, w = values.shape
    (height, width), device = size, values.device
    down, across = matrix(height, h, aligned_stride, device), matrix(width, w, aligned_stride, device)
    row_cells, column_cells = _Cells(height, h, aligned_stride), _Cells(width, w, aligned_stride)
    tiles = [(tile, column_cells(tile)) for tile in slices(0, width, TILE)]
    for block in slices(0, height, -(-BLOCK * rows * height // h)):
        # (images, rows of cells, C, columns): the products below then have long contiguous rows.
        around = row_cells(block)
        cells = torch.empty(images, around.stop - around.start, classes, w, device=device)
        cells.copy_(values[:, :, around].transpose(1, 2)).mul_(scale)
        wide = torch.empty(images, cells.shape[1], classes * width, device=device)
        for tile, near in tiles:
            torch.mm(cells.view(-1, w)[:, near], across[tile, near].t(), out=wide.view(-1, width)[:, tile])
        wide_gradient = None if gradient is None else torch.zeros_like(wide)
        for band in slices(block.start, block.stop, rows):
            near = row_cells(band)
            shares = down[band, near].expand(images, -1, -1)
            near = slice(near.start - around.start, near.stop - around.start)
            logits = buffer[: images * shares.shape[1] * classes * width].view(images, -1, classes * width)
            torch.bmm(shares, wide[:, near], out=logits)
            yield band, logits.view(-1, classes, width)
            if wide_gradient is not None:
                wide_gradient[:, near].baddbmm_(shares.mT, logits)
        if gradient is not None and wide_gradient is not None:
            cells.zero_()
            for tile, near in tiles:
                cells.view(-1, w)[:, near] += torch.mm(wide_gradient.view(-1, width)[:, tile], across[tile, near])
            gradient[:, :, around] += cells.transpose(1, 2)


class _Cells:
    """The cells that a slice of pixels lies between; on the host, so that no device is waited for."""

    def __init__(self, pixels: int, cells: int, aligned_stride: int | None) -> None:
        low, high, _ = axis(pixels, cells, aligned_stride, torch.device("cpu"))
        self.low, self.high = low.tolist(), high.tolist()

    def __call__(self, pixels: slice) -> slice:
        return slice(self.low[pixels.start], self.high[pixels.stop - 1] + 1)


def slices(start: int, stop: int, step: int) -> Iterator[slice]:
    """`start` ... `stop` in pieces of `step`."""
    return (slice(k, min(k + step, stop)) for k in range(start, stop, step))
