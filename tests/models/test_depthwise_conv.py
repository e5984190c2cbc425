"""Depthwise convolutions with fast gradients against PyTorch's."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from segframe.models.backbones import TimmBackbone, Xception
from segframe.models.ops.convolution import FastConvolutions
from segframe.models.ops.depthwise_conv import DepthwiseConvFunction, depthwise_conv2d


def results(function, x, weight, bias):
    """The output, and the gradients of input, weight and bias."""
    leaves = [value.detach().clone(memory_format=torch.preserve_format).requires_grad_() for value in (x, weight, bias)]
    y = function(*leaves)
    y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.dtype))
    return [y.detach(), *(leaf.grad for leaf in leaves)]


def example(kernel, size, dtype=torch.double):
    torch.manual_seed(0)
    x = torch.randn(2, 16, *size, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return x, torch.randn(16, 1, kernel, kernel, dtype=dtype), torch.randn(16, dtype=dtype)


@pytest.mark.parametrize(("stride", "size"), [(1, (13, 20)), (2, (8, 7)), (3, (13, 20))])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (2, 1), (3, 0), (3, 2), (4, 1), (5, 2), (5, 4), (7, 3)])
def test_gradients_are_those_of_the_convolution(kernel, padding, stride, size):
    values = example(kernel, size)
    ours = results(lambda x, w, b: DepthwiseConvFunction.apply(x, w, b, stride, padding), *values)
    for a, b in zip(ours, results(lambda x, w, b: F.conv2d(x, w, b, stride, padding, groups=16), *values), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 2), (3, 6), (5, 2), (5, 4), (7, 3)])
@pytest.mark.parametrize("size", [(13, 20), (5, 3)])
def test_dilated_convolutions(kernel, dilation, size):
    settings = (1, dilation * (kernel // 2), dilation)
    values = example(kernel, size)
    ours = results(lambda *leaves: depthwise_conv2d(*leaves, *settings), *values)
    for a, b in zip(ours, results(lambda *leaves: F.conv2d(*leaves, *settings, groups=16), *values), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(depthwise_conv2d(*values, *settings), ours[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "settings"), [(3, (2, 1, 1)), (5, (1, 2, 1)), (5, (2, 0, 1)), (5, (1, 4, 2)), (7, (1, 3, 1))]
)
def test_bfloat16_is_as_precise_as_its_digits(kernel, settings):
    # Not compared with PyTorch's own: its gradient of a dilated 5x5 kernel holds NaN in one process of a hundred.
    values = example(kernel, (24, 30), torch.float32)
    exact = results(lambda *leaves: F.conv2d(*leaves, *settings, groups=16), *values)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = results(lambda *leaves: depthwise_conv2d(*leaves, *settings), *values)
    assert rounded[0].dtype == torch.bfloat16
    for found, expected in zip(rounded, exact, strict=True):
        assert (found - expected).norm() / expected.norm() < 0.006


@pytest.mark.parametrize(
    "settings",
    [
        {"weight": (4, 16, 3, 3)},
        {"weight": (32, 1, 3, 3), "groups": 16},
        {"weight": (16, 1, 5, 3), "stride": (1, 2), "padding": (2, 1), "groups": 16},
        {"weight": (16, 1, 3, 3), "padding": "same", "groups": 16},
        {"weight": (16, 1, 3, 3), "stride": 2, "padding": 3, "groups": 16},
        {"weight": (16, 1, 3, 3), "stride": 2, "dilation": (2,), "groups": 16},
    ],
)
def test_all_arguments_of_conv2d(settings):
    torch.manual_seed(0)
    x = torch.randn(2, 16, 9, 9, requires_grad=True).contiguous(memory_format=torch.channels_last)
    settings = {**settings, "weight": torch.randn(settings["weight"])}
    for values in (x, x[0]):
        expected = F.conv2d(values, **settings)
        with FastConvolutions():
            torch.testing.assert_close(F.conv2d(values, **settings), expected)


def test_other_padding_and_dtypes_are_pytorchs():
    layer = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, padding_mode="circular")
    x = torch.randn(1, 4, 9, 9).contiguous(memory_format=torch.channels_last)
    expected = F.conv2d(F.pad(x, (2,) * 4, mode="circular"), *layer.parameters(), 1, 0, 2, 4)
    with FastConvolutions():
        torch.testing.assert_close(layer(x), expected)
    with FastConvolutions(), torch.autocast("cpu", torch.bfloat16):
        assert layer.double()(x.double()).dtype == torch.float64


class SlowGradients(TorchDispatchMode):
    """Collects the depthwise gradients that a CPU computes slowly in bfloat16."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            _, x, weight, _, stride, _, dilation, _, _, groups, (of_input, of_weight, _) = args
            if groups == x.shape[1] > 1 and (
                (of_input and stride != [1, 1]) or (of_weight and weight.shape[2] > 3) or dilation != [1, 1]
            ):
                self.found.append((tuple(weight.shape), stride, dilation, of_input, of_weight))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "make",
    [
        lambda: TimmBackbone("tf_efficientnet_lite0", None, 32, 1.0),
        lambda: TimmBackbone("mobilenetv3_small_100", None, 16, 1.0),
        lambda: TimmBackbone("convnext_atto", None, 32, 1.0),
        lambda: Xception("xception41", None, 16, 1.0),
    ],
)
def test_networks_compute_no_slow_gradient(make):
    backbone = make().train().to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 96, 96).contiguous(memory_format=torch.channels_last)

    def slow_gradients(mode):
        with SlowGradients() as slow, torch.autocast("cpu", torch.bfloat16), mode:
            torch.stack([x.float().mean() for x in backbone(images).values()]).sum().backward()
        return slow.found

    assert slow_gradients(FastConvolutions()) == []
    assert len(slow_gradients(nullcontext())) >= 3
