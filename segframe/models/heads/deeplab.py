"""DeepLabV3 (Chen et al., 2017) and DeepLabV3+ (Chen et al., 2018)."""

import torch
from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.backbones.base import Feature
from segframe.models.heads.base import ConvOfMeans, Head, conv_bn_relu, require
from segframe.models.logits import Logits, resize
from segframe.models.ops.memory_format import memory_format

WIDTH = 256  # channels of ASPP and decoder in both papers
LOW_LEVEL_WIDTH = 48  # DeepLabV3+ paper, Table 1


class DeepLabV3(Head):
    """ASPP on c5 and a 1x1 classifier, logits at c5's stride (Chen et al., 2017).

    `rates`: ASPP's dilations at the head's `output_stride`; None: the paper's. `final_conv`: torchvision's 3x3
    convolution before the classifier, which the paper does not have. `channels`, `fusion_kernel`: see ASPP.
    """

    def __init__(
        self,
        features: dict[str, Feature],
        num_classes: int,
        output_stride: int,
        rates: list[int] | None,
        dropout: float,
        final_conv: bool,
        align_corners: bool,
        lr_multiplier: float,
        channels: int = WIDTH,
        fusion_kernel: int = 1,
    ) -> None:
        super().__init__()
        self.lr_multiplier = lr_multiplier
        (c5,) = require(features, "c5")
        self.aligned_stride = c5.stride if align_corners else None
        reach = dilations(rates, output_stride, c5.stride)
        self.aspp = ASPP(c5.channels, channels, reach, dropout, False, fusion_kernel)
        self.conv = conv_bn_relu(channels, channels, 3) if final_conv else nn.Identity()
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: dict[str, Tensor], size: tuple[int, int]) -> Logits:
        return Logits(self.classifier(self.conv(self.aspp(maps["c5"]))), size, self.aligned_stride)


class DeepLabV3Plus(Head):
    """ASPP on c5, upsampled and concatenated with c2 projected to 48 channels, then `num_convs` 3x3 and a classifier.

    Logits at c2's stride (Chen et al., 2018, Figure 2). `separable`: depthwise separable 3x3 convolutions. `channels`:
    of ASPP and decoder. `fusion_kernel`: see ASPP.
    """

    def __init__(
        self,
        features: dict[str, Feature],
        num_classes: int,
        output_stride: int,
        rates: list[int] | None,
        dropout: float,
        separable: bool,
        num_convs: int,
        align_corners: bool,
        lr_multiplier: float,
        channels: int = WIDTH,
        fusion_kernel: int = 1,
    ) -> None:
        super().__init__()
        self.lr_multiplier = lr_multiplier
        c2, c5 = require(features, "c2", "c5")
        self.aligned_stride = c2.stride if align_corners else None
        self.context_factor = c5.stride // c2.stride if align_corners else None
        reach = dilations(rates, output_stride, c5.stride)
        self.aspp = ASPP(c5.channels, channels, reach, dropout, separable, fusion_kernel)
        self.project = conv_bn_relu(c2.channels, LOW_LEVEL_WIDTH, 1)
        self.decoder = nn.Sequential(
            *(
                conv_bn_relu(channels if k else channels + LOW_LEVEL_WIDTH, channels, 3, separable=separable)
                for k in range(num_convs)
            )
        )
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: dict[str, Tensor], size: tuple[int, int]) -> Logits:
        low_level = self.project(maps["c2"])
        size_of_c2 = (low_level.shape[-2], low_level.shape[-1])
        context = resize(self.aspp(maps["c5"]), size_of_c2, self.context_factor)
        x = self.decoder(torch.cat([low_level, context], dim=1))
        return Logits(self.classifier(x), size, self.aligned_stride)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1, dilated 3x3 convolutions and image pooling, fused by a 1x1 convolution.

    Chen et al., 2017, Figure 5. `fusion_kernel`: 3 in mmsegmentation, which fuses by a 3x3 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rates: list[int],
        dropout: float,
        separable: bool,
        fusion_kernel: int = 1,
    ) -> None:
        super().__init__()
        if fusion_kernel not in (1, 3):
            raise UserError(f"head.fusion_kernel={fusion_kernel}: it must be 1 or 3")
        self.convs = nn.ModuleList(
            [
                conv_bn_relu(in_channels, out_channels, 1),
                *(conv_bn_relu(in_channels, out_channels, 3, rate, separable) for rate in rates),
                ImagePooling(in_channels, out_channels),
            ]
        )
        self.project = conv_bn_relu(len(self.convs) * out_channels, out_channels, fusion_kernel)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, h, w) to (N, out_channels, h, w)."""
        return self.dropout(self.project(torch.cat([conv(x) for conv in self.convs], dim=1)))


class ImagePooling(ConvOfMeans):
    """Global average pooling, 1x1 convolution, batch norm and ReLU, expanded to the size of the map."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, h, w) to (N, out_channels, h, w)."""
        # Not AdaptiveAvgPool2d: its backward is not deterministic on CUDA.
        # Channels last, so that the gradient is.
        means = x.permute(0, 2, 3, 1).mean((1, 2))
        pooled = super().forward(means[..., None, None])
        return pooled.expand(-1, -1, *x.shape[-2:]).contiguous(memory_format=memory_format(x))


def dilations(rates: list[int] | None, output_stride: int, stride: int) -> list[int]:
    """Return dilations for a map of `stride` with the reach, in pixels, of `rates` at the head's `output_stride`.

    `rates` None: the papers' (6, 12, 18) at stride 16, doubled at 8.
    """
    if rates is None:
        rates, output_stride = [6, 12, 18], 16
    return [max(1, rate * output_stride // stride) for rate in rates]
