"""Losses: logits and masks to a scalar."""

from segframe.models.losses.base import Loss
from segframe.models.losses.coarse_labels import CoarseLabels
from segframe.models.losses.combined import WeightedSum
from segframe.models.losses.cross_entropy import CrossEntropy
from segframe.models.losses.dice import Dice
from segframe.models.losses.focal import Focal
from segframe.models.losses.lovasz import LovaszSoftmax
from segframe.models.losses.ohem import OHEMCrossEntropy

__all__ = [
    "CoarseLabels",
    "CrossEntropy",
    "Dice",
    "Focal",
    "Loss",
    "LovaszSoftmax",
    "OHEMCrossEntropy",
    "WeightedSum",
]
