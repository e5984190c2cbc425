"""Aligned Xception-41, -65 and -71: Xception (Chollet, 2017) as modified for DeepLabV3+ (Chen et al., 2018, Fig. 4)."""

import itertools
from collections import OrderedDict

from torch import Tensor, nn

from segframe.models.backbones.base import Backbone, Feature, stage_strides
from segframe.models.weights.pretrained import load_strictly, require_variant, timm_state

ENTRY = {  # channels and stride of the entry flow's blocks
    "xception41": [(128, 2), (256, 2), (728, 2)],
    "xception65": [(128, 2), (256, 2), (728, 2)],
    "xception71": [(128, 2), (256, 1), (256, 2), (728, 1), (728, 2)],
}
MIDDLE = {"xception41": 8, "xception65": 16, "xception71": 16}  # blocks of the middle flow


class Xception(Backbone):
    """Aligned Xception with timm's layer names (its xception41, 65 and 71).

    c1 (64 channels) is the stem; c2 (256) is DeepLabV3+'s low-level feature: the second separable convolution of the
    block from stride 4 to 8, after batch norm, before ReLU; c3 (256; 728 in Xception-71) and c4 (728) are the last
    blocks at strides 8 and 16, before ReLU; c5 (2048) is the exit flow, after ReLU.

    A block's stride is in its third separable convolution: where it is removed, dilation begins with the next block, as
    in the official code. At output stride 16 only the last block is dilated, by 2.
    """

    def __init__(
        self, variant: str, weights: str | None, output_stride: int, lr_multiplier: float, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.lr_multiplier = lr_multiplier
        require_variant(variant, tuple(ENTRY))
        strides = stage_strides(output_stride)
        self.stem = nn.Sequential(conv_bn_relu(in_channels, 32, stride=2), conv_bn_relu(32, 64, stride=1))
        self.blocks = nn.ModuleList()
        self.ends: dict[int, str] = {}
        """Indices of the blocks that halve the resolution, and the stage before each."""
        self.features = {}
        channels, dilation = 64, 1
        for widths, stride in block_plan(variant):
            if stride == 2:
                k = len(self.ends) + 1
                self.ends[len(self.blocks)] = f"c{k}"
                # Odd kernels with symmetric padding: cell 0 of every stage is centred on pixel 0.
                self.features[f"c{k}"] = Feature(widths[1] if k == 2 else channels, strides[k - 1], 0.0)
            removed = stride == 2 and 2 ** (len(self.ends) + 1) > output_stride
            self.blocks.append(Block(channels, widths, stride, removed, dilation))
            dilation *= 2 if removed else 1
            channels = widths[2]
        self.blocks.append(Block(channels, (1536, 1536, 2048), 1, False, dilation, last=True))
        self.features["c5"] = Feature(2048, strides[4], 0.0)
        if weights is None:
            initialize(self)
        else:
            state = timm_state(variant, weights, imagenet="tf_in1k")
            load_strictly(self, state, weights, tuple(ENTRY), lambda name: Xception(name, None, 32, 1.0))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return c1 (stride 2) ... c5 of images (N, C, H, W)."""
        maps: dict[str, Tensor] = {}
        x = self.stem(images)
        for index, block in enumerate(self.blocks):
            entering = x
            second, x = self.run(block, entering)
            if index in self.ends:
                name = self.ends[index]
                maps[name] = second if name == "c2" else entering
        return maps | {"c5": x}


class Block(nn.Module):
    """Residual block of three ReLU and separable convolution pairs; the third has the stride, unless `removed`.

    `last`: that of the exit flow, without a shortcut, and with ReLUs after its convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, int, int],
        stride: int,
        removed: bool,
        dilation: int,
        last: bool = False,
    ) -> None:
        super().__init__()
        step = 1 if removed else stride
        self.shortcut: nn.Module | None = None if last else nn.Identity()
        if not last and (stride != 1 or in_channels != widths[2]):
            conv = nn.Conv2d(in_channels, widths[2], 1, stride=step, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, bn=batch_norm(widths[2])))
        self.stack = nn.Sequential()
        for k, (before, after) in enumerate(itertools.pairwise((in_channels, *widths)), 1):
            if not last:
                # Not in place on the block's input, which the shortcut reads, nor on the second output, perhaps c2.
                self.stack.add_module(f"act{k}", nn.ReLU(inplace=k == 2))
            self.stack.add_module(f"conv{k}", separable(before, after, step if k == 3 else 1, dilation, relu=last))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs of the second separable convolution and of the block for a map (N, C, H, W)."""
        two = len(self.stack) * 2 // 3
        second = self.stack[:two](x)
        third = self.stack[two:](second)
        return second, third if self.shortcut is None else third + self.shortcut(x)


def block_plan(variant: str) -> list[tuple[tuple[int, int, int], int]]:
    """Return the channels of the three separable convolutions and the stride of every block but the last."""
    same = [*ENTRY[variant], *[(728, 1)] * MIDDLE[variant]]
    return [*(((width, width, width), stride) for width, stride in same), ((728, 1024, 1024), 2)]


def separable(in_channels: int, out_channels: int, stride: int, dilation: int, relu: bool) -> nn.Sequential:
    """Return depthwise 3x3 and 1x1 convolution, each with batch norm and, if `relu`, ReLU."""
    depthwise = nn.Conv2d(
        in_channels, in_channels, 3, stride, padding=dilation, dilation=dilation, groups=in_channels, bias=False
    )
    layers = OrderedDict[str, nn.Module](conv_dw=depthwise, bn_dw=batch_norm(in_channels))
    if relu:
        layers["act_dw"] = nn.ReLU(inplace=True)
    layers["conv_pw"] = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    layers["bn_pw"] = batch_norm(out_channels)
    if relu:
        layers["act_pw"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def conv_bn_relu(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=batch_norm(out_channels), act=nn.ReLU(inplace=True)))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return batch norm with the official code's epsilon."""
    return nn.BatchNorm2d(channels, eps=1e-3)


def initialize(module: nn.Module) -> None:
    """Initialise convolutions as the official code: normal of standard deviation 0.09, truncated at two."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.trunc_normal_(layer.weight, std=0.09, a=-0.18, b=0.18)
