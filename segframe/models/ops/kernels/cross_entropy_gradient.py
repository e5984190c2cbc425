# mypy: disable-error-code="no-untyped-def,assignment,var-annotated"
"""Gradient of the cross-entropy with respect to coarse logits, gathered cell by cell."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from segframe.models.ops.kernels.targets import is_valid, mean_weight_of, target_of, uniform_target
from segframe.models.ops.kernels.upsampling import LOG2_E, OPTIONS, SIZES, blend, load, positions
from segframe.models.ops.targets import Targets

WARP = 32
MOST_CLASSES = 7
"""Classes per program: more take so many registers that fewer warps fit on a multiprocessor."""
PIXEL_ROWS = 32
"""Rows of pixels that a thread walks down, about: fewer make more programs, more repeat less of their neighbours."""


def write_gradient(
    values: Tensor,
    size: tuple[int, int],
    aligned_stride: int | None,
    targets: Targets,
    normaliser: Tensor,
    scale: Tensor,
    out: Tensor,
) -> None:
    """Write to `out` the gradient of `scale` (a scalar) times the loss of `cross_entropy`.

    Coarse `values` are contiguous; `normaliser` is that of the forward pass.
    """
    number, classes, h, w = values.shape
    height, width = size
    groups = triton.cdiv(classes, MOST_CLASSES)
    with torch.cuda.device_of(values):
        if (h, w) == size:
            pixel_gradient_kernel[triton.cdiv(height * width, 4 * WARP), number, groups](
                values,
                targets.mask,
                targets.class_weights,
                normaliser,
                scale,
                out,
                classes,
                height,
                width,
                *values.stride(),
                *out.stride(),
                smoothing=targets.label_smoothing,
                CLASSES=triton.cdiv(classes, groups),
                LANES=4 * WARP,
                num_warps=4,
                **OPTIONS,
            )
            return
        rows, columns = positions(values, size, aligned_stride)
        cell_rows = triton.next_power_of_2(min(max(1, PIXEL_ROWS * h // height), PIXEL_ROWS, h))
        coarse_gradient_kernel[triton.cdiv(triton.cdiv(h, cell_rows) * w, WARP - 1), number, groups](
            values,
            targets.mask,
            targets.class_weights,
            normaliser,
            scale,
            out,
            rows.start,
            rows.share,
            columns.start,
            columns.share,
            classes,
            h,
            w,
            height,
            width,
            *out.stride(),
            smoothing=targets.label_smoothing,
            CLASSES=triton.cdiv(classes, groups),
            ROWS=cell_rows,
            num_warps=1,
            LANES=WARP,
            **OPTIONS,
        )


@triton.jit(do_not_specialize=SIZES)
def coarse_gradient_kernel(
    values_ptr,
    mask_ptr,
    weights_ptr,
    normaliser_ptr,
    scale_ptr,
    gradient_ptr,
    row_start_ptr,
    row_share_ptr,
    column_start_ptr,
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
    CLASSES: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Grid (tiles of ceil(h / ROWS) * w, N, groups of CLASSES): `gradient`, with strides, for contiguous `values`.

    A thread walks down ROWS cells, with the interval of columns to their right. The first thread of a program only
    serves the second, whose cells lie between their intervals.
    """
    image, first_class = tl.program_id(1).to(tl.int64), tl.program_id(2) * CLASSES
    thread = tl.arange(0, LANES)
    lane = tl.program_id(0) * (LANES - 1) - 1 + thread
    used = (lane >= 0) & (lane < tl.cdiv(h, ROWS) * w)
    lane = tl.where(used, lane, 0)
    top, left = lane // w * ROWS, lane % w
    right = tl.minimum(left + 1, w - 1)
    values_ptr += (image * classes + first_class) * h * w
    gradient_ptr += image * image_stride + first_class.to(tl.int64) * class_stride
    mask_ptr += image * height * width
    normaliser_ptr += image * height * width
    scale = tl.load(scale_ptr)
    mean_weight = mean_weight_of(weights_ptr, classes, smoothing)
    first_column = tl.load(column_start_ptr + left)
    end_column = tl.load(column_start_ptr + left + 1)
    columns = tl.max(tl.where(used, end_column - first_column, 0), 0)
    # Sums for the cells at the left and the right of the intervals: of each class, and of valid pixels for smoothing.
    SUMS: tl.constexpr = CLASSES + (smoothing > 0)
    left_sum = zeros(SUMS, LANES)
    right_sum = zeros(SUMS, LANES)
    for step in range(-1, ROWS):
        strip = top + step
        present = used & (strip >= 0) & (strip < h)
        readable = tl.where(present, classes, 0)
        upper, lower = tl.where(present, strip, 0) * w, tl.where(present, tl.minimum(strip + 1, h - 1), 0) * w
        upper_left, upper_right, lower_left, lower_right = (), (), (), ()
        for k in tl.static_range(CLASSES):
            plane, read = values_ptr + k * h * w, first_class + k < readable
            upper_left += (load(plane + upper + left, read),)
            upper_right += (load(plane + upper + right, read),)
            lower_left += (load(plane + lower + left, read),)
            lower_right += (load(plane + lower + right, read),)
        first = tl.load(row_start_ptr + strip, mask=present, other=0)
        end = tl.load(row_start_ptr + strip + 1, mask=present, other=0)
        rows = tl.max(end - first, 0)
        next_left_sum = zeros(SUMS, LANES)
        next_right_sum = zeros(SUMS, LANES)
        for across in range(0, columns):
            column = first_column + across
            in_column = present & (column < end_column)
            share = tl.load(column_share_ptr + column, mask=in_column, other=0.0)
            above, below = (), ()
            for k in tl.static_range(CLASSES):
                above += (blend(upper_left[k], upper_right[k], share) * LOG2_E,)
                below += (blend(lower_left[k], lower_right[k], share) * LOG2_E,)
            to_upper = zeros(SUMS, LANES)
            to_lower = zeros(SUMS, LANES)
            for down in range(0, rows):
                row = first + down
                inside = in_column & (row < end)
                row_share = tl.load(row_share_ptr + row, mask=inside, other=0.0)
                pixel = row * width + column
                label = tl.load(mask_ptr + pixel, mask=inside, other=0).to(tl.int32)
                normaliser = tl.load(normaliser_ptr + pixel, mask=inside, other=float("inf"))
                valid = is_valid(label, inside, classes)
                _, true_part, uniform = target_of(label, valid, weights_ptr, mean_weight, smoothing)
                slopes = ()
                for k in tl.static_range(CLASSES):
                    probability = tl.exp2(blend(above[k], below[k], row_share) - normaliser)
                    slope = probability * (true_part + uniform) - tl.where(label == first_class + k, true_part, 0.0)
                    slopes += (slope,)
                if smoothing > 0:
                    slopes += (valid.to(tl.float32),)
                to_upper = plus(to_upper, 1.0 - row_share, slopes, SUMS)
                to_lower = plus(to_lower, row_share, slopes, SUMS)
            left_sum = plus(left_sum, 1.0 - share, to_upper, SUMS)
            right_sum = plus(right_sum, share, to_upper, SUMS)
            next_left_sum = plus(next_left_sum, 1.0 - share, to_lower, SUMS)
            next_right_sum = plus(next_right_sum, share, to_lower, SUMS)
        writable = tl.where((thread > 0) & (strip >= top), readable, 0)
        cell = strip.to(tl.int64) * row_stride + left.to(tl.int64) * column_stride
        # To the first cell of a row the last interval of another passes 0: no cell is at its right.
        sums = ()
        for k in tl.static_range(SUMS):
            sums += (left_sum[k] + tl.gather(right_sum[k], tl.maximum(thread - 1, 0), 0),)
        for k in tl.static_range(CLASSES):
            of_cell = sums[k]
            if smoothing > 0:
                of_cell -= uniform_target(weights_ptr, first_class + k, classes, smoothing) * sums[CLASSES]
            of_cell = (scale * of_cell).to(gradient_ptr.dtype.element_ty)
            tl.store(gradient_ptr + k * class_stride + cell, of_cell, mask=first_class + k < writable)
        left_sum, right_sum = next_left_sum, next_right_sum


@triton.jit
def zeros(NUMBER: tl.constexpr, LANES: tl.constexpr):
    """Return a tuple of NUMBER tensors of zeros, float32 (LANES,)."""
    zero = tl.zeros([LANES], tl.float32)
    result = ()
    for _ in tl.static_range(NUMBER):
        result += (zero,)
    return result


@triton.jit
def plus(sums, weight, terms, NUMBER: tl.constexpr):
    """Return the tuple of sums[k] + weight * terms[k]."""
    result = ()
    for k in tl.static_range(NUMBER):
        result += (sums[k] + weight * terms[k],)
    return result


@triton.jit(do_not_specialize=[*SIZES, "out_image_stride", "out_class_stride", "out_row_stride", "out_column_stride"])
def pixel_gradient_kernel(
    values_ptr,
    mask_ptr,
    weights_ptr,
    normaliser_ptr,
    scale_ptr,
    gradient_ptr,
    classes,
    height,
    width,
    image_stride,
    class_stride,
    row_stride,
    column_stride,
    out_image_stride,
    out_class_stride,
    out_row_stride,
    out_column_stride,
    smoothing: tl.constexpr,
    CLASSES: tl.constexpr,
    LANES: tl.constexpr,
):
    """Write `gradient` of logits at full size, one pixel per thread. Grid: (tiles of H * W, N, groups of CLASSES)."""
    image, first_class = tl.program_id(1).to(tl.int64), tl.program_id(2) * CLASSES
    pixel = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = pixel < height * width
    row, column, plane = (pixel // width).to(tl.int64), (pixel % width).to(tl.int64), first_class.to(tl.int64)
    values_ptr += image * image_stride + plane * class_stride + row * row_stride + column * column_stride
    gradient_ptr += image * out_image_stride + plane * out_class_stride
    gradient_ptr += row * out_row_stride + column * out_column_stride
    label = tl.load(mask_ptr + image * height * width + pixel, mask=inside, other=0).to(tl.int32)
    normaliser = tl.load(normaliser_ptr + image * height * width + pixel, mask=inside, other=float("inf"))
    scale = tl.load(scale_ptr)
    valid = is_valid(label, inside, classes)
    mean_weight = mean_weight_of(weights_ptr, classes, smoothing)
    _, true_part, uniform = target_of(label, valid, weights_ptr, mean_weight, smoothing)
    readable = tl.where(inside, classes, 0)
    logits = ()
    for k in tl.static_range(CLASSES):
        logits += (load(values_ptr, first_class + k < readable),)
        values_ptr += class_stride
    for k in tl.static_range(CLASSES):
        probability = tl.exp2(logits[k] * LOG2_E - normaliser)
        slope = probability * (true_part + uniform) - tl.where(label == first_class + k, true_part, 0.0)
        if smoothing > 0:
            slope -= tl.where(valid, uniform_target(weights_ptr, first_class + k, classes, smoothing), 0.0)
        slope = (scale * slope).to(gradient_ptr.dtype.element_ty)
        tl.store(gradient_ptr, slope, mask=first_class + k < readable)
        gradient_ptr += out_class_stride
