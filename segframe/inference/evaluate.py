"""Evaluation of a checkpoint on a split of a dataset."""

import json
import sys
from math import isnan
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.progress import track
from torch import Tensor

from segframe.config.schema import EvaluateConfig
from segframe.config.validate import check_keys
from segframe.data.base import SegmentationDataset
from segframe.data.datamodule import image_loader
from segframe.files import write_text
from segframe.inference.base import Inference, Postprocess, autocast_dtype, classify
from segframe.inference.build import build_dataset, build_inference, pick_device
from segframe.inference.metrics import ConfusionMatrix, compute_metrics
from segframe.models.from_checkpoint import restore
from segframe.models.segmenter import Segmenter
from segframe.visualization.tables import metrics_table, print_table


def evaluate_checkpoint(config: DictConfig) -> None:
    """Print a table of metrics per class and write metrics.json."""
    check_keys(config, EvaluateConfig)
    inference, postprocess = build_inference(config)
    segmenter, metadata, path = restore(config.checkpoint, config.output_stride, trust=config.trust)
    inference = inference.with_training_defaults(metadata.config)
    segmenter.autocast_dtype = autocast_dtype(config.precision, metadata.config)
    choices, split = HydraConfig.get().runtime.choices, config.split or config.data.val_split
    trust = config.trust if choices["data"] == "checkpoint" else None
    dataset = build_dataset(config.data, split, metadata.classes, trust)
    device = pick_device(config.accelerator)

    matrix = evaluate(segmenter, dataset, inference, postprocess, config.data.num_workers, device)
    metrics = compute_metrics(matrix, dataset.classes, split)
    print_table(metrics_table(metrics, matrix.numpy(), dataset.classes, f"{path}, {split}", f"{split}/"))
    # NaN (a class that does not occur), which JSON lacks, becomes null.
    values = {name: None if isnan(value) else value for name, value in metrics.items()}
    settings = {
        "images": len(dataset),
        "checkpoint": str(path),
        "inference": choices["inference"],
        "postprocess": choices["postprocess"],
        "output_stride": config.output_stride,
        "inference_in_words": str(inference),
    }
    file = Path(HydraConfig.get().runtime.output_dir) / "metrics.json"
    write_text(file, json.dumps({**values, **settings}, indent=2) + "\n")
    print(f"inference: {inference}; also in {file}")


def evaluate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    inference: Inference,
    postprocess: Postprocess | None,
    num_workers: int | None,
    device: torch.device,
) -> Tensor:
    """Return the confusion matrix of all images at their original sizes: int64 (C, C) on the CPU, rows = truth."""
    segmenter = segmenter.to(device)
    confusion = ConfusionMatrix(len(dataset.classes)).to(device)
    batches = image_loader(dataset, num_workers, pin_memory=device.type == "cuda")
    with torch.inference_mode():
        for batch in track(batches, "evaluating", total=len(dataset), disable=not sys.stderr.isatty()):
            images = batch["image"].to(device)
            classes = classify(inference(segmenter, images), images, postprocess)
            confusion.update(classes, batch["mask"].to(device))
    return confusion.matrix.cpu()
