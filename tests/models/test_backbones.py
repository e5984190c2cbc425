"""Contract of every backbone in configs/backbone; exact dilation; weights."""

import sys
from importlib.util import find_spec

import pytest
import torch
from conftest import composed, options
from omegaconf import OmegaConf
from torchvision.models import resnet18, vgg16

from segframe.config.instantiate import instantiate
from segframe.errors import UserError
from segframe.models.backbones import xception
from segframe.models.build import build_segmenter

TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
MOBILENET = pytest.param("mobilenetv2", marks=TIMM)
BACKBONES = [
    pytest.param(name, marks=TIMM if composed(f"backbone={name}").backbone._target_.endswith("TimmBackbone") else ())
    for name in options("backbone")
    if name != "timm"  # which names no variant
]


def can_dilate(name):
    node = composed(f"backbone={name}").backbone
    return "output_stride" in node and OmegaConf.is_interpolation(node, "output_stride")


# A backbone that cannot dilate has no output_stride, or one of its own.
STRIDES = [
    pytest.param(*backbone.values, stride, marks=backbone.marks)
    for backbone in BACKBONES
    for stride in ((4, 8, 16, 32) if can_dilate(backbone.values[0]) else (None,))
]


def make(name, *overrides):
    return instantiate(composed(f"backbone={name}", *overrides).backbone, "backbone")


def random_statistics(network):
    """Batch-norm parameters and statistics at which every layer matters, also where a library begins with zeros."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


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
            found = list(maps[key].shape[-2:])
            # Rounded up by most; down by ConvNeXt's patches and U-Net's pooling, past it by 3x3 pooling that rounds up.
            assert all(n // feature.stride <= m <= n // feature.stride + 1 for n, m in zip(size, found, strict=True))
    assert stride in (None, backbone.features["c5"].stride)


@pytest.mark.parametrize("size", [(63, 95), (64, 33)])
@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "vgg11_bn",
        "vgg16_fc",
        "xception65",
        "xception71",
        pytest.param("mobilenetv2", marks=TIMM),
    ],
)
def test_dilation_is_exact(name, stride, size, monkeypatch):
    monkeypatch.setitem(xception.MIDDLE, name, 1)  # equal blocks: one says as much as sixteen
    monkeypatch.setattr(xception, "initialize", lambda module: None)
    torch.manual_seed(0)
    small = ("backbone.fc_channels=8",) if name == "vgg16_fc" else ()
    plain = random_statistics(make(name, "backbone.output_stride=32", *small)).double()
    dilated = make(name, f"backbone.output_stride={stride}", *small).double().eval()
    assert_equal_at_every_cell_of_the_plain_one(dilated, plain, size)


def assert_equal_at_every_cell_of_the_plain_one(dilated, plain, size):
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


def test_dilations_of_the_caffe_form():
    """deeplab-pytorch's ResNet-101: all 3x3 of layer3 by 2 and of layer4 by 4, strides in the first 1x1."""
    with torch.device("meta"):
        network = make("resnet101_caffe", "backbone.output_stride=8")
        plain = make("resnet101_caffe", "backbone.output_stride=32")
    assert dilations(network.layer3) == [2] * 23
    assert dilations(network.layer4) == [4] * 3
    assert network.maxpool.ceil_mode
    assert (network.layer2[0].conv1.stride, network.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    assert (plain.layer4[0].conv1.stride, plain.layer4[0].conv2.stride) == ((2, 2), (1, 1))


@pytest.mark.parametrize(("stride", "expected"), [(32, [1, 2, 4]), (16, [2, 4, 8]), (8, [4, 8, 16])])
def test_multi_grid(stride, expected):
    with torch.device("meta"):
        network = make("resnet50", f"backbone.output_stride={stride}", "backbone.multi_grid=[1,2,4]")
        exact = make("resnet50", f"backbone.output_stride={stride}")
    assert dilations(network.layer4) == expected
    assert dilations(network.layer3) == dilations(exact.layer3)
    with pytest.raises(UserError, match=r"backbone\.multi_grid needs 3 entries for resnet50, got \[1, 2\]"):
        make("resnet50", "backbone.multi_grid=[1,2]")
    with pytest.raises(UserError, match=r"caffe_form=true needs bottleneck blocks, which resnet18 lacks"):
        make("resnet18", "backbone.caffe_form=true")


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


@pytest.mark.parametrize(
    ("name", "parameters"), [("xception41", 24_920_560), ("xception65", 37_867_312), ("xception71", 40_289_736)]
)
def test_xception_has_the_published_number_of_parameters(name, parameters):
    with torch.device("meta"):
        assert count(make(name)) == parameters


@pytest.mark.parametrize(("separable", "parameters"), [("true", 41_055_413), ("false", 54_711_461)])
def test_deeplabv3plus_on_xception65_has_the_published_number_of_parameters(separable, parameters):
    config = composed("backbone=xception65", "head=deeplabv3plus", f"head.separable={separable}")
    with torch.device("meta"):
        assert count(build_segmenter(config, 21)) == parameters


def test_xception_dilates_as_the_official_code():
    with torch.device("meta"):
        stride16, stride8 = (make("xception65", f"backbone.output_stride={stride}") for stride in (16, 8))
    assert [max(dilations(block)) for block in stride16.blocks] == [1] * 20 + [2]
    assert [max(dilations(block)) for block in stride8.blocks] == [1] * 3 + [2] * 17 + [4]


def test_weights_of_xception_that_are_not_there_are_told(tmp_path, monkeypatch):
    torch.save({"head.fc.weight": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"has no tensor 'stem\.0\.conv\.weight'"):
        make("xception41", f"backbone.weights={tmp_path / 'x.pth'}")
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in ("imagenet", "IMAGENET1K_V1", "nowhere.pth"):
        with pytest.raises(UserError, match=rf"weights={name} is no file.* of timm's xception41.*pip install"):
            make("xception41", f"backbone.weights={name}")


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
    message = r"cannot download .*resnet18-f37072fd\.pth .*put the file into .*checkpoints"
    for name in ("imagenet", "IMAGENET1K_V1"):
        with pytest.raises(UserError, match=message):
            make("resnet18", f"backbone.weights={name}")


def test_output_stride_is_checked():
    with pytest.raises(UserError, match="output_stride must be 4, 8, 16 or 32, got 5"):
        make("resnet18", "backbone.output_stride=5")
