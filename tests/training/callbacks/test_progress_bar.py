"""Lines of progress where standard output is no terminal."""

import re
from types import SimpleNamespace

import pytest

from segframe.data.build import RunLength
from segframe.training.callbacks import ProgressBar, TrainingCurves, progress_bar

MODULE = SimpleNamespace(length=RunLength(1000, 50, 100), metrics={"val/loss": 0.5, "val/miou": 0.25}, best=0.5)
MODULE.config = SimpleNamespace(monitor="val/miou")


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress_bar, "monotonic", lambda: clock.seconds)
    return clock


def trainer_at(step, **more):
    curves = TrainingCurves()
    curves.last = {"train/loss": 0.75, "speed/images_per_second": 20.0, "speed/data_wait": 0.02}
    return SimpleNamespace(global_step=step, sanity_checking=False, callbacks=[curves], num_val_batches=[30], **more)


def trained(clock, capsys, minutes):
    """What is printed within 200 steps of 3 seconds, after step 100."""
    bar = ProgressBar(every_n_minutes=minutes)
    bar.on_train_start(trainer_at(100), MODULE)
    for step in range(101, 301):
        clock.seconds += 3
        bar.on_train_batch_end(trainer_at(step), MODULE, None, None, 0)
    return capsys.readouterr().out.splitlines()


def test_a_line_every_few_minutes(clock, capsys):
    lines = trained(clock, capsys, 5)
    assert [line.split(" ·")[0] for line in lines] == ["step 200/1000", "step 300/1000"]
    assert lines[0] == (
        "step 200/1000 · epoch 4.0 · train/loss 0.750 · 20.0 images/s · 2 % waiting for data · 0:40:00 left"
    )


def test_no_lines_between_validations(clock, capsys):
    assert trained(clock, capsys, None) == []


def test_a_long_validation_says_how_far_it_is(clock, capsys):
    bar = ProgressBar(every_n_minutes=1)
    bar.on_train_start(trainer_at(0), MODULE)
    bar.on_validation_start(trainer_at(100), MODULE)
    for image in range(30):
        clock.seconds += 6
        bar.on_validation_batch_end(trainer_at(100), MODULE, None, {"name": ["x"]}, image)
    bar.on_validation_end(trainer_at(100), MODULE)
    *between, last = capsys.readouterr().out.splitlines()
    assert [re.search(r"validation \d+/30", line)[0] for line in between] == [
        f"validation {n}/30" for n in (10, 20, 30)
    ]
    assert "val/loss 0.500 · val/miou 0.2500 (best 0.5000)" in last
    assert last.endswith("0:27:00 left")
