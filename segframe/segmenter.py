"""The whole network, from raw pixels to logits."""

import torch
from torch import Tensor, nn

from segframe.backbones.base import Backbone
from segframe.errors import UserError
from segframe.heads.base import Head, Logits


class Segmenter(nn.Module):
    """Normalise, backbone, head, and an auxiliary head that only training uses."""

    def __init__(
        self, backbone: Backbone, head: Head, aux_head: Head | None, mean: list[float], std: list[float]
    ) -> None:
        super().__init__()
        overhang = any(feature.offset < 0 for feature in backbone.features.values())
        if overhang and not (head.crops_overhang and (aux_head is None or aux_head.crops_overhang)):
            raise UserError(
                "this backbone pads the image (backbone.input_padding > 1), so its maps reach beyond it; "
                "only the heads fcn32s, fcn16s and fcn8s crop them: use backbone=vgg16_fc here"
            )
        self.normalize = Normalize(mean, std)
        self.backbone = backbone
        self.head = head
        self.aux_head = aux_head

    def outputs(self, images: Tensor) -> dict[str, Logits]:
        """Images (N, 3, H, W), RGB 0 ... 255, uint8 or float, to what the loss compares with the masks, by name."""
        size = (images.shape[-2], images.shape[-1])
        maps = self.backbone(self.normalize(images))
        outputs = {"main": self.head(maps, size)}
        if self.aux_head is not None and self.training:
            outputs["aux"] = self.aux_head(maps, size)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes, H, W) at the images' size."""
        return self.outputs(images)["main"].full()


class Normalize(nn.Module):
    """(x - mean) / std per channel, in units of 0 ... 255; buffers, so that weights bring their own along."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or 0 in std:
            raise UserError(f"normalize.mean and normalize.std are 3 numbers each, std not 0; got {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images of any dtype to normalised ones in the buffers' dtype."""
        return (images.to(self.mean.dtype) - self.mean) / self.std
