"""Decoder of U-Net (Ronneberger et al., 2015), for any backbone."""

import torch
from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.backbones.base import Feature
from segframe.models.backbones.unet import conv_stack
from segframe.models.heads.base import Head, require
from segframe.models.heads.upsampling import Upsampling, fit
from segframe.models.logits import Logits


class UNet(Head):
    """U-Net decoder: upsamples the coarsest map of `reads`, concatenates the next one and convolves twice, repeatedly.

    `channels`: outputs of each stage; its first convolution has as many as the skip or the upsampled map, whichever is
    fewer. `padded`: convolutions keep the size; otherwise skips and logits are cropped by the maps' coordinates, as in
    the paper. Logits at the stride of the finest map.
    """

    def __init__(
        self,
        features: dict[str, Feature],
        num_classes: int,
        output_stride: int,
        reads: list[str],
        channels: list[int],
        upsampling: str,
        padded: bool,
        batch_norm: bool,
        align_corners: bool,
        lr_multiplier: float,
    ) -> None:
        super().__init__()
        self.lr_multiplier = lr_multiplier
        self.padded = padded
        self.crops_overhang = not padded
        self.reads = [name for name in reads if name in features]
        require(features, reads[0])
        sources = [features[name] for name in self.reads]
        if len(channels) < len(sources) - 1:
            raise UserError(f"head.channels has {len(channels)} entries for {len(sources) - 1} joins")
        self.up, self.conv, self.crops = nn.ModuleList(), nn.ModuleList(), []
        x = sources[0]
        for skip, width in zip(sources[1:], channels, strict=False):
            factor = x.stride // skip.stride
            up = Upsampling(upsampling, x.channels, width, factor)
            self.up.append(up)
            mid = min(up.channels, skip.channels)
            self.conv.append(conv_stack([skip.channels + up.channels, mid, width], padded, batch_norm))
            offset = x.offset - (factor - 1) / 2 * skip.stride
            self.crops.append(0 if padded else whole_cells(offset - skip.offset, skip.stride))
            x = Feature(width, skip.stride, offset + (0 if padded else 2 * skip.stride))
        self.aligned_stride = x.stride if align_corners else None
        self.begin = 0 if padded else whole_cells(-x.offset, x.stride)
        self.classifier = nn.Conv2d(x.channels, num_classes, 1)

    def forward(self, maps: dict[str, Tensor], size: tuple[int, int]) -> Logits:
        x = maps[self.reads[0]]
        for name, up, conv, crop in zip(self.reads[1:], self.up, self.conv, self.crops, strict=True):
            x, skip = up(x), maps[name]
            if self.padded:
                x = fit(x, (skip.shape[-2], skip.shape[-1]))
            else:
                skip = fit(skip, (x.shape[-2], x.shape[-1]), crop)
            x = conv(torch.cat([skip, x], dim=1))
        x = self.classifier(x)
        if not self.padded:
            x = fit(x, size, self.begin)
        return Logits(x, size, self.aligned_stride)


def whole_cells(distance: float, stride: int) -> int:
    """Return a distance in pixels as a number of cells; UserError unless it is a natural number."""
    cells = distance / stride
    if cells < 0 or cells % 1:
        raise UserError("head.padded=false needs a backbone that mirrors the image's border: backbone=unet_original")
    return int(cells)
