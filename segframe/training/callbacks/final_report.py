"""The report of a finished run: metrics per class, and where its files are."""

from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from segframe.inference.metrics import describe_missing
from segframe.visualization.tables import console, metrics_table, print_table


class FinalReport(Callback):
    """Prints the last validation's table, the checkpoints, the run's folder, and TensorBoard's command."""

    def on_fit_end(self, trainer: Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        if module.metrics:
            matrix = module.confusion.matrix.cpu().numpy()
            print_table(metrics_table(module.metrics, matrix, module.classes, title="last validation"))
            if missing := describe_missing(module.confusion.matrix, module.classes, "val"):
                console(highlight=False).print(missing, soft_wrap=True)
        lines = {}
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.best_model_path:
                score = callback.best_model_score
                name = "last checkpoint" if score is None else f"best {callback.monitor} {float(score):.4f}"
                lines[name] = callback.best_model_path
        lines["folder"] = trainer.default_root_dir
        if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
            lines["curves"] = f"tensorboard --logdir {trainer.default_root_dir}"
        for name, text in lines.items():  # not wrapped, so that paths and commands can be copied
            console(highlight=False).print(f"{name:{max(map(len, lines))}}  {text}", soft_wrap=True)
