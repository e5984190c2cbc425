"""deterministic=true: equal bits in equal runs, with operators whose CUDA kernels do not refuse."""

import pytest
import torch
from conftest import TINY, agree, composed
from torch.utils._python_dispatch import TorchDispatchMode

from segframe.config.instantiate import instantiate
from segframe.models.build import build_segmenter
from segframe.models.heads.segnet import unpool
from segframe.models.ops.bilinear import resize
from segframe.models.weights import checkpoint
from segframe.training import performance

# What PyTorch lists as refusing on CUDA, of what segmentation networks and losses are made of (torch 2.15,
# use_deterministic_algorithms). Bilinear interpolation is not listed: there PyTorch itself takes another way on CUDA.
REFUSING = {
    *("max_unpool2d", "replication_pad2d_backward", "reflection_pad2d_backward", "_adaptive_avg_pool2d_backward"),
    *("adaptive_max_pool2d_backward", "nll_loss2d_forward", "grid_sampler_2d_backward", "histc", "put_", "cumsum"),
    *("scatter_add", "scatter_add_", "scatter_reduce", "kthvalue", "median", "avg_pool3d_backward"),
}


@pytest.fixture
def deterministic():
    performance.set_deterministic(True)
    yield
    performance.set_deterministic(False)


class Names(TorchDispatchMode):
    """Notes down the names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "words",
    [
        ("backbone=resnet18", "head=deeplabv3plus", "aux_head=fcn"),
        ("backbone=vgg11", "head=fcn8s"),
        ("model=segnet",),
        ("model=unet_bilinear",),
        ("backbone=resnet18", "head=deeplabv2", "multi_scale=deeplabv2"),
        ("backbone=resnet18", "head=fcn", "loss=cross_entropy_dice"),
        ("backbone=resnet18", "head=deeplabv1", "loss=cross_entropy_coarse"),
    ],
)
def test_no_operator_refuses_on_a_gpu(deterministic, words):
    config = composed(*words, "data.weights=null")
    segmenter, loss = build_segmenter(config, 5), instantiate(config.loss, "loss")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mask = torch.randint(0, 5, (2, 64, 64), dtype=torch.uint8)
    with Names() as names:
        sum(loss(logits, mask) for logits in segmenter.outputs(images).values()).backward()
    assert "convolution_backward" in names.seen
    assert not names.seen & REFUSING


def test_the_other_ways_compute_the_same():
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 7, 9, requires_grad=True)
    pooled, indices = torch.nn.functional.max_pool2d(torch.randn(2, 3, 15, 18), 2, ceil_mode=True, return_indices=True)
    found = []
    for wanted in (False, True):
        performance.set_deterministic(wanted)
        try:
            resized = [resize(maps, (25, 40), stride) for stride in (None, 4)]
            (gradient,) = torch.autograd.grad(sum(x.square().sum() for x in resized), maps)
            found.append((*resized, gradient, unpool(pooled, indices, (15, 18))))
        finally:
            performance.set_deterministic(False)
    for plain, other in zip(*found, strict=True):
        agree(other, plain)


def test_two_runs_end_with_the_same_bits(run, tmp_path):
    words = (*TINY, "trainer.max_steps=4", "trainer.val_every_n_steps=2", "deterministic=true")
    states = []
    try:
        for name in ("first", "second"):
            assert run("train.py", *words, f"output_dir={name}").code == 0
            content = checkpoint.load_file(tmp_path / name / "checkpoints/last.ckpt")
            assert content[checkpoint.KEY]["config"]["deterministic"]
            states.append(content["state_dict"])
    finally:
        performance.set_deterministic(False)
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
