"""Interface of losses: Logits and masks in, a scalar out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from segframe.models.logits import Logits


class Loss(nn.Module, ABC):
    """Abstract loss of Logits and masks (N, H, W; 255 is void); computed in float32; 0 if every pixel is void."""

    @abstractmethod
    def forward(self, logits: Logits, mask: Tensor, step_masks: Sequence[Tensor] = ()) -> Tensor:
        """Return the scalar to minimise.

        `step_masks`: the masks of all batches of an optimizer step, on all devices. With them a loss divides by the
        pixels of the whole step, so that the batches' gradients add up to those of one large batch.
        """
