"""Training on several devices: the same run as on one. Processes on a CPU, connected by gloo."""

import copy
import inspect
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from conftest import RUN, UNET, photo, rows
from PIL import Image
from processes import connected, fork, program
from pytorch_lightning import Callback, Trainer
from torch import nn

from segframe import distributed
from segframe.data.sampling import BatchSampler
from segframe.errors import UserError
from segframe.models.heads.deeplab import ImagePooling
from segframe.models.logits import Logits
from segframe.models.losses import CoarseLabels, CrossEntropy, Dice, Focal, LovaszSoftmax, OHEMCrossEntropy, WeightedSum
from segframe.models.ops.sync_batch_norm import SyncBatchNorm, is_synchronized, synchronize
from segframe.models.weights import checkpoint
from segframe.training.ddp import average_statistics, gather_masks, no_broadcast_of_signals

SAME = (*UNET, *RUN[2:], "data.batch_size=6", "trainer.max_steps=6", "trainer.val_every_n_steps=3")
DOUBLE = ("trainer.precision=64-true", "optimizer.lr=0.001")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def weights(folder, name="last"):
    return checkpoint.load_file(folder / f"checkpoints/{name}.ckpt")["state_dict"]


def run_on(devices, *words):
    """The output of a program on so many devices."""
    ended = fork(devices, program, *words)
    assert [process.code for process in ended] == [0] * devices, ended
    assert not any(process.out for process in ended[1:]), ended
    return ended[0].out


def validations(folder):
    """The figures of each validation, as they are written."""
    return [{k: v for k, v in row.items() if k.startswith("val/")} for row in rows(folder / "metrics.csv")]


def largest_difference(first, second):
    assert first.keys() == second.keys()
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


def test_several_devices_train_as_one(tmp_path):
    """In float64: the same weights to within rounding, and the same figures of 5 images, shared unevenly."""
    words = ("train.py", *SAME, *DOUBLE, "logger=default", "trainer.sync_batch_norm=true")
    words += ("data.dataset.num_images={train: 14, val: 5, test: 2}",)
    first_out = run_on(1, *words, "output_dir=1")
    expected = weights(tmp_path / "1")
    validated = validations(tmp_path / "1")
    assert len(validated) == 2
    for devices in (2, 3):
        out = run_on(devices, *words, f"output_dir={devices}")
        assert out.count("step 6/6") == first_out.count("step 6/6")
        assert largest_difference(weights(tmp_path / str(devices)), expected) <= 1e-14
        assert validations(tmp_path / str(devices)) == validated


def test_two_devices_are_two_accumulated_batches(tmp_path):
    """In float32, bit for bit, where no layer computes statistics of its batch."""
    words = ("train.py", *SAME, "batch_norm.frozen=statistics", "trainer.precision=32-true")
    run_on(2, *words, "output_dir=devices")
    accumulated = ("data.batch_size=3", "trainer.accumulate_grad_batches=2", "output_dir=batches")
    run_on(1, *words, *accumulated)
    assert largest_difference(weights(tmp_path / "devices"), weights(tmp_path / "batches")) == 0


def batch():
    """Logits of four images, whose masks hold unequal shares of void."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=generator)
    masks = torch.randint(0, 3, (4, 12, 12), dtype=torch.uint8, generator=generator)
    masks[:1, 2:] = masks[1, :3] = masks[3, :, 4:] = 255
    return values, masks


LOSSES = {
    "mean": CrossEntropy(None, 0.0),
    "class weights": CrossEntropy([0.2, 3.0, 1.0], 0.1),
    "mean over pixels": CrossEntropy([0.2, 3.0, 1.0], 0.0, "pixel_mean"),
    "sum": CrossEntropy(None, 0.0, "sum"),
    "dice": Dice(1.0),
    "focal": Focal(2.0, [0.2, 3.0, 1.0]),
    "ohem": OHEMCrossEntropy(0.3, 0.1, [0.2, 3.0, 1.0]),
    "lovasz": LovaszSoftmax(per_image=True),
    "sum of losses": WeightedSum({"a": CrossEntropy(None, 0.0), "b": Dice(0.0)}, {"a": 0.5, "b": 2.0}),
    "coarse": CoarseLabels(CrossEntropy(None, 0.0)),
}


def loss_and_gradient(loss, values, masks, *step_masks):
    values = values.clone().requires_grad_()
    total = loss(Logits(values, (12, 12), None), masks, *step_masks)
    total.backward()
    return total.detach(), values.grad


def compare_losses():
    """On each of two devices: the shares of its images against the batch of all."""
    values, masks = batch()
    own = slice(2 * distributed.rank(), 2 * distributed.rank() + 2)
    step_masks = gather_masks([masks[own]])
    assert torch.equal(torch.cat(step_masks), masks)
    for name, loss in LOSSES.items():
        expected, gradient = loss_and_gradient(loss, values, masks)
        share, own_gradient = loss_and_gradient(loss, values[own], masks[own], step_masks)
        torch.testing.assert_close(distributed.total(share), expected, msg=name)
        torch.testing.assert_close(own_gradient, gradient[own], msg=name)
        mean, _ = loss_and_gradient(loss, values[own], masks[own])
        assert name in ("sum", "lovasz") or abs(distributed.total(mean) / 2 - expected) > 1e-6, name


def compare_norms():
    """On each of two devices, with one image and three: a synchronized layer against one that sees all images."""
    images = torch.randn(4, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 7
    own = [slice(0, 1), slice(1, 4)][distributed.rank()]
    one, several = nn.BatchNorm2d(3).double(), nn.Sequential(nn.BatchNorm2d(3)).double()
    synchronize(several, on_gpu=False)
    assert type(several[0]) is SyncBatchNorm
    all_images, own_images = images.clone().requires_grad_(), images[own].clone().requires_grad_()
    expected, found = one(all_images), several(own_images)
    torch.testing.assert_close(found, expected[own], rtol=0, atol=1e-14)
    weight = torch.arange(expected.numel(), dtype=torch.float64).reshape(expected.shape).sin()
    (expected * weight).sum().backward()
    (found * weight[own]).sum().backward()
    torch.testing.assert_close(own_images.grad, all_images.grad[own], rtol=0, atol=1e-13)
    torch.testing.assert_close(distributed.total(several[0].weight.grad), one.weight.grad, rtol=0, atol=1e-12)
    for name, buffer in one.named_buffers():
        torch.testing.assert_close(several[0].get_buffer(name), buffer, rtol=0, atol=1e-14)
    # A single image on each device has no variance of its own, but has one with that of the other.
    pooling = ImagePooling(3, 4).double()
    shared = copy.deepcopy(pooling)
    synchronize(shared, on_gpu=False)
    pair = images[:2]
    torch.testing.assert_close(shared(pair[distributed.rank()][None])[0], pooling(pair)[distributed.rank()])
    assert is_synchronized(shared.bn)
    # Without synchronization the running statistics are averaged before they are used.
    layer = nn.BatchNorm2d(2)
    layer.running_mean.fill_(1.0 + distributed.rank())
    average_statistics(layer)
    assert layer.running_mean.tolist() == [1.5, 1.5]


def compare_small_masks():
    """Masks of different sizes are padded with void."""
    side = 2 + distributed.rank()
    first, second = gather_masks([torch.full((1, side, side), distributed.rank(), dtype=torch.uint8)])
    assert first[0].tolist() == [[0, 0, 255], [0, 0, 255], [255, 255, 255]]
    assert second.unique().tolist() == [1]


@pytest.mark.parametrize("function", [compare_losses, compare_norms, compare_small_masks])
def test_losses_norms_and_masks_of_two_devices_equal_those_of_one(function):
    for ended in fork(2, connected, function):
        assert ended.code == 0, ended.out


def test_each_device_gets_its_part_of_every_batch(monkeypatch):
    whole = list(BatchSampler(10, 6, 4, seed=3))
    monkeypatch.setattr(distributed, "world", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(list(BatchSampler(10, 6, 4, seed=3)))
    assert [first + second + third for first, second, third in zip(*parts, strict=True)] == whole


def test_lightning_sends_no_signal_in_each_step():
    """It would wait for the GPU in each; its method, which is private, still exists."""
    trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    loop = trainer.fit_loop.epoch_loop
    sent = loop._broadcast_sigterm_tensor
    no_broadcast_of_signals(trainer)
    assert loop._broadcast_sigterm_tensor != sent
    assert inspect.getsource(type(loop).advance).count("self._broadcast_sigterm_tensor()") == 1


class Fault(Callback):
    """What happens to the second of two devices before its fourth step."""

    def __init__(self, kind):
        self.kind = kind

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 3 and distributed.rank() == 1:
            if self.kind == "mistake":
                raise UserError("data.root=x: an image cannot be read; repair it")
            if self.kind == "bug":
                raise KeyError("a bug")
            if self.kind == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.kind == "asked":
                os.kill(os.getpid(), signal.SIGTERM)
            if self.kind == "diverged":
                batch["image"] = batch["image"].float() * float("nan")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        pytest.param("mistake", "error: data.root=x: an image cannot be read; repair it", marks=pytest.mark.slow),
        ("diverged", "error: the loss of step 4 is nan"),
        pytest.param("killed", "error: another process of this job ended without a message", marks=pytest.mark.slow),
        pytest.param("bug", "KeyError: 'a bug'", marks=pytest.mark.slow),
    ],
)
def test_one_device_reports_why_all_end(tmp_path, kind, sentence):
    fault = ("trust=[test_devices]", f"+callbacks.fault={{_target_: test_devices.Fault, kind: {kind}}}")
    ended = fork(2, program, "train.py", *UNET, *RUN, *fault, "output_dir=run")
    out = "".join(process.out for process in ended)
    assert out.count(sentence) == 1, out
    assert out.count("error: ") == (kind != "bug"), out
    assert "Error executing job" not in out
    assert [process.code for process in ended] == [1, -signal.SIGKILL if kind == "killed" else 1]
    assert (tmp_path / "run/diverged.pt").exists() == (kind == "diverged")


def test_devices_end_at_the_same_step_and_another_number_resumes(tmp_path):
    """A signal that one device gets ends both after the step; one device goes on as if there had been two."""
    words = ("train.py", *SAME, *DOUBLE, "trainer.sync_batch_norm=true")
    run_on(2, *words, "output_dir=whole")
    fault = ("trust=[test_devices]", "+callbacks.fault={_target_: test_devices.Fault, kind: asked}")
    ended = fork(2, program, *words, *fault, "output_dir=ended")
    assert [process.code for process in ended] == [75, 75], ended
    assert ended[0].out.count("SIGTERM: step 4 is in") == 1
    assert not ended[1].out
    run_on(1, *words, *fault, "resume=auto", "output_dir=ended", "trainer.devices=1")
    assert largest_difference(weights(tmp_path / "ended"), weights(tmp_path / "whole")) <= 1e-13


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data.batch_size=3"], "data.batch_size=3: it is that of all 2 devices together, which have equal parts"),
        (["data.dataset.num_images={train: 12, val: 1, test: 1}"], "there are 1 validation images to share"),
        (["loss=unknown"], "loss=unknown"),
        (["-m", "seed=0,1"], "-m: a sweep's jobs start processes themselves"),
    ],
)
def test_one_device_reports_wrong_settings(words, sentence):
    ended = fork(2, program, "train.py", *UNET, *RUN, *words, "output_dir=run")
    out = "".join(process.out for process in ended)
    assert [process.code for process in ended] == [1, 1]
    assert out.count("error: ") == 1, out
    assert sentence in out


def test_evaluation_and_prediction_share_the_images(trained, tmp_path):
    images = "data.dataset.num_images={train: 1, val: 5, test: 1}"
    evaluate = ("scripts/evaluate.py", f"checkpoint={trained}", images, "accelerator=cpu")
    for seed in range(5):
        Image.fromarray(photo(seed)).save(tmp_path / f"{seed}.png")
    predict = ("scripts/predict.py", f"checkpoint={trained}", f"input={tmp_path}", "heatmaps=all", "accelerator=cpu")
    for devices in (1, 2):
        run_on(devices, *evaluate, f"output_dir=evaluated_{devices}")
        out = run_on(devices, *predict, f"output={tmp_path}/predicted/{devices}")
        assert out.count("5 of 5 images predicted") == 1
        shutil.move(tmp_path / f"predicted/{devices}", tmp_path.parent / f"{tmp_path.name}_{devices}")
    assert (tmp_path / "evaluated_1/metrics.json").read_bytes() == (tmp_path / "evaluated_2/metrics.json").read_bytes()
    one, two = (np.load(tmp_path / f"evaluated_{number}/images.npz") for number in (1, 2))
    assert all((one[name] == two[name]).all() for name in one)  # in the split's order
    one, two = (tmp_path.parent / f"{tmp_path.name}_{devices}" for devices in (1, 2))
    files = [path.relative_to(one) for path in one.rglob("*.*")]
    assert len(files) > 5 * 3
    assert {path.relative_to(two) for path in two.rglob("*.*")} == set(files)
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)
