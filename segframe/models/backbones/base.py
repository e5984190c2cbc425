"""The contract of a backbone: float images in, named feature maps out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.utils.checkpoint import checkpoint

from segframe.errors import UserError


class Feature(NamedTuple):
    """What a head must know of a feature map before seeing one."""

    channels: int
    stride: int
    """Input pixels per cell."""
    offset: float
    """Input coordinate (pixel centres are integers) of the centre of cell 0; the FCN crops follow from it."""


class Backbone(nn.Module, ABC):
    """Maps images (N, 3, H, W) to feature maps {"c1": ..., ..., "c5": ...}, finest first.

    Names are stages, numbers are strides: stage k has stride 2**k until `output_stride` is reached; later stages
    dilate instead, exactly, so that their maps at every s-th cell equal those of the undilated network.
    `lr_multiplier` scales the optimizer's learning rate for the parameters of this part.
    """

    features: dict[str, Feature]
    lr_multiplier: float
    has_blocks = True
    """Whether `forward` goes through `run`, without which activations cannot be forgotten."""
    activation_checkpointing = False

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The maps under the same keys as `features`."""

    def run(self, block: Callable[[Tensor], Any], x: Tensor) -> Any:
        """block(x); with `activation_checkpointing` its inside is computed again for the backward pass, not kept.

        Chen et al., 2016. Batch norm's running statistics take each batch once, as if nothing were computed twice.
        """
        if not (self.activation_checkpointing and torch.is_grad_enabled()):
            return block(x)
        return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), self._statistics_kept()))

    @contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        norms = [layer for layer in self.modules() if isinstance(layer, BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        counts = [None if n.num_batches_tracked is None else n.num_batches_tracked.clone() for n in norms]
        for norm in norms:
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum, count in zip(norms, momenta, counts, strict=True):
                norm.momentum = momentum
                if count is not None:
                    norm.num_batches_tracked = count


def stage_strides(output_stride: int) -> list[int]:
    """Strides of the five stages, e.g. [2, 4, 8, 8, 8] for an output stride of 8."""
    if output_stride not in (4, 8, 16, 32):
        raise UserError(f"backbone.output_stride must be 4, 8, 16 or 32, got {output_stride}")
    return [min(2**k, output_stride) for k in range(1, 6)]


def dilate(layer: nn.Conv2d, spacing: int) -> None:
    """Makes a padded convolution read a map `spacing` times denser than the one it was trained on."""
    layer.padding = tuple(spacing * int(p) for p in layer.padding)
    layer.dilation = (spacing, spacing)
