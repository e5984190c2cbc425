"""Checks of custom backbones and heads against their interfaces."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segframe.errors import UserError
from segframe.models.logits import Logits
from segframe.models.segmenter import Segmenter

ROUNDING = 1.5
"""Tolerance factor of a map's size relative to image size / stride, since the sizes of small maps are rounded."""


def check_attributes(name: str, part: nn.Module, *attributes: str) -> None:
    """UserError if a part lacks an attribute that its interface declares."""
    for attribute in attributes:
        if not hasattr(part, attribute):
            raise UserError(f"{name}={type(part).__name__}: it has no {attribute}; set self.{attribute} in __init__")


def has_own_parts(config: Mapping[str, Any]) -> bool:
    parts = [config[name] for name in ("backbone", "head", "aux_head") if config.get(name)]
    return not all(str(part["_target_"]).startswith("segframe.") for part in parts)


@torch.no_grad()
def check_parts(segmenter: Segmenter, image: Tensor, num_classes: int) -> None:
    """Check the backbone's maps and the heads' logits for an image (C, H, W).

    UserError if a map differs from the backbone's `features`, or logits have another number of channels than classes.
    """
    training = segmenter.training
    segmenter.eval()
    images = image[None].to(segmenter.device)
    maps = segmenter.backbone(segmenter.normalize(images.contiguous(memory_format=segmenter.memory_format)))
    check_maps(segmenter, maps, (image.shape[1], image.shape[2]))
    heads = {"head": segmenter.head, "aux_head": segmenter.aux_head}
    for name, part in heads.items():
        if part is None:
            continue
        logits: Any = part(maps, (image.shape[1], image.shape[2]))
        setting = f"{name}={type(part).__name__}"
        if not isinstance(logits, Logits):
            raise UserError(f"{setting}: forward returns a {type(logits).__name__}; return Logits(values, size, None)")
        if (channels := logits.values.shape[1]) != num_classes:
            raise UserError(
                f"{setting}: its logits have {channels} channels, and the data {num_classes} classes; give the last "
                "layer num_classes channels"
            )
    segmenter.train(training)


def check_maps(segmenter: Segmenter, maps: Any, size: tuple[int, int]) -> None:
    """UserError if keys, channels or strides of the maps of an image (H, W) differ from the backbone's `features`."""
    features, setting = segmenter.backbone.features, f"backbone={type(segmenter.backbone).__name__}"
    if not isinstance(maps, dict) or maps.keys() != features.keys():
        got = f"the maps {', '.join(maps)}" if isinstance(maps, dict) else f"a {type(maps).__name__}"
        raise UserError(f"{setting}: forward returns {got}; return a dict with features' keys, {', '.join(features)}")
    for name, (channels, stride, offset) in features.items():
        _, found, *cells = maps[name].shape
        if found != channels:
            raise UserError(
                f"{setting}: features['{name}'] says {channels} channels, and its map has {found}; correct features"
            )
        ratios = [count * stride / pixels for count, pixels in zip(cells, size, strict=True)]
        if offset >= 0 and not all(1 / ROUNDING < ratio < ROUNDING for ratio in ratios):
            raise UserError(
                f"{setting}: features['{name}'] says stride {stride}, and its map of an image of {size[0]}x{size[1]} "
                f"has {cells[0]}x{cells[1]} cells; correct features"
            )
