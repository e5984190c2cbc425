"""Curves, images, progress and reports of a small run with Lightning."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from segframe.data.build import RunLength
from segframe.training.callbacks import (
    ConfusionMatrixPicture,
    FinalReport,
    HParams,
    ProgressBar,
    TrainingCurves,
    ValidationImages,
)
from segframe.training.callbacks.training_curves import learning_rates
from segframe.training.loggers import CSVLogger, TensorBoard


class Noise(Dataset[dict[str, Any]]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.randint(256, (3, 16, 16), dtype=torch.uint8)
        return {"image": image, "mask": (image[0] > 128).byte(), "name": f"noise{index}"}


class Confusion:
    matrix = torch.tensor([[90, 10], [30, 70]])


class Module(LightningModule):
    """What callbacks need of a SegmentationModule, with metrics known beforehand."""

    classes = ("background", "bright")
    palette = ((0, 0, 0), (255, 200, 0))
    config = OmegaConf.create({"optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "seed": 0, "deterministic": True})
    mious = (0.3, 0.6, 0.5, 0.4)

    def __init__(self, total_steps: int) -> None:
        super().__init__()
        self.length = RunLength(total_steps, 2, 3)
        self.validations = 0
        self.net = nn.Conv2d(3, 2, 1)
        self.confusion = Confusion()
        self.metrics: dict[str, float] = {}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self.net(batch["image"] / 255), batch["mask"].long())

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return {"classes": batch["mask"].long()}

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        self.metrics = {"val/loss": 0.5, "val/miou": self.mious[self.validations], "val/pixel_accuracy": 0.8}
        self.metrics |= {"val/mean_accuracy": 0.8, "val/fwiou": 0.66}
        self.metrics |= {"val/iou/background": 0.69, "val/iou/bright": 0.64}
        self.validations += 1
        self.log_dict(self.metrics | {"step": float(self.trainer.global_step)})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        weight, bias = self.net.weight, self.net.bias
        groups = [{"params": [weight], "name": "head"}, {"params": [bias], "name": "head/bias", "lr": 0.2}]
        return torch.optim.SGD(groups, lr=0.1)


def fit(folder: Path, accumulate: int = 1, **settings: Any) -> Module:
    checkpoint = ModelCheckpoint(
        dirpath=folder / "checkpoints", filename="best", monitor="val/miou", mode="max", save_on_train_epoch_end=False
    )
    callbacks = [ValidationImages(3), ConfusionMatrixPicture(), HParams(), ProgressBar(2), FinalReport()]
    module = Module(total_steps=6 // accumulate)
    trainer = Trainer(
        **{
            "max_epochs": 1,
            "val_check_interval": 3,
            "num_sanity_val_steps": 1,
            "accumulate_grad_batches": accumulate,
            "accelerator": "cpu",
            "default_root_dir": folder,
            "callbacks": [TrainingCurves(2), *callbacks, checkpoint],
            "logger": [TensorBoard(str(folder)), CSVLogger(str(folder))],
            "enable_model_summary": False,
            "log_every_n_steps": 0,
            **settings,
        }
    )
    trainer.fit(module, DataLoader(Noise(24), batch_size=4), DataLoader(Noise(5), batch_size=1))
    return module


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("accumulate", "written"), [(1, [2, 3, 4, 6]), (2, [1, 2, 3])])
def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], accumulate: int, written: list[int]) -> None:
    module = fit(tmp_path, accumulate)
    validated = [3, 6] if accumulate == 1 else [1, 3]

    log = EventAccumulator(str(tmp_path), {"images": 0, "scalars": 0}).Reload()
    assert set(log.Tags()["scalars"]) == {
        *("epoch", "train/loss", "lr/head", "lr/head/bias", "speed/images_per_second", "speed/data_wait", "best/miou"),
        *module.metrics,
    }
    assert [event.step for event in log.Scalars("train/loss")] == written
    assert [event.step for event in log.Scalars("val/miou")] == validated
    assert [event.value for event in log.Scalars("best/miou")] == pytest.approx([0.3, 0.6])
    assert [event.value for event in log.Scalars("epoch")] == [step / 2 for step in written]
    assert log.Tags()["images"] == [f"validation/{name}" for name in ("0_noise0", "1_noise2", "2_noise4", "confusion")]
    for tag in log.Tags()["images"]:
        assert [event.step for event in log.Images(tag)] == validated
    assert {"_hparams_/session_start_info", "_hparams_/session_end_info"} <= set(log.summary_metadata)

    table = rows(tmp_path)
    assert [int(row["step"]) for row in table] == written
    assert [int(row["step"]) for row in table if row["val/miou"]] == validated
    assert all(0 < float(row["train/loss"]) < 5 and 0 <= float(row["speed/data_wait"]) <= 1 for row in table)
    assert all(float(row["speed/images_per_second"]) > 0 for row in table)
    assert {row["lr/head/bias"] for row in table} == {"0.2"}

    out = capsys.readouterr().out
    line = r"step (\d+)/\d+ · epoch [\d.]+ · train/loss [\d.]+ · val/loss 0.500 · val/miou [\d.]+ \(best [\d.]+\) · "
    assert [int(step) for step in re.findall(line + r"[\d.]+ images/s · \d+ % waiting for data", out)] == validated
    assert "mean over classes" in out
    assert re.search(rf"best val/miou 0\.6000 +{re.escape(str(tmp_path))}/checkpoints/best\.ckpt\n", out)
    assert f"tensorboard --logdir {tmp_path}\n" in out
    assert len(list(tmp_path.iterdir())) == 3


def test_without_tensorboard_and_curves(tmp_path: Path) -> None:
    callbacks = [ValidationImages(), ConfusionMatrixPicture(), HParams(), ProgressBar(), FinalReport()]
    logger = CSVLogger(str(tmp_path))
    fit(tmp_path, callbacks=callbacks, logger=logger, enable_checkpointing=False)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    assert rows(tmp_path)[-1]["val/miou"] == "0.6"


def test_the_bar_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    fit(tmp_path)
    out = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().out)
    assert re.search(r"epoch 3\.0/3 ━+ 6/6 .*loss \d\.\d{3} val 0\.500 miou 0\.600", out)
    assert "step 6/6 · epoch 3.0" in out


def test_the_training_loss_is_the_mean_since_the_last_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    step = Module.training_step

    def training_step(self: Module, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = step(self, batch, batch_idx)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(Module, "training_step", training_step)
    fit(tmp_path)
    found = [float(row["train/loss"]) for row in rows(tmp_path)]
    means = [sum(losses[a:b]) / (b - a) for a, b in ((0, 2), (2, 3), (3, 4), (4, 6))]
    assert found == pytest.approx(means, rel=1e-4)


@pytest.mark.parametrize("callback", [HParams, ProgressBar])
def test_the_best_score_is_kept_for_a_resumed_run(callback: type[Any]) -> None:
    first, second = callback(), callback()
    first.best = 0.7
    second.load_state_dict(first.state_dict())
    assert second.best == 0.7


def test_learning_rates_are_merged_by_part_if_they_agree() -> None:
    groups = [("backbone", 0.1), ("backbone/bias", 0.1), ("head", 1.0), ("head/bias", 2.0)]
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "name": name, "lr": lr} for name, lr in groups])
    assert learning_rates(optimizer) == {"backbone": 0.1, "head": 1.0, "head/bias": 2.0}
