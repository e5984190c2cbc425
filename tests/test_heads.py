"""Contract of every head in configs/head on every family of backbones; the papers' geometry and counts."""

import functools
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import composed, options
from test_backbones import BACKBONES

from segframe import build
from segframe.backbones.base import Feature
from segframe.errors import UserError
from segframe.heads.base import Logits
from segframe.heads.fcn import FCN, bilinear_kernel
from segframe.segmenter import Normalize, Segmenter

HEADS = options("head")
SIZES = [(32, 32), (33, 47), (64, 101), (97, 50), (200, 131)]


def make(*overrides, classes=21):
    return build.build_segmenter(composed(*overrides), classes)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def why_not(backbone, head):
    """What a pair that cannot work is told; null for all the others."""
    if head == "segnet" and backbone != "vgg16_bn_indices":
        return "head=segnet puts maxima back|this head reads c1"
    if head == "deeplabv2_vgg16" and not backbone.startswith("vgg16_aspp"):
        return "this head reads fc7_|this backbone continues the image"
    if head == "unet_original" and backbone != "unet_original":
        return "head.padded=false needs a backbone that mirrors"
    if backbone.endswith("_original") and not re.match(r"fcn\d|unet_original", head):
        return "only FCN's skip heads and unet_original crop"
    return None


@functools.cache
def maps_of(backbone, output_stride):
    """A backbone and its maps at every size, made once for all heads of a stride."""
    config = composed(f"backbone={backbone}")
    config.head.output_stride = output_stride
    with torch.device("meta"):
        network = build.build(config.backbone, "backbone").eval()
        return network, {size: network(torch.empty(2, 3, *size)) for size in SIZES}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("head", HEADS)
def test_every_backbone_goes_with_every_head(backbone, head):
    node = composed(f"head={head}").head
    network, maps = maps_of(backbone, node.output_stride)
    with torch.device("meta"):
        make_head = build.build(node, "head")
        reason = why_not(backbone, head)
        if reason:
            with pytest.raises(UserError, match=reason):
                Segmenter(network, make_head(network.features, 5), None, Normalize([0.0] * 3, [1.0] * 3))
            return
        segmenter = Segmenter(network, make_head(network.features, 5), None, Normalize([0.0] * 3, [1.0] * 3)).eval()
        for size in SIZES:
            logits = segmenter.head(maps[size], size)
            assert logits.size == size
            assert logits.values.shape[:2] == (2, 5)
            assert logits.full().shape == (2, 5, *size)


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("head", ["fcn32s", "fcn16s", "fcn8s"])
@pytest.mark.parametrize("backbone", ["resnet18", "vgg11", "vgg16_fc", "vgg16_fc_original"])
def test_skip_decoder_reads_dilated_backbones_too(backbone, head, stride):
    with torch.device("meta"):
        segmenter = make(f"backbone={backbone}", f"head={head}", f"backbone.output_stride={stride}", classes=3)
        for size in SIZES:
            assert segmenter(torch.empty(1, 3, *size)).shape == (1, 3, *size)


# Heads that need a backbone of their own, made small.
OWN_BACKBONE = {
    "segnet": ("vgg16_bn_indices", []),
    "unet_original": ("unet_original", ["backbone.channels=[4,8,8,8,8]", "backbone.dropout=0"]),
    "deeplabv2_vgg16": ("vgg16_aspp", ["backbone.fc_channels=16", "backbone.dropout=0"]),
}


@pytest.mark.parametrize("head", HEADS)
def test_gradients_reach_the_first_convolution(head):
    torch.manual_seed(0)
    backbone, small = OWN_BACKBONE.get(head, ("resnet18", []))
    aux = "none" if backbone == "unet_original" else "fcn"
    segmenter = make(f"backbone={backbone}", *small, f"head={head}", f"aux_head={aux}", classes=3)
    optimizer = torch.optim.SGD((p for p in segmenter.parameters() if p.requires_grad), lr=0.1)
    for _ in range(2):  # zero-initialised score layers pass nothing on in the first step
        optimizer.zero_grad()
        outputs = segmenter.outputs(torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8))
        assert set(outputs) == {"main", "aux"} - ({"aux"} if aux == "none" else set())
        F.cross_entropy(outputs["main"].full(), torch.randint(0, 3, (2, 48, 48))).backward()
        optimizer.step()
    first = next(segmenter.backbone.parameters())
    assert first.ndim == 4
    assert first.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("model", "parameters"),
    [("fcn8s", 134_489_759), ("fcn8s-atonce", 134_489_759), ("fcn16s", 134_815_994), ("fcn32s", 136_152_917)],
)
@pytest.mark.parametrize("form", ["", "_original"])
def test_fcn_has_the_published_number_of_parameters(model, form, parameters):
    with torch.device("meta"):
        assert count(make(f"model={model}{form}")) == parameters


@pytest.mark.parametrize(("model", "parameters"), [("fcn8s", 33_826_463), ("fcn32s", 35_489_621)])
def test_fc6_as_1x1(model, parameters):
    with torch.device("meta"):
        assert count(make(f"model={model}", "backbone.fc6_kernel=1")) == parameters


@pytest.mark.parametrize(
    ("overrides", "parameters"),
    [
        (["head.separable=false"], 40_352_181),
        (["head.separable=true"], 26_696_133),
        (["head.separable=false", "head.num_convs=1"], 39_761_845),
    ],
)
def test_deeplabv3plus_has_the_published_number_of_parameters(overrides, parameters):
    with torch.device("meta"):
        assert count(make("model=deeplabv3plus", *overrides)) == parameters


@pytest.mark.parametrize(
    ("overrides", "parameters"),
    [
        (["model=fcn_alexnet"], 58_704_590),
        (["model=fcn_alexnet_original"], 58_704_590),
        (["model=deeplabv1"], 20_505_429),
        (["model=deeplabv2_vgg16"], 37_877_652),
        (["model=deeplabv2_vgg16_s"], 37_877_652),
        (["model=deeplabv2"], 44_048_532),
        (["model=deeplabv3"], 39_638_869),
        (["model=deeplabv3", "aux_head=fcn"], 42_004_074),
        (["model=deeplabv3", "backbone=resnet101"], 58_630_997),
        (["backbone=resnet50", "head=deeplabv3_paper"], 39_048_533),
        (["backbone=resnet101", "head=deeplabv3_paper"], 58_040_661),
        (["backbone=resnet50", "head=deeplabv3plus_vainf"], 39_761_845),
        (["backbone=resnet101", "head=deeplabv3plus_vainf"], 58_753_973),
        (["backbone=resnet101", "head=deeplabv3plus", "head.separable=false"], 59_344_309),
        (["backbone=resnet101", "head=deeplabv3plus"], 45_688_261),
        (["backbone=resnet50", "head=fcn", "aux_head=fcn"], 35_322_218),
        (["model=unet"], 31_038_933),
        (["model=unet_bilinear"], 17_264_277),
        (["model=unet_original"], 31_033_045),
        (["model=segnet"], 29_455_125),
    ],
)
def test_published_numbers_of_parameters(overrides, parameters):
    with torch.device("meta"):
        assert count(make(*overrides)) == parameters


@pytest.mark.parametrize(("classes", "parameters"), [(11, 29_449_355), (12, 29_449_932)])
def test_segnets_parameters_at_other_numbers_of_classes(classes, parameters):
    with torch.device("meta"):
        assert count(make("model=segnet", classes=classes)) == parameters


def vgg_original_sizes(n):
    """Map sizes of the papers' VGG for an image side n."""
    n += 198
    sizes = []
    for _ in range(5):
        n = -(-n // 2)
        sizes.append(n)
    return {"c3": sizes[2], "c4": sizes[3], "c5": sizes[4] - 6}


@pytest.mark.parametrize("reads", [["c5"], ["c5", "c4"], ["c5", "c4", "c3"]])
def test_original_fcn_gives_full_size_for_every_size(reads):
    """The sizes of maps, crops and transposed convolutions by exact arithmetic, and published crop offsets."""
    with torch.device("meta"):
        backbone = build.build(composed("model=fcn8s_original").backbone, "backbone")
        head = FCN(backbone.features, 1, 32, reads, "none", 1.0)
    offsets = {1: [(19, 0)], 2: [(0, 5), (27, 0)], 3: [(0, 5), (0, 9), (31, 0)]}
    assert head.crops == offsets[len(reads)]
    for n in range(1, 3001):
        sizes = vgg_original_sizes(n)
        size = sizes["c5"]
        for k, deconv in enumerate(head.upscore):
            size = (size - 1) * deconv.stride[0] + deconv.kernel_size[0]
            own, other = head.crops[k]
            if k + 1 < len(reads):
                assert sizes[reads[k + 1]] - other >= size, f"skip too small at {n}"
            else:
                assert size - own >= n, f"image not covered at {n}"


def test_fcn_alexnet_is_cropped_as_released():
    """A 63x63 kernel and a crop at 18, and the whole image is covered at every size."""
    with torch.device("meta"):
        network = make("model=fcn_alexnet_original", "backbone.fc_channels=1", classes=2)
        assert network.head.upscore[0].kernel_size == (63, 63)
        assert network.head.crops == [(18, 0)]
        for n in (32, 37, 224, 500):
            c5 = network.backbone(torch.empty(1, 3, n, n))["c5"].shape[-1]
            assert (c5 - 1) * 32 + 63 - 18 >= n


def test_map_sizes_of_the_original_are_as_computed():
    with torch.device("meta"):
        backbone = build.build(composed("model=fcn8s_original").backbone, "backbone")
        for n in (1, 37, 64, 500):
            maps = backbone(torch.empty(1, 3, n, n))
            assert {key: maps[key].shape[-1] for key in ("c3", "c4", "c5")} == vgg_original_sizes(n)


@pytest.mark.parametrize(
    "backbone", ["vgg11", "resnet18", "vgg16_fc", "vgg16_fc_original", "alexnet_fc", "alexnet_fc_original"]
)
def test_skip_decoder_places_scores_where_their_cells_lie(backbone):
    """A ramp over the image's coordinates, given as maps, comes out as the same ramp."""
    size = 160
    with torch.device("meta"):
        features = build.build(composed(f"backbone={backbone}", "head.output_stride=32").backbone, "backbone")
        shapes = {key: m.shape for key, m in features(torch.empty(1, 3, size, size)).items()}
        features = features.features
    head = FCN({k: Feature(1, f.stride, f.offset) for k, f in features.items()}, 1, 32, ["c5", "c4", "c3"], "none", 1.0)
    for layer in head.score.values():
        torch.nn.init.ones_(layer.weight)
    maps = {}
    for key in ("c3", "c4", "c5"):
        line = torch.arange(shapes[key][-1]) * features[key].stride + features[key].offset
        maps[key] = line.expand(1, 1, shapes[key][-2], -1)
    found = head(maps, (size, size)).values[0, 0, size // 2, 40:-40]
    torch.testing.assert_close(found, 3 * torch.arange(40.0, size - 40.0), rtol=1e-4, atol=1e-3)


def test_upsampling_weights():
    head = FCN({"c5": Feature(4, 32, 15.5), "c4": Feature(4, 16, 7.5)}, 3, 32, ["c5", "c4"], "intermediate", 1.0)
    first, last = head.upscore
    assert first.weight.shape == (3, 3, 4, 4)
    assert last.weight.shape == (3, 3, 32, 32)
    assert (first.weight.requires_grad, last.weight.requires_grad) == (True, False)
    assert first.weight[0, 1].abs().sum() == 0
    torch.testing.assert_close(first.weight[1, 1], bilinear_kernel(4))
    np.testing.assert_allclose(bilinear_kernel(4)[0], np.array([0.25, 0.75, 0.75, 0.25]) * 0.25)
    np.testing.assert_allclose(bilinear_kernel(3)[1], [0.5, 1.0, 0.5])
    assert all(layer.weight.abs().sum() == 0 for layer in head.score.values())


def test_aspp_survives_a_batch_of_one():
    segmenter = make("backbone=resnet18", "head=deeplabv3plus", classes=3).train()
    assert segmenter(torch.rand(1, 3, 64, 64)).isfinite().all()


def test_rates_follow_the_output_stride():
    with torch.device("meta"):
        for stride, rates in ((8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])):
            aspp = make("model=deeplabv3", f"head.output_stride={stride}").head.aspp
            assert [aspp.convs[k][0].dilation[0] for k in (1, 2, 3)] == rates


@pytest.mark.parametrize("head", HEADS)
def test_score_layers_are_those_that_depend_on_the_classes(head):
    backbone, small = OWN_BACKBONE.get(head, ("resnet18", []))
    with torch.device("meta"):
        five, seven = (make(f"backbone={backbone}", *small, f"head={head}", "aux_head=none", classes=n) for n in (5, 7))
    before, after = five.state_dict(), seven.state_dict()
    assert {name for name in before if before[name].shape != after[name].shape} == {
        name for name in before if name.startswith(five.score_layers)
    }


def test_a_missing_map_is_named():
    with pytest.raises(UserError, match="this head reads c6; the backbone offers c1, c2, c3, c4, c5"):
        make("head=fcn", "head.reads=c6")


def test_the_coarsest_map_comes_first():
    with pytest.raises(UserError, match=r"head\.reads must name the coarsest map first, got c3, c5"):
        make("head=fcn8s", "head.reads=[c3,c5]")


@pytest.mark.parametrize("size", [321, 366, 375, 500])
@pytest.mark.parametrize("stride", [4, 8, 16])
def test_aligned_cells_lie_on_their_pixels_at_every_size(size, stride):
    """A ramp over the image's coordinates, read at the cells, comes out as the same ramp up to the last cell."""
    cells = -(-size // stride)
    ramp = torch.arange(0.0, cells * stride, stride).expand(1, 1, 5, cells)
    full = Logits(ramp, (30, size), stride).full()
    last = (cells - 1) * stride
    torch.testing.assert_close(full[0, 0, 7, : last + 1], torch.arange(0.0, last + 1), rtol=1e-5, atol=1e-3)
    assert (full[..., last:] == last).all()
    if last + 1 == size:  # the crops that these recipes train with
        torch.testing.assert_close(
            full[..., :1, :], F.interpolate(ramp, (1, size), mode="bilinear", align_corners=True)
        )


def test_heads_align_to_the_stride_of_what_they_read():
    with torch.device("meta"):
        for words, stride in (
            (["model=deeplabv1"], 8),
            (["model=deeplabv3", "head.align_corners=true"], 8),
            (["model=deeplabv3plus", "head.align_corners=true"], 4),
            (["backbone=resnet18", "head=unet", "head.align_corners=true"], 2),
            (["model=deeplabv3"], None),
        ):
            assert make(*words)(torch.empty(1, 3, 70, 90)).shape == (1, 21, 70, 90)
            assert make(*words).outputs(torch.empty(1, 3, 70, 90))["main"].aligned_stride == stride


def test_classes_are_the_argmax_of_the_full_logits():
    logits = Logits(torch.randn(2, 5, 7, 9), (31, 40), aligned_stride=None)
    assert torch.equal(logits.classes(), logits.full().argmax(1).to(torch.uint8))
