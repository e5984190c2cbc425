"""Networks: backbones, heads, losses and their weights."""

from segframe.models.build import build_segmenter
from segframe.models.logits import Logits
from segframe.models.segmenter import Segmenter

__all__ = ["Logits", "Segmenter", "build_segmenter"]
