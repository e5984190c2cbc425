"""ResNet-18 ... 152 (He et al., 2016) as torchvision builds them, or in the form of their Caffe release."""

from pathlib import Path

from torch import Tensor, nn
from torchvision.models import get_model

from segframe.errors import UserError
from segframe.models.backbones.base import Backbone, Feature, dilate, set_channels, stage_strides
from segframe.models.weights.pretrained import load_strictly, require_variant, torchvision_state

VARIANTS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class ResNet(Backbone):
    """ResNet with torchvision's layer names; c1 is the stem, c2 ... c5 are layer1 ... layer4.

    `caffe_form`: strides are in the first 1x1 convolution of a block and pooling rounds up (DeepLab v2's networks);
    otherwise in the 3x3 ("V1.5"). `multi_grid`: dilations of layer4's 3x3 convolutions per block, in units of its
    spacing, (1, 2, 4) in DeepLabV3 (Chen et al., 2017, Table 5); null: the exactly dilated network.
    """

    def __init__(
        self,
        variant: str,
        weights: str | None,
        output_stride: int,
        lr_multiplier: float,
        caffe_form: bool = False,
        multi_grid: list[int] | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.lr_multiplier = lr_multiplier
        require_variant(variant, VARIANTS)
        net = get_model(variant, weights=None)
        set_channels(net.conv1, in_channels)
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        if caffe_form and weights is not None and not Path(weights).is_file():
            raise UserError(
                f"backbone.weights={weights}: torchvision's weights have their strides in the 3x3 convolutions; a "
                "backbone of caffe_form=true takes a file of Caffe's under torchvision's names, or null: from scratch"
            )
        if weights is not None:
            load_strictly(self, torchvision_state(variant, weights), weights, VARIANTS, get_model)
        if caffe_form:
            if variant in ("resnet18", "resnet34"):
                raise UserError(
                    f"backbone.caffe_form=true needs bottleneck blocks, which {variant} lacks: resnet50 or deeper"
                )
            self.maxpool.ceil_mode = True
            for layer in (self.layer2, self.layer3, self.layer4):
                block = layer[0]
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
        width = net.fc.in_features
        strides = stage_strides(output_stride)
        channels = [64, width // 8, width // 4, width // 2, width]
        # Odd kernels with symmetric padding: cell 0 of every stage is centred on pixel 0.
        self.features = {f"c{k}": Feature(channels[k - 1], strides[k - 1], 0.0) for k in range(1, 6)}
        for k, layer in zip((3, 4, 5), (self.layer2, self.layer3, self.layer4), strict=True):
            if 2**k > output_stride:
                keep_resolution(layer, spacing=2 ** (k - 1) // output_stride)
        if multi_grid is not None:
            if len(multi_grid) != len(self.layer4):
                raise UserError(f"backbone.multi_grid needs {len(self.layer4)} entries for {variant}, got {multi_grid}")
            for block, unit in zip(self.layer4, multi_grid, strict=True):
                for conv in block.modules():
                    if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                        conv.dilation = conv.padding = (unit * 32 // output_stride,) * 2

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return c1 (stride 2) ... c5 of images (N, C, H, W)."""
        c1 = self.relu(self.bn1(self.conv1(images)))
        maps, x = {"c1": c1}, self.maxpool(c1)
        for k, layer in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=2):
            for block in layer:
                x = self.run(block, x)
            maps[f"c{k}"] = x
        return maps


def keep_resolution(stage: nn.Module, spacing: int) -> None:
    """Remove a stage's stride and dilate its convolutions after that point, exactly."""
    for layer in stage.modules():
        if isinstance(layer, nn.Conv2d):
            strided = layer.stride == (2, 2)
            layer.stride = (1, 1)
            dilate(layer, spacing if strided else 2 * spacing)
