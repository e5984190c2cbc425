"""Inference on the whole image at once."""

from torch import Tensor

from segframe.inference.base import Inference
from segframe.models.logits import Logits
from segframe.models.segmenter import Segmenter


class WholeImage(Inference):
    """One run of the network on whole images."""

    def __str__(self) -> str:
        return "whole images"

    def __call__(self, segmenter: Segmenter, images: Tensor) -> Logits:
        return segmenter.outputs(images)["main"]
