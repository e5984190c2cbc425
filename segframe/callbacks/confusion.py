"""The confusion matrix of each validation as a picture in TensorBoard."""

from typing import Any

from pytorch_lightning import Callback, Trainer

from segframe.loggers import tensorboard_writers
from segframe.visuals import confusion_picture


class ConfusionMatrixPicture(Callback):
    """Writes `validation/confusion` after every validation."""

    def on_validation_end(self, trainer: Trainer, task: Any) -> None:
        """Draws the task's confusion matrix."""
        if writers := tensorboard_writers(trainer):
            picture = confusion_picture(task.confusion.matrix.cpu().numpy(), task.classes)
            for writer in writers:
                writer.add_image("validation/confusion", picture, trainer.global_step, dataformats="HWC")
