"""Tables for the terminal: metrics per class, and the jobs of a sweep."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf, isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

COLUMNS = {"precision": "precision", "boundary_iou": "boundary IoU", "boundary_f": "boundary F"}
"""Column titles of the metrics that only an evaluation computes. Dice has no column, since it follows from IoU."""


def console(**settings: Any) -> Console:
    """Return a rich console that prints `[b]` and `:car:` literally, which may be part of class names and paths."""
    return Console(markup=False, emoji=False, **settings)


def print_table(table: Table, **settings: Any) -> None:
    """Print a table, its title without line breaks, which rich would put into paths; `settings` of the console."""
    out, title = console(**settings), table.title
    if title:
        out.print(title, style="italic", highlight=False, soft_wrap=True)
        table.title = None
    out.print(table)


def metrics_table(
    metrics: Mapping[str, float],
    matrix: NDArray[np.int64],
    classes: Sequence[str],
    title: str = "",
    prefix: str = "val/",
) -> Table:
    """Return a table of the metrics per class, 0 ... 1, and of the share of the ground truth.

    `matrix` is the confusion matrix (C, C), whose rows are the ground truth. `metrics` holds `<prefix>iou/<class>`,
    `<prefix>miou`, `<prefix>mean_accuracy`, `<prefix>fwiou`, `<prefix>pixel_accuracy`, and those of COLUMNS that are
    to be shown beside them.
    """
    shown = {name: title for name, title in COLUMNS.items() if f"{prefix}mean_{name}" in metrics}
    table = empty_table(("class", "IoU", "accuracy", *shown.values(), "pixels"), title)
    pixels = matrix.sum(axis=1)
    for k, name in enumerate(classes):
        accuracy = matrix[k, k] / pixels[k] if pixels[k] else nan
        others = [metrics[f"{prefix}{column}/{name}"] for column in shown]
        values = [metrics[f"{prefix}iou/{name}"], accuracy, *others, pixels[k] / max(pixels.sum(), 1)]
        table.add_row(name, *map(fraction, values))
    table.add_section()
    means = [metrics[prefix + name] for name in ("miou", "mean_accuracy", *(f"mean_{column}" for column in shown))]
    table.add_row("mean over classes", *map(fraction, means), "", style="bold")
    weighted = [metrics[prefix + name] for name in ("fwiou", "pixel_accuracy")]
    table.add_row("weighted by pixels", *map(fraction, weighted), *("" for _ in shown), "", style="bold")
    return table


def empty_table(header: Iterable[str], title: str = "") -> Table:
    """Return a table without rows; all but the first column are right-aligned."""
    table = Table(title=title or None, title_justify="left")
    for k, name in enumerate(header):
        table.add_column(name, justify="right" if k else "left", overflow="fold")
    return table


def plain_table(rows: Sequence[Mapping[str, str]], title: str) -> Table:
    """Return rows with equal keys as a table with these keys as header."""
    table = empty_table(rows[0], title)
    for row in rows:
        table.add_row(*row.values())
    return table


def sweep_table(rows: Sequence[Any], metric: str, mode: str) -> Table:
    """Return the jobs of a sweep (cli.sweep.SweepRow), sorted by `metric`, the best first, failed ones last.

    Columns: the keys that the sweep changed, the metrics, time and folder. If no job has `metric`, the jobs keep their
    order, and time and folder are left out. `mode`: max or min, the better end of `metric`.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row.overrides))
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    table = Table()
    for key in keys:
        table.add_column(key)
    for name in names:
        table.add_column(name, justify="right")
    ranked = metric in names
    if ranked:
        table.add_column("time", justify="right")
        table.add_column("folder", overflow="fold")
    elif any(row.error for row in rows):
        table.add_column("error", overflow="fold")

    def sort_key(row: Any) -> tuple[bool, float]:
        score = float(row.metrics.get(metric, nan))
        return bool(row.error), inf if isnan(score) else -score if mode == "max" else score

    for row in sorted(rows, key=sort_key):
        minutes, seconds = divmod(round(row.seconds), 60)
        values = [row.overrides.get(key, "") for key in keys]
        values += [_format(row.metrics.get(name, nan)) for name in names]
        values += [f"{minutes}:{seconds:02}", row.error or row.folder] if ranked else [row.error] if row.error else []
        table.add_row(*values, style="red" if row.error else "")
    return table


def seeds_table(groups: Sequence[Any], metric: str, mode: str) -> Table:
    """Return mean ± standard deviation per group of seeds (cli.sweep.SeedGroup), the best mean of `metric` first."""
    keys = list(dict.fromkeys(key for group in groups for key in group.overrides))
    names = list(dict.fromkeys(name for group in groups for name in group.means))
    table = Table(title="mean ± standard deviation over seeds", title_justify="left")
    for name in (*keys, *names, "jobs"):
        table.add_column(name, justify="left" if name in keys else "right")

    def sort_key(group: Any) -> float:
        mean = group.means.get(metric)
        return inf if mean is None or isnan(mean) else -mean if mode == "max" else mean

    for group in sorted(groups, key=sort_key):
        cells = []
        for name in names:
            deviation = f" ± {_format(group.deviations[name])}" if name in group.deviations else ""
            cells.append(_format(group.means.get(name, nan)) + deviation)
        overrides = [group.overrides.get(key, "") for key in keys]
        jobs = f"{group.complete} of {group.jobs}"
        table.add_row(*overrides, *cells, jobs, style="" if group.complete == group.jobs else "red")
    return table


def _format(value: float | str) -> str:
    if isinstance(value, float):
        return "-" if isnan(value) else f"{value:.4f}"
    return value if isinstance(value, str) else f"{value:,}"


def fraction(share: float) -> str:
    """A metric with four digits; "-" for NaN."""
    return "-" if isnan(share) else f"{share:.4f}"
