"""Depthwise convolutions whose gradients are fast on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight
from torch.overrides import wrap_torch_function

SMALL_REACH = 4
"""Dilation times half the kernel size, up to which the forward pass of PyTorch's own convolution is fast on a CPU."""
LARGEST_KERNEL = 7
"""Kernel size up to which the weight's gradient is faster if it is computed in parts of 3x3 taps."""


@wrap_torch_function(lambda x, weight, bias, stride, padding, dilation: (x, weight))
def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int
) -> Tensor:
    """Return the depthwise convolution of x (N, C, h, w) with weight (C, 1, k, k): F.conv2d with groups=C.

    On a CPU, for x in channels-last memory: a dilated convolution that keeps the map's size is computed as an undilated
    one on dilation**2 interleaved grids (forward and backward take 0.1 to 0.9 of the time). In bfloat16, gradients of
    strided convolutions and of kernels above 3x3 are those of DepthwiseConvFunction (0.02 to 0.5 of the time).
    """
    kernel = weight.shape[-1]
    is_plain = x.device.type != "cpu" or not x.is_contiguous(memory_format=torch.channels_last)
    if is_plain or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups=len(weight))
    x, weight, bias = cast_as_autocast(x, weight, bias)
    trained = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    with torch.autocast("cpu", enabled=False):
        if (
            dilation > 1
            and (stride, kernel % 2, padding) == (1, 1, dilation * (kernel // 2))
            and min(x.shape[2:]) > 2 * dilation  # on smaller maps, padding would be most of the grids
            and (trained or padding > SMALL_REACH)
        ):
            return conv_on_grids(x, weight, bias, dilation)
        if trained and dilation == 1:
            return undilated(x, weight, bias, stride, padding)
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups=len(weight))


def cast_as_autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the arguments of a convolution, cast as autocast on a CPU does where it is enabled."""
    if not torch.is_autocast_enabled("cpu") or x.dtype == torch.float64:  # which autocast leaves alone
        return x, weight, bias
    dtype = torch.get_autocast_dtype("cpu")
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def conv_on_grids(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Return a dilated depthwise convolution of a channels-last map (N, C, h, w).

    Every dilation-th row and column form a grid; each of the dilation**2 grids is convolved without dilation.
    """
    n, channels, height, width = x.shape
    rows, columns = -(-height // dilation), -(-width // dilation)
    x = F.pad(x, (0, columns * dilation - width, 0, rows * dilation - height)).permute(0, 2, 3, 1)
    grids = x.reshape(n, rows, dilation, columns, dilation, channels).permute(0, 2, 4, 1, 3, 5)
    grids = grids.reshape(n * dilation**2, rows, columns, channels).permute(0, 3, 1, 2)
    grids = undilated(grids, weight, bias, 1, weight.shape[-1] // 2).permute(0, 2, 3, 1)
    y = grids.reshape(n, dilation, dilation, rows, columns, channels).permute(0, 3, 1, 4, 2, 5)
    y = y.reshape(n, rows * dilation, columns * dilation, channels).permute(0, 3, 1, 2)
    return y[:, :, :height, :width].contiguous(memory_format=torch.channels_last)


def undilated(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Return a depthwise convolution without dilation, by DepthwiseConvFunction if PyTorch's gradient is slow."""
    kernel = weight.shape[-1]
    is_slow = stride > 1 or kernel > 3
    if x.dtype == weight.dtype == torch.bfloat16 and is_slow and padding < kernel <= LARGEST_KERNEL:
        result: Tensor = DepthwiseConvFunction.apply(x, weight, bias, stride, padding)
        return result
    return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))


class DepthwiseConvFunction(torch.autograd.Function):
    """Depthwise convolution whose gradients are fast in bfloat16.

    That of the input is a convolution at stride 1, that of the weight is computed for 3x3 taps at a time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        """x (N, C, h, w) channels last, weight (C, 1, k, k), bias (C); padding < k."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        of_x, of_weight, of_bias, *_ = ctx.needs_input_grad
        return (
            gradient_of_input(grad, x, weight, ctx.stride, ctx.padding) if of_x else None,
            gradient_of_weight(grad, x, weight, ctx.stride, ctx.padding) if of_weight else None,
            grad.sum((0, 2, 3)) if of_bias else None,
            None,
            None,
        )


def gradient_of_input(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return the gradient of the input (N, C, h, w).

    It is a convolution of `grad` at stride 1, after stride - 1 zeros are inserted between neighbouring cells.
    """
    kernel = weight.shape[-1]
    if stride > 1:
        rows, columns = (cells + 2 * padding - kernel + 1 for cells in x.shape[2:])
        spread = grad.new_zeros(len(grad), rows, columns, grad.shape[1]).permute(0, 3, 1, 2)
        spread[:, :, ::stride, ::stride] = grad
        grad = spread
    return F.conv2d(grad, weight.flip(2, 3), None, 1, kernel - 1 - padding, groups=len(weight))


def gradient_of_weight(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return the gradient of the weight (C, 1, k, k), computed in parts of 3x3 taps if k is larger than 3."""
    kernel = weight.shape[-1]
    if kernel <= 3:
        return conv2d_weight(x, weight.shape, grad, stride, padding, groups=len(weight))
    x = F.pad(x, (padding,) * 4)
    result = torch.empty_like(weight)
    height, width = ((cells - 1) * stride + 3 for cells in grad.shape[2:])
    for i in range(0, kernel, 3):
        for j in range(0, kernel, 3):
            top, left = min(i, kernel - 3), min(j, kernel - 3)
            taps = (..., slice(top, top + 3), slice(left, left + 3))
            part = x[:, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
            result[taps] = conv2d_weight(part, weight[taps].shape, grad, stride, groups=len(weight))
    return result
