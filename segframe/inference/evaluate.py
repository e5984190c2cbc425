"""Evaluation of a checkpoint on a split of a dataset."""

import io
import json
import sys
from math import isnan, nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.progress import track
from rich.table import Table
from torch import Tensor

from segframe import distributed
from segframe.config.schema import EvaluateConfig
from segframe.config.validate import check_keys
from segframe.data.base import SegmentationDataset
from segframe.data.datamodule import image_loader
from segframe.errors import UserError
from segframe.files import write_text
from segframe.inference.base import Inference, Postprocess, classify
from segframe.inference.build import build_dataset, build_inference, build_postprocess, pick_device
from segframe.inference.metrics import ConfusionMatrix, compute_metrics, describe_missing
from segframe.inference.prepare import prepare
from segframe.models.from_checkpoint import restore
from segframe.models.segmenter import Segmenter
from segframe.visualization.tables import console, metrics_table, print_table


class EvaluationResult(NamedTuple):
    """The metrics of a checkpoint on a split of a dataset."""

    folder: Path
    """Where metrics.json is."""
    metrics: dict[str, float]
    """As in metrics.json: `val/miou`, `val/iou/<class>`, ...; NaN for a class that does not occur."""
    matrix: NDArray[np.int64]
    """Pixels by class, (C, C): rows are the truth, columns the prediction."""
    classes: tuple[str, ...]
    split: str
    checkpoint: Path
    missing: str
    """A sentence about the classes that do not occur in the truth; empty if all do."""
    inference: str
    """How the network ran, in words."""

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """IoU, accuracy and share of the truth's pixels (`iou`, `accuracy`, `pixels`, 0 ... 1) by class."""
        pixels, total = self.matrix.sum(1), max(int(self.matrix.sum()), 1)
        return {
            name: {
                "iou": self.metrics[f"{self.split}/iou/{name}"],
                "accuracy": float(self.matrix[k, k] / pixels[k]) if pixels[k] else nan,
                "pixels": float(pixels[k] / total),
            }
            for k, name in enumerate(self.classes)
        }

    def table(self) -> Table:
        """Return the metrics per class as a table for the terminal."""
        title = f"{self.checkpoint}, {self.split}"
        return metrics_table(self.metrics, self.matrix, self.classes, title, f"{self.split}/")

    def __repr__(self) -> str:
        text = io.StringIO()
        print_table(self.table(), file=text, width=100, force_jupyter=False)
        return text.getvalue().rstrip()


def evaluate_checkpoint(config: DictConfig) -> None:
    """Print a table of metrics per class and write metrics.json."""
    result = measure_checkpoint(config)
    if distributed.rank() > 0:
        return
    print_table(result.table())
    if result.missing:
        console(highlight=False).print(result.missing, soft_wrap=True)
    print(f"inference: {result.inference}; also in {result.folder / 'metrics.json'}")


def measure_checkpoint(config: DictConfig) -> EvaluationResult:
    """Evaluate a checkpoint and write metrics.json."""
    check_keys(config, EvaluateConfig)
    postprocess = build_postprocess(config.postprocess)
    segmenter, metadata, path = restore(config.checkpoint, config.output_stride, trust=config.trust)
    choices, split = HydraConfig.get().runtime.choices, config.split or config.data.val_split
    trust = {group: config.trust if choices[group] == "checkpoint" else None for group in ("data", "inference")}
    inference = build_inference(config.inference, metadata.config, trust["inference"])
    dataset = build_dataset(config.data, split, metadata.classes, trust["data"])
    if (found := dataset.pixels.channels) != (needed := segmenter.channels):
        raise UserError(
            f"data.channels={found}: the checkpoint's network reads {needed} channels; set data.channels={needed}"
        )
    device = pick_device(config.accelerator)
    prepare(segmenter, metadata.config, device, config.precision)

    matrix = evaluate(segmenter, dataset, inference, postprocess, config.data.num_workers, device)
    metrics, folder = compute_metrics(matrix, dataset.classes, split), Path(HydraConfig.get().runtime.output_dir)
    missing = describe_missing(matrix, dataset.classes, split)
    result = EvaluationResult(folder, metrics, matrix.numpy(), dataset.classes, split, path, missing, str(inference))
    if distributed.rank() > 0:
        return result
    # NaN (a class that does not occur), which JSON lacks, becomes null.
    values = {name: None if isnan(value) else value for name, value in metrics.items()}
    settings = {
        **({"missing_classes": missing} if missing else {}),
        "images": len(dataset),
        "checkpoint": str(path),
        "inference": choices["inference"],
        "postprocess": choices["postprocess"],
        "output_stride": config.output_stride,
        "inference_in_words": str(inference),
    }
    write_text(folder / "metrics.json", json.dumps({**values, **settings}, indent=2) + "\n")
    return result


def evaluate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    inference: Inference,
    postprocess: Postprocess | None,
    num_workers: int | None,
    device: torch.device,
) -> Tensor:
    """Return the confusion matrix of all images at their original sizes: int64 (C, C) on the CPU, rows = truth.

    `segmenter`: as prepare returns it. With several devices each counts its share of the images, and all get the sum.
    """
    confusion = ConfusionMatrix(len(dataset.classes)).to(device)
    batches = image_loader(dataset, num_workers, pin_memory=device.type == "cuda")
    with torch.inference_mode():
        for batch in track(batches, "evaluating", total=len(batches), disable=not shows_progress()):
            images = batch["image"].to(device)
            classes = classify(inference(segmenter, images), images, postprocess)
            confusion.update(classes, batch["mask"].to(device))
    return distributed.total(confusion.matrix).cpu()


def shows_progress() -> bool:
    """Whether this process shows a progress bar: on a terminal, and for all devices together."""
    return sys.stderr.isatty() and distributed.rank() == 0
