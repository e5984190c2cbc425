"""What a run's folder from a stranger may ask for: no code, no places outside it."""

import os
from pathlib import Path

import pytest
import torch
from conftest import TINY
from omegaconf import OmegaConf
from segframe.config.untrusted import check_folder

from segframe.cli.resume_argv import resume_arguments
from segframe.errors import UserError


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
        # As YAML decodes them, and as two of them would become one.
        ('init_from: "\\x24{oc.create:{_target_:os.mkdir,path:ran}}"\n', "computes values"),
        ('init_from: "$\\\n  {oc.create:{_target_:os.mkdir,path:ran}}"\n', "computes values"),
        ('init_from: {"\\x24{oc.env:HOME}": 1}\n', "computes values"),
        ('init_from: "\\x40package hydra"\n', "computes values"),
        ("init_from: '${needs}{oc.create:{_target_:os.mkdir,path:ran}}'\n", "computes values"),
        ("init_from: '${needs}${monitor}'\n", "computes values"),
        ('init_from: {"\\x5ftarget_": os.mkdir, path: ran}\n', "no part that segframe knows"),
        ("init_from: {_target_: '${monitor}', path: ran}\n", "no part that segframe knows"),
        ("init_from: {_target_: torch.optim.SGD, _args_: [1]}\n", "arguments have names"),
        ("seed: &a [*a]\n", "repeats values"),
        ("init_from: {a: [" + "'${init_from.b}', " * 400 + "], b: [" + "0, " * 400 + "]}\n", "refer to each other"),
        ("init_from: {a: ['${init_from.b}'], b: ['${init_from.a}']}\n", "refer to each other"),
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


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dirpath: ${output_dir}/checkpoints", "dirpath: {tmp}/victim"),
        ("dirpath: ${output_dir}/checkpoints", "dirpath: ${output_dir}/../victim"),
        ("dirpath: ${output_dir}/checkpoints", "dirpath: ${data.root}"),
        ("dirpath: ${output_dir}/checkpoints", '"dirp\\x61th": victim'),
        ("filename: best", "filename: {tmp}/victim/best"),
        ("filename: best", "filename: ../../victim/best"),
        ("save_dir: ${output_dir}", "save_dir: {tmp}/victim"),
    ],
)
def test_resume_writes_into_the_runs_folder_alone(trained, run, tmp_path, old, new):
    path = trained / "config.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new.replace("{tmp}", str(tmp_path)), 1))
    result = run("train.py", "resume=first", "trainer.max_steps=6")
    assert result.code == 1
    assert "is not below the run's folder" in result.out
    assert not (tmp_path / "victim").exists()


def test_a_run_that_writes_elsewhere_goes_on_where_that_is_repeated(trained, run, tmp_path):
    path = trained / "config.yaml"
    elsewhere = f"callbacks.best_checkpoint.dirpath={tmp_path}/best"
    path.write_text(path.read_text().replace("dirpath: ${output_dir}/checkpoints", f"dirpath: {tmp_path}/best", 1))
    assert run("train.py", "resume=first", "trainer.max_steps=6").code == 1
    result = run("train.py", "resume=first", "trainer.max_steps=6", elsewhere)
    assert result.code == 0, result.out


def test_a_run_may_name_its_own_places_and_data_anywhere(trained):
    path = trained / "config.yaml"
    text = path.read_text().replace("${output_dir}/checkpoints", str(trained / "checkpoints"), 1)
    path.write_text(text.replace("root: null", "root: /data").replace("cache_dir: null", "cache_dir: /scratch"))
    check_folder(trained)
    OmegaConf.update(config := OmegaConf.load(path), "callbacks.best_checkpoint.filename", "{epoch}-{val/miou:.2f}")
    OmegaConf.save(config, path)
    check_folder(trained)


def test_a_checkpoints_names_are_of_the_runs_own_files(trained, run, tmp_path):
    path = trained / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    state = next(state for name, state in content["callbacks"].items() if "val/miou" in name)
    worst = torch.tensor(-1.0)
    state |= {"best_k_models": {"/x/config.yaml": worst}, "kth_best_model_path": "/x/config.yaml", "kth_value": worst}
    state |= {"best_model_path": "/x/..", "best_model_score": worst, "last_model_path": "/x/thesis.odt"}
    torch.save(content, path)
    thesis = trained / "checkpoints/config.yaml"
    thesis.write_text("mine")
    result = run("train.py", "resume=first", "trainer.max_steps=6")
    assert result.code == 0, result.out
    assert thesis.read_text() == "mine"
    after = torch.load(path, weights_only=True)["callbacks"]
    state = next(state for name, state in after.items() if "val/miou" in name)
    assert [Path(name).name for name in state["best_k_models"]] == ["best.ckpt"]


def test_resume_writes_through_no_links_out_of_the_runs_folder(trained, run, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for link in (trained / "metrics.csv", trained / "checkpoints/last.ckpt", trained / "result.json"):
        kept = link.read_bytes()
        link.unlink()
        link.symlink_to(victim)
        result = run("train.py", "resume=first", "trainer.max_steps=6")
        assert result.code == 1
        assert f"{link.relative_to(tmp_path)} is a link out of the run's folder, where resume writes" in result.out
        link.unlink()
        link.write_bytes(kept)
    (trained / "checkpoints").rename(tmp_path / "another")
    (trained / "checkpoints").symlink_to(tmp_path / "another")
    result = run("train.py", "resume=first", "trainer.max_steps=6")
    assert "checkpoints is a link out of the run's folder" in result.out
    assert victim.read_text() == "mine"


def test_links_inside_a_runs_folder_are_followed(trained):
    (trained / "checkpoints/newest.ckpt").symlink_to("last.ckpt")
    (trained / "itself").symlink_to("itself")
    check_folder(trained)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_resume_waits_for_no_pipe(trained):
    (trained / "metrics.csv").unlink()
    os.mkfifo(trained / "metrics.csv")
    with pytest.raises(UserError, match=r"metrics\.csv is neither a file nor a folder"):
        check_folder(trained)


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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("trainer.lightning.num_nodes", 2, "trainer.lightning.num_nodes=2: a run is one process on one device"),
        ("trainer.lightning.strategy", "ddp", "trainer.lightning.strategy=ddp: a run is one process"),
        ("trainer.lightning.devices", "${seed}", "trainer.lightning.devices=0: a run is one process"),
        ("data.num_workers", 4000, "data.num_workers=4000 is more than 8 for each core"),
        ("data.num_workers", "${trainer.max_steps}", "data.num_workers=4000 is more than 8 for each core"),
    ],
)
def test_resume_starts_no_more_processes_than_a_run_has(trained, run, name, value, message):
    path = trained / "config.yaml"
    OmegaConf.update(config := OmegaConf.load(path), name, value, force_add=True)
    config.trainer.max_steps = 4000
    OmegaConf.save(config, path)
    result = run("train.py", "resume=first")
    assert result.code == 1
    assert message in result.out


def test_a_run_from_a_larger_machine_goes_on(trained, monkeypatch):
    path = trained / "config.yaml"
    OmegaConf.update(config := OmegaConf.load(path), "data.num_workers", 8)
    config.trainer.lightning = {"strategy": "auto", "num_nodes": 1}
    OmegaConf.save(config, path)
    monkeypatch.setattr("segframe.data.datamodule.num_cores", lambda: 1)
    check_folder(trained)
    OmegaConf.update(config, "data.num_workers", 64)
    OmegaConf.save(config, path)
    check_folder(trained, ["data.num_workers"])


def evil(folder):
    config = OmegaConf.load(folder / "config.yaml")
    OmegaConf.update(config, "callbacks.extra._target_", "torch.hub.load", force_add=True)
    OmegaConf.save(config, folder / "config.yaml")


@pytest.mark.parametrize("word", ["callbacks=default", "+callbacks.extra.interval=step", "callbacks={images: {}}"])
def test_a_part_of_the_command_line_believes_no_other_settings_of_it(trained, run, word):
    evil(trained)
    result = run("train.py", "resume=auto", "output_dir=first", word)
    assert result.code == 1
    assert "callbacks.extra._target_=torch.hub.load: this is no part that segframe knows" in result.out


@pytest.mark.parametrize(
    "word",
    ["+callbacks.extra._target_=unknown.Part", "+callbacks.extra={_target_: unknown.Part}"],
)
def test_what_a_resubmitted_command_adds_is_what_it_says(trained, monkeypatch, word):
    evil(trained)
    monkeypatch.chdir(trained.parent)
    words = resume_arguments(["resume=auto", "output_dir=first", word])
    assert f"+{word}" in words  # ++, in place of what the folder says


def test_a_run_with_lightnings_own_loggers_and_checkpoints_is_resubmitted(tmp_path, run):
    several = "+callbacks.all={_target_: pytorch_lightning.callbacks.ModelCheckpoint, monitor: '${monitor}', "
    several += "mode: '${monitor_mode}', dirpath: '${output_dir}/all', save_top_k: -1, filename: '{step}'}"
    logger = "+logger.more={_target_: pytorch_lightning.loggers.CSVLogger, save_dir: '${output_dir}/more'}"
    for steps in (2, 4):
        command = ("resume=auto", "output_dir=mine", several, logger, f"trainer.max_steps={steps}")
        result = run("train.py", *TINY, *command, "trainer.val_every_n_steps=2")
        assert result.code == 0, result.out
    assert sorted(path.name for path in (tmp_path / "mine/all").iterdir()) == ["step=2.ckpt", "step=4.ckpt"]


def test_a_run_that_reached_its_threshold_stays_stopped(tmp_path, run):
    command = ("callbacks=early_stopping", "+callbacks.early_stopping.stopping_threshold=0.0", "resume=auto")
    for _ in range(2):
        result = run(
            "train.py", *TINY, *command, "output_dir=mine", "trainer.max_steps=4", "trainer.val_every_n_steps=2"
        )
        assert result.code == 0, result.out
    assert "step 4/4" not in result.out
    more = run("train.py", "resume=mine", "callbacks.early_stopping.stopping_threshold=1.5")
    assert "step 4/4" in more.out
