"""Curves, images, progress and reports of a run."""

import re

import pytest
import torch
from conftest import UNET, rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segframe.training.callbacks.training_curves import learning_rates
from segframe.training.loggers.tensorboard import tag
from segframe.training.module import SegmentationModule

SHORT = (*UNET, "trainer.max_steps=6", "trainer.val_every_n_steps=3", "callbacks.images.num_images=2")
CURVES = {"train/loss", "val/best/miou", *(f"watch/lr/{part}" for part in ("backbone", "head"))}
CURVES |= {f"watch/speed/{name}" for name in ("images_per_second", "data_wait")}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_curves_images_and_lines(run, tmp_path, monkeypatch, accumulate):
    losses, rates, written = [], [], [2, 3, 4, 6]
    training_step = SegmentationModule.training_step

    def noted_step(self, batch, batch_idx):
        loss = training_step(self, batch, batch_idx)
        losses.append(loss.item())
        rates.append(self.optimizers().param_groups[-1]["lr"])
        return loss

    monkeypatch.setattr(SegmentationModule, "training_step", noted_step)
    words = ("callbacks.curves.every_n_steps=2", f"trainer.accumulate_grad_batches={accumulate}", "output_dir=run")
    result = run("train.py", *SHORT, *words)
    assert result.code == 0, result.out

    table = rows(tmp_path / "run/metrics.csv")
    assert [int(row["step"]) for row in table] == written
    assert [int(row["step"]) for row in table if row["val/miou"]] == [3, 6]
    slices = zip([0, *written[:-1]], written, strict=True)
    assert [float(row["lr/head"]) for row in table] == pytest.approx([rates[n * accumulate - 1] for n in written], 1e-4)
    means = [sum(losses[a * accumulate : b * accumulate]) / ((b - a) * accumulate) for a, b in slices]
    assert [float(row["train/loss"]) for row in table] == pytest.approx(means, rel=1e-4)
    assert all(0 <= float(row["speed/data_wait"]) <= 1 for row in table)
    assert all(float(row["speed/images_per_second"]) > 0 for row in table)

    log = EventAccumulator(str(tmp_path / "run"), {"images": 0, "scalars": 0}).Reload()
    assert set(log.Tags()["scalars"]) == CURVES | {tag(name) for name in table[0] if name.startswith("val/")}
    assert [event.step for event in log.Scalars("train/loss")] == written
    best = [event.value for event in log.Scalars("val/best/miou")]
    scores = [event.value for event in log.Scalars("val/miou")]
    assert best == [scores[0], max(scores)]
    epochs = [step / (3 // accumulate) for step in written]
    assert [float(row["epoch"]) for row in table] == pytest.approx(epochs, rel=1e-4)
    assert log.Tags()["images"] == ["validation/0_val_0000", "validation/1_val_0002", "validation/confusion"]
    for name in log.Tags()["images"]:
        assert [event.step for event in log.Images(name)] == [3, 6]
    assert {"_hparams_/session_start_info", "_hparams_/session_end_info"} <= set(log.summary_metadata)

    for text in (r"network  unet on unet, [\d,]+ parameters", r"device   cpu, (32-true|bf16-mixed)", r"folder   run"):
        assert len(re.findall(f"^{text}$", result.out, re.MULTILINE)) == 1, text
    assert "data     shapes, 12 images for training, 3 for validation, 8 classes\n" in result.out
    epochs = {1: 2, 2: 6}[accumulate]
    length = f"length   6 steps of {4 * accumulate} images, {epochs} epochs, a validation every 3 steps\n"
    assert length in result.out

    line = r"step (\d+)/6 · epoch [\d.]+ · train/loss [\d.]+ · val/loss [\d.]+ · val/miou [\d.]+ \(best [\d.]+\) · "
    assert re.findall(line + r"[\d.]+ images/s · \d+ % waiting for data", result.out) == ["3", "6"]
    assert "mean over classes" in result.out
    assert re.search(r"best val/miou 0\.\d{4} +\S*run/checkpoints/best\.ckpt\n", result.out)
    assert "tensorboard --logdir run\n" in result.out


def test_without_tensorboard_and_curves(run, tmp_path):
    result = run("train.py", *SHORT, "~logger.tensorboard", "~callbacks.curves", "output_dir=run")
    assert result.code == 0, result.out
    assert "train/loss" not in rows(tmp_path / "run/metrics.csv")[0]
    assert not list((tmp_path / "run").glob("events.*"))
    assert "--logdir" not in result.out


def test_the_bar_on_a_terminal(run, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    out = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", run("train.py", *SHORT, "output_dir=run").out)
    assert re.search(r"epoch 2\.0/2 ━+ 6/6 .*loss \d\.\d{3} val \d\.\d{3} miou 0\.\d{3}", out)
    assert "step 6/6 · epoch 2.0" in out


def test_learning_rates_are_merged_by_part_if_they_agree():
    groups = [("backbone", 0.1), ("backbone/bias", 0.1), ("head", 1.0), ("head/bias", 2.0)]
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "name": name, "lr": lr} for name, lr in groups])
    assert learning_rates(optimizer) == {"backbone": 0.1, "head": 1.0, "head/bias": 2.0}
