"""A moving average of the weights: it is what validations, checkpoints and evaluate use, and it resumes exactly."""

import json
import signal

import pytest
import torch
from conftest import UNET

from segframe.models.weights import checkpoint
from segframe.training.callbacks.preemption_checkpoint import PreemptionCheckpoint

WORDS = (
    *(*UNET, "callbacks=ema", "callbacks.average.decay=0.5", "trainer.max_steps=6", "trainer.val_every_n_steps=3"),
    *("trainer.checkpoint_every=1", "logger=none", "resume=auto", "~callbacks.report"),
)


def test_the_average_is_validated_saved_evaluated_and_resumed(run, tmp_path, monkeypatch):
    assert run("train.py", *WORDS, "output_dir=whole").code == 0
    best = json.loads((tmp_path / "whole/result.json").read_text())["best"]
    assert 0 < best <= 1
    result = run("scripts/evaluate.py", "checkpoint=whole/checkpoints/best.ckpt", "output_dir=val")
    assert result.code == 0, result.out
    assert json.loads((tmp_path / "val/metrics.json").read_text())["val/miou"] == pytest.approx(best, rel=1e-6)

    usual = PreemptionCheckpoint.on_validation_batch_end

    def interrupted(self, trainer, *arguments):
        if trainer.global_step == 3 and not trainer.sanity_checking:
            signal.raise_signal(signal.SIGTERM)
        usual(self, trainer, *arguments)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    with monkeypatch.context() as patched:
        patched.setattr(PreemptionCheckpoint, "on_validation_batch_end", interrupted)
        assert run("train.py", *WORDS, "output_dir=parts").code == 75
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert "leave callbacks as they were" in run("train.py", "resume=parts", "~callbacks.average").error
    assert run("train.py", *WORDS, "output_dir=parts").code == 0
    whole, parts = (checkpoint.load_file(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "parts"))
    for key in ("state_dict", "current_model_state", "averaging_state"):
        for name, tensor in whole[key].items():
            assert torch.equal(tensor, parts[key][name]), (key, name)
    name = "segmenter.backbone.stages.0.0.weight"
    assert not torch.equal(whole["state_dict"][name], whole["current_model_state"][name])
