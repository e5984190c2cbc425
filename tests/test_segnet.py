"""SegNet: maxima go back to where they were, sizes are kept."""

import pytest
import torch
from conftest import composed
from torch import nn

from segframe import build
from segframe.errors import UserError


def test_maxima_go_back_to_where_they_were():
    """Unpooling leaves each value at the pixel it was taken from, and what it was taken from is a maximum."""
    torch.manual_seed(0)
    small = ["backbone.variant=vgg11_bn", "head.depths=[1,1,1,1,1]"]
    network = build.build_segmenter(composed("model=segnet", *small), 5).eval()
    maps = network.backbone(torch.rand(1, 3, 45, 70))
    x, expected = maps["c5"], None
    sizes = [*(maps[f"c{k}"].shape[-2:] for k in (4, 3, 2, 1)), (45, 70)]
    for k, size in zip((5, 4, 3, 2, 1), sizes, strict=True):
        width = maps[f"i{k}"].shape[1]
        x = x[:, :width]
        expected = torch.zeros(1, width, size[0] * size[1])
        expected.scatter_(2, maps[f"i{k}"].flatten(2), x.flatten(2))
        found = nn.functional.max_unpool2d(x, maps[f"i{k}"], 2, output_size=size)
        assert torch.equal(found, expected.view(1, width, *size))
        x = found
    assert network.head(maps, (45, 70)).values.shape == (1, 5, 45, 70)
    # The indices are those of the maxima: what they point to is what pooling found.
    before = network.backbone.layers[:3](torch.rand(1, 3, 45, 70))
    pooled, indices = nn.functional.max_pool2d(before, 2, ceil_mode=True, return_indices=True)
    assert torch.equal(before.flatten(2).gather(2, indices.flatten(2)), pooled.flatten(2))


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear", "nearest_conv"])
@pytest.mark.parametrize("backbone", ["resnet18", "vgg11", "unet"])
def test_other_ways_up_need_no_indices(backbone, upsampling):
    with torch.device("meta"):
        network = build.build_segmenter(
            composed(f"backbone={backbone}", "head=segnet", f"head.upsampling={upsampling}"), 3
        )
        for size in ((33, 50), (64, 64)):
            assert network(torch.empty(2, 3, *size)).shape == (2, 3, *size)


def test_what_segnet_needs_is_told():
    with pytest.raises(UserError, match="pooling_indices=true tells: backbone=vgg16_bn_indices"):
        build.build_segmenter(composed("backbone=vgg16_bn", "head=segnet"), 3)
    with pytest.raises(UserError, match=r"needs backbone\.output_stride=32.*got 8"):
        build.build_segmenter(composed("model=segnet", "backbone.output_stride=8"), 3)
    with pytest.raises(UserError, match=r"head\.depths must be five numbers"):
        build.build_segmenter(composed("model=segnet", "head.depths=[3,3]"), 3)
