"""Test-time augmentation: the network on the image at several scales, and mirrored."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segframe.errors import UserError
from segframe.heads.base import Logits
from segframe.inference.bands import BandedScores, band_rows
from segframe.inference.base import Inference, Scores, check_run
from segframe.inference.blend import Blend, enlarging
from segframe.ops import bilinear
from segframe.segmenter import Segmenter

Pair = tuple[int, int]

SMALLEST = 32
"""Pixels of a side below which images are not made smaller: networks need so many."""


class TTA(Inference):
    """The mean of the probabilities of the image at each of `scales` and, with `flip`, mirrored too.

    Multi-scale and flipped inference as published figures have it (Chen et al., 2018, DeepLabV3+, section 4), computed
    as mmsegmentation's `SegTTAModel` and PaddleSeg's `aug_inference` do: logits are resized to the image's size, then
    follow softmax and mean. Images are resized bilinearly without antialiasing, as by OpenCV there, but not rounded
    back to bytes; their sides are rounded to the nearest pixel and to no less than 32. An image and its mirror image
    run together, `batch_size` images at a time at most.

    "exact": that, in bands of rows, from the coarse logits of every augmentation, which alone are kept. "fast": the
    same on the grid of the image's own coarse logits; the logarithm of the mean is then enlarged.
    """

    def __init__(self, scales: list[float], flip: bool, mode: str, batch_size: int) -> None:
        check_run(mode, batch_size)
        if not scales or any(not scale > 0 for scale in scales):
            raise UserError(f"inference.scales must be one or several positive numbers, got {scales}")
        self.scales = scales
        self.flip = flip
        self.mode = mode
        self.batch_size = batch_size

    def __str__(self) -> str:
        """See Inference."""
        scales = ", ".join(f"{scale:g}" for scale in self.scales)
        return f"test-time augmentation at scales {scales}, {'' if self.flip else 'not '}mirrored, {self.mode}"

    def __call__(self, segmenter: Segmenter, images: Tensor) -> Scores:
        """See Inference."""
        size = (images.shape[-2], images.shape[-1])
        answers = [self.run(segmenter, images, scale) for scale in self.scales]
        # The grid of the image's own logits, or of those nearest to its size.
        base = min(zip(self.scales, answers, strict=True), key=lambda pair: abs(pair[0] - 1))[1].logits
        cells = None if self.mode == "exact" else grid(base, size)
        views = [view for answer in answers for view in answer.views(size, cells)]
        scores = BandedScores(partial(mean_probabilities, views), probabilities=True)
        return scores if cells is None else Logits(scores.full(), size, base.aligned_stride)

    def run(self, segmenter: Segmenter, images: Tensor, scale: float) -> "Answer":
        """The logits of the images at a scale, and of their mirror images."""
        size = [max(round(n * scale), min(n, SMALLEST)) for n in images.shape[-2:]]
        scaled = images
        if size != list(images.shape[-2:]):
            scaled = F.interpolate(images.float(), size, mode="bilinear", align_corners=False)
        batch = torch.cat([scaled, scaled.flip(-1)]) if self.flip else scaled
        parts = [segmenter.outputs(part)["main"] for part in batch.split(self.batch_size)]
        values = torch.cat([part.values.float() for part in parts])
        return Answer(parts[0]._replace(values=values), self.flip)


def grid(logits: Logits, size: Pair) -> Pair:
    """The cells of coarse logits of an image of this size, like `logits` of one about as large."""
    stride = logits.aligned_stride
    if stride is None:
        return logits.values.shape[-2], logits.values.shape[-1]
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1


class View(NamedTuple):
    """The logits of one augmentation, and how rows and columns of the result are made of theirs."""

    values: Tensor
    """(N, C, h, w)"""
    rows: Blend
    columns: Blend


class Answer(NamedTuple):
    """The logits of a scale: of N images, then of their mirror images if those are wanted."""

    logits: Logits
    flip: bool

    def views(self, size: Pair, cells: Pair | None) -> list[View]:
        """The augmentations of this scale as they lie on images of `size`, or on coarse logits of so many `cells`."""
        rows, columns = enlarging(self.logits)
        stride = self.logits.aligned_stride

        def placed(weights: Tensor, axis: int, mirrored: bool) -> Blend:
            if cells is not None and stride is None:
                on = bilinear.matrix(cells[axis], weights.shape[1], None, weights.device)
                return Blend.of(on.flip(0) if mirrored else on)
            on = resized(weights, size[axis])
            on = on.flip(0) if mirrored else on
            if cells is not None and stride is not None:
                on = on[(torch.arange(cells[axis], device=on.device) * stride).clamp(max=size[axis] - 1)]
            return Blend.of(on)

        down = placed(rows, 0, mirrored=False)
        sides = [placed(columns, 1, mirrored) for mirrored in ((False, True) if self.flip else (False,))]
        return [View(part, down, side) for part, side in zip(self.logits.values.chunk(len(sides)), sides, strict=True)]


def resized(weights: Tensor, pixels: int) -> Tensor:
    """Weights (others, cells) of a scaled image's rows or columns to those of the image (pixels, cells)."""
    low, high, share = bilinear.axis(pixels, len(weights), None, weights.device)
    return torch.lerp(weights[low], weights[high], share[:, None])


def mean_probabilities(views: list[View]) -> Iterator[Tensor]:
    """The mean of the softmax of all views, (N, C, some rows, W) each, from top to bottom."""
    n, channels = views[0].values.shape[:2]
    height, width = len(views[0].rows.first), len(views[0].columns.first)
    step = band_rows(n * channels, width)
    for start in range(0, height, step):
        end = min(start + step, height)
        total = torch.zeros((), device=views[0].values.device)
        for view in views:
            cells, weights = view.rows.between(start, end)
            total = total + (weights @ view.columns.columns(view.values[:, :, cells])).softmax(1)
        yield total / len(views)
