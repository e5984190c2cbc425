"""A callback that writes report.html at the end of a run."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from segframe.analysis.report import make_report
from segframe.config.limits import check_limits
from segframe.config.schema import ReportConfig
from segframe.errors import TO_PREDICT, UserError, translate_errors
from segframe.files import as_named

log = logging.getLogger(__name__)


class HtmlReport(Callback):
    """Writes report.html of the best checkpoint, else of the last, into the run's folder; see configs/report.yaml.

    With several devices it logs the command that makes the page.
    """

    def __init__(
        self,
        images: int = 2,
        training_images: int | None = 200,
        highest: int = 12,
        boundary_width: int = 3,
        resamples: int = 1000,
    ) -> None:
        self.settings = OmegaConf.structured(
            ReportConfig(
                accelerator="cpu",
                images=images,
                training_images=training_images,
                highest=highest,
                boundary_width=boundary_width,
                resamples=resamples,
            )
        )
        check_limits(self.settings, "callbacks.html.")

    def on_fit_end(self, trainer: Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        saved = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        paths = [
            path for c in saved for path in (c.best_model_path, c.last_model_path) if path and Path(path).is_file()
        ]
        if trainer.world_size > 1 or not paths:
            log.info(
                "no report.html, with several devices or without a checkpoint: scripts/report.py checkpoint=%s", folder
            )
            return
        run: Any = OmegaConf.to_container(module.config, resolve=True)
        config = OmegaConf.merge(
            self.settings,
            {name: run[name] for name in ("data", "inference", "trust")},
            {"checkpoint": str(as_named(Path(paths[0]))), "output": str(folder / "report.html")},
            {"accelerator": "cpu" if module.device.type == "cpu" else "auto"},
        )
        assert isinstance(config, DictConfig)
        try:
            with translate_errors(TO_PREDICT):
                print(f"report: {make_report(config, [])}")
        except UserError as error:  # the run itself has succeeded
            log.warning("no report.html: %s", error)
