"""Synchronized batch norm of one device is batch norm; of several: tests/training/test_devices.py."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from segframe.models.ops.sync_batch_norm import synchronize

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "part": lambda x: x.repeat(1, 2, 1, 1)[:, ::2],  # neither
}


def pair(channels):
    """Batch norm that has been trained, and the same layer, synchronized."""
    layer = nn.BatchNorm2d(channels)
    with torch.no_grad():
        for values in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            values.uniform_(0.5, 2.0)
    both = nn.ModuleList([layer, copy.deepcopy(layer)])
    synchronize(both[1:], on_gpu=False)
    return both


def step(layer, x, dy, through=lambda layer, x: layer(x)):
    """What a layer and its backward pass return and leave."""
    x = x.detach().requires_grad_()
    y = through(layer, x)
    y.backward(dy)
    return y.detach(), x.grad, layer.weight.grad, layer.bias.grad, *layer.buffers()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_one_device_it_is_batch_norm(layout):
    """Also where the mean is large, and for inputs of an autocast."""
    torch.manual_seed(0)
    layer, synchronized = pair(6)
    x, dy = (LAYOUTS[layout](torch.randn(3, 6, 5, 7)) for _ in range(2))
    x += torch.tensor([0.0, 1.0, -10.0, 100.0, -300.0, 1000.0])[:, None, None]
    expected, found = step(layer, x, dy.contiguous()), step(synchronized, x, dy.contiguous())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close([t[:, :2] for t in found[:2]], [t[:, :2] for t in expected[:2]], rtol=1e-5, atol=1e-6)
    assert found[0].stride() == expected[0].stride()
    assert found[1].stride() == expected[1].stride()
    layer.zero_grad()
    synchronized.zero_grad()
    expected, found = step(layer, x, dy), step(synchronized, x.bfloat16(), dy.bfloat16())
    assert (found[0].dtype, found[1].dtype) == (torch.bfloat16, torch.bfloat16)
    torch.testing.assert_close(found[0][:, :2].float(), expected[0][:, :2], rtol=0.02, atol=0.02)
    torch.testing.assert_close(found[2][:2], expected[2][:2], rtol=0.02, atol=0.02)
    synchronized.load_state_dict(layer.state_dict())
    assert torch.equal(synchronized.eval()(x), layer.eval()(x))


def test_its_activations_can_be_recomputed():
    torch.manual_seed(0)
    layer, other = (pair(3)[1] for _ in range(2))
    other.load_state_dict(layer.state_dict())
    x, dy = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    expected = step(layer, x, dy)[:4]
    found = step(other, x, dy, lambda layer, x: checkpoint(layer, x, use_reentrant=False))[:4]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
