"""Build Lightning's Trainer from a run's config."""

import logging
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from segframe import distributed
from segframe.config.instantiate import instantiate_all
from segframe.data.build import RunLength
from segframe.errors import UserError, error_context
from segframe.training.callbacks.divergence import DivergenceStop
from segframe.training.callbacks.preemption_checkpoint import PreemptionCheckpoint
from segframe.training.callbacks.resume_state import ResumeState
from segframe.training.callbacks.trial_report import trial_reports
from segframe.training.checkpoint_io import AtomicCheckpointIO
from segframe.training.ddp import DDP, no_broadcast_of_signals

IGNORED_WARNINGS = (
    ".*does not have many workers.*",  # the embedded data need none
    ".*exists and is not empty.*",  # nor is a resumed run's folder
    ".*GPU available but not used.*",
    ".*srun. command is available.*",  # a run on a machine with Slurm need not be its job
    ".*in eval mode at the start of training.*",  # frozen parts
    ".*treespec, LeafSpec.*",  # within Lightning
    ".*callbacks used to create the checkpoint need.*",  # a resumed run with another monitor finds its best anew
    ".*sync_dist=True.*",  # metrics are those of all devices already
)


log = logging.getLogger(__name__)

MOST_OF_START = 0.1
"""Largest share of the initial weights in the final weight average for which no warning is logged."""


class NoProfiler(PassThroughProfiler):
    """A profiler that measures nothing; Lightning's creates a context manager for every action of a step."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.nothing


def disambiguate_callbacks(callbacks: dict[str, pl.Callback]) -> None:
    """Give callbacks that Lightning cannot tell apart, of one class and with one monitor, classes of their own.

    It stores their states in the checkpoint by the class's name and some of the settings.
    """
    keys: set[str] = set()
    for name, callback in callbacks.items():
        if callback.state_key in keys:
            callback.__class__ = type(name, (type(callback),), {})
        keys.add(callback.state_key)


REFUSED = {
    pl.callbacks.GradientAccumulationScheduler: "a run's steps are of equal length; set "
    "trainer.accumulate_grad_batches=...",
    pl.callbacks.StochasticWeightAveraging: "it replaces the schedule, and its average is in no checkpoint; set "
    "callbacks=ema, an average that is validated and saved",
    pl.callbacks.BaseFinetuning: "it changes the optimizer's parameters within a run, which could not be resumed; set "
    "backbone.frozen=true (or c2), then train all of it with init_from=<that run>",
    pl.callbacks.LearningRateFinder: "it sets a single rate of a module, and a run has one for each group of "
    "parameters; compare some: train.py -m optimizer.lr=0.1,0.01,0.001",
    pl.callbacks.BatchSizeFinder: "the length of a run follows from its batches; set data.batch_size=...",
    pl.callbacks.ModelPruning: "its masks are in no checkpoint, so a resumed run would lose them; prune the network of "
    "a finished run",
}
"""Lightning's callbacks that would make a run wrong, and what to set instead."""


def warn_of_long_averages(config: DictConfig, steps: int) -> None:
    """Log a warning if the weight average of a run is dominated by its first weights, because the run is short."""
    for name, node in config.callbacks.items():
        decay = OmegaConf.select(node, "decay") if node is not None else None
        if not isinstance(decay, float):
            continue
        start = OmegaConf.select(node, "update_starting_at_step") or 0
        every = OmegaConf.select(node, "update_every_n_steps") or 1
        updates = sum(step % every == 0 for step in range(start, steps))
        share = decay ** max(0, updates - 1)  # the first one copies the weights
        if share > MOST_OF_START:
            start, shorter = steps // 10, max(0.5, 1 - 10 / steps)
            log.warning(
                "callbacks.%s.decay=%g: after %d steps the average is still %.0f %% of its first weights; set "
                "callbacks.%s.decay=%.3f callbacks.%s.update_starting_at_step=%d",
                *(name, decay, steps, 100 * share, name, shorter, name, start),
            )


def check_callbacks(callbacks: dict[str, pl.Callback]) -> None:
    """UserError for callbacks of Lightning, and classes derived from them, that a run cannot follow."""
    for name, callback in callbacks.items():
        for cls, reason in REFUSED.items():
            if isinstance(callback, cls):
                raise UserError(f"{name}={type(callback).__name__}: {reason}")


def build_trainer(config: DictConfig, length: RunLength, on_start: Callable[[pl.Trainer], None]) -> pl.Trainer:
    """Lightning's Trainer; `on_start` is called when training begins.

    An epoch is `length.steps_per_epoch` whole steps; ResumeState ends the run, also within one.
    """
    settings = config.trainer
    chosen = instantiate_all(config.callbacks, "callbacks", pl.Callback)
    loggers = list(instantiate_all(config.logger, "logger", Logger).values())
    check_callbacks(chosen)
    disambiguate_callbacks(chosen)
    last = Path(config.output_dir) / "checkpoints" / "last.ckpt"
    callbacks = [
        DivergenceStop(),
        ResumeState(on_start),
        *chosen.values(),
        *trial_reports(),
        PreemptionCheckpoint(str(last), settings.checkpoint_every),
    ]
    # The loader knows the limit: its batches have different numbers of images.
    arguments = {name: value for name, value in settings.lightning.items() if name != "limit_val_batches"}
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    # Also on one device, where Lightning would read it from the variables of Slurm or torchrun.
    rank_zero_only.rank = distributed.rank()  # type: ignore[attr-defined]
    alone = distributed.world() == 1
    with error_context("trainer", MisconfigurationException, ImportError):
        trainer = pl.Trainer(
            max_epochs=-(-length.total_steps // length.steps_per_epoch),
            check_val_every_n_epoch=None,  # a validation's interval does not begin anew with an epoch
            val_check_interval=length.val_every_n_steps * settings.accumulate_grad_batches,
            accumulate_grad_batches=settings.accumulate_grad_batches,
            gradient_clip_val=settings.gradient_clip_val,
            precision=settings.precision,
            accelerator=settings.accelerator,
            devices=1 if alone or not distributed.uses_gpu(settings.accelerator) else [distributed.device_index()],
            num_nodes=distributed.world(),
            strategy="auto" if alone else DDP(),
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO(), *([LightningEnvironment()] if alone else [])],
            logger=loggers,
            default_root_dir=config.output_dir,
            num_sanity_val_steps=1,
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks),
            log_every_n_steps=min(20, length.steps_per_epoch),  # of Lightning's monitors; TrainingCurves has its own
            use_distributed_sampler=False,
            **{"profiler": NoProfiler(), **arguments},
        )
    no_broadcast_of_signals(trainer)
    return trainer
