"""VGG-16 of DeepLab v1 (Chen et al., 2015: LargeFOV) and v2 (Chen et al., 2018: ASPP-S, ASPP-L)."""

import torch
from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.backbones.base import Backbone, Feature
from segframe.models.backbones.vgg import as_convolution, initialize, load_trunk, trunk, without_prefix
from segframe.models.weights.pretrained import torchvision_state


class VGG16Atrous(Backbone):
    """VGG-16 at stride 8 with a branch of dilated 3x3 fc6 and 1x1 fc7 for each of `rates`.

    Pooling is 3x3 as in DeepLab's release, the last two without stride; conv5 is dilated by 2. `average_pool`: the 3x3
    average pooling after pool5 (v1 only). c5 is the concatenation of the branches' fc7; fc7_1, fc7_2, ... are the
    single branches. With `weights`, fc6 and fc7 are initialised from the classifier: `fc_channels` of its 4096 units,
    drawn at random for each rate, and every third row and column of its 7x7 kernel (v1, section 3.1; the release's
    vgg16_20M).
    """

    def __init__(
        self,
        weights: str | None,
        rates: list[int],
        fc_channels: int,
        average_pool: bool,
        dropout: float,
        lr_multiplier: float,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not rates or min(rates) < 1:
            raise UserError(f"backbone.rates must be at least one dilation of 1 or more, got {rates}")
        if not 0 < fc_channels <= 4096:
            raise UserError(f"backbone.fc_channels must lie between 1 and the classifier's 4096, got {fc_channels}")
        self.lr_multiplier = lr_multiplier
        layers = atrous_stages(trunk("vgg16", in_channels))
        self.stages = nn.ModuleList(layers)
        self.average = nn.AvgPool2d(3, stride=1, padding=1) if average_pool else nn.Identity()
        self.fc6 = nn.ModuleList(nn.Conv2d(512, fc_channels, 3, padding=rate, dilation=rate) for rate in rates)
        self.fc7 = nn.ModuleList(nn.Conv2d(fc_channels, fc_channels, 1) for _ in rates)
        self.dropout = nn.Dropout(dropout)
        if weights is None:
            initialize(self)
        else:
            state = torchvision_state("vgg16", weights)
            sequential = nn.Sequential(*(layer for stage in layers for layer in stage))
            load_trunk(sequential, state, weights)
            fc6 = as_convolution(without_prefix(state, "classifier.0."), 7)
            fc7 = as_convolution(without_prefix(state, "classifier.3."), 1)
            for first, second in zip(self.fc6, self.fc7, strict=True):
                load_decimated(first, second, fc6, fc7)
        # 3x3 poolings with symmetric padding: cell 0 of every stage is centred on pixel 0.
        channels = [64, 128, 256, 512, fc_channels * len(rates)]
        self.features = {f"c{k}": Feature(channels[k - 1], min(2**k, 8), 0.0) for k in range(1, 6)}
        self.features |= {f"fc7_{k}": Feature(fc_channels, 8, 0.0) for k in range(1, len(rates) + 1)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return c1 (stride 2), c2 (4), c3, c4, c5 and fc7_1, fc7_2, ... (8) of images (N, C, H, W)."""
        maps, x = {}, images
        for k, stage in enumerate(self.stages, start=1):
            maps[f"c{k}"] = x = self.run(stage, x)
        x = self.average(x)
        branches = [
            self.dropout(fc7(self.dropout(fc6(x).relu_())).relu_()) for fc6, fc7 in zip(self.fc6, self.fc7, strict=True)
        ]
        maps["c5"] = torch.cat(branches, dim=1) if len(branches) > 1 else branches[0]
        return maps | {f"fc7_{k}": branch for k, branch in enumerate(branches, start=1)}


def atrous_stages(layers: nn.Sequential) -> list[nn.Sequential]:
    """Return the five stages of VGG-16's trunk with DeepLab's pooling and dilation."""
    stages: list[nn.Sequential] = []
    stage: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            stride = 2 if len(stages) < 3 else 1
            stage.append(nn.MaxPool2d(3, stride=stride, padding=1, ceil_mode=True))
            stages.append(nn.Sequential(*stage))
            stage = []
            continue
        if isinstance(layer, nn.Conv2d) and len(stages) == 4:
            layer.dilation = layer.padding = (2, 2)
        stage.append(layer)
    return stages


def load_decimated(fc6: nn.Module, fc7: nn.Module, fc6_state: dict[str, Tensor], fc7_state: dict[str, Tensor]) -> None:
    """Copy randomly chosen units of the classifier, and every third row and column of its 7x7 kernel."""
    assert isinstance(fc6, nn.Conv2d)
    assert isinstance(fc7, nn.Conv2d)
    width = fc6.out_channels
    units = torch.randperm(4096)[:width]
    outputs = torch.randperm(4096)[:width]
    with torch.no_grad():
        fc6.weight.copy_(fc6_state["weight"][units][:, :, ::3, ::3])
        fc7.weight.copy_(fc7_state["weight"][outputs][:, units])
        for layer, state, chosen in ((fc6, fc6_state, units), (fc7, fc7_state, outputs)):
            assert layer.bias is not None
            layer.bias.copy_(state["bias"][chosen])
