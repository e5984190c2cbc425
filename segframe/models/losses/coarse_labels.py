"""A loss on the logits' own grid."""

import torch
from torch import Tensor

from segframe.models.logits import Logits
from segframe.models.losses.base import Loss


class CoarseLabels(Loss):
    """Another loss, of coarse logits and masks that are shrunk to them by nearest neighbour (DeepLab v1 and v2).

    Where the logits' recipe aligns corners, stride 8 takes every 8th pixel, as Caffe's `shrink_factor: 8` does.
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Logits, mask: Tensor) -> Tensor:
        """See Loss."""
        h, w = logits.values.shape[-2:]
        rows, columns = (
            nearest(cells, pixels, logits.aligned_stride, mask.device)
            for cells, pixels in ((h, mask.shape[1]), (w, mask.shape[2]))
        )
        return self.loss(logits._replace(size=(h, w)), mask[:, rows][:, :, columns])


def nearest(cells: int, pixels: int, aligned_stride: int | None, device: torch.device) -> Tensor:
    """The pixel nearest to the centre of each cell, int64 (cells,)."""
    cell = torch.arange(cells, device=device)
    if aligned_stride is not None:
        return (cell * aligned_stride).clamp(max=pixels - 1)
    return ((cell + 0.5) * pixels / cells).floor().long()
