"""Kernel taps that read only padding in training crops: untrained, they disturb the scores of larger images."""

import logging
from itertools import count
from math import ceil
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from segframe.data.base import SegmentationDataset
from segframe.inference.base import Inference
from segframe.models.segmenter import Segmenter

log = logging.getLogger(__name__)

LARGEST_RATE = 18 / 33
"""Largest dilation as a share of the map's side, in DeepLabV3's training: 18 on crops of 513 pixels at stride 16."""

Size = tuple[int, int]


class Layer(NamedTuple):
    """A convolution on the map of a training crop, cells (h, w)."""

    name: str
    conv: nn.Conv2d
    cells: Size

    @property
    def dilation(self) -> int:
        return max(self.conv.dilation)


def warn_of_untrained_taps(
    config: DictConfig,
    segmenter: Segmenter,
    inference: Inference,
    train: SegmentationDataset,
    val: SegmentationDataset,
) -> None:
    """Log a warning if taps that see no pixel of a training crop see pixels in validation, with the cures."""
    image, largest = (
        max((data[k]["image"] for k in (0, len(data) // 2, len(data) - 1)), key=Tensor.numel) for data in (train, val)
    )
    crop, larger = size_of(image), inference.network_size(size_of(largest))
    layers = untrained_layers(segmenter, image, larger)
    if not layers:
        return
    rates = ", ".join(map(str, sorted({layer.dilation for layer in layers})))
    cells = min(layer.cells for layer in layers)
    parts = " and ".join(sorted({layer.name.partition(".")[0] for layer in layers}))
    log.warning(
        "outer taps of convolutions with dilation %s (%s) see only padding in training: crops of %dx%d have maps "
        "of %dx%d cells there. They stay untrained and disturb the scores of images of %dx%d; set %s, or "
        "inference=sliding_window (inference.window=null), which reads such images in windows of the crop's size",
        *(rates, parts, *crop, *cells, *larger, " ".join(cures(config, segmenter, layers, crop))),
    )


@torch.no_grad()
def untrained_layers(segmenter: Segmenter, image: Tensor, larger: Size) -> list[Layer]:
    """Return the convolutions with taps that read only padding for an image (C, H, W), but not for a `larger` size."""
    crop = size_of(image)
    if larger[0] <= crop[0] and larger[1] <= crop[1]:
        return []
    inputs: dict[str, list[Size]] = {}
    convs = {name: layer for name, layer in segmenter.named_modules() if isinstance(layer, nn.Conv2d)}
    hooks = [
        conv.register_forward_pre_hook(lambda _, x, name=name: inputs.setdefault(name, []).append(size_of(x[0])))
        for name, conv in convs.items()
    ]
    training = segmenter.training
    segmenter.eval().outputs(image[None])
    segmenter.train(training)
    for hook in hooks:
        hook.remove()
    found = []
    for name, maps in inputs.items():
        cells = (max(h for h, _ in maps), max(w for _, w in maps))  # of the largest scale, where there are several
        if any(
            seen_taps(convs[name], axis, cells[axis])
            < seen_taps(convs[name], axis, ceil(cells[axis] * larger[axis] / crop[axis]))
            for axis in (0, 1)
        ):
            found.append(Layer(name, convs[name], cells))
    return found


def size_of(maps: Tensor) -> Size:
    """Return (H, W) of an image or map (..., H, W)."""
    return maps.shape[-2], maps.shape[-1]


def seen_taps(conv: nn.Conv2d, axis: int, cells: int) -> int:
    """Return the number of taps of a kernel along an axis that read a cell of the map at one of its positions."""
    kernel, stride, dilation = conv.kernel_size[axis], conv.stride[axis], conv.dilation[axis]
    reach = dilation * (kernel - 1)
    padding = int(conv.padding[axis]) if isinstance(conv.padding, tuple) else reach // 2
    positions = range(-padding, cells + padding - reach, stride)
    return sum(any(0 <= first + k * dilation < cells for first in positions) for k in range(kernel))


def cures(config: DictConfig, segmenter: Segmenter, layers: list[Layer], crop: Size) -> list[str]:
    """Return the settings by which all taps see pixels of training crops: smaller rates, else larger crops."""
    words, others = [], []
    for part in ("backbone", "head"):
        found = [layer for layer in layers if layer.name.startswith(f"{part}.")]
        widest = max(found, key=lambda layer: layer.dilation, default=None)
        if widest is None or widest.dilation == 1 or "rates" not in config[part]:
            others += found
            continue
        # Rates that are null are the papers' at stride 16, doubled at 8.
        rates = config[part].rates or [rate * 16 // config[part].output_stride for rate in (6, 12, 18)]
        convs = [layer for layer in segmenter.get_submodule(part).modules() if isinstance(layer, nn.Conv2d)]
        largest, present = int(LARGEST_RATE * min(widest.cells)), max(max(conv.dilation) for conv in convs)
        words.append(f"{part}.rates=[{','.join(str(max(1, rate * largest // present)) for rate in rates)}]")
    if others:
        sides = [max(side_needed(layer, axis, crop[axis]) for layer in others) for axis in (0, 1)]
        words.append(f"data.crop_size=[{sides[0]},{sides[1]}]")
    return words


def side_needed(layer: Layer, axis: int, side: int) -> int:
    """Return the side of crops, at least `side` pixels, in which all taps of a layer see pixels along an axis."""
    cells = next(n for n in count(layer.cells[axis]) if seen_taps(layer.conv, axis, n) == layer.conv.kernel_size[axis])
    return ceil(cells * side / layer.cells[axis])
