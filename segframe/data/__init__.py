"""Datasets, augmentation and loaders."""

from segframe.data.base import SegmentationDataset
from segframe.data.camvid import CamVid
from segframe.data.color import ColorMatrixJitter
from segframe.data.datamodule import DataModule
from segframe.data.folder import Folder
from segframe.data.shapes import Shapes
from segframe.data.statistics import class_weights
from segframe.data.transforms import RandomScaleCrop, Transform
from segframe.data.voc import VOC

__all__ = [
    "VOC",
    "CamVid",
    "ColorMatrixJitter",
    "DataModule",
    "Folder",
    "RandomScaleCrop",
    "SegmentationDataset",
    "Shapes",
    "Transform",
    "class_weights",
]
