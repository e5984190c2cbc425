"""Losses: logits and masks to a scalar."""

from segframe.models.losses.base import Loss
from segframe.models.losses.coarse_labels import CoarseLabels
from segframe.models.losses.combined import WeightedSum
from segframe.models.losses.cross_entropy import CrossEntropy
from segframe.models.losses.dice import Dice

__all__ = ["CoarseLabels", "CrossEntropy", "Dice", "Loss", "WeightedSum"]
