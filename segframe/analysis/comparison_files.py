"""A comparison as tables of text, comparison.csv with all digits, and the page comparison.html."""

from collections.abc import Mapping
from math import isnan, nan
from pathlib import Path
from typing import Any

from segframe.analysis.bootstrap import FEW_IMAGES
from segframe.analysis.comparison import Comparison, Difference, Group, difference_text, value_text
from segframe.analysis.comparison_images import most_changed_images
from segframe.files import write_csv, write_text
from segframe.inference.boundary_metrics import describe_distance
from segframe.inference.image_counts import OVERALL
from segframe.visualization.html import render


def write_comparison(comparison: Comparison, images: int) -> None:
    """Write the files of a comparison; `images`: those shown of each pair of groups, for better and for worse."""
    folder, tables = comparison.folder, comparison.tables()
    write_metrics(folder / "comparison.csv", comparison)
    write_text(folder / "comparison.md", "\n".join(table.markdown() for table in tables))
    write_text(folder / "comparison.tex", "\n".join(table.latex() for table in tables))
    write_text(folder / "comparison.html", page(comparison, images))


def write_metrics(path: Path, comparison: Comparison) -> None:
    """Write one row for each metric and group, all digits; empty cells for what does not exist."""
    rows = []
    for metric in comparison.groups[0].means:
        for group in comparison.groups:
            values = [group.means[metric], group.deviations.get(metric, nan)]
            values += group.differences.get(metric, Difference(nan, nan, nan))
            cells = ["" if isnan(value) else repr(value) for value in values]
            rows.append([metric, group.name, len(group.runs), *cells])
    write_csv(path, ["metric", "run", "runs", "mean", "deviation", "difference", "low", "high"], rows)


def page(comparison: Comparison, images: int) -> str:
    """Return comparison.html."""
    first, groups = comparison.groups[0].runs[0], comparison.groups
    palette = first.dataset.palette if first.dataset else ()
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in palette]
    rows = {
        "all classes": [(title, metric) for metric, title in OVERALL.items()],
        "IoU": [(name, f"iou/{name}") for name in comparison.classes],
        "boundary IoU": [(name, f"boundary_iou/{name}") for name in comparison.classes],
        "boundary F": [(name, f"boundary_f/{name}") for name in comparison.classes],
    }
    return render(
        "comparison.html.j2",
        comparison=comparison,
        groups=groups,
        few=len(comparison.images) < FEW_IMAGES,
        rows=rows,
        scales={title: largest_difference(groups, [metric for _, metric in found]) for title, found in rows.items()},
        value_text=value_text,
        difference_text=difference_text,
        boundary_distance=describe_distance(first.settings["boundary_distance"]),
        boundary_tolerance=describe_distance(first.settings["boundary_tolerance"]),
        classes=list(zip(comparison.classes, colors, strict=False)),  # none without predictions
        pairs=[(group, *most_changed_images(groups[0], group, images)) for group in groups[1:]] if images else [],
        numbers=numbers(comparison),
    )


def largest_difference(groups: list[Group], metrics: list[str]) -> float:
    """Return the largest absolute bound of the confidence intervals, which scales the bars of the table."""
    ends = [
        abs(end) for group in groups[1:] for metric in metrics for end in group.differences[metric] if not isnan(end)
    ]
    return max(ends, default=0) or 1.0


def numbers(comparison: Comparison) -> dict[str, Any]:
    """Return the page's numbers with all digits, which it holds as JSON; the values are those of metrics.json."""

    def of_split(values: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{comparison.split}/{name}": value for name, value in values.items()}

    return {
        group.name: {
            "checkpoints": [run.settings["checkpoint"] for run in group.runs],
            "means": of_split(group.means),
            "deviations": of_split(group.deviations),
            "differences": of_split(group.differences),
        }
        for group in comparison.groups
    }
