"""Runs side by side: their metrics, differences and settings, as tables of text."""

import io
from math import isnan
from pathlib import Path
from typing import NamedTuple

from segframe.analysis.measured_run import MeasuredRun
from segframe.inference.image_counts import OVERALL
from segframe.visualization.tables import fraction, print_table
from segframe.visualization.text_tables import TextTable

TEXT_METRICS = 5
"""Text tables show this many metrics, the first entries of OVERALL."""


class Difference(NamedTuple):
    """The difference of a metric to the first group's, and its 95 % interval over images."""

    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


class Group(NamedTuple):
    """A run, or runs that differ in nothing but their seed."""

    name: str
    runs: list[MeasuredRun]
    means: dict[str, float]
    """Each metric's mean over the runs, without the split's name: `miou`, `iou/<class>`, ..."""
    deviations: dict[str, float]
    """Sample standard deviations over the runs (n - 1), of metrics that no run has as NaN; empty for a single run."""
    differences: dict[str, Difference]
    """Each metric's difference to the first group's mean; empty for the first group."""


class Comparison(NamedTuple):
    """Result of a comparison: the groups of runs, of which the first is the baseline of all differences."""

    groups: list[Group]
    classes: tuple[str, ...]
    settings: dict[str, list[str]]
    """The settings that differ, by name: their values, one for each group."""
    images: list[str]
    """The names of the images."""
    split: str
    folder: Path
    """The folder of comparison.csv, .md, .tex and .html."""

    def tables(self) -> list[TextTable]:
        """Return three tables: settings that differ, metrics over all classes, IoU per class."""
        header, shown = [], list(OVERALL.items())[:TEXT_METRICS]
        for group in self.groups:
            header += [group.name, *(["difference"] if group.differences else [])]

        def row(title: str, metric: str) -> list[str]:
            cells = [title]
            for group in self.groups:
                cells.append(value_text(group, metric))
                cells += [difference_text(group.differences[metric])] if group.differences else []
            return cells

        names = [group.name for group in self.groups]
        settings = [[name, *values] for name, values in self.settings.items()]
        tables = [
            TextTable("Settings that differ", ["setting", *names], settings),
            TextTable("Metrics", ["metric", *header], [row(title, metric) for metric, title in shown]),
            TextTable("IoU per class", ["class", *header], [row(name, f"iou/{name}") for name in self.classes]),
        ]
        return tables if settings else tables[1:]

    @property
    def note(self) -> str:
        """A warning if the mean IoUs of the runs are over different numbers of classes; else an empty string."""
        counted = [list(dict.fromkeys(run.counted_classes for run in group.runs)) for group in self.groups]
        if len({number for numbers in counted for number in numbers}) == 1:
            return ""
        numbers = ", ".join(
            f"{' | '.join(map(str, numbers))} ({group.name})"
            for numbers, group in zip(counted, self.groups, strict=True)
        )
        return f"numbers of classes in the mean IoU: {numbers}; a class without truth counts, as 0, if it is predicted"

    def __repr__(self) -> str:
        text = io.StringIO()
        for table in self.tables():
            print_table(table.for_terminal(), file=text, width=120, force_jupyter=False)
        return text.getvalue().rstrip()


def value_text(group: Group, metric: str) -> str:
    """Return a metric, over several seeds with its standard deviation."""
    deviation = f" ± {fraction(group.deviations[metric])}" if metric in group.deviations else ""
    return fraction(group.means[metric]) + deviation


def difference_text(difference: Difference) -> str:
    """Return a difference with its interval, marked where that leaves out 0."""
    if isnan(difference.value):
        return "-"
    interval = f" ({difference.low:+.4f} to {difference.high:+.4f})" if not isnan(difference.low) else ""
    return f"{difference.value:+.4f}{interval}{' *' if difference.clear else ''}"
