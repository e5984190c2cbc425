"""Settings of speed and memory: they change nothing else; and deterministic operators."""

import copy

import pytest
import torch
from conftest import UNET, agree, composed
from omegaconf import OmegaConf
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from segframe.config.instantiate import instantiate
from segframe.config.run_schema import TrainerConfig
from segframe.errors import UserError
from segframe.models.build import build_backbone, build_normalize, build_segmenter
from segframe.models.heads.segnet import unpool
from segframe.models.ops.bilinear import resize
from segframe.models.segmenter import Segmenter
from segframe.training import performance
from segframe.training.performance import for_any_size

# One of each kind of forward pass.
BACKBONES = ("resnet18", "vgg11_bn", "vgg16_fc", "vgg16_bn_indices", "vgg16_aspp_s", "xception41", "unet", "alexnet_fc")


class NoHead(nn.Module):
    """The head of a network of which only the backbone counts."""

    crops_overhang = True


def optimized(network, **settings):
    """A copy of a network with only these settings on."""
    network = copy.deepcopy(network)
    trainer = OmegaConf.structured(TrainerConfig(**settings))
    config = OmegaConf.create({"deterministic": False, "trainer": trainer, "transforms": {}})
    performance.set_up_performance(config, network)
    return network


def train_step(network, images):
    """c5 in a training step, the gradients, and the buffers that the step left."""
    network.train()
    torch.manual_seed(1)
    backbone = network.backbone
    c5 = backbone(network.normalize(images))["c5"]
    c5.square().mean().backward()
    gradients = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    return c5.detach(), gradients, dict(backbone.named_buffers())


@pytest.mark.parametrize("name", BACKBONES)
def test_activation_checkpointing_computes_the_same(name):
    narrow = ["backbone.fc_channels=16"] if "_fc" in name else ["backbone.channels=[4,4,4,4,4]"] * (name == "unet")
    config = composed(f"backbone={name}", "head=fcn8s", *narrow)
    torch.manual_seed(0)
    backbone = build_backbone(config)
    network = Segmenter(backbone, NoHead(), None, build_normalize(config.normalize))
    if not backbone.has_blocks:
        with pytest.raises(UserError, match="this backbone has no blocks"):
            optimized(network, activation_checkpointing=True)
        return
    images = torch.randint(0, 256, (2, 3, 33, 47), dtype=torch.uint8)
    expected = train_step(optimized(network), images)
    found = train_step(optimized(network, activation_checkpointing=True), images)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_activation_checkpointing_saves_memory():
    network = build_segmenter(composed(*UNET), 3)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    saved = {}
    for on in (False, True):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.nbytes) or t, lambda t: t):
            optimized(network, activation_checkpointing=on).train().backbone(network.normalize(images))
        saved[on] = sum(sizes)
    assert saved[True] < 0.5 * saved[False]


def test_memory_formats_agree():
    torch.manual_seed(0)
    network = build_segmenter(composed("backbone=resnet18", "head=deeplabv3plus"), 5).eval()
    images = torch.randint(0, 256, (1, 65, 97, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    last, first = optimized(network, channels_last=True), optimized(network)
    assert last.head.classifier.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        maps = [
            net.backbone(net.normalize(images.contiguous(memory_format=net.memory_format))) for net in (last, first)
        ]
        assert maps[0]["c2"].is_contiguous(memory_format=torch.channels_last)
        assert maps[1]["c2"].is_contiguous()
        torch.testing.assert_close(last(images), first(images), rtol=1e-4, atol=1e-4)


def test_cudnn_measures_kernels_for_crops_of_one_size_alone():
    network = build_segmenter(composed(*UNET), 3)
    for word, measures in (("seed=1", True), ("deterministic=true", False), ("transforms=whole", False)):
        performance.set_up_performance(composed(word), network)
        assert torch.backends.cudnn.benchmark is measures
        with for_any_size(compiled=False):
            assert not torch.backends.cudnn.benchmark
        assert torch.backends.cudnn.benchmark is measures
    torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_the_gpu_does_not_wait_for_it():
    """Nothing in it reads a value back, so that the next steps are queued while this one runs."""
    config = composed("backbone=resnet18", "head=deeplabv3plus", "trainer.precision=bf16-mixed")
    segmenter = build_segmenter(config, 8).cuda().train()
    performance.set_up_performance(config, segmenter)
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


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


# What PyTorch lists as refusing on CUDA, of what segmentation networks and losses are made of (torch 2.15,
# use_deterministic_algorithms). Bilinear interpolation is not listed: there PyTorch itself takes another way on CUDA.
NONDETERMINISTIC = {
    *("max_unpool2d", "replication_pad2d_backward", "reflection_pad2d_backward", "_adaptive_avg_pool2d_backward"),
    *("adaptive_max_pool2d_backward", "nll_loss2d_forward", "grid_sampler_2d_backward", "histc", "put_", "cumsum"),
    *("scatter_add", "scatter_add_", "scatter_reduce", "kthvalue", "median", "avg_pool3d_backward"),
}


EVERY_LOSS = "loss.weights={cross_entropy: 1, dice: 1, focal: 1, lovasz: 1, ohem: 1}"


class OperatorNames(TorchDispatchMode):
    """Collects the names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name != "cumsum" or args[0].is_floating_point():  # sums of integers do not depend on their order
            self.seen.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "words",
    [
        ("backbone=resnet18", "head=deeplabv3plus", "aux_head=fcn"),
        ("backbone=vgg11", "head=fcn8s", "loss=cross_entropy_coarse"),
        ("backbone=vgg16_bn_indices", "backbone.variant=vgg11_bn", "head=segnet", "head.depths=[1,1,1,1,2]"),
        (*UNET[:1], "head=unet_bilinear", *UNET[2:4]),
        ("backbone=resnet18", "head=deeplabv2", "multi_scale=deeplabv2", "loss=sum", EVERY_LOSS),
    ],
)
def test_no_operator_is_nondeterministic_on_a_gpu(deterministic, words):
    config = composed(*words, "data.weights=null")
    segmenter, loss = build_segmenter(config, 5), instantiate(config.loss, "loss")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mask = torch.randint(0, 5, (2, 64, 64), dtype=torch.uint8)
    with OperatorNames() as names:
        sum(loss(logits, mask) for logits in segmenter.outputs(images).values()).backward()
    assert "convolution_backward" in names.seen
    assert not names.seen & NONDETERMINISTIC


def test_deterministic_operators_compute_the_same(deterministic):
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 7, 9, requires_grad=True)
    pooled, indices = torch.nn.functional.max_pool2d(torch.randn(2, 3, 15, 18), 2, ceil_mode=True, return_indices=True)
    found = []
    for on in (True, False):
        torch.use_deterministic_algorithms(on)
        resized = [resize(maps, (25, 40), stride) for stride in (None, 4)]
        (gradient,) = torch.autograd.grad(sum(x.square().sum() for x in resized), maps)
        found.append((*resized, gradient, unpool(pooled, indices, (15, 18))))
    for deterministic_result, plain in zip(*found, strict=True):
        agree(deterministic_result, plain)


def test_process_settings(deterministic):
    network = build_segmenter(composed(*UNET), 3)
    for on in (True, False):
        optimized(network, tf32=on, keep_freed_memory=on)
        assert torch.backends.cudnn.allow_tf32 == on
        assert not torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.allow_tf32 = True
