"""Loss at the resolution of the logits (DeepLab v1 and v2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from segframe.errors import UserError
from segframe.models.logits import Logits
from segframe.models.losses.base import Loss


class CoarseLabels(Loss):
    """Another loss, applied to coarse logits and masks reduced to their size by nearest neighbour (DeepLab v1 and v2).

    With aligned corners and stride 8 every 8th pixel is taken, as by Caffe's `shrink_factor: 8`.
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Logits, mask: Tensor, step_masks: Sequence[Tensor] = ()) -> Tensor:
        if any(other.shape[1:] != mask.shape[1:] for other in step_masks):
            raise UserError(
                "loss: the coarse masks of a step's batches of different sizes are not known before their logits; set "
                "transforms that end with a crop, or trainer.accumulated_mean=batches on one device"
            )
        h, w = logits.values.shape[-2:]
        rows, columns = (
            nearest(cells, pixels, logits.aligned_stride, mask.device)
            for cells, pixels in ((h, mask.shape[1]), (w, mask.shape[2]))
        )
        coarse, *step = (each[:, rows][:, :, columns] for each in (mask, *step_masks))
        return self.loss(logits._replace(size=(h, w)), coarse, *([step] if step else []))


def nearest(cells: int, pixels: int, aligned_stride: int | None, device: torch.device) -> Tensor:
    """Return the pixel nearest to the centre of each cell, int64 (cells,)."""
    cell = torch.arange(cells, device=device)
    if aligned_stride is not None:
        return (cell * aligned_stride).clamp(max=pixels - 1)
    return ((cell + 0.5) * pixels / cells).floor().long()
