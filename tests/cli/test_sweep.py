"""Sweeps: one folder, one table, and the same command again."""

import math
import shutil

from conftest import RUN, UNET, rows

from segframe.cli.main import Failure

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


def test_a_failure_is_nan_with_its_reason():
    failure = Failure("out of memory")
    assert math.isnan(failure)
    assert failure.reason == "out of memory"
