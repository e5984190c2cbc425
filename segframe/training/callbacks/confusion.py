"""The confusion matrix of each validation as a picture in TensorBoard."""

from typing import Any

from pytorch_lightning import Callback, Trainer

from segframe.training.loggers import tensorboard_writers
from segframe.visualization.overlays import confusion_picture


class ConfusionMatrixPicture(Callback):
    """Writes `validation/confusion` after every validation."""

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        if writers := tensorboard_writers(trainer):
            picture = confusion_picture(module.confusion.matrix.cpu().numpy(), module.classes)
            for writer in writers:
                writer.add_image("validation/confusion", picture, trainer.global_step, dataformats="HWC")
