"""F.conv2d with faster gradients on a CPU."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight
from torch.overrides import TorchFunctionMode, wrap_torch_function

from segframe.models.ops.depthwise_conv import depthwise_conv2d

WIDE = 64
"""Width and number of channels from which the weight gradient is slow in channels-last memory without AVX-512."""


def fast_convolutions(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context manager that replaces F.conv2d by `conv2d` on a CPU, also in the modules of other libraries."""
    return FastConvolutions() if device.type == "cpu" and not is_traced() else nullcontext()


def is_traced() -> bool:
    """Whether torch.compile, torch.export or TorchScript is tracing; F.conv2d is not replaced then."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


class FastConvolutions(TorchFunctionMode):
    """Context manager that replaces calls of F.conv2d by conv2d."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return (conv2d if func is F.conv2d else func)(*args, **(kwargs or {}))


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """F.conv2d, computed by depthwise_conv2d or dense_conv2d where they are faster.

    These two are used for square kernels with the same stride, padding and dilation in both dimensions.
    """
    if input.ndim == 4 and weight.shape[2] == weight.shape[3] and not isinstance(padding, str):
        settings = [{value} if isinstance(value, int) else {*value} for value in (stride, padding, dilation)]
        if all(len(values) == 1 for values in settings):
            step, border, spacing = (values.pop() for values in settings)
            if groups == weight.shape[0] > 1 and weight.shape[1] == 1:
                return depthwise_conv2d(input, weight, bias, step, border, spacing)
            if (step, spacing, groups) == (1, 1, 1) and has_slow_gradient(input, weight):
                return dense_conv2d(input, weight, bias, border)
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def has_slow_gradient(x: Tensor, weight: Tensor) -> bool:
    """Whether PyTorch computes the weight gradient of a convolution of stride 1 slowly."""
    return (
        weight.shape[2] > 1
        and min(x.shape[3], *weight.shape[:2]) >= WIDE
        and x.dtype == weight.dtype == torch.float32
        and weight.requires_grad
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and not is_traced()
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_autocast_enabled("cpu")
        and lacks_avx512()
    )


@functools.cache
def lacks_avx512() -> bool:
    """Whether this is an x86 processor without AVX-512, or one on which PyTorch does not use it."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


@wrap_torch_function(lambda x, weight, bias, padding: (x, weight))
def dense_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Return F.conv2d(x, weight, bias, padding=padding) for x (N, C, h, w), by DenseConvFunction."""
    result: Tensor = DenseConvFunction.apply(x, weight, bias, padding)
    return result


class DenseConvFunction(torch.autograd.Function):
    """Convolution that computes its weight gradient from contiguous copies of a channels-last map and its gradient.

    One image at a time, so that the copies take little memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        """Return the convolution of x (N, C, h, w) with weight (C', C, k, k) and bias (C')."""
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias; None for each that does not require a gradient."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        return (
            gradient_of_input(grad, x, weight, ctx.padding) if of_x else None,
            gradient_of_weight(grad, x, weight, ctx.padding) if of_weight else None,
            grad.sum((0, 2, 3)) if of_bias else None,
            None,
        )


def gradient_of_input(grad: Tensor, x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Return the gradient of the input (N, C, h, w)."""
    # Not torch.nn.grad.conv2d_input, which takes up to three times as long in channels-last memory.
    result: Tensor = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], [padding, padding], [1, 1], False, [0, 0], 1, [True, False, False]
    )[0]
    return result


def gradient_of_weight(grad: Tensor, x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Return the gradient of the weight (C', C, k, k), the sum over the images."""
    parts = (
        conv2d_weight(image.contiguous(), weight.shape, of_image.contiguous(), padding=padding)
        for of_image, image in zip(grad.split(1), x.split(1), strict=True)
    )
    return functools.reduce(Tensor.add, parts).contiguous(memory_format=torch.channels_last)
