"""The confusion matrix of a network on a dataset."""

import sys

import torch
from rich.progress import track
from torch import Tensor

from segframe.data.base import SegmentationDataset
from segframe.data.datamodule import image_loader
from segframe.inference.base import Inference, Postprocess, classify
from segframe.inference.metrics import ConfusionMatrix
from segframe.models.segmenter import Segmenter


def evaluate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    inference: Inference,
    postprocess: Postprocess | None,
    num_workers: int | None,
    device: torch.device,
) -> Tensor:
    """Counts every image at its original size: int64 (C, C) on the CPU, rows the truth."""
    segmenter = segmenter.to(device)
    confusion = ConfusionMatrix(len(dataset.classes)).to(device)
    batches = image_loader(dataset, num_workers, pin_memory=device.type == "cuda")
    with torch.inference_mode():
        for batch in track(batches, "evaluating", total=len(dataset), disable=not sys.stderr.isatty()):
            images = batch["image"].to(device)
            classes = classify(inference(segmenter, images), images, postprocess)
            confusion.update(classes, batch["mask"].to(device))
    return confusion.matrix.cpu()
