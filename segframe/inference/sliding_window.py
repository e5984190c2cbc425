"""Sliding-window inference, by default with windows of the size of the training crops."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor

from segframe.errors import UserError, height_width
from segframe.inference.banded_scores import BandedScores, CroppedLogits, band_rows
from segframe.inference.base import Inference, Scores, automatic_batch, check_settings
from segframe.inference.network import Network, logit_stride, main_logits
from segframe.models.logits import Logits
from segframe.models.ops.interpolation_matrix import InterpolationMatrix, by_rows, resizing_matrices

Pair = tuple[int, int]


class SlidingWindow(Inference):
    """The mean of the logits of all windows that cover a pixel (mmsegmentation's `slide_inference`, 2020).

    Windows of `window` pixels (height and width; null: the training crop) lie every `stride` pixels (null: two thirds
    of the window, mmsegmentation's usual choice), the last ones moved back to the border; an image that is smaller than
    the window along an axis has one window there. `batch_size` windows run at a time; None: see automatic_batch.

    "exact": logits are resized to full size, then averaged, in bands of rows and one row of windows at a time, so that
    memory depends on the image's width alone (beside the image and its classes). "fast": the coarse logits are
    averaged, then resized. For that the windows lie on the logits' grid (the stride is rounded down to it; the image's
    border is repeated by less than a cell); scores differ from "exact" near the windows' borders.

    A plain mean jumps at each border of a window, where one of the windows over a pixel ends. `tapered` weights each
    window's logits by a pyramid, from its centre down to its border, so that windows that overlap pass into one another
    without a seam.
    """

    def __init__(
        self,
        window: int | Sequence[int] | None,
        stride: int | Sequence[int] | None,
        mode: str,
        batch_size: int | None,
        tapered: bool = False,
    ) -> None:
        check_settings(mode, batch_size)
        self.mode = mode
        self.tapered = tapered
        self.batch_size = batch_size
        self.given_stride = None if stride is None else height_width("inference.stride", stride)
        self.window = self.stride = (0, 0)  # from the training crop
        if window is not None:
            self.window = height_width("inference.window", window)
            height, width = self.window
            self.stride = self.given_stride or (max(1, height * 2 // 3), max(1, width * 2 // 3))
        if self.stride[0] > self.window[0] or self.stride[1] > self.window[1]:
            raise UserError(
                f"inference.stride={list(self.stride)}: it leaves gaps between windows of {list(self.window)} pixels; "
                "choose one that is not larger than inference.window"
            )

    def network_size(self, size: Pair) -> Pair:
        """Return the window, or the image's side where that is smaller."""
        return min(size[0], self.window[0]), min(size[1], self.window[1])

    def with_training_defaults(self, config: Mapping[str, Any]) -> Self:
        """Return this inference with windows of the size of the training crops, if `window` is null."""
        if self.window != (0, 0):
            return self
        transforms = config.get("transforms")
        crop = transforms.get("crop_size") if isinstance(transforms, Mapping) else None
        if crop is None:
            raise UserError(
                "inference.window=null: this network was not trained on crops of one size; set inference.window=..."
            )
        return type(self)(crop, self.given_stride, self.mode, self.batch_size, self.tapered)

    def without_seams(self) -> "SlidingWindow":
        """Return this inference, tapered."""
        return self if self.tapered else SlidingWindow(self.window, self.stride, self.mode, self.batch_size, True)

    def __str__(self) -> str:
        (height, width), (down, right) = self.window, self.stride
        steps = f"every {down} down and {right} to the right, {self.mode}{', tapered' * self.tapered}"
        return f"sliding windows of {height}x{width} pixels {steps}"

    def __call__(self, network: Network, images: Tensor) -> Scores:
        """Return the scores; "exact" runs the network only when they are used."""
        assert self.window != (0, 0), "with_training_defaults must be called first"
        if self.mode == "exact":
            size = (images.shape[-2], images.shape[-1])
            return BandedScores(functools.partial(self.bands, network, images), size, probabilities=False)
        return self.coarse(network, images)

    def run(
        self, network: Network, images: Tensor, top: int, lefts: list[int], size: Pair
    ) -> Iterator[tuple[int, Logits]]:
        """Yield the left edge and the logits (N, C, h, w) of each window of a row; `batch_size` windows run at once."""
        step = max(1, (self.batch_size or automatic_batch(size, images.device)) // len(images))
        for k in range(0, len(lefts), step):
            chunk = lefts[k : k + step]
            crops = torch.cat([images[..., top : top + size[0], left : left + size[1]] for left in chunk])
            logits = main_logits(network, crops)
            for left, values in zip(chunk, logits.values.split(len(images)), strict=True):
                yield left, logits._replace(values=values)

    def bands(self, network: Network, images: Tensor) -> Iterator[Tensor]:
        """Yield the mean logits at full size in bands (N, rows, C, W).

        Windows of one row have the same interpolation along the height, so they are first resized along the width and
        summed; the sum of the windows' weights over a pixel is that of its row times that of its column.
        """
        height, width = images.shape[-2:]
        size = self.network_size((height, width))
        tops, lefts = (origins(n, w, s) for n, w, s in zip((height, width), size, self.stride, strict=True))
        weights = [window_weights(pixels, self.tapered, images.device) for pixels in size]
        over_rows, over_columns = coverage(tops, weights[0], height), coverage(lefts, weights[1], width)
        strips: dict[int, tuple[Tensor, InterpolationMatrix]] = {}
        for start, end in pairwise(sorted({*tops, *(top + size[0] for top in tops)})):
            covering = [top for top in tops if top <= start < top + size[0]]
            strips = {top: strip for top, strip in strips.items() if top in covering}
            for top in covering:
                if top not in strips:
                    strip, rows = sum_row(self.run(network, images, top, lefts, size), weights, width)
                    strips[top] = (strip.div_(over_columns), rows)
                    del strip  # so that it is freed after its last row
            channels = strips[covering[0]][0].shape[2]
            step = band_rows(channels * len(images), width)
            for first in range(start, end, step):
                last = min(first + step, end)
                parts = [rows.rows(strip, first - top, last - top) for top, (strip, rows) in strips.items()]
                yield functools.reduce(Tensor.add_, parts).div_(over_rows[first:last, None, None])

    def coarse(self, network: Network, images: Tensor) -> Scores:
        """Return the mean logits on the network's own grid."""
        cell = logit_stride(network)
        if cell == 1:
            raise UserError(
                "inference.mode=fast: the logits of this network are as large as the image; choose inference.mode=exact"
            )
        height, width = images.shape[-2:]
        size = self.network_size((height, width))
        tops, lefts = (grid_origins(n, w, s, cell) for n, w, s in zip((height, width), size, self.stride, strict=True))
        extent = (tops[-1] + size[0], lefts[-1] + size[1])
        images = images[..., torch.arange(extent[0], device=images.device).clamp(max=height - 1), :]
        images = images[..., torch.arange(extent[1], device=images.device).clamp(max=width - 1)]
        canvas = images.new_zeros(0)
        weights = [canvas, canvas]
        for top in tops:
            for left, logits in self.run(network, images, top, lefts, size):
                h, w = logits.values.shape[-2:]
                if not canvas.numel():
                    check_grid(logits, cell, (len(tops) > 1, len(lefts) > 1))
                    shape = (*logits.values.shape[:2], tops[-1] // cell + h, lefts[-1] // cell + w)
                    canvas = logits.values.new_zeros(shape, dtype=torch.float32)
                    weights = [window_weights(cells, self.tapered, images.device) for cells in (h, w)]
                weighted = logits.values * weights[0][:, None] * weights[1]
                canvas[..., top // cell : top // cell + h, left // cell : left // cell + w] += weighted
        canvas /= coverage([top // cell for top in tops], weights[0], canvas.shape[-2])[:, None]
        canvas /= coverage([left // cell for left in lefts], weights[1], canvas.shape[-1])
        return CroppedLogits(logits._replace(values=canvas, size=extent), (height, width))


def sum_row(
    windows: Iterator[tuple[int, Logits]], weights: Sequence[Tensor], width: int
) -> tuple[Tensor, InterpolationMatrix]:
    """Return the sum of a row of windows, resized along the width, (N, h, C, width), and the matrix for the height.

    `weights`: of the rows and of the columns of a window.
    """
    total = torch.zeros(0)
    for left, logits in windows:
        lines = by_rows(logits.values)
        if not total.numel():
            rows, columns = (
                matrix._replace(weights=matrix.weights * weight[:, None])
                for matrix, weight in zip(resizing_matrices(*logits), weights, strict=True)
            )
            total = lines.new_zeros(*lines.shape[:3], width)
        total[..., left : left + logits.size[1]] += columns.columns(lines)
    return total, rows


def origins(pixels: int, window: int, stride: int) -> list[int]:
    """Return the first pixels of the windows along an axis; the last window ends at the border."""
    last = pixels - window
    return [*range(0, last, stride), last]


def grid_origins(pixels: int, window: int, stride: int, cell: int) -> list[int]:
    """Return origins that are multiples of `cell`; the last window ends less than a cell beyond the border."""
    last = -(-(pixels - window) // cell) * cell
    return [*range(0, last, max(1, stride // cell) * cell), last]


def window_weights(length: int, tapered: bool, device: torch.device) -> Tensor:
    """Return the weights of a window's positions along an axis, float32 (length,): all 1, or 1 at most in its middle.

    Tapered: a triangle that would reach 0 one position outside the window.
    """
    if not tapered:
        return torch.ones(length, device=device)
    ahead = torch.arange(1, length + 1, device=device, dtype=torch.float32)
    return torch.minimum(ahead, ahead.flip(0)) / ((length + 1) // 2)


def coverage(first: list[int], weights: Tensor, total: int) -> Tensor:
    """Return the sum of the windows' weights over each of the `total` positions of an axis: float32 (total,)."""
    sums = weights.new_zeros(total)
    for start in first:
        sums[start : start + len(weights)] += weights
    return sums


def check_grid(logits: Logits, cell: int, overlapping: tuple[bool, bool]) -> None:
    """Raise UserError if cells are not exactly `cell` pixels apart along an axis with several windows."""
    for name, pixels, cells, check in zip(
        ("height", "width"), logits.size, logits.values.shape[-2:], overlapping, strict=True
    ):
        if check and logits.aligned_stride is None and cells * cell != pixels:
            raise UserError(
                f"inference.mode=fast: the {name} of inference.window, {pixels}, is no multiple of this network's "
                f"stride, {cell}; set it to {max(1, pixels // cell) * cell}, or inference.mode=exact"
            )
