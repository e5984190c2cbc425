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

        `step_masks`: the masks of all batches of an optimizer step, on all devices. The losses of these batches then
        add up to the loss of one batch of all their images, so that the sum of their gradients is that of the large
        batch.
        """
