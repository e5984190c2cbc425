"""Sweeps: one folder, one table, and the same command again."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, RUN, UNET, rows

SWEEP = ("-m", *UNET, *RUN[1:], "trainer.max_steps=1")


def test_a_sweep_ends_with_a_table(run, tmp_path):
    result = run("train.py", *SWEEP, "optimizer.lr=0.01,-1,0.001", "hydra.sweep.dir=sweep")
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


def test_a_sweep_continues(run, tmp_path):
    sweep = (*SWEEP, "output_dir=sweep", "optimizer.lr=0.01,0.001")
    assert run("train.py", *sweep).code == 0
    table = rows(tmp_path / "sweep/sweep.csv")
    assert "sweep already holds a sweep; continue it with resume=auto" in run("train.py", *sweep).error
    assert rows(tmp_path / "sweep/sweep.csv") == table
    _, second = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    shutil.rmtree(second)  # as if the sweep had been killed
    result = run("train.py", *sweep, "resume=auto")
    assert result.code == 0, result.out
    again = rows(tmp_path / "sweep/sweep.csv")
    assert [{**row, "seconds": ""} for row in again] == [{**row, "seconds": ""} for row in table]
    assert second.is_dir()


def test_a_sweep_without_a_name_stays_in_one_folder(run, tmp_path):
    result = run("train.py", *SWEEP, "optimizer.lr=0.01,0.001")
    assert result.code == 0, result.out
    (folder,) = (tmp_path / "outputs").glob("*/*_sweep")
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"0_optimizer.lr-0.01", "1_optimizer.lr-0.001"}
    assert (folder / "sweep.csv").is_file()


@pytest.mark.parametrize(
    ("words", "folders", "errors"),
    [
        (
            ["optimizer.lr=0.01,-1"],
            ["sweep/0_optimizer.lr-0.01", "sweep/1_optimizer.lr--1"],
            ["", "optimizer: Invalid learning rate: -1"],
        ),
        # The process of a job is killed.
        (["++callbacks.x={_target_: os._exit, status: 9}"], ["sweep/0"], ["it ended without a result"]),
    ],
)
def test_jobs_that_a_launcher_runs_in_other_processes(tmp_path, words, folders, errors):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs pip install segframe[sweeps]")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "output_dir=sweep")
    command = [sys.executable, ROOT / "train.py", *SWEEP, *launcher, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert ("error: the sweep's launcher failed: " in done.stderr) == (len(folders) == 1)
    table = rows(tmp_path / "sweep/sweep.csv")
    assert [(row["folder"], row["error"]) for row in table] == list(zip(folders, errors, strict=True))
    for row in table:
        result = tmp_path / row["folder"] / "result.json"
        assert row.get("val/miou", "") == ("" if row["error"] else str(json.loads(result.read_text())["best"]))
