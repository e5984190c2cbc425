"""Resuming: what fits, and which settings come from the config rather than from the checkpoint."""

from collections.abc import Sequence
from itertools import zip_longest
from math import prod
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from segframe.config.validate import nodes
from segframe.errors import UserError
from segframe.models.weights.checkpoint import KEY
from segframe.training.parameter_groups import group_parameters

ANOTHER_RUN = "or start another run with init_from="
NETWORK = ("backbone", "head", "aux_head", "input_scales")
"""Parts of a config that a network is made of."""


def check_fits(module: Any, checkpoint: dict[str, Any]) -> None:
    """UserError where a checkpoint is of other classes, another network or another optimizer than a module."""
    stored = checkpoint[KEY]["config"]
    check_classes(module.classes, checkpoint[KEY].get("classes"))
    check_shapes(module, checkpoint["state_dict"], changed_network_settings(module.config, stored))
    check_position(module.config, module.length.total_steps, stored, checkpoint["global_step"])
    stored_optimizer = (stored.get("optimizer") or {}).get("_target_", "unknown")
    if stored_optimizer != module.config.optimizer._target_:
        raise UserError(
            f"optimizer={module.config.optimizer._target_}: the checkpoint's optimizer is {stored_optimizer}; leave "
            f"optimizer as it was, {ANOTHER_RUN}"
        )
    if "current_model_state" in checkpoint and not any(
        isinstance(c, WeightAveraging) for c in module.trainer.callbacks
    ):
        raise UserError(
            "callbacks: the run trains weights beside their average, which would replace them without its callback; "
            f"leave callbacks as they were, {ANOTHER_RUN}"
        )
    groups = group_parameters(module.segmenter, module.make_optimizer, module.config.param_groups)
    check_groups(groups, checkpoint["optimizer_states"][0]["param_groups"])


def check_classes(classes: Sequence[str], stored: Any) -> None:
    """UserError where a checkpoint's classes are not the data's, in the same order."""
    for k, (here, there) in enumerate(zip_longest(classes, stored if isinstance(stored, list) else [])):
        if here != there:
            here, there = ("missing" if name is None else name for name in (here, there))
            raise UserError(
                f"the checkpoint has other classes: class {k} is {there} there, {here} in the data; leave them as they "
                f"were, {ANOTHER_RUN}"
            )


def changed_network_settings(config: DictConfig, stored: dict[str, Any]) -> list[str]:
    """The settings of the network, as typed, that differ from a checkpoint's."""
    own: Any = OmegaConf.to_container(config)
    here, there = (dict(nodes({k: c.get(k) for k in NETWORK})) for c in (own, stored))
    return [
        f"{name}={value}"
        for name, value in here.items()
        if not isinstance(value, dict | list) and name != "backbone.weights" and there.get(name) != value
    ]


def check_position(config: DictConfig, total_steps: int, stored: dict[str, Any], step: int) -> None:
    """UserError where a run would go on at another image than it was left at, or is to end before it was left."""
    if step > total_steps:
        name = "max_epochs" if config.trainer.max_steps is None else "max_steps"
        raise UserError(
            f"trainer.{name}={config.trainer[name]}: the run has reached step {step}, and this ends it at {total_steps}"
            f"; give more, {ANOTHER_RUN}"
        )
    there = OmegaConf.create(stored)
    before = [
        OmegaConf.select(there, name, default=default)
        for name, default in (("data.batch_size", None), ("trainer.accumulate_grad_batches", 1))
    ]
    now = [config.data.batch_size, config.trainer.accumulate_grad_batches]
    if all(isinstance(value, int) for value in before) and prod(now) != prod(before):
        raise UserError(
            f"data.batch_size={now[0]} trainer.accumulate_grad_batches={now[1]}: a step is of {prod(now)} images, and "
            f"the run's of {prod(before)} ({before[0]} x {before[1]}), by which it knows how far it is in the data; "
            f"leave the product of both as it was, {ANOTHER_RUN}"
        )


def check_shapes(module: pl.LightningModule, state: dict[str, Tensor], changed: Sequence[str] = ()) -> None:
    """UserError naming the first tensor that differs between a module and a state dict, and what was changed."""
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        here, there = (tuple(d[name].shape) if name in d else "missing" for d in (own, state))
        if here != there:
            cause = f"leave out {' '.join(changed[:4])}" if changed else "leave backbone and head as they were"
            raise UserError(
                f"the checkpoint is of another network: {name} is {there} there, {here} here; {cause}, {ANOTHER_RUN}"
            )


def check_groups(groups: list[dict[str, Any]], stored: list[dict[str, Any]]) -> None:
    """UserError where an optimizer's state belongs to other groups of parameters."""
    here, there = ({group.get("name"): len(group["params"]) for group in each} for each in (groups, stored))
    for name in {**here, **there}:
        if here.get(name, 0) != there.get(name, 0):
            raise UserError(
                f"the checkpoint's optimizer has {there.get(name, 0)} parameters in {name}, by the config there are "
                f"{here.get(name, 0)}: leave param_groups, backbone.frozen and batch_norm as they were, {ANOTHER_RUN}"
            )


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The settings of an optimizer's groups as the config has them, without a scheduler's effect on the rate."""
    return [
        {name: value for name, value in group.items() if name != "params"}
        | {"lr": group.get("initial_lr", group["lr"])}
        for group in optimizer.param_groups
    ]


def apply_group_settings(optimizer: Optimizer, scheduler: LRScheduler, settings: list[dict[str, Any]]) -> None:
    """Give a restored optimizer the config's learning rate, decay, momentum ... in place of the checkpoint's.

    Its state gets the memory layout of its parameters: fused steps read both in one order.
    """
    scheduler.base_lrs = [own["lr"] for own in settings]
    for k, (group, own) in enumerate(zip(optimizer.param_groups, settings, strict=True)):
        lr = group["lr"]
        if isinstance(scheduler, LambdaLR):
            lr = own["lr"] * scheduler.lr_lambdas[k](scheduler.last_epoch)
        group |= {**own, "initial_lr": own["lr"], "lr": lr}
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)
