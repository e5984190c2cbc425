"""Heads: a backbone's feature maps to logits."""

from segframe.models.heads.base import Head
from segframe.models.heads.deeplab import DeepLabV3, DeepLabV3Plus
from segframe.models.heads.deeplab_v1_v2 import DeepLabV2
from segframe.models.heads.fcn import FCN, DilatedFCN
from segframe.models.heads.pspnet import PSPNet
from segframe.models.heads.segformer_mlp import SegFormerMLP
from segframe.models.heads.segnet import SegNet
from segframe.models.heads.unet import UNet
from segframe.models.heads.upernet import UPerNet

__all__ = [
    "FCN",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Plus",
    "DilatedFCN",
    "Head",
    "PSPNet",
    "SegFormerMLP",
    "SegNet",
    "UNet",
    "UPerNet",
]
