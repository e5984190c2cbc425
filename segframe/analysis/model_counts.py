"""Counts of a network on the meta device: parameters, FLOPs, feature maps."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from segframe.config.instantiate import instantiate
from segframe.errors import error_context, height_width
from segframe.inference.network import logit_stride
from segframe.models.build import build_segmenter
from segframe.models.segmenter import Segmenter

PARTS = ("backbone", "head", "aux_head")


ASSUMED_CLASSES = 21
"""Number of classes where none is given: PASCAL VOC's, for which most parameter counts are published."""


class Parameters(NamedTuple):
    """Numbers of parameters of a part; trained: those with gradients."""

    trained: int
    fixed: int


class Map(NamedTuple):
    """A feature map, or the logits."""

    name: str
    channels: int
    stride: int
    """Input pixels per cell, for sizes that it divides."""
    shape: tuple[int, int]
    """(h, w) for the image size of the summary."""


@dataclass(frozen=True)
class Summary:
    """Counts of a network."""

    num_classes: int
    size: tuple[int, int]
    parameters: Mapping[str, Parameters]
    flops: int
    """2 x multiply-accumulates of convolutions and matrix products for one image, without aux_head."""
    maps: tuple[Map, ...]
    """The logits last."""

    @property
    def total(self) -> int:
        """All parameters, including those of aux_head."""
        return sum(trained + fixed for trained, fixed in self.parameters.values())


def find_classes(config: DictConfig) -> tuple[tuple[str, ...], bool]:
    """Return the class names (numbers if only their number is known), and whether that number is assumed."""
    if config.num_classes is not None:
        return tuple(map(str, range(config.num_classes))), False
    dataset = OmegaConf.select(config, "data.dataset")
    # An experiment may change settings of a dataset although none is chosen.
    if dataset is None or (OmegaConf.is_dict(dataset) and "_target_" not in dataset):
        return tuple(map(str, range(ASSUMED_CLASSES))), True
    make_dataset = instantiate(dataset, "data.dataset")
    classes = make_dataset.func.class_names(dataset)
    if classes is None:
        with error_context("data"):
            classes = make_dataset(root=config.data.root, split=config.data.val_split).classes
    return classes, False


def summarize(config: DictConfig, num_classes: int) -> Summary:
    """Count parameters and FLOPs on the meta device, without memory for tensors."""
    size = height_width("size", config.size, 32)
    config = deepcopy(config)
    if "weights" in config.backbone:
        config.backbone.weights = None
    with torch.device("meta"), torch.no_grad():
        segmenter = build_segmenter(config, num_classes).eval()
        with FlopCounterMode(display=False) as counter:
            logits = segmenter.outputs(torch.empty(1, segmenter.channels, *size))["main"].values
        maps = segmenter.backbone(segmenter.normalize(torch.empty(1, segmenter.channels, *size)))
        stride = logit_stride(segmenter)
    rows = [
        Map(name, feature.channels, feature.stride, cells(maps[name]))
        for name, feature in segmenter.backbone.features.items()
        if maps[name].is_floating_point()  # not pooling indices
    ]
    rows.append(Map("logits", num_classes, stride, cells(logits)))
    return Summary(num_classes, size, count_parameters(segmenter), counter.get_total_flops(), tuple(rows))


def cells(values: Tensor) -> tuple[int, int]:
    """Return (h, w) of a map (N, C, h, w)."""
    return values.shape[-2], values.shape[-1]


def count_parameters(segmenter: Segmenter) -> dict[str, Parameters]:
    return {
        name: Parameters(
            sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad),
            sum(parameter.numel() for parameter in part.parameters() if not parameter.requires_grad),
        )
        for name, part in segmenter.named_children()
        if name in PARTS
    }
