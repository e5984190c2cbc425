"""Heads of DeepLab v1 (Chen et al., 2015) and v2 (Chen et al., 2018, arXiv:1606.00915)."""

import functools

import torch
from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.backbones.base import Feature
from segframe.models.heads.base import Head, require
from segframe.models.logits import Logits
from segframe.models.ops.atrous_conv import AtrousConv2d
from segframe.models.ops.row_bands import working_dtype


class DeepLabV2(Head):
    """Sum of the logits of parallel classifiers: one convolution for each map in `reads` and each dilation in `rates`.

    DeepLab v2 on ResNet: ASPP, four 3x3 convolutions with rates 6, 12, 18, 24 on c5 (Figure 7). v2 on VGG: 1x1 on
    fc7_1 ... fc7_4 of the backbone's branches. v1 (LargeFOV) is the case of a single 1x1 convolution on c5. `rates` are
    for the head's `output_stride`; logits have the stride of the maps. Initialised as in the release: weights from
    N(0, 0.01), biases 0.
    """

    score_layers = ("score.",)

    def __init__(
        self,
        features: dict[str, Feature],
        num_classes: int,
        output_stride: int,
        reads: list[str],
        kernel_size: int,
        rates: list[int],
        align_corners: bool,
        lr_multiplier: float,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0 or not rates or min(rates) < 1:
            raise UserError(f"head.kernel_size must be odd and head.rates positive, got {kernel_size} and {rates}")
        self.lr_multiplier = lr_multiplier
        sources = require(features, *reads)
        self.aligned_stride = sources[0].stride if align_corners else None
        self.score = nn.ModuleDict()
        for name, source in zip(reads, sources, strict=True):
            convs = nn.ModuleList()
            for rate in rates:
                # The same reach in pixels at any stride.
                dilation = max(1, rate * output_stride // source.stride)
                padding = dilation * (kernel_size // 2)
                layer = AtrousConv2d if kernel_size == 3 else nn.Conv2d
                conv = layer(source.channels, num_classes, kernel_size, padding=padding, dilation=dilation)
                nn.init.normal_(conv.weight, std=0.01)
                assert conv.bias is not None
                nn.init.zeros_(conv.bias)
                convs.append(conv)
            self.score[name] = convs

    def forward(self, maps: dict[str, Tensor], size: tuple[int, int]) -> Logits:
        convs = ((name, conv) for name, convs in self.score.items() for conv in convs.children())
        scores = [conv(maps[name]) for name, conv in convs]
        total = functools.reduce(torch.add, [score.to(working_dtype(score)) for score in scores])
        return Logits(total, size, self.aligned_stride)
