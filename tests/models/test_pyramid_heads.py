"""PSPNet, UPerNet and SegFormer's decoder against plain forms of their papers, on shared weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import agree, build_network
from test_backbones import random_statistics
from torch import nn

from segframe.models.heads.pspnet import PyramidPooling, region_means

BINS = (1, 2, 3, 6)
WIDTH = 32
SIZES = [(12, 18), (13, 7), (1, 5), (1, 1), (60, 61)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_means_over_regions_are_those_of_adaptive_pooling(size, memory_format):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    for n, found in zip(BINS, region_means(x, BINS), strict=True):
        expected = F.adaptive_avg_pool2d(x, n)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
        weight = torch.randn_like(found)
        gradients = [
            torch.autograd.grad((means * weight).sum(), x, retain_graph=True)[0] for means in (found, expected)
        ]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-13)


def test_means_keep_the_precision_of_half_precision_maps():
    """Summed in float32: a sum in float16 would overflow, one under autocast would be of rounded weights."""
    x = torch.full((1, 2, 97, 97), 37.0, dtype=torch.float16)
    assert all((means == 37).all() and means.dtype == x.dtype for means in region_means(x, BINS))
    with torch.autocast("cpu", torch.bfloat16):
        means = region_means(torch.full((1, 1, 97, 97), 1.0009765625), (1,))[0]
    assert means.item() == pytest.approx(1.0009765625, abs=1e-6)


def block(in_channels, out_channels, kernel, *before):
    """Pooling or nothing, convolution, batch norm and ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(*before, conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def upsampled(x, like):
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


def copy_weights(reference, ours):
    """Both list their layers in the same order; every tensor is used once, and none is left at its initial value."""
    random_statistics(reference)
    own, other = ours.state_dict(), reference.state_dict()
    # A linear layer is a 1x1 convolution.
    assert [t.squeeze().shape for t in own.values()] == [t.squeeze().shape for t in other.values()]
    ours.load_state_dict({name: t.view_as(own[name]) for name, t in zip(own, other.values(), strict=True)})


class PlainPyramid(nn.Module):
    def __init__(self, in_channels, bin_channels, channels):
        super().__init__()
        self.levels = nn.ModuleList(block(in_channels, bin_channels, 1, nn.AdaptiveAvgPool2d(n)) for n in BINS)
        self.bottleneck = block(in_channels + 4 * bin_channels, channels, 3)

    def forward(self, x):
        return self.bottleneck(torch.cat([x] + [upsampled(level(x), x) for level in self.levels], 1))


class PlainPSPNet(nn.Module):
    def __init__(self, c5, classes):
        super().__init__()
        self.pyramid = PlainPyramid(c5, c5 // 4, WIDTH)
        self.last = nn.Conv2d(WIDTH, classes, 1)

    def forward(self, c2, c3, c4, c5):
        return self.last(self.pyramid(c5))


class PlainUPerNet(nn.Module):
    def __init__(self, widths, classes):
        super().__init__()
        self.pyramid = PlainPyramid(widths[3], WIDTH, WIDTH)
        self.in_convs = nn.ModuleList(block(width, WIDTH, 1) for width in widths[:3])
        self.out_convs = nn.ModuleList(block(WIDTH, WIDTH, 3) for _ in range(3))
        self.fusion = block(4 * WIDTH, WIDTH, 3)
        self.last = nn.Conv2d(WIDTH, classes, 1)

    def forward(self, c2, c3, c4, c5):
        p5 = self.pyramid(c5)
        p4 = self.in_convs[2](c4) + upsampled(p5, c4)
        p3 = self.in_convs[1](c3) + upsampled(p4, c3)
        p2 = self.in_convs[0](c2) + upsampled(p3, c2)
        f2, f3, f4 = (conv(p) for conv, p in zip(self.out_convs, (p2, p3, p4), strict=True))
        return self.last(self.fusion(torch.cat([f2, upsampled(f3, c2), upsampled(f4, c2), upsampled(p5, c2)], 1)))


class PlainSegFormer(nn.Module):
    """Its linear layers as such, on cells as tokens."""

    def __init__(self, widths, classes):
        super().__init__()
        self.mlp5, self.mlp4, self.mlp3, self.mlp2 = (nn.Linear(width, WIDTH) for width in widths[::-1])
        self.fuse = block(4 * WIDTH, WIDTH, 1)
        self.last = nn.Conv2d(WIDTH, classes, 1)

    def forward(self, c2, c3, c4, c5):
        levels = []
        for mlp, x in ((self.mlp5, c5), (self.mlp4, c4), (self.mlp3, c3), (self.mlp2, c2)):
            tokens = mlp(x.flatten(2).transpose(1, 2))
            levels.append(upsampled(tokens.transpose(1, 2).reshape(len(x), WIDTH, *x.shape[2:]), c2))
        return self.last(self.fuse(torch.cat(levels, 1)))


RESNET18 = (64, 128, 256, 512)
PLAIN = {
    "pspnet": lambda: PlainPSPNet(512, 5),
    "upernet": lambda: PlainUPerNet(RESNET18, 5),
    "segformer_mlp": lambda: PlainSegFormer(RESNET18, 5),
}


@pytest.mark.parametrize("size", [(64, 96), (97, 50)])
@pytest.mark.parametrize("head", PLAIN)
def test_heads_equal_their_papers_plain_form(head, size):
    """In values and in gradients of the maps, also in deterministic mode."""
    torch.manual_seed(0)
    ours = build_network("backbone=resnet18", f"head={head}", f"head.channels={WIDTH}", classes=5).eval()
    theirs = PLAIN[head]()
    copy_weights(theirs, ours.head)
    with torch.no_grad():
        maps = ours.backbone(torch.rand(2, 3, *size))
    maps = {name: values.requires_grad_() for name, values in maps.items()}
    expected = theirs(*(maps[name] for name in ("c2", "c3", "c4", "c5")))
    expected.square().mean().backward()
    gradient = maps["c5"].grad
    for deterministic in (False, True):
        maps["c5"].grad = None
        torch.use_deterministic_algorithms(deterministic)
        try:
            found = ours.head(maps, size).values
            found.square().mean().backward()
        finally:
            torch.use_deterministic_algorithms(False)
        agree(found, expected)
        agree(maps["c5"].grad, gradient)


def test_a_batch_of_one_trains():
    """The level of a single bin has no variance then: it uses the running statistics, the others those of the batch."""
    torch.manual_seed(0)
    pyramid = PyramidPooling(8, [1, 2], 4, 6)
    before = copy.deepcopy(pyramid.state_dict())
    pyramid.train()(torch.rand(1, 8, 5, 7)).sum().backward()
    assert torch.equal(pyramid.convs[0].bn.running_mean, before["convs.0.bn.running_mean"])
    assert not torch.equal(pyramid.convs[1].bn.running_mean, before["convs.1.bn.running_mean"])
    assert pyramid.convs[0].conv.weight.grad.abs().sum() > 0
