"""What happens around training: curves, pictures, progress, and the report at the end."""

from segframe.callbacks.confusion import ConfusionMatrixPicture
from segframe.callbacks.curves import Curves
from segframe.callbacks.hparams import HParams
from segframe.callbacks.images import ValidationImages
from segframe.callbacks.loading import LoaderReport
from segframe.callbacks.progress import ProgressBar
from segframe.callbacks.report import FinalReport

__all__ = [
    "ConfusionMatrixPicture",
    "Curves",
    "FinalReport",
    "HParams",
    "LoaderReport",
    "ProgressBar",
    "ValidationImages",
]
