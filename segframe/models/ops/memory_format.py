"""Memory formats of maps."""

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """Return the memory format of a map (N, C, h, w): channels_last or contiguous_format."""
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
