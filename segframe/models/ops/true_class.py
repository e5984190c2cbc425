"""Losses at the images' size of the probability of a pixel's class, in bands of coarse logits."""

import torch
from torch import Tensor

from segframe.models.ops.banded_sum import banded_sum
from segframe.models.ops.cross_entropy import LOG2_E
from segframe.models.ops.row_bands import bands, working_dtype


def focal(
    values: Tensor,
    size: tuple[int, int],
    aligned_stride: int | None,
    mask: Tensor,
    class_weights: Tensor | None,
    gamma: float,
) -> tuple[Tensor, Tensor]:
    """Return the summed focal loss, weight * (1 - p) ** gamma * -log(p), and the sum of the pixels' weights.

    p is the probability of a pixel's class. Arguments and results are those of `cross_entropy`.
    """

    def sums(gradient: Tensor | None) -> tuple[Tensor, Tensor]:
        classes = torch.arange(values.shape[1], dtype=torch.float32, device=mask.device).unsqueeze(1)
        weights = 1.0 if class_weights is None else class_weights.float().unsqueeze(1)
        found = []
        with torch.autocast(mask.device.type, enabled=False), torch.no_grad():
            for images, rows, logits in bands(values, size, aligned_stride, LOG2_E, gradient):
                label = mask[images, rows].reshape(len(logits), 1, -1).float()
                target = torch.eq(label, classes, out=torch.empty_like(logits))  # all zeros for void
                weight = (target * weights).sum(1, keepdim=True)
                logits -= logits.amax(1, keepdim=True)
                correct = (logits * target).sum(1, keepdim=True)
                normaliser = logits.exp2_().sum(1, keepdim=True)
                log_p = ((correct - normaliser.log2()) / LOG2_E).clamp_(max=0)  # rounding
                rest = -log_p.expm1()
                weight_now = weight * rest**gamma
                found.append(torch.stack([-(weight_now * log_p).sum(), weight.sum()]))
                if gradient is not None:
                    # d/dlog(p); log(p) / (1 - p) approaches -1 where p approaches 1.
                    ratio = torch.where(rest > 0, log_p / rest, -1)
                    slope = weight_now * (1 - gamma * log_p.exp() * ratio)
                    logits.div_(normaliser).sub_(target).mul_(slope)
        total, weight = torch.stack(found).sum(0)
        return total, weight

    return banded_sum(values, sums)


def true_class_probabilities(values: Tensor, size: tuple[int, int], aligned_stride: int | None, mask: Tensor) -> Tensor:
    """Return the probability of each pixel's class (N, *size), in `working_dtype`; infinity for void.

    Arguments are those of `cross_entropy`. It has no gradient.
    """
    found = torch.empty(mask.shape, dtype=working_dtype(values), device=values.device)
    if values.is_meta:
        return found
    with torch.autocast(mask.device.type, enabled=False), torch.no_grad():
        for images, rows, logits in bands(values, size, aligned_stride, LOG2_E, None):
            label = mask[images, rows].reshape(len(logits), 1, -1).long()
            logits -= logits.amax(1, keepdim=True)
            correct = logits.gather(1, label.clamp(max=logits.shape[1] - 1)).exp2_()
            share = correct.div_(logits.exp2_().sum(1, keepdim=True))
            found[images, rows] = share.where(label < logits.shape[1], torch.inf).view(found[images, rows].shape)
    return found
