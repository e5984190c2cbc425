"""Interface of losses: Logits and masks in, a scalar out."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from segframe.models.logits import Logits


class Loss(nn.Module, ABC):
    """Abstract loss of Logits and masks (N, H, W; 255 is void); computed in float32; 0 if every pixel is void."""

    @abstractmethod
    def forward(self, logits: Logits, mask: Tensor) -> Tensor:
        """Return the scalar to minimise."""
