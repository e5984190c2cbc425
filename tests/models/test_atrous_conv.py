"""AtrousConv2d against PyTorch's convolution."""

import pytest
import torch
from torch import nn

from segframe.models.ops.atrous_conv import AtrousConv2d


def forward_and_backward(layer, x, cotangent):
    """The output, and the gradients of input, weight and bias."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(cotangent)
    return [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


@pytest.mark.parametrize(("groups", "memory_format"), [(1, torch.channels_last), (6, torch.contiguous_format)])
@pytest.mark.parametrize(
    ("dilation", "size"), [(1, (16, 7)), (2, (25, 31)), (6, (13, 13)), (9, (5, 9)), (18, (25, 31)), (36, (1, 1))]
)
def test_equal_to_the_dilated_convolution(dilation, size, groups, memory_format):
    torch.manual_seed(0)
    conv = AtrousConv2d(6, 6, 3, padding=dilation, dilation=dilation, groups=groups).double()
    x = torch.randn(2, 6, *size, dtype=torch.double).contiguous(memory_format=memory_format)
    cotangent = torch.randn(2, 6, *size, dtype=torch.double)
    found = forward_and_backward(conv, x, cotangent)
    conv.__class__ = nn.Conv2d
    for ours, theirs in zip(found, forward_and_backward(conv, x, cotangent), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("groups", "dilation"), [(1, 2), (1, 24), (64, 2), (64, 12)])
def test_autocast_is_as_precise_as_pytorchs(dilation, groups):
    torch.manual_seed(0)
    conv = AtrousConv2d(64, 64, 3, padding=dilation, dilation=dilation, groups=groups)
    x = torch.randn(2, 64, 16, 16).contiguous(memory_format=torch.channels_last)
    cotangent = torch.randn(2, 64, 16, 16)
    errors = {}
    for kind in (AtrousConv2d, nn.Conv2d):
        conv.__class__ = nn.Conv2d
        exact = forward_and_backward(conv, x, cotangent)
        conv.__class__ = kind
        with torch.autocast("cpu", torch.bfloat16):
            rounded = forward_and_backward(conv, x, cotangent.bfloat16())
        assert rounded[0].dtype == torch.bfloat16
        errors[kind] = [((a - b).norm() / b.norm()).item() for a, b in zip(rounded, exact, strict=True)]
    for ours, theirs in zip(errors[AtrousConv2d], errors[nn.Conv2d], strict=True):
        assert ours < 1.5 * theirs + 1e-3


def test_autocast_leaves_float64_alone():
    conv = AtrousConv2d(4, 4, 3, padding=12, dilation=12).double()
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(torch.randn(1, 4, 13, 13, dtype=torch.double)).dtype == torch.float64


def test_padding_is_not_multiplied():
    """A 3x3 kernel whose outer taps all read padding takes a ninth of the operations."""
    from torch.utils.flop_counter import FlopCounterMode

    flops = {}
    for dilation in (4, 16):
        conv = AtrousConv2d(8, 8, 3, padding=dilation, dilation=dilation, bias=False)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            conv(torch.randn(1, 8, 16, 16))
        flops[dilation] = counter.get_total_flops()
    assert flops[16] * 9 == flops[4]
