"""Switches of configs/trainer: they change speed and memory, nothing else."""

import copy
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, composed
from torch import nn

from segframe.config.instantiate import instantiate
from segframe.config.schema import TrainerConfig
from segframe.errors import UserError
from segframe.models.build import build_normalize, build_segmenter
from segframe.models.segmenter import Segmenter
from segframe.training import performance
from segframe.training.resume import follow_config, recipe_of
from segframe.training.schedulers import constant_lr

# One of each way through a forward pass.
BACKBONES = (
    *("resnet18", "resnet50", "vgg11_bn", "vgg16_fc", "vgg16_bn_indices", "vgg16_aspp_s", "xception41"),
    *("unet", "unet_original", "alexnet_fc"),
)


class NoHead(nn.Module):
    """Stands where a head is, for networks of which only the backbone counts."""

    crops_overhang = True


def switched(network, **settings):
    """A copy of a network with only these switches on."""
    network = copy.deepcopy(network)
    off = dict.fromkeys(("channels_last", "compile", "activation_checkpointing", "keep_freed_memory", "tf32"), False)
    performance.apply(TrainerConfig(**off | settings), network)
    return network


def trained(network, images):
    """Its c5 after a training step, the gradients, and the buffers that the step left."""
    network.train()
    torch.manual_seed(1)
    backbone = network.backbone
    c5 = backbone(network.normalize(images))["c5"]
    c5.square().mean().backward()
    gradients = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    return c5.detach(), gradients, dict(backbone.named_buffers())


@pytest.mark.parametrize("name", BACKBONES)
def test_forgotten_activations_change_nothing(name):
    config = composed(f"backbone={name}", "head=fcn8s", *(["backbone.fc_channels=16"] if "_fc" in name else []))
    torch.manual_seed(0)
    backbone = instantiate(config.backbone, "backbone")

    network = Segmenter(backbone, NoHead(), None, build_normalize(config.normalize))
    if not backbone.has_blocks:
        with pytest.raises(UserError, match="not made of blocks"):
            switched(network, activation_checkpointing=True)
        return
    images = torch.randint(0, 256, (2, 3, 33, 47), dtype=torch.uint8)
    expected = trained(switched(network), images)
    found = trained(switched(network, activation_checkpointing=True), images)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_forgotten_activations_are_not_kept():
    """Fewer bytes are saved for the backward pass."""
    torch.manual_seed(0)
    network = build_segmenter(composed("backbone=resnet18", "head=fcn8s"), 3)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    saved = {}
    for forget in (False, True):
        net = switched(network, activation_checkpointing=forget).train()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.nbytes) or t, lambda t: t):
            net.outputs(images)
        saved[forget] = sum(sizes)
    assert saved[True] < 0.5 * saved[False]


def test_memory_formats_agree():
    torch.manual_seed(0)
    network = build_segmenter(composed("backbone=resnet18", "head=deeplabv3plus"), 5).eval()
    images = torch.randint(0, 256, (1, 65, 97, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    last, first = switched(network, channels_last=True), switched(network)
    assert last.head.classifier.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        maps = [
            net.backbone(net.normalize(images.contiguous(memory_format=net.memory_format))) for net in (last, first)
        ]
        assert maps[0]["c2"].is_contiguous(memory_format=torch.channels_last)
        assert maps[1]["c2"].is_contiguous()
        torch.testing.assert_close(last(images), first(images), rtol=1e-4, atol=1e-4)


def test_auto_is_told_and_stays_within_what_there_is(monkeypatch):
    trainer = composed("trainer.accelerator=cpu").trainer
    assert trainer.precision == "auto"
    for capable, expected in ((True, "bf16-mixed"), (False, "32-true")):
        settings = copy.deepcopy(trainer)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capable: {"avx512_bf16": c}, raising=False)
        performance.resolve(settings)
        assert settings.precision == expected


def test_half_precision_with_clipping_is_not_fused():
    trainer = composed("trainer.precision=16-mixed", "trainer.gradient_clip_val=1").trainer
    performance.resolve(trainer)
    assert trainer.precision == "16-mixed"
    assert not trainer.fused_optimizer


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_resumed_optimizer_follows_another_memory_format(name):
    """Fused steps read parameter and state in one order, whatever their strides say."""
    torch.manual_seed(0)
    weight, gradients = torch.randn(8, 4, 3, 3), torch.randn(3, 8, 4, 3, 3)
    settings = {"lr": 0.1, **({"momentum": 0.9} if name == "SGD" else {})}

    def steps(optimizer, parameter, numbers):
        for k in numbers:
            parameter.grad = torch.empty_like(parameter).copy_(gradients[k])
            optimizer.step()

    first = nn.Parameter(weight.clone())
    optimizer = getattr(torch.optim, name)([first], fused=False, **settings)
    steps(optimizer, first, (0, 1))
    resumed = nn.Parameter(first.detach().clone(memory_format=torch.channels_last))
    other = getattr(torch.optim, name)([resumed], fused=True, **settings)
    recipe = recipe_of(other)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    follow_config(other, constant_lr(other, 10, 0, 0.0), recipe)
    assert other.param_groups[0]["fused"], "as its config has it, not as the other's had"
    for optimizer_, parameter in ((optimizer, first), (other, resumed)):
        steps(optimizer_, parameter, (2,))
    torch.testing.assert_close(resumed.detach(), first.detach())


def test_compiling_and_forgetting_activations_exclude_each_other():
    network = build_segmenter(composed("backbone=resnet18", "head=fcn"), 3)
    with pytest.raises(UserError, match="exclude each other"):
        switched(network, compile=True, activation_checkpointing=True)


def test_compiled_networks_keep_their_names(monkeypatch):
    network = build_segmenter(composed("backbone=resnet18", "head=fcn8s"), 3)
    calls = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: calls.append(self))
    compiled = switched(network, compile=True)
    assert calls == [compiled.backbone, compiled.head]
    assert compiled.state_dict().keys() == network.state_dict().keys()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_the_gpu_does_not_wait_for_it():
    """Nothing in it reads a value back, so that the next steps are queued while this one runs."""
    config = composed("backbone=resnet18", "head=deeplabv3plus", "trainer.precision=bf16-mixed")
    segmenter = build_segmenter(config, 8).cuda().train()
    performance.apply(config.trainer, segmenter)
    loss = instantiate(config.loss, "loss").cuda()
    optimizer = torch.optim.SGD(segmenter.parameters(), 0.01, fused=True)
    images = torch.randint(0, 256, (2, 65, 65, 3), dtype=torch.uint8).permute(0, 3, 1, 2).pin_memory()
    mask = torch.randint(0, 8, (2, 65, 65), dtype=torch.uint8).pin_memory()
    for k in range(3):
        torch.cuda.set_sync_debug_mode("error" if k else "default")
        try:
            with torch.autocast("cuda", torch.bfloat16):
                outputs = segmenter.outputs(images.cuda(non_blocking=True))
                value = loss(outputs["main"], mask.cuda(non_blocking=True))
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_program_ends_without_a_word():
    """What is imported without the garbage collector is still taken down in order."""
    code = "from segframe.cli import importing\nwith importing():\n    import segframe.build, segframe.inference.tta"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
