"""The confusion matrix of a network on a dataset."""

import json
import sys
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


def evaluate_checkpoint(config: DictConfig) -> None:
    """Evaluate a checkpoint on a split: a table per class on the terminal, and metrics.json."""
    check_keys(config, EvaluateConfig)
    inference, postprocess = build_inference(config)
    restored = restore(config.checkpoint, config.output_stride)
    inference = inference.with_training_defaults(restored.metadata.config)
    split = config.split or config.data.val_split
    choices = HydraConfig.get().runtime.choices
    stored = choices["data"] == "checkpoint"
    dataset = build_dataset(config.data, split, restored.metadata.classes, stored)
    device = pick_device(config.accelerator)
    restored.segmenter.autocast_dtype = autocast_dtype(config.precision, restored.metadata.config)
    matrix = evaluate(restored.segmenter, dataset, inference, postprocess, config.data.num_workers, device)
    found = compute_metrics(matrix, dataset.classes, split)
    print_table(metrics_table(found, matrix.numpy(), dataset.classes, f"{restored.path}, {split}", f"{split}/"))
    path = Path(HydraConfig.get().runtime.output_dir) / "metrics.json"
    # JSON knows no NaN: a class that does not occur is null.
    known = {name: value if value == value else None for name, value in found.items()}
    how = {name: choices[name] for name in ("inference", "postprocess")} | {"output_stride": config.output_stride}
    how["inference_in_words"] = str(inference)
    told = {**known, "images": len(dataset), "checkpoint": str(restored.path), **how}
    write_text(path, json.dumps(told, indent=2) + "\n")
    print(f"inference: {inference}; also in {path}")
