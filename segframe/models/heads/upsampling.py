"""Upsampling layers of decoders."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.ops.bilinear import interpolate

MODES = ("transposed", "bilinear", "nearest_conv")


class Upsampling(nn.Sequential):
    """Upsampling (N, in_channels, h, w) to (N, self.channels, factor * h, factor * w).

    `mode`: "transposed", a transposed convolution with kernel and stride `factor` (U-Net, 2015); "bilinear", without
    parameters and with aligned corners, channels stay `in_channels`; "nearest_conv", nearest neighbours, then a 3x3
    convolution, which avoids checkerboard artifacts (Odena et al., 2016).
    """

    def __init__(self, mode: str, in_channels: int, out_channels: int, factor: int) -> None:
        if mode == "transposed":
            super().__init__(nn.ConvTranspose2d(in_channels, out_channels, factor, stride=factor))
        elif mode == "bilinear":
            super().__init__(AlignedUpsampling(factor))
        elif mode == "nearest_conv":
            conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
            super().__init__(nn.Upsample(scale_factor=factor, mode="nearest"), conv)
        else:
            raise UserError(f"head.upsampling must be one of {', '.join(MODES)}, got {mode}")
        self.channels = in_channels if mode == "bilinear" else out_channels


class AlignedUpsampling(nn.Module):
    """Bilinear upsampling by an integer factor with align_corners=True."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (N, C, factor * h, factor * w) of a map (N, C, h, w)."""
        return interpolate(x, (self.factor * x.shape[-2], self.factor * x.shape[-1]), align_corners=True)


def fit(x: Tensor, size: tuple[int, int], start: int = 0) -> Tensor:
    """Crop a map (N, C, h, w) to `size`, from row and column `start` on; zero-pad it where it ends before.

    Padded by negative numbers rather than sliced: the gradient of a slice is not channels-last.
    """
    # An export pads always, by 0 where the sizes agree: its graph is for all sizes.
    if not torch.compiler.is_exporting() and not start and x.shape[-2:] == size:
        return x
    bottom, right = (n + start - cells for n, cells in zip(size, x.shape[-2:], strict=True))
    return F.pad(x, (-start, right, -start, bottom))
