"""The report of epochs that waited for data."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from segframe.training import step_timer
from segframe.training.callbacks import TrainingCurves
from segframe.training.callbacks.dataloader_report import DataloaderReport, advice
from segframe.training.module import SegmentationModule


class SlowDataset(Dataset[Tensor]):
    cache = None
    reads_files = True

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 8

    def read(self, index: int) -> None:
        time.sleep(self.seconds / 10)

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(self.seconds)
        return torch.ones(1)


class Model(LightningModule):
    length = SimpleNamespace(steps_per_epoch=2)

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seconds = seconds

    idle_since = None
    on_train_batch_end = SegmentationModule.on_train_batch_end
    on_validation_end = SegmentationModule.on_validation_end

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        time.sleep(self.seconds)
        return self.layer(batch).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def output_of(seconds_to_load, seconds_to_train, capsys, tmp_path):
    trainer = Trainer(
        max_epochs=1,
        accumulate_grad_batches=2,
        accelerator="cpu",
        callbacks=[DataloaderReport(0.3)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Model(seconds_to_train), DataLoader(SlowDataset(seconds_to_load)))
    return capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*GPU available but not used.*")
def test_the_first_epoch_that_waits_is_reported(capsys, tmp_path):
    slow = output_of(0.03, 0.0, capsys, tmp_path)
    assert slow.count("the model waited") == slow.count("epoch 1: the model waited") == 1
    assert "% of the time for data (no workers" in slow
    assert "data.num_workers=" in slow
    assert "waited" not in output_of(0.0, 0.03, capsys, tmp_path)


def test_on_a_gpu_only_an_empty_queue_is_waiting(monkeypatch):
    class Queue:
        done = 0.0

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = max(Queue.done, program)

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, other: "Event") -> float:
            return 1e3 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    step_clock, gpu, program = step_timer.StepTimer(), torch.device("cuda"), 0.0
    idle_since = None

    def steps(seconds_to_load: float, seconds_to_train: float) -> None:
        nonlocal program, idle_since
        for _ in range(10):
            program += seconds_to_load
            step_clock.start(gpu, idle_since)
            Queue.done = max(Queue.done, program) + seconds_to_train
            idle_since = step_timer.moment(gpu)

    steps(0.1, 0.3)
    assert step_clock.take(gpu) == pytest.approx((0.0, 3.0))
    program = Queue.done
    steps(0.3, 0.1)
    share, _ = step_clock.take(gpu)
    assert share == pytest.approx(0.72, abs=0.06)


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(step_timer, "perf_counter", lambda: self.now)


def test_loading_after_a_validation_is_waiting_the_validation_is_not(monkeypatch):
    clock, cpu = Clock(monkeypatch), torch.device("cpu")
    module = SimpleNamespace(device=cpu, length=SimpleNamespace(steps_per_epoch=10), batch_loss=torch.ones(()))
    module.idle_since = None
    trainer = SimpleNamespace(global_step=0, sanity_checking=False, world_size=1, loggers=[])
    trainer.optimizers = [torch.optim.SGD([{"params": [torch.ones(1)], "name": "head"}], 0.1)]
    curves, batch = TrainingCurves(every_n_steps=100), {"image": torch.zeros(8, 3, 2, 2)}
    for step in range(1, 5):
        clock.now += 3.0  # loading
        curves.on_train_batch_start(trainer, module, batch, step)
        clock.now += 1.0  # the step
        trainer.global_step = step
        curves.on_train_batch_end(trainer, module, None, batch, step)
        clock.now += 0.5  # a checkpoint is written
        SegmentationModule.on_train_batch_end(module, None, batch, step)
        curves.on_validation_start(trainer, module)
        assert curves.last["speed/images_per_second"] == pytest.approx(8 / (1.5 if step == 1 else 4.5))
        assert curves.last["speed/data_wait"] == pytest.approx(0 if step == 1 else 3 / 4.5)
        clock.now += 100.0  # the validation
        SegmentationModule.on_validation_end(module)


class Reading(SlowDataset):
    """Of whose seconds per sample a share is spent on reading."""

    def __init__(self, share: float, cache: str | None = None, reads_files: bool = True) -> None:
        super().__init__(0.01)
        self.share, self.cache, self.reads_files = share, cache, reads_files

    def read(self, index: int) -> None:
        time.sleep(self.share * self.seconds)


@pytest.mark.parametrize(
    ("workers", "dataset", "setting"),
    [
        (0, Reading(0.9), "data.num_workers=4"),
        (1, Reading(0.3), "data.num_workers=4"),
        (1, Reading(0.9), "data.cache=disk"),
        (3, Reading(0.3), "data.cache=disk"),
        (4, Reading(0.3), "data.cache=disk"),
        (1, Reading(0.9, cache="disk"), "data.num_workers=4"),
        (4, Reading(0.9, cache="disk"), "transforms=light"),
        (4, Reading(0.9, reads_files=False), "transforms=light"),
    ],
)
def test_advice(monkeypatch, workers, dataset, setting):
    monkeypatch.setattr("segframe.training.callbacks.dataloader_report.num_cores", lambda: 4)
    assert setting in advice(SimpleNamespace(num_workers=workers, dataset=dataset))


def test_devices_share_the_cores(monkeypatch):
    monkeypatch.setattr("segframe.training.callbacks.dataloader_report.num_cores", lambda: 16)
    monkeypatch.setattr("segframe.distributed.local_world", lambda: 2)
    assert "data.num_workers=8" in advice(SimpleNamespace(num_workers=4, dataset=Reading(0.3)))
