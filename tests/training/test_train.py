"""A run from the command line: its folder, its continuation, sweeps, and what stands on its checkpoint."""

import json

import numpy as np
import pytest
import torch
from conftest import RUN, TINY, rows
from omegaconf import OmegaConf
from PIL import Image


def test_a_run_leaves_everything_in_its_folder(run, tmp_path):
    result = run("train.py", *TINY, *RUN[:2], "callbacks=default", "logger=default", "output_dir=a run")
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
    best = max(float(row["val/miou"]) for row in metrics)
    assert json.loads((folder / "result.json").read_text())["best"] == pytest.approx(best, rel=1e-4)
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5
    assert "step 5/5" in result.out
    assert "mean over classes" in result.out


def test_a_folder_that_holds_a_run_is_not_overwritten(trained, run):
    before = (trained / "checkpoints/last.ckpt").read_bytes()
    result = run("train.py", *TINY, *RUN, "output_dir=first")
    assert result.code == 1
    assert "error: first already holds a run; continue it with resume=first" in result.out
    assert (trained / "checkpoints/last.ckpt").read_bytes() == before


def test_a_resumed_run_ends_as_an_uninterrupted_one(run, tmp_path):
    common = (*TINY, *RUN[1:], "scheduler=constant")
    assert run("train.py", *common, "trainer.max_steps=4", "output_dir=whole").code == 0
    assert run("train.py", *common, "trainer.max_steps=2", "output_dir=parts").code == 0
    resumed = run("train.py", "resume=parts", "trainer.max_steps=4", "data.num_workers=1")
    assert resumed.code == 0, resumed.out
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "parts")
    )
    assert whole["global_step"] == parts["global_step"] == 4
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, parts["state_dict"][name]), name
    assert [r["step"] for r in rows(tmp_path / "parts/metrics.csv")] == ["2", "4"]
    whole_rows, part_rows = (rows(tmp_path / name / "metrics.csv") for name in ("whole", "parts"))
    assert [r["val/miou"] for r in whole_rows] == [r["val/miou"] for r in part_rows]
    assert not (tmp_path / "outputs").exists()


def test_a_run_resumed_with_another_accumulation_makes_the_steps_that_are_left(run, tmp_path):
    common = (*TINY, *RUN[1:], "trainer.max_steps=3", "trainer.accumulate_grad_batches=2", "output_dir=parts")
    assert run("train.py", *common).code == 0
    for step, accumulate in ((6, 1), (8, 3)):
        words = (f"trainer.max_steps={step}", f"trainer.accumulate_grad_batches={accumulate}")
        resumed = run("train.py", "resume=parts", *words)
        assert resumed.code == 0, resumed.out
        last = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)
        assert last["global_step"] == step


def test_resume_keeps_the_parts_of_the_run(trained, run):
    result = run("train.py", "resume=first", "backbone=resnet34")
    assert result.code == 1
    assert "error: " in result.out
    assert "Traceback" not in result.out
    result = run("train.py", "resume=first", "trainer.max_step=9")
    assert result.code == 1
    assert "did you mean trainer.max_steps?" in result.out


def test_init_from_tells_what_is_left_out(trained, run, tmp_path):
    folder = tmp_path / "photos"
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for k in range(2):
            pixels = np.random.default_rng(k).integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / split / f"{k}.jpg")
            Image.fromarray(pixels[..., 0] // 86).save(folder / "masks" / split / f"{k}.png")
    data = ("data=folder", f"data.root={folder}", "data.dataset.classes=[road,sky,tree]", "data.crop_size=32")
    own = ("data.batch_size=2", "data.num_workers=0", "backbone=resnet18", "head=fcn", "trainer.accelerator=cpu")
    start = ("init_from=first", "seed=1", "optimizer.lr=1e-12")
    result = run("train.py", *data, *own, *RUN, *start, "output_dir=second")
    assert result.code == 0, result.out
    assert "left out: head.layers.4.weight (8, 128, 1, 1), here (3, 128, 1, 1)" in result.out
    first, second = (
        torch.load(tmp_path / path, weights_only=True)["state_dict"]
        for path in ("first/checkpoints/best.ckpt", "second/checkpoints/last.ckpt")
    )
    name = "segmenter.backbone.conv1.weight"
    torch.testing.assert_close(second[name], first[name])  # another seed, so not by chance
    result = run("train.py", *data, *own, *RUN, "init_from=first", "backbone=vgg11", "output_dir=third")
    assert result.code == 1
    assert "error: init_from=first: no tensor of its backbone fits this backbone" in result.out


def test_evaluate_needs_the_checkpoint_only(trained, run, tmp_path):
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
    result = run("scripts/evaluate.py", "checkpoint=first", "data=camvid", f"data.root={tmp_path}")
    assert result.code == 1
    assert "error: " in result.out
    assert "Traceback" not in result.out


def test_predict_writes_three_pictures_and_reports_bad_files(trained, run, tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in/a.jpg")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "in/deep/b.png")
    result = run("scripts/predict.py", "checkpoint=first", "input=in", "output=out")
    assert result.code == 0, result.out
    for name in ("a.png", "deep/b.png"):
        index = np.array(Image.open(tmp_path / "out/index" / name))
        assert index.shape == (45, 61)
        assert index.max() < 8
        for kind in ("colour", "overlay"):
            assert np.array(Image.open(tmp_path / "out" / kind / name)).shape == (45, 61, 3)
    again = run("scripts/predict.py", "checkpoint=first", "input=in", "output=in/out")
    assert "2 of 2 images" in again.out
    assert "2 of 2 images" in run("scripts/predict.py", "checkpoint=first", "input=in", "output=in/out").out
    (tmp_path / "in/c.jpg").write_bytes(b"no image")
    result = run("scripts/predict.py", "checkpoint=first", "input=in", "output=out")
    assert result.code == 1
    assert "skipped: " in result.out
    assert "c.jpg" in result.out
    assert "images predicted, in out" in result.out
    assert run("scripts/predict.py", "checkpoint=first", "input=in/a.jpg", "output=one").code == 0
    assert (tmp_path / "one/overlay/a.png").is_file()


def test_predict_does_not_write_among_its_images(trained, run, tmp_path):
    (tmp_path / "own/images").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "own/images/a.png")
    for source in ("own", "own/images"):
        result = run("scripts/predict.py", "checkpoint=first", f"input={source}", "output=own")
        assert result.code == 1
        assert f"error: input={source} lies within output=own" in result.out
    assert not (tmp_path / "own/classes.txt").exists()


def test_early_stopping_stops_and_leaves_both_checkpoints(run, tmp_path):
    result = run(
        "train.py", *TINY, "logger=none", "callbacks=early_stopping", "callbacks.early_stopping.patience=1",
        "optimizer.lr=0", "param_groups.decay_norm=false", "trainer.max_steps=50", "trainer.val_every_n_steps=2",
        "callbacks.early_stopping.min_delta=1", "output_dir=stopped",
    )  # fmt: skip
    assert result.code == 0, result.out
    assert [row["step"] for row in rows(tmp_path / "stopped/metrics.csv") if row["val/miou"]] == ["2", "4"]
    assert {path.name for path in (tmp_path / "stopped/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_early_stopping_goes_on_counting_in_a_resumed_run(run, tmp_path):
    words = (
        *TINY, "logger=none", "callbacks=early_stopping", "callbacks.early_stopping.min_delta=1", "resume=auto",
        "trainer.max_steps=50", "trainer.val_every_n_steps=2", "trainer.checkpoint_every=1", "output_dir=stopped",
    )  # fmt: skip
    for _ in range(2):  # given again, it is at its end
        assert run("train.py", *words, "callbacks.early_stopping.patience=1").code == 0
        assert [row["step"] for row in rows(tmp_path / "stopped/metrics.csv") if row["val/miou"]] == ["2", "4"]
    result = run("train.py", *words, "callbacks.early_stopping.patience=3")
    assert result.code == 0, result.out
    assert [row["step"] for row in rows(tmp_path / "stopped/metrics.csv") if row["val/miou"]] == ["2", "4", "6", "8"]


def test_the_best_loss_is_the_lowest(run, tmp_path):
    # A step too large in the end: the last loss is a high one.
    words = ("logger=none", "callbacks=early_stopping", "callbacks.early_stopping.patience=2", "monitor=val/loss")
    lengths = ("trainer.max_steps=6", "trainer.val_every_n_steps=1", "optimizer.lr=0.5", "scheduler=constant")
    result = run("train.py", *TINY, *words, *lengths, "output_dir=first")
    assert result.code == 0, result.out
    losses = [float(row["val/loss"]) for row in rows(tmp_path / "first/metrics.csv") if row["val/loss"]]
    assert max(losses) > min(losses)
    assert json.loads((tmp_path / "first/result.json").read_text())["best"] == pytest.approx(min(losses))
    stored = torch.load(tmp_path / "first/checkpoints/best.ckpt", weights_only=True)
    assert stored["global_step"] == 1 + losses.index(min(losses))


def test_a_run_that_took_the_highest_loss_for_the_best_is_told(trained, run):
    assert OmegaConf.load(trained / "config.yaml").monitor_mode == "max"
    more = ("resume=first", "trainer.max_steps=6", "monitor=val/loss")
    result = run("train.py", *more)
    assert result.code == 1
    assert "error: monitor_mode=max: val/loss is best where it is lowest; monitor_mode=min, or auto" in result.out
    result = run("train.py", *more, "monitor_mode=auto")
    assert result.code == 0, result.out
    assert OmegaConf.load(trained / "config.yaml").monitor_mode == "min"


def test_a_sweep_ends_with_a_table(run, tmp_path):
    result = run(
        "train.py", "-m", *TINY, *RUN, "trainer.max_steps=2", "optimizer.lr=0.01,-1,0.001", "hydra.sweep.dir=sweep"
    )
    assert result.code == 1  # one of the three cannot work
    table = rows(tmp_path / "sweep/sweep.csv")
    assert list(table[0]) == ["optimizer.lr", "val/miou", "seconds", "folder", "error"]
    assert [row["optimizer.lr"] for row in table] == ["0.01", "-1", "0.001"]
    assert [bool(row["val/miou"]) for row in table] == [True, False, True]
    assert "Invalid learning rate" in table[1]["error"]
    for row in (table[0], table[2]):
        assert (tmp_path / row["folder"] / "checkpoints/best.ckpt").is_file()
        assert row["folder"].startswith("sweep/")
    assert "optimizer.lr" in result.out
    assert "Traceback" not in result.out
    assert table[0]["folder"] == "sweep/0_optimizer.lr-0.01"
    evaluated = run("scripts/evaluate.py", f"checkpoint={table[0]['folder']}", "output_dir=figures (val)")
    assert evaluated.code == 0, evaluated.out


def test_a_sweep_without_a_name_stays_in_one_folder(run, tmp_path):
    result = run("train.py", "-m", *TINY, *RUN[2:], "trainer.max_steps=1", "optimizer.lr=0.01,0.001")
    assert result.code == 0, result.out
    (folder,) = (tmp_path / "outputs").glob("*/*_sweep")
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"0_optimizer.lr-0.01", "1_optimizer.lr-0.001"}
    assert (folder / "sweep.csv").is_file()


def test_mixed_precision_accumulation_and_clipping(run):
    result = run(
        "train.py",
        *TINY,
        *RUN,
        "trainer.precision=bf16-mixed",
        "trainer.accumulate_grad_batches=2",
        "trainer.gradient_clip_val=1.0",
        "callbacks=early_stopping",
        "aux_head=fcn",
        "loss=cross_entropy_dice",
        "loss.terms.cross_entropy.class_weights=auto",
        "output_dir=mixed",
    )
    assert result.code == 0, result.out
    assert "class weights (median frequency): background" in result.out


def test_16_bit_weights(run):
    weights = "loss.class_weights=[1,2,1,1,1,1,1,1]"
    result = run("train.py", *TINY, *RUN, "trainer.precision=bf16-true", weights, "output_dir=half")
    assert result.code == 0, result.out
