"""Cross-entropy, argmax and pixel counts at the images' size: Triton kernels on CUDA, plain PyTorch elsewhere."""

import functools
import importlib
import logging
from types import ModuleType

import torch
from torch import Tensor

from segframe.models.ops import argmax
from segframe.models.ops import cross_entropy as banded
from segframe.models.ops.targets import Targets

log = logging.getLogger(__name__)

OLDEST = (8, 0)
"""Compute capability from which on the kernels are used: Ampere's, the oldest they are compiled for in tests."""


def cross_entropy(
    values: Tensor, size: tuple[int, int], aligned_stride: int | None, targets: Targets
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of the cross-entropy over all valid pixels, and the sum of their weights, both scalars.

    Both are float32, float64 for logits in float64.

    Logits `values` (N, C, h, w) are resized to `size` as by `bilinear.resize`; the mask of `targets` is (N, *size).
    The sum equals `F.cross_entropy(..., ignore_index=255, reduction="sum")` with the class weights and the label
    smoothing of `targets`. It can be differentiated once, with respect to `values`.
    """
    total, weight = (kernels_for(values) or banded).cross_entropy(values, size, aligned_stride, targets)
    return total, weight


def classes(values: Tensor, size: tuple[int, int], aligned_stride: int | None) -> Tensor:
    """Return classes (N, *size), uint8, of logits (N, C, h, w): the first maximum after `bilinear.resize`.

    A pixel with NaN or infinite neighbours gets an arbitrary class.
    """
    found: Tensor = (kernels_for(values) or argmax).classes(values, size, aligned_stride)
    return found


def count_pairs(prediction: Tensor, truth: Tensor, matrix: Tensor) -> None:
    """Add to `matrix`, int64 (C, C), the number of pixels of each pair (truth, prediction).

    `prediction` holds classes, uint8, `truth` masks of the same shape with 0 ... C-1 or 255, which is not counted.
    """
    kernels = kernels_for(prediction)
    if kernels is not None:
        kernels.count_pairs(prediction, truth, matrix)
        return
    # Rows for all 256 mask values, those beyond the classes cut off: cheaper than masking void pixels out.
    key = truth.int().mul_(len(matrix)).add_(prediction).flatten()
    matrix += torch.bincount(key, minlength=256 * len(matrix))[: matrix.numel()].view_as(matrix)


def kernels_for(x: Tensor) -> ModuleType | None:
    return _kernels(x.device) if x.device.type == "cuda" and x.dtype != torch.float64 else None


@functools.cache
def _kernels(device: torch.device) -> ModuleType | None:
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < OLDEST:
        return None
    try:
        kernels = importlib.import_module("segframe.models.ops.kernels")
        # Compiling also needs a C compiler.
        pixel, matrix = torch.zeros(1, dtype=torch.uint8, device=device), torch.zeros(1, 1, dtype=torch.int64)
        kernels.count_pairs(pixel, pixel, matrix.to(device))
    except Exception as error:  # of any of Triton's tools
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        log.warning("losses and classes are computed without Triton's kernels, which is slower (%s)", reason)
        return None
    return kernels
