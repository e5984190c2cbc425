import csv
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

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


class Task(LightningModule):
    classes = ("background", "bright")
    palette = ((0, 0, 0), (255, 200, 0))
    flat_config: ClassVar = {"model": "tiny", "lr": 0.1, "pretrained": True}
    steps_per_epoch = 2
    mious = (0.3, 0.6, 0.5, 0.4)

    def __init__(self, total_steps: int, validations: int = 0) -> None:
        super().__init__()
        self.total_steps = total_steps
        self.validations = validations
        self.net = nn.Conv2d(3, 2, 1)
        self.confusion = Confusion()
        self.metrics: dict[str, float] = {}
        self.running_loss, self.running_batches, self.fetched = torch.zeros(()), 0, 0

    def loss(self, batch: dict[str, Any]) -> Tensor:
        return functional.cross_entropy(self.net(batch["image"] / 255), batch["mask"].long())

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.running_loss += loss.detach()
        self.running_batches += 1
        return loss

    def take_running_loss(self) -> float:
        mean = (self.running_loss / self.running_batches).item()
        self.running_loss.zero_()
        self.running_batches = 0
        self.fetched += 1
        return mean

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


def checkpoints(folder: Path) -> list[ModelCheckpoint]:
    common: dict[str, Any] = {"dirpath": folder / "checkpoints", "enable_version_counter": False}
    best = ModelCheckpoint(**common, filename="best", monitor="val/miou", mode="max", save_on_train_epoch_end=False)
    return [best, ModelCheckpoint(**common, filename="last", save_on_train_epoch_end=False)]


def make_trainer(folder: Path, accumulate: int = 1, curves: TrainingCurves | None = None) -> Trainer:
    ours = [
        curves or TrainingCurves(2),
        ValidationImages(3),
        ConfusionMatrixPicture(),
        HParams(),
        ProgressBar(2),
        FinalReport(),
    ]
    return Trainer(
        max_epochs=1,
        val_check_interval=3,
        num_sanity_val_steps=1,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[*ours, *checkpoints(folder)],
        logger=[TensorBoard(str(folder)), CSVLogger(str(folder))],
        enable_model_summary=False,
        log_every_n_steps=0,
    )


def loaders(batches: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    return DataLoader(Noise(4 * batches), batch_size=4), DataLoader(Noise(5), batch_size=1)


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), {"images": 0, "scalars": 0}).Reload()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("accumulate", "written"), [(1, [2, 3, 4, 6]), (2, [1, 2, 3])])
def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], accumulate: int, written: list[int]) -> None:
    module, curves = Task(total_steps=6 // accumulate), TrainingCurves(2)
    trainer = make_trainer(tmp_path, accumulate, curves)
    trainer.fit(module, *loaders(6))
    validated = [3, 6] if accumulate == 1 else [1, 3]

    log = events(tmp_path)
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
    assert module.fetched == len(written)  # the bar asks for no loss of its own
    assert curves.last["lr/head/bias"] == 0.2

    out = capsys.readouterr().out
    line = r"step (\d+)/\d+ · epoch [\d.]+ · train/loss [\d.]+ · val/loss 0.500 · val/miou [\d.]+ \(best [\d.]+\) · "
    assert [int(step) for step in re.findall(line + r"[\d.]+ images/s · \d+ % waiting for data", out)] == validated
    assert "mean over classes" in out
    assert re.search(rf"best val/miou 0\.6000 +{re.escape(str(tmp_path))}/checkpoints/best\.ckpt\n", out)
    assert f"tensorboard --logdir {tmp_path}\n" in out
    assert sorted(path.name for path in tmp_path.iterdir())[0] == "checkpoints"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_checkpoints_keep_their_names_and_a_run_resumes_from_the_last(tmp_path: Path) -> None:
    make_trainer(tmp_path).fit(Task(total_steps=12), *loaders(9))
    folder = tmp_path / "checkpoints"
    steps = {path.name: torch.load(path, weights_only=True)["global_step"] for path in folder.iterdir()}
    assert steps == {"best.ckpt": 6, "last.ckpt": 9}  # the third validation was no improvement
    first = {path.name for path in tmp_path.iterdir()}

    resumed = make_trainer(tmp_path)
    resumed.fit_loop.max_epochs = 2
    resumed.fit(Task(total_steps=12, validations=3), *loaders(3), ckpt_path=folder / "last.ckpt")
    assert resumed.global_step == 12
    assert [int(row["step"]) for row in rows(tmp_path)] == [2, 3, 4, 6, 8, 9, 10, 12]
    best = events(tmp_path).Scalars("best/miou")
    assert [(event.step, round(event.value, 3)) for event in best] == [(3, 0.3), (6, 0.6), (9, 0.6), (12, 0.6)]
    (added,) = {path.name for path in tmp_path.iterdir()} - first
    assert b"session_start_info" not in (tmp_path / added).read_bytes()


def test_without_tensorboard_only_the_csv_is_written(tmp_path: Path) -> None:
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[ValidationImages(), ConfusionMatrixPicture(), HParams(), ProgressBar(), FinalReport()],
        logger=CSVLogger(str(tmp_path)),
        enable_model_summary=False,
        log_every_n_steps=0,
        enable_checkpointing=False,
    )
    trainer.fit(Task(total_steps=2), *loaders(2))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    assert rows(tmp_path)[0]["val/miou"] == "0.3"


def test_the_bar_shows_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    make_trainer(tmp_path).fit(Task(total_steps=6), *loaders(6))
    out = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().out)
    assert re.search(r"epoch 3\.0/3 ━+ 6/6 .*loss \d\.\d{3} val 0\.500 miou 0\.600", out)
    assert "step 6/6 · epoch 3.0" in out


def test_rates_are_merged_by_part_where_they_agree() -> None:
    groups = [("backbone", 0.1), ("backbone/bias", 0.1), ("head", 1.0), ("head/bias", 2.0)]
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "name": name, "lr": lr} for name, lr in groups])
    assert learning_rates(optimizer) == {"backbone": 0.1, "head": 1.0, "head/bias": 2.0}
