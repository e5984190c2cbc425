# mypy: disable-error-code="no-untyped-def,assignment"
"""Argmax at the images' size of coarse logits, and counts of pairs of classes."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from segframe.models.ops.kernels.upsampling import (
    OPTIONS,
    SIZES,
    blend,
    column_of_strip,
    over_strips,
    planes,
    read_group,
    read_row_shares,
)

PIXELS = 1024
"""Pixels per program that counts."""
BINS = 512
"""For 256 classes and, in the last, the other pixels; a power of two."""


def classes(values: Tensor, size: tuple[int, int], aligned_stride: int | None) -> Tensor:
    """Return classes as `pixelwise.classes`, of logits in float16, bfloat16 or float32."""
    result = torch.empty(len(values), *size, dtype=torch.uint8, device=values.device)
    over_strips(best_class_kernel, planes(values, size), (result,), size, aligned_stride)
    return result


@triton.jit(do_not_specialize=SIZES)
def best_class_kernel(
    values_ptr,
    result_ptr,
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
    RESIZED: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Grid (tiles of h * width, N): `result` (N, height, width), uint8, the first class with the highest logit."""
    image = tl.program_id(1).to(tl.int64)
    values_ptr += image * image_stride
    result_ptr += image * height * width
    column, first, end, share, corners = column_of_strip(
        row_start_ptr, column_low_ptr, column_share_ptr, h, w, width, row_stride, column_stride, LANES
    )
    readable = tl.where(end > first, classes, 0)
    for done in range(0, tl.max(end - first, 0), ROWS):
        row_shares = read_row_shares(row_share_ptr, first + done, end, ROWS)
        highest, best = (), ()
        for _ in tl.static_range(ROWS):
            highest += (tl.full([LANES], float("-inf"), tl.float32),)
            best += (tl.zeros([LANES], tl.int32),)
        pointer = values_ptr
        for start in range(0, classes, GROUP):
            group = read_group(pointer, class_stride, start, readable, corners, share, 1.0, RESIZED, GROUP)
            pointer += GROUP * class_stride
            for member in tl.static_range(GROUP):
                new_highest, new_best = (), ()
                for k in tl.static_range(ROWS):
                    logit = blend(group[member], group[GROUP + member], row_shares[k])
                    higher = (logit > highest[k]) & (start + member < readable)
                    new_best += (tl.where(higher, start + member, best[k]),)
                    new_highest += (tl.where(higher, logit, highest[k]),)
                highest, best = new_highest, new_best
        for k in tl.static_range(ROWS):
            row = first + done + k
            tl.store(result_ptr + row * width + column, best[k].to(tl.uint8), mask=row < end)


def count_pairs(prediction: Tensor, truth: Tensor, matrix: Tensor) -> None:
    """Add to `matrix`, int64 (C, C), the pixels of each pair (truth, prediction); a truth beyond C - 1 is void."""
    assert prediction.shape == truth.shape
    prediction, truth = prediction.contiguous(), truth.contiguous()
    pixels = truth.numel()
    with torch.cuda.device_of(matrix):
        count_kernel[(triton.cdiv(pixels, PIXELS),)](
            prediction, truth, matrix, len(matrix), pixels, PIXELS=PIXELS, BINS=BINS, num_warps=4, **OPTIONS
        )


@triton.jit(do_not_specialize=["classes", "pixels"])
def count_kernel(prediction_ptr, truth_ptr, matrix_ptr, classes, pixels, PIXELS: tl.constexpr, BINS: tl.constexpr):
    """Grid (tiles of pixels,): atomic additions, of integers, to `matrix`, (classes, classes)."""
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < pixels
    truth = tl.load(truth_ptr + pixel, mask=inside, other=0).to(tl.int32)
    prediction = tl.load(prediction_ptr + pixel, mask=inside, other=0).to(tl.int32)
    valid = inside & (truth >= 0) & (truth < classes) & (prediction < classes)
    # Most pixels are right, for few classes: their additions would wait for one another.
    right = valid & (prediction == truth)
    counts = tl.histogram(tl.where(right, truth, BINS - 1), BINS)
    kind = tl.arange(0, BINS)
    some = (kind < classes) & (counts > 0)
    tl.atomic_add(matrix_ptr + kind * (classes + 1), counts.to(tl.int64), mask=some, sem="relaxed")
    one = tl.full([PIXELS], 1, tl.int64)
    tl.atomic_add(matrix_ptr + truth * classes + prediction, one, mask=valid & ~right, sem="relaxed")
