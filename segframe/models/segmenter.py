"""The complete network, from raw pixels to logits."""

import functools
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from segframe.errors import UserError
from segframe.models.backbones.base import Backbone, keep_in_evaluation
from segframe.models.heads.base import Head
from segframe.models.logits import Logits, resize
from segframe.models.ops.convolution import fast_convolutions


class Segmenter(nn.Module):
    """Normalisation, backbone, head, and an auxiliary head that is used in training only.

    `input_scales`: the network is also applied to the image at these scales, and the logits at each cell are the
    maximum over all scales (DeepLab v2; Chen et al., 2016, "Attention to scale"). `frozen_norm`: "statistics" freezes
    the running means and variances of batch norm, "all" also its weights and biases.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        aux_head: Head | None,
        normalize: "Normalize",
        input_scales: Sequence[float] = (),
        frozen_norm: str | None = None,
    ) -> None:
        super().__init__()
        overhang = any(feature.offset < 0 for feature in backbone.features.values())
        if overhang and not (head.crops_overhang and (aux_head is None or aux_head.crops_overhang)):
            raise UserError(
                "this backbone continues the image beyond its border, so its maps reach beyond it; only FCN's skip "
                "heads and unet_original crop them: use the backbone without _original here"
            )
        percents = {round(100 * scale) for scale in input_scales}
        if len(percents) < len(input_scales) or any(not 0 < percent < 100 for percent in percents):
            raise UserError(
                "input_scales must lie between 0 and 1, beside the image itself, and differ by a hundredth; "
                f"got {list(input_scales)}"
            )
        self.normalize = normalize
        self.backbone = backbone
        self.head = head
        self.aux_head = aux_head
        self.input_scales = tuple(input_scales)
        self.memory_format = torch.channels_last
        self.autocast_dtype: torch.dtype | None = None  # where autocast is not on already, as in a training step
        self.freeze_norm(frozen_norm)

    @property
    def channels(self) -> int:
        """The number of channels of the images."""
        return len(self.normalize.mean)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.normalize.mean.device

    @property
    def output_names(self) -> list[str]:
        """The names of `outputs` in training."""
        scales = [f"scale_{round(100 * scale)}" for scale in (1.0, *self.input_scales)] if self.input_scales else []
        return ["main", *(["aux"] if self.aux_head is not None else []), *scales]

    @property
    def score_layers(self) -> tuple[str, ...]:
        """Prefixes of the parameters that depend on the classes."""
        heads = {"head": self.head, "aux_head": self.aux_head}
        return tuple(f"{name}.{layer}" for name, head in heads.items() if head for layer in head.score_layers)

    def norm_layers(self) -> list[BatchNorm]:
        """Return all batch norm layers."""
        return [layer for layer in self.modules() if isinstance(layer, BatchNorm)]

    def freeze_norm(self, what: str | None) -> None:
        """Freeze batch norm: "statistics", its running means and variances; "all", also its weights and biases."""
        if what not in (None, "statistics", "all"):
            raise UserError(f"batch_norm.frozen must be null, statistics or all, got {what}")
        for layer in self.norm_layers() if what else ():
            keep_in_evaluation(layer)
            if what == "all":
                layer.requires_grad_(False)

    def outputs(self, images: Tensor) -> dict[str, Logits]:
        """Return the logits by name for images (N, C, H, W) in 0 ... 255, uint8 or float.

        "main" is the prediction. In training there are also "aux" (with an auxiliary head) and, with input scales, the
        logits of each scale: "scale_100" (the image itself), "scale_75", ...
        """
        device = images.device
        casts = self.autocast_dtype is not None and not torch.is_autocast_enabled(device.type)
        with torch.autocast(device.type, self.autocast_dtype) if casts else nullcontext(), fast_convolutions(device):
            return self._outputs(images)

    def _outputs(self, images: Tensor) -> dict[str, Logits]:
        size = (images.shape[-2], images.shape[-1])
        x = self.normalize(images.contiguous(memory_format=self.memory_format))
        maps = self.backbone(x)
        outputs = {"main": self.head(maps, size)}
        if self.aux_head is not None and self.training:
            outputs["aux"] = self.aux_head(maps, size)
        if self.input_scales:
            names = self.output_names[-len(self.input_scales) :]
            single = {"scale_100": outputs["main"]}
            for name, scale in zip(names, self.input_scales, strict=True):
                smaller = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
                logits = self.head(self.backbone(smaller), (smaller.shape[-2], smaller.shape[-1]))
                # Its cells cover the original image from edge to edge, also where the recipe aligns corners.
                single[name] = logits._replace(size=size, aligned_stride=None)
            outputs["main"] = _fuse_scales(list(single.values()))
            if self.training:
                outputs |= single
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes, H, W) at the images' size."""
        return self.outputs(images)["main"].full()


def _fuse_scales(scales: list[Logits]) -> Logits:
    """The maximum over scales of each class at each cell of the first."""
    first = scales[0]
    cells = (first.values.shape[-2], first.values.shape[-1])
    values = [resize(logits.values, cells, logits.aligned_stride) for logits in scales[1:]]
    return first._replace(values=functools.reduce(torch.maximum, [first.values, *values]))


class Normalize(nn.Module):
    """(x - mean) / std per channel in units of 0 ... 255; `bgr`: RGB, then in the order blue, green, red (Caffe).

    Mean and std are buffers, so that an export carries them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float], bgr: bool = False) -> None:
        super().__init__()
        if not mean or len(mean) != len(std) or not min(std) > 0:
            raise UserError(f"normalize.mean={mean} normalize.std={std}: give a number per channel each, std above 0")
        if bgr and len(mean) not in (1, 3):
            raise UserError(f"normalize.bgr=true: {len(mean)} channels are no RGB; set normalize.bgr=false")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.bgr = bgr

    def forward(self, images: Tensor) -> Tensor:
        """Return normalised images in the buffers' dtype; channels last if the images are, or with `bgr`."""
        mean, std = self.mean, self.std
        if self.bgr:
            images = torch.stack(images.unbind(1)[::-1], dim=-1).permute(0, 3, 1, 2)
            mean, std = mean.flip(0), std.flip(0)
        x = images.to(mean.dtype, copy=True)
        offset, scale = _rows(-mean / std, x.shape[-1]), _rows(1 / std, x.shape[-1])
        # TorchScript's tracer refuses `out`.
        return torch.addcmul(offset, x, scale, out=None if x.requires_grad or torch.jit.is_tracing() else x)


def _rows(values: Tensor, width: int) -> Tensor:
    # (C, 1, W) in the memory order of images from the loader, channels last. Loops then run along whole rows: against
    # (C, 1, 1) they would be C numbers long, 12 times as slow on a CPU.
    return values.expand(-1, 1, width).permute(1, 2, 0).contiguous().permute(2, 0, 1)
