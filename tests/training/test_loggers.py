"""Loggers: metrics.csv and TensorBoard events, continued by a resumed run."""

import errno
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from segframe.errors import UserError
from segframe.training.loggers import CSVLogger, TensorBoard


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.csv").read_text().splitlines()


def test_metrics_of_a_step_share_a_row(tmp_path):
    logger = CSVLogger(str(tmp_path / "run"))
    logger.log_metrics({"loss": 0.5}, step=10)
    logger.log_metrics({"loss": 0.25}, step=20)
    assert lines(tmp_path / "run") == ["step,loss", "10,0.5"], "a row reaches the file when the next begins"
    logger.log_metrics({"miou": float("nan"), "accuracy": 1 / 3}, step=20)
    logger.finalize("success")
    assert lines(tmp_path / "run") == ["step,loss,miou,accuracy", "10,0.5,,", "20,0.25,,0.333333"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.csv"]


def test_a_saved_row_can_still_grow(tmp_path):
    logger = CSVLogger(str(tmp_path))
    for step in (1, 2):
        logger.log_metrics({"loss": step, "miou": 0}, step=step)
        logger.save()
        logger.log_metrics({"miou": 0.5}, step=step)
    logger.log_metrics({"miou": 0.6}, step=1)
    logger.save()
    logger.save()
    assert lines(tmp_path) == ["step,loss,miou", "1,1,0.6", "2,2,0.5"]


def test_a_continued_file_has_no_overlap(tmp_path):
    killed = CSVLogger(str(tmp_path))
    for step in (10, 20, 30):
        killed.log_metrics({"loss": step}, step=step)
    killed.save()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4")  # killed while writing
    resumed = CSVLogger(str(tmp_path))
    resumed.resume(10)
    resumed.log_metrics({"loss": 1}, step=20)
    resumed.log_metrics({"loss": 2, "miou": 0.5}, step=40)
    resumed.save()
    assert lines(tmp_path) == ["step,loss,miou", "10,10,", "20,1,", "40,2,0.5"]


def test_tensorboard_writes_only_event_files(tmp_path):
    logger = TensorBoard(str(tmp_path / "run"))
    logger.log_hyperparams({"lr": 0.1})
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    (path,) = (tmp_path / "run").iterdir()
    assert path.name.startswith("events.out.tfevents")


def test_tensorboard_drops_steps_after_the_checkpoint_of_a_killed_run(tmp_path):
    """Though Lightning makes the writer before it reads the checkpoint."""
    for names in (("2", "4"), ("4", "6")):
        logger = TensorBoard(str(tmp_path))
        assert logger.experiment
        logger.resume(int(names[0]) - 1)
        for step in map(int, names):
            logger.log_metrics({"loss": step}, step=step)
        logger.finalize("success")
        # Files are read in the order of their names, which begin with the second.
        written = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        written.rename(tmp_path / f"events.out.tfevents.{names[0]}")
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6]


@pytest.mark.parametrize("text", ["hello\n1\n", "step,a\n1\n", "step,a\nx,1\n", "step,step\n1,1\n", "step,a\n1,2,3\n"])
def test_a_damaged_table(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match=r"metrics.csv is damaged .*: move it away"):
        CSVLogger(str(tmp_path))


def full(*arguments: object, **keywords: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_no_metric(tmp_path, monkeypatch):
    logger = CSVLogger(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.save()
    logger.log_metrics({"loss": 2.0}, step=2)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(UserError, match=r"cannot write .*metrics.csv \(No space left on device\)"):
            logger.save()
        logger.finalize("failed")
    logger.save()
    assert lines(tmp_path) == ["step,loss", "1,1", "2,2"]


def test_a_full_disk_met_by_the_thread_that_writes_events(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    logger = TensorBoard(str(tmp_path))
    assert logger.experiment
    monkeypatch.setattr(RecordWriter, "write", full)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.experiment._get_file_writer().event_writer._async_writer._worker.join()
    for again in (logger.save, lambda: logger.log_metrics({"loss": 2.0}, step=2)):
        with pytest.raises(OSError, match=r"No space left on device: '.*events.out.tfevents"):
            again()
    logger.finalize("failed")
    assert capfd.readouterr().err == ""
