"""The theoretical receptive field of a network, and the effective one (Luo et al., 2016)."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segframe.analysis.gradient_support import GradientSupport
from segframe.models.segmenter import Segmenter

STRIP_LENGTHS = (1024, 2048, 4096, 8192)
STRIP_WIDTH = 64
EFFECTIVE_SHARE = 1 - 0.9545
"""Share of the largest gradient above which a pixel is in the effective field (Luo et al., section 4.1: 2 sigma)."""


class ReceptiveField(NamedTuple):
    """A theoretical receptive field in pixels, the side of a square."""

    side: int | None
    """Without global pooling; None if it is larger than the longest strip."""
    whole_image: bool
    """Whether it is the whole image, because of a global pooling."""


def theoretical(segmenter: Segmenter) -> dict[str, ReceptiveField]:
    """Return the fields of the centre cells of all feature maps and of the logits, by their names.

    Measured as the support of the centre cell's gradient in a network of the same layers with positive weights, on
    strips of increasing length until the field does not reach their ends. Kernels are assumed to be square.
    """
    for length in STRIP_LENGTHS:
        local = supports(segmenter, length, cut_means=True)
        if all(first > 0 and last < length - 1 for first, last in local.values()):
            break
    entire = supports(segmenter, length, cut_means=False)
    fields = {}
    for name, (first, last) in local.items():
        fits = first > 0 and last < length - 1
        fields[name] = ReceptiveField(last - first + 1 if fits else None, entire[name] == (0, length - 1))
    return fields


def supports(segmenter: Segmenter, length: int, cut_means: bool) -> dict[str, tuple[int, int]]:
    """Return the first and last image row that each map's centre cell depends on, in a strip of `length` rows."""
    images = torch.full((1, segmenter.channels, length, STRIP_WIDTH), 255.0, requires_grad=True)
    with GradientSupport(cut_means):
        maps = dict(segmenter.backbone(segmenter.normalize(images)))
        maps["logits"] = segmenter.outputs(images)["main"].values
    rows = {}
    for name, values in maps.items():
        if values.is_floating_point():  # not pooling indices
            gradient = centre_gradient(values, images, retain_graph=True)
            (support,) = gradient.abs().sum((0, 1, 3)).nonzero(as_tuple=True)
            assert len(support), f"{name} depends on no pixel: segframe/analysis/gradient_support.py lacks a rule"
            rows[name] = int(support[0]), int(support[-1])
    return rows


def centre_gradient(values: Tensor, images: Tensor, retain_graph: bool = False) -> Tensor:
    """Return the gradient of the centre cell of `values` (N, C, h, w), summed over channels, by the images."""
    centre = values[..., values.shape[-2] // 2, values.shape[-1] // 2].sum()
    return torch.autograd.grad(centre, images, retain_graph=retain_graph)[0]


def effective(segmenter: Segmenter, size: int, images: Iterable[int]) -> Tensor:
    """Return the mean absolute gradient (size, size) of the centre cell's summed logits over images of uniform noise.

    Layers with zero weights (score layers) get random weights first. There is one image per element of `images`, which
    may be a progress bar. The network is left in evaluation mode, without gradients.
    """
    segmenter.eval().requires_grad_(False)
    for layer in segmenter.modules():
        if isinstance(layer, nn.Conv2d) and not layer.weight.any():
            nn.init.kaiming_normal_(layer.weight)
    gradients = []
    for _ in images:
        image = (255 * torch.rand(1, segmenter.channels, size, size)).requires_grad_()
        gradients.append(centre_gradient(segmenter.outputs(image)["main"].values, image).abs().mean((0, 1)))
    return torch.stack(gradients).mean(0)


def diameter(gradient: Tensor) -> int:
    """Return the side of the square with as many pixels as the effective field (Luo et al., section 4.1)."""
    return round(float((gradient > EFFECTIVE_SHARE * gradient.max()).sum()) ** 0.5)


def format_field(field: ReceptiveField) -> str:
    if field.whole_image:
        return f"whole image (locally {field.side:,})" if field.side else "whole image"
    return f"{field.side:,}" if field.side else "larger than 8,000"
