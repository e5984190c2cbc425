"""TensorBoard's HPARAMS tab: a run's settings beside its best mIoU."""

from typing import Any

from omegaconf import OmegaConf
from pytorch_lightning import Callback, Trainer
from torch.utils.tensorboard.summary import hparams

from segframe.training.loggers import tensorboard_writers

PATHS = ("output_dir", "resume", "init_from", "callbacks.", "logger.", "data.root", "data.cache_dir")
"""How the settings begin that are left out, because they differ in every run."""


class HParams(Callback):
    """Writes the settings once, and `best/miou` after every validation."""

    def __init__(self) -> None:
        self.best = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_fit_start(self, trainer: Trainer, module: Any) -> None:
        """Open the session, unless a resumed run has done so."""
        if trainer.ckpt_path is None:
            self._add(trainer, session(module)[0])

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        for writer in tensorboard_writers(trainer):
            self.best = max(self.best, module.metrics["val/miou"])
            writer.add_scalar("best/miou", self.best, trainer.global_step)

    def on_fit_end(self, trainer: Trainer, module: Any) -> None:
        """Close the session."""
        self._add(trainer, session(module)[1])

    def _add(self, trainer: Trainer, summary: Any) -> None:
        for writer in tensorboard_writers(trainer):
            # SummaryWriter.add_hparams would open a second event file in a sub-folder.
            writer._get_file_writer().add_summary(summary)


def session(module: Any) -> tuple[Any, Any]:
    """The summaries that open and close a session of the HPARAMS plugin."""
    settings = flatten(OmegaConf.to_container(module.config, resolve=True))
    # Without columns: TensorBoard would take the first run's for all, and so finds them, those that differ first.
    # Booleans would be written as the numbers 0 and 1.
    shown = {name: str(v).lower() if isinstance(v, bool) else v for name, v in settings if not name.startswith(PATHS)}
    _, start, end = hparams(shown, {})
    return start, end


def flatten(node: Any, path: str = "") -> list[tuple[str, str | int | float | bool]]:
    """The leaves of nested dicts and lists, by dotted names."""
    if isinstance(node, dict):
        return [leaf for key, child in node.items() for leaf in flatten(child, f"{path}.{key}" if path else str(key))]
    if isinstance(node, list):
        return [(path, str(node))] if not any(isinstance(child, dict) for child in node) else []
    return [(path, node if isinstance(node, bool | int | float) else str(node))]
