"""Argmax at the images' size of coarse logits, without storing full logits.

A class with the highest logit at all four cells around a pixel also has the highest at the pixel, their weighted mean.
So only pixels along borders between classes are interpolated, in float32 and in the order of `F.interpolate`'s
operations: the result equals `full().argmax(1)`, to the bit for contiguous logits, up to rounding for others.
"""

import functools

import torch
from torch import Tensor

from segframe import IGNORE_INDEX
from segframe.models.ops.bilinear import axis, resize
from segframe.models.ops.row_bands import CPU_BAND, bands, slices

TOLERANCE = 2.0**-20
"""Relative: above the rounding error of a mean of four, by which a class of lower index could draw level."""
WORTHWHILE = 0.3
"""Share of border pixels up to which computing only these is faster than computing all."""
LINES_BYTES = 1 << 18
"""Bytes of pixels computed at once; about ten temporary tensors are as large."""


def classes(values: Tensor, size: tuple[int, int], aligned_stride: int | None) -> Tensor:
    """Return classes as `pixelwise.classes`."""
    result = torch.empty(len(values), *size, dtype=torch.uint8, device=values.device)
    with torch.autocast(values.device.type, enabled=False), torch.no_grad():
        if values.device.type != "cpu":
            # Finding the border pixels would synchronise with the GPU.
            for some, rows, logits in bands(values, size, aligned_stride, 1.0, None):
                result[some, rows] = logits.argmax(1).view(result[some, rows].shape)
            return result
        pixels = values.shape[1] * size[0] * size[1]
        # Few pixels gain nothing; up to three channels torch resizes with other operations.
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
    """Write the classes of logits (N, C, H, W) to `into`."""
    if logits.stride(1) == 1:
        into.copy_(logits.argmax(1))
        return
    size = (logits.shape[2], logits.shape[3])
    for some, rows, band in bands(logits, size, None, 1.0, None):
        into[some, rows] = best(band).view(into[some, rows].shape)


def best(scores: Tensor) -> Tensor:
    """Return the argmax (..., P), uint8, of (..., C, P), the last class if there is a NaN; overwrites `scores`."""
    return _first(scores.eq_(scores.amax(-2, keepdim=True)))


def _first(ones: Tensor) -> Tensor:
    """The index of the first 1.0 among zeros along the second to last dimension; the last index if there is none.

    In floats: boolean comparisons and argmax over this dimension take several times as long on a CPU.
    """
    number = ones.shape[-2]
    ranks = torch.arange(number, 0, -1, dtype=torch.float32, device=ones.device).unsqueeze(1)
    return (number - ones.mul_(ranks).amax(-2)).clamp_(max=number - 1).to(torch.uint8)


def _along_borders(values: Tensor, aligned_stride: int | None, into: Tensor) -> bool:
    """Write the classes of one image to `into`; return False, writing none, if too many pixels lie along borders."""
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
    # In the order of torch's operations for contiguous logits.
    return torch.addcmul(far * share, near, 1 - share)


def _sure(cells: Tensor) -> Tensor:
    """The argmax of cells (cells, C), uint8; 255 if a class of lower index is within TOLERANCE, or with a NaN."""
    scores = cells.t().clone(memory_format=torch.contiguous_format).unsqueeze(0)
    highest = scores.amax(1, keepdim=True)
    first = _first(scores.ge_(highest - TOLERANCE * highest.abs())).flatten()
    is_best = cells.gather(1, first.long().unsqueeze(1)).flatten() == highest.flatten()
    return first.where(is_best, IGNORE_INDEX)


def _border(sure: Tensor) -> Tensor:
    """Whether the square of a cell and its right, lower and diagonal neighbours has several or unsure classes."""
    pairs = sure == IGNORE_INDEX
    pairs[:, :-1] |= sure[:, :-1] != sure[:, 1:]
    squares = pairs.clone()
    squares[:-1] |= pairs[1:] | (sure[:-1] != sure[1:])
    return squares


@functools.lru_cache(maxsize=64)
def _runs(pixels: int, cells: int, aligned_stride: int | None) -> tuple[Tensor, Tensor, int]:
    """Runs of pixels between the same two cells: their starts, lengths, and the largest length."""
    low = axis(pixels, cells, aligned_stride, torch.device("cpu")).low
    counts = low.unique_consecutive(return_counts=True)[1].tolist()
    # The first cell's run is longer by half than the others: it is split.
    longest = min(max(counts), -(-pixels // cells))
    start, runs = 0, []
    for count in counts:
        runs += [(start + k, min(longest, count - k)) for k in range(0, count, longest)]
        start += count
    starts, lengths = torch.tensor(runs).unbind(1)
    return starts, lengths, longest
