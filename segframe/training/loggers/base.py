"""Interfaces of loggers beyond Lightning's Logger: to resume a run, and to show pictures."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger


class ResumableLogger(Logger):
    """A logger whose later steps a resumed run discards."""

    def resume(self, step: int) -> None:
        """Discard what was logged after this step."""
        raise NotImplementedError


def discard_after(step: int, loggers: Iterable[Logger]) -> None:
    """Discard what resumable loggers logged after this step; call it before anything is logged."""
    for logger in loggers:
        if isinstance(logger, ResumableLogger):
            logger.resume(step)


@runtime_checkable
class PictureLogger(Protocol):
    """A logger that takes pictures, by the method of Lightning's WandbLogger."""

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """Show uint8 images (H, W, 3) under a name."""


def picture_loggers(trainer: Trainer) -> list[PictureLogger]:
    if trainer.sanity_checking or not trainer.is_global_zero:
        return []
    return [logger for logger in trainer.loggers if isinstance(logger, PictureLogger)]
