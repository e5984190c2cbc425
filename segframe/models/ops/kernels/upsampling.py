# mypy: disable-error-code="no-untyped-def,assignment"
"""Shared code of the kernels: the positions of pixels between cells, and the interpolation of logits in registers."""

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from segframe.models.ops import bilinear

LOG2_E = tl.constexpr(1.4426950408889634)
"""log2(e). Kernels multiply logits by it and use exp2 and log2, which GPUs compute in one instruction."""
LOWEST = tl.constexpr(-1e37)
"""Replaces -inf, whose product with 0 would be NaN; the difference to any logit is finite."""
SIZES = ["classes", "h", "w", "height", "width", "image_stride", "class_stride", "row_stride", "column_stride"]
"""Arguments whose values kernels are not compiled for: the images of a validation have many sizes."""
MOST_ROWS = 4
"""Pixels of a column that a thread holds at once."""
OPTIONS = {"enable_fp_fusion": True}
"""Option of each launch: multiply and add in one instruction. Triton's default, which 3.10 changes."""


class Positions(NamedTuple):
    """Bilinear interpolation along one axis: the cells on both sides of each pixel, and their weights."""

    low: Tensor
    """int32 (pixels,): index of the cell at or before each pixel"""
    share: Tensor
    """float32 (pixels,): the weight of the cell after it"""
    start: Tensor
    """int32 (cells + 1,): pixels start[k] ... start[k + 1] - 1 lie between cells k and k + 1"""


@functools.lru_cache(maxsize=1024)
def _axis(pixels: int, cells: int, aligned_stride: int | None, device: torch.device) -> Positions:
    low, _, share = bilinear.axis(pixels, cells, aligned_stride, torch.device("cpu"))
    parts = Positions(low.int(), share, torch.searchsorted(low, torch.arange(cells + 1)).int())
    if device.type == "cpu":
        return parts
    return Positions(*(part.pin_memory().to(device, non_blocking=True) for part in parts))  # without waiting for it


def positions(values: Tensor, size: tuple[int, int], aligned_stride: int | None) -> tuple[Positions, Positions]:
    """Return the rows and columns of pixels to which `bilinear.resize` brings logits (N, C, h, w)."""
    (height, width), (h, w) = size, values.shape[-2:]
    stride = None if (h, w) == size else aligned_stride  # logits at full size are not resized
    return _axis(height, h, stride, values.device), _axis(width, w, stride, values.device)


def planes(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Return coarse logits contiguous: threads read cells side by side. Those at full size as they are."""
    return values if values.shape[-2:] == size else values.contiguous()


def strip_tiles(values: Tensor, size: tuple[int, int]) -> int:
    """Return the programs per image of `over_strips`."""
    return triton.cdiv(values.shape[2] * size[1], _threads(values, size))


def _threads(values: Tensor, size: tuple[int, int]) -> int:
    # Full-size logits are bound by memory: four warps per program, since a multiprocessor runs at most 32 programs.
    return 128 if values.shape[-2:] == size else 32


def over_strips(
    kernel: Any,
    values: Tensor,
    pointers: tuple[Tensor | None, ...],
    size: tuple[int, int],
    aligned_stride: int | None,
    **constants: Any,
) -> None:
    """Launch a kernel with one thread per column of pixels of each strip (see the docstring of `kernels`)."""
    (number, classes, h, w), (height, width) = values.shape, size
    rows, columns = positions(values, size, aligned_stride)
    with torch.cuda.device_of(values):
        kernel[strip_tiles(values, size), number](
            values,
            *pointers,
            rows.start,
            rows.share,
            columns.low,
            columns.share,
            classes,
            h,
            w,
            height,
            width,
            *values.stride(),
            RESIZED=(h, w) != size,
            ROWS=min(MOST_ROWS, triton.next_power_of_2(max(1, height // h))),
            GROUP=8 if (h, w) == size else 2,  # classes whose logits a thread reads at once
            LANES=_threads(values, size),
            num_warps=_threads(values, size) // 32,
            **constants,
            **OPTIONS,
        )


@triton.jit
def load(pointer, present):
    """Load logits as float32, clamped to at least LOWEST; LOWEST where `present` is false. NaN stays NaN."""
    logits = tl.load(pointer, mask=present, other=LOWEST).to(tl.float32)
    return tl.where(logits < LOWEST, LOWEST, logits)


@triton.jit
def blend(near, far, share):
    """Return near * (1 - share) + far * share."""
    return near + share * (far - near)


@triton.jit
def column_of_strip(
    row_start_ptr, column_low_ptr, column_share_ptr, h, w, width, row_stride, column_stride, LANES: tl.constexpr
):
    """Return each thread's column, its first row and the end of its rows, the right cells' weight, and `corners`.

    `corners`: offsets of the cells at the upper left, upper right, lower left and lower right.
    """
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    present = lane < h * width
    lane = tl.where(present, lane, 0)
    strip, column = lane // width, lane % width
    first = tl.load(row_start_ptr + strip)
    end = tl.where(present, tl.load(row_start_ptr + strip + 1), first)
    left = tl.load(column_low_ptr + column)
    right = tl.minimum(left + 1, w - 1).to(tl.int64) * column_stride
    left = left.to(tl.int64) * column_stride
    share = tl.load(column_share_ptr + column)
    upper, lower = strip.to(tl.int64) * row_stride, tl.minimum(strip + 1, h - 1).to(tl.int64) * row_stride
    return column, first, end, share, (upper + left, upper + right, lower + left, lower + right)


@triton.jit
def above_and_below(pointer, present, corners, share, RESIZED: tl.constexpr):
    """Return logits interpolated along the width, in the rows of cells above and below each thread's pixels."""
    upper = load(pointer + corners[0], present)
    lower = upper
    if RESIZED:
        upper = blend(upper, load(pointer + corners[1], present), share)
        lower = blend(load(pointer + corners[2], present), load(pointer + corners[3], present), share)
    return upper, lower


@triton.jit
def read_row_shares(row_share_ptr, first, end, ROWS: tl.constexpr):
    """Return a tuple of the weights of the row of cells below, for the rows of pixels first ... first + ROWS - 1."""
    shares = ()
    for k in tl.static_range(ROWS):
        shares += (tl.load(row_share_ptr + first + k, mask=first + k < end, other=0.0),)
    return shares


@triton.jit
def read_group(
    pointer,
    class_stride,
    start,
    readable,
    corners,
    share,
    unit: tl.constexpr,
    RESIZED: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Return `above_and_below` times `unit` of the classes start ... start + GROUP - 1: a tuple, those above first.

    All loads of a group are issued before their first use.
    """
    above, below = (), ()
    for member in tl.static_range(GROUP):
        upper, lower = above_and_below(pointer, start + member < readable, corners, share, RESIZED)
        above += (upper * unit,)
        below += (lower * unit,)
        pointer += class_stride
    return above + below
