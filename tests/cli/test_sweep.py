"""Sweeps: one folder, one table, and the same command again."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, RUN, UNET, rows

from segframe import preemption
from segframe.cli.launchers import LAUNCHERS
from segframe.cli.sweep import SweepRow, group_seeds

SWEEP = ("-m", *UNET, *RUN[1:], "trainer.max_steps=1")


def test_a_sweep_ends_with_a_table_and_continues(run, tmp_path):
    sweep = (*SWEEP, "output_dir=sweep", "optimizer.lr=0.01,-1,0.001")
    result = run("train.py", *sweep)
    assert result.code == 1  # one of the three cannot work
    table = rows(tmp_path / "sweep/sweep.csv")
    assert list(table[0]) == ["optimizer.lr", "val/miou", "seconds", "folder", "error"]
    assert [row["optimizer.lr"] for row in table] == ["0.01", "-1", "0.001"]
    assert [bool(row["val/miou"]) for row in table] == [True, False, True]
    assert "Invalid learning rate" in table[1]["error"]
    assert table[0]["folder"] == "sweep/0_optimizer.lr-0.01"
    for row in (table[0], table[2]):
        assert (tmp_path / row["folder"] / "checkpoints/best.ckpt").is_file()
    assert "optimizer.lr" in result.out
    assert "Traceback" not in result.out

    assert "sweep already holds a sweep; continue it with output_dir=sweep resume=auto" in run("train.py", *sweep).error
    assert rows(tmp_path / "sweep/sweep.csv") == table
    last = tmp_path / table[2]["folder"]
    shutil.rmtree(last)  # as if the sweep had been killed
    assert run("train.py", *sweep, "resume=auto").code == 1
    again = rows(tmp_path / "sweep/sweep.csv")
    assert [{**row, "seconds": ""} for row in again] == [{**row, "seconds": ""} for row in table]
    assert last.is_dir()


def test_a_sweep_without_a_name_stays_in_one_folder(run, tmp_path):
    result = run("train.py", *SWEEP, "optimizer.lr=0.01,0.001")
    assert result.code == 0, result.out
    (folder,) = (tmp_path / "outputs").glob("*/*_sweep")
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"0_optimizer.lr-0.01", "1_optimizer.lr-0.001"}
    assert (folder / "sweep.csv").is_file()


BAD_RATE = (
    ["optimizer.lr=0.01,-1"],
    ["sweep/0_optimizer.lr-0.01", "sweep/1_optimizer.lr--1"],
    ["", "optimizer.lr=-1: Invalid learning rate: -1"],
)
KILLED = (["++callbacks.x={_target_: os._exit, status: 9}"], ["sweep/0"], ["it ended without a result"])
"""The process of a job is killed."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "words", "folders", "errors"),
    [
        (["joblib", "hydra.launcher.n_jobs=2"], *BAD_RATE),
        (["joblib", "hydra.launcher.n_jobs=2"], *KILLED),
        (["ray", "hydra.launcher.ray.remote.num_gpus=0"], *BAD_RATE),
        (["ray", "hydra.launcher.ray.remote={num_gpus: 0, max_retries: 0}"], *KILLED),
    ],
)
def test_jobs_that_a_launcher_runs_in_other_processes(tmp_path, launcher, words, folders, errors):
    package, extra = LAUNCHERS[launcher[0]]
    pytest.importorskip(package, reason=f"needs pip install segframe[{extra}]")
    command = [sys.executable, ROOT / "train.py", *SWEEP, f"hydra/launcher={launcher[0]}", *launcher[1:], *words]
    command.append("output_dir=sweep")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert ("error: the sweep's launcher failed: " in done.stderr) == (len(folders) == 1)
    table = rows(tmp_path / "sweep/sweep.csv")
    assert [(row["folder"], row["error"]) for row in table] == list(zip(folders, errors, strict=True))
    for row in table:
        result = tmp_path / row["folder"] / "result.json"
        assert row.get("val/miou", "") == ("" if row["error"] else str(json.loads(result.read_text())["best"]))


PREEMPTED = """
import os
from pathlib import Path
from pytorch_lightning import Callback
class Preempted(Callback):
    def __init__(self, signal, path):
        self.signal, self.path = signal, Path(path)
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 3 and not self.path.exists():
            self.path.touch()
            os.kill(os.getpid(), self.signal)
"""


@pytest.mark.slow
def test_a_job_that_is_preempted_goes_on(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs pip install segframe[sweeps]")
    (tmp_path / "preempted.py").write_text(PREEMPTED)
    callback = ("++callbacks.x._target_=preempted.Preempted", f"+callbacks.x.signal={int(signal.SIGUSR2)}")
    where = ("+callbacks.x.path=sent_${callbacks.x.signal}", "output_dir=sweep", "hydra/launcher=submitit_local")
    command = [sys.executable, ROOT / "train.py", *SWEEP, "trainer.max_steps=5", *callback, *where]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in tmp_path.glob("sent_*")] == [f"sent_{int(signal.SIGUSR2)}"]
    (row,) = rows(tmp_path / "sweep/sweep.csv")
    assert (row["folder"], row["error"]) == ("sweep/0", "")
    assert row["val/miou"] == str(json.loads((tmp_path / "sweep/0/result.json").read_text())["best"])
    assert json.loads((tmp_path / "sweep/0/job.json").read_text())["starts"] == 2
    (log,) = (tmp_path / "sweep/.submitit").rglob("*.out")
    assert "resuming at step 3 of 5" in log.read_text()


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("CANCELLED", False), ("PENDING", False)])
def test_a_job_that_slurm_cancels_is_not_queued_again(tmp_path, monkeypatch, state, requeued):
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho {state}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    calls = []
    before = {number: signal.getsignal(number) for number in preemption.SIGNALS}
    try:
        signal.signal(signal.SIGUSR2, lambda *arguments: calls.append(arguments))
        preemption.listen_in_job()()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert calls == ([(signal.SIGUSR2, None)] if requeued else [])


def test_jobs_of_several_seeds_are_summed_up():
    def row(seed, lr, error="", **metrics):
        return SweepRow({"optimizer.lr": lr, "seed": seed}, metrics, error=error)

    rows = [
        row("0", "0.1", miou=0.5, best=7),
        row("0", "0.2", error="out of memory"),
        row("1", "0.1", miou=0.6, best=8),
    ]
    rows += [row("1", "0.2", miou=0.4), row("2", "0.1", miou=0.7, best=9), row("2", "0.2", "", name="x")]
    first, second = group_seeds(rows)
    assert first.overrides == {"optimizer.lr": "0.1"}
    assert first.means == pytest.approx({"miou": 0.6, "best": 8})
    assert first.deviations == pytest.approx({"miou": 0.1, "best": 1})
    assert (first.complete, first.jobs) == (3, 3)
    assert (second.means, second.deviations, second.complete, second.jobs) == ({}, {}, 2, 3)
    assert group_seeds([row("0", "0.1", miou=0.5), row("0", "0.2", miou=0.6)]) == []
    assert group_seeds([SweepRow({"optimizer.lr": lr}, {"miou": 0.5}) for lr in "12"]) == []


def test_seeds_have_a_table_of_their_own(run, tmp_path):
    result = run("train.py", *SWEEP, "seed=0,1", "optimizer.lr=0.01,-1", "output_dir=sweep")
    assert result.code == 1
    one, _, two, _ = (float(row["val/miou"] or "nan") for row in rows(tmp_path / "sweep/sweep.csv"))
    complete, failed = rows(tmp_path / "sweep/seeds.csv")
    assert failed == {"optimizer.lr": "-1", "val/miou mean": "", "val/miou std": "", "complete": "0", "jobs": "2"}
    mean, deviation = float(complete["val/miou mean"]), float(complete["val/miou std"])
    assert mean == pytest.approx((one + two) / 2)
    assert deviation == pytest.approx(abs(one - two) / 2**0.5)
    assert f"{mean:.4f} ± {deviation:.4f}" in result.out
    assert "0 of 2" in result.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra/launcher=ray"], "hydra/launcher=ray: its package is not installed; pip install 'segframe[ray]'"),
        (["hydra/launcher=slrum"], "hydra/launcher=slrum: there is no such option; did you mean slurm?"),
    ],
)
def test_launchers_that_are_not_there(run, monkeypatch, words, message):
    monkeypatch.setattr("segframe.cli.launchers.find_spec", lambda name: None)
    assert message in run("train.py", *SWEEP, *words).error


def test_a_launcher_without_a_sweep_is_refused(run):
    error = run("train.py", "hydra/launcher=basic").error
    assert "hydra/launcher=basic: launchers run the jobs of a sweep; add -m" in error
