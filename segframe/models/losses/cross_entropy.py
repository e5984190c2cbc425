"""Pixelwise cross-entropy with class weights and label smoothing."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from segframe import IGNORE_INDEX
from segframe.errors import UserError
from segframe.models.logits import Logits
from segframe.models.losses.base import Loss
from segframe.models.losses.class_weights import check_number, summed_weights, weights_tensor
from segframe.models.ops.pixelwise import cross_entropy
from segframe.models.ops.targets import Targets


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
        if not 0 <= label_smoothing < 1:
            raise UserError(f"loss.label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.register_buffer("class_weights", weights_tensor(class_weights), persistent=False)
        self.label_smoothing = label_smoothing
        self.reduction = reduction

    def forward(self, logits: Logits, mask: Tensor, step_masks: Sequence[Tensor] = ()) -> Tensor:
        values, weights = logits.values, self.class_weights
        check_number(weights, values.shape[1])
        targets = Targets(mask, weights, self.label_smoothing)
        total, counted = cross_entropy(values, logits.size, logits.aligned_stride, targets)
        if self.reduction == "sum":
            return total / sum(map(len, step_masks or [mask]))
        if self.reduction == "pixel_mean":
            counted = torch.stack([(each != IGNORE_INDEX).sum() for each in step_masks or [mask]]).sum()
        elif step_masks:
            counted = summed_weights(step_masks, weights, values.shape[1], total.dtype)
        return total * torch.where(counted > 0, 1 / counted, 0)
