"""Sliding windows: the network on overlapping pieces of the image, as large as those it was trained on."""

import functools
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor

from segframe.errors import UserError
from segframe.inference.banded_scores import BandedScores, Cropped, band_rows
from segframe.inference.base import Inference, Scores, check_run, stride_of
from segframe.models.logits import Logits
from segframe.models.ops.interpolation_matrix import InterpolationMatrix, by_rows, resizing_matrices
from segframe.models.segmenter import Segmenter

Pair = tuple[int, int]


class SlidingWindow(Inference):
    """The mean of the logits of all windows that cover a pixel (mmsegmentation's `slide_inference`, 2020).

    Windows of `window` pixels (height and width; null: the training crop) lie every `stride` pixels (null: two thirds
    of the window, mmsegmentation's usual choice), the last ones moved back to the border; an image that is smaller than
    the window along an axis has one window there. `batch_size` windows run at a time.

    "exact": logits are enlarged window by window, then averaged; in bands of rows, from one row of windows at a time,
    so that memory depends on the image's width alone (beside the image and its classes). "fast": the coarse logits
    are averaged, then enlarged. For that the windows lie on the logits' grid (the stride is rounded down to it; the
    image's border is repeated by less than a cell); scores differ by the blend at the windows' borders.
    """

    def __init__(self, window: int | list[int] | None, stride: int | list[int] | None, mode: str, batch_size: int):
        check_run(mode, batch_size)
        self.window = None if window is None else pair("window", window)
        self.given_stride = None if stride is None else pair("stride", stride)
        self.mode = mode
        self.batch_size = batch_size
        if self.window and any(s > w for s, w in zip(self.stride, self.window, strict=True)):
            raise UserError(
                f"inference.stride={list(self.stride)} leaves gaps between windows of {list(self.window)} pixels: "
                "it must not be larger"
            )

    @property
    def stride(self) -> Pair:
        """Pixels between windows, down and to the right."""
        if self.given_stride is not None:
            return self.given_stride
        height, width = self.required_window()
        return max(1, height * 2 // 3), max(1, width * 2 // 3)

    def required_window(self) -> Pair:
        """The window; fails where neither the settings nor the training tell one."""
        if self.window is None:
            raise UserError("inference.window must be given: this network was not trained on crops of one size")
        return self.window

    def with_training_defaults(self, config: dict[str, Any]) -> Self:
        """See Inference: a window as large as the training crops."""
        if self.window is not None:
            return self
        transforms = config.get("transforms")
        crop = transforms.get("crop_size") if isinstance(transforms, dict) else None
        given = None if self.given_stride is None else list(self.given_stride)
        suited = type(self)(crop, given, self.mode, self.batch_size)
        suited.required_window()
        return suited

    def __str__(self) -> str:
        """See Inference."""
        (height, width), (down, right) = self.required_window(), self.stride
        return f"sliding windows of {height}x{width} pixels every {down} down and {right} to the right, {self.mode}"

    def __call__(self, segmenter: Segmenter, images: Tensor) -> Scores:
        """See Inference; "exact" runs the network when its scores are asked for."""
        self.required_window()
        if self.mode == "exact":
            size = (images.shape[-2], images.shape[-1])
            return BandedScores(functools.partial(self.bands, segmenter, images), size, probabilities=False)
        return self.coarse(segmenter, images)

    def run(
        self, segmenter: Segmenter, images: Tensor, top: int, lefts: list[int], size: Pair
    ) -> Iterator[tuple[int, Logits]]:
        """The windows of a row with their logits (N, C, h, w), `batch_size` at a time."""
        at_once = max(1, self.batch_size // len(images))
        for k in range(0, len(lefts), at_once):
            some = lefts[k : k + at_once]
            crops = torch.cat([images[..., top : top + size[0], left : left + size[1]] for left in some])
            logits = segmenter.outputs(crops)["main"]
            for left, values in zip(some, logits.values.split(len(images)), strict=True):
                yield left, logits._replace(values=values)

    def bands(self, segmenter: Segmenter, images: Tensor) -> Iterator[Tensor]:
        """The mean logits of full size, (N, some rows, C, W) each.

        Windows of one row share what their rows become, so they are enlarged to the right first and added up; the
        number of windows over a pixel is that of its row times that of its column.
        """
        height, width = images.shape[-2:]
        window = self.required_window()
        size = (min(height, window[0]), min(width, window[1]))
        tops, lefts = (origins(n, w, s) for n, w, s in zip((height, width), size, self.stride, strict=True))
        over_columns = coverage(lefts, size[1], width, images.device)
        strips: dict[int, tuple[Tensor, InterpolationMatrix]] = {}
        for start, end in pairwise(sorted({*tops, *(top + size[0] for top in tops)})):
            covering = [top for top in tops if top <= start < top + size[0]]
            strips = {top: strip for top, strip in strips.items() if top in covering}
            for top in covering:
                if top not in strips:
                    strip, rows = side_by_side(self.run(segmenter, images, top, lefts, size), width)
                    strips[top] = (strip.div_(over_columns), rows)
                    del strip  # so that it is freed when its windows end
            channels = strips[covering[0]][0].shape[2]
            step = band_rows(channels * len(images), width)
            for above in range(start, end, step):
                below = min(above + step, end)
                parts = [rows.rows(strip, above - top, below - top) for top, (strip, rows) in strips.items()]
                yield functools.reduce(Tensor.add_, parts).div_(len(parts))

    def coarse(self, segmenter: Segmenter, images: Tensor) -> Scores:
        """The mean logits on the network's own grid."""
        cell = stride_of(segmenter)
        if cell == 1:
            raise UserError(
                "inference.mode=fast needs a head with coarse logits; this one's are as large as the image: use exact"
            )
        height, width = images.shape[-2:]
        window = self.required_window()
        size = (min(height, window[0]), min(width, window[1]))
        tops, lefts = (grid_origins(n, w, s, cell) for n, w, s in zip((height, width), size, self.stride, strict=True))
        extent = (tops[-1] + size[0], lefts[-1] + size[1])
        images = images[..., torch.arange(extent[0], device=images.device).clamp(max=height - 1), :]
        images = images[..., torch.arange(extent[1], device=images.device).clamp(max=width - 1)]
        canvas = images.new_zeros(0)
        for top in tops:
            for left, logits in self.run(segmenter, images, top, lefts, size):
                h, w = logits.values.shape[-2:]
                if not canvas.numel():
                    check_grid(logits, cell, (len(tops) > 1, len(lefts) > 1))
                    shape = (*logits.values.shape[:2], tops[-1] // cell + h, lefts[-1] // cell + w)
                    canvas = logits.values.new_zeros(shape, dtype=torch.float32)
                canvas[..., top // cell : top // cell + h, left // cell : left // cell + w] += logits.values
        canvas /= coverage([top // cell for top in tops], h, canvas.shape[-2], canvas.device)[:, None]
        canvas /= coverage([left // cell for left in lefts], w, canvas.shape[-1], canvas.device)
        return Cropped(logits._replace(values=canvas, size=extent), (height, width))


def side_by_side(windows: Iterator[tuple[int, Logits]], width: int) -> tuple[Tensor, InterpolationMatrix]:
    """A row of windows, enlarged to the right and added up: (N, h, C, width); and what is left to do to its rows."""
    total = torch.zeros(0)
    for left, logits in windows:
        lines = by_rows(logits.values)
        if not total.numel():
            rows, columns = resizing_matrices(*logits)
            total = lines.new_zeros(*lines.shape[:3], width)
        total[..., left : left + logits.size[1]] += columns.columns(lines)
    return total, rows


def origins(pixels: int, window: int, stride: int) -> list[int]:
    """Where windows begin along an axis; the last one ends with it."""
    last = pixels - window
    return [*range(0, last, stride), last]


def grid_origins(pixels: int, window: int, stride: int, cell: int) -> list[int]:
    """The same in whole cells; the last window ends with the axis or up to a cell beyond."""
    last = -(-(pixels - window) // cell) * cell
    return [*range(0, last, max(1, stride // cell) * cell), last]


def coverage(begins: list[int], length: int, total: int, device: torch.device) -> Tensor:
    """How many windows cover each of the `total` places of an axis: float32 (total,)."""
    counts = torch.zeros(total)
    for begin in begins:
        counts[begin : begin + length] += 1
    return counts.to(device)


def check_grid(logits: Logits, cell: int, several: tuple[bool, bool]) -> None:
    """Fails where cells do not lie `cell` pixels apart, so that windows along an axis have no grid in common."""
    for name, pixels, cells, many in zip(
        ("height", "width"), logits.size, logits.values.shape[-2:], several, strict=True
    ):
        if many and logits.aligned_stride is None and cells * cell != pixels:
            raise UserError(
                f"inference.mode=fast: the {name} of inference.window must be a multiple of {cell}, this network's "
                f"stride, got {pixels}: e.g. {max(1, pixels // cell) * cell}; or use inference.mode=exact"
            )


def pair(name: str, value: int | Sequence[int]) -> Pair:
    """A setting in pixels, one number or [height, width], as (height, width)."""
    numbers = list(value) if isinstance(value, Sequence) else [value, value]
    if len(numbers) != 2 or any(not isinstance(n, int) or n < 1 for n in numbers):
        raise UserError(f"inference.{name} must be a positive number of pixels or [height, width], got {value}")
    return numbers[0], numbers[1]
