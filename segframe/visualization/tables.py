"""Tables for the terminal: figures per class, and the runs of a sweep."""

from collections.abc import Mapping, Sequence
from math import inf, isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table


def console(**settings: Any) -> Console:
    """Rich's standard output, where `[b]` and `:car:` in a class's name or a path are letters, no styles or emoji."""
    return Console(markup=False, emoji=False, **settings)


def print_table(table: Table, **settings: Any) -> None:
    """Prints (to standard output), the title in one piece: rich would break it at the table's width, paths too.

    `settings` are the console's.
    """
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
    """IoU, accuracy and share of the true pixels per class, in percent; `matrix` is (C, C), rows = truth.

    `figures` holds `<prefix>iou/<class>`, `<prefix>miou`, `<prefix>mean_accuracy`, `<prefix>fwiou`, and
    `<prefix>pixel_accuracy`.
    """
    table = Table(title=title or None, title_justify="left")
    table.add_column("class")
    for name in ("IoU %", "accuracy %", "pixels %"):
        table.add_column(name, justify="right")

    pixels = matrix.sum(axis=1)
    for k, name in enumerate(classes):
        accuracy = matrix[k, k] / pixels[k] if pixels[k] else nan
        table.add_row(
            name,
            _percent(metrics[f"{prefix}iou/{name}"]),
            _percent(accuracy),
            _percent(pixels[k] / max(pixels.sum(), 1)),
        )
    table.add_section()
    means = {"mean over classes": ("miou", "mean_accuracy"), "weighted by pixels": ("fwiou", "pixel_accuracy")}
    for name, (iou, accuracy_key) in means.items():
        table.add_row(name, _percent(metrics[prefix + iou]), _percent(metrics[prefix + accuracy_key]), "", style="bold")
    return table


def plain_table(rows: Sequence[Mapping[str, str]], title: str) -> Table:
    """Rows of equal keys as they are, under their keys; all but the first column aligned to the right."""
    table = Table(title=title, title_justify="left")
    for k, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if k else "left")
    for row in rows:
        table.add_row(*row.values())
    return table


def sweep_table(rows: Sequence[Any], metric: str, mode: str) -> Table:
    """The jobs of a sweep (cli.sweep.SweepRow), those with the best `metric` first, failed ones last.

    A column for each key that the sweep changed and for each metric. Where `metric` is none of them, the jobs stay in
    their order, without time and folder. `mode`: max or min, where `metric` is best.
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

    def place(row: Any) -> tuple[bool, float]:
        score = float(row.metrics.get(metric, nan))
        return bool(row.error), inf if isnan(score) else -score if mode == "max" else score

    for row in sorted(rows, key=place):
        minutes, seconds = divmod(round(row.seconds), 60)
        values = [row.overrides.get(key, "") for key in keys]
        values += [_figure(row.metrics.get(name, nan)) for name in names]
        values += [f"{minutes}:{seconds:02}", row.error or row.folder] if ranked else [row.error] if row.error else []
        table.add_row(*values, style="red" if row.error else "")
    return table


def _figure(value: float | str) -> str:
    if isinstance(value, float):
        return "-" if isnan(value) else f"{value:.4f}"
    return value if isinstance(value, str) else f"{value:,}"


def _percent(share: float) -> str:
    return "-" if isnan(share) else f"{100 * share:.2f}"
