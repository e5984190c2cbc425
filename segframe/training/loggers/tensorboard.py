"""TensorBoard event files, directly in the run's folder."""

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch.utils.tensorboard.summary import hparams

from segframe.training.loggers.base import ResumableLogger

GROUPS = {"lr/": "watch/lr/", "speed/": "watch/speed/", "best/": "val/best/", "val/iou/": "val_iou/"}
"""The prefixes of metrics that have others here.

TensorBoard sorts groups of tags by name, opens the first two, and shows the first five metrics in HPARAMS: by these
names they are losses and mIoU.
"""
CHARTS = {
    "losses and mIoU": {
        "loss": ["Multiline", ["train/loss", "val/loss"]],
        "mIoU": ["Multiline", ["val/miou"]],
        "accuracy": ["Multiline", ["val/pixel_accuracy", "val/mean_accuracy", "val/fwiou"]],
        "IoU of each class": ["Multiline", ["val_iou/.*"]],
    },
    "optimizer and speed": {
        "learning rate": ["Multiline", ["watch/lr/.*"]],
        "images per second": ["Multiline", ["watch/speed/images_per_second"]],
        "share of time waiting for data": ["Multiline", ["watch/speed/data_wait"]],
    },
}
"""The charts of the tab CUSTOM SCALARS; tags are regular expressions."""


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
    def log_hyperparams(self, params: Mapping[str, str | float], *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Log the settings as the run's hyperparameters (HPARAMS tab), and the layout of the CUSTOM SCALARS tab."""
        # Without a list of columns: TensorBoard would take the first run's for all, and so finds them.
        _, start, _ = hparams(dict(params), {})
        # SummaryWriter.add_hparams would open a second event file in a sub-folder.
        self.experiment._get_file_writer().add_summary(start)
        self.experiment.add_custom_scalars(CHARTS)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log all but the epoch; a full disk's OSError is raised, which Lightning would report as a wrong type."""
        try:
            super().log_metrics({tag(name): value for name, value in metrics.items() if name != "epoch"}, step)
        except ValueError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """Show images (H, W, 3) under a name, the second and further ones with a number."""
        for number, image in enumerate(images):
            self.experiment.add_image(f"{key}_{number}" if number else key, image, step, dataformats="HWC")

    def save(self) -> None:
        self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the row of HPARAMS and the file; after a failed run a full disk raises no second error."""
        with suppress(*() if status == "success" else (OSError,)):
            if status == "success":
                _, _, end = hparams({}, {})
                self.experiment._get_file_writer().add_summary(end)
            super().finalize(status)


def tag(name: str) -> str:
    """A metric's name in TensorBoard, see GROUPS."""
    return next(
        (group + name.removeprefix(prefix) for prefix, group in GROUPS.items() if name.startswith(prefix)), name
    )


def report_thread_error(usual: Callable[[threading.ExceptHookArgs], object], failure: threading.ExceptHookArgs) -> None:
    """threading.excepthook without the full disk of TensorBoard's writer, whose next call raises it to be reported."""
    if isinstance(failure.thread, _AsyncWriterThread) and isinstance(failure.exc_value, OSError):
        failure.exc_value.filename = os.fsdecode(failure.thread._record_writer._writer.filename)
    else:
        usual(failure)
