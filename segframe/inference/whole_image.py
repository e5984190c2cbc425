"""The network on the image as it is."""

from torch import Tensor

from segframe.inference.base import Inference
from segframe.models.logits import Logits
from segframe.models.segmenter import Segmenter


class WholeImage(Inference):
    """One run of the network on whole images."""

    def __str__(self) -> str:
        """See Inference."""
        return "whole images"

    def __call__(self, segmenter: Segmenter, images: Tensor) -> Logits:
        """See Inference."""
        return segmenter.outputs(images)["main"]
