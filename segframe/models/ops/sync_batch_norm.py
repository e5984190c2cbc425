"""Batch norm over the images of all devices."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from segframe.distributed import stacked, total, world
from segframe.models.ops.memory_format import memory_format

log = logging.getLogger(__name__)


class SyncBatchNorm(nn.BatchNorm2d):
    """Like nn.SyncBatchNorm, which refuses tensors on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, h, w) by mean and variance over the images of all devices."""
        if not self.training or input.is_meta:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        x = input.float() if input.itemsize < 4 else input
        with torch.no_grad():
            mean, variance, count = _statistics(x)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked += 1
        values = (values.to(x.dtype) for values in (self.weight, self.bias, mean, variance, count))
        result: Tensor = _Normalize.apply(x, *values, self.eps)
        return result.to(input.dtype)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (C) over the images of all devices, and the number of values of a channel; in float64.

    By way of each device's own, which loses no digits where the mean is large (Chan, Golub, LeVeque 1983).
    """
    mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
    channels = len(mean)
    own = torch.cat([mean, variance, mean.new_tensor([x.numel() / channels], dtype=torch.float64)])  # float64
    means, variances, counts = stacked(own).split([channels, channels, 1], dim=1)
    shares = counts / counts.sum()
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0), counts.sum()


class _Normalize(torch.autograd.Function):
    """Batch norm of one device's images by statistics over those of all, as native kernels.

    With y = weight * x' + bias of x' = (x - mean) / sqrt(variance + eps), sums over all devices and
    scale = weight / sqrt(variance + eps): dx = scale * (dy - sum(dy) / count - x' * sum(dy * x') / count)
    (Ioffe and Szegedy 2015, section 3). Gradients of weight and bias are this device's share, as those of other layers.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        dy = dy.contiguous(memory_format=memory_format(x))
        _, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        scale = weight * (variance + ctx.eps).rsqrt()
        share_weight, share_bias = -scale / count * total(torch.stack([dweight, dbias]))
        dx = F.batch_norm(x, mean, variance, share_weight, share_bias, eps=ctx.eps)  # what the statistics contribute
        return dx.addcmul_(dy, scale[:, None, None]), dweight, dbias, None, None, None, None


def synchronize(network: nn.Module, on_gpu: bool) -> None:
    """Let the batch norm layers of a network that are trained share their statistics; names and weights stay."""
    cls: Any = nn.SyncBatchNorm if on_gpu else SyncBatchNorm
    for name, layer in network.named_modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = cls
            layer.process_group = None  # type: ignore[assignment]  # all of them
        elif isinstance(layer, BatchNorm) and layer.training:
            kind = type(layer).__name__
            log.warning("trainer.sync_batch_norm: %s, a %s, keeps the statistics of its own device", name, kind)


def is_synchronized(layer: BatchNorm) -> bool:
    """Whether a layer's statistics are those of all devices."""
    return isinstance(layer, SyncBatchNorm | nn.SyncBatchNorm)


def is_single_value(layer: BatchNorm, x: Tensor) -> bool:
    """Whether a batch (of all devices, if the layer is synchronized) has one value per channel: no variance."""
    return x.numel() * (world() if is_synchronized(layer) else 1) == x.shape[1]
