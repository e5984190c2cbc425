"""Resuming: what fits, and which settings come from the config rather than from the checkpoint."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from segframe.errors import UserError
from segframe.models.weights.checkpoint import KEY
from segframe.training.parameter_groups import group_parameters

ANOTHER_RUN = "or start another run with init_from="


def check_fits(module: Any, checkpoint: dict[str, Any]) -> None:
    """UserError where a checkpoint is of other classes, another network or another optimizer than a module."""
    check_classes(module.classes, checkpoint[KEY].get("classes"))
    check_shapes(module, checkpoint["state_dict"])
    stored_optimizer = (checkpoint[KEY]["config"].get("optimizer") or {}).get("_target_", "unknown")
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


def check_shapes(module: pl.LightningModule, state: dict[str, Tensor]) -> None:
    """UserError naming the first tensor that differs between a module and a state dict."""
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        here, there = (tuple(d[name].shape) if name in d else "missing" for d in (own, state))
        if here != there:
            raise UserError(f"the checkpoint is of another network: {name} is {there} there, {here} by config.yaml")


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
