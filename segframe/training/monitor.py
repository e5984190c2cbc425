"""The figure that decides which checkpoint is the best, as `monitor` names it."""

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from segframe.config.validate import did_you_mean
from segframe.errors import UserError
from segframe.inference.metrics import best_mode, compute_metrics


def resolve_monitor(config: DictConfig, classes: tuple[str, ...]) -> None:
    """Replaces `monitor_mode: auto` by that of the figure; UserError where there is no such figure, or no such best."""
    known = ["val/loss", *compute_metrics(torch.zeros(len(classes), len(classes)), classes, "val")]
    if config.monitor not in known:
        raise UserError(f"monitor={config.monitor}: there is no such figure{did_you_mean(config.monitor, known)}")
    mode, right = config.monitor_mode, best_mode(config.monitor)
    if mode not in ("auto", right):
        where = "lowest" if right == "min" else "highest"
        raise UserError(
            f"monitor_mode={mode}: {config.monitor} is best where it is {where}; monitor_mode={right}, or auto"
        )
    config.monitor_mode = right


def check_checkpoints(callbacks: DictConfig) -> None:
    """UserError where the best checkpoints would overwrite each other: the last of them then counts as the best."""
    for name, node in callbacks.items():
        if not OmegaConf.is_dict(node) or node.get("enable_version_counter", True) or not node.get("filename"):
            continue
        count = node.get("save_top_k", 1)
        if count != 1 and "{" not in node.filename:
            raise UserError(
                f"callbacks.{name!s}.save_top_k={count}: there is one {node.filename}.ckpt; a callback of its own, "
                "whose filename holds {step}, keeps more"
            )


def best_score(trainer: pl.Trainer, monitor: str) -> float | None:
    """The best value of the monitored figure in this run, also before it was resumed."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, pl.callbacks.ModelCheckpoint) and callback.monitor == monitor:
            return None if callback.best_model_score is None else float(callback.best_model_score)
    return None
