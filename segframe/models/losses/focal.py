"""Focal loss (Lin et al., 2017) with softmax."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from segframe.errors import check_range
from segframe.models.logits import Logits
from segframe.models.losses.base import Loss
from segframe.models.losses.class_weights import check_number, summed_weights, weights_tensor
from segframe.models.ops.true_class import focal


class Focal(Loss):
    """Cross-entropy times (1 - p) ** `gamma`, p being the probability of the pixel's class: easy pixels count less.

    Mean over the pixels that are not void, weighted by `class_weights` (the paper's alpha) as that of CrossEntropy, so
    that both are equal for gamma 0.
    """

    class_weights: Tensor | None

    def __init__(self, gamma: float, class_weights: list[float] | Literal["auto"] | None) -> None:
        super().__init__()
        check_range("loss.gamma", gamma, 0)
        self.gamma = gamma
        self.register_buffer("class_weights", weights_tensor(class_weights), persistent=False)

    def forward(self, logits: Logits, mask: Tensor, step_masks: Sequence[Tensor] = ()) -> Tensor:
        values, weights = logits.values, self.class_weights
        check_number(weights, values.shape[1])
        total, counted = focal(values, logits.size, logits.aligned_stride, mask, weights, self.gamma)
        if step_masks:
            counted = summed_weights(step_masks, weights, values.shape[1], total.dtype)
        return total * torch.where(counted > 0, 1 / counted, 0)
