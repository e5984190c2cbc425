"""Decoder of SegNet (Badrinarayanan et al., 2017)."""

from torch import Tensor, nn
from torch.overrides import wrap_torch_function

from segframe.errors import UserError
from segframe.models.backbones.base import Feature
from segframe.models.backbones.unet import conv_stack
from segframe.models.heads.base import Head, require
from segframe.models.heads.upsampling import Upsampling, fit
from segframe.models.logits import Logits

STAGES = (5, 4, 3, 2, 1)


class SegNet(Head):
    """Mirrored VGG: upsamples c5 stage by stage to the sizes before the poolings, with `depths` convolutions per stage.

    `upsampling`: "max_unpooling", the paper's, writes values to the positions of the encoder's maxima (i1 ... i5); the
    modes of heads/upsampling.py are for comparison. The last convolution is the classifier, without batch norm and
    ReLU. Convolutions have biases, as in the release. Logits at full size.
    """

    def __init__(
        self,
        features: dict[str, Feature],
        num_classes: int,
        output_stride: int,
        depths: list[int],
        upsampling: str,
        lr_multiplier: float,
    ) -> None:
        super().__init__()
        if len(depths) != 5 or min(depths) < 1:
            raise UserError(f"head.depths must be five numbers of convolutions, coarsest first, got {depths}")
        self.lr_multiplier = lr_multiplier
        self.unpools = upsampling == "max_unpooling"
        sources = require(features, *(f"c{k}" for k in STAGES))
        if self.unpools and "i5" not in features:
            raise UserError(
                "head=segnet needs the positions of the pooled maxima, which this backbone does not return; "
                "choose backbone=vgg16_bn_indices or head.upsampling=bilinear"
            )
        strides = [source.stride for source in sources] + [1]
        widths = [source.channels for source in sources]
        self.up, self.conv = nn.ModuleList(), nn.ModuleList()
        for j, depth in enumerate(depths):
            before, after = widths[j], widths[min(j + 1, 4)]
            if not self.unpools:
                self.up.append(Upsampling(upsampling, before, before, strides[j] // strides[j + 1]))
            stage = conv_stack([before] * depth + [after if j < 4 else num_classes], True, True, bias=True)
            self.conv.append(stage if j < 4 else stage[:-2])
        self.score_layers = (f"conv.4.{len(stage) - 3}.",)

    def forward(self, maps: dict[str, Tensor], size: tuple[int, int]) -> Logits:
        x = maps["c5"]
        sizes = [*((maps[f"c{k - 1}"].shape[-2], maps[f"c{k - 1}"].shape[-1]) for k in STAGES[:-1]), size]
        for j, (conv, (h, w)) in enumerate(zip(self.conv, sizes, strict=True)):
            x = conv(unpool(x, maps[f"i{STAGES[j]}"], (h, w)) if self.unpools else fit(self.up[j](x), (h, w)))
        return Logits(x, size, aligned_stride=None)


@wrap_torch_function(lambda x, indices, size: (x, indices))  # analysis.gradient_support has a rule for it
def unpool(x: Tensor, indices: Tensor, size: tuple[int, int]) -> Tensor:
    """Write maxima (N, C, h, w) to where a 2x2 pooling of stride 2 found them in a map of `size`; 0 elsewhere."""
    # Not max_unpool2d: on CUDA it has no deterministic form, its gradient is not channels-last, and TorchScript's
    # tracer refuses its sizes.
    cells, positions = (maps.permute(0, 2, 3, 1).flatten(1, 2) for maps in (x, indices))
    images, channels = x.shape[:2]
    written = x.new_zeros(images, size[0] * size[1], channels).scatter(1, positions, cells)
    return written.view(images, *size, channels).permute(0, 3, 1, 2)
