"""Bilinear resizing of maps, and its interpolation indices and weights along one axis."""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segframe.models.ops.memory_format import memory_format


def resize(x: Tensor, size: tuple[int, int], aligned_stride: int | None) -> Tensor:
    """Return a map (N, C, h, w) resized to `size`, bilinear.

    `aligned_stride` None: the edges of both maps coincide (`align_corners=False`; torchvision's and VainF's recipes). A
    number: cell i lies on pixel i * aligned_stride. This is `align_corners=True` at sizes of k * stride + 1 (the crops
    of TensorFlow's and Caffe's recipes); at any other size it equals padding the image to such a size.
    """
    # On a GPU, gradients of interpolation and of replication are atomic additions: slow, and not deterministic.
    if torch.are_deterministic_algorithms_enabled() or (x.is_cuda and x.requires_grad):
        return products(x, size, aligned_stride)
    if aligned_stride is None:
        return interpolate(x, size, align_corners=False)
    height, width = ((n - 1) * aligned_stride + 1 for n in x.shape[-2:])
    x = interpolate(x, (height, width), align_corners=True)
    if torch.compiler.is_exporting():  # crops and replicates without branches on the size: one graph for all sizes
        rows, columns = (
            torch.arange(n, device=x.device).clamp(max=m - 1) for n, m in zip(size, x.shape[-2:], strict=True)
        )
        return x.index_select(2, rows).index_select(3, columns)
    x = x[..., : size[0], : size[1]]
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]), mode="replicate")


def interpolate(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Return F.interpolate(x, size, mode="bilinear", align_corners=align_corners), with a fast gradient."""
    y = F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
    if y.requires_grad and not torch.compiler.is_compiling():
        # The gradient of a map that was concatenated is a slice, for which PyTorch's CPU kernel takes up to 30 times as
        # long as for a contiguous copy.
        y.register_hook(contiguous)
    return y


def contiguous(gradient: Tensor | None) -> Tensor | None:
    """Return a gradient (N, C, h, w) as a contiguous tensor of the same memory format; None for None."""
    if gradient is None:
        return None
    is_channels_last = gradient.stride(1) == 1
    return gradient.contiguous(memory_format=torch.channels_last if is_channels_last else torch.contiguous_format)


def products(x: Tensor, size: tuple[int, int], aligned_stride: int | None) -> Tensor:
    """Return `resize` as two matrix products, in float32, in the map's memory format."""
    # torch.compile warns of caches.
    weights = interpolation if torch.compiler.is_compiling() else matrix
    rows, columns = (weights(*pair, aligned_stride, x.device) for pair in zip(size, x.shape[-2:], strict=True))
    with torch.autocast(x.device.type, enabled=False):
        if memory_format(x) is not torch.channels_last:
            return (rows @ x.float() @ columns.T).to(x.dtype)
        cells = x.permute(0, 2, 3, 1).float()
        wide = (rows @ cells.flatten(2)).unflatten(2, cells.shape[2:])
        return (columns @ wide).to(x.dtype).permute(0, 3, 1, 2)


class Axis(NamedTuple):
    """Interpolation along one axis: pixel i is (1 - share[i]) * cell low[i] + share[i] * cell high[i]."""

    low: Tensor
    """int64 (pixels,), rising"""
    high: Tensor
    """int64 (pixels,), low + 1 but for the last cell"""
    share: Tensor
    """float32 (pixels,), 0 ... 1"""


def positions(pixels: int, cells: int, aligned_stride: int | None, device: torch.device) -> Axis:
    """Return the two cells and the weight of every pixel, as in `resize`.

    With `aligned_stride`, pixels beyond the last cell repeat it. In float32, in the order of torch's operations, so
    that results are equal to the bit.
    """
    position = torch.arange(pixels, dtype=torch.float32, device=device)
    if aligned_stride is None:
        scale = torch.tensor(cells, dtype=torch.float32, device=device) / pixels
        position = (scale * (position + 0.5) - 0.5).clamp_(min=0)
    else:
        position = position * torch.tensor(1 / aligned_stride, dtype=torch.float32, device=device)
    position.clamp_(max=cells - 1)
    low = position.floor().long()
    return Axis(low, (low + 1).clamp_(max=cells - 1), position - low)


def interpolation(pixels: int, cells: int, aligned_stride: int | None, device: torch.device) -> Tensor:
    """Return the interpolation as a float32 matrix (pixels, cells)."""
    low, high, share = positions(pixels, cells, aligned_stride, device)
    cell = torch.arange(cells, device=device)
    return (low[:, None] == cell) * (1 - share[:, None]) + (high[:, None] == cell) * share[:, None]


# A tensor made in inference mode could not be used in training later.
axis = functools.lru_cache(maxsize=64)(torch.inference_mode(False)(positions))
matrix = functools.lru_cache(maxsize=64)(torch.inference_mode(False)(interpolation))
