"""Every backbone in configs/backbone: maps as described, exact dilation, pretrained weights."""

import sys
from importlib.util import find_spec

import pytest
import torch
from conftest import composed, options
from omegaconf import OmegaConf
from torchvision.models import resnet18, vgg16

from segframe.errors import UserError
from segframe.models.backbones import xception
from segframe.models.build import build_backbone
from segframe.models.weights import pretrained

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


# Strides in turn; a backbone that cannot dilate has no output_stride, or one of its own.
STRIDES = [
    pytest.param(
        *backbone.values, (4, 8, 16, 32)[k % 4] if can_dilate(backbone.values[0]) else None, marks=backbone.marks
    )
    for k, backbone in enumerate(BACKBONES)
]


def make(name, *overrides):
    return build_backbone(composed(f"backbone={name}", *overrides))


def random_statistics(network):
    """Random batch norm, so that every layer matters, also where a library initialises with zeros."""
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
        backbone = make(name, "data.channels=5", *([f"backbone.output_stride={stride}"] if stride else []))
        maps = backbone(torch.empty(1, 5, *size))
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


@pytest.mark.parametrize(
    ("name", "stride", "size"),
    [
        pytest.param("resnet18", 4, (63, 95), marks=pytest.mark.slow),
        ("resnet18", 16, (64, 33)),
        ("resnet50", 8, (63, 95)),
        ("vgg11_bn", 4, (64, 33)),
        ("vgg16_fc", 8, (63, 95)),
        ("xception65", 8, (63, 95)),
        pytest.param("xception71", 4, (64, 33), marks=pytest.mark.slow),
        pytest.param("mobilenetv2", 8, (64, 33), marks=TIMM),
    ],
)
def test_dilation_is_exact(name, stride, size, monkeypatch):
    monkeypatch.setitem(xception.MIDDLE, name, 1)  # one of sixteen equal blocks
    monkeypatch.setattr(xception, "initialize", lambda module: None)
    torch.manual_seed(0)
    small = ("backbone.fc_channels=8",) if name == "vgg16_fc" else ()
    plain = random_statistics(make(name, "backbone.output_stride=32", *small)).double()
    dilated = make(name, f"backbone.output_stride={stride}", *small).double().eval()
    assert_dilation_is_exact(dilated, plain, size)


def assert_dilation_is_exact(dilated, plain, size):
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


def test_a_local_resnet_file_is_loaded(tmp_path):
    torch.manual_seed(1)
    source = resnet18().eval()
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    backbone = make("resnet18", f"backbone.weights={tmp_path / 'resnet18.pth'}", "backbone.output_stride=32").eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(source.fc(backbone(images)["c5"].mean((2, 3))), source(images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_fc6_and_fc7_carry_the_classifier(tmp_path, monkeypatch):
    torch.manual_seed(1)
    source = vgg16(init_weights=False).eval()
    (tmp_path / "vgg16.pth").touch()
    monkeypatch.setattr(pretrained, "read_file", lambda path: source.state_dict())  # half a gigabyte
    words = (f"backbone.weights={tmp_path / 'vgg16.pth'}", "backbone.output_stride=32", "backbone.fc6_padded=false")
    backbone = make("vgg16_fc", *words).eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        fc7 = backbone(images)["c5"]
        assert fc7.shape == (1, 4096, 1, 1)
        torch.testing.assert_close(source.classifier[6](fc7.flatten(1)), source(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("resnet18", b"not a checkpoint", r"x\.pth cannot be read"),
        ("resnet18", {"fc.weight": torch.zeros(3)}, r"has no tensor conv1\.weight"),
        ("xception41", {"head.fc.weight": torch.zeros(3)}, r"has no tensor stem\.0\.conv\.weight"),
        ("alexnet_fc", {"conv1.bias": torch.zeros(96)}, r"has no tensor conv1\.weight"),
    ],
)
def test_files_that_do_not_fit_are_refused(name, content, message, tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=message):
        make(name, f"backbone.weights={path}")


def test_unknown_weights_are_refused(monkeypatch):
    with pytest.raises(UserError, match=r"neither a file nor weights of torchvision's resnet18.*IMAGENET1K_V1"):
        make("resnet18", "backbone.weights=IMAGENET")
    with pytest.raises(UserError, match=r"weights=nowhere.pth: there is no such file.*null to train from scratch"):
        make("alexnet_fc", "backbone.weights=nowhere.pth")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"weights=imagenet is no file.* of timm's xception41.*pip install"):
        make("xception41", "backbone.weights=imagenet")


def test_offline_the_error_names_file_and_folder(monkeypatch):
    from urllib.error import URLError

    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    message = r"cannot download .*resnet18-f37072fd\.pth .*put the file into .*checkpoints"
    for name in ("imagenet", "IMAGENET1K_V1"):
        with pytest.raises(UserError, match=message):
            make("resnet18", f"backbone.weights={name}")


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("resnet18", "output_stride=5", "output_stride must be 4, 8, 16 or 32, got 5"),
        ("resnet50", "multi_grid=[1,2]", r"backbone\.multi_grid needs 3 entries for resnet50, got \[1, 2\]"),
        ("resnet18", "caffe_form=true", "caffe_form=true needs bottleneck blocks, which resnet18 lacks"),
        ("vgg16_fc", "fc6_kernel=5", "fc6_kernel must be 7"),
        ("vgg16_fc", "input_padding=0", "input_padding must be at least 1"),
        ("alexnet_fc", "input_padding=4", "input_padding must be at least 5"),
        ("vgg16_largefov", "fc_channels=5000", "fc_channels must lie between 1 and the classifier's 4096, got 5000"),
        ("vgg16_largefov", "rates=[]", "rates must be at least one dilation"),
        ("unet", "channels=[4]", "needs two stages at least"),
    ],
)
def test_impossible_settings_are_refused(name, words, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        make(name, f"backbone.{words}")
