"""Frozen backbones, stages and batch norm: no gradients, evaluation mode, through every train()."""

import copy

import pytest
import torch
from conftest import composed
from torch import nn

from segframe.errors import UserError
from segframe.models.build import build_backbone, build_segmenter

BACKBONES = (  # one of each class and variant
    *("resnet18", "vgg11_bn", "vgg16_fc", "vgg16_bn_indices", "vgg16_aspp_s", "vgg16_largefov", "xception41", "unet"),
    *("alexnet_fc", "timm"),
)
SMALL = {"unet": ("backbone.channels=[4,4,4,4,4]",), "timm": ("backbone.variant=mobilenetv3_small_050",)}


def network(*words):
    return build_segmenter(composed("backbone=resnet18", "head=fcn", "aux_head=fcn", *words), 3)


def norms(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_of_every_backbone(name):
    """What a frozen map depends on has no gradient and no batch statistics; what comes after it is trained."""
    if name == "timm":
        pytest.importorskip("timm")
    with torch.device("meta"):
        config = composed(f"backbone={name}", "data.weights=null", *SMALL.get(name, ()), "backbone.frozen=c2")
        backbone = build_backbone(config).train()
        maps = backbone(torch.zeros(1, 3, 96, 96))
    trained = [name for name, found in maps.items() if found.requires_grad]
    assert not {"c1", "c2"} & {*trained}
    assert {"c4", "c5"} & maps.keys() <= {*trained}
    for layer in norms(backbone):
        assert layer.training == layer.weight.requires_grad


@pytest.mark.parametrize("frozen", ["true", "c2"])
def test_a_step_leaves_frozen_parts_as_they_were(frozen):
    torch.manual_seed(0)
    segmenter = network(f"backbone.frozen={frozen}")
    before = {name: tensor.clone() for name, tensor in segmenter.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in segmenter.parameters() if p.requires_grad], 0.1)
    for switch in (lambda: None, segmenter.backbone.train, lambda: segmenter.eval().train()):
        switch()
        outputs = segmenter.outputs(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
        sum(logits.values.square().mean() for logits in outputs.values()).backward()
        optimizer.step()
    changed = {name for name, tensor in segmenter.state_dict().items() if not tensor.equal(before[name])}
    fixed = ("backbone.",) if frozen == "true" else ("backbone.conv1", "backbone.bn1", "backbone.layer1")
    assert not {name for name in changed if name.startswith(fixed)}
    assert {name for name in before if name.startswith("head.") and "num_batches" in name} <= changed
    assert {name for name in before if "weight" in name and not name.startswith(fixed)} <= changed
    assert all(p.grad is None for name, p in segmenter.named_parameters() if name.startswith(fixed))


@pytest.mark.parametrize("frozen", ["statistics", "all"])
def test_frozen_batch_norm_holds_from_the_constructor_on(frozen):
    segmenter = network(f"batch_norm.frozen={frozen}")
    copied = copy.deepcopy(segmenter)
    for switch in (lambda: None, segmenter.train, nn.Sequential(segmenter).train, segmenter.backbone.layer1.train):
        switch()
        assert segmenter.training
        assert norms(segmenter)
        assert not any(layer.training for layer in norms(segmenter))
    assert not any(layer.training for layer in norms(copied.train()))
    assert all(layer.weight.requires_grad == (frozen != "all") for layer in norms(segmenter))
    assert segmenter.backbone.conv1.weight.requires_grad


def test_unknown_stages_are_refused():
    with pytest.raises(UserError, match=r"backbone.frozen=c7: .* no such stage; set true, false or one of c1, c2, c3"):
        network("backbone.frozen=c7")
