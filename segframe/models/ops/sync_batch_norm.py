"""Batch norm over the images of all devices."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from segframe.distributed import total, world

log = logging.getLogger(__name__)


class SyncBatchNorm(nn.BatchNorm2d):
    """nn.SyncBatchNorm for CPUs, which torch's refuses."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, h, w) by mean and variance over the images of all devices, added up in float64."""
        if not self.training or input.is_meta:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        x = input.float() if input.itemsize < 4 else input
        sums = x.sum((0, 2, 3), dtype=torch.float64)
        sums = total(torch.cat([sums, sums.new_tensor([x.numel() / x.shape[1]])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.to(x.dtype)[:, None, None]
        variance = total(centred.square().sum((0, 2, 3), dtype=torch.float64)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked += 1
        scale = (self.weight * (variance + self.eps).rsqrt()).to(x.dtype)
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(input.dtype)


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
