"""Networks for images of any number of channels: adapted pretrained weights, explicit errors."""

import pytest
import torch
from conftest import build_network, composed
from test_backbones import TIMM, make
from torchvision.models import resnet18

from segframe.analysis.model_counts import summarize
from segframe.errors import UserError
from segframe.models.weights.pretrained import adapt_channels


def test_weights_are_repeated_in_turn_and_scaled():
    weight = torch.randn(2, 3, 1, 1)
    red, green, blue = weight.unbind(1)
    found = adapt_channels(weight, torch.empty(2, 4, 1, 1))
    assert torch.equal(found, torch.stack([red, green, blue, red], 1) * 0.75)
    assert torch.equal(adapt_channels(weight, torch.empty(2, 1, 1, 1))[:, 0], red + green + blue)
    for own in (None, weight, torch.empty(2, 3)):
        assert adapt_channels(weight, own) is weight


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet18", 1), ("resnet18", 6), pytest.param("mobilenetv2", 6, marks=TIMM)]
)
def test_adapted_networks_see_in_grey_what_they_saw(name, channels, tmp_path):
    """Equal channels give the maps of the pretrained network."""
    if name == "resnet18":
        network = resnet18()
    else:
        import timm

        network = timm.create_model("mobilenetv2_100")
    path = tmp_path / "weights.pt"
    torch.save(network.state_dict(), path)
    plain, adapted = (
        make(name, f"data.channels={c}", f"backbone.weights={path}", "backbone.output_stride=32").eval()
        for c in (3, channels)
    )
    grey = torch.randn(1, 1, 64, 64)
    expected, found = plain(grey.expand(-1, 3, -1, -1)), adapted(grey.expand(-1, channels, -1, -1))
    for key, values in expected.items():
        torch.testing.assert_close(found[key], values, rtol=1e-3, atol=1e-4)


def test_normalize_has_a_number_per_channel():
    numbers = ["normalize.mean=[1,2,3,4]", "normalize.std=[1,2,3,4]", "data.channels=4"]
    segmenter = build_network(*numbers).eval()
    assert segmenter.channels == 4
    images = torch.full((1, 4, 2, 3), 5.0)
    assert segmenter.normalize(images)[0, :, 1, 2].tolist() == [4, 1.5, pytest.approx(2 / 3), 0.25]
    with pytest.raises(UserError, match=r"data.channels=4: normalize.mean=\[123.675.*check_data.py"):
        build_network("data.channels=4")
    with pytest.raises(UserError, match=r"normalize.bgr=true: 4 channels are no RGB; set normalize.bgr=false"):
        build_network(*numbers, "normalize.bgr=true")


def test_summary_counts_the_first_convolution_of_the_channels():
    """A 7x7 kernel for each of ResNet's 64 filters and each channel; at stride 2 in an image of 64x64."""
    size = "size=64"
    rgb, grey = (
        summarize(composed(size, *words, name="summary"), 5)
        for words in ((), ("data.channels=1", "normalize.mean=[1]", "normalize.std=[1]"))
    )
    assert rgb.total - grey.total == 2 * 64 * 49
    assert rgb.flops - grey.flops == 2 * (2 * 64 * 49) * 32**2
