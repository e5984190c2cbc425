"""The folder of a run: what may be in it, one process at a time, and the commit that is noted in it."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import RUN, UNET

from segframe.config.resolvers import unused
from segframe.errors import UserError
from segframe.models.weights import checkpoint
from segframe.training.run_dir import git_commit, lock_run_dir


def test_a_folder_that_holds_a_run_is_not_overwritten(trained, run):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    result = run("train.py", *UNET, *RUN, "output_dir=first")
    assert "output_dir=first: the folder already holds a run; continue it with resume=first" in result.error
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    (trained / "config.yaml").unlink()
    assert "the folder already holds a run" in run("train.py", "output_dir=first").error


def test_a_config_yaml_of_something_else_is_not_overwritten(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.yaml").write_text("my: notes\n")
    result = run("train.py", *UNET, *RUN, "output_dir=mine")
    assert "output_dir=mine: its config.yaml belongs to no run; choose another folder" in result.error
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["config.yaml"]


def test_folders_of_runs_that_start_in_one_second_are_unique(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: unused("outputs/today/now"), range(8)))
    assert {*names} == {"outputs/today/now", *(f"outputs/today/now_{k}" for k in range(2, 9))}
    assert all((tmp_path / name).is_dir() for name in names)


def test_resume_from_a_config_rather_than_the_command_line(trained, run, tmp_path):
    result = run("train.py", *UNET, *RUN, "++resume=first", "output_dir=second")
    assert result.error.startswith("error: resume=first: give it on the command line as resume=")
    result = run("train.py", *UNET, *RUN, "++resume=auto", "output_dir=first", "optimizer=adamw")
    assert "optimizer=adamw: the run in first was started with optimizer=sgd" in result.error
    (tmp_path / "recipes/experiment").mkdir(parents=True)
    (tmp_path / "recipes/experiment/mine.yaml").write_text(
        "# @package _global_\nresume: auto\noutput_dir: third\ntrainer: {max_steps: 2}\n"
    )
    mine = (f"--config-dir={tmp_path / 'recipes'}", *UNET, *RUN[1:], "experiment=mine")
    for step in (2, 4):
        result = run("train.py", *mine, *(() if step == 2 else ("trainer.max_steps=4",)))
        assert result.code == 0, result.out
        assert checkpoint.load_file(tmp_path / "third/checkpoints/last.ckpt")["global_step"] == step


def test_one_process_trains_in_a_folder(tmp_path):
    holder = "import fcntl, sys; f = open('.lock', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", holder], stdin=-1, stdout=-1, cwd=tmp_path) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="another process is training in this folder"), lock_run_dir(tmp_path):
            pass
        other.communicate(b"\n")
    with lock_run_dir(tmp_path):
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_commit(tmp_path):
    assert git_commit(tmp_path) is None
    identity = ("-c", "user.name=a", "-c", "user.email=a")
    for words in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "--allow-empty", "-m", "first")):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    commit = git_commit(tmp_path)
    assert commit is not None
    assert len(commit) >= 7
