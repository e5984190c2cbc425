"""segframe's variant of a comparison: networks, losses and optimizers built from configs as train.py builds them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.optim import Optimizer

from benchmark.row import Setup
from segframe.config.instantiate import instantiate
from segframe.config.schema import CONFIG_DIR
from segframe.models.build import build_segmenter
from segframe.models.losses.base import Loss
from segframe.models.segmenter import Segmenter
from segframe.training.finish_config import has_fast_bfloat16
from segframe.training.parameter_groups import group_parameters
from segframe.training.performance import set_up_performance

Context = Callable[[], AbstractContextManager[Any]]


def composed(*overrides: str, name: str = "train") -> DictConfig:
    """Compose a config as the command line does."""
    GlobalHydra.instance().clear()  # the benchmark's own is still initialized
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return hydra.compose(name, list(overrides))


def network(setup: Setup, num_classes: int, *overrides: str) -> tuple[DictConfig, Segmenter]:
    """A config and its network in training mode, from random weights."""
    config = composed("backbone.weights=null", *overrides)
    torch.manual_seed(0)
    return config, build_segmenter(config, num_classes).to(setup.device).train()


def optimizer_of(config: DictConfig, segmenter: Segmenter) -> Optimizer:
    """The config's optimizer over the network's groups."""
    make = instantiate(config.optimizer, "optimizer")
    return make(group_parameters(segmenter, make, config.param_groups))


def loss_of(config: DictConfig, setup: Setup) -> Loss:
    """The config's loss."""
    return instantiate(config.loss, "loss").to(setup.device)


def precision_of(device: torch.device) -> torch.dtype:
    """The dtype both variants train in on this device."""
    return torch.bfloat16 if has_fast_bfloat16(device.type) else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> Context:
    """Return a function that makes the context of a forward pass."""
    if dtype is torch.float32:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype)


def prepare_training(config: DictConfig, segmenter: Segmenter, device: torch.device, dtype: torch.dtype) -> Context:
    """Set up process and network as train.py does before training; return the maker of the forward's context.

    The allocator is left alone: both variants share the process. Only runs in processes of their own show its effect.
    """
    settings: Any = OmegaConf.merge(config, {"trainer": {"keep_freed_memory": False, "precision": "32-true"}})

    set_up_performance(settings, segmenter)
    return autocast(device, dtype)


def batch_of(setup: Setup, batch: int, size: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Random images uint8 (N, 3, H, W), channels last in memory as from the loader, and masks uint8 (N, H, W)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    mask = torch.randint(0, num_classes, (batch, size, size), dtype=torch.uint8, generator=generator)
    return images.to(setup.device), mask.to(setup.device)


def training_step(
    segmenter: Segmenter, loss: Loss, optimizer: Optimizer, images: Tensor, mask: Tensor, context: Context
) -> Tensor:
    """One step of a plain training loop, in Lightning's order: gradients are cleared first."""
    optimizer.zero_grad()
    with context():
        total = loss(segmenter.outputs(images)["main"], mask)
    total.backward()
    optimizer.step()
    return total.detach()
