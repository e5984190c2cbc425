"""Loggers: metrics.csv and TensorBoard event files, directly in the run's folder."""

import csv
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from io import StringIO
from math import isnan
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch.utils.tensorboard import SummaryWriter

from segframe.errors import UserError
from segframe.files import translate_write_errors, write_text


class ResumableLogger(Logger):
    """A logger that a resumed run continues."""

    def resume(self, step: int) -> None:
        """Discard what was logged after this step."""
        raise NotImplementedError


def discard_after(step: int, loggers: Iterable[Logger]) -> None:
    """Discard what resumable loggers logged after this step; call it before anything is logged."""
    for logger in loggers:
        if isinstance(logger, ResumableLogger):
            logger.resume(step)


class TensorBoard(TensorBoardLogger, ResumableLogger):
    """Event files directly in `save_dir`, without Lightning's hparams.yaml beside them."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False)
        threading.excepthook = partial(report_thread_error, threading.excepthook)

    @property
    def log_dir(self) -> str:
        """The folder as it is named: Lightning would expand `$NAME` and `~` in it."""
        return str(self.save_dir)

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Let TensorBoard ignore later steps in the existing event files; nothing may be written yet."""
        # As SummaryWriter's purge_step does, but Lightning has made the writer before it reads a checkpoint.
        start = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        self.experiment._get_file_writer().add_event(start)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log; the OSError of a full disk is raised, which Lightning would report as a wrong type of metric."""
        try:
            super().log_metrics(metrics, step)
        except ValueError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise

    def save(self) -> None:
        self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the file; after a failed run a full disk raises no second error."""
        with suppress(*() if status == "success" else (OSError,)):
            super().finalize(status)


def report_thread_error(usual: Callable[[threading.ExceptHookArgs], object], failure: threading.ExceptHookArgs) -> None:
    """threading.excepthook without the full disk of TensorBoard's writer, whose next call raises it to be reported."""
    if isinstance(failure.thread, _AsyncWriterThread) and isinstance(failure.exc_value, OSError):
        failure.exc_value.filename = os.fsdecode(failure.thread._record_writer._writer.filename)
    else:
        usual(failure)


def tensorboard_writers(trainer: Trainer) -> list[SummaryWriter]:
    """The writers for pictures: none during the sanity check, without TensorBoard, or on other ranks than 0."""
    if trainer.sanity_checking or not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


class CSVLogger(ResumableLogger):
    """`<save_dir>/metrics.csv`: one row per step, one column per metric, in order of appearance.

    An existing file is continued, without a last line that a killed run left incomplete.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self._columns = ["step"]
        self._rows: dict[int, dict[str, str]] = {}
        self._open: int | None = None  # the step whose row is not in the file yet
        self._stale = False  # the file does not merely lack the open row
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        try:
            complete, _, rest = self.path.read_text(encoding="utf-8").rpartition("\n")
            header, *rows = list(csv.reader(StringIO(complete))) or [self._columns]
            if header[:1] != ["step"] or len(set(header)) < len(header):
                raise ValueError("its first line names no columns")
            self._rows = {int(row[0]): dict(zip(header, row, strict=True)) for row in rows if row}
        except (ValueError, csv.Error) as error:
            raise UserError(f"{self.path} is damaged ({error}): move it away to continue without its metrics") from None
        self._columns, self._stale = header, bool(rest)

    name = version = ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run's config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Merge the metrics into the step's row, which is written when another begins, or by `save`."""
        step = step or 0
        if step != self._open:
            self.save()
            self._stale |= step <= max(self._rows, default=-1)
            self._open = step
        new_columns = [name for name in metrics if name not in self._columns]
        self._stale |= bool(new_columns)
        self._columns += new_columns
        row = self._rows.setdefault(step, {"step": str(step)})
        row.update({name: "" if isnan(value) else f"{float(value):.6g}" for name, value in metrics.items()})

    @rank_zero_only
    def resume(self, step: int) -> None:
        kept = {s: row for s, row in self._rows.items() if s <= step}
        self._stale, self._rows = self._stale or len(kept) < len(self._rows), kept

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the file; after a failed run a full disk raises no second error."""
        with suppress(*() if status == "success" else (UserError,)):
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write what the file lacks."""
        text = StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        if self._stale:
            writer.writeheader()
            writer.writerows(self._rows[step] for step in sorted(self._rows))
            write_text(self.path, text.getvalue())
        elif self._open is not None:
            writer.writerow(self._rows[self._open])
            self._stale = True  # until the whole line is there
            with translate_write_errors(self.path), self.path.open("a", newline="") as file:
                file.write(text.getvalue())
        self._open, self._stale = None, False
