"""Bilinear resizing, and how it goes axis by axis: which two cells a pixel lies between, how near to the second."""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: tuple[int, int], aligned_stride: int | None) -> Tensor:
    """A map (N, C, h, w) at another size, bilinear.

    `aligned_stride` null: both maps' edges coincide (`align_corners=False`; torchvision's and VainF's recipes). A
    number: cell i lies on pixel i * aligned_stride, which is `align_corners=True` at sizes of k * stride + 1 (the
    crops of TensorFlow's and Caffe's recipes), and what padding an image to such a size comes to at any other.
    """
    if torch.are_deterministic_algorithms_enabled():
        return _product(x, size, aligned_stride)
    if aligned_stride is None:
        return F.interpolate(x, size, mode="bilinear", align_corners=False)
    cells = x.shape[-2:]
    x = F.interpolate(x, [(n - 1) * aligned_stride + 1 for n in cells], mode="bilinear", align_corners=True)
    x = x[..., : size[0], : size[1]]
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]), mode="replicate")


def _product(x: Tensor, size: tuple[int, int], aligned_stride: int | None) -> Tensor:
    # A GPU's gradients of interpolation and replication add up in any order; those of matrix products do not.
    rows, columns = (matrix(*pair, aligned_stride, x.device) for pair in zip(size, x.shape[-2:], strict=True))
    with torch.autocast(x.device.type, enabled=False):
        return (rows @ x.float() @ columns.T).to(x.dtype)


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
    """Where pixels lie between cells, as `resize` has it.

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
    cell = torch.arange(cells, device=device)
    return (low[:, None] == cell) * (1 - share[:, None]) + (high[:, None] == cell) * share[:, None]
