"""All-MLP decoder of SegFormer (Xie et al., 2021)."""

import torch
from torch import Tensor, nn

from segframe.models.backbones.base import Feature
from segframe.models.heads.base import Head, conv_bn_relu, require
from segframe.models.logits import Logits, resize

READS = ("c5", "c4", "c3", "c2")
"""Names of the feature maps, in the order in which SegFormer's own code concatenates them."""


class SegFormerMLP(Head):
    """Linear layers of c2 ... c5 to `channels`, upsampled to c2's stride, fused by a 1x1 convolution, and a classifier.

    Xie et al., 2021, section 3.2.
    """

    def __init__(
        self,
        features: dict[str, Feature],
        num_classes: int,
        output_stride: int,
        channels: int,
        dropout: float,
        lr_multiplier: float,
    ) -> None:
        super().__init__()
        self.lr_multiplier = lr_multiplier
        sources = require(features, *READS)
        self.linear = nn.ModuleDict(
            {name: nn.Conv2d(source.channels, channels, 1) for name, source in zip(READS, sources, strict=True)}
        )
        self.fuse = conv_bn_relu(len(READS) * channels, channels, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: dict[str, Tensor], size: tuple[int, int]) -> Logits:
        size_of_c2 = (maps["c2"].shape[-2], maps["c2"].shape[-1])
        levels = [resize(linear(maps[name]), size_of_c2, None) for name, linear in self.linear.items()]
        return Logits(self.classifier(self.dropout(self.fuse(torch.cat(levels, dim=1)))), size, aligned_stride=None)
