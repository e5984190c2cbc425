"""Which runs are gone on with, and how: moved ones and old ones, the jobs of sweeps; nothing is lost in a refusal."""

import csv
import io
import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import RUN, TINY, rows
from omegaconf import OmegaConf

from segframe.models.weights import checkpoint


def test_a_moved_run_keeps_its_best(trained, run, tmp_path):
    best = json.loads((trained / "result.json").read_text())["best"]
    scores = [row["val/miou"] for row in rows(trained / "metrics.csv")]
    trained.rename(tmp_path / "elsewhere (2)")
    result = run(
        "train.py", "resume=elsewhere (2)", "trainer.max_steps=6", "optimizer.lr=0", "trainer.val_every_n_steps=1"
    )
    assert result.code == 0, result.out
    folder = tmp_path / "elsewhere (2)"
    after = rows(folder / "metrics.csv")
    assert [row["val/miou"] for row in after][: len(scores)] == scores
    assert json.loads((folder / "result.json").read_text())["best"] >= best
    stored = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["global_step"]
    assert stored == max(after, key=lambda row: float(row["val/miou"]))["step"] or stored < 6
    assert not trained.exists()


def test_a_run_from_before_a_setting_goes_on(trained, run):
    path = trained / "config.yaml"
    config = OmegaConf.load(path)
    del config["batch_norm"], config["input_scales"], config["normalize"]["bgr"]
    del config["param_groups"]["decay_depthwise"], config["backbone"]["multi_grid"], config["loss"]["reduction"]
    OmegaConf.save(config, path)
    result = run("train.py", "resume=first", "trainer.max_steps=6")
    assert result.code == 0, result.out
    assert OmegaConf.load(path).batch_norm == {"frozen": None, "backbone_momentum": 0.1, "head_momentum": 0.1}


def test_a_resumed_run_follows_its_new_settings(trained, run):
    words = ("optimizer.lr=0.5", "optimizer.weight_decay=0.25", "head.lr_multiplier=4", "scheduler.min_factor=0.5")
    result = run("train.py", "resume=first", "trainer.max_steps=6", *words)
    assert result.code == 0, result.out
    after = checkpoint.load_file(trained / "checkpoints/last.ckpt")
    groups = {group["name"]: group for group in after["optimizer_states"][0]["param_groups"]}
    assert groups["backbone/weight"]["lr"] == 0.25
    assert groups["head/weight"]["lr"] == 1.0
    assert {group["weight_decay"] for group in groups.values()} == {0.25, 0.0}


@pytest.mark.parametrize("word", ["batch_norm.frozen=all", "param_groups.decay_norm=true"])
def test_a_resumed_run_needs_the_same_parameter_groups(trained, run, word):
    result = run("train.py", "resume=first", "trainer.max_steps=6", word)
    assert result.code == 1
    assert "error: the checkpoint's optimizer has " in result.out
    assert "by the config there are " in result.out
    assert "Traceback" not in result.out


def test_a_resumed_run_needs_the_same_classes(run, photos):
    data = ("data=folder", "data.root=photos", "data.dataset.classes=[a,b,c]", "data.batch_size=2")
    words = (*TINY[:2], *data, "backbone.weights=null", "data.num_workers=0", "trainer.accelerator=cpu")
    assert run("train.py", *words, *RUN, "output_dir=first").code == 0
    for classes, sentence in {
        "[b,a,c]": "class 0 is a there, b in the data",
        "[a,b,d]": "class 2 is c there, d in the data",
        "[a,b,c,d]": "class 3 is missing there, d in the data",
    }.items():
        result = run("train.py", "resume=first", "trainer.max_steps=6", f"data.dataset.classes={classes}")
        assert result.code == 1
        assert f"error: the checkpoint has other classes: {sentence}; leave them as they were" in result.out
        assert "Traceback" not in result.out
    again = run("train.py", "resume=first", "trainer.max_steps=6", "data.dataset.classes=[a,b,c]")
    assert again.code == 0, again.out


def contents(folder):
    """The files of a run but for its log, where it says what was tried."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "train.log"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.val_split=nothing", "no split 'nothing'"),
        ("batch_norm.frozen=all", "the checkpoint's optimizer has "),
        ("backbone.variant=resnet34", "the checkpoint is of another network: "),
        ("optimizer.lr=-1", "optimizer: Invalid learning rate: -1"),
        ("output_dir=second", "output_dir=second: a run goes on in its own folder"),
        ("-m", "resume=first: a sweep cannot continue one run"),
    ],
)
def test_a_refused_resume_leaves_the_run_as_it_was(trained, run, word, message):
    before = contents(trained)
    result = run("train.py", "resume=first", "trainer.max_steps=9", word)
    assert result.code == 1
    assert message in result.out
    assert "Traceback" not in result.out
    assert contents(trained) == before
    assert {path.name for path in trained.parent.iterdir()} == {"first"}


@pytest.mark.parametrize("flags", [("--cfg=job",), ("--cfg", "job"), ("--help",)])
@pytest.mark.parametrize("resume", [("resume=first",), ("resume=auto", "output_dir=first")])
def test_a_run_is_shown_without_being_resumed(trained, run, flags, resume):
    before = contents(trained)
    result = run("train.py", *resume, *flags, "trainer.max_steps=9")
    assert result.code == 0, result.out
    assert ("max_steps: 9" in result.out) == ("--help" not in flags)
    assert contents(trained) == before


def test_resume_takes_the_folder_of_a_checkpoint(trained, run):
    result = run("train.py", "resume=first/checkpoints/last.ckpt")
    assert result.code == 1
    assert f"give the run's folder, resume={trained}" in result.out


def test_resume_given_where_it_is_not_read_first(trained, run, tmp_path):
    result = run("train.py", *TINY, *RUN, "++resume=first", "output_dir=second")
    assert result.code == 1
    assert "error: resume=first: give it on the command line as resume=" in result.out
    result = run("train.py", *TINY, *RUN, "++resume=auto", "output_dir=first", "optimizer=adamw")
    assert result.code == 1
    assert "error: the checkpoint's optimizer is torch.optim.SGD, by the config it is torch.optim.AdamW" in result.out
    (tmp_path / "recipes/experiment").mkdir(parents=True)
    (tmp_path / "recipes/experiment/mine.yaml").write_text(
        "# @package _global_\nresume: auto\noutput_dir: third\ntrainer: {max_steps: 2}\n"
    )
    mine = (f"--config-dir={tmp_path / 'recipes'}", *TINY, *RUN[1:], "experiment=mine")
    for step in (2, 4):
        result = run("train.py", *mine, *(() if step == 2 else ("trainer.max_steps=4",)))
        assert result.code == 0, result.out
        assert checkpoint.load_file(tmp_path / "third/checkpoints/last.ckpt")["global_step"] == step


def test_a_foreign_config_is_not_overwritten(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.yaml").write_text("my: notes\n")
    result = run("train.py", *TINY, *RUN, "output_dir=mine")
    assert result.code == 1
    assert "error: mine/config.yaml is no run's and would be overwritten" in result.out
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["config.yaml"]


def test_two_processes_do_not_train_in_one_folder(trained, run):
    holder = (
        "import fcntl, sys; f = open('first/.lock', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", holder], stdin=-1, stdout=-1, cwd=trained.parent) as other:
        assert other.stdout is not None
        other.stdout.readline()
        before = (trained / "config.yaml").read_bytes()
        result = run("train.py", "resume=first", "trainer.max_steps=9")
        assert result.code == 1
        assert "error: another process is training in first" in result.out
        assert (trained / "config.yaml").read_bytes() == before
        other.communicate(b"\n")
    assert run("train.py", "resume=first", "trainer.max_steps=6").code == 0
    assert not (trained / ".lock").exists()


def test_a_sweep_goes_on(run, tmp_path):
    sweep = ("-m", *TINY, *RUN[1:], "trainer.max_steps=2", "output_dir=sweep", "optimizer.lr=0.01,0.001")
    assert run("train.py", *sweep).code == 0
    table = (tmp_path / "sweep/sweep.csv").read_text()
    result = run("train.py", *sweep)
    assert result.code == 1
    assert "error: sweep already holds a sweep; resume=auto goes on with it" in result.out
    assert (tmp_path / "sweep/sweep.csv").read_text() == table
    _, second = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    shutil.rmtree(second)  # as if the sweep had been killed
    result = run("train.py", *sweep, "resume=auto")
    assert result.code == 0, result.out
    again = rows(tmp_path / "sweep/sweep.csv")
    assert [{**row, "seconds": ""} for row in again] == [
        {**row, "seconds": ""} for row in csv.DictReader(io.StringIO(table))
    ]
    assert second.is_dir()


def test_a_run_whose_checkpoints_are_damaged_is_left_as_it_is(trained, run):
    for path in (trained / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    before = (trained / "config.yaml").read_text()
    result = run("train.py", "resume=first", "trainer.max_steps=9")
    assert result.code == 1
    assert "last.ckpt is damaged" in result.out
    assert (trained / "config.yaml").read_text() == before
