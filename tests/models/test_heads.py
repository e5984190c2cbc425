"""Every head in configs/head on different backbones; published numbers of parameters; alignment of logits."""

import re

import pytest
import torch
import torch.nn.functional as F
from conftest import OWN_BACKBONE, build_network, options
from test_backbones import BACKBONES, count

from segframe.errors import UserError
from segframe.models.logits import Logits

HEADS = options("head")


# Every backbone with a head in turn; those that extend the image, only with FCN's, which crop.
ANY = [head for head in HEADS if head not in OWN_BACKBONE]
FCNS = [head for head in ANY if re.match(r"fcn\d", head)]
PAIRS = [
    pytest.param(*backbone.values, heads[k % len(heads)], marks=backbone.marks)
    for k, backbone in enumerate(BACKBONES)
    for heads in [FCNS if backbone.values[0].endswith("_original") else ANY]
    if backbone.values[0] != "unet_original"
] + [(backbone, head) for head, (backbone, _) in OWN_BACKBONE.items()]


@pytest.mark.parametrize(("backbone", "head"), PAIRS)
def test_heads_read_any_backbone(backbone, head):
    with torch.device("meta"):
        segmenter = build_network(f"backbone={backbone}", f"head={head}", classes=5).eval()
        for size in ((32, 32), (97, 50)):
            logits = segmenter.outputs(torch.empty(2, 3, *size))["main"]
            assert logits.size == size
            assert logits.values.shape[:2] == (2, 5)
            assert logits.full().shape == (2, 5, *size)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["backbone=vgg16_bn", "head=segnet"], "head=segnet needs the positions"),
        (["backbone=alexnet_fc", "head=segnet"], "this head reads c1"),
        (["backbone=resnet50", "head=deeplabv2_vgg16"], "this head reads fc7_1; the backbone offers c1, c2"),
        (["backbone=unet", "head=unet_original"], "head.padded=false needs a backbone that mirrors"),
        (["backbone=vgg16_fc_original", "head=deeplabv3"], "only FCN's skip heads and unet_original crop"),
        (["model=fcn8s", "head.reads=[c3,c5]"], r"head\.reads must name the coarsest map first, got c3, c5"),
        (["model=fcn8s", "head.scales=[1]"], r"head\.scales needs one entry for each of head\.reads"),
        (["model=fcn8s", "head.learned=some"], r"head\.learned must be none, intermediate or all, got some"),
        (["model=deeplabv2", "head.kernel_size=2"], r"head\.kernel_size must be odd"),
        (["model=segnet", "head.depths=[3,3]"], r"head\.depths must be five numbers"),
        (["model=segnet", "backbone.output_stride=8"], r"needs backbone\.output_stride=32.*got 8"),
        (["model=unet", "head.upsampling=cubic"], "must be one of transposed, bilinear, nearest_conv, got cubic"),
        (["model=unet", "head.channels=[8,8]"], r"head\.channels has 2 entries for 4 joins"),
    ],
)
def test_what_does_not_fit_is_refused(words, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        build_network(*words)


@pytest.mark.parametrize("head", HEADS)
def test_gradients_reach_the_first_convolution(head):
    torch.manual_seed(0)
    backbone, small = OWN_BACKBONE.get(head, ("unet", ["backbone.channels=[4,4,8,8,8]"]))
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
        (["model=deeplabv1"], 20_505_429),
        (["model=deeplabv2_vgg16"], 37_877_652),
        (["model=deeplabv3", "aux_head=fcn"], 42_004_074),
        (["backbone=resnet50", "head=deeplabv3_paper"], 39_048_533),
        (["backbone=resnet101", "head=deeplabv3_paper"], 58_040_661),
        (["model=deeplabv3plus"], 26_696_133),
        (["model=deeplabv3plus", "head.separable=false"], 40_352_181),
        (["backbone=resnet101", "head=deeplabv3plus", "head.separable=false"], 59_344_309),
        (["backbone=resnet101", "head=deeplabv3plus"], 45_688_261),
        (["backbone=resnet50", "head=fcn", "aux_head=fcn"], 35_322_218),
        (["model=pspnet"], 46_592_597),
        (["model=unet"], 31_038_933),
        (["model=unet_bilinear"], 17_264_277),
        (["model=unet_original"], 31_033_045),
        (["model=segnet"], 29_455_125),
        (["model=fcn8s"], 134_489_759),
        (["model=fcn16s"], 134_815_994),
        (["model=fcn32s_original"], 136_152_917),
        (["model=fcn32s", "backbone.fc6_kernel=1"], 35_489_621),
        (["backbone=xception65", "head=deeplabv3plus"], 41_055_413),
        (["backbone=xception65", "head=deeplabv3plus", "head.separable=false"], 54_711_461),
    ],
)
def test_published_numbers_of_parameters(overrides, parameters):
    with torch.device("meta"):
        assert count(build_network(*overrides)) == parameters


def test_aspp_trains_on_a_batch_of_one():
    segmenter = build_network("backbone=resnet18", "head=deeplabv3plus", classes=3).train()
    assert segmenter(torch.rand(1, 3, 64, 64)).isfinite().all()


def test_rates_follow_the_output_stride():
    with torch.device("meta"):
        for stride, rates in ((8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])):
            aspp = build_network("model=deeplabv3", f"head.output_stride={stride}").head.aspp
            assert [aspp.convs[k][0].dilation[0] for k in (1, 2, 3)] == rates


@pytest.mark.parametrize("head", HEADS)
def test_score_layers_are_those_whose_shape_depends_on_the_classes(head):
    backbone, small = OWN_BACKBONE.get(head, ("resnet18", []))
    with torch.device("meta"):
        five, seven = (
            build_network(f"backbone={backbone}", *small, f"head={head}", "aux_head=none", classes=n) for n in (5, 7)
        )
    before, after = five.state_dict(), seven.state_dict()
    assert {name for name in before if before[name].shape != after[name].shape} == {
        name for name in before if name.startswith(five.score_layers)
    }


@pytest.mark.parametrize(("size", "stride"), [(321, 8), (321, 16), (366, 4), (375, 8), (500, 16)])
def test_aligned_cells_lie_on_their_pixels(size, stride):
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
            logits = build_network(*words).outputs(torch.empty(1, 3, 70, 90))["main"]
            assert logits.full().shape == (1, 21, 70, 90)
            assert logits.aligned_stride == stride
