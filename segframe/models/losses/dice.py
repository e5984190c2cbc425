"""Soft Dice loss (Milletari et al., 2016), multi-class."""

from collections.abc import Sequence

import torch
from torch import Tensor

from segframe import IGNORE_INDEX
from segframe.distributed import total
from segframe.errors import check_range
from segframe.models.logits import Logits
from segframe.models.losses.base import Loss


class Dice(Loss):
    """1 - Dice coefficient over the whole batch of all devices, mean over the classes present in its masks.

    Dice of a class = (2 sum(p t) + `smooth`) / (sum(p) + sum(t) + `smooth`), void pixels left out.
    It is no mean over pixels: the batches of an optimizer step contribute the mean of their losses.
    """

    def __init__(self, smooth: float) -> None:
        super().__init__()
        check_range("loss.smooth", smooth, 0)
        self.smooth = smooth

    def forward(self, logits: Logits, mask: Tensor, step_masks: Sequence[Tensor] = ()) -> Tensor:
        full = logits.full()
        valid = (mask != IGNORE_INDEX)[:, None]
        probabilities = full.softmax(1) * valid
        target = torch.zeros_like(probabilities)
        target.scatter_(1, mask.long()[:, None].where(valid, 0), valid.to(target.dtype))
        overlap = (probabilities * target).sum((0, 2, 3))
        area = target.sum((0, 2, 3))
        predicted = probabilities.sum((0, 2, 3))
        if step_masks:  # in training
            overlap, area, predicted = total(torch.stack([overlap, area, predicted])).unbind()
        dice = (2 * overlap + self.smooth) / (predicted + area + self.smooth)
        present = area > 0
        return ((1 - dice) * present).sum() / present.sum().clamp(min=1) / (len(step_masks) or 1)
