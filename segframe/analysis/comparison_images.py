"""Pictures of the images in which two groups of runs differ most."""

import numpy as np
from numpy.typing import NDArray

from segframe import IGNORE_INDEX
from segframe.analysis.comparison import Group
from segframe.analysis.report_images import (
    ERROR_COLORS,
    FALSE,
    MISSED,
    NEUTRAL,
    RIGHT,
    Example,
    draw_panels,
    shrink,
    unpack,
)
from segframe.inference.metrics import mean_of_known, ratio
from segframe.visualization.overlays import Color

SAME, GAINED, LOST, WRONG = range(4)
CHANGE_COLORS: dict[int, Color] = {
    SAME: ERROR_COLORS[NEUTRAL],
    GAINED: ERROR_COLORS[RIGHT],
    LOST: ERROR_COLORS[FALSE],
    WRONG: ERROR_COLORS[MISSED],
    IGNORE_INDEX: ERROR_COLORS[IGNORE_INDEX],
}


def most_changed_images(first: Group, other: Group, number: int) -> tuple[list[Example], list[Example]]:
    """Return the images whose mIoU rises most from `first` to `other`, and those whose mIoU falls most.

    The predictions shown are those of each group's first run; none where they were not kept, as in evaluate's results.
    """
    one, two = first.runs[0], other.runs[0]
    if one.dataset is None or not one.predictions or not two.predictions:
        return [], []
    dataset, before, after = one.dataset, image_ious(first), image_ious(other)
    gain = np.nan_to_num(after - before)
    order = np.argsort(-gain, kind="stable").tolist()

    def draw(index: int) -> Example:
        item = dataset[index]
        left, right = (unpack(run.predictions[index]) for run in (one, two))
        change = change_map(left, right, shrink(item["mask"].numpy()))
        caption = f"mIoU {before[index]:.4f}, then {after[index]:.4f} ({gain[index]:+.4f})"
        return draw_panels(
            item, {first.name: left, other.name: right}, dataset, caption, {"change": (change, CHANGE_COLORS)}
        )

    better = [draw(k) for k in order[:number] if gain[k] > 0]
    return better, [draw(k) for k in order[::-1][:number] if gain[k] < 0]


def change_map(first: NDArray[np.uint8], other: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return CHANGE_COLORS' indices (H, W): right in both, in the other alone, in the first alone, in neither."""
    change = np.full(truth.shape, WRONG, np.uint8)
    change[(first == truth) & (other == truth)] = SAME
    change[(first != truth) & (other == truth)] = GAINED
    change[(first == truth) & (other != truth)] = LOST
    change[truth == IGNORE_INDEX] = IGNORE_INDEX
    return change


def image_ious(group: Group) -> NDArray[np.float64]:
    """Return the mIoU of each image, (N,), over its own classes: the mean over the runs of a group."""
    runs = [run.counts for run in group.runs]
    ious = [ratio(c.correct, c.truth + c.predicted - c.correct) for c in runs]
    found: NDArray[np.float64] = np.mean([mean_of_known(iou) for iou in ious], axis=0)
    return found
