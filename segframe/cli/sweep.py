"""The table of a sweep: overrides, metrics, time and folder of each job, on the terminal and as CSV."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite, nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from segframe.cli.error_messages import first_line
from segframe.config.overrides import overrides_of, quoted
from segframe.files import as_named, write_csv, write_json

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
    starts: int = 1
    """2 or more for a job that a scheduler has started again."""


class SweepTable(Callback):
    """Hydra callback that writes each job's result to job.json in its folder; `finish_sweep` collects them.

    A job's result is a dict of metrics, or the value of the metric that `monitor` names. Launchers may run jobs in
    other processes, with copies of this object; of exceptions that it raises, Hydra makes warnings.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse to overwrite the table of another sweep; with resume=auto all its jobs report their results again."""
        folder = Path(config.hydra.sweep.dir).absolute()
        if (folder / "sweep.csv").is_file() and "resume" in config and config.resume != "auto":
            raise SystemExit(
                f"error: {as_named(folder)} already holds a sweep; continue it with output_dir={as_named(folder)} "
                "resume=auto, or choose another output_dir"
            )
        # Each job composes its config anew, maybe elsewhere and later: fix the folder, and what is no part of its name.
        overrides = OverridesParser.create().parse_overrides(overrides_of(config.hydra))
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
        """Write a row that marks the job as failed, which remains if its process is killed."""
        self.started = time.monotonic()
        if config.hydra.mode is RunMode.MULTIRUN:
            folder = Path(config.hydra.runtime.output_dir)
            self.starts = read_row(folder).starts + 1 if (folder / JOB_FILE).is_file() else 1
            self.write_row(config, {}, 0, "it ended without a result")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Leave the job's row; NaN as the result of a failed job lets the sweep go on."""
        result, seconds = job_return._return_value, round(time.monotonic() - self.started, 1)
        if config.hydra.mode is not RunMode.MULTIRUN:
            return
        if job_return.status is JobStatus.FAILED:
            job_return.status, job_return.return_value = JobStatus.COMPLETED, nan
            self.write_row(config, {}, seconds, first_line(result))
        else:
            self.write_row(config, result if isinstance(result, dict) else {config.monitor: result}, seconds, "")

    def write_row(self, config: DictConfig, metrics: Mapping[str, Any], seconds: float, error: str) -> None:
        """Write a job's row into its folder."""
        overrides = dict(word.split("=", 1) for word in overrides_of(config.hydra) if "=" in word)
        folder = Path(config.hydra.runtime.output_dir)
        known = {name: value for name, value in metrics.items() if not isinstance(value, float) or isfinite(value)}
        row = SweepRow(overrides, known, seconds, str(as_named(folder)), error, config.hydra.job.num, self.starts)
        write_json(folder / JOB_FILE, asdict(row))


unfinished: list[DictConfig] = []
"""The config of the sweep that has begun in this process."""


def read_row(folder: Path) -> SweepRow:
    """The row in a job's folder."""
    return SweepRow(**json.loads((folder / JOB_FILE).read_text(encoding="utf-8")))


def finish_sweep() -> bool:
    """Print the table of the sweep that this process has begun, and write sweep.csv; returns whether a job failed."""
    if not unfinished:
        return False
    config = unfinished.pop()
    folder = as_named(Path(config.hydra.sweep.dir))
    rows = sorted((read_row(path.parent) for path in folder.rglob(JOB_FILE)), key=lambda row: row.number)
    if not rows:
        return True
    # Imported here: every program imports this file, and rich is needed only at a sweep's end.
    from segframe.inference.metrics import best_mode
    from segframe.visualization.tables import print_table, seeds_table, sweep_table

    complete = [row.number for row in rows] == list(range(len(rows)))
    # Overrides that all jobs share do not distinguish them.
    same = set.intersection(*(set(row.overrides.items()) for row in rows))
    rows = [replace(row, overrides={k: v for k, v in row.overrides.items() if (k, v) not in same}) for row in rows]
    mode = best_mode(config.monitor)
    print_table(sweep_table(rows, config.monitor, mode))
    write_jobs(folder / "sweep.csv", rows)
    print(f"also in {folder / 'sweep.csv'}")
    (folder / "seeds.csv").unlink(missing_ok=True)
    if groups := group_seeds(rows):
        print_table(seeds_table(groups, config.monitor, mode))
        write_seeds(folder / "seeds.csv", groups)
        print(f"also in {folder / 'seeds.csv'}")
    return not complete or any(row.error for row in rows)


def write_jobs(path: Path, rows: list[SweepRow]) -> None:
    """Write one row per job: its overrides, metrics, seconds, folder, error."""
    keys = list(dict.fromkeys(key for row in rows for key in row.overrides))
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    cells = [
        [
            *(row.overrides.get(key, "") for key in keys),
            *(row.metrics.get(name, "") for name in names),
            *(row.seconds, row.folder, row.error),
        ]
        for row in rows
    ]
    write_csv(path, [*keys, *names, "seconds", "folder", "error"], cells)


@dataclass(frozen=True)
class SeedGroup:
    """Jobs that differ in nothing but their seed."""

    overrides: Mapping[str, str]
    means: Mapping[str, float]
    """The mean of each metric over the complete jobs, without metrics that one of them lacks."""
    deviations: Mapping[str, float]
    """The sample standard deviation (of n - 1) of each metric in `means`; empty for a single job."""
    complete: int
    """The number of jobs that means and deviations are of."""
    jobs: int


def group_seeds(rows: Sequence[SweepRow]) -> list[SeedGroup]:
    """The groups of jobs that differ in their seed alone; none if no group has two. Failed jobs do not enter means."""
    members: dict[frozenset[tuple[str, str]], list[SweepRow]] = {}
    for row in rows:
        others = frozenset((key, value) for key, value in row.overrides.items() if key != "seed")
        members.setdefault(others, []).append(row)
    if all(len({row.overrides.get("seed") for row in group}) < 2 for group in members.values()):
        return []
    groups = []
    for group in members.values():
        complete = [row for row in group if row.metrics and not row.error]
        values = {name: [row.metrics.get(name) for row in complete] for row in complete for name in row.metrics}
        numbers: dict[str, list[Any]] = {
            name: found for name, found in values.items() if all(isinstance(value, int | float) for value in found)
        }
        overrides = {key: value for key, value in group[0].overrides.items() if key != "seed"}
        means = {name: mean(found) for name, found in numbers.items()}
        deviations = {name: stdev(found) for name, found in numbers.items() if len(complete) > 1}
        groups.append(SeedGroup(overrides, means, deviations, len(complete), len(group)))
    return groups


def write_seeds(path: Path, groups: Sequence[SeedGroup]) -> None:
    """Write one row per group of seeds: overrides, means and standard deviations, numbers of jobs."""
    keys = list(dict.fromkeys(key for group in groups for key in group.overrides))
    names = list(dict.fromkeys(name for group in groups for name in group.means))
    header = [*keys, *(f"{name} {kind}" for name in names for kind in ("mean", "std")), "complete", "jobs"]
    rows = []
    for group in groups:
        values: list[str | float] = [group.overrides.get(key, "") for key in keys]
        for name in names:
            values += [group.means.get(name, ""), group.deviations.get(name, "")]
        rows.append([*values, group.complete, group.jobs])
    write_csv(path, header, rows)
