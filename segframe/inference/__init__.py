"""Inference: ways to run a trained network on images, post-processing, and metrics of a dataset."""

from segframe.inference.base import Inference
from segframe.inference.dense_crf import DenseCRF
from segframe.inference.metrics import ConfusionMatrix, compute_metrics
from segframe.inference.shift_and_stitch import ShiftAndStitch
from segframe.inference.sliding_window import SlidingWindow
from segframe.inference.tta import TTA
from segframe.inference.whole_image import WholeImage

__all__ = [
    "TTA",
    "ConfusionMatrix",
    "DenseCRF",
    "Inference",
    "ShiftAndStitch",
    "SlidingWindow",
    "WholeImage",
    "compute_metrics",
]
