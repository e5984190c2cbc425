"""VGG-11 ... 19 with or without batch norm (Simonyan & Zisserman, 2015), and VGG-16 with convolutional fc6, fc7."""

import itertools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model

from segframe.errors import UserError
from segframe.models.backbones.base import Backbone, Feature, dilate, set_channels, stage_strides
from segframe.models.weights.pretrained import load_strictly, require_variant, torchvision_state

log = logging.getLogger(__name__)

VARIANTS = tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))


class VGG(Backbone):
    """Convolutional part of VGG; ck is the output of the papers' pool_k.

    `pooling_indices`: also return i1 ... i5, the flat positions (over h x w) of the pooled maxima, for SegNet's head.
    """

    def __init__(
        self,
        variant: str,
        weights: str | None,
        output_stride: int,
        lr_multiplier: float,
        pooling_indices: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.lr_multiplier = lr_multiplier
        require_variant(variant, VARIANTS)
        self.layers = trunk(variant, in_channels)
        if weights is None:
            initialize(self.layers)
        else:
            load_trunk(self.layers, torchvision_state(variant, weights), weights)
        if pooling_indices:
            if output_stride != 32:
                raise UserError(
                    f"backbone.pooling_indices needs backbone.output_stride=32, where every pooling has a stride; "
                    f"got {output_stride}"
                )
            for layer in self.layers:
                if isinstance(layer, nn.MaxPool2d):
                    layer.return_indices = True
        self.features = describe(self.layers, stage_strides(output_stride), offset=0.0)
        keep_resolution(self.layers, output_stride)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return c1 (stride 2) ... c5 of images (N, C, H, W), and optionally i1 ... i5 (int64, of the same shapes)."""
        return run_stages(self.layers, images, self.run)


class VGG16FC(Backbone):
    """VGG-16 with fc6 and fc7 as convolutions, c5 = fc7, as in FCN (Long et al., 2015).

    `input_padding` is conv1_1's: 1, or the papers' 100, with which fc6 is unpadded. With `weights`, fc6 and fc7 are
    initialised from the classifier if fc6 is 7x7 with 4,096 `fc_channels`, else at random.
    """

    def __init__(
        self,
        weights: str | None,
        output_stride: int,
        input_padding: int,
        fc6_kernel: int,
        fc6_padded: bool,
        fc_channels: int,
        dropout: float,
        lr_multiplier: float,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if fc6_kernel not in (1, 3, 7):
            raise UserError(f"backbone.fc6_kernel must be 7 (the classifier's), 3 or 1, got {fc6_kernel}")
        if input_padding < 1:
            raise UserError(f"backbone.input_padding must be at least 1, got {input_padding}")
        self.lr_multiplier = lr_multiplier
        self.layers = trunk("vgg16", in_channels)
        padding = fc6_kernel // 2 if fc6_padded else 0
        self.fc6 = nn.Conv2d(512, fc_channels, fc6_kernel, padding=padding)
        self.fc7 = nn.Conv2d(fc_channels, fc_channels, 1)
        self.dropout = nn.Dropout(dropout)
        if weights is None:
            initialize(self)
        else:
            state = torchvision_state("vgg16", weights)
            load_trunk(self.layers, state, weights)
            if (fc6_kernel, fc_channels) == (7, 4096):
                load_strictly(self.fc6, as_convolution(without_prefix(state, "classifier.0."), 7), weights)
                load_strictly(self.fc7, as_convolution(without_prefix(state, "classifier.3."), 1), weights)
            else:
                log.info("fc6 and fc7 are initialised at random: pretrained weights need a 7x7 fc6 of 4,096 channels")
                initialize(nn.ModuleList([self.fc6, self.fc7]))
        self.features = describe(self.layers, stage_strides(output_stride), offset=1.0 - input_padding)
        c5 = self.features["c5"]
        self.features["c5"] = Feature(fc_channels, c5.stride, c5.offset + (fc6_kernel // 2 - padding) * 32)
        keep_resolution(self.layers, output_stride)
        dilate(self.fc6, 32 // output_stride)
        conv1_1 = self.layers[0]
        assert isinstance(conv1_1, nn.Conv2d)
        conv1_1.padding = (input_padding, input_padding)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return c1 (stride 2) ... c4 and c5 = fc7 of images (N, C, H, W)."""
        maps = run_stages(self.layers, images, self.run)
        fc6 = self.dropout(self.fc6(maps["c5"]).relu_())
        return maps | {"c5": self.dropout(self.fc7(fc6).relu_())}


def trunk(variant: str, in_channels: int) -> nn.Sequential:
    """Return torchvision's `features`, uninitialised; pooling rounds up as in Caffe: dilation is exact at odd sizes."""
    device = torch.get_default_device()
    with torch.device("meta"):
        layers = get_model(variant, weights=None, init_weights=False).features
        set_channels(layers[0], in_channels)
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    return layers.to_empty(device=device)


def load_trunk(layers: nn.Sequential, state: dict[str, Tensor], weights: str) -> None:
    load_strictly(nn.ModuleDict({"features": layers}), state, weights, VARIANTS, get_model)


def initialize(module: nn.Module) -> None:
    """Initialise as torchvision does a VGG that is trained from scratch (He et al., 2015)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()


def describe(layers: nn.Sequential, strides: list[int], offset: float) -> dict[str, Feature]:
    """Return the features of the five stages; a 2x2 pooling shifts cell 0's centre by half a cell of its input."""
    features: dict[str, Feature] = {}
    k, channels = 0, 3
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            channels = layer.out_channels
        elif isinstance(layer, nn.MaxPool2d):
            offset += 0.5 * 2**k
            k += 1
            features[f"c{k}"] = Feature(channels, strides[k - 1], offset)
            if layer.return_indices:
                features[f"i{k}"] = features[f"c{k}"]
    return features


def keep_resolution(layers: nn.Sequential, output_stride: int) -> None:
    """Remove the pooling strides beyond `output_stride` and dilate the following layers, exactly."""
    stride, spacing = 1, 1
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            dilate(layer, spacing)
        elif isinstance(layer, nn.MaxPool2d):
            stride *= 2
            if stride > output_stride:
                # The same maxima at every pixel: after a ReLU, zero padding is never above them.
                layers[index] = nn.Sequential(
                    nn.ZeroPad2d((0, spacing, 0, spacing)), nn.MaxPool2d(2, stride=1, dilation=spacing)
                )
                spacing *= 2


def run_stages(layers: nn.Sequential, x: Tensor, run: Callable[[nn.Module, Tensor], Any]) -> dict[str, Tensor]:
    """Run the trunk stage by stage and return the output of each pooling, strided or dilated."""
    maps: dict[str, Tensor] = {}
    ends = [index + 1 for index, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d | nn.Sequential)]
    for k, (start, end) in enumerate(itertools.pairwise([0, *ends]), start=1):
        x = run(layers[start:end], x)
        if isinstance(x, tuple):
            x, maps[f"i{k}"] = x
        maps[f"c{k}"] = x
    return maps


def without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def as_convolution(linear: dict[str, Tensor], kernel: int) -> dict[str, Tensor]:
    """Return a linear layer's state dict reshaped for the equivalent convolution."""
    return {
        name: tensor.reshape(tensor.shape[0], -1, kernel, kernel) if name == "weight" else tensor
        for name, tensor in linear.items()
    }
