"""SegNet's decoder: max unpooling and the other upsampling modes."""

import pytest
import torch
from conftest import composed
from torch import nn

from segframe.models.build import build_segmenter


def test_values_are_unpooled_to_the_positions_of_the_maxima():
    """Without convolutions, the head leaves each channel of c5 at the pixels that the encoder's poolings chose."""
    torch.manual_seed(0)
    network = build_segmenter(composed("model=segnet", "backbone.variant=vgg11_bn"), 5).eval()
    network.head.conv = nn.ModuleList(FirstChannels(width) for width in (512, 256, 128, 64, 64))
    with torch.no_grad():
        maps = network.backbone(torch.rand(1, 3, 45, 70))
        found = network.head(maps, (45, 70)).values
    c5 = maps["c5"][0, :64]
    expected = torch.zeros(64, 45, 70)
    for channel, i, j in torch.cartesian_prod(*map(torch.arange, c5.shape)).tolist():
        place = (i, j)
        for k in (5, 4, 3, 2, 1):
            # An index is flat over the map that was pooled.
            width = maps[f"c{k - 1}"].shape[-1] if k > 1 else 70
            place = divmod(int(maps[f"i{k}"][0, channel, place[0], place[1]]), width)
        expected[channel, place[0], place[1]] = c5[channel, i, j]
    assert torch.equal(found[0], expected)
    assert found.count_nonzero() > 0


class FirstChannels(nn.Module):
    """Returns the first channels, as many as the next stage's indices have."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        return x[:, : self.width]


@pytest.mark.parametrize(
    ("backbone", "upsampling"),
    [("resnet18", "transposed"), pytest.param("vgg11", "bilinear", marks=pytest.mark.slow), ("unet", "nearest_conv")],
)
def test_other_upsampling_modes_need_no_indices(backbone, upsampling):
    with torch.device("meta"):
        network = build_segmenter(composed(f"backbone={backbone}", "head=segnet", f"head.upsampling={upsampling}"), 3)
        for size in ((33, 50), (64, 64)):
            assert network(torch.empty(2, 3, *size)).shape == (2, 3, *size)
