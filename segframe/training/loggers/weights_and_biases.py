"""Weights & Biases."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from segframe.errors import UserError
from segframe.training.loggers.sent_steps import SentSteps, first_line, require


class WandB(Logger):
    """A run of Weights & Biases; its files and wandb.json are in `save_dir`.

    `project`: null is the environment variable WANDB_PROJECT, or segframe. `offline`: as WANDB_MODE=offline, until
    `wandb sync`.
    """

    def __init__(
        self,
        save_dir: str,
        project: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        offline: bool = False,
    ) -> None:
        require("wandb")
        super().__init__()
        self.sent = SentSteps(Path(save_dir) / "wandb.json")
        self._settings: dict[str, Any] = {
            "dir": Path(save_dir).absolute(),  # its server may have been started in another folder
            "id": self.sent.id or secrets.token_hex(4),
            "resume": "allow",
            "name": Path(save_dir).name,
            "project": project or os.environ.get("WANDB_PROJECT", "segframe"),
            "entity": entity,
            "group": group,
            "tags": tags,
            "mode": "offline" if offline else None,
        }
        self._run: Any = None

    @property
    def name(self) -> str:
        return str(self._settings["project"])

    @property
    def version(self) -> str:
        return str(self._settings["id"])

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of wandb, without its report of settings and metrics; UserError where it cannot be started."""
        import wandb

        if self._run is None:
            try:
                self._run = wandb.init(**self._settings, settings=wandb.Settings(quiet=True))
            except wandb.Error as error:
                advice = "type wandb login, or set WANDB_MODE=offline"
                raise UserError(f"logger=wandb: {first_line(error)}; {advice}") from error
            if not self._run.offline:
                print(f"wandb    {self._run.url}", flush=True)
            # Not wandb's own step, which cannot go back: a resumed run adds to a step that an earlier part has begun.
            self._run.define_metric("step", hidden=True)
            self._run.define_metric("*", step_metric="step")
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Show the settings of the run, nested."""
        self.experiment.config.update(params, allow_val_change=True)
        self.sent.add(self.version)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log the metrics, wandb's pictures among them, that have not been sent."""
        new = {name: value for name, value in metrics.items() if self.sent.lacks(name, step)}
        if new:
            self.experiment.log(new if step is None else {**new, "step": step})
            self.sent.add(self.version, new, step)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """Show images (H, W, 3) under a name."""
        import wandb

        self.log_metrics({key: [wandb.Image(image) for image in images]}, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run, so that another one in this process is not added to it."""
        if self._run is not None:
            self._run.finish(exit_code=int(status != "success"))
