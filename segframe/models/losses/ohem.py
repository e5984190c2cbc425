"""Cross-entropy of hard pixels: online hard example mining (Shrivastava et al., 2016)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from segframe import IGNORE_INDEX
from segframe.distributed import total as total_over_devices
from segframe.distributed import world
from segframe.errors import check_range
from segframe.models.logits import Logits
from segframe.models.losses.base import Loss
from segframe.models.losses.class_weights import check_number, weights_tensor
from segframe.models.ops.pixelwise import cross_entropy
from segframe.models.ops.targets import Targets
from segframe.models.ops.true_class import true_class_probabilities


class OHEMCrossEntropy(Loss):
    """Cross-entropy, mean over the hard pixels of the batch of all devices, weighted by the classes' weights.

    A pixel is hard if the probability of its class is below `threshold`, or if it is among the hardest `min_kept` of
    its image's pixels, a share. Other projects choose the latter from the batch of a device; by image the choice is
    the same for any number of devices. How many pixels of other batches are hard is not known, so the batches of an
    optimizer step contribute the mean of their losses.
    """

    class_weights: Tensor | None

    def __init__(self, threshold: float, min_kept: float, class_weights: list[float] | Literal["auto"] | None) -> None:
        super().__init__()
        check_range("loss.threshold", threshold, 0, 1)
        check_range("loss.min_kept", min_kept, 0, 1)
        self.threshold = threshold
        self.min_kept = min_kept
        self.register_buffer("class_weights", weights_tensor(class_weights), persistent=False)

    def forward(self, logits: Logits, mask: Tensor, step_masks: Sequence[Tensor] = ()) -> Tensor:
        values, size, stride = logits.values, logits.size, logits.aligned_stride
        check_number(self.class_weights, values.shape[1])
        hard = self.hard_pixels(true_class_probabilities(values, size, stride, mask))
        kept = mask.where(hard, IGNORE_INDEX)
        total, counted = cross_entropy(values, size, stride, Targets(kept, self.class_weights, 0.0))
        if step_masks:  # in training
            counted = total_over_devices(counted) * (len(step_masks) / world())
        return total * torch.where(counted > 0, 1 / counted, 0)

    def hard_pixels(self, probabilities: Tensor) -> Tensor:
        """Return which pixels (N, H, W) are hard, by the probabilities of their classes; those of void are infinite."""
        hard = probabilities < self.threshold
        number = math.ceil(self.min_kept * probabilities[0].numel())
        if number:
            hardest = probabilities.flatten(1).topk(number, largest=False).values.amax(1)
            hard |= probabilities <= hardest[:, None, None]
        return hard
