"""Backbones: images to named feature maps."""

from segframe.models.backbones.alexnet import AlexNetFC
from segframe.models.backbones.base import Backbone, Feature
from segframe.models.backbones.resnet import ResNet
from segframe.models.backbones.swin import Swin
from segframe.models.backbones.timm import TimmBackbone
from segframe.models.backbones.unet import UNetEncoder
from segframe.models.backbones.vgg import VGG, VGG16FC
from segframe.models.backbones.vgg_atrous import VGG16Atrous
from segframe.models.backbones.xception import Xception

__all__ = [
    "VGG",
    "VGG16FC",
    "AlexNetFC",
    "Backbone",
    "Feature",
    "ResNet",
    "Swin",
    "TimmBackbone",
    "UNetEncoder",
    "VGG16Atrous",
    "Xception",
]
