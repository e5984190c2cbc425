"""Contract of every backbone in configs/backbone; exact dilation; weights."""

import pytest
import torch
from conftest import composed, options
from torchvision.models import resnet18, vgg16

from segframe import build
from segframe.errors import UserError

BACKBONES = options("backbone")
# A backbone that cannot dilate has no output_stride to set.
STRIDES = [
    (name, stride)
    for name in BACKBONES
    for stride in ((4, 8, 16, 32) if "output_stride" in composed(f"backbone={name}").backbone else (None,))
]


def make(name, *overrides):
    return build.build(composed(f"backbone={name}", *overrides).backbone, "backbone")


@pytest.mark.parametrize(("name", "stride"), STRIDES)
def test_maps_are_as_described(name, stride):
    size = (97, 64)
    with torch.device("meta"):
        backbone = make(name, *([f"backbone.output_stride={stride}"] if stride else []))
        maps = backbone(torch.empty(1, 3, *size))
    assert maps.keys() == backbone.features.keys()
    previous = 1
    for key, feature in backbone.features.items():
        assert maps[key].shape[1] == feature.channels
        assert feature.stride >= previous
        previous = feature.stride
        if feature.offset >= 0 and min(f.offset for f in backbone.features.values()) >= 0:
            assert list(maps[key].shape[-2:]) == [-(-n // feature.stride) for n in size]
    assert stride in (None, backbone.features["c5"].stride)


@pytest.mark.parametrize("size", [(63, 95), (64, 33)])
@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11_bn", "vgg16_fc"])
def test_dilation_is_exact(name, stride, size):
    torch.manual_seed(0)
    small = ("backbone.fc_channels=8",) if name == "vgg16_fc" else ()
    plain = make(name, "backbone.output_stride=32", *small).double().eval()
    dilated = make(name, f"backbone.output_stride={stride}", *small).double().eval()
    dilated.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        expected, found = plain(images), dilated(images)
    for key in expected:
        step = plain.features[key].stride // dilated.features[key].stride
        torch.testing.assert_close(found[key][..., ::step, ::step], expected[key])
        assert dilated.features[key].offset == plain.features[key].offset


def dilations(stage):
    return [
        layer.dilation[0]
        for layer in stage.modules()
        if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (3, 3)
    ]


def test_dilations_are_torchvisions():
    with torch.device("meta"):
        stride16, stride8 = make("resnet50", "backbone.output_stride=16"), make("resnet50", "backbone.output_stride=8")
    assert dilations(stride16.layer4) == [1, 2, 2]
    assert dilations(stride8.layer3) == [1, 2, 2, 2, 2, 2]
    assert dilations(stride8.layer4) == [2, 4, 4]


def test_a_local_resnet_file_is_loaded(tmp_path):
    torch.manual_seed(1)
    source = resnet18().eval()
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    backbone = make("resnet18", f"backbone.weights={tmp_path / 'resnet18.pth'}", "backbone.output_stride=32").eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(source.fc(backbone(images)["c5"].mean((2, 3))), source(images), rtol=1e-5, atol=1e-5)


def test_fc6_and_fc7_carry_the_classifier(tmp_path):
    torch.manual_seed(1)
    source = vgg16().eval()
    torch.save(source.state_dict(), tmp_path / "vgg16.pth")
    backbone = make(
        "vgg16_fc",
        f"backbone.weights={tmp_path / 'vgg16.pth'}",
        "backbone.output_stride=32",
        "backbone.fc6_padded=false",
    ).eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        fc7 = backbone(images)["c5"]
        assert fc7.shape == (1, 4096, 1, 1)
        torch.testing.assert_close(source.classifier[6](fc7.flatten(1)), source(images), rtol=1e-5, atol=1e-5)


def test_unknown_weights_are_told(tmp_path):
    with pytest.raises(UserError, match=r"neither a file nor weights of torchvision's resnet18.*IMAGENET1K_V1"):
        make("resnet18", "backbone.weights=IMAGENET")
    (tmp_path / "x.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"x\.pth cannot be read"):
        make("resnet18", f"backbone.weights={tmp_path / 'x.pth'}")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "y.pth")
    with pytest.raises(UserError, match=r"has no tensor 'conv1\.weight'"):
        make("resnet18", f"backbone.weights={tmp_path / 'y.pth'}")


def test_weights_that_cannot_be_downloaded_say_where_to_put_them(monkeypatch):
    from urllib.error import URLError

    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(UserError, match=r"cannot download .*resnet18-f37072fd\.pth .*put the file into .*checkpoints"):
        make("resnet18", "backbone.weights=IMAGENET1K_V1")


def test_output_stride_is_checked():
    with pytest.raises(UserError, match="output_stride must be 4, 8, 16 or 32, got 5"):
        make("resnet18", "backbone.output_stride=5")
