"""Fast dilated 3x3 convolutions on maps hardly larger than their reach (ASPP), most of whose taps read padding."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segframe.models.ops.convolution import conv2d
from segframe.models.ops.depthwise_conv import cast_as_autocast
from segframe.models.ops.memory_format import memory_format

TAPWISE_LIMIT = 0.45
"""Share of products with pixels, not padding, up to which nine 1x1 convolutions are faster than one 3x3. Measured on a
CPU at maps of 16 to 65 cells, where they take 0.4 to 0.6 of its time (0.2 with a single tap left)."""


class AtrousConv2d(nn.Conv2d):
    """Dense or depthwise 3x3 nn.Conv2d (padding = dilation, stride 1), same results in less time.

    On a CPU, taps are applied only to pixels, not padding, if these are less than TAPWISE_LIMIT of all; otherwise
    depthwise ones are depthwise_conv2d. On a GPU, a kernel whose outer taps read only padding runs as 1x1.
    """

    def forward(self, x: Tensor) -> Tensor:
        assert (self.kernel_size, self.stride, self.padding) == ((3, 3), (1, 1), self.dilation)
        return atrous_conv2d(x, self.weight, self.bias, self.dilation[0], self.groups)


@torch.overrides.wrap_torch_function(lambda x, weight, bias, dilation, groups: (x, weight))
def atrous_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, groups: int) -> Tensor:
    """Return F.conv2d(x, weight, bias, padding=dilation, dilation=dilation, groups=groups); see AtrousConv2d."""
    if torch.compiler.is_exporting():  # one graph for all sizes: the cases below depend on the size
        return F.conv2d(x, weight, bias, padding=dilation, dilation=dilation, groups=groups)
    height, width = x.shape[-2:]
    useful = share_of_pixels(height, dilation) * share_of_pixels(width, dilation)
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        if dilation >= max(height, width) and x.device.type != "meta":
            return F.conv2d(x, weight[:, :, 1:2, 1:2], bias, groups=groups)
    elif useful <= TAPWISE_LIMIT:
        x, weight, bias = cast_as_autocast(x, weight, bias)
        with torch.autocast("cpu", enabled=False):
            y = TapwiseConv.apply(x, weight, dilation)
            return y if bias is None else y + bias[:, None, None]
    return conv2d(x, weight, bias, padding=dilation, dilation=dilation, groups=groups)


def share_of_pixels(cells: int, dilation: int) -> float:
    """Return the share of three taps' products along an axis that read cells of the map."""
    return (cells + 2 * max(0, cells - dilation)) / (3 * cells)


def overlaps(cells: int, dilation: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield along an axis each tap with the output cells it contributes to and the input cells it reads."""
    yield 1, slice(0, cells), slice(0, cells)
    if dilation < cells:
        yield 0, slice(dilation, cells), slice(0, cells - dilation)
        yield 2, slice(0, cells - dilation), slice(dilation, cells)


def taps(x: Tensor, dilation: int) -> Iterator[tuple[int, int, tuple[Any, ...], tuple[Any, ...]]]:
    """Yield the taps that read pixels, the middle first: row, column, output cells, input cells."""
    for i, to_rows, from_rows in overlaps(x.shape[-2], dilation):
        for j, to_columns, from_columns in overlaps(x.shape[-1], dilation):
            yield i, j, (..., to_rows, to_columns), (..., from_rows, from_columns)


class TapwiseConv(torch.autograd.Function):
    """Sum over the taps of 1x1 convolutions of the cells inside the map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        """x (N, C, h, w), weight (C', C, 3, 3) or (C, 1, 3, 3) of one dtype; sums in float32 at least."""
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        total: Tensor | None = None
        for i, j, to, source in taps(x, dilation):
            part = product(x[source], weight[:, :, i, j])
            if total is None:
                total = part.to(torch.promote_types(part.dtype, torch.float32))
            else:
                total[to] += part
        assert total is not None
        return total.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=memory_format(x))
        depthwise = weight.shape[1] != x.shape[1]
        grad_x: Tensor | None = None
        grad_weight = torch.zeros_like(weight)
        for i, j, to, source in taps(x, ctx.dilation):
            above, below, tap = grad[to], x[source], weight[:, :, i, j]
            if depthwise:
                part = above * tap[:, :, None]
                grad_weight[:, 0, i, j] = (above * below).sum((0, 2, 3))
            else:
                part, of_tap, _ = torch.ops.aten.convolution_backward(
                    above,
                    below,
                    tap[..., None, None],
                    None,
                    [1, 1],
                    [0, 0],
                    [1, 1],
                    False,
                    [0, 0],
                    1,
                    [True, True, False],
                )
                grad_weight[:, :, i, j] = of_tap[:, :, 0, 0]
            if grad_x is None:
                grad_x = part
            else:
                grad_x[source] += part
        return grad_x, grad_weight, None


def product(x: Tensor, tap: Tensor) -> Tensor:
    """Return one tap (C', C) of a dense or (C, 1) of a depthwise kernel applied to cells (N, C, h, w)."""
    return x * tap[:, :, None] if tap.shape[1] != x.shape[1] else F.conv2d(x, tap[..., None, None])
