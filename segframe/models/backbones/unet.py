"""Encoder of U-Net (Ronneberger et al., 2015)."""

import itertools

import torch
from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.backbones.base import Backbone, Feature
from segframe.models.ops.memory_format import memory_format

MARGIN = 92  # pixels per side that the unpadded convolutions of encoder and decoder consume, at five stages


class UNetEncoder(Backbone):
    """Two 3x3 convolutions per stage, 2x2 pooling between stages: c1 (stride 1) ... c5 (16) for five `channels`.

    `padded`: convolutions keep the size. Otherwise they are unpadded as in the paper, and the image is extended by
    mirroring so that the unpadded decoder's output covers it and every pooled map has even size (overlap tile, Figure
    2). `batch_norm`: after every convolution, which then has no bias. `dropout`: after the last stage.
    """

    def __init__(
        self,
        channels: list[int],
        padded: bool,
        batch_norm: bool,
        dropout: float,
        lr_multiplier: float,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise UserError(f"backbone.channels needs two stages at least, got {channels}")
        if not padded and len(channels) != 5:
            raise UserError(f"backbone.padded=false, the paper's form, has five stages; backbone.channels={channels}")
        self.lr_multiplier = lr_multiplier
        self.padded = padded
        self.stages = nn.ModuleList(
            conv_stack([before, width, width], padded, batch_norm)
            for before, width in zip([in_channels, *channels], channels, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.features = {}
        offset = 0.0 if padded else float(-MARGIN)
        for k, width in enumerate(channels):
            offset += 0.0 if padded else 2.0 * 2**k
            self.features[f"c{k + 1}"] = Feature(width, 2**k, offset)
            offset += 0.5 * 2**k

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return c1 (stride 1), c2 (2), ... of images (N, C, H, W)."""
        x = images if self.padded else mirrored(images)
        maps = {}
        for k, stage in enumerate(self.stages, start=1):
            x = self.run(stage, self.pool(x) if k > 1 else x)
            if k == len(self.stages):
                x = self.dropout(x)
            maps[f"c{k}"] = x
        return maps


def mirrored(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) extended by reflection to the smallest tile whose output covers them."""
    layout = memory_format(images)
    for dim in (2, 3):
        n = images.shape[dim]
        # Of the coarsest map: the output is 16 * cells - 60 pixels wide. Rounded up without negative numbers, which an
        # ONNX export divides towards zero.
        cells = (n + 75) // 16
        position = torch.arange(-MARGIN, 16 * cells + 124 - MARGIN, device=images.device)
        # A triangle wave: repeated reflection without repeating the border pixel.
        # sym_max, and a tensor: an export must not fix in its graph how large the image is.
        period = torch.full_like(position[:1], torch.sym_max(2 * (n - 1), 1))
        position = position.remainder(period)
        images = images.index_select(dim, torch.minimum(position, period - position))
    return images.contiguous(memory_format=layout)


def conv_stack(channels: list[int], padded: bool, batch_norm: bool, bias: bool | None = None) -> nn.Sequential:
    """Return 3x3 convolutions with batch norm (optional) and ReLU, initialised after He et al. (2015).

    `channels`: of the input and of each output. `bias` None: where there is no batch norm.
    """
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        conv = nn.Conv2d(before, after, 3, padding=int(padded), bias=not batch_norm if bias is None else bias)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        layers += [conv, *([nn.BatchNorm2d(after)] if batch_norm else []), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
