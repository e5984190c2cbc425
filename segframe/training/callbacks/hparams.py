"""A run's settings and its best value in every logger, so that runs can be compared there."""

from typing import Any

from pytorch_lightning import Callback, Trainer

from segframe.config.changed_settings import compared_settings, plain
from segframe.training.loggers import TensorBoard


class HParams(Callback):
    """Hands every logger the settings once, and after each validation the best value of the monitored metric.

    Its name is `best/miou` for monitor=val/miou. TensorBoard, which cannot hide settings that all runs share, gets only
    those that differ from the defaults or were typed.
    """

    def on_fit_start(self, trainer: Trainer, module: Any) -> None:
        """Hand the settings over, unless a resumed run has done so."""
        if trainer.ckpt_path is not None or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            compares = isinstance(logger, TensorBoard)
            logger.log_hyperparams(compared_settings(module.config) if compares else plain(module.config, resolve=True))

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        if trainer.sanity_checking or module.best is None:
            return
        name = f"best/{module.config.monitor.removeprefix('val/')}"
        for logger in trainer.loggers:
            logger.log_metrics({name: module.best}, step=trainer.global_step)
