"""Test-time augmentation: inference at several scales, and on mirrored images."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segframe.errors import UserError
from segframe.inference.banded_scores import BandedScores, band_rows
from segframe.inference.base import Inference, Scores, check_settings
from segframe.inference.network import Network, main_logits
from segframe.inference.onnx_network import OnnxNetwork
from segframe.models.logits import Logits
from segframe.models.ops.interpolation_matrix import InterpolationMatrix, by_rows, resizing_matrices

Pair = tuple[int, int]

BLOCK = 32
"""Rows of the result whose cells are resized along the width at once: neighbouring bands read the same cells."""
MIN_SIDE = 32
"""Images are not scaled to fewer pixels per side: networks need so many."""

MIN_SCALE, MAX_SCALE = 0.05, 20
"""Published values are 0.5 to 2; at a scale of 20 an image has 400 times as many pixels."""


class TTA(Inference):
    """The mean of the probabilities of the image at each of `scales` and, with `flip`, mirrored too.

    Multi-scale and flipped inference as in published results (Chen et al., 2017, DeepLabV3, section 4), computed as by
    mmsegmentation's `SegTTAModel` and PaddleSeg's `aug_inference`: logits are resized to the scaled image's size, then
    to the image's, then softmax and mean. Images are resized bilinearly without antialiasing, as by OpenCV there, but
    not rounded back to bytes; their sides are rounded to the nearest pixel and to no less than 32. An image and its
    mirror image run together, at most `batch_size` images at a time.

    "exact": as above, in bands of rows; only the logits of every augmentation are stored, at their own stride. "fast":
    the same on the grid of the image's own coarse logits; the logarithm of the mean is then resized.
    """

    def __init__(self, scales: list[float], flip: bool, mode: str, batch_size: int) -> None:
        check_settings(mode, batch_size)
        if not scales or any(not MIN_SCALE <= scale <= MAX_SCALE for scale in scales):
            raise UserError(f"inference.scales={list(scales)}: it must be numbers between {MIN_SCALE} and {MAX_SCALE}")
        self.scales = scales
        self.flip = flip
        self.mode = mode
        self.batch_size = batch_size

    def __str__(self) -> str:
        scales = ", ".join(f"{scale:g}" for scale in self.scales)
        return f"test-time augmentation at scales {scales}, {'' if self.flip else 'not '}mirrored, {self.mode}"

    def images_at_once(self, size: Pair, device: torch.device) -> int:
        return max(1, self.batch_size // (2 if self.flip else 1))

    def network_size(self, size: Pair) -> Pair:
        """Return the size at the largest scale."""
        return round(size[0] * max(self.scales)), round(size[1] * max(self.scales))

    def __call__(self, network: Network, images: Tensor) -> Scores:
        size = (images.shape[-2], images.shape[-1])
        if self.mode == "fast" and isinstance(network, OnnxNetwork):
            raise UserError(
                "inference.mode=fast: an exported file has scores of the image's size, none on a coarse grid; choose "
                "inference.mode=exact"
            )
        results = [self.run(network, images, scale) for scale in self.scales]
        # The grid of the logits at scale 1, or at the scale nearest to it.
        base = min(zip(self.scales, results, strict=True), key=lambda pair: abs(pair[0] - 1))[1]
        cells = None if self.mode == "exact" else grid(base, size)
        parts = [view for logits in results for view in views(logits, self.flip, size, cells)]
        scores = BandedScores(functools.partial(mean_probabilities, parts), cells or size, probabilities=True)
        return scores if cells is None else Logits(scores.full(), size, base.aligned_stride)

    def run(self, network: Network, images: Tensor, scale: float) -> Logits:
        """Return the logits of the images at a scale, followed by those of their mirror images."""
        size = [max(round(n * scale), min(n, MIN_SIDE)) for n in images.shape[-2:]]
        scaled = images
        if size != list(images.shape[-2:]):
            # torch resizes channels_last several times as fast.
            pixels = images.to(torch.float32, memory_format=torch.channels_last)
            scaled = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
        batch = torch.cat([scaled, scaled.flip(-1)]) if self.flip else scaled
        parts = [main_logits(network, part) for part in batch.split(self.batch_size)]
        return parts[0]._replace(values=torch.cat([part.values for part in parts]))


def grid(logits: Logits, size: Pair) -> Pair:
    """Return (h, w) of the coarse logits of an image of `size`, given the logits of an image of about that size."""
    stride = logits.aligned_stride
    if stride is None:
        return logits.values.shape[-2], logits.values.shape[-1]
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1


class View(NamedTuple):
    """The logits of one augmentation, and the interpolation from their rows and columns to the result's."""

    lines: Tensor
    """(N, h, C, w)"""
    rows: InterpolationMatrix
    columns: InterpolationMatrix


def views(logits: Logits, flip: bool, size: Pair, cells: Pair | None) -> list[View]:
    """Return the augmentations of one scale on images of `size`, or on a coarse grid of (h, w) `cells`.

    `logits`: of N images, followed by those of their mirror images if `flip`.
    """
    sides = (False, True) if flip else (False,)
    rows = interpolation(logits, 0, size, cells, mirrored=False)
    return [
        View(by_rows(part), rows, interpolation(logits, 1, size, cells, mirrored))
        for part, mirrored in zip(logits.values.chunk(len(sides)), sides, strict=True)
    ]


def interpolation(logits: Logits, axis: int, size: Pair, cells: Pair | None, mirrored: bool) -> InterpolationMatrix:
    """Return the interpolation of the rows (axis 0) or columns (1)."""
    values, _, stride = logits
    if cells is not None and stride is None:
        matrix = InterpolationMatrix.bilinear(cells[axis], values.shape[2 + axis], None, values.device)
        return matrix.mirrored() if mirrored else matrix
    matrix = resizing_matrices(*logits)[axis].resized(size[axis])
    # Mirrored last: the cells of a mirror image do not lie where the cells of the image do.
    matrix = matrix.mirrored() if mirrored else matrix
    if cells is None or stride is None:
        return matrix
    return matrix.at([min(cell * stride, size[axis] - 1) for cell in range(cells[axis])])


def mean_probabilities(views: list[View]) -> Iterator[Tensor]:
    """Yield the mean of the softmax of all views from top to bottom in bands (N, rows, C, W)."""
    n, _, channels, _ = views[0].lines.shape
    height, width = len(views[0].rows.first), len(views[0].columns.first)
    step = band_rows(n * channels, width)
    for top in range(0, height, BLOCK):
        bottom = min(top + BLOCK, height)
        wide = []
        for view in views:
            cells, _ = view.rows.between(top, bottom)
            wide.append((view.columns.columns(view.lines[:, cells].contiguous()), view.rows, cells.start))
        for start in range(top, bottom, step):
            end = min(start + step, bottom)
            parts = (rows.rows(lines, start, end, origin).softmax(2) for lines, rows, origin in wide)
            yield functools.reduce(Tensor.add_, parts).div_(len(wide))
