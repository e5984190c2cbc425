"""Logits at a head's own stride, and their resizing to the images' size."""

from typing import NamedTuple

import torch
from torch import Tensor

from segframe.models.ops.bilinear import resize
from segframe.models.ops.pixelwise import classes
from segframe.models.ops.row_bands import working_dtype


class Logits(NamedTuple):
    """A head's output at its own stride, with what is needed to resize it to the images' size."""

    values: Tensor
    """(N, num_classes, h, w)"""
    size: tuple[int, int]
    """The images' (H, W); equal to (h, w) where a head has cropped already (FCN)."""
    aligned_stride: int | None
    """Alignment of the resizing: None as with align_corners=False, a number for aligned corners; see `resize`."""

    def full(self) -> Tensor:
        """Return logits at the images' size (N, num_classes, H, W): float32, or float64 as the values are."""
        values = self.values.to(working_dtype(self.values))
        # An export resizes always: the sizes are equal or not for one image, and the graph is for all.
        if not torch.compiler.is_exporting() and values.shape[-2:] == self.size:
            return values
        return resize(values, self.size, self.aligned_stride)

    def classes(self) -> Tensor:
        """Return the predicted classes (N, H, W), uint8: `full().argmax(1)` without storing the full logits."""
        return classes(self.values, self.size, self.aligned_stride)
