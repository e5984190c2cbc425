"""Skip decoder of FCN (Long, Shelhamer & Darrell, 2015; Shelhamer et al., 2017) and torchvision's dilated FCN head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.backbones.base import Feature
from segframe.models.heads.base import Head, require
from segframe.models.heads.upsampling import fit
from segframe.models.logits import Logits


class FCN(Head):
    """FCN-32s, -16s, -8s: 1x1 scores of each map in `reads`, coarsest first, upsampled and summed; logits at full size.

    Upsampling is by transposed convolutions with dense (C, C, k, k) weights, initialised bilinearly. Crops are computed
    from the maps' coordinates, so the head fits the papers' form (conv1_1 padded by 100: crops at 19; 5, 27; 5, 9, 31),
    a padded VGG and any other backbone. `learned`: which transposed convolutions are trained: "none" (as released),
    "intermediate" (all but the last; CVPR paper, section 4.3) or "all". `scales` multiply the maps in `reads` before
    they are scored (FCN-8s at once: 1, 0.01, 0.0001); null: 1.
    """

    crops_overhang = True
    score_layers = ("score.", "upscore.")

    def __init__(
        self,
        features: dict[str, Feature],
        num_classes: int,
        output_stride: int,
        reads: list[str],
        learned: str,
        lr_multiplier: float,
        scales: list[float] | None = None,
    ) -> None:
        super().__init__()
        if scales is not None and len(scales) != len(reads):
            raise UserError(f"head.scales needs one entry for each of head.reads={reads}, got {scales}")
        if learned not in ("none", "intermediate", "all"):
            raise UserError(f"head.learned must be none, intermediate or all, got {learned}")
        self.lr_multiplier = lr_multiplier
        self.reads = reads
        self.scales = dict(zip(reads, scales or [1.0] * len(reads), strict=True))
        sources = require(features, *reads)
        if [source.stride for source in sources] != sorted((source.stride for source in sources), reverse=True):
            raise UserError(f"head.reads must name the coarsest map first, got {', '.join(reads)}")
        self.score = nn.ModuleDict(
            {name: nn.Conv2d(f.channels, num_classes, 1) for name, f in zip(reads, sources, strict=True)}
        )
        self.upscore = nn.ModuleList()
        self.crops: list[tuple[int, int]] = []
        grid = sources[0]
        image = Feature(3, 1, 0.0)
        for target in [*sources[1:], image]:
            deconv, grid = bilinear_upsampling(num_classes, grid, target)
            deconv.weight.requires_grad = learned == "all" or (learned == "intermediate" and target is not image)
            self.upscore.append(deconv)
            shift = round((target.offset - grid.offset) / target.stride)
            # (crop of the upsampled map, crop of the target): both then begin at the same pixel.
            self.crops.append((max(shift, 0), max(-shift, 0)))
            grid = Feature(num_classes, target.stride, max(grid.offset, target.offset))
        for parameter in self.score.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: dict[str, Tensor], size: tuple[int, int]) -> Logits:
        x = self.scored(self.reads[0], maps[self.reads[0]])
        for name, upscore, (own, other) in zip(self.reads[1:], self.upscore, self.crops, strict=False):
            x, skip = upscore(x), self.scored(name, maps[name])
            # sym_min: an export must not fix in its graph which of the two is smaller.
            h, w = (torch.sym_min(x.shape[dim] - own, skip.shape[dim] - other) for dim in (-2, -1))
            x = fit(x, (h, w), own) + fit(skip, (h, w), other)
        own, missing = self.crops[-1]
        x = self.upscore[-1](x)
        if torch.compiler.is_exporting():  # the same without branches on the size: one graph for all sizes
            rows, columns = (
                (torch.arange(n, device=x.device) + (own - missing)).clamp(own, cells - 1)
                for n, cells in zip(size, x.shape[-2:], strict=True)
            )
            return Logits(x.index_select(2, rows).index_select(3, columns), size, aligned_stride=None)
        h, w = (min(n - missing, cells - own) for n, cells in zip(size, x.shape[-2:], strict=True))
        x = fit(x, (h, w), own)
        # A dilated VGG has no cell for the first pixels: replicate their nearest neighbours' scores.
        right, bottom = size[1] - missing - x.shape[-1], size[0] - missing - x.shape[-2]
        if missing or right or bottom:
            x = F.pad(x, (missing, right, missing, bottom), mode="replicate")
        return Logits(x, size, aligned_stride=None)

    def scored(self, name: str, x: Tensor) -> Tensor:
        """Return a map's scores (N, num_classes, h, w)."""
        scale = self.scales[name]
        return self.score[name](x if scale == 1 else x * scale)


class DilatedFCN(Head):
    """torchvision's FCN head on one map: 3x3 convolution to a quarter of its channels, dropout, 1x1 classifier."""

    score_layers = ("layers.4.",)

    def __init__(
        self,
        features: dict[str, Feature],
        num_classes: int,
        output_stride: int,
        reads: str,
        dropout: float,
        align_corners: bool,
        lr_multiplier: float,
    ) -> None:
        super().__init__()
        self.lr_multiplier = lr_multiplier
        self.reads = reads
        (source,) = require(features, reads)
        self.aligned_stride = source.stride if align_corners else None
        width = source.channels // 4
        self.layers = nn.Sequential(
            nn.Conv2d(source.channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(width, num_classes, 1),
        )

    def forward(self, maps: dict[str, Tensor], size: tuple[int, int]) -> Logits:
        return Logits(self.layers(maps[self.reads]), size, self.aligned_stride)


def bilinear_upsampling(channels: int, source: Feature, target: Feature) -> tuple[nn.ConvTranspose2d, Feature]:
    """Return a bilinear transposed convolution from one grid to the stride of another, and the grid of its output.

    For an upsampling factor s the kernel is 2s, as in the papers, if the grids are half a cell apart (VGG), and 2s - 1
    if cell centres coincide (ResNet), so that output cells lie exactly on the target's.
    """
    factor = source.stride // target.stride
    half_a_cell_apart = ((source.offset - target.offset) / target.stride) % 1 == 0.5
    kernel = 2 * factor if half_a_cell_apart else 2 * factor - 1
    deconv = nn.ConvTranspose2d(channels, channels, kernel, stride=factor, bias=False)
    with torch.no_grad():
        deconv.weight.zero_()
        deconv.weight[range(channels), range(channels)] = bilinear_kernel(kernel)
    grid = Feature(channels, target.stride, source.offset - (kernel - 1) / 2 * target.stride)
    assert (grid.offset - target.offset) % target.stride == 0
    return deconv, grid


def bilinear_kernel(size: int) -> Tensor:
    """Return the (size, size) bilinear filter of Caffe and of the FCN release's `surgery.py`."""
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    line = 1 - (torch.arange(size) - centre).abs() / factor
    return line[:, None] * line
