"""Maps stay channels-last through a training step of every head and backbone."""

import pytest
import torch
from conftest import OWN_BACKBONE, build_network
from test_backbones import BACKBONES
from test_heads import HEADS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
LAYERS = {
    aten.convolution.default,
    aten.convolution_backward.default,
    aten.native_batch_norm.default,
    aten.native_batch_norm_backward.default,
    aten.max_pool2d_with_indices.default,
    aten.max_pool2d_with_indices_backward.default,
    aten.add.Tensor,
    aten.cat.default,
}
"""Operators that are slower, or copy, where a map is not channels-last."""
RESIZING = {aten.upsample_bilinear2d.default, aten.upsample_bilinear2d_backward.default}
"""Operators that are slower also for a slice of a channels-last map."""


class OtherLayouts(TorchDispatchMode):
    """Lists the operators that read or write maps (N, C, h, w) of which channels are not next to each other."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in LAYERS | RESIZING:
            maps = [x for x in tree_leaves((args, out)) if isinstance(x, torch.Tensor) and x.dim() == 4]
            # With one channel or one cell both layouts are the same; PyTorch resizes one cell to rows.
            maps = [x for x in maps if x.shape[1] > 1 and x.shape[2:].numel() > 1]
            maps = maps if func not in RESIZING or args[0].shape[2:].numel() > 1 else []
            maps = [x for x in maps if x.stride(1) != 1 or (func in RESIZING and not is_dense(x))]
            self.found += [f"{func} {tuple(x.shape)} {x.stride()}" for x in maps]
        return out


def is_dense(x):
    """Whether a map is channels-last without gaps between its cells."""
    return x.is_contiguous(memory_format=torch.channels_last)


def layouts_of(*words):
    """The findings of OtherLayouts in a training step."""
    segmenter = build_network(*words, classes=5).to(memory_format=torch.channels_last).train()
    images = torch.zeros(2, 33, 50, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    with OtherLayouts() as layouts:
        outputs = segmenter.outputs(images)
        torch.stack([logits.values.square().sum() for logits in outputs.values()]).sum().backward()
    return layouts.found


@pytest.mark.parametrize("head", HEADS)
def test_maps_and_gradients_of_heads_stay_channels_last(head):
    backbone, small = OWN_BACKBONE.get(head, ("unet", ["backbone.channels=[4,4,8,8,8]"]))
    aux = "none" if backbone.endswith("_original") else "fcn"
    assert layouts_of(f"backbone={backbone}", *small, f"head={head}", f"aux_head={aux}") == []


# Not Swin, whose maps are (N, h, w, C) inside, nor AlexNet, whose local response normalisation is a 3-D pooling.
OWN_LAYOUT = ("swin", "alexnet")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [name for name in BACKBONES if not name.values[0].startswith(OWN_LAYOUT)])
def test_maps_and_gradients_of_backbones_stay_channels_last(backbone):
    head = "unet_original" if backbone == "unet_original" else "fcn32s"
    assert layouts_of(f"backbone={backbone}", f"head={head}") == []
