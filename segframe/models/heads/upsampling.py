"""Ways from a coarse map to one `factor` times as dense, as decoders use them between their convolutions."""

import torch.nn.functional as F
from torch import Tensor, nn

from segframe.errors import UserError

WAYS = ("transposed", "bilinear", "nearest_conv")


class Upsampling(nn.Sequential):
    """(N, in_channels, h, w) to (N, self.channels, factor * h, factor * w).

    "transposed": a learned transposed convolution with kernel and stride `factor` (U-Net, 2015). "bilinear": nothing
    is learned, channels stay `in_channels`; corners aligned. "nearest_conv": nearest neighbours, then a 3x3
    convolution, which leaves no checkerboard (Odena et al., 2016).
    """

    def __init__(self, way: str, in_channels: int, out_channels: int, factor: int) -> None:
        if way == "transposed":
            super().__init__(nn.ConvTranspose2d(in_channels, out_channels, factor, stride=factor))
        elif way == "bilinear":
            super().__init__(nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=True))
        elif way == "nearest_conv":
            conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
            super().__init__(nn.Upsample(scale_factor=factor, mode="nearest"), conv)
        else:
            raise UserError(f"head.upsampling must be one of {', '.join(WAYS)}, got {way}")
        self.channels = in_channels if way == "bilinear" else out_channels


def fit(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Crops or zero-pads a map (N, C, h, w) at its far edges: poolings round differently at odd sizes."""
    if x.shape[-2:] == size:
        return x
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]))
