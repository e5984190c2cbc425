"""What a resumed run takes from its checkpoint, and what from its config."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from segframe.errors import UserError

Recipe = list[dict[str, Any]]


def recipe_of(optimizer: Optimizer) -> Recipe:
    """The settings of a new optimizer's groups, before a scheduler or a checkpoint changes them."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def check_classes(here: Sequence[str], stored: Any) -> None:
    """UserError where a checkpoint's classes are others than the data's, or have another order."""
    for k, (mine, other) in enumerate(zip_longest(here, stored if isinstance(stored, list) else [])):
        if mine != other:
            mine, other = ("missing" if name is None else name for name in (mine, other))
            raise UserError(
                f"the checkpoint has other classes: class {k} is {other} there, {mine} in the data; leave them as they "
                "were, or start another run with init_from="
            )


def check_groups(groups: Recipe, stored: dict[str, Any]) -> None:
    """UserError where an optimizer's state belongs to other groups of parameters."""
    here, there = (
        {group.get("name"): len(group["params"]) for group in each} for each in (groups, stored["param_groups"])
    )
    for name in {**here, **there}:
        mine, other = here.get(name, 0), there.get(name, 0)
        if mine != other:
            raise UserError(
                f"the checkpoint's optimizer has {other} parameters in {name}, by the config there are {mine}: leave "
                "param_groups and batch_norm.frozen as they were, or start another run with init_from="
            )


def check_optimizer(here: dict[str, Any], there: dict[str, Any]) -> None:
    """UserError where the configs of a run and of its checkpoint name different optimizers, whose states differ too."""
    mine, other = here["optimizer"]["_target_"], (there.get("optimizer") or {}).get("_target_", "unknown")
    if mine != other:
        raise UserError(
            f"the checkpoint's optimizer is {other}, by the config it is {mine}: leave optimizer as it was, or start "
            "another run with init_from="
        )


def follow_config(optimizer: Optimizer, scheduler: LRScheduler, recipe: Recipe) -> None:
    """Lets rate, decay, momentum ... be the config's, where loading has brought back those of before.

    The optimizer's state is laid out as its parameters are: fused steps read both in one order.
    """
    scheduler.base_lrs = [settings["lr"] for settings in recipe]
    for k, (group, settings) in enumerate(zip(optimizer.param_groups, recipe, strict=True)):
        lr = group["lr"]
        if isinstance(scheduler, LambdaLR):
            lr = settings["lr"] * scheduler.lr_lambdas[k](scheduler.last_epoch)
        group |= {**settings, "initial_lr": settings["lr"], "lr": lr}
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def last_scores(states: dict[str, Any]) -> dict[str, Tensor]:
    """What the last validation gave, as the callbacks that keep the best checkpoints remember it."""
    found = [state for state in states.values() if isinstance(state, dict) and isinstance(state.get("monitor"), str)]
    return {state["monitor"]: state["current_score"] for state in found if state.get("current_score") is not None}


def had_stopped(callback: EarlyStopping, scores: dict[str, Tensor]) -> bool:
    """Whether a run had stopped early before it was resumed, and would by its config stop again."""
    if callback.wait_count >= callback.patience:
        return True
    score, better = scores.get(callback.monitor), callback.monitor_op
    if score is None:
        return False
    reached, diverged = callback.stopping_threshold, callback.divergence_threshold
    return bool(
        (reached is not None and better(score, reached)) or (diverged is not None and better(-score, -diverged))
    )


def move(state: dict[str, Any], folder: str) -> None:
    """Lets ModelCheckpoint's state name its files in `folder`: under another name it would forget its best score.

    It deletes what it has named. Names of anything but checkpoints are forgotten.
    """

    def here(path: Any) -> str:
        name = Path(path).name if isinstance(path, str) else ""
        return str(Path(folder) / name) if name.endswith(".ckpt") else ""

    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = here(state[key])
    state["best_k_models"] = {here(path): score for path, score in state["best_k_models"].items() if here(path)}
    state["dirpath"] = folder
