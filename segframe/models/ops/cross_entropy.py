"""Cross-entropy at the images' size of coarse logits, which are resized in bands and never stored.

The gradient is computed in the forward pass, band by band, and propagated to the logits' own size at once; the backward
pass only scales it (as in Liger's fused linear cross-entropy; Hsu et al., 2024). There is no scatter-add, so results
are deterministic on a GPU.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segframe.models.ops.row_bands import Band, bands, working_dtype

# Bands are in units of ln 2: exp2 takes a CPU a third of exp's time.
LOG2_E = math.log2(math.e)


def cross_entropy(
    values: Tensor,
    size: tuple[int, int],
    aligned_stride: int | None,
    mask: Tensor,
    class_weights: Tensor | None,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy of the pixels that are not void and the sum of their weights; scalars.

    Both are float32, float64 for logits in float64.

    Logits `values` (N, C, h, w) are resized to `size` as by `bilinear.resize`; `mask` (N, *size) holds classes, any
    other value is void. The sum equals `F.cross_entropy(..., ignore_index=255, reduction="sum")` with `class_weights`
    (C,) and `label_smoothing`. It can be differentiated once, with respect to `values`.
    """

    def sums(gradient: Tensor | None) -> tuple[Tensor, Tensor]:
        if values.is_meta:  # for tracing memory: only what is kept matters
            total, weight = values.new_empty(2, dtype=working_dtype(values))
            return total, weight
        logits = bands(values, size, aligned_stride, LOG2_E, gradient)
        return _sums(logits, values.shape[1], mask, class_weights, label_smoothing, gradient is not None)

    if values.requires_grad and torch.is_grad_enabled():
        total, weight = _CrossEntropy.apply(values, sums)
        return total, weight
    return sums(None)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, sums: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        # In float32 for any dtype: unscaled gradients would underflow in float16.
        gradient = torch.zeros_like(values, dtype=working_dtype(values))
        total, weight = sums(gradient)
        ctx.save_for_backward(gradient)
        ctx.dtype = values.dtype
        ctx.mark_non_differentiable(weight)
        return total, weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * scale).to(ctx.dtype), None


def _sums(
    bands: Iterable[Band],
    num_classes: int,
    mask: Tensor,
    class_weights: Tensor | None,
    label_smoothing: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
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
