"""Adaptive average pooling as a matrix product."""

from collections.abc import Sequence

import torch
from torch import Tensor

from segframe.models.ops.row_bands import working_dtype


def region_means(x: Tensor, bins: Sequence[int]) -> list[Tensor]:
    """Return, for each n of `bins`, the means of a map (N, C, h, w) over n x n regions: (N, C, n, n).

    Those of AdaptiveAvgPool2d, of which the backward pass is not deterministic on CUDA and the ONNX export needs a
    fixed size of the map. Means along columns, then along rows: sums of all cells at once would lose float32's digits.
    """
    h, w = x.shape[-2:]
    dtype = working_dtype(x)
    rows, columns = ([_axis(n, cells, dtype, x.device) for n in bins] for cells in (h, w))
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):  # which does not know "meta"
        # Channels behind cells, as channels-last maps lie in memory.
        maps = x.to(dtype).permute(0, 2, 3, 1).contiguous()
        strips = (torch.cat(rows) @ maps.flatten(2)).split(list(bins), dim=1)
        levels = [each @ strip.unflatten(2, maps.shape[2:]) for each, strip in zip(columns, strips, strict=True)]
    return [level.to(x.dtype).permute(0, 3, 1, 2) for level in levels]


def _axis(bins: int, cells: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the weights (bins, cells) of means over floor(i * cells / bins) ... ceil((i + 1) * cells / bins) - 1."""
    k = torch.arange(bins, device=device)[:, None]
    first, end = k * cells // bins, ((k + 1) * cells + bins - 1) // bins
    cell = torch.arange(cells, device=device)
    return ((first <= cell) & (cell < end)).to(dtype) / (end - first)
