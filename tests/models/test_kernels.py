"""Triton kernels of loss, classes and counts: in Triton's interpreter, compiled, on a GPU, and where they are used."""

import logging
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from segframe.inference.metrics import ConfusionMatrix
from segframe.models.logits import Logits
from segframe.models.losses.cross_entropy import CrossEntropy
from segframe.models.losses.ohem import OHEMCrossEntropy
from segframe.models.ops import argmax, cross_entropy, pixelwise
from segframe.models.ops.targets import Targets

pytest.importorskip("triton", reason="needs Triton")
GPU = torch.device("cuda", 0)


def interpret(first_seed, last_seed):
    """Run the checks in Triton's interpreter, which has to be chosen before Triton is imported."""
    if tuple(map(int, re.findall(r"\d+", metadata.version("triton"))[:2])) < (3, 9):
        pytest.skip("Triton's interpreter runs with this NumPy from 3.9 on")
    script = Path(__file__).with_name("interpreted_kernels.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, script, str(first_seed), str(last_seed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kernels_agree_with_float64():
    interpret(0, 0)


@pytest.mark.slow
def test_random_shapes_and_options_agree_with_float64():
    interpret(0, 30)


@pytest.fixture
def resources(tmp_path, monkeypatch):
    """The module that compiles kernels, into a cache of its own."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import kernel_resources

    if not kernel_resources.HAS_TOOLS:
        pytest.skip("needs ptxas and cuobjdump, which Triton's packages for Linux have")
    return kernel_resources


def test_the_gradient_spills_no_registers(resources):
    launches = resources.launches(torch.bfloat16, 33, 129, True, 0.1)
    launch = next(each for each in launches if each.kernel.fn.__name__ == "coarse_gradient_kernel")
    found = resources.resources(launch, 90)
    assert found["spilled"] == 0
    assert found["registers"] <= 128  # 16 warps on a multiprocessor


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_no_kernel_spills_registers(resources, capability):
    variants = list(resources.variants())
    assert len({launch.kernel.fn.__name__ for launch in variants}) == 5
    assert [str(each) for each in variants if resources.resources(each, capability)["spilled"]] == []


@pytest.mark.parametrize(
    ("device", "dtype", "used"),
    [
        ("cuda", torch.float32, True),
        ("cuda", torch.bfloat16, True),
        ("cuda", torch.float64, False),
        ("cpu", torch.float32, False),
        ("meta", torch.float32, False),
    ],
)
def test_kernels_are_for_cuda(device, dtype, used, monkeypatch):
    monkeypatch.setattr(pixelwise, "_kernels", lambda device: pixelwise)
    assert (pixelwise.kernels_for(SimpleNamespace(device=torch.device(device), dtype=dtype)) is pixelwise) == used


def test_gpus_without_kernels(monkeypatch, caplog):
    find = pixelwise._kernels.__wrapped__

    def failing(name):
        raise RuntimeError("Failed to find C compiler.\nPlease specify one")

    monkeypatch.setattr("importlib.import_module", failing)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert find(GPU) is None
    assert not caplog.records
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with caplog.at_level(logging.WARNING):
        assert find(GPU) is None
    assert [record.message for record in caplog.records] == [
        "losses and classes are computed without Triton's kernels, which is slower "
        "(RuntimeError: Failed to find C compiler.)"
    ]


class Recorder:
    """In the place of the kernels."""

    def __init__(self):
        self.calls = []

    def cross_entropy(self, values, *operands):
        self.calls.append("cross_entropy")
        return cross_entropy.cross_entropy(values, *operands)

    def classes(self, values, *operands):
        self.calls.append("classes")
        return argmax.classes(values, *operands)

    def count_pairs(self, prediction, truth, matrix):
        self.calls.append("count_pairs")
        matrix += len(prediction)


def test_losses_classes_and_counts_use_them(monkeypatch):
    recorder = Recorder()
    logits, mask = Logits(torch.randn(2, 3, 4, 5), (9, 11), None), torch.zeros(2, 9, 11, dtype=torch.uint8)
    losses = CrossEntropy(None, 0.1), OHEMCrossEntropy(0.7, 0.1, None)
    expected = [loss(logits, mask) for loss in losses]
    monkeypatch.setattr(pixelwise, "kernels_for", lambda x: recorder)
    assert [loss(logits, mask) for loss in losses] == expected
    confusion = ConfusionMatrix(3)
    confusion.update(logits.classes(), mask)
    assert recorder.calls == ["cross_entropy", "cross_entropy", "classes", "count_pairs"]
    assert (confusion.matrix == 2).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("classes", "cells", "size", "stride"),
    [
        (21, (33, 41), (129, 161), None),
        (21, (33, 41), (129, 161), 4),
        (150, (17, 9), (260, 131), 16),
        (2, (5, 5), (160, 155), None),
        (19, (65, 70), (65, 70), None),
    ],
)
def test_kernels_agree_with_bands_on_the_gpu(classes, cells, size, stride, layout, dtype):
    kernels = pixelwise._kernels(GPU)
    if kernels is None:
        pytest.skip("needs a GPU of compute capability 8.0 or newer")
    generator = torch.Generator().manual_seed(0)
    values = (4 * torch.randn(3, classes, *cells, generator=generator)).to(GPU, dtype, memory_format=layout)
    mask = torch.randint(0, classes, (3, *size), generator=generator).to(torch.uint8)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = 255
    mask, weights = mask.to(GPU), torch.rand(classes, generator=generator).to(GPU)

    def step(form, class_weights, smoothing) -> tuple[Tensor, Tensor, Tensor]:
        x = values.detach().requires_grad_()
        with torch.autocast("cuda", torch.bfloat16):
            total, weight = form.cross_entropy(x, size, stride, Targets(mask, class_weights, smoothing))
        (gradient,) = torch.autograd.grad(total * 1.7, x)
        return total, weight, gradient

    for settings in ((None, 0.0), (weights, 0.1)):
        found, again, expected = step(kernels, *settings), step(kernels, *settings), step(cross_entropy, *settings)
        assert all(map(torch.equal, found, again))
        assert (found[2].dtype, found[2].stride()) == (dtype, values.stride())
        torch.testing.assert_close(found[:2], expected[:2], rtol=1e-5, atol=0)
        rounding = {torch.float32: 1e-4, torch.bfloat16: 2**-7, torch.float16: 2**-9}[dtype]
        torch.testing.assert_close(found[2], expected[2], rtol=rounding, atol=1e-5 * found[2].abs().max().item())
    best, full = kernels.classes(values, size, stride), Logits(values, size, stride).full()
    gap = full.amax(1) - full.gather(1, best.long()[:, None])[:, 0]
    assert gap.max() <= 1e-5 * full.abs().max()
    matrix, plain = (torch.zeros(classes, classes, dtype=torch.int64) for _ in range(2))
    counted = matrix.to(GPU)
    kernels.count_pairs(best, mask, counted)
    pixelwise.count_pairs(best.cpu(), mask.cpu(), plain)
    assert torch.equal(counted.cpu(), plain)
