"""Logits at the images' size in bands of rows, with their gradient, without ever storing full logits."""

from collections.abc import Iterator

import torch
from torch import Tensor

from segframe.models.ops.interpolation_matrix import resizing_matrices

CPU_BAND = 2 << 20
"""Bytes of a band on a CPU: about the cache of one core."""
GPU_BAND = 64 << 20
"""Size in bytes of a band of rows on a GPU: large enough to keep a kernel busy."""
BLOCK = 4
"""Bands per block of rows whose columns are resized at once; neighbouring blocks share a row of cells."""
MOST_ROWS = 64
"""Rows of pixels per matrix product, which reads only the cells around them."""

Band = tuple[slice, slice, Tensor]
"""Images, their rows, and the logits (M, C, P) there: M x P are images x rows x columns, in this order."""


def working_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype of sums and gradients: float32, or float64 for logits in float64."""
    return torch.promote_types(values.dtype, torch.float32)


def bands(
    values: Tensor, size: tuple[int, int], aligned_stride: int | None, scale: float, gradient: Tensor | None
) -> Iterator[Band]:
    """Yield logits (N, C, h, w) resized to `size` as by `bilinear.resize`, multiplied by `scale`, in bands.

    In `working_dtype`, as is `gradient` (zeros, shaped as `values`): if given, the caller overwrites each band by the
    gradient with respect to its unscaled logits, which is propagated back to `gradient`.
    """
    (height, width), classes, device = size, values.shape[1], values.device
    lines = max(1, (CPU_BAND if device.type == "cpu" else GPU_BAND) // (4 * classes * width))
    rows = min(lines, height, MOST_ROWS)
    images = min(lines // rows, len(values))
    # One buffer for all bands: allocating fresh pages takes longer than writing to them.
    buffer = torch.empty(images * rows * classes * width, dtype=working_dtype(values), device=device)
    if values.shape[-2:] == size:
        return _fine(values, scale, gradient, images, rows, buffer)
    return _coarse(values, size, aligned_stride, scale, gradient, images, rows, buffer)


def _fine(
    values: Tensor, scale: float, gradient: Tensor | None, images: int, rows: int, buffer: Tensor
) -> Iterator[Band]:
    for chosen in slices(0, len(values), images):
        for band in slices(0, values.shape[2], rows):
            part = values[chosen, :, band]
            logits = buffer[: part.numel()].view(part.shape)
            # No -inf: its product with 0 would be NaN.
            logits.copy_(part).mul_(scale).clamp_min_(torch.finfo(buffer.dtype).min)
            yield chosen, band, logits.flatten(2)
            if gradient is not None:
                gradient[chosen, :, band] = logits


def _coarse(
    values: Tensor,
    size: tuple[int, int],
    aligned_stride: int | None,
    scale: float,
    gradient: Tensor | None,
    images: int,
    rows: int,
    buffer: Tensor,
) -> Iterator[Band]:
    _, classes, h, w = values.shape
    (height, width), device = size, values.device
    matrices = resizing_matrices(values, size, aligned_stride)
    down, across = (matrix._replace(weights=matrix.weights.to(buffer.dtype)) for matrix in matrices)
    blocks = [
        (block, down.between(block.start, block.stop)[0])
        for block in slices(0, height, max(rows, BLOCK * rows * height // h))
    ]
    most = images * max(around.stop - around.start for _, around in blocks) * classes
    # In the order rows, classes, columns both products have long contiguous rows.
    cell_memory, wide_memory = (torch.empty(most, n, dtype=buffer.dtype, device=device) for n in (w, width))
    wide_gradient_memory = None if gradient is None else torch.empty_like(wide_memory)
    for chosen in slices(0, len(values), images):
        number = len(range(len(values))[chosen])
        for block, around in blocks:
            coarse = values[chosen, :, around].transpose(1, 2)
            lines = coarse.shape[:3].numel()
            cells = cell_memory[:lines]
            cells.view(coarse.shape).copy_(coarse).mul_(scale)
            wide = across.columns(cells, out=wide_memory[:lines])
            wide_gradient = None if wide_gradient_memory is None else wide_gradient_memory[:lines].zero_()
            for band in slices(block.start, block.stop, rows):
                near, shares = down.between(band.start, band.stop)
                shares = shares.expand(number, -1, -1)
                near = slice(near.start - around.start, near.stop - around.start)
                logits = buffer[: shares.shape[:2].numel() * classes * width].view(number, -1, classes * width)
                torch.bmm(shares, wide.view(number, -1, classes * width)[:, near], out=logits)
                yield chosen, band, logits.view(-1, classes, width)
                if wide_gradient is not None:
                    wide_gradient.view(number, -1, classes * width)[:, near].baddbmm_(shares.mT, logits)
            if gradient is not None and wide_gradient is not None:
                across.columns_back(wide_gradient, cells.zero_())
                gradient[chosen, :, around] += cells.view(coarse.shape).transpose(1, 2)


def slices(start: int, stop: int, step: int) -> Iterator[slice]:
    return (slice(k, min(k + step, stop)) for k in range(start, stop, step))
