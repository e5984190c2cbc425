"""Pictures of each validation in the loggers: images with truth and prediction, and the confusion matrix."""

from typing import Any

from pytorch_lightning import Callback, Trainer

from segframe.data.image_batches import val_loader
from segframe.errors import check_range
from segframe.training.loggers.base import picture_loggers
from segframe.visualization.overlays import comparison, confusion_picture


class ValidationImages(Callback):
    """Writes `validation/<i>_<name>` for evenly spaced validation images, the same ones each time."""

    def __init__(self, num_images: int = 4) -> None:
        check_range("callbacks.images.num_images", num_images, 0)
        self.num_images = num_images
        self._places: dict[int, int] = {}  # index of an image -> place among the pictures

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        indices = val_loader(trainer).indices
        count = min(self.num_images, len(indices))
        self._places = {indices[(2 * i + 1) * len(indices) // (2 * count)]: i for i in range(count)}

    def on_validation_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        loggers = picture_loggers(trainer)
        for k, index in enumerate(batch["index"]):
            if index not in self._places or not loggers:
                continue
            picture = comparison(
                batch["image"][k].permute(1, 2, 0).cpu().numpy(),
                batch["mask"][k].cpu().numpy(),
                outputs["classes"][k].byte().cpu().numpy(),
                module.classes,
                module.palette,
            )
            name = f"validation/{self._places[index]}_{batch['name'][k]}"
            for logger in loggers:
                logger.log_image(name, [picture], trainer.global_step)


class ConfusionMatrixPicture(Callback):
    """Writes `validation/confusion` after every validation."""

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        if loggers := picture_loggers(trainer):
            picture = confusion_picture(module.confusion.matrix.cpu().numpy(), module.classes)
            for logger in loggers:
                logger.log_image("validation/confusion", [picture], trainer.global_step)
