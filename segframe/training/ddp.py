"""Lightning's DistributedDataParallel over processes that exist already, each of which it takes for a node."""

from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from segframe import IGNORE_INDEX, distributed
from segframe.models.ops.sync_batch_norm import is_synchronized


class ExistingProcesses(TorchElasticEnvironment):
    """The environment of torchrun, in which each process is the only one of its node.

    So Lightning does not look for the devices of other processes, which Slurm hides from this one.
    """

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return distributed.rank()


class DDP(DDPStrategy):
    """Averages the gradients of all devices; running statistics stay as they are until `average_statistics`.

    By default rank 0's buffers are sent before each forward pass, also in validation, where ranks may have different
    numbers of images and would wait for each other for ever.
    """

    def __init__(self) -> None:
        super().__init__(cluster_environment=ExistingProcesses(), gradient_as_bucket_view=True)

    def configure_ddp(self) -> None:
        super().configure_ddp()
        self.model.broadcast_buffers = False  # type: ignore[union-attr]


def no_broadcast_of_signals(trainer: Trainer) -> None:
    """Keep Lightning from telling all ranks in each batch whether SIGTERM came, which waits for the GPU.

    callbacks.PreemptionCheckpoint does so on the CPUs. There is no public way.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    assert callable(loop._broadcast_sigterm_tensor)
    loop._broadcast_sigterm_tensor = lambda: None


def average_statistics(network: nn.Module) -> None:
    """Give batch norm layers the mean of all devices' running statistics, where these are not synchronized anyway."""
    if distributed.world() == 1:
        return
    layers = [layer for layer in network.modules() if isinstance(layer, BatchNorm) and not is_synchronized(layer)]
    statistics = [
        values for layer in layers for values in (layer.running_mean, layer.running_var) if values is not None
    ]
    if statistics:
        mean = distributed.total(torch.cat([values.flatten() for values in statistics])) / distributed.world()
        for values, part in zip(statistics, mean.split([values.numel() for values in statistics]), strict=True):
            values.copy_(part.view_as(values))


def gather_masks(masks: list[Tensor]) -> list[Tensor]:
    """The masks (N, H, W) of the same batches on all devices, batch by batch; smaller ones are padded with void."""
    if distributed.world() == 1:
        return masks
    height, width = distributed.largest(*(max(mask.shape[k] for mask in masks) for k in (1, 2)))
    own = masks[0].new_full((len(masks), len(masks[0]), height, width), IGNORE_INDEX)
    for padded, mask in zip(own, masks, strict=True):
        padded[:, : mask.shape[1], : mask.shape[2]] = mask
    return list(distributed.stacked(own).transpose(0, 1).flatten(0, 1))
