"""Lightning's Trainer: arguments that are passed on, and callbacks side by side."""

import importlib.util
import os

import pytest
from conftest import UNET, composed
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from segframe.training import trainer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trainer.lightning.max_stepz": 1}, "trainer.lightning.max_stepz=1: Lightning's Trainer has no such argument"),
        ({"trainer.lightning.devices": 2}, "trainer.lightning.devices=2: segframe sets it; trainer.devices=..."),
        ({"trainer.lightning.overfit_batches": 1}, "segframe sets it; experiment=overfit learns a few images by heart"),
        ({"trainer.lightning.limit_val_batches": 0}, "no checkpoint is written without a validation"),
        ({"trainer.lightning.detect_anomaly": 3}, "trainer.lightning.detect_anomaly=3: it must be bool"),
        ({"callbacks.best_checkpoint.save_top_k": 3}, "callbacks.best_checkpoint.save_top_k=3: "),
        ({"trainer.checkpoint_every": "5h"}, "trainer.checkpoint_every=5h"),
    ],
    ids=str,
)
def test_wrong_arguments(refused, settings, message):
    assert message in refused(settings)


def test_arguments_are_passed_on():
    config = composed("trainer.accelerator=cpu", "trainer.precision=32-true", "+trainer.lightning.detect_anomaly=true")
    config.monitor_mode = "max"
    made = trainer.build_trainer(config, trainer.RunLength(10, 5, 3), on_start=lambda trainer: None)
    assert made._detect_anomaly
    assert made.val_check_interval == 3
    assert made.default_root_dir == config.output_dir
    with made.profiler.profile("action"), made.profiler.profile("action within"):
        assert made.profiler.summary() == ""
    config.trainer.lightning = {"profiler": "simple"}
    made = trainer.build_trainer(config, trainer.RunLength(10, 5, 3), on_start=lambda trainer: None)
    assert type(made.profiler).__name__ == "SimpleProfiler"


def test_a_task_of_slurm_is_a_run_of_its_own(run, tmp_path, monkeypatch):
    """As the second of two tasks, without --ntasks-per-node, Lightning would refuse the run, or write no metrics."""
    (tmp_path / "srun").touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in {"NTASKS": "2", "PROCID": "1", "LOCALID": "1", "NODEID": "0", "JOB_ID": "12"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # which Lightning reads when it is imported
    result = run("train.py", *UNET, "trainer.max_steps=1", "callbacks=none", "output_dir=task")
    assert result.code == 0
    assert "srun" not in result.out
    assert (tmp_path / "task/metrics.csv").is_file()


def test_callbacks_with_one_state_key_get_classes_of_their_own():
    callbacks = {name: ModelCheckpoint(monitor="val/miou") for name in ("first", "second")}
    trainer.disambiguate_callbacks(callbacks)
    keys = [callback.state_key for callback in callbacks.values()]
    assert len(set(keys)) == 2
    assert type(callbacks["second"]).__name__ == "second"
    assert isinstance(callbacks["second"], ModelCheckpoint)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("GradientAccumulationScheduler, scheduling: {0: 2}", "set trainer.accumulate_grad_batches=..."),
        ("StochasticWeightAveraging, swa_lrs: 0.1", "set callbacks=ema"),
        ("BackboneFinetuning", "set backbone.frozen=true (or c2)"),
        ("LearningRateFinder", "train.py -m optimizer.lr=0.1,0.01,0.001"),
        ("BatchSizeFinder", "set data.batch_size=..."),
        ("ModelPruning, pruning_fn: l1_unstructured", "prune the network of a finished run"),
    ],
)
def test_callbacks_that_a_run_cannot_follow(refused, name, cure):
    message = refused(f"+callbacks.mine={{_target_: pytorch_lightning.callbacks.{name}}}")
    assert message.startswith(f"callbacks.mine={name.partition(',')[0]}: ")
    assert cure in message


@pytest.mark.parametrize("name", ["WandbLogger", "NeptuneLogger", "CometLogger"])
def test_a_logger_whose_package_is_missing(refused, name):
    package = name.removesuffix("Logger").lower()
    if importlib.util.find_spec(package) or importlib.util.find_spec(f"{package}_ml"):
        pytest.skip(f"{package} is installed")
    assert package in refused(f"+logger.mine={{_target_: pytorch_lightning.loggers.{name}}}").lower()


def test_averages_that_are_too_long_for_a_run(caplog):
    config = composed("callbacks=ema")
    trainer.warn_of_long_averages(config, 4000)
    assert not caplog.messages
    trainer.warn_of_long_averages(config, 1000)
    assert caplog.messages == [
        "callbacks.average.decay=0.999: after 1000 steps the average is still 37 % of its first weights; set "
        "callbacks.average.decay=0.990 callbacks.average.update_starting_at_step=100"
    ]
    config.callbacks.average.update({"decay": 0.99, "update_starting_at_step": 100})
    trainer.warn_of_long_averages(config, 1000)
    assert len(caplog.messages) == 1
    # Updates after the steps 102, 105, ..., 147 count; the first one copies the weights.
    config.callbacks.average.update({"decay": 0.9, "update_every_n_steps": 3})
    trainer.warn_of_long_averages(config, 150)
    assert f"still {100 * 0.9**15:.0f} % of its first weights" in caplog.messages[1]
