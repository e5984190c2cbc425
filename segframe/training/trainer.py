"""Build Lightning's Trainer from a run's config."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from segframe.config.instantiate import instantiate_all
from segframe.data.build import RunLength
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


def build_trainer(config: DictConfig, length: RunLength, on_start: Callable[[pl.Trainer], None]) -> pl.Trainer:
    """Lightning's Trainer, for one epoch that is the whole run; `on_start` is called when training begins."""
    settings = config.trainer
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


def best_score(trainer: pl.Trainer, monitor: str) -> float | None:
    """The best value of the monitored metric, also from before the run was resumed; None without a validation."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, pl.callbacks.ModelCheckpoint) and callback.monitor == monitor:
            return None if callback.best_model_score is None else float(callback.best_model_score)
    return None
