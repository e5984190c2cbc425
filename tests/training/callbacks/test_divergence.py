"""A loss that is not finite ends the run, with what it was computed from, before any weights are used."""

from types import SimpleNamespace

import pytest
import torch
from conftest import UNET

from segframe.analysis.replay_divergence import load_step
from segframe.models.losses.cross_entropy import CrossEntropy
from segframe.models.weights import checkpoint
from segframe.training.callbacks import divergence

LONG = (*UNET, "scheduler=constant", "trainer.max_steps=20", "trainer.val_every_n_steps=20", "logger=none")


def test_a_run_that_diverges_keeps_its_batch(run, tmp_path):
    result = run("train.py", *LONG, "callbacks=none", "optimizer.lr=1e30", "output_dir=run")
    content = checkpoint.load_file(tmp_path / "run/diverged.pt")
    assert f"the loss of step {content['step']} is {content['loss']}" in result.error
    for text in ("images train_00", "learning rate backbone ", "lower optimizer.lr", "run/diverged.pt"):
        assert text in result.error
    assert content["batch"]["image"].shape == (4, 3, 32, 32)
    assert load_step(tmp_path / "run/diverged.pt").segmenter is not None
    assert not list((tmp_path / "run/checkpoints").glob("*.ckpt"))


def test_weights_are_protected_until_a_late_loss_arrives(run, tmp_path, monkeypatch):
    """As on a GPU: the loss arrives two steps later, and the optimizer skips steps while found_inf is 1."""
    short = ("callbacks=none", "trainer.max_steps=2", "trainer.val_every_n_steps=2")
    assert run("train.py", *LONG, *short, "output_dir=two").code == 0
    healthy, calls = CrossEntropy.forward, []

    def forward(self, logits, mask):
        if torch.is_grad_enabled():
            calls.append(1)
        loss = healthy(self, logits, mask)
        return loss * float("nan") if len(calls) == 3 else loss

    class Late(divergence.HostCopy):
        def __init__(self, scalar):
            super().__init__(scalar)
            self.step = len(calls)

        def is_ready(self):
            return len(calls) >= self.step + 2

    def on_train_start(self, trainer, module):
        self._found_inf = trainer.optimizers[0].found_inf = torch.zeros(())

    monkeypatch.setattr(CrossEntropy, "forward", forward)
    monkeypatch.setattr(divergence, "HostCopy", Late)
    monkeypatch.setattr(divergence.DivergenceStop, "on_train_start", on_train_start)
    result = run("train.py", *LONG, "callbacks=none", "output_dir=run")
    assert "the loss of step 3 is nan (images " in result.error
    assert len(calls) == 5
    content, two = (checkpoint.load_file(tmp_path / name) for name in ("run/diverged.pt", "two/checkpoints/last.ckpt"))
    assert content["step"] == 3
    for name, tensor in two["state_dict"].items():
        if "running_" not in name and "num_batches" not in name:
            assert torch.equal(content["state_dict"][name], tensor), name


@pytest.mark.parametrize("callbacks", ["default", "none"])
def test_no_checkpoint_is_written_before_all_losses_have_arrived(run, tmp_path, monkeypatch, callbacks):
    monkeypatch.setattr(divergence.HostCopy, "is_ready", lambda self: False)
    words = ("trainer.max_steps=3", "trainer.val_every_n_steps=3", f"callbacks={callbacks}")
    result = run("train.py", *LONG, *words, "optimizer.lr=1e30", "output_dir=run")
    assert "error: the loss of step 2 is" in result.error
    assert (tmp_path / "run/diverged.pt").is_file()
    assert not list((tmp_path / "run/checkpoints").glob("*.ckpt"))


def test_processes_on_several_gpus_read_the_loss_of_one_step(monkeypatch):
    """Although it arrives at different times, else one process waits for the others, which have gone on."""
    stop, gpu = divergence.DivergenceStop(), torch.device("cuda")
    arrived = SimpleNamespace(is_ready=lambda: True)
    monkeypatch.setattr(divergence.distributed, "world", lambda: 2)
    for steps, due in ((1, False), (2, False), (3, True)):
        stop._pending.append((None, arrived, None))
        assert (len(stop._pending), stop.is_due(gpu), stop.is_due(torch.device("cpu"))) == (steps, due, True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_reading_a_gpus_scalar():
    scalar = divergence.HostCopy(torch.ones((), device="cuda"))
    assert scalar.wait().item() == 1
    assert scalar.is_ready()
