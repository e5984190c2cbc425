"""The table of a sweep: overrides, metrics, time and folder of each job, on the terminal and as CSV."""

import csv
import io
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite, nan
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from segframe.cli.argv import quoted
from segframe.cli.error_messages import first_line
from segframe.files import as_named, write_text

JOB_FILE = "job.json"
"""The row of a job, in its folder."""


@dataclass(frozen=True)
class SweepRow:
    """One job of a sweep: its own overrides, and its metrics or its error."""

    overrides: Mapping[str, str]
    metrics: Mapping[str, float | str] = field(default_factory=dict)
    seconds: float = 0.0
    folder: str = ""
    error: str = ""
    number: int = 0


class SweepTable(Callback):
    """Makes each job of a sweep leave its row of the table in its folder, from where `finish_sweep` collects them.

    A job's result is a dict of metrics, or the value of the metric that `monitor` names. Launchers may run jobs in
    other processes, with copies of this object; of exceptions that it raises, Hydra makes warnings.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse to overwrite the table of another sweep; with resume=auto all its jobs report their results again."""
        folder = Path(config.hydra.sweep.dir).absolute()
        if (folder / "sweep.csv").is_file() and "resume" in config and config.resume != "auto":
            raise SystemExit(
                f"error: {as_named(folder)} already holds a sweep; continue it with resume=auto, or choose another "
                "output_dir"
            )
        # Each job composes its config anew, maybe elsewhere and later: fix the folder, and what is no part of its name.
        overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        same = [override.key_or_group for override in overrides if not override.is_sweep_override()]
        with open_dict(config):
            config.hydra.sweep.dir = str(folder)
            config.hydra.overrides.hydra += [
                f"hydra.sweep.dir={quoted(str(folder))}",
                f"hydra.job.config.override_dirname.exclude_keys=[{','.join(same)}]",
            ]
        unfinished.append(config)
        for path in folder.rglob(JOB_FILE):
            path.unlink()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Leave a row that holds if the job's process is killed."""
        self.started = time.monotonic()
        if config.hydra.mode is RunMode.MULTIRUN:
            write_row(config, {}, 0, "it ended without a result")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Leave the job's row; NaN as the result of a failed job lets the sweep go on."""
        result, seconds = job_return._return_value, round(time.monotonic() - self.started, 1)
        if config.hydra.mode is not RunMode.MULTIRUN:
            return
        if job_return.status is JobStatus.FAILED:
            job_return.status, job_return.return_value = JobStatus.COMPLETED, nan
            write_row(config, {}, seconds, first_line(result))
        else:
            write_row(config, result if isinstance(result, dict) else {config.monitor: result}, seconds, "")


unfinished: list[DictConfig] = []
"""The config of the sweep that has begun in this process."""


def write_row(config: DictConfig, metrics: Mapping[str, Any], seconds: float, error: str) -> None:
    """Write a job's row into its folder."""
    overrides = dict(word.split("=", 1) for word in config.hydra.overrides.task if "=" in word)
    folder = Path(config.hydra.runtime.output_dir)
    known = {name: value for name, value in metrics.items() if not isinstance(value, float) or isfinite(value)}
    row = SweepRow(overrides, known, seconds, str(as_named(folder)), error, config.hydra.job.num)
    write_text(folder / JOB_FILE, json.dumps(asdict(row), indent=2) + "\n")


def finish_sweep() -> bool:
    """Print the table of the sweep that this process has begun, and write sweep.csv; returns whether a job failed."""
    if not unfinished:
        return False
    config = unfinished.pop()
    folder = as_named(Path(config.hydra.sweep.dir))
    rows = [SweepRow(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.rglob(JOB_FILE)]
    rows.sort(key=lambda row: row.number)
    if not rows:
        return True
    # Imported here: every program imports this file, and rich is needed only at a sweep's end.
    from segframe.inference.metrics import best_mode
    from segframe.visualization.tables import print_table, sweep_table

    complete = [row.number for row in rows] == list(range(len(rows)))
    # Overrides that all jobs share do not distinguish them.
    same = set.intersection(*(set(row.overrides.items()) for row in rows)) if len(rows) > 1 else set()
    rows = [replace(row, overrides={k: v for k, v in row.overrides.items() if (k, v) not in same}) for row in rows]
    print_table(sweep_table(rows, config.monitor, best_mode(config.monitor)))
    write_csv(folder / "sweep.csv", rows)
    print(f"also in {folder / 'sweep.csv'}")
    return not complete or any(row.error for row in rows)


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
