"""The contract of an inference, of what may follow it, and the classes that both lead to."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segframe.heads.base import Logits
from segframe.segmenter import Segmenter

Postprocess = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.float32]]
"""Called as postprocess(image (H, W, 3) RGB, probabilities (C, H, W)) -> probabilities (C, H, W)."""


class Inference(ABC):
    """How a trained network is run on images: as they are, shifted, in windows, at several scales, ..."""

    @abstractmethod
    def __call__(self, segmenter: Segmenter, images: Tensor) -> Logits:
        """Images uint8 (N, 3, H, W), on the network's device, to logits for that (H, W)."""


def classify(logits: Logits, images: Tensor, postprocess: Postprocess | None) -> Tensor:
    """The best class of every pixel of images (N, 3, H, W): (N, H, W) uint8, after `postprocess` of each if given."""
    if postprocess is None:
        return logits.classes()
    classes = []
    for image, values in zip(images, logits.values, strict=True):
        probabilities = logits._replace(values=values[None]).full()[0].softmax(0).cpu().numpy()
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        classes.append(torch.from_numpy(postprocess(pixels, probabilities).argmax(0).astype(np.uint8)))
    return torch.stack(classes).to(images.device)
