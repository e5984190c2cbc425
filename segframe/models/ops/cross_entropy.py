"""Cross-entropy at the images' size of coarse logits, which are resized in bands and never stored."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from segframe.models.ops.banded_sum import banded_sum
from segframe.models.ops.row_bands import Band, bands
from segframe.models.ops.targets import Targets

# Bands are in units of ln 2: exp2 takes a CPU a third of exp's time.
LOG2_E = math.log2(math.e)


def cross_entropy(
    values: Tensor, size: tuple[int, int], aligned_stride: int | None, targets: Targets
) -> tuple[Tensor, Tensor]:
    """Return loss and weight as `pixelwise.cross_entropy`."""

    def sums(gradient: Tensor | None) -> tuple[Tensor, Tensor]:
        logits = bands(values, size, aligned_stride, LOG2_E, gradient)
        return _sums(logits, values.shape[1], targets, gradient is not None)

    return banded_sum(values, sums)


def _sums(bands: Iterable[Band], num_classes: int, targets: Targets, with_gradient: bool) -> tuple[Tensor, Tensor]:
    mask, class_weights, label_smoothing = targets
    classes = torch.arange(num_classes, dtype=torch.float32, device=mask.device).unsqueeze(1)
    weights = None if class_weights is None else class_weights.float().unsqueeze(1)
    sums = []
    with torch.autocast(mask.device.type, enabled=False), torch.no_grad():
        for images, rows, logits in bands:
            label = mask[images, rows].reshape(len(logits), 1, -1).float()
            # One-hot in floats: faster than gathering for few classes, and all zeros for void.
            target = torch.eq(label, classes, out=torch.empty_like(logits))
            if weights is not None:
                target *= weights
            weight = target.sum()
            if label_smoothing:
                uniform = label_smoothing / num_classes * (1.0 if weights is None else weights)
                target.mul_(1 - label_smoothing).add_((label < num_classes) * uniform)
            sums.append(torch.stack([_soft_cross_entropy(logits, target, with_gradient), weight]))
        total, weight = torch.stack(sums).sum(0)
    return total, weight


def _soft_cross_entropy(logits: Tensor, target: Tensor, with_gradient: bool) -> Tensor:
    """Return the summed cross-entropy of logits, in units of ln 2, and target probabilities, both (M, C, P).

    With `with_gradient`, overwrites `logits` by the gradient with respect to natural logits.
    """
    logits -= logits.amax(1, keepdim=True)
    correct = torch.dot(logits.flatten(), target.flatten())
    normaliser = logits.exp2_().sum(1, keepdim=True)
    weight = target.sum(1, keepdim=True)
    total = (normaliser.log2() * weight).sum() - correct
    if with_gradient:
        logits.mul_(weight / normaliser).sub_(target)
    return total / LOG2_E
