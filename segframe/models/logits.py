"""Logits at a head's own stride, and how they become full size."""

from typing import NamedTuple

from torch import Tensor

from segframe.models.ops.argmax import classes
from segframe.models.ops.bilinear import resize


class Logits(NamedTuple):
    """A head's answer, at the head's own stride, and how it becomes full size."""

    values: Tensor
    """(N, num_classes, h, w)"""
    size: tuple[int, int]
    """The images' (H, W); equal to (h, w) where a head has cropped already (FCN)."""
    aligned_stride: int | None
    """How the recipe resizes, so that nobody else has to know: see `resize`."""

    def full(self) -> Tensor:
        """Logits at the images' size (N, num_classes, H, W), in float32."""
        values = self.values.float()
        if values.shape[-2:] == self.size:
            return values
        return resize(values, self.size, self.aligned_stride)

    def classes(self) -> Tensor:
        """The best class of every pixel (N, H, W), uint8: `full().argmax(1)`, without the full logits."""
        return classes(self.values, self.size, self.aligned_stride)
