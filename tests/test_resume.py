"""Which runs are gone on with: moved ones and old ones; none whose folder asks for more than a run."""

import json

import pytest
import torch
from conftest import rows
from omegaconf import OmegaConf

from segframe import checkpoint


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
    after = checkpoint.read(trained / "checkpoints/last.ckpt")
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


def test_a_refused_resume_leaves_the_run_as_it_was(trained, run):
    config = (trained / "config.yaml").read_text()
    result = run("train.py", "resume=first", "data.val_split=nothing")
    assert result.code == 1
    assert "no split 'nothing'" in result.out
    assert (trained / "config.yaml").read_text() == config


def test_resume_runs_no_strangers_parts(trained, run):
    path = trained / "config.yaml"
    path.write_text(path.read_text() + "\n")
    text = path.read_text().replace("callbacks:", "callbacks:\n  evil:\n    _target_: torch.hub.load\n    model: x", 1)
    path.write_text(text)
    result = run("train.py", "resume=first")
    assert result.code == 1
    assert "callbacks.evil._target_=torch.hub.load: this is no part that segframe knows" in result.out


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("hydra:\n  callbacks:\n    x: {_target_: os.mkdir, path: ran}\n", "hydra is no setting of a run"),
        ("defaults:\n  - override hydra/launcher: x\n", "defaults is no setting of a run"),
        ("init_from: '${oc.create:{_target_:os.mkdir,path:ran}}'\n", "computes values"),
        ("init_from: '${oc.${seed}}'\n", "computes values"),
        ("# @package hydra\n", "computes values"),
        ("seed: &a [*a]\n", "repeats values"),
        ("seed: [\n", "cannot be read as a run's config"),
        ("seed: " + "[" * 3000 + "\n", "cannot be read as a run's config"),
    ],
)
def test_resume_takes_no_orders_from_a_strangers_config(trained, run, tmp_path, lines, message):
    path = trained / "config.yaml"
    text = path.read_text().replace("init_from: null\n", "")
    path.write_text(lines + text)
    result = run("train.py", "resume=first")
    assert result.code == 1
    assert message in result.out
    assert "Traceback" not in result.out
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", ["trainer", "loss", "data"])
def test_resume_needs_parts(trained, run, part):
    path = trained / "config.yaml"
    config = OmegaConf.load(path)
    config[part] = [1]
    OmegaConf.save(config, path)
    result = run("train.py", "resume=first", "trainer.max_steps=9", "data.batch_size=2")
    assert result.code == 1
    assert f"error: resume=first: {part}=[1]: here belongs a part of configs/" in result.out


@pytest.mark.parametrize("name", ["5", "[torch.load]", "''"])
def test_resume_takes_only_names_for_parts(trained, run, name):
    path = trained / "config.yaml"
    path.write_text(path.read_text().replace("backbone:\n", f"backbone:\n  _target_: {name}\n  was", 1))
    before = path.read_text()
    result = run("train.py", "resume=first")
    assert result.code == 1
    assert "error: resume=first: " in result.out
    assert path.read_text() == before


def test_a_run_whose_checkpoints_are_damaged_is_left_as_it_is(trained, run):
    for path in (trained / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    before = (trained / "config.yaml").read_text()
    result = run("train.py", "resume=first", "trainer.max_steps=9")
    assert result.code == 1
    assert "last.ckpt is damaged" in result.out
    assert (trained / "config.yaml").read_text() == before
