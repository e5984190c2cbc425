"""Test-time augmentation: the network on the image at several scales, and mirrored."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segframe.errors import UserError
from segframe.inference.banded_scores import BandedScores, band_rows
from segframe.inference.base import Inference, Scores, check_run
from segframe.models.logits import Logits
from segframe.models.ops.interpolation_matrix import InterpolationMatrix, by_rows, resizing_matrices
from segframe.models.segmenter import Segmenter

Pair = tuple[int, int]

BLOCK = 32
"""Rows whose cells are enlarged to the right at once: neighbouring bands read the same ones."""
SMALLEST = 32
"""Pixels of a side below which images are not made smaller: networks need so many."""

SMALLEST_SCALE, LARGEST_SCALE = 0.05, 20
"""Published ones are 0.5 to 2; an image at a scale of 20 has 400 times as many pixels."""


class TTA(Inference):
    """The mean of the probabilities of the image at each of `scales` and, with `flip`, mirrored too.

    Multi-scale and flipped inference as published figures have it (Chen et al., 2017, DeepLabV3, section 4), computed
    as mmsegmentation's `SegTTAModel` and PaddleSeg's `aug_inference` do: logits are resized to the image's size, then
    follow softmax and mean. Images are resized bilinearly without antialiasing, as by OpenCV there, but not rounded
    back to bytes; their sides are rounded to the nearest pixel and to no less than 32. An image and its mirror image
    run together, `batch_size` images at a time at most.

    "exact": that, in bands of rows, from the coarse logits of every augmentation, which alone are kept (full-size ones
    of heads that give such: FCN's skips, U-Net). "fast": the same on the grid of the image's own coarse logits; the
    logarithm of the mean is then enlarged.
    """

    def __init__(self, scales: list[float], flip: bool, mode: str, batch_size: int) -> None:
        check_run(mode, batch_size)
        if not scales or any(not SMALLEST_SCALE <= scale <= LARGEST_SCALE for scale in scales):
            allowed = f"{SMALLEST_SCALE} to {LARGEST_SCALE}"
            raise UserError(f"inference.scales must be one or several numbers from {allowed}, got {scales}")
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
        scores = BandedScores(functools.partial(mean_probabilities, views), cells or size, probabilities=True)
        return scores if cells is None else Logits(scores.full(), size, base.aligned_stride)

    def run(self, segmenter: Segmenter, images: Tensor, scale: float) -> "Answer":
        """The logits of the images at a scale, and of their mirror images."""
        size = [max(round(n * scale), min(n, SMALLEST)) for n in images.shape[-2:]]
        scaled = images
        if size != list(images.shape[-2:]):
            # Pixel by pixel in memory, which torch resizes several times as fast.
            pixels = images.to(torch.float32, memory_format=torch.channels_last)
            scaled = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
        batch = torch.cat([scaled, scaled.flip(-1)]) if self.flip else scaled
        parts = [segmenter.outputs(part)["main"] for part in batch.split(self.batch_size)]
        values = torch.cat([part.values for part in parts])
        return Answer(parts[0]._replace(values=values), self.flip)


def grid(logits: Logits, size: Pair) -> Pair:
    """The cells of coarse logits of an image of this size, like `logits` of one about as large."""
    stride = logits.aligned_stride
    if stride is None:
        return logits.values.shape[-2], logits.values.shape[-1]
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1


class View(NamedTuple):
    """The logits of one augmentation, and how rows and columns of the result are made of theirs."""

    lines: Tensor
    """(N, h, C, w)"""
    rows: InterpolationMatrix
    columns: InterpolationMatrix


class Answer(NamedTuple):
    """The logits of a scale: of N images, then of their mirror images if those are wanted."""

    logits: Logits
    flip: bool

    def views(self, size: Pair, cells: Pair | None) -> list[View]:
        """The augmentations of this scale as they lie on images of `size`, or on coarse logits of so many `cells`."""
        sides = (False, True) if self.flip else (False,)
        parts = self.logits.values.chunk(len(sides))
        down = self.placed(0, size, cells, mirrored=False)
        return [
            View(by_rows(part), down, self.placed(1, size, cells, mirrored))
            for part, mirrored in zip(parts, sides, strict=True)
        ]

    def placed(self, axis: int, size: Pair, cells: Pair | None, mirrored: bool) -> InterpolationMatrix:
        """What becomes of the rows (axis 0) or columns (1)."""
        values, stride = self.logits.values, self.logits.aligned_stride
        if cells is not None and stride is None:
            blend = InterpolationMatrix.bilinear(cells[axis], values.shape[2 + axis], None, values.device)
            return blend.mirrored() if mirrored else blend
        blend = resizing_matrices(*self.logits)[axis].resized(size[axis])
        # In the end, since mirrored cells do not lie where cells do.
        blend = blend.mirrored() if mirrored else blend
        if cells is None or stride is None:
            return blend
        return blend.at([min(cell * stride, size[axis] - 1) for cell in range(cells[axis])])


def mean_probabilities(views: list[View]) -> Iterator[Tensor]:
    """The mean of the softmax of all views, (N, some rows, C, W) each, from top to bottom."""
    n, _, channels, _ = views[0].lines.shape
    height, width = len(views[0].rows.first), len(views[0].columns.first)
    step = band_rows(n * channels, width)
    for above in range(0, height, BLOCK):
        below = min(above + BLOCK, height)
        wide = []
        for view in views:
            cells, _ = view.rows.between(above, below)
            wide.append((view.columns.columns(view.lines[:, cells].contiguous()), view.rows, cells.start))
        for start in range(above, below, step):
            end = min(start + step, below)
            parts = (rows.rows(lines, start, end, origin).softmax(2) for lines, rows, origin in wide)
            yield functools.reduce(Tensor.add_, parts).div_(len(wide))
