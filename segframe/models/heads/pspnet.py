"""PSPNet (Zhao et al., 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segframe.models.backbones.base import Feature
from segframe.models.heads.base import ConvOfMeans, Head, conv_bn_relu, require
from segframe.models.logits import Logits, resize
from segframe.models.ops.memory_format import memory_format
from segframe.models.ops.row_bands import working_dtype


class PSPNet(Head):
    """Pyramid pooling of c5 to `channels` and a 1x1 classifier, logits at c5's stride (Zhao et al., 2017, Figure 3).

    `bins`: the pyramid's levels; each is reduced to 1 / len(bins) of c5's channels.
    """

    def __init__(
        self,
        features: dict[str, Feature],
        num_classes: int,
        output_stride: int,
        bins: list[int],
        channels: int,
        dropout: float,
        lr_multiplier: float,
    ) -> None:
        super().__init__()
        self.lr_multiplier = lr_multiplier
        (c5,) = require(features, "c5")
        self.pyramid = PyramidPooling(c5.channels, bins, c5.channels // len(bins), channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: dict[str, Tensor], size: tuple[int, int]) -> Logits:
        return Logits(self.classifier(self.dropout(self.pyramid(maps["c5"]))), size, aligned_stride=None)


class PyramidPooling(nn.Module):
    """Pyramid pooling module: means over bins x bins regions, each with a 1x1 convolution and upsampled.

    They are concatenated with the map and fused by a 3x3 convolution. Every convolution has batch norm and ReLU.
    """

    def __init__(self, in_channels: int, bins: list[int], bin_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.convs = nn.ModuleList(ConvOfMeans(in_channels, bin_channels) for _ in bins)
        self.fuse = conv_bn_relu(in_channels + len(bins) * bin_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, h, w) to (N, out_channels, h, w)."""
        size = (x.shape[-2], x.shape[-1])
        pooled = zip(self.convs, region_means(x, self.bins), strict=True)
        levels = [resize(conv(means), size, None).contiguous(memory_format=memory_format(x)) for conv, means in pooled]
        fused: Tensor = self.fuse(torch.cat([x, *levels], dim=1))
        return fused


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
