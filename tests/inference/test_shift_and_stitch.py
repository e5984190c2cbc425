"""Shift-and-stitch against the network with dilation instead of the last strides."""

import gc
import weakref

import pytest
import torch
from conftest import build_network, composed
from small_networks import images
from torch import nn

from segframe.errors import UserError
from segframe.inference import ShiftAndStitch, WholeImage
from segframe.inference.network import logit_stride
from segframe.models.backbones.base import Backbone, Feature
from segframe.models.build import build_backbone
from segframe.models.heads.base import Head
from segframe.models.logits import Logits
from segframe.models.segmenter import Normalize, Segmenter


class Unpadded(Backbone):
    """Three unpadded convolutions and two poolings, the last `dilated` of which are replaced by dilation."""

    def __init__(self, dilated):
        super().__init__()
        self.lr_multiplier = 1.0
        layers, channels, spacing = [], 3, 1
        for k in range(3):
            layers += [nn.Conv2d(channels, 8, 3, dilation=spacing), nn.Tanh()]
            if k < 2:
                dense = k >= 2 - dilated
                layers.append(nn.MaxPool2d(2, stride=1 if dense else 2, dilation=spacing))
                spacing *= 2 if dense else 1
            channels = 8
        self.layers = nn.Sequential(*layers)
        self.features = {"c5": Feature(8, 4 // spacing, 0.0)}

    def forward(self, batch):
        return {"c5": self.layers(batch)}


class ScoreHead(Head):
    """A 1x1 convolution."""

    def __init__(self, channels, aligned_stride):
        super().__init__()
        self.score = nn.Conv2d(channels, 3, 1)
        self.aligned_stride = aligned_stride

    def forward(self, maps, size):
        return Logits(self.score(maps["c5"]), size, self.aligned_stride)


def pair_of_networks(*backbones):
    """Networks of a coarse and a dilated backbone with the same weights."""
    torch.manual_seed(0)
    pair = []
    for backbone in backbones:
        head = ScoreHead(*backbone.features["c5"][:2])
        pair.append(Segmenter(backbone, head, None, Normalize([120.0] * 3, [60.0] * 3)).eval())
    pair[1].load_state_dict(pair[0].state_dict())
    return pair


@pytest.mark.parametrize(("factor", "size"), [(1, (64, 64)), (2, (61, 47)), (4, (50, 83))])
def test_equals_the_dilated_network(factor, size):
    coarse, dense = pair_of_networks(Unpadded(0), Unpadded({1: 0, 2: 1, 4: 2}[factor]))
    with torch.inference_mode():
        found = ShiftAndStitch(factor)(coarse, images(*size, n=2))
        expected = WholeImage()(dense, images(*size, n=2))
    assert (found.size, found.aligned_stride) == (expected.size, expected.aligned_stride)
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=1e-5)


def test_padded_network_differs_at_the_upper_and_left_border_only():
    words = ("backbone.output_stride=32", "backbone.output_stride=16")
    backbones = [build_backbone(composed("backbone=vgg11", word)) for word in words]
    coarse, dense = pair_of_networks(*backbones)
    with torch.inference_mode():
        found = ShiftAndStitch(2)(coarse, images(225, 243)).values
        expected = WholeImage()(dense, images(225, 243)).values
    assert found.shape == expected.shape == (1, 3, 15, 16)
    assert not torch.allclose(found[..., :4, :4], expected[..., :4, :4], atol=1e-3)
    torch.testing.assert_close(found[..., 4:, 4:], expected[..., 4:, 4:])


@pytest.mark.parametrize(("head", "stride"), [("fcn", 32), ("deeplabv3plus", 4)])
def test_image_sizes_that_the_stride_does_not_divide(head, stride):
    torch.manual_seed(0)
    segmenter = build_network("backbone=resnet18", f"head={head}", "backbone.output_stride=32", classes=3).eval()
    with torch.inference_mode():
        for height, width in ((32, 45), (3, 33)):
            found = ShiftAndStitch(4)(segmenter, images(height, width))
            assert found.values.shape[-2:] == (-(-height * 4 // stride), -(-width * 4 // stride))
            assert found.size == (height, width)
            assert torch.equal(found.values[..., ::4, ::4], WholeImage()(segmenter, images(height, width)).values)
    assert logit_stride(segmenter) == stride


def test_a_network_is_freed_with_its_last_reference():
    network, _ = pair_of_networks(Unpadded(0), Unpadded(0))
    ShiftAndStitch(2)(network, images())
    found = weakref.ref(network)
    del network
    gc.collect()
    assert found() is None


def test_errors():
    coarse, _ = pair_of_networks(Unpadded(0), Unpadded(0))
    with pytest.raises(UserError, match=r"inference\.factor=3: it does not divide the stride of this network, 4"):
        ShiftAndStitch(3)(coarse, images())
    with pytest.raises(UserError, match="choose a head with coarse logits"):
        ShiftAndStitch(2)(build_network("backbone=resnet18", "head=fcn32s", classes=3), images())
    with pytest.raises(UserError, match=r"inference\.factor=0: it must be 1 or more"):
        ShiftAndStitch(0)
