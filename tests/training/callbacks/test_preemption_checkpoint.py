"""Runs that are killed or asked to end: the same command again ends them as if nothing had happened."""

import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, UNET
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segframe import distributed, preemption
from segframe.data.datasets.shapes import Shapes
from segframe.data.image_batches import image_batches
from segframe.errors import UserError
from segframe.models.weights import checkpoint
from segframe.training.callbacks import preemption_checkpoint
from segframe.training.callbacks.preemption_checkpoint import PreemptionCheckpoint, parse_interval

WORDS = (
    *(*UNET, "trainer.max_steps=10", "trainer.val_every_n_steps=5", "trainer.checkpoint_every=3"),
    *("callbacks.curves.every_n_steps=2", "callbacks.images.num_images=1", "~callbacks.report", "resume=auto"),
)
KILLED = """
import os, runpy, sys
from segframe.training.callbacks.preemption_checkpoint import PreemptionCheckpoint
hook = PreemptionCheckpoint.on_train_batch_end
def kill(self, trainer, *args):
    if trainer.global_step == 8:
        os.killpg(0, 9)
    hook(self, trainer, *args)
PreemptionCheckpoint.on_train_batch_end = kill
sys.argv[:] = ["train.py"] + {words}
runpy.run_path({root} + "/train.py", run_name="__main__")
"""


@pytest.fixture
def handlers():
    """Puts the process's signal handlers back."""
    before = {number: signal.getsignal(number) for number in preemption.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def whole(run, tmp_path, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.getbasetemp() / "whole"
    if not folder.is_dir():
        result = run("train.py", *WORDS, "output_dir=whole")
        assert result.code == 0, result.out
        shutil.move(tmp_path / "whole", folder)
    return folder


def written(folder):
    """metrics.csv without speeds, curves and the steps of images in TensorBoard."""
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    kept = [k for k, column in enumerate(lines[0]) if not column.startswith("speed/")]
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    curves = [[(event.step, event.value) for event in events.Scalars(tag)] for tag in ("train/loss", "val/miou")]
    images = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    return [[line[k] for k in kept] for line in lines], curves, images


def check_resumed(run, whole, folder, workers, kept):
    """Run the command again; its folder then equals that of the undisturbed run."""
    assert checkpoint.load_file(folder / "checkpoints/last.ckpt")["global_step"] == kept
    result = run("train.py", *WORDS, "output_dir=parts", f"data.num_workers={2 - workers}")
    assert result.code == 0, result.out
    assert f"resuming at step {kept} of 10 (parts/checkpoints/last.ckpt)" in result.out
    first, second = (checkpoint.load_file(path / "checkpoints/last.ckpt") for path in (whole, folder))
    for name, tensor in first["state_dict"].items():
        assert torch.equal(tensor, second["state_dict"][name]), name
    for key, state in first["optimizer_states"][0]["state"].items():
        assert torch.equal(state["momentum_buffer"], second["optimizer_states"][0]["state"][key]["momentum_buffer"])
    assert first["lr_schedulers"] == second["lr_schedulers"]
    assert written(whole) == written(folder)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


@pytest.mark.parametrize(
    ("number", "hook", "step", "workers", "kept"),
    [
        (signal.SIGTERM, "on_train_batch_end", 5, 2, 5),
        (signal.SIGUSR1, "on_validation_batch_end", 5, 2, 5),
        pytest.param(signal.SIGTERM, "on_validation_batch_end", 10, 0, 9, marks=pytest.mark.slow),
    ],
)
def test_asked_to_end(run, whole, handlers, tmp_path, monkeypatch, number, hook, step, workers, kept):
    """At steps and in validations; between curves, which then show what came before too."""
    usual = getattr(PreemptionCheckpoint, hook)

    def interrupted(self, trainer, *arguments):
        if trainer.global_step == step and not trainer.sanity_checking:
            signal.raise_signal(number)
        usual(self, trainer, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PreemptionCheckpoint, hook, interrupted)
        result = run("train.py", *WORDS, "output_dir=parts", f"data.num_workers={workers}")
    assert result.code == preemption.exit_code(number), result.out
    is_written = "in" if kept == step else "not in"
    assert f": step {step} is {is_written} parts/checkpoints/last.ckpt; continue with resume=parts" in result.out
    check_resumed(run, whole, tmp_path / "parts", workers, kept)


def test_a_signal_after_the_ranks_have_agreed_ends_the_run_one_step_later(handlers, capsys):
    """Otherwise a rank that it reaches first would end while the others go on and wait for it."""
    callback = PreemptionCheckpoint("run/checkpoints/last.ckpt", 1)
    module = SimpleNamespace(length=SimpleNamespace(total_steps=9))
    written = []

    def save_checkpoint(path):
        written.append(trainer.global_step)
        callback._on_signal(signal.SIGTERM, None)

    trainer = SimpleNamespace(global_step=1, sanity_checking=False, save_checkpoint=save_checkpoint)
    callback.on_train_epoch_end(trainer, module)
    assert written == [1]
    trainer.global_step = 2
    with pytest.raises(SystemExit) as end:
        callback.on_train_epoch_end(trainer, module)
    assert end.value.code == 75
    assert "SIGTERM: step 2 is in run/checkpoints/last.ckpt" in capsys.readouterr().out


def test_killed(run, whole, tmp_path):
    words = [*WORDS, "output_dir=parts", "data.num_workers=0"]
    code = KILLED.format(words=words, root=repr(str(ROOT)))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, start_new_session=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    time.sleep(1)  # TensorBoard orders event files by the second in which they begin
    check_resumed(run, whole, tmp_path / "parts", workers=0, kept=6)


def test_signals_are_exchanged_once_per_image_of_the_smallest_share(monkeypatch):
    monkeypatch.setattr(distributed, "largest", lambda value: [max(value, -7)])  # the other device has seven images
    loader = image_batches(Shapes(None, "val", num_images={"val": 9}, size=32), 0, False)
    trainer = SimpleNamespace(val_dataloaders=loader, sanity_checking=False, callbacks=[])
    callback = PreemptionCheckpoint("last.ckpt", None)
    counts = []
    callback._agree = counts.append
    callback.on_validation_start(trainer, None)
    steps = []
    for length in (3, 1, 4, 1):
        counts.clear()
        callback.on_validation_batch_end(trainer, None, None, {"index": list(range(length))}, 0)
        steps.append(len(counts))
    assert steps == [3, 1, 3, 0]
    trainer.sanity_checking = True
    callback.on_validation_start(trainer, None)
    counts.clear()
    callback.on_validation_batch_end(trainer, None, None, {"index": [0, 1, 2]}, 0)
    assert len(counts) == 1


@pytest.mark.parametrize("number", preemption.SIGNALS)
def test_asked_to_end_before_the_first_step(capsys, handlers, number):
    preemption.listen()
    with pytest.raises(SystemExit) as end:
        signal.raise_signal(number)
    assert end.value.code == preemption.exit_code(number)
    assert "ended before the first step" in capsys.readouterr().out


def test_a_sweep_passes_a_signal_on_to_its_jobs_and_waits_for_them(capsys, handlers):
    job = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(100,))
    job.start()
    preemption.listen()
    with pytest.raises(SystemExit) as end:
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == preemption.EXIT_CODE
    assert job.exitcode == -signal.SIGTERM
    assert "the sweep ends with its jobs' current steps" in capsys.readouterr().out


def test_a_second_ctrl_c_ends_at_once(monkeypatch, capfd):
    ended = []
    monkeypatch.setattr(preemption_checkpoint, "end_at_once", lambda: ended.append(1))
    callback = PreemptionCheckpoint("x/checkpoints/last.ckpt", None)
    callback._on_signal(signal.SIGINT, None)
    assert "ends after the current step" in capfd.readouterr().err
    assert not ended
    callback._on_signal(signal.SIGINT, None)
    assert ended


@pytest.mark.parametrize(("every", "found"), [(500, (500, float("inf"))), ("0.5min", (float("inf"), 30))])
def test_every_so_many_steps_or_minutes(every, found):
    assert parse_interval(every) == found


@pytest.mark.parametrize("every", [0, -5, "min", "5h", "nan", "infmin", 0.5])
def test_other_intervals_are_refused(every):
    with pytest.raises(UserError, match=r"trainer.checkpoint_every=.*: it is a number of optimizer steps"):
        parse_interval(every)
