"""A run's settings and its best value in every logger, so that runs can be compared there."""

from math import isnan
from typing import Any

from pytorch_lightning import Callback, Trainer

from segframe.config.changed_settings import compared_settings, plain
from segframe.training.loggers import TensorBoard


class HParams(Callback):
    """Hands every logger the settings once, and after each validation the best value of the monitored metric.

    Its name is `best/miou` for monitor=val/miou. TensorBoard, which cannot hide settings that all runs share, gets only
    those that differ from the defaults or were typed.
    """

    def __init__(self) -> None:
        self.best: float | None = None
        self.monitor = "val/miou"  # the metric that `best` is of

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "monitor": self.monitor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.monitor = state_dict["best"], state_dict.get("monitor", "val/miou")

    def on_fit_start(self, trainer: Trainer, module: Any) -> None:
        """Hand the settings over, unless a resumed run has done so."""
        if trainer.ckpt_path is not None or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            compares = isinstance(logger, TensorBoard)
            logger.log_hyperparams(compared_settings(module.config) if compares else plain(module.config, resolve=True))

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        if trainer.sanity_checking:
            return
        if self.monitor != module.config.monitor:
            self.best, self.monitor = None, module.config.monitor
        value, lower = module.metrics[self.monitor], module.config.monitor_mode == "min"
        if self.best is None or isnan(self.best) or (value < self.best if lower else value > self.best):
            self.best = value
        for logger in trainer.loggers:
            logger.log_metrics({f"best/{self.monitor.removeprefix('val/')}": self.best}, step=trainer.global_step)
