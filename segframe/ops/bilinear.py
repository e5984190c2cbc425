"""Bilinear resizing, axis by axis: which two cells a pixel lies between, and how near it is to the second."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor


class Axis(NamedTuple):
    """Along one axis, pixel i is (1 - share[i]) * cell low[i] + share[i] * cell high[i]."""

    low: Tensor
    """int64 (pixels,), rising"""
    high: Tensor
    """int64 (pixels,), low + 1 but for the last cell"""
    share: Tensor
    """float32 (pixels,), 0 ... 1"""


@functools.lru_cache(maxsize=64)
def axis(pixels: int, cells: int, aligned_stride: int | None, device: torch.device) -> Axis:
    """Where pixels lie between cells, as `heads.base.resize` has it.

    `aligned_stride` None: both ends coincide (torch's `align_corners=False`). A number: cell i lies on pixel
    i * aligned_stride, and the last cell continues beyond. In float32, step by step as torch computes it, so that equal
    formulas give equal bits.
    """
    position = torch.arange(pixels, dtype=torch.float32, device=device)
    if aligned_stride is None:
        scale = torch.tensor(cells, dtype=torch.float32, device=device) / pixels
        position = (scale * (position + 0.5) - 0.5).clamp_(min=0)
    else:
        position = position * torch.tensor(1 / aligned_stride, dtype=torch.float32, device=device)
    position.clamp_(max=cells - 1)
    low = position.floor().long()
    return Axis(low, (low + 1).clamp_(max=cells - 1), position - low)


@functools.lru_cache(maxsize=64)
def matrix(pixels: int, cells: int, aligned_stride: int | None, device: torch.device) -> Tensor:
    """The same as a matrix (pixels, cells), float32: it times the cells is the pixels."""
    low, high, share = axis(pixels, cells, aligned_stride, device)
    weights = torch.zeros(pixels, cells, device=device)
    weights.scatter_add_(1, low[:, None], 1 - share[:, None])
    weights.scatter_add_(1, high[:, None], share[:, None])
    return weights
