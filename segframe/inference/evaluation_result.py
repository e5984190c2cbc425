"""The result of an evaluation, as Python's users get it."""

import io
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from segframe.inference.image_counts import CLASS_METRICS, SplitCounts
from segframe.visualization.tables import metrics_table, print_table


class EvaluationResult(NamedTuple):
    """The metrics of a checkpoint on a split of a dataset."""

    folder: Path
    """The folder of metrics.json."""
    metrics: dict[str, float]
    """Metrics by name, as in metrics.json: `val/miou`, `val/iou/<class>`, ...; NaN for a class that does not occur."""
    counts: SplitCounts
    """The confusion matrix (C, C) as `counts.matrix`, rows are the truth; as `counts.images` the counts of each image,
    in the order of `counts.names`, which images.npz holds."""
    classes: tuple[str, ...]
    split: str
    checkpoint: Path
    missing: str
    """A sentence about the classes that do not occur in the truth; empty if all do."""
    inference: str
    """Description of the inference, as it is printed."""

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """The metrics of each class, 0 ... 1: `iou`, `dice`, `precision`, `recall`, `boundary_iou`, `boundary_f`.

        Also `pixels`, its share of the truth's pixels.
        """
        pixels, total = self.counts.matrix.sum(1), max(int(self.counts.matrix.sum()), 1)
        return {
            name: {
                **{metric: self.metrics[f"{self.split}/{metric}/{name}"] for metric in CLASS_METRICS},
                "pixels": float(pixels[k] / total),
            }
            for k, name in enumerate(self.classes)
        }

    def table(self) -> Table:
        """Return the metrics per class as a table for the terminal."""
        title = f"{self.checkpoint}, {self.split}"
        return metrics_table(self.metrics, self.counts.matrix, self.classes, title, f"{self.split}/")

    def __repr__(self) -> str:
        text = io.StringIO()
        print_table(self.table(), file=text, width=100, force_jupyter=False)
        return text.getvalue().rstrip()
