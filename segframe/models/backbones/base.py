"""Interface of backbones: float images in, named feature maps out."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.utils.checkpoint import checkpoint

from segframe.errors import UserError
from segframe.models.ops.convolution import fast_convolutions


class Feature(NamedTuple):
    """Description of a feature map, by which heads are built."""

    channels: int
    stride: int
    """Input pixels per cell."""
    offset: float
    """Input coordinate (pixel centres are integers) of the centre of cell 0; the FCN crops follow from it."""


class Backbone(nn.Module, ABC):
    """Abstract backbone: images (N, C, H, W) to feature maps {"c1": ..., ..., "c5": ...}, finest first.

    Names are stages, numbers are strides: usually stage k has stride 2**k (U-Net: 2**(k-1)) until `output_stride` is
    reached; later stages dilate instead. Unless a backbone says otherwise, they do so exactly: their maps at every s-th
    cell equal those of the undilated network.
    `lr_multiplier` scales the optimizer's learning rate for the parameters of this part.
    """

    features: dict[str, Feature]
    lr_multiplier: float
    has_blocks = True
    """Whether `forward` calls `run`, which activation checkpointing needs."""
    is_exportable = True
    """Whether torch.export can trace it for images of any size."""
    activation_checkpointing = False

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps under the same keys as `features`."""

    def freeze(self, last: str | bool = True, in_channels: int = 3) -> None:
        """Fix all weights (True), or those that the map `last` depends on ("c2"), for images of `in_channels`.

        Modules whose weights are all fixed remain in evaluation mode: batch norm uses its running statistics.
        """
        if last is True:
            self.requires_grad_(False)
        else:
            twin = copy.deepcopy(self).to("meta").requires_grad_()
            maps = twin(torch.zeros(1, in_channels, 256, 256, device="meta"))
            stages = [name for name, found in maps.items() if found.requires_grad]
            if last not in stages:
                raise UserError(
                    f"backbone.frozen={last}: this backbone has no such stage; set true, false or one of "
                    f"{', '.join(stages)}"
                )
            maps[last].sum().backward()
            for own, other in zip(self.parameters(), twin.parameters(), strict=True):
                own.requires_grad_(other.grad is None)
        for module in list(self.modules()):
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                keep_in_evaluation(module)

    def run(self, block: Callable[[Tensor], Any], x: Tensor) -> Any:
        """Return block(x); with `activation_checkpointing`, its activations are recomputed in the backward pass.

        Chen et al., 2016, "Training deep nets with sublinear memory cost". Running statistics of batch norm are updated
        once per batch all the same.
        """
        if not (self.activation_checkpointing and torch.is_grad_enabled()):
            return block(x)
        part = block if isinstance(block, nn.Module) else self
        contexts = fast_convolutions(x.device), recomputation(part, x.device)
        return checkpoint(block, x, use_reentrant=False, context_fn=lambda: contexts)


@contextmanager
def recomputation(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Context manager to recompute a module's forward pass without updating batch norm's running statistics again."""
    norms = [layer for layer in module.modules() if isinstance(layer, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [None if n.num_batches_tracked is None else n.num_batches_tracked.clone() for n in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        with fast_convolutions(device):
            yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if count is not None:
                norm.num_batches_tracked = count


def keep_in_evaluation(module: nn.Module) -> None:
    """Let a module and its parts remain in evaluation mode, whoever calls train()."""
    for part in list(module.modules()):
        part.__class__ = _evaluated(type(part))  # type: ignore[arg-type]
    module.eval()


@cache
def _evaluated(cls: Any) -> Any:
    return type(cls.__name__, (cls,), {"train": lambda self, mode=True: nn.Module.train(self, False)})


def stage_strides(output_stride: int) -> list[int]:
    """Return the strides of the five stages, e.g. [2, 4, 8, 8, 8] for an output stride of 8."""
    if output_stride not in (4, 8, 16, 32):
        raise UserError(f"backbone.output_stride must be 4, 8, 16 or 32, got {output_stride}")
    return [min(2**k, output_stride) for k in range(1, 6)]


class MapNorm(nn.LayerNorm):
    """LayerNorm (Ba et al., 2016) over the channels of maps (N, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def map_norms(features: Mapping[str, Feature]) -> nn.ModuleDict:
    return nn.ModuleDict({name: MapNorm(feature.channels) for name, feature in features.items()})


def set_channels(conv: nn.Conv2d, in_channels: int) -> None:
    """Give a network's first convolution weights for images of `in_channels`, unless it has them (He et al., 2015)."""
    if in_channels != conv.in_channels:
        conv.in_channels = in_channels
        conv.weight = nn.Parameter(conv.weight.new_empty(conv.out_channels, in_channels, *conv.kernel_size))
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


def dilate(layer: nn.Conv2d, spacing: int) -> None:
    """Dilate a padded convolution by `spacing`, for a map that is so many times denser."""
    layer.padding = tuple(spacing * int(p) for p in layer.padding)
    layer.dilation = (spacing, spacing)
