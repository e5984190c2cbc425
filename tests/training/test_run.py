"""A run from the command line: its folder, its settings, and what is made of its checkpoint."""

import json

import pytest
import torch
from conftest import RUN, UNET, rows

from segframe.models.weights import checkpoint


def test_a_run_writes_everything_into_its_folder(run, tmp_path):
    result = run("train.py", *UNET, *RUN[:2], "output_dir=a run")
    assert result.code == 0, result.out
    folder = tmp_path / "a run"
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    metrics = [row for row in rows(folder / "metrics.csv") if row["val/miou"]]
    # Every two steps, and after the last one, which falls between.
    assert [int(row["step"]) for row in metrics] == [2, 4, 5]
    assert all(row["val/loss"] and row["train/loss"] and row["val/iou/circle"] is not None for row in metrics)
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["torch"] == torch.__version__.partition("+")[0]
    assert environment["command"][:2] == ["train", "backbone=unet"]
    best = max(float(row["val/miou"]) for row in metrics)
    assert json.loads((folder / "result.json").read_text())["best"] == pytest.approx(best, rel=1e-4)
    assert checkpoint.load_file(folder / "checkpoints/last.ckpt")["global_step"] == 5
    assert "step 5/5" in result.out
    assert "mean over classes" in result.out


def test_runs_repeat_exactly(run, tmp_path):
    """With deterministic=true, and in another process order: dropout and augmentation depend on the seed alone."""
    words = (*UNET, *RUN[1:], "trainer.max_steps=3", "backbone.dropout=0.5", "deterministic=true")
    states = []
    for workers in (0, 2):
        assert run("train.py", *words, f"data.num_workers={workers}", f"output_dir={workers}").code == 0
        states.append(checkpoint.load_file(tmp_path / f"{workers}/checkpoints/last.ckpt")["state_dict"])
    torch.use_deterministic_algorithms(False)
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize(
    "words",
    [
        (
            *("trainer.precision=bf16-mixed", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1.0"),
            *("callbacks=early_stopping", "aux_head=fcn", "loss=cross_entropy_dice", "optimizer=adamw"),
            "loss.terms.cross_entropy.class_weights=auto",
        ),
        ("trainer.precision=bf16", "loss.class_weights=[1,2,1,1,1,1,1,1]", "callbacks=ema"),
        ("trainer.activation_checkpointing=true", "batch_norm.frozen=statistics", "transforms=light"),
    ],
)
def test_settings_that_change_training(run, words):
    result = run("train.py", *UNET, *RUN, *words, "output_dir=run")
    assert result.code == 0, result.out
    if "class_weights=auto" in words[-1]:
        assert "class weights (median frequency): background" in result.out


def test_initial_weights(run, trained, photos, tmp_path):
    data = ("data=folder", "data.root=photos", "data.dataset.classes=[road,sky,tree]", "data.weights=null")
    words = (*UNET[:4], *UNET[6:], *data, *RUN, "seed=1", "optimizer.lr=1e-12")
    result = run("train.py", *words, "init_from=first", "output_dir=second")
    assert result.code == 0, result.out
    assert "left out: head.classifier.weight (8, 4, 1, 1), here (3, 4, 1, 1)" in result.out
    first, second = (
        checkpoint.load_file(tmp_path / path)["state_dict"]
        for path in ("first/checkpoints/best.ckpt", "second/checkpoints/last.ckpt")
    )
    name = next(name for name, tensor in first.items() if "backbone" in name and tensor.ndim == 4)
    torch.testing.assert_close(second[name], first[name])  # another seed, so not by chance


def test_early_stopping_and_its_resumption(run, tmp_path):
    words = (
        *UNET, "logger=none", "callbacks=early_stopping", "callbacks.early_stopping.min_delta=1", "resume=auto",
        "trainer.max_steps=50", "trainer.val_every_n_steps=2", "trainer.checkpoint_every=1", "output_dir=stopped",
    )  # fmt: skip
    for patience, steps in ((1, "24"), (1, "24"), (3, "2468")):  # the second run is at its end
        result = run("train.py", *words, f"callbacks.early_stopping.patience={patience}")
        assert result.code == 0, result.out
        assert "".join(row["step"] for row in rows(tmp_path / "stopped/metrics.csv") if row["val/miou"]) == steps
    assert {path.name for path in (tmp_path / "stopped/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_a_run_that_reached_its_threshold_stays_stopped(run):
    command = (*UNET, "callbacks=early_stopping", "+callbacks.early_stopping.stopping_threshold=0.0", "resume=auto")
    for _ in range(2):
        result = run("train.py", *command, "output_dir=run", "trainer.max_steps=4", "trainer.val_every_n_steps=2")
        assert result.code == 0, result.out
        assert "step 4/4" not in result.out
    assert "step 4/4" in run("train.py", "resume=run", "callbacks.early_stopping.stopping_threshold=1.5").out


def test_the_best_loss_is_the_lowest(run, tmp_path):
    # A step too large in the end: the last loss is a high one.
    words = ("logger=none", "callbacks=early_stopping", "callbacks.early_stopping.patience=2", "monitor=val/loss")
    lengths = ("trainer.max_steps=6", "trainer.val_every_n_steps=1", "optimizer.lr=5", "scheduler=constant")
    result = run("train.py", *UNET, *words, *lengths, "output_dir=first")
    assert result.code == 0, result.out
    losses = [float(row["val/loss"]) for row in rows(tmp_path / "first/metrics.csv") if row["val/loss"]]
    assert losses[-1] > min(losses)
    assert json.loads((tmp_path / "first/result.json").read_text())["best"] == pytest.approx(min(losses), rel=1e-4)
    best = checkpoint.load_file(tmp_path / "first/checkpoints/best.ckpt")
    assert best["global_step"] == 1 + losses.index(min(losses))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"data.download": True}, "Shapes has no automatic download"),
        ({"transforms.train[1].p": 2}, "transforms: "),
        ({"optimizer.lr": -1.0}, "optimizer.lr=-1.0: Invalid learning rate: -1"),
        ({"init_from": "nowhere"}, "there is no checkpoint nowhere"),
        ({"loss.class_weights": [1.0, 2.0]}, "loss.class_weights"),
        ({"normalize.std": [1.0, -1.0, 1.0]}, "std above 0"),
        ({"head.reads": ["c7"]}, "c7"),
        ({"callbacks.mine": {"a": 1}}, "callbacks.mine: it has no _target_ with this option of callbacks"),
        ({"callbacks.mine": 1}, "callbacks.mine=1: a mapping is expected; type '+callbacks.mine={_target_: <its"),
        ({"callbacks.mine": {"_target_": "torch.nn.ReLU"}}, "callbacks.mine: it makes a ReLU, not a Callback"),
        ({"logger.mine": 1}, "logger.mine=1: a mapping is expected"),
        # evaluate would compute such a network in float32, so its figures would not be the run's.
        ({"trainer.precision": "bf16-true"}, "trainer.precision=bf16-true: unknown; choose auto, 32-true"),
    ],
    ids=str,
)
def test_wrong_values(refused, words, message):
    assert message in refused(words)


def test_evaluation_repeats_the_runs_validation_from_its_checkpoint(trained, run, tmp_path):
    logged = rows(trained / "metrics.csv")[-1]
    for name in ("config.yaml", "environment.json", "metrics.csv"):
        (trained / name).unlink()
    result = run("scripts/evaluate.py", "checkpoint=first/checkpoints/last.ckpt", "output_dir=val")
    assert result.code == 0, result.out
    found = json.loads((tmp_path / "val/metrics.json").read_text())
    assert found["images"] == 3
    for name in ("val/miou", "val/pixel_accuracy", "val/iou/background"):
        assert found[name] == pytest.approx(float(logged[name]), rel=1e-4)
    result = run("scripts/evaluate.py", "checkpoint=first", "split=test", "data.num_workers=1", "output_dir=test")
    assert result.code == 0, result.out
    assert json.loads((tmp_path / "test/metrics.json").read_text())["images"] == 2
    assert run("scripts/evaluate.py", "checkpoint=first", "data=camvid", f"data.root={tmp_path}").error
