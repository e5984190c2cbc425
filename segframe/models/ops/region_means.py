"""Adaptive average pooling as a matrix product."""

from collections.abc import Sequence

import torch
from torch import Tensor

from segframe.models.ops.row_bands import working_dtype


def region_means(x: Tensor, bins: Sequence[int]) -> list[Tensor]:
    """Return, for each n of `bins`, the means of a map (N, C, h, w) over n x n regions: (N, C, n, n).

    Those of AdaptiveAvgPool2d, of which the backward pass is not deterministic on CUDA and the ONNX export needs a
    fixed size of the map. One product of the map with a matrix of all regions.
    """
    h, w = x.shape[-2:]
    dtype = working_dtype(x)
    regions = []
    for n in bins:
        rows, columns = (_axis(n, cells, dtype, x.device) for cells in (h, w))
        regions.append((rows[:, None, :, None] * columns[:, None, :]).reshape(n * n, h * w))
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):  # which does not know "meta"
        # Channels behind cells, as channels-last maps lie in memory.
        means = torch.cat(regions) @ x.to(dtype).flatten(2).transpose(1, 2)
    levels = means.to(x.dtype).transpose(1, 2).split([n * n for n in bins], dim=2)
    return [level.unflatten(2, (n, n)) for n, level in zip(bins, levels, strict=True)]


def _axis(bins: int, cells: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the weights (bins, cells) of means over floor(i * cells / bins) ... ceil((i + 1) * cells / bins) - 1."""
    k = torch.arange(bins, device=device)[:, None]
    first, end = k * cells // bins, ((k + 1) * cells + bins - 1) // bins
    cell = torch.arange(cells, device=device)
    return ((first <= cell) & (cell < end)).to(dtype) / (end - first)
