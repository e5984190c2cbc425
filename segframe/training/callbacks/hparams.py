"""TensorBoard's HPARAMS tab: a run's settings beside its best mIoU."""

from typing import Any

from pytorch_lightning import Callback, Trainer
from torch.utils.tensorboard.summary import hparams

from segframe.training.loggers import tensorboard_writers


class HParams(Callback):
    """Writes the settings once, and `best/miou` after every validation."""

    def __init__(self) -> None:
        self.best = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The best figure so far, for a resumed run."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from the checkpoint's best."""
        self.best = state_dict["best"]

    def on_fit_start(self, trainer: Trainer, module: Any) -> None:
        """Opens the session; a resumed run has done so."""
        if trainer.ckpt_path is None:
            self._add(trainer, _session(module)[0])

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        """Writes the best mIoU."""
        for writer in tensorboard_writers(trainer):
            self.best = max(self.best, module.metrics["val/miou"])
            writer.add_scalar("best/miou", self.best, trainer.global_step)

    def on_fit_end(self, trainer: Trainer, module: Any) -> None:
        """Closes the session."""
        self._add(trainer, _session(module)[1])

    def _add(self, trainer: Trainer, summary: Any) -> None:
        for writer in tensorboard_writers(trainer):
            writer._get_file_writer().add_summary(summary)


def _session(module: Any) -> tuple[Any, Any]:
    """The session's start and end."""
    # Columns are left out: TensorBoard would take the first run's for all. So it finds them, those that differ first.
    # Booleans would be written as the numbers 0 and 1.
    settings = {k: str(v).lower() if isinstance(v, bool) else v for k, v in module.flat_config.items()}
    _, start, end = hparams(settings, {})
    return start, end
