"""TensorBoard's HPARAMS tab: a run's settings beside its best mIoU."""

from typing import Any

from omegaconf import OmegaConf
from pytorch_lightning import Callback, Trainer
from torch.utils.tensorboard.summary import hparams

from segframe.config.validate import nodes
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
    shown: dict[str, str | int | float] = {}
    for name, value in nodes(OmegaConf.to_container(module.config, resolve=True)):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if not ("{" in text or "[" in name or name.startswith(PATHS)):  # no dict, nor a list of dicts
            # Booleans as text: they would be written as the numbers 0 and 1.
            shown[name] = value if type(value) in (int, float) else text
    # Without columns: TensorBoard would take the first run's for all, and so finds them, those that differ first.
    _, start, end = hparams(shown, {})
    return start, end
