"""The result of an evaluation, as Python's users get it."""

import io
from math import nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from segframe.visualization.tables import metrics_table, print_table


class EvaluationResult(NamedTuple):
    """The metrics of a checkpoint on a split of a dataset."""

    folder: Path
    """Where metrics.json is."""
    metrics: dict[str, float]
    """As in metrics.json: `val/miou`, `val/iou/<class>`, ...; NaN for a class that does not occur."""
    matrix: NDArray[np.int64]
    """Pixels by class, (C, C): rows are the truth, columns the prediction."""
    classes: tuple[str, ...]
    split: str
    checkpoint: Path
    missing: str
    """A sentence about the classes that do not occur in the truth; empty if all do."""
    inference: str
    """How the network ran, in words."""

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """IoU, accuracy and share of the truth's pixels (`iou`, `accuracy`, `pixels`, 0 ... 1) by class."""
        pixels, total = self.matrix.sum(1), max(int(self.matrix.sum()), 1)
        return {
            name: {
                "iou": self.metrics[f"{self.split}/iou/{name}"],
                "accuracy": float(self.matrix[k, k] / pixels[k]) if pixels[k] else nan,
                "pixels": float(pixels[k] / total),
            }
            for k, name in enumerate(self.classes)
        }

    def table(self) -> Table:
        """Return the metrics per class as a table for the terminal."""
        title = f"{self.checkpoint}, {self.split}"
        return metrics_table(self.metrics, self.matrix, self.classes, title, f"{self.split}/")

    def __repr__(self) -> str:
        text = io.StringIO()
        print_table(self.table(), file=text, width=100, force_jupyter=False)
        return text.getvalue().rstrip()
