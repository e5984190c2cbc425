"""A torch function mode in which gradients show which inputs an output depends on."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from segframe.models.heads.segnet import unpool
from segframe.models.ops.atrous_conv import atrous_conv2d
from segframe.models.ops.convolution import dense_conv2d
from segframe.models.ops.depthwise_conv import depthwise_conv2d


class GradientSupport(TorchFunctionMode):
    """Run a network such that a gradient is positive exactly where an output depends on an input.

    Kernels become uniform over all channels, maxima means, norms identities, and no activation saturates.
    `cut_means`: treat means over a whole map as constants.
    """

    def __init__(self, cut_means: bool) -> None:
        super().__init__()
        self.cut_means = cut_means

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = RULES.get(func, func)(*args, **(kwargs or {}))
        global_mean = func in MEANS and args[0].dim() == 4 and (result.dim() == 2 or result.shape[-2:] == (1, 1))
        return result.detach() if self.cut_means and global_mean else result


def mean_channel(x: Tensor) -> Tensor:
    """Return one channel (N, 1, h, w) that depends on everything that any channel of `x` depends on."""
    mean = x.mean(1, keepdim=True)
    if mean.requires_grad:
        # Without this, gradients at the border of a deep network's field, products of many small weights, underflow.
        mean.register_hook(lambda gradient: (gradient > 1e-6 * gradient.max()).to(gradient.dtype))
    return mean


def window(height: int, width: int) -> Tensor:
    return torch.full((1, 1, height, width), 1 / (height * width))


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def conv2d(
    x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Tensor:
    """Stand in for F.conv2d: each output is the mean of the inputs that its kernel covers."""
    y = F.conv2d(mean_channel(x), window(*weight.shape[-2:]), None, stride, padding, dilation)
    return y.repeat(1, weight.shape[0], 1, 1)


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    kernel = window(*weight.shape[-2:])
    y = F.conv_transpose2d(mean_channel(x), kernel, None, stride, padding, output_padding, 1, dilation)
    return y.repeat(1, weight.shape[1] * groups, 1, 1)


def max_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Replace F.max_pool2d by an average pooling with the same windows; indices stay those of the maxima."""
    real, indices = F.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True)
    kernel, (down, right) = pair(kernel_size), pair(stride or kernel_size)
    # With ceil_mode, windows may end beyond the map.
    padded = F.pad(mean_channel(x), (0, right, 0, down))
    y = F.conv2d(padded, window(*kernel), None, (down, right), padding, dilation)
    y = y[..., : real.shape[-2], : real.shape[-1]].repeat(1, x.shape[1], 1, 1)
    return (y, indices) if return_indices else y


def max_unpool2d(
    x: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Stand in for F.max_unpool2d with one that copies each value to all pixels of its pooling window."""
    height, width = F.max_unpool2d(x, indices, kernel_size, stride, padding, output_size).shape[-2:]
    kernel = window(*pair(kernel_size))
    y = F.conv_transpose2d(mean_channel(x), kernel, None, stride or kernel_size, padding)
    y = F.pad(y, (0, width - y.shape[-1], 0, height - y.shape[-2]))
    return y.repeat(1, x.shape[1], 1, 1)


def unchanged(x: Tensor, *settings: Any, **options: Any) -> Tensor:
    return x


def bounded(x: Tensor) -> Tensor:
    """Return x / (x + 1): below 1, so that products with gates do not overflow, with a gradient that never vanishes."""
    return x / (x.detach() + 1)


IDENTITIES = (F.batch_norm, F.layer_norm, F.group_norm, F.relu6, F.hardtanh, F.hardswish)
GATES = (torch.sigmoid, Tensor.sigmoid, torch.tanh, Tensor.tanh)
RULES: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(IDENTITIES, unchanged),
    **dict.fromkeys(GATES, bounded),
    F.hardsigmoid: lambda x, inplace=False: bounded(x),
    F.conv2d: conv2d,
    atrous_conv2d: lambda x, weight, bias, dilation, groups: conv2d(x, weight, bias, 1, dilation, dilation),
    depthwise_conv2d: conv2d,
    dense_conv2d: conv2d,
    F.conv_transpose2d: conv_transpose2d,
    F.max_pool2d: max_pool2d,
    F.max_pool2d_with_indices: partial(max_pool2d, return_indices=True),
    F.max_unpool2d: max_unpool2d,
    unpool: lambda x, indices, size: max_unpool2d(x, indices, 2, output_size=size),
    Tensor.amax: Tensor.mean,
}
MEANS = (torch.mean, Tensor.mean, F.adaptive_avg_pool2d)
