"""Lovász-softmax loss (Berman et al., 2018): a surrogate of the mean Jaccard index."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from segframe import IGNORE_INDEX
from segframe.models.logits import Logits
from segframe.models.losses.base import Loss


class LovaszSoftmax(Loss):
    """Lovász extension of 1 - IoU at the errors of the probabilities, mean over the classes in a mask, then over masks.

    `per_image`: a mask is that of an image, and the mean is over the images of all devices that are not all void. If
    false, it is that of a device's batch, whose IoU is then approximated: so the loss depends on the number of devices
    and of accumulated batches, over which the mean is taken.
    """

    def __init__(self, per_image: bool) -> None:
        super().__init__()
        self.per_image = per_image

    def forward(self, logits: Logits, mask: Tensor, step_masks: Sequence[Tensor] = ()) -> Tensor:
        probabilities = logits.full().softmax(1)
        if not self.per_image:  # one image, as high as all of them
            probabilities = probabilities.transpose(0, 1).flatten(1, 2)[None]
            mask = mask.flatten(0, 1)[None]
        with torch.no_grad():
            slopes, constant = lovasz_extension(probabilities, mask)
            masks = step_masks or [mask]
            labelled = [each != IGNORE_INDEX for each in masks]
            counts = [each.flatten(1).any(1).sum() if self.per_image else each.any() for each in labelled]
            number = torch.stack(counts).sum()
        return ((probabilities * slopes).sum() + constant) / number.clamp(min=1)


def lovasz_extension(probabilities: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of probabilities (N, C, H, W), summed over images: its slopes, and its constant, a scalar.

    For fixed ranks of the errors the loss is linear: sum(probabilities * slopes) + constant. So sorted errors and their
    order are stored for one class of one image at a time.
    """
    present = torch.stack([(mask == number).flatten(1).any(1) for number in range(probabilities.shape[1])], 1)
    shares = 1 / present.sum(1).clamp(min=1).to(probabilities.dtype)
    slopes = torch.zeros_like(probabilities)
    constant = probabilities.new_zeros(())
    for image, number in present.nonzero().tolist():
        labels = mask[image].flatten()
        foreground = labels == number
        error = (foreground.to(probabilities.dtype) - probabilities[image, number].flatten()).abs()
        order = worst_first(error.where(labels != IGNORE_INDEX, -1), foreground)
        wrong = foreground[order]
        weight = jaccard_differences(wrong, error.dtype) * shares[image]
        constant += (weight * wrong).sum()
        slopes[image, number].view(-1).scatter_(0, order, weight.where(~wrong, -weight))
    return slopes, constant


def worst_first(error: Tensor, foreground: Tensor) -> Tensor:
    """Return the indices of the pixels, sorted by error from largest to smallest.

    `error` (P,): of one class, -1 for void. `foreground` bool (P,): the pixels of the class. On a CPU, pixels with a
    smaller error than every foreground pixel are left out: behind the last foreground pixel the intersection is empty,
    so their slope is 0.
    """
    if not error.is_cpu:
        return error.argsort(descending=True)  # selecting pixels would wait for the GPU to report their number
    found = (~(error < error[foreground].min())).nonzero().flatten()  # all where errors are NaN
    # NumPy sorts with vector instructions, in a sixth of torch's time.
    return found[torch.from_numpy(np.argsort(-error[found].numpy()))]


def jaccard_differences(foreground: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how much 1 - IoU grows with each further wrong pixel (algorithm 1): of a class's pixels, worst first.

    Computed without differences of nearly equal numbers: with k pixels wrong, the intersection i is what is left of
    the class, the union u is the class and all others among the k. A wrong pixel of the class changes (i + 1) / u to
    i / u, another one i / (u - 1) to i / u.
    """
    wrong = foreground.cumsum(0)  # of integers, which is deterministic on a GPU
    class_size = wrong[-1]
    intersection = (class_size - wrong).to(dtype)
    union = (class_size + torch.arange(1, len(wrong) + 1, device=wrong.device) - wrong).to(dtype)
    return torch.where(foreground, 1 / union, intersection / union / (union - 1).clamp(min=1))
