"""Pixelwise cross-entropy with class weights and label smoothing."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segframe import IGNORE_INDEX
from segframe.errors import UserError, check_range
from segframe.models.logits import Logits
from segframe.models.losses.base import Loss
from segframe.models.ops.cross_entropy import cross_entropy


class CrossEntropy(Loss):
    """Cross-entropy at the images' size, mean over the pixels that are not void.

    `reduction`: "mean", weighted by the classes' weights; "pixel_mean", the weighted sum divided by the number of
    pixels (SegNet); "sum", over pixels, mean over images (Caffe's unnormalised loss, as in FCN).
    `class_weights`: one per class; "auto" in a config becomes the median-frequency weights of the training masks.
    `label_smoothing`: the share of the target distributed over all classes (Szegedy et al., 2016).
    """

    class_weights: Tensor | None

    def __init__(
        self,
        class_weights: list[float] | Literal["auto"] | None,
        label_smoothing: float,
        reduction: Literal["mean", "pixel_mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        assert class_weights != "auto", "auto is resolved when the config is finished"
        if not 0 <= label_smoothing < 1:
            raise UserError(f"loss.label_smoothing must lie in [0, 1), got {label_smoothing}")
        for weight in class_weights or ():
            check_range("loss.class_weights", weight, 0)
        if class_weights is not None and not any(class_weights):
            raise UserError("loss.class_weights are all 0: nothing would be learned; give at least one above 0")
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.label_smoothing = label_smoothing
        self.reduction = reduction

    def forward(self, logits: Logits, mask: Tensor, step_masks: Sequence[Tensor] = ()) -> Tensor:
        values, weights = logits.values, self.class_weights
        if weights is not None and len(weights) != values.shape[1]:
            raise UserError(f"loss.class_weights has {len(weights)} entries for {values.shape[1]} classes")
        total, counted = cross_entropy(values, logits.size, logits.aligned_stride, mask, weights, self.label_smoothing)
        if self.reduction == "sum":
            return total / sum(map(len, step_masks or [mask]))
        if self.reduction == "pixel_mean":
            counted = torch.stack([(each != IGNORE_INDEX).sum() for each in step_masks or [mask]]).sum()
        elif step_masks:
            of_class = (values.new_ones(values.shape[1]) if weights is None else weights).to(total.dtype)
            of_label = F.pad(of_class, (0, 256 - len(of_class)))
            counted = torch.stack([of_label[each.int()].sum() for each in step_masks]).sum()
        return total * torch.where(counted > 0, 1 / counted, 0)
