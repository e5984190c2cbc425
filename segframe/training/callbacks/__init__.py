"""Callbacks: curves, pictures, progress, hyperparameters, and the report at the end."""

from segframe.training.callbacks.dataloader_report import DataloaderReport
from segframe.training.callbacks.final_report import FinalReport
from segframe.training.callbacks.hparams import HParams
from segframe.training.callbacks.progress_bar import ProgressBar
from segframe.training.callbacks.training_curves import TrainingCurves
from segframe.training.callbacks.validation_images import ConfusionMatrixPicture, ValidationImages
from segframe.training.callbacks.weight_averaging import EMAWeightAveraging

__all__ = [
    "ConfusionMatrixPicture",
    "DataloaderReport",
    "EMAWeightAveraging",
    "FinalReport",
    "HParams",
    "ProgressBar",
    "TrainingCurves",
    "ValidationImages",
]
