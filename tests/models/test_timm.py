"""timm as a source of backbones and weights; all of it is skipped where timm is not installed."""

import sys

import pytest
import torch
from conftest import agree, build_network
from test_backbones import assert_dilation_is_exact, count, make, random_statistics

from segframe.errors import UserError
from segframe.models.backbones.timm import centres

timm = pytest.importorskip("timm", reason="timm is not installed")
SAFETENSORS = pytest.importorskip("safetensors.torch")


@pytest.mark.parametrize("stride", [8, 32])
def test_xception_equals_timms(stride, tmp_path):
    """Its state dict, with the classifier, is loaded from a file; maps agree at odd sizes."""
    torch.manual_seed(0)
    theirs = random_statistics(timm.create_model("xception65", output_stride=stride))
    torch.save(theirs.state_dict(), tmp_path / "xception65.pth")
    ours = make(
        "xception65", f"backbone.weights={tmp_path / 'xception65.pth'}", f"backbone.output_stride={stride}"
    ).eval()
    assert count(ours) == count(theirs) - count(theirs.head)
    seen = {}
    theirs.stem.register_forward_hook(lambda _, __, output: seen.update(c1=output.clone()))
    theirs.blocks[1].stack.conv2.register_forward_hook(lambda _, __, output: seen.update(c2=output.clone()))
    theirs.blocks[1].register_forward_hook(lambda _, __, output: seen.update(c3=output.clone()))
    theirs.blocks[18].register_forward_hook(lambda _, __, output: seen.update(c4=output.clone()))
    images = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        seen["c5"] = theirs.forward_features(images)
        maps = ours(images)
    assert maps.keys() == seen.keys()
    for name, found in maps.items():
        agree(found, seen[name])


@pytest.mark.parametrize(
    ("variant", "stride", "suffix"),
    [
        ("mobilenetv2_100", 16, "pth"),  # modules keep their names in timm's feature extractor
        ("convnext_atto", 32, "safetensors"),  # stages.0 is stages_0
        ("cspnext_tiny", 32, "pth"),  # stages.0 is model.stages.0
    ],
)
def test_files_of_classifiers_are_loaded(variant, stride, suffix, tmp_path):
    torch.manual_seed(1)
    source = random_statistics(timm.create_model(variant))
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(source.state_dict(), path)
    else:
        SAFETENSORS.save_file(source.state_dict(), path)
    backbone = make(
        "timm", f"backbone.variant={variant}", f"backbone.weights={path}", f"backbone.output_stride={stride}"
    ).eval()
    images = torch.rand(1, 3, 64, 96)
    step = 32 // stride
    with torch.no_grad():
        found, expected = backbone(images)["c5"][..., ::step, ::step], source.forward_intermediates(images)[1][-1]
    agree(found, expected)


def test_files_that_do_not_fit_are_refused_by_timm_backbones(tmp_path):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(UserError, match=r"has no tensor conv_stem\.weight"):
        make("mobilenetv2", f"backbone.weights={tmp_path / 'resnet18.pth'}")
    (tmp_path / "x.safetensors").write_bytes(b"none")
    with pytest.raises(UserError, match=r"x\.safetensors cannot be read as a \.safetensors file"):
        make("mobilenetv2", f"backbone.weights={tmp_path / 'x.safetensors'}")


@pytest.mark.parametrize(
    ("name", "weights", "asked"),
    [
        ("mobilenetv2", "imagenet", "mobilenetv2_100.ra_in1k"),
        ("convnext_tiny", "in12k", "convnext_tiny.in12k"),
        ("xception41", "imagenet", "xception41.tf_in1k"),
    ],
)
def test_weights_by_name_are_timms(name, weights, asked, monkeypatch):
    """By the error that names them offline."""
    create = timm.create_model

    def offline(model, pretrained=False, **options):
        if pretrained:
            raise ConnectionError(f"no network for {model}")
        return create(model, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with torch.device("meta"), pytest.raises(UserError) as caught:
        make(name, f"backbone.weights={weights}")
    assert f"backbone.weights={weights}: cannot get timm's {asked} (no network for {asked});" in str(caught.value)


def test_weights_by_name_are_loaded(monkeypatch):
    create = timm.create_model
    source = random_statistics(create("xception41"))
    monkeypatch.setattr(timm, "create_model", lambda model, pretrained=False: source)
    backbone = make("xception41", "backbone.weights=imagenet")
    assert torch.equal(backbone.blocks[3].stack.conv1.conv_dw.weight, source.blocks[3].stack.conv1.conv_dw.weight)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["variant=resnet50x"], r"backbone\.variant=resnet50x: timm has no such model; did you mean .*resnet50"),
        (["variant=resnet18", "weights=mine"], r"weights=mine: neither a file nor weights of timm's resnet18.*a1_in1k"),
        (["variant=resnet18", "output_stride=4"], r"output_stride=4: timm cannot dilate resnet18.*output_stride=32"),
        (["variant=resnet18", "output_stride=5"], "output_stride must be 4, 8, 16 or 32, got 5"),
        (["variant=vit_tiny_patch16_224"], r"each half the size .* have the strides \[16, 16, 16\]"),
        (["variant=nextvit_small", "output_stride=16"], r"output_stride=16: timm cannot dilate"),
        (["variant=maxvit_nano_rw_256"], r"for images of any size; it fails for one of \(97, 50\)"),
    ],
)
def test_unsupported_models_are_refused(overrides, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        make("timm", *(f"backbone.{word}" for word in overrides))


def test_without_timm_the_error_names_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match=r"variant=mobilenetv2_100 needs timm, which is not installed: pip install 'segframe"
    ):
        make("mobilenetv2")


@pytest.mark.parametrize(
    ("words", "classes", "parameters"),
    [
        # 58.16M in MobileNetV2's Table 7: ResNet-101 with three 3x3 convolutions as stem.
        ("backbone=timm backbone.variant=resnet101s head=deeplabv3 head.final_conv=false", 21, 58_164_437),
        # 48.97M in mmsegmentation's table: ResNet-50 with such a stem, auxiliary head, 19 classes.
        ("backbone=timm backbone.variant=resnet50c head=pspnet aux_head=fcn", 19, 48_975_494),
    ],
)
def test_networks_have_the_published_number_of_parameters(words, classes, parameters):
    with torch.device("meta"):
        assert count(build_network(*words.split(), classes=classes)) == parameters


SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("convnext_atto", "efficientnet_b0", "mobilenetv3_large_100")
]


@pytest.mark.parametrize("variant", ["pvt_v2_b0", *SLOW])
def test_pyramid_heads_read_timms_backbones(variant):
    with torch.device("meta"):
        for head in ("pspnet", "upernet", "segformer_mlp"):
            words = ("backbone=timm", f"backbone.variant={variant}", f"head={head}", "head.output_stride=32")
            network = build_network(*words, classes=150).eval()
            assert network(torch.empty(1, 3, 97, 70)).shape == (1, 150, 97, 70)
    if variant == "pvt_v2_b0":  # of the same maps as SegFormer-B0's, whose decoder has 0.4M parameters (Table 1)
        assert count(network.head) == 433_302


def test_dilation_of_resnets_is_exact():
    torch.manual_seed(0)
    plain = make("timm", "backbone.variant=resnet50", "backbone.output_stride=32")
    plain = random_statistics(plain).double()
    dilated = make("timm", "backbone.variant=resnet50", "backbone.output_stride=8").double().eval()
    assert_dilation_is_exact(dilated, plain, (63, 95))


@pytest.mark.parametrize(
    ("variant", "offsets"),
    [
        ("convnext_atto", [1.5, 3.5, 7.5, 15.5]),
        ("densenet121", [0.0, 0.0, 2.0, 6.0, 14.0]),
        ("resnet26d", [0.0, 0.0, 0.0, 0.0, 0.0]),
        pytest.param("nf_resnet50", [0.0, 0.0, 0.0, 0.0, 0.0], marks=pytest.mark.slow),
        ("tf_efficientnet_b0", [0.0, 0.0, 0.0, 0.0, 0.0]),
        ("pvt_v2_b0", [0.0, 0.0, 0.0, 0.0]),  # strided convolutions within attention make keys, no maps
        ("mambaout_femto", [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_offsets(variant, offsets):
    with torch.device("meta"):
        backbone = make("timm", f"backbone.variant={variant}", "backbone.output_stride=32")
    assert [feature.offset for feature in backbone.features.values()] == offsets


def test_offsets_are_where_the_gradient_lies():
    """With equal positive weights and nothing nonlinear, a cell's gradient is centred on the cell."""
    net = timm.create_model("convnext_atto", features_only=True).double().eval()
    for parent in list(net.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
            elif not list(layer.children()) and not isinstance(layer, torch.nn.Linear):
                setattr(parent, name, torch.nn.Identity())
    with torch.device("meta"):
        offsets = centres(timm.create_model("convnext_atto", features_only=True).eval())
    images = torch.zeros(1, 3, 32, 1024, dtype=torch.float64, requires_grad=True)
    for stride, found in zip(net.feature_info.reduction(), net(images), strict=True):
        cell = found.shape[-1] // 2
        (gradient,) = torch.autograd.grad(found[0, :, 0, cell].sum(), images, retain_graph=True)
        profile = gradient.sum((0, 1, 2))
        centre = (profile * torch.arange(1024)).sum() / profile.sum()
        assert centre.item() == pytest.approx(offsets[stride] + cell * stride, abs=0.05)


def test_norms_of_maps():
    torch.manual_seed(0)
    words = ("backbone.variant=convnext_atto", "backbone.output_stride=32")
    plain, normed = make("timm", *words).eval(), make("timm", *words, "backbone.map_norm=true").eval()
    normed.net.load_state_dict(plain.net.state_dict())
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for found, x in zip(normed(images).values(), plain(images).values(), strict=True):
            mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
            agree(found, (x - mean) / (variance + 1e-5).sqrt())


def test_upernet_on_convnext_has_the_published_number_of_parameters():
    """60M in Table 4 of ConvNeXt (2022), with an auxiliary head of 256 channels on c4."""
    with torch.device("meta"):
        network = build_network("backbone=convnext_tiny", "backbone.map_norm=true", "head=upernet", classes=150)
    auxiliary = 384 * 256 * 9 + 2 * 256 + 256 * 150 + 150
    assert round((count(network) + auxiliary) / 1e6) == 60
