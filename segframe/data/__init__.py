"""Datasets, augmentation and data loaders; YAML files name the classes listed here."""

from segframe.data.base import SegmentationDataset, class_weights
from segframe.data.color import ColorMatrixJitter
from segframe.data.datamodule import DataModule
from segframe.data.datasets.camvid import CamVid
from segframe.data.datasets.folder import Folder
from segframe.data.datasets.shapes import Shapes
from segframe.data.datasets.voc import VOC
from segframe.data.pixel_format import PixelFormat
from segframe.data.transforms import RandomScaleCrop, Transform

__all__ = [
    "VOC",
    "CamVid",
    "ColorMatrixJitter",
    "DataModule",
    "Folder",
    "PixelFormat",
    "RandomScaleCrop",
    "SegmentationDataset",
    "Shapes",
    "Transform",
    "class_weights",
]
