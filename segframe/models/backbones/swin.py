"""Swin Transformer (Liu et al., 2021) and Swin Transformer V2 (Liu et al., 2022), with torchvision's layers."""

from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.ops import StochasticDepth

from segframe.errors import UserError, check_range
from segframe.models.backbones.base import Backbone, Feature, map_norms, set_channels
from segframe.models.weights.pretrained import load_strictly, require_variant, torchvision_state

VARIANTS = ("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b")
PATCH = 4
"""Side of the patches, in pixels."""


class Swin(Backbone):
    """Swin with torchvision's layer names under `net`; c2 ... c5 are the outputs of its four stages, normalised.

    Each map has a LayerNorm of its own, as in the authors' code for segmentation, in place of the classifier's. Images
    of any size: they, maps before merging, and windows are padded with zeros at the bottom and the right. In a map that
    one window covers, windows are not shifted. timm 1.0's Swin is not used: it shifts maps before it pads them, so that
    windows mix opposite edges of images whose sides are no multiples of 7 * 32 pixels.

    `stochastic_depth`: probability of leaving out the last block in training, less for earlier ones; None: the
    variant's for classification.
    """

    is_exportable = False

    def __init__(
        self,
        variant: str,
        weights: str | None,
        output_stride: int,
        lr_multiplier: float,
        in_channels: int = 3,
        stochastic_depth: float | None = None,
    ) -> None:
        super().__init__()
        self.lr_multiplier = lr_multiplier
        require_variant(variant, VARIANTS)
        if output_stride != 32:
            raise UserError(
                f"backbone.output_stride={output_stride}: the windows of {variant} cannot be dilated; set "
                "backbone.output_stride=32"
            )
        self.net = get_model(variant, weights=None)
        del self.net.norm, self.net.head
        set_channels(self.net.features[0][0], in_channels)
        if weights is not None:
            state = torchvision_state(variant, weights)
            maps = {name: tensor for name, tensor in state.items() if not name.startswith("norm.")}
            load_strictly(self.net, maps, weights, VARIANTS, get_model)
        if stochastic_depth is not None:
            check_range("backbone.stochastic_depth", stochastic_depth, 0, 1)
            layers = [layer for layer in self.net.modules() if isinstance(layer, StochasticDepth)]
            for k, layer in enumerate(layers):
                layer.p = stochastic_depth * k / (len(layers) - 1)
        width = self.net.features[0][0].out_channels
        # The centre of a cell is that of its pixels.
        strides = {f"c{k}": 2**k for k in (2, 3, 4, 5)}
        self.features = {
            name: Feature(width * stride // PATCH, stride, (stride - 1) / 2) for name, stride in strides.items()
        }
        self.norms = map_norms(self.features)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return c2 (stride 4) ... c5 of images (N, C, H, W); sizes are rounded up."""
        height, width = images.shape[-2:]
        embed, *stages = self.net.features
        x = embed(nn.functional.pad(images, (0, -width % PATCH, 0, -height % PATCH)))
        maps = {}
        for name, blocks, merge in zip(self.features, stages[::2], [*stages[1::2], None], strict=True):
            for block in blocks:
                x = self.run(block, x)
            maps[name] = self.norms[name](x.permute(0, 3, 1, 2))
            x = x if merge is None else merge(x)
        return maps
