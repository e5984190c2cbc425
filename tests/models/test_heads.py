"""Contract of every head in configs/head on every family of backbones; the papers' geometry and counts."""

import functools
import re

import pytest
import torch
import torch.nn.functional as F
from conftest import OWN_BACKBONE, build_network, composed, options
from test_backbones import BACKBONES

from segframe.config.instantiate import instantiate
from segframe.errors import UserError
from segframe.models.logits import Logits
from segframe.models.segmenter import Normalize, Segmenter

HEADS = options("head")
SIZES = [(32, 32), (33, 47), (64, 101), (97, 50), (200, 131)]


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def why_not(backbone, head):
    """What a pair that cannot work is told; null for all the others."""
    if head == "segnet" and backbone != "vgg16_bn_indices":
        return "head=segnet needs the positions|this head reads c1"
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
        network = instantiate(config.backbone, "backbone").eval()
        return network, {size: network(torch.empty(2, 3, *size)) for size in SIZES}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("head", HEADS)
def test_every_backbone_goes_with_every_head(backbone, head):
    node = composed(f"head={head}").head
    network, maps = maps_of(backbone, node.output_stride)
    with torch.device("meta"):
        make_head = instantiate(node, "head")
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


@pytest.mark.parametrize("head", HEADS)
def test_gradients_reach_the_first_convolution(head):
    torch.manual_seed(0)
    backbone, small = OWN_BACKBONE.get(head, ("resnet18", []))
    aux = "none" if backbone == "unet_original" else "fcn"
    segmenter = build_network(f"backbone={backbone}", *small, f"head={head}", f"aux_head={aux}", classes=3)
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
        (["model=deeplabv3plus"], 26_696_133),
        (["model=deeplabv3plus", "head.separable=false"], 40_352_181),
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
        assert count(build_network(*overrides)) == parameters


@pytest.mark.parametrize(("classes", "parameters"), [(11, 29_449_355), (12, 29_449_932)])
def test_segnets_parameters_at_other_numbers_of_classes(classes, parameters):
    with torch.device("meta"):
        assert count(build_network("model=segnet", classes=classes)) == parameters


def test_aspp_survives_a_batch_of_one():
    segmenter = build_network("backbone=resnet18", "head=deeplabv3plus", classes=3).train()
    assert segmenter(torch.rand(1, 3, 64, 64)).isfinite().all()


def test_rates_follow_the_output_stride():
    with torch.device("meta"):
        for stride, rates in ((8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])):
            aspp = build_network("model=deeplabv3", f"head.output_stride={stride}").head.aspp
            assert [aspp.convs[k][0].dilation[0] for k in (1, 2, 3)] == rates


@pytest.mark.parametrize("head", HEADS)
def test_score_layers_are_those_that_depend_on_the_classes(head):
    backbone, small = OWN_BACKBONE.get(head, ("resnet18", []))
    with torch.device("meta"):
        five, seven = (
            build_network(f"backbone={backbone}", *small, f"head={head}", "aux_head=none", classes=n) for n in (5, 7)
        )
    before, after = five.state_dict(), seven.state_dict()
    assert {name for name in before if before[name].shape != after[name].shape} == {
        name for name in before if name.startswith(five.score_layers)
    }


def test_a_missing_map_is_named():
    with pytest.raises(UserError, match="this head reads c6; the backbone offers c1, c2, c3, c4, c5"):
        build_network("head=fcn", "head.reads=c6")


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
            assert build_network(*words)(torch.empty(1, 3, 70, 90)).shape == (1, 21, 70, 90)
            assert build_network(*words).outputs(torch.empty(1, 3, 70, 90))["main"].aligned_stride == stride


def test_classes_are_the_argmax_of_the_full_logits():
    logits = Logits(torch.randn(2, 5, 7, 9), (31, 40), aligned_stride=None)
    assert torch.equal(logits.classes(), logits.full().argmax(1).to(torch.uint8))
