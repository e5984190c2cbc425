"""The whole network: normalisation, frozen batch norm, several input scales."""

import warnings

import pytest
import torch
from conftest import agree, build_network, composed

from segframe.errors import UserError
from segframe.models.build import build_segmenter
from segframe.models.segmenter import Normalize

SMALL = ("backbone=resnet18", "head=deeplabv3plus")


def make(*overrides):
    return build_segmenter(composed(*SMALL, *overrides), 3)


def test_normalisation():
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    mean, std = torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1), torch.tensor([2.0, 4.0, 8.0]).view(3, 1, 1)
    expected = (images - mean) / std
    settings = [10.0, 20.0, 30.0], [2.0, 4.0, 8.0]
    torch.testing.assert_close(Normalize(*settings)(images), expected)
    torch.testing.assert_close(Normalize(*settings, bgr=True)(images), expected[:, [2, 1, 0]])
    with pytest.raises(UserError, match="give a number per channel each, std above 0"):
        Normalize([0.0], [1.0, 2.0])


def test_momentum_by_part():
    network = make("batch_norm.backbone_momentum=0.01", "batch_norm.head_momentum=0.3")
    assert network.backbone.bn1.momentum == 0.01
    assert network.head.aspp.project[1].momentum == 0.3


def test_input_scales_are_fused_by_their_maximum():
    torch.manual_seed(0)
    network = make("multi_scale=deeplabv2").eval()
    images = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    with torch.no_grad():
        fused = network.outputs(images)
        plain = network.head(network.backbone(network.normalize(images)), (64, 96)).values
        network.train()
        network.head.aspp.dropout.eval()
        for layer in network.norm_layers():
            layer.eval()
        single = network.outputs(images)
    assert fused.keys() == {"main"}
    assert list(single) == network.output_names == ["main", "scale_100", "scale_75", "scale_50"]
    assert fused["main"].values.shape == plain.shape
    assert (fused["main"].values >= plain).all()
    assert (fused["main"].values > plain).any()
    assert torch.equal(single["scale_100"].values, plain)
    assert single["scale_50"].full().shape == (1, 3, 64, 96)


def test_logits_of_smaller_scales_cover_the_whole_image():
    """Also where the recipe aligns corners: the last column of the scaled image's cells ends up at the right."""
    network = make("multi_scale=deeplabv2", "head.align_corners=true").eval()
    with torch.no_grad():
        network.train()
        for layer in (*network.norm_layers(), network.head.aspp.dropout):
            layer.eval()
        outputs = network.outputs(torch.randint(0, 256, (1, 3, 97, 129), dtype=torch.uint8))
    for name in ("scale_75", "scale_50"):
        half = outputs[name]
        torch.testing.assert_close(half.full()[..., -1, -1], half.values[..., -1, -1])
        assert not torch.equal(half.full()[..., 0, 90], half.full()[..., 0, 128])


@pytest.mark.parametrize("scales", ["[0.5,-1]", "[1.5]", "[0.75,0.751]"])
def test_impossible_scales_are_refused(scales):
    with pytest.raises(UserError, match="input_scales must lie between 0 and 1"):
        make(f"input_scales={scales}")


def test_unknown_frozen_batch_norm_is_refused():
    with pytest.raises(UserError, match=r"batch_norm\.frozen must be null, statistics or all, got weights"):
        make("batch_norm.frozen=weights")


@pytest.mark.parametrize("words", [("backbone=resnet18", "head=deeplabv3plus"), ("model=segnet",)])
def test_traced_networks_compute_the_same(words):
    """TorchScript's tracer, which older exports use; also at another size."""
    torch.manual_seed(0)
    small = ("backbone.variant=vgg11_bn", "head.depths=[1,1,1,1,2]") if "model=segnet" in words else ()
    network = build_network(*words, *small, "data.weights=null").eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation, and shapes that it takes for constants
        traced = torch.jit.trace(network, torch.zeros(1, 3, 65, 97, dtype=torch.uint8), check_trace=False)
        for size in ((65, 97), (96, 64)):
            images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
            agree(traced(images), network(images))
