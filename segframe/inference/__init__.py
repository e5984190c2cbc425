"""Inference: ways to run a trained network on images, post-processing, and metrics of a dataset."""

from segframe.inference.base import Inference, WholeImage
from segframe.inference.dense_crf import DenseCRF
from segframe.inference.metrics import ConfusionMatrix, compute_metrics
from segframe.inference.shift_and_stitch import ShiftAndStitch
from segframe.inference.sliding_window import SlidingWindow
from segframe.inference.tta import TTA

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
