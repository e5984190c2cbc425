"""U-Net, padded and unpadded: tiles, mirrored borders, crops."""

import pytest
import torch
from conftest import composed

from segframe.models.backbones.unet import UNetEncoder, mirrored
from segframe.models.build import build_segmenter
from segframe.models.heads.unet import UNet

NARROW = ["backbone.channels=[2,2,2,2,2]", "head.channels=[2,2,2,2]"]


def decoder(features, **changes):
    settings = {"reads": ["c5", "c4", "c3", "c2", "c1"], "channels": [2, 2, 2, 2], "upsampling": "transposed"}
    settings |= {"padded": False, "batch_norm": False, "align_corners": False, "lr_multiplier": 1.0}
    return UNet(features, 2, 32, **(settings | changes))


def test_tile_sizes_are_the_papers():
    """572 x 572 pixels in, 388 x 388 out, through the paper's sizes (Figure 1)."""
    encoder = UNetEncoder([2] * 5, padded=False, batch_norm=False, dropout=0.0, lr_multiplier=1.0)
    assert mirrored(torch.zeros(1, 3, 388, 388)).shape == (1, 3, 572, 572)
    maps = encoder(torch.rand(1, 3, 388, 388))
    assert [m.shape[-1] for m in maps.values()] == [568, 280, 136, 64, 28]
    head = decoder(encoder.features)
    assert head.crops == [4, 16, 40, 88]
    assert head.begin == 0
    assert head(maps, (388, 388)).values.shape == (1, 2, 388, 388)


@pytest.mark.parametrize("size", [1, 2, 31, 32, 100])
def test_mirroring_equals_numpys_reflection(size):
    import numpy as np

    line = torch.rand(1, 1, size, 40)
    found = mirrored(line)
    assert found.shape[2] % 16 == 124 % 16
    assert found.shape[2] - 184 >= size
    expected = np.pad(line.numpy(), ((0, 0), (0, 0), (92, found.shape[2] - size - 92), (0, 0)), mode="reflect")
    assert torch.equal(found[..., 92 : 92 + 40], torch.from_numpy(expected))


def test_unpadded_logits_do_not_depend_on_the_tile():
    """Whole cells of the coarsest map apart, two tiles agree wherever both see the same pixels."""
    torch.manual_seed(0)
    network = build_segmenter(composed("model=unet_original", *NARROW), 3).double().eval()
    image = torch.rand(1, 3, 420, 300, dtype=torch.float64) * 255
    with torch.no_grad():
        whole, part = network(image), network(image[:, :, 16:, 32:])
    inside = (..., slice(100, 200), slice(100, 160))
    torch.testing.assert_close(whole[:, :, 16:, 32:][inside], part[inside])


@pytest.mark.parametrize(("upsampling", "stride"), [("transposed", 4), ("bilinear", 8), ("nearest_conv", 32)])
def test_upsampling_modes_at_any_stride(upsampling, stride):
    with torch.device("meta"):
        network = build_segmenter(
            composed("backbone=resnet18", "head=unet", f"head.upsampling={upsampling}", f"head.output_stride={stride}"),
            3,
        )
        assert network(torch.empty(1, 3, 61, 90)).shape == (1, 3, 61, 90)
