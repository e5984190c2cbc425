# mypy: disable-error-code="no-untyped-def,assignment"
"""Cross-entropy at the images' size of coarse logits: its kernel, and the function for autograd."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from segframe.models.ops.kernels.cross_entropy_gradient import write_gradient
from segframe.models.ops.kernels.targets import LABELS, is_valid, mean_weight_of, target_of, uniform_target
from segframe.models.ops.kernels.upsampling import (
    LOG2_E,
    SIZES,
    above_and_below,
    blend,
    column_of_strip,
    over_strips,
    planes,
    read_group,
    read_row_shares,
    strip_tiles,
)
from segframe.models.ops.memory_format import memory_format
from segframe.models.ops.targets import Targets


def cross_entropy(
    values: Tensor, size: tuple[int, int], aligned_stride: int | None, targets: Targets
) -> tuple[Tensor, Tensor]:
    """Return loss and weight as `pixelwise.cross_entropy`, for logits in float16, bfloat16 or float32."""
    mask, weights, _ = targets
    assert mask.shape == (len(values), *size)
    if weights is not None:
        assert len(weights) == values.shape[1] <= LABELS.value
        weights = weights.float().contiguous()
    targets = targets._replace(mask=mask.contiguous(), class_weights=weights)
    if values.requires_grad and torch.is_grad_enabled():
        total, weight = _CrossEntropy.apply(values, size, aligned_stride, targets)
    else:
        total, weight = _sums(planes(values, size), size, aligned_stride, targets, None)
    return total, weight


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, size: tuple[int, int], aligned_stride: int | None, targets: Targets
    ) -> tuple[Tensor, Tensor]:
        cells = planes(values, size)
        normaliser = torch.empty(targets.mask.shape, dtype=torch.float32, device=values.device)
        total, weight = _sums(cells, size, aligned_stride, targets, normaliser)
        ctx.save_for_backward(cells, targets.mask, targets.class_weights, normaliser)
        ctx.settings = size, aligned_stride, targets.label_smoothing
        ctx.layout = memory_format(values)
        ctx.mark_non_differentiable(weight)
        return total, weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        cells, mask, class_weights, normaliser = ctx.saved_tensors
        out = torch.empty_like(cells, memory_format=ctx.layout)
        size, aligned_stride, smoothing = ctx.settings
        targets = Targets(mask, class_weights, smoothing)
        write_gradient(cells, size, aligned_stride, targets, normaliser, scale, out)
        return out, None, None, None


def _sums(
    values: Tensor, size: tuple[int, int], aligned_stride: int | None, targets: Targets, normaliser: Tensor | None
) -> Tensor:
    """Return the sums of losses and of weights over all pixels, (2,).

    If `normaliser` (N, *size) is given, log2(sum(exp(logits))) of each pixel is written to it, for the backward pass.
    """
    partial = torch.empty(len(values) * strip_tiles(values, size), 2, dtype=torch.float32, device=values.device)
    pointers = targets.mask, targets.class_weights, normaliser, partial
    over_strips(cross_entropy_kernel, values, pointers, size, aligned_stride, smoothing=targets.label_smoothing)
    return partial.sum(0)


@triton.jit(do_not_specialize=SIZES)
def cross_entropy_kernel(
    values_ptr,
    mask_ptr,
    weights_ptr,
    normaliser_ptr,
    partial_ptr,
    row_start_ptr,
    row_share_ptr,
    column_low_ptr,
    column_share_ptr,
    classes,
    h,
    w,
    height,
    width,
    image_stride,
    class_stride,
    row_stride,
    column_stride,
    smoothing: tl.constexpr,
    RESIZED: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Grid (tiles of h * width, N): `normaliser` (N, height, width), `partial` (N, tiles, 2) loss and weight."""
    image = tl.program_id(1).to(tl.int64)
    values_ptr += image * image_stride
    mask_ptr += image * height * width
    column, first, end, share, corners = column_of_strip(
        row_start_ptr, column_low_ptr, column_share_ptr, h, w, width, row_stride, column_stride, LANES
    )
    readable = tl.where(end > first, classes, 0)
    mean_weight = mean_weight_of(weights_ptr, classes, smoothing)
    loss = tl.zeros([LANES], tl.float32)
    weights = tl.zeros([LANES], tl.float32)
    for done in range(0, tl.max(end - first, 0), ROWS):
        row_shares = read_row_shares(row_share_ptr, first + done, end, ROWS)
        highest, total, uniform_sum = (), (), ()
        for _ in tl.static_range(ROWS):
            highest += (tl.full([LANES], float("-inf"), tl.float32),)
            total += (tl.zeros([LANES], tl.float32),)
            uniform_sum += (tl.zeros([LANES], tl.float32),)
        pointer = values_ptr
        for start in range(0, classes, GROUP):
            group = read_group(pointer, class_stride, start, readable, corners, share, LOG2_E, RESIZED, GROUP)
            pointer += GROUP * class_stride
            for member in tl.static_range(GROUP):
                target = 0.0
                if smoothing > 0:
                    target = uniform_target(weights_ptr, start + member, classes, smoothing)
                new_highest, new_total, new_uniform_sum = (), (), ()
                for k in tl.static_range(ROWS):
                    logit = blend(group[member], group[GROUP + member], row_shares[k])
                    term = tl.exp2(-tl.abs(logit - highest[k]))
                    new_total += (tl.where(logit > highest[k], total[k] * term + 1.0, total[k] + term),)
                    new_highest += (tl.maximum(highest[k], logit),)
                    new_uniform_sum += (uniform_sum[k] + tl.where(start + member < readable, target * logit, 0.0),)
                highest, total, uniform_sum = new_highest, new_total, new_uniform_sum
        for k in tl.static_range(ROWS):
            row = first + done + k
            inside = row < end
            pixel = row * width + column
            normaliser = highest[k] + tl.log2(total[k])
            if normaliser_ptr is not None:
                tl.store(normaliser_ptr + image * height * width + pixel, normaliser, mask=inside)
            label = tl.load(mask_ptr + pixel, mask=inside, other=0).to(tl.int32)
            valid = is_valid(label, inside, classes)
            own = values_ptr + tl.where(valid, label, 0).to(tl.int64) * class_stride
            upper, lower = above_and_below(own, valid, corners, share, RESIZED)
            correct = blend(upper * LOG2_E, lower * LOG2_E, row_shares[k])
            weight, true_part, uniform = target_of(label, valid, weights_ptr, mean_weight, smoothing)
            losses = true_part * (normaliser - correct)
            if smoothing > 0:
                losses += uniform * normaliser - uniform_sum[k]
            loss += tl.where(true_part + uniform > 0, losses, 0.0)
            weights += weight
    partial_ptr += 2 * (image * tl.num_programs(0) + tl.program_id(0))
    tl.store(partial_ptr, tl.sum(loss, 0) / LOG2_E)
    tl.store(partial_ptr + 1, tl.sum(weights, 0))
