"""A moving average of the weights: it is what validations, checkpoints and evaluate use, and it resumes exactly."""

import json
import signal
from types import SimpleNamespace

import pytest
import pytorch_lightning
import torch
from conftest import UNET

from segframe.models.weights import checkpoint
from segframe.training.callbacks import EMAWeightAveraging
from segframe.training.callbacks.preemption_checkpoint import PreemptionCheckpoint

WORDS = (
    *(*UNET, "callbacks=ema", "callbacks.average.decay=0.5", "trainer.max_steps=6", "trainer.val_every_n_steps=3"),
    *("trainer.checkpoint_every=1", "logger=none", "resume=auto", "~callbacks.report"),
)


def test_the_average_is_lightnings():
    """Of both callbacks on the same steps, from the second step on, every other step."""
    torch.manual_seed(0)
    module = pytorch_lightning.LightningModule()
    module.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1))
    words = {"decay": 0.9, "update_starting_at_step": 2, "update_every_n_steps": 2}
    found = [cls(**words) for cls in (EMAWeightAveraging, pytorch_lightning.callbacks.EMAWeightAveraging)]
    trainer = SimpleNamespace(global_step=0)
    for callback in found:
        callback.setup(trainer, module, "fit")
    for step in range(9):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += torch.randn_like(parameter)
            module.layers(torch.randn(2, 3, 8, 8))
        trainer.global_step = step + 1
        for callback in found:
            callback.on_train_batch_end(trainer, module, None, None, 0)
            callback.on_train_batch_end(trainer, module, None, None, 0)  # a batch without a step changes nothing
    checkpoints = [{"state_dict": module.state_dict()} for _ in found]
    for callback, saved in zip(found, checkpoints, strict=True):
        callback.on_save_checkpoint(trainer, module, saved)
    ours, theirs = checkpoints
    assert ours["averaging_state"] == theirs["averaging_state"] == {"n_averaged": torch.tensor(4)}
    assert ours["state_dict"].pop("layers.1.num_batches_tracked") == 9
    del theirs["state_dict"]["layers.1.num_batches_tracked"]  # a mean, cut off
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=1e-5, atol=1e-6)
    assert found[0].state_dict() == found[1].state_dict() == {"latest_update_step": 9}


def test_before_its_start_the_average_is_the_weights():
    """In validations, checkpoints and at the end of a run that is shorter; the first update begins anew."""
    module = pytorch_lightning.LightningModule()
    module.layer = torch.nn.Conv2d(3, 4, 3)
    trainer, callback = SimpleNamespace(global_step=0), EMAWeightAveraging(decay=0.5, update_starting_at_step=3)
    callback.setup(trainer, module, "fit")
    weights = []
    for step in range(5):
        weights.append(torch.randn(4, 3, 3, 3))
        with torch.no_grad():
            module.layer.weight.copy_(weights[-1])
        trainer.global_step = step + 1
        callback.on_train_batch_end(trainer, module, None, None, 0)
        expected = weights[-1] if step < 4 else (weights[3] + weights[4]) / 2
        saved = {"state_dict": module.state_dict()}
        callback.on_save_checkpoint(trainer, module, saved)
        torch.testing.assert_close(saved["state_dict"]["layer.weight"], expected)
        callback.on_validation_epoch_start(trainer, module)
        torch.testing.assert_close(module.layer.weight.data, expected)
        callback.on_validation_epoch_end(trainer, module)
        torch.testing.assert_close(module.layer.weight.data, weights[-1])
    short = EMAWeightAveraging(update_starting_at_step=9)
    short.setup(trainer, module, "fit")
    with torch.no_grad():
        module.layer.weight.zero_()
    short.on_train_end(trainer, module)
    assert not module.layer.weight.any()


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
