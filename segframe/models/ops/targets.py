"""Targets of the cross-entropy."""

from typing import NamedTuple

from torch import Tensor


class Targets(NamedTuple):
    """Class indices of the pixels, class weights and label smoothing: they define the target probabilities."""

    mask: Tensor
    """(N, H, W): classes 0 ... C - 1; any other value is void."""
    class_weights: Tensor | None
    """(C,), or None: all 1."""
    label_smoothing: float
    """Share of each target, 0 ... 1, that is spread evenly over all classes."""
