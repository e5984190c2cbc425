"""Build Lightning's Trainer from a run's config."""

import inspect
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from segframe.config.instantiate import instantiate_all
from segframe.config.run_length import RunLength
from segframe.config.validate import accepts, annotation, describe_type, did_you_mean
from segframe.errors import UserError, error_context
from segframe.training.callbacks.divergence import DivergenceStop
from segframe.training.callbacks.preemption_checkpoint import PreemptionCheckpoint
from segframe.training.callbacks.resume_state import ResumeState
from segframe.training.checkpoint_io import AtomicCheckpointIO

IGNORED_WARNINGS = (
    ".*does not have many workers.*",  # the embedded data need none
    ".*exists and is not empty.*",  # nor is a resumed run's folder
    ".*GPU available but not used.*",
    ".*srun. command is available.*",  # a run on a machine with Slurm need not be its job
    ".*treespec, LeafSpec.*",  # within Lightning
    ".*callbacks used to create the checkpoint need.*",  # a resumed run with another monitor finds its best anew
)

ONE_DEVICE = "a run uses one process and one device"
RESERVED = {
    **{name: f"trainer.{name}=..." for name in ("precision", "accelerator", "max_epochs", "max_steps")},
    **{name: f"trainer.{name}=..." for name in ("accumulate_grad_batches", "gradient_clip_val")},
    "val_check_interval": "trainer.val_every_n_steps=...",
    **dict.fromkeys(("devices", "num_nodes", "strategy", "use_distributed_sampler"), ONE_DEVICE),
    **{name: f"see configs/{name}" for name in ("callbacks", "logger")},
    "default_root_dir": "output_dir=...",
    "fast_dev_run": "trainer=smoke is a short run",
    **dict.fromkeys(("plugins", "num_sanity_val_steps", "log_every_n_steps"), "it is always the same"),
    **dict.fromkeys(("enable_progress_bar", "enable_model_summary"), "see callbacks.progress"),
}
"""Arguments of Lightning's Trainer that trainer.lightning cannot set, and what sets them."""


def disambiguate_callbacks(callbacks: dict[str, pl.Callback]) -> None:
    """Give callbacks that Lightning cannot tell apart, of one class and with one monitor, classes of their own.

    It stores their states in the checkpoint by the class's name and some of the settings.
    """
    keys: set[str] = set()
    for name, callback in callbacks.items():
        if callback.state_key in keys:
            callback.__class__ = type(name, (type(callback),), {})
        keys.add(callback.state_key)


def check_limit(trainer: pl.Trainer, num_batches: int) -> None:
    """UserError where Lightning's limits end a run of `num_batches` before its first validation."""
    limit, first = trainer.limit_train_batches or 0, trainer.val_check_interval
    # Lightning: counts are int, shares are float.
    taken = min(limit, num_batches) if isinstance(limit, int) else int(limit * num_batches)
    validates = trainer.limit_val_batches and trainer.check_val_every_n_epoch is not None
    if validates and isinstance(first, int) and taken < first:
        raise UserError(
            f"trainer.lightning.limit_train_batches={limit} ends the run before its first validation, after {first} "
            "batches: trainer.max_steps=... makes a run shorter, trainer.val_every_n_steps=... has it validate earlier"
        )


def check_checkpoints(callbacks: DictConfig) -> None:
    """UserError where several best checkpoints would have one file name: the last of them would count as the best."""
    for name, node in callbacks.items():
        if not OmegaConf.is_dict(node) or node.get("enable_version_counter", True) or not node.get("filename"):
            continue
        count = node.get("save_top_k", 1)
        if count != 1 and "{" not in node.filename:
            raise UserError(
                f"callbacks.{name!s}.save_top_k={count}: the file name {node.filename}.ckpt allows one; add a callback "
                "whose filename contains {step}"
            )


def build_trainer(config: DictConfig, length: RunLength, on_start: Callable[[pl.Trainer], None]) -> pl.Trainer:
    """Lightning's Trainer, for one epoch that is the whole run; `on_start` is called when training begins."""
    settings = config.trainer
    check_lightning_arguments(settings.lightning)
    check_checkpoints(config.callbacks)
    chosen = instantiate_all(config.callbacks, "callbacks", pl.Callback)
    disambiguate_callbacks(chosen)
    last = Path(config.output_dir) / "checkpoints" / "last.ckpt"
    callbacks = [
        pl.callbacks.LambdaCallback(on_train_start=lambda trainer, module: on_start(trainer)),
        DivergenceStop(),
        ResumeState(),
        *chosen.values(),
        PreemptionCheckpoint(str(last), settings.checkpoint_every),
    ]
    loggers = list(instantiate_all(config.logger, "logger", Logger).values())
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    with error_context("trainer", MisconfigurationException, ImportError):
        trainer = pl.Trainer(
            max_epochs=1,
            val_check_interval=length.val_every_n_steps * settings.accumulate_grad_batches,
            accumulate_grad_batches=settings.accumulate_grad_batches,
            gradient_clip_val=settings.gradient_clip_val,
            precision=settings.precision,
            accelerator=settings.accelerator,
            devices=1,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            logger=loggers,
            default_root_dir=config.output_dir,
            num_sanity_val_steps=1,
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks),
            log_every_n_steps=0,  # TrainingCurves logs
            use_distributed_sampler=False,
            **settings.lightning,
        )
    check_limit(trainer, length.total_steps * settings.accumulate_grad_batches)
    return trainer


def check_lightning_arguments(arguments: DictConfig) -> None:
    """UserError for what trainer.lightning cannot pass on to Lightning's Trainer."""
    known = inspect.signature(pl.Trainer.__init__).parameters
    for name, value in ((str(name), value) for name, value in arguments.items()):
        setting = f"trainer.lightning.{name}={value}"
        if name not in known:
            raise UserError(f"{setting}: Lightning's Trainer has no such argument{did_you_mean(name, known)}")
        if name in RESERVED:
            raise UserError(f"{setting}: segframe sets it; {RESERVED[name]}")
        if not accepts(annotation(pl.Trainer, name), value):
            raise UserError(f"{setting}: it must be {describe_type(annotation(pl.Trainer, name))}")


def best_score(trainer: pl.Trainer, monitor: str) -> float | None:
    """The best value of the monitored metric, also from before the run was resumed; None without a validation."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, pl.callbacks.ModelCheckpoint) and callback.monitor == monitor:
            return None if callback.best_model_score is None else float(callback.best_model_score)
    return None
