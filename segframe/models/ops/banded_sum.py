"""Sums over the pixels of resized logits, differentiated in the forward pass.

The gradient is computed band by band and propagated to the logits' own size at once; the backward pass only scales it
(as in Liger's fused linear cross-entropy; Hsu et al., 2024). There is no scatter-add, so results are deterministic on a
GPU.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segframe.models.ops.row_bands import working_dtype

Sums = Callable[[Tensor | None], tuple[Tensor, Tensor]]
"""Computes a sum over pixels and the sum of their weights; with a gradient (zeros), adds to it that of the sum."""


def banded_sum(values: Tensor, sums: Sums) -> tuple[Tensor, Tensor]:
    """Return what `sums` computes from `values` (N, C, h, w): two scalars in `working_dtype`.

    The first can be differentiated once, with respect to `values`.
    """
    if values.requires_grad and torch.is_grad_enabled():
        total, weight = _BandedSum.apply(values, sums)
        return total, weight
    return _computed(values, sums, None)


def _computed(values: Tensor, sums: Sums, gradient: Tensor | None) -> tuple[Tensor, Tensor]:
    if values.is_meta:  # for tracing memory: only what is kept matters
        total, weight = values.new_empty(2, dtype=working_dtype(values))
        return total, weight
    return sums(gradient)


class _BandedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, sums: Sums) -> tuple[Tensor, Tensor]:
        # In float32 for any dtype: unscaled gradients would underflow in float16.
        gradient = torch.zeros_like(values, dtype=working_dtype(values))
        total, weight = _computed(values, sums, gradient)
        ctx.save_for_backward(gradient)
        ctx.dtype = values.dtype
        ctx.mark_non_differentiable(weight)
        return total, weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * scale).to(ctx.dtype), None
