"""DeepLab's VGG-16: sizes, dilations, and fc6 and fc7 decimated from the classifier."""

import pytest
import torch
from conftest import composed
from torchvision.models import vgg16

from segframe.models.build import build_backbone
from segframe.models.weights import pretrained


def make(*overrides):
    return build_backbone(composed(*overrides))


def test_map_sizes_are_the_releases():
    """321 -> 161 -> 81 -> 41, and no further."""
    with torch.device("meta"):
        maps = make("backbone=vgg16_aspp")(torch.empty(1, 3, 321, 321))
    assert {name: m.shape[-1] for name, m in maps.items() if name[0] == "c"} == {
        "c1": 161, "c2": 81, "c3": 41, "c4": 41, "c5": 41
    }  # fmt: skip
    assert maps["c5"].shape[1] == 4096
    assert maps["fc7_4"].shape == (1, 1024, 41, 41)


@pytest.mark.parametrize(
    ("backbone", "rates"), [("vgg16_largefov", [12]), ("vgg16_aspp", [6, 12, 18, 24]), ("vgg16_aspp_s", [2, 4, 8, 12])]
)
def test_dilations(backbone, rates):
    with torch.device("meta"):
        network = make(f"backbone={backbone}")
    conv5 = [layer.dilation[0] for layer in network.stages[4] if isinstance(layer, torch.nn.Conv2d)]
    assert conv5 == [2, 2, 2]
    assert [layer.dilation[0] for layer in network.fc6] == rates
    pools = [stage[-1] for stage in network.stages]
    assert [(pool.kernel_size, pool.stride, pool.padding) for pool in pools] == [(3, 2, 1)] * 3 + [(3, 1, 1)] * 2
    assert isinstance(network.average, torch.nn.AvgPool2d) == (backbone == "vgg16_largefov")


def test_fc6_and_fc7_are_chosen_units_of_the_classifier(tmp_path, monkeypatch):
    torch.manual_seed(1)
    state = vgg16(init_weights=False).state_dict()
    (tmp_path / "vgg16.pth").touch()
    monkeypatch.setattr(pretrained, "read_file", lambda path: state)  # half a gigabyte
    network = make("backbone=vgg16_aspp", f"backbone.weights={tmp_path / 'vgg16.pth'}", "backbone.fc_channels=4")
    torch.testing.assert_close(network.stages[4][4].weight, state["features.28.weight"])
    classifier6 = state["classifier.0.weight"].view(4096, 512, 7, 7)[:, :, ::3, ::3].flatten(1)
    choices = []
    for fc6, fc7 in zip(network.fc6, network.fc7, strict=True):
        units = [int((classifier6 == row).all(1).nonzero()) for row in fc6.weight.detach().flatten(1)]
        assert len(set(units)) == 4
        torch.testing.assert_close(fc6.bias, state["classifier.0.bias"][units])
        rows = state["classifier.3.weight"][:, units]
        outputs = [int((rows == row).all(1).nonzero()) for row in fc7.weight.detach().flatten(1)]
        torch.testing.assert_close(fc7.bias, state["classifier.3.bias"][outputs])
        choices.append(tuple(units))
    assert len(set(choices)) == 4
