"""The best class of every pixel from coarse logits, without logits at the images' size.

Where one class is best at all four cells around a pixel, it is best at the pixel, which is a mean of theirs. So only
the pixels between other cells, along the classes' borders, are computed, in float32 and step by step as `F.interpolate`
does: the answer is that of `full().argmax(1)`, to the bit from contiguous logits, up to rounding from others.
"""

import functools

import torch
from torch import Tensor

from segframe import IGNORE_INDEX
from segframe.models.ops.bilinear import axis, resize
from segframe.models.ops.row_bands import CPU_BAND, bands, slices

TOLERANCE = 2.0**-20
"""Of a score: beyond what rounding does to a mean of four, so that no class of lower index catches up with the best."""
WORTHWHILE = 0.3
"""The share of the pixels up to which computing these alone takes less time than computing all."""
LINES_BYTES = 1 << 18
"""Bytes of pixels that are computed at once; some ten temporary tensors are as large."""


def classes(values: Tensor, size: tuple[int, int], aligned_stride: int | None) -> Tensor:
    """Logits (N, C, h, w) to classes (N, *size), uint8: the first of the best at `size` (see `bilinear.resize`).

    A pixel with a NaN among its scores, or between infinite ones, gets some class.
    """
    result = torch.empty(len(values), *size, dtype=torch.uint8, device=values.device)
    with torch.autocast(values.device.type, enabled=False), torch.no_grad():
        if values.device.type != "cpu":
            # Which pixels lie along borders, the device alone knows; to ask it is to wait for it.
            for some, rows, logits in bands(values, size, aligned_stride, 1.0, None):
                result[some, rows] = logits.argmax(1).view(result[some, rows].shape)
            return result
        pixels = values.shape[1] * size[0] * size[1]
        # Three channels torch resizes in other steps; so few gain nothing here.
        small = 4 * pixels <= CPU_BAND or values.shape[1] <= 3
        enlarged = size[0] * size[1] >= 3 * values.shape[2] * values.shape[3]
        for some in slices(0, len(values), max(1, CPU_BAND // (4 * pixels))):
            images, into = values[some], result[some]
            if values.shape[-2:] == size:
                _best(images, into)
            elif small or not enlarged or not _along_borders(images[0], aligned_stride, into[0]):
                images = images.float()
                few = values.shape[1] <= 32
                _best(resize(images.contiguous() if few else images, size, aligned_stride), into)
    return result


def _best(logits: Tensor, into: Tensor) -> None:
    """Classes of logits (N, C, H, W)."""
    if logits.stride(1) == 1:
        into.copy_(logits.argmax(1))
        return
    size = (logits.shape[2], logits.shape[3])
    for some, rows, band in bands(logits, size, None, 1.0, None):
        into[some, rows] = best(band).view(into[some, rows].shape)


def best(scores: Tensor) -> Tensor:
    """The first of the best classes, (..., C, P) to (..., P) uint8, the last where there is a NaN; overwrites them."""
    return _first(scores.eq_(scores.amax(-2, keepdim=True)))


def _first(ones: Tensor) -> Tensor:
    """The index of the first 1.0 among zeros along the dimension before the last; the last index where there is none.

    In floats all the way: comparisons into booleans, and argmax over this dimension, take a CPU several times as long.
    """
    number = ones.shape[-2]
    ranks = torch.arange(number, 0, -1, dtype=torch.float32, device=ones.device).unsqueeze(1)
    return (number - ones.mul_(ranks).amax(-2)).clamp_(max=number - 1).to(torch.uint8)


def _along_borders(values: Tensor, aligned_stride: int | None, into: Tensor) -> bool:
    """Classes of one image; False, and none, where most of its pixels lie along borders."""
    number, h, w = values.shape
    height, width = into.shape
    rows, columns = axis(height, h, aligned_stride, values.device), axis(width, w, aligned_stride, values.device)
    starts, counts, longest = _runs(height, h, aligned_stride)
    cells = values.permute(1, 2, 0).float().reshape(h * w, number).contiguous()
    sure = _sure(cells).view(h, w)
    border = _border(sure).index_select(1, columns.low).index_select(0, rows.low[starts])
    # A line: the pixels of a column between two rows of cells.
    lines = border.flatten().nonzero().squeeze(1)
    if len(lines) > WORTHWHILE * border.numel():
        return False
    torch.index_select(sure.index_select(1, columns.low), 0, rows.low, out=into)
    steps = torch.arange(longest).unsqueeze(1)
    for some in slices(0, len(lines), max(1, LINES_BYTES // (4 * number * longest))):
        run, column = lines[some] // width, lines[some] % width
        start = starts[run]
        share, left, right = columns.share[column].unsqueeze(1), columns.low[column], columns.high[column]
        top, bottom = (
            _mean(cells.index_select(0, row * w + left), cells.index_select(0, row * w + right), share).t().contiguous()
            for row in (rows.low[start], rows.high[start])
        )
        # Shorter lines repeat their last pixel.
        row = start + torch.minimum(steps, counts[run] - 1)
        pixels = _mean(top, bottom, rows.share[row].unsqueeze(1))
        into.view(-1)[row * width + column] = best(pixels)
    return True


def _mean(near: Tensor, far: Tensor, share: Tensor) -> Tensor:
    # Step by step as torch resizes contiguous logits.
    return torch.addcmul(far * share, near, 1 - share)


def _sure(cells: Tensor) -> Tensor:
    """The best class of cells (cells, C), uint8; 255 where a class of lower index comes near it, or with a NaN."""
    scores = cells.t().clone(memory_format=torch.contiguous_format).unsqueeze(0)
    highest = scores.amax(1, keepdim=True)
    first = _first(scores.ge_(highest - TOLERANCE * highest.abs())).flatten()
    is_best = cells.gather(1, first.long().unsqueeze(1)).flatten() == highest.flatten()
    return first.where(is_best, IGNORE_INDEX)


def _border(sure: Tensor) -> Tensor:
    """Whether a cell, the next ones to the right and below and the one between these differ, or are not sure."""
    pairs = sure == IGNORE_INDEX
    pairs[:, :-1] |= sure[:, :-1] != sure[:, 1:]
    squares = pairs.clone()
    squares[:-1] |= pairs[1:] | (sure[:-1] != sure[1:])
    return squares


@functools.lru_cache(maxsize=64)
def _runs(pixels: int, cells: int, aligned_stride: int | None) -> tuple[Tensor, Tensor, int]:
    """Runs of pixels that lie between the same two cells: their starts, their lengths, and the largest length."""
    low = axis(pixels, cells, aligned_stride, torch.device("cpu")).low
    counts = low.unique_consecutive(return_counts=True)[1].tolist()
    # The first cell's run is longer than others by half: it is cut.
    longest = min(max(counts), -(-pixels // cells))
    start, runs = 0, []
    for count in counts:
        runs += [(start + k, min(longest, count - k)) for k in range(0, count, longest)]
        start += count
    starts, lengths = torch.tensor(runs).unbind(1)
    return starts, lengths, longest
