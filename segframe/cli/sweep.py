"""The table of a sweep: overrides, metrics, time and folder of each job, on the terminal and as CSV."""

import csv
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from segframe.cli.error_messages import first_line
from segframe.files import as_named, write_text


class Failure(float):
    """The result of a job that failed: NaN, with the reason."""

    reason: str

    def __new__(cls, reason: str) -> "Failure":
        failure = super().__new__(cls, "nan")
        failure.reason = reason
        return failure


@dataclass(frozen=True)
class SweepRow:
    """One job of a sweep: its own overrides, and its metrics or its error."""

    overrides: Mapping[str, str]
    metrics: Mapping[str, float | str] = field(default_factory=dict)
    seconds: float = 0.0
    folder: str = ""
    error: str = ""


class SweepTable(Callback):
    """Prints the table and writes sweep.csv into the sweep's folder; the exit code is 1 if a job failed.

    A job's result is a dict of metrics, or the value of the metric that `monitor` names.
    """

    def __init__(self) -> None:
        self.rows: list[SweepRow] = []
        self.started = 0.0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse to overwrite the table of another sweep; with resume=auto all its jobs report their results again."""
        path = Path(config.hydra.sweep.dir) / "sweep.csv"
        if path.is_file() and "resume" in config and config.resume != "auto":
            folder = as_named(path.parent)
            raise SystemExit(
                f"error: {folder} already holds a sweep; continue it with resume=auto, or choose another output_dir"
            )

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.started = time.monotonic()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        overrides = dict(override.split("=", 1) for override in job_return.overrides or [] if "=" in override)
        seconds = round(time.monotonic() - self.started, 1)
        folder = str(as_named(Path(OmegaConf.select(config, "hydra.runtime.output_dir"))))
        result = job_return._return_value
        if job_return.status is JobStatus.FAILED or isinstance(result, Failure):
            reason = result.reason if isinstance(result, Failure) else first_line(result)
            self.rows.append(SweepRow(overrides, {}, seconds, folder, reason))
        else:
            metrics = result if isinstance(result, dict) else {config.monitor: result}
            self.rows.append(SweepRow(overrides, metrics, seconds, folder))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        # Overrides that all jobs share do not distinguish them.
        same = set.intersection(*(set(row.overrides.items()) for row in self.rows)) if len(self.rows) > 1 else set()
        self.rows = [replace(row, overrides=dict(row.overrides.items() - same)) for row in self.rows]
        # Imported here: Hydra makes this callback in every program, and rich is needed only at a sweep's end.
        from segframe.inference.metrics import best_mode
        from segframe.visualization.tables import print_table, sweep_table

        print_table(sweep_table(self.rows, config.monitor, best_mode(config.monitor)))
        path = Path(config.hydra.sweep.dir) / "sweep.csv"
        write_csv(path, self.rows)
        print(f"also in {path}")
        if any(row.error for row in self.rows):
            raise SystemExit(1)


def write_csv(path: Path, rows: list[SweepRow]) -> None:
    """Write one row per job: its overrides, metrics, seconds, folder, error."""
    keys = list(dict.fromkeys(key for row in rows for key in row.overrides))
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*keys, *names, "seconds", "folder", "error"])
    for row in rows:
        values = [row.overrides.get(key, "") for key in keys] + [row.metrics.get(name, "") for name in names]
        writer.writerow([*values, row.seconds, row.folder, row.error])
    write_text(path, text.getvalue())
