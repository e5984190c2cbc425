"""UPerNet (Xiao et al., 2018)."""

import torch
from torch import Tensor, nn

from segframe.models.backbones.base import Feature
from segframe.models.heads.base import Head, conv_bn_relu, require
from segframe.models.heads.pspnet import PyramidPooling
from segframe.models.logits import Logits, resize

READS = ("c2", "c3", "c4", "c5")


class UPerNet(Head):
    """Feature pyramid network over c2 ... c5 whose coarsest level is PSPNet's pyramid pooling, fused at c2's stride.

    Xiao et al., 2018, Figure 4 (the part for objects and stuff); every convolution but the classifier has `channels`
    outputs, batch norm and ReLU.
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
        *finer, c5 = require(features, *READS)
        self.pyramid = PyramidPooling(c5.channels, bins, channels, channels)
        self.lateral = nn.ModuleList(conv_bn_relu(source.channels, channels, 1) for source in finer)
        self.smooth = nn.ModuleList(conv_bn_relu(channels, channels, 3) for _ in finer)
        self.fuse = conv_bn_relu(len(READS) * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: dict[str, Tensor], size: tuple[int, int]) -> Logits:
        x = self.pyramid(maps["c5"])
        levels = [x]
        for name, lateral, smooth in zip(READS[-2::-1], self.lateral[::-1], self.smooth[::-1], strict=True):
            skip = lateral(maps[name])
            x = skip + resize(x, (skip.shape[-2], skip.shape[-1]), None)
            levels.insert(0, smooth(x))
        size_of_c2 = (x.shape[-2], x.shape[-1])
        x = self.fuse(torch.cat([levels[0], *(resize(level, size_of_c2, None) for level in levels[1:])], dim=1))
        return Logits(self.classifier(self.dropout(x)), size, aligned_stride=None)
