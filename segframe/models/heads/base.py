"""The contract of a head: named feature maps in, logits at the head's own stride out."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.backbones.base import Feature
from segframe.models.logits import Logits
from segframe.models.ops.atrous_conv import AtrousConv2d


class Head(nn.Module, ABC):
    """Maps a backbone's maps to Logits; built as Head(features, num_classes, output_stride, *own settings).

    `output_stride` is the stride the head was designed for; backbones follow it.
    `lr_multiplier` scales the optimizer's learning rate for the parameters of this part.
    """

    lr_multiplier: float
    score_layers: tuple[str, ...] = ("classifier.",)
    """How the names of the parameters begin that belong to single classes: worthless for other ones."""
    crops_overhang = False
    """Whether logits are cut out by the maps' coordinates (FCN); all others resize, so maps must not overhang."""

    @abstractmethod
    def forward(self, maps: dict[str, Tensor], size: tuple[int, int]) -> Logits:
        """The logits for images of this (H, W)."""


def require(features: dict[str, Feature], *names: str) -> list[Feature]:
    """The features a head reads; fails where the backbone does not offer one."""
    for name in names:
        if name not in features:
            raise UserError(f"this head reads {name}; the backbone offers {', '.join(features)}")
    return [features[name] for name in names]


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int, dilation: int = 1, separable: bool = False
) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU, size kept; separable: depthwise and 1x1, each with its own pair."""
    padding = dilation * (kernel // 2)
    conv = AtrousConv2d if dilation > 1 else nn.Conv2d
    if separable:
        depthwise = conv(
            in_channels, in_channels, kernel, padding=padding, dilation=dilation, groups=in_channels, bias=False
        )
        return nn.Sequential(
            depthwise, nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True), *conv_bn_relu(in_channels, out_channels, 1)
        )
    return nn.Sequential(
        conv(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
