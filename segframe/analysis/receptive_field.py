"""How far a network sees: its theoretical receptive field, and the effective one (Luo et al., 2016)."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segframe.analysis.gradient_support import GradientSupport
from segframe.models.segmenter import Segmenter

STRIP_LENGTHS = (1024, 2048, 4096, 8192)
STRIP_WIDTH = 64
EFFECTIVE_SHARE = 1 - 0.9545
"""Of the largest gradient; a pixel above it is in the effective field (Luo et al., section 4.1: two sigmas)."""


class Field(NamedTuple):
    """A theoretical receptive field in pixels, the side of a square."""

    side: int | None
    """Without poolings over the whole image; None where it is larger than any strip that was tried."""
    whole_image: bool
    """Whether something (a global pooling) makes it the whole image."""


def theoretical(segmenter: Segmenter) -> dict[str, Field]:
    """The fields of each feature map's and the logits' centre cell, by the map's name and "logits".

    Measured, not assumed: the support of the centre's gradient in a network of the same layers whose weights are all
    positive, on strips so long that no end is reached. Kernels are taken to be square.
    """
    for length in STRIP_LENGTHS:
        local = supports(segmenter, length, cut_means=True)
        if all(first > 0 and last < length - 1 for first, last in local.values()):
            break
    entire = supports(segmenter, length, cut_means=False)
    fields = {}
    for name, (first, last) in local.items():
        fits = first > 0 and last < length - 1
        fields[name] = Field(last - first + 1 if fits else None, entire[name] == (0, length - 1))
    return fields


def supports(segmenter: Segmenter, length: int, cut_means: bool) -> dict[str, tuple[int, int]]:
    """First and last image row that each map's centre cell depends on, in a strip of `length` rows."""
    images = torch.full((1, 3, length, STRIP_WIDTH), 255.0, requires_grad=True)
    with GradientSupport(cut_means):
        maps = dict(segmenter.backbone(segmenter.normalize(images)))
        maps["logits"] = segmenter.outputs(images)["main"].values
    rows = {}
    for name, values in maps.items():
        if values.is_floating_point():  # pooling indices are no features
            gradient = centre_gradient(values, images, retain_graph=True)
            (seen,) = gradient.abs().sum((0, 1, 3)).nonzero(as_tuple=True)
            assert len(seen), f"{name} seems to depend on no pixel: segframe/dependence.py lacks a rule"
            rows[name] = int(seen[0]), int(seen[-1])
    return rows


def centre_gradient(values: Tensor, images: Tensor, retain_graph: bool = False) -> Tensor:
    """The gradient of the centre cell's values (N, C, h, w), summed over channels, with respect to the images."""
    centre = values[..., values.shape[-2] // 2, values.shape[-1] // 2].sum()
    return torch.autograd.grad(centre, images, retain_graph=retain_graph)[0]


def effective(segmenter: Segmenter, size: int, images: Iterable[int]) -> Tensor:
    """Mean absolute gradient (size, size) of the centre cell's summed logits, over so many images of uniform noise.

    Score layers that start from zero, which would let nothing through, get random weights first. `images` is only
    counted through, so that a progress bar can be one. The network is left in evaluation mode, without gradients.
    """
    segmenter.eval().requires_grad_(False)
    for layer in segmenter.modules():
        if isinstance(layer, nn.Conv2d) and not layer.weight.any():
            nn.init.kaiming_normal_(layer.weight)
    gradients = []
    for _ in images:
        image = (255 * torch.rand(1, 3, size, size)).requires_grad_()
        gradients.append(centre_gradient(segmenter.outputs(image)["main"].values, image).abs().mean((0, 1)))
    return torch.stack(gradients).mean(0)


def diameter(gradient: Tensor) -> int:
    """Side in pixels of the square that has as many pixels as the effective field (Luo et al., section 4.1)."""
    return round(float((gradient > EFFECTIVE_SHARE * gradient.max()).sum()) ** 0.5)


def describe_field(field: Field) -> str:
    """A theoretical field in words, in pixels."""
    if field.whole_image:
        return f"whole image (locally {field.side:,})" if field.side else "whole image"
    return f"{field.side:,}" if field.side else "larger than 8,000"
