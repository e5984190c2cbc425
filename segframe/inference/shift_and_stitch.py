"""Shift-and-stitch: dense logits from a coarse network (Long et al., 2015, section 3.2)."""

from torch import Tensor

from segframe.errors import UserError
from segframe.inference.base import Inference
from segframe.inference.network import Network, logit_stride, main_logits
from segframe.models.logits import Logits


class ShiftAndStitch(Inference):
    """The logits of `factor`**2 shifted images interlaced: stride s becomes s / factor, with the same weights.

    Cell (factor * i + p, factor * j + q) of the result is cell (i, j) for the image without its first p * s / factor
    rows and q * s / factor columns. Where the network does not pad, that equals the network whose last strides are
    replaced by dilation (backbone.output_stride / factor); where it pads, cells that see the upper or left border
    differ, and so does everything that depends on the whole image (the image mean of DeepLab's ASPP).
    """

    def __init__(self, factor: int) -> None:
        if factor < 1:
            raise UserError(f"inference.factor={factor}: it must be 1 or more")
        self.factor = factor

    def __str__(self) -> str:
        return f"shift-and-stitch, {self.factor} times as dense"

    def __call__(self, network: Network, images: Tensor) -> Logits:
        stride = logit_stride(network)
        if stride == 1:
            raise UserError(
                "inference=shift_and_stitch: the logits of this network are as large as the image; choose a head with "
                "coarse logits (fcn, deeplabv3, ...), and no exported file"
            )
        if stride % self.factor:
            raise UserError(f"inference.factor={self.factor}: it does not divide the stride of this network, {stride}")
        step = stride // self.factor
        height, width = images.shape[-2:]
        # Cropped, not padded: the layers before the dilated network's first dilation see the same pixels then.
        rows = [
            [main_logits(network, images[..., top:, left:]) for left in range(0, min(stride, width), step)]
            for top in range(0, min(stride, height), step)
        ]
        values = interlace([interlace([logits.values for logits in row], dim=3) for row in rows], dim=2)
        first = rows[0][0]
        return first._replace(values=values, aligned_stride=None if first.aligned_stride is None else step)


def interlace(parts: list[Tensor], dim: int) -> Tensor:
    """Return a tensor whose slices along `dim` are taken from the parts in turn: 3, 3 and 2 become 8."""
    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    stitched = parts[0].new_empty(shape)
    for offset, part in enumerate(parts):
        stitched.transpose(0, dim)[offset :: len(parts)] = part.transpose(0, dim)
    return stitched
