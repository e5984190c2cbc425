"""Datasets, augmentation and data loaders; YAML files name the classes listed here."""

from segframe.data.base import SegmentationDataset, class_weights
from segframe.data.color import ColorMatrixJitter
from segframe.data.datamodule import DataModule
from segframe.data.datasets.ade20k import ADE20K
from segframe.data.datasets.camvid import CamVid
from segframe.data.datasets.cityscapes import Cityscapes
from segframe.data.datasets.coco_stuff import COCOStuff
from segframe.data.datasets.folder import Folder
from segframe.data.datasets.oxford_pet import OxfordPet
from segframe.data.datasets.pascal_context import PascalContext
from segframe.data.datasets.shapes import Shapes
from segframe.data.datasets.voc import VOC
from segframe.data.pixel_format import PixelFormat
from segframe.data.transforms import RandomScaleCrop, Transform

__all__ = [
    "ADE20K",
    "VOC",
    "COCOStuff",
    "CamVid",
    "Cityscapes",
    "ColorMatrixJitter",
    "DataModule",
    "Folder",
    "OxfordPet",
    "PascalContext",
    "PixelFormat",
    "RandomScaleCrop",
    "SegmentationDataset",
    "Shapes",
    "Transform",
    "class_weights",
]
