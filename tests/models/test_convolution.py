"""Convolutions of wide maps: the gradient of the weight from contiguous copies, on CPUs without AVX-512."""

import pytest
import torch
import torch.nn.functional as F
from conftest import composed
from torch.utils._python_dispatch import TorchDispatchMode

from segframe.models.build import build_segmenter
from segframe.models.ops import convolution
from segframe.models.ops.convolution import FastConvolutions, dense_conv2d


@pytest.fixture(autouse=True)
def without_avx512(monkeypatch):
    monkeypatch.setattr(convolution, "lacks_avx512", lambda: True)


class ContiguousGradients(TorchDispatchMode):
    """Counts gradients of weights of contiguous maps, and collects the weights of those of wide channels-last maps."""

    def __init__(self):
        super().__init__()
        self.contiguous, self.slow = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default and args[-1][1]:
            x, weight = args[1:3]
            self.contiguous += x.is_contiguous()
            if min(x.shape[3], *weight.shape[:2]) >= 64 and weight.shape[2] > 1 and not x.is_contiguous():
                self.slow.append((weight.shape, args[4]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kernel", "padding", "images"), [(3, 1, 2), (3, 0, 1), (5, 4, 3), (2, 1, 2)])
def test_gradients_are_those_of_the_convolution(kernel, padding, images):
    torch.manual_seed(0)
    x = torch.randn(images, 3, 5, 6, dtype=torch.double).contiguous(memory_format=torch.channels_last)
    values = (x, torch.randn(2, 3, kernel, kernel, dtype=torch.double), torch.randn(2, dtype=torch.double))
    leaves = [value.requires_grad_() for value in values]
    torch.testing.assert_close(dense_conv2d(*leaves, padding), F.conv2d(*leaves, padding=padding), rtol=0, atol=0)
    assert torch.autograd.gradcheck(lambda *leaves: dense_conv2d(*leaves, padding), leaves)
    assert torch.autograd.gradgradcheck(lambda *leaves: dense_conv2d(*leaves, padding), leaves)


@pytest.mark.parametrize(
    ("shape", "settings", "is_slow"),
    [
        ((64, 64, 3, 3), {"padding": 1}, True),
        ((64, 64, 3, 3), {"padding": (1, 1), "bias": True}, True),
        ((64, 32, 3, 3), {"padding": 1, "groups": 2}, False),
        ((32, 64, 3, 3), {"padding": 1}, False),
        ((64, 64, 1, 1), {}, False),
        ((64, 64, 3, 3), {"stride": 2}, False),
        ((64, 64, 3, 3), {"padding": 2, "dilation": 2}, False),
        ((64, 64, 3, 3), {"padding": "same"}, False),
    ],
)
def test_only_wide_maps_are_copied(shape, settings, is_slow):
    torch.manual_seed(0)
    x = torch.randn(2, 64, 8, 64).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(shape, requires_grad=True)
    bias = torch.randn(shape[0]) if settings.get("bias") else None
    settings = {**settings, "bias": bias}
    with FastConvolutions():
        y = F.conv2d(x, weight, **settings)
    torch.testing.assert_close(y, F.conv2d(x, weight, **settings))
    with ContiguousGradients() as found:
        y.sum().backward()
    assert found.contiguous == (2 if is_slow else 0)
    narrow, frozen = x[..., :63].contiguous(memory_format=torch.channels_last), weight.detach()
    for arguments in ((narrow, weight), (x, frozen), (x.contiguous(), weight), (x.double(), weight.double())):
        assert not convolution.has_slow_gradient(*arguments)


@pytest.mark.parametrize("words", [("head=unet",), ("model=fcn8s", "backbone=vgg11_bn"), ("head=upernet",)], ids=str)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_networks_compute_no_slow_gradient_of_a_weight(words, checkpointing):
    network = build_segmenter(composed("backbone=resnet18", *words), 3).train().to(memory_format=torch.channels_last)
    network.backbone.activation_checkpointing = checkpointing
    with ContiguousGradients() as found:
        network.outputs(torch.zeros(1, 3, 64, 256, dtype=torch.uint8))["main"].values.sum().backward()
    assert found.contiguous
    assert not [shape for shape, stride in found.slow if stride == [1, 1]]
