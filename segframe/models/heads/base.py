"""Interface of heads: named feature maps in, logits at the head's own stride out."""

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.backbones.base import Feature
from segframe.models.logits import Logits
from segframe.models.ops.atrous_conv import AtrousConv2d
from segframe.models.ops.sync_batch_norm import is_single_value


class Head(nn.Module, ABC):
    """Abstract head; built as Head(features, num_classes, output_stride, *own settings).

    `output_stride` is the stride the head was designed for; backbones follow it.
    `lr_multiplier` scales the optimizer's learning rate for the parameters of this part.
    """

    lr_multiplier: float
    score_layers: tuple[str, ...] = ("classifier.",)
    """Prefixes of the parameters that depend on the classes; they are not copied to a network of other classes."""
    crops_overhang = False
    """Whether logits are cropped by the maps' coordinates (FCN), so that maps may reach beyond the image."""

    @abstractmethod
    def forward(self, maps: dict[str, Tensor], size: tuple[int, int]) -> Logits:
        """Return the logits for images of size (H, W)."""


def require(features: dict[str, Feature], *names: str) -> list[Feature]:
    """Return the features that a head reads; UserError if the backbone lacks one."""
    for name in names:
        if name not in features:
            raise UserError(f"this head reads {name}; the backbone offers {', '.join(features)}")
    return [features[name] for name in names]


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int, dilation: int = 1, separable: bool = False
) -> nn.Sequential:
    """Return convolution without bias, batch norm and ReLU, keeping the size.

    `separable`: a depthwise and a 1x1 convolution, each with batch norm and ReLU.
    """
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


class ConvOfMeans(nn.Module):
    """1x1 convolution without bias, batch norm and ReLU of means over regions of a map (N, C, n, n)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, means: Tensor) -> Tensor:
        """Map (N, in_channels, n, n) to (N, out_channels, n, n)."""
        x, bn = self.conv(means), self.bn
        if self.training and is_single_value(bn, x):
            # A single value per channel has no batch statistics: use the running ones.
            x = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
        else:
            x = bn(x)
        return x.relu()
