"""Measures of upsampling methods: time per image and checkerboard artifacts."""

import statistics
import time
from collections.abc import Mapping

import torch

from segframe.data.base import SegmentationDataset
from segframe.inference.base import Inference
from segframe.models.segmenter import Segmenter

PERIOD = 8
"""Period of checkerboard artifacts in pixels: that of the last three doublings of the resolution."""


def interleaved_seconds(
    networks: Mapping[str, tuple[Inference, Segmenter]], size: int = 256, rounds: int = 7
) -> dict[str, float]:
    """Median time in seconds to predict the classes of a square image, with the networks timed in turns."""
    image = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    taken: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, (inference, segmenter) in networks.items():
                start = time.perf_counter()
                inference(segmenter, image).classes()
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}


def checkerboard_energy(segmenter: Segmenter, inference: Inference, dataset: SegmentationDataset) -> float:
    """The share of the full-size scores' variance that repeats every PERIOD pixels over a dataset (0 ... 1).

    Image content averages out over the cells of PERIOD x PERIOD pixels; what remains in the mean cell comes from the
    network, above all from the uneven overlap of transposed convolutions (Odena et al., 2016).
    """
    cells, squares = torch.zeros(()), 0.0
    with torch.inference_mode():
        for k in range(len(dataset)):
            image = dataset[k]["image"][None]
            scores = inference(segmenter, image).full()[0].double()
            c, h, w = scores.shape
            scores = scores[:, : h // PERIOD * PERIOD, : w // PERIOD * PERIOD]
            # The average of an image is content.
            scores = scores - scores.mean((1, 2), keepdim=True)
            cell = scores.reshape(c, h // PERIOD, PERIOD, w // PERIOD, PERIOD).mean((1, 3))
            cells = cells + cell
            squares += float(scores.square().mean((1, 2)).sum())
    mean_cell = cells / len(dataset)
    return float(mean_cell.square().mean((1, 2)).sum()) / (squares / len(dataset))
