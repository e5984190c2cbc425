"""Inference: how a trained network is run on images, and metrics on a dataset."""

from segframe.inference.base import Inference
from segframe.inference.dense_crf import DenseCRF
from segframe.inference.shift_and_stitch import ShiftAndStitch
from segframe.inference.sliding_window import SlidingWindow
from segframe.inference.tta import TTA
from segframe.inference.whole_image import WholeImage

__all__ = ["TTA", "DenseCRF", "Inference", "ShiftAndStitch", "SlidingWindow", "WholeImage"]
