"""Swin Transformers as backbones."""

import re

import pytest
import torch
import torchvision
from conftest import agree, composed
from test_backbones import count, make

from segframe.errors import UserError
from segframe.models.build import build_segmenter


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return torchvision.models.swin_t().eval()


def test_maps_are_torchvisions(classifier, tmp_path):
    """A classifier's file is loaded; before their norms the maps are its stages', at odd sizes."""
    torch.save(classifier.state_dict(), tmp_path / "swin_t.pth")
    ours = make("swin_t", f"backbone.weights={tmp_path / 'swin_t.pth'}").eval()
    found, expected = [], []
    hooks = [
        classifier.features[stage].register_forward_hook(lambda _, __, x: expected.append(x.permute(0, 3, 1, 2)))
        for stage in (1, 3, 5, 7)
    ]
    for norm in ours.norms.values():
        norm.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    images = torch.rand(1, 3, 100, 132)
    with torch.no_grad():
        classifier.features(images)
        maps = ours(images)
    for hook in hooks:
        hook.remove()
    assert [tuple(x.shape[1:]) for x in maps.values()] == [(96, 25, 33), (192, 13, 17), (384, 7, 9), (768, 4, 5)]
    for x, theirs, normed in zip(found, expected, maps.values(), strict=True):
        agree(x, theirs)
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        agree(normed, (x - mean) / (variance + 1e-5).sqrt())


def test_images_are_padded_to_whole_patches(classifier):
    ours = make("swin_t").eval()
    images = torch.rand(1, 3, 61, 50)
    padded = torch.zeros(1, 3, 64, 52)
    padded[..., :61, :50] = images
    with torch.no_grad():
        for found, expected in zip(ours(images).values(), ours(padded).values(), strict=True):
            assert torch.equal(found, expected)


def test_windows_do_not_mix_opposite_edges():
    """Each cell of c2 sees two windows at most; for sides that are no multiples of a window, too."""
    torch.manual_seed(0)
    ours = make("swin_t").eval()
    images = torch.rand(1, 3, 4 * 30, 4 * 33, requires_grad=True)
    ours(images)["c2"][0, :, 0].sum().backward()
    rows = images.grad.abs().sum((0, 1, 3)).view(30, 4).sum(1).nonzero()
    assert rows.max() < 14


@pytest.mark.parametrize(
    ("variant", "width", "millions"), [("swin_t", 384, 60), ("swin_s", 384, 81), ("swin_b", 512, 121)]
)
def test_upernets_have_the_published_numbers_of_parameters(variant, width, millions):
    """Table 3 (ADE20K) of the paper, whose networks have an auxiliary head of 256 channels on c4."""
    with torch.device("meta"):
        network = build_segmenter(composed(f"backbone={variant}", "head=upernet"), 150)
    auxiliary = width * 256 * 9 + 2 * 256 + 256 * 150 + 150
    assert round((count(network) + auxiliary) / 1e6) == millions


def test_stochastic_depth_grows_with_depth():
    with torch.device("meta"):
        network = make("swin_t", "backbone.stochastic_depth=0.3")
    depths = [float(p) for p in re.findall(r"StochasticDepth\(p=([\d.]+)", str(network))]
    assert depths == sorted(depths)
    assert (depths[0], depths[-1]) == (0, pytest.approx(0.3))
    assert len(depths) == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["output_stride=16"], r"backbone\.output_stride=16: the windows of swin_t cannot be dilated; set .*=32"),
        (["variant=swin_x"], r"backbone\.variant=swin_x: .* choose one of swin_t, swin_s, swin_b"),
        (["stochastic_depth=2"], r"backbone\.stochastic_depth=2"),
    ],
)
def test_mistakes(words, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        make("swin_t", *(f"backbone.{word}" for word in words))
