"""The contract of a loss: Logits and masks in, a scalar out."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from segframe.models.logits import Logits


class Loss(nn.Module, ABC):
    """Compares Logits with masks (N, H, W; 255 is ignored); float32 inside; 0, not NaN, where every pixel is void."""

    @abstractmethod
    def forward(self, logits: Logits, mask: Tensor) -> Tensor:
        """The scalar to minimise."""
