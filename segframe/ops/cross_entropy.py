"""Cross-entropy at the images' size, of logits that are resized in bands and never stored.

The gradient is taken in the forward pass, while a band is at hand, and pulled back to the logits' own size at once; the
backward pass only scales it (the idea of Liger's fused linear cross-entropy; Hsu et al., 2024). Nothing is added in an
order that could change: two runs give equal bits.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segframe import IGNORE_INDEX
from segframe.ops.bands import bands

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
    """Sum over the pixels that are not void, and the sum of their classes' weights; float32 scalars.

    Logits `values` (N, C, h, w) become `size` as `heads.base.resize` has it unless they are; `mask` (N, *size) holds
    classes below C, or 255. The first is `F.cross_entropy(..., ignore_index=255, reduction="sum")` of the same
    `class_weights` (C,) and `label_smoothing`. It can be differentiated once, by `values`.
    """
    settings = (size, aligned_stride, mask, class_weights, label_smoothing)
    if values.requires_grad and torch.is_grad_enabled():
        total, weight = _CrossEntropy.apply(values, *settings)  # type: ignore[no-untyped-call]
        return total, weight
    return _sums(values, *settings, gradient=None)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
        # In float32 whatever the values are: float16 would lose gradients that are yet to be scaled.
        gradient = torch.zeros_like(values, dtype=torch.float32)
        total, weight = _sums(values, *settings, gradient=gradient)
        ctx.save_for_backward(gradient)
        ctx.dtype = values.dtype
        ctx.mark_non_differentiable(weight)
        return total, weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * scale).to(ctx.dtype), None, None, None, None, None


def _sums(
    values: Tensor,
    size: tuple[int, int],
    aligned_stride: int | None,
    mask: Tensor,
    class_weights: Tensor | None,
    label_smoothing: float,
    gradient: Tensor | None,
) -> tuple[Tensor, Tensor]:
    weights = torch.zeros(IGNORE_INDEX + 1, device=values.device)
    weights[: values.shape[1]] = 1 if class_weights is None else class_weights
    sums = []
    with torch.autocast(values.device.type, enabled=False), torch.no_grad():
        for images, rows, logits in bands(values, size, aligned_stride, LOG2_E, gradient):
            target = mask[images, rows].reshape(len(logits), -1)
            sums.append(_softmax(logits, target, weights, label_smoothing, gradient is not None))
        total, weight = torch.stack(sums).sum(0)
    return total, weight


def _softmax(
    logits: Tensor, target: Tensor, weights: Tensor, label_smoothing: float, with_gradient: bool
) -> Tensor:
    """Of logits (M, C, P) in units of ln 2 and classes (M, P): the sum of the losses, and of the weights, as (2,).

    Turns `logits` into the losses' gradient by logits.
    """
    classes = logits.shape[1]
    index = target.long().flatten()
    weight = weights.index_select(0, index).view(target.shape)
    valid = target != IGNORE_INDEX if label_smoothing else None
    index = index.masked_fill_(index == IGNORE_INDEX, 0).view(len(target), 1, -1)
    logits -= logits.amax(1, keepdim=True)
    right = logits.gather(1, index).squeeze(1)
    # The target is `factor` at the right class and, where it is smoothed, `spread` (C,) besides at all of them.
    factor = whole = weight * (1 - label_smoothing)
    if valid is not None:
        spread = weights[:classes] * (label_smoothing / classes)
        whole = factor + valid * spread.sum()
        others = torch.matmul(spread, logits) * valid
    logits.exp2_()
    normaliser = logits.sum(1)
    loss = normaliser.log2() * whole - right * factor
    if valid is not None:
        loss -= others
    if with_gradient:
        scale = whole / normaliser
        logits *= scale.unsqueeze(1)
        # Written, not added: a GPU adds at indices in any order.
        logits.scatter_(1, index, (right.exp2() * scale - factor).unsqueeze(1))
        if valid is not None:
            logits.addcmul_(valid.unsqueeze(1), spread.unsqueeze(1), value=-1)
    return torch.stack([loss.sum() / LOG2_E, weight.sum()])
