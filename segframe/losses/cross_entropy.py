"""Cross-entropy over the pixels, with class weights and label smoothing."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segframe import IGNORE_INDEX
from segframe.errors import UserError
from segframe.heads.base import Logits
from segframe.losses.base import Loss


class CrossEntropy(Loss):
    """Mean over the pixels that are not void, weighted by their classes' weights.

    `reduction`: "mean", the weighted mean; "pixel_mean", the weighted sum by the number of pixels (SegNet's recipe);
    "sum", over an image's pixels, mean over the batch's images (Caffe's unnormalised loss, of FCN's recipes).
    `class_weights`: one per class; "auto" in a config becomes the median-frequency weights of the training masks.
    `label_smoothing`: the share of the target spread evenly over all classes (Szegedy et al., 2016).
    """

    class_weights: Tensor | None

    def __init__(
        self,
        class_weights: list[float] | Literal["auto"] | None,
        label_smoothing: float,
        reduction: Literal["mean", "pixel_mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        assert class_weights != "auto", "resolved by build.py"
        if not 0 <= label_smoothing < 1:
            raise UserError(f"loss.label_smoothing must lie in [0, 1), got {label_smoothing}")
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.label_smoothing = label_smoothing
        self.reduction = reduction

    def forward(self, logits: Logits, mask: Tensor) -> Tensor:
        """See Loss."""
        full = logits.full()
        target = mask.long()
        weights = None if self.class_weights is None else self.class_weights.float()
        if weights is not None and len(weights) != full.shape[1]:
            raise UserError(f"loss.class_weights has {len(weights)} entries for {full.shape[1]} classes")
        total = F.cross_entropy(
            full,
            target,
            weight=weights,
            ignore_index=IGNORE_INDEX,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        if self.reduction == "sum":
            return total / len(mask)
        # The sum of the pixels' weights: their number where classes are not weighted.
        valid = target != IGNORE_INDEX
        if weights is None or self.reduction == "pixel_mean":
            counted = valid.sum().float()
        else:
            counted = (weights[target.where(valid, 0)] * valid).sum()
        return total / counted if counted > 0 else total * 0
