"""A loss that is no number ends the run: with its step, images and rates, and with what it was computed from."""

import pytest
import torch
from conftest import TINY, composed

from segframe import build, checkpoint
from segframe.errors import UserError
from segframe.restore import restore


def test_a_run_that_diverges_ends_and_keeps_its_batch(run, tmp_path):
    words = (*TINY, "trainer.max_steps=20", "trainer.val_every_n_steps=20", "optimizer.lr=1e30", "output_dir=run")
    result = run("train.py", *words)
    assert result.code == 1
    (line,) = [line for line in result.out.splitlines() if line.startswith("error: ")]
    content = checkpoint.read(tmp_path / "run/diverged.pt")
    assert f"the loss of step {content['step']} is {content['loss']}" in line
    assert "images train_00" in line
    assert "learning rate backbone " in line
    assert "lower optimizer.lr" in line
    assert "run/diverged.pt" in line
    assert "Traceback" not in result.out
    assert content["batch"]["image"].shape == (4, 3, 32, 32)
    assert restore(tmp_path / "run/diverged.pt").segmenter is not None
    assert not list((tmp_path / "run/checkpoints").glob("*.ckpt"))


def test_a_gpus_loss_is_asked_for_with_the_curves():
    config = composed(*TINY, "trainer.precision=32-true", "callbacks=none", "logger=none")
    data, length = build.build_data(config)
    task = build.build_task(config, build.build_segmenter(config, 8), data.train, length)
    task.running_batches, task.running_loss = 3, torch.tensor(float("nan"))
    task.trainer = build.build_trainer(config, length)
    with pytest.raises(UserError, match="the loss has become nan in one of the 3 batches before step 0: lower"):
        task.take_running_loss()
