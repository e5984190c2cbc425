"""Evaluation of a checkpoint on a split of a dataset."""

import json
import sys
from collections.abc import Collection, Iterator
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.progress import track
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
from segframe.inference.evaluation_result import EvaluationResult
from segframe.inference.metrics import ConfusionMatrix, compute_metrics, describe_missing
from segframe.inference.network import Network
from segframe.inference.onnx_network import check_scores
from segframe.inference.open_network import open_network
from segframe.models.weights.checkpoint import CheckpointMetadata
from segframe.visualization.tables import console, print_table


class Evaluation(NamedTuple):
    """A checkpoint's network and a split of a dataset, ready to run as evaluate does."""

    network: Network
    metadata: CheckpointMetadata
    path: Path
    split: str
    dataset: SegmentationDataset
    inference: Inference
    postprocess: Postprocess | None
    device: torch.device


def open_evaluation(config: DictConfig, stored: Collection[str]) -> Evaluation:
    """Return what evaluate.yaml's settings name; `stored`: of data and inference those that the checkpoint gives."""
    postprocess = build_postprocess(config.postprocess)
    network, metadata, path = open_network(
        config.checkpoint,
        pick_device(config.accelerator),
        required=config.accelerator != "auto",
        output_stride=config.output_stride,
        precision=config.precision,
        trust=config.trust,
    )
    split = config.split or config.data.val_split
    trust = {group: config.trust if group in stored else None for group in ("data", "inference")}
    inference = build_inference(config.inference, metadata.config, trust["inference"])
    check_scores(network, inference, {"postprocess": postprocess is not None})
    dataset = build_dataset(config.data, split, metadata.classes, trust["data"])
    if (found := dataset.pixels.channels) != (needed := network.channels):
        raise UserError(
            f"data.channels={found}: the checkpoint's network reads {needed} channels; set data.channels={needed}"
        )
    return Evaluation(network, metadata, path, split, dataset, inference, postprocess, network.device)


def stored_groups() -> list[str]:
    """The config groups whose settings the program's command line takes from the checkpoint."""
    return [group for group, option in HydraConfig.get().runtime.choices.items() if option == "checkpoint"]


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
    network, _, path, split, dataset, inference, postprocess, device = open_evaluation(config, stored_groups())
    choices = HydraConfig.get().runtime.choices

    matrix = evaluate(network, dataset, inference, postprocess, config.data.num_workers, device)
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
    network: Network,
    dataset: SegmentationDataset,
    inference: Inference,
    postprocess: Postprocess | None,
    num_workers: int | None,
    device: torch.device,
) -> Tensor:
    """Return the confusion matrix of all images at their original sizes: int64 (C, C) on the CPU, rows = truth.

    `network`: as open_network returns it. With several devices each counts its share, and all get the sum.
    """
    confusion = ConfusionMatrix(len(dataset.classes)).to(device)
    for batch, classes in predict_split(network, dataset, inference, postprocess, num_workers, device):
        confusion.update(classes, batch["mask"].to(device))
    return distributed.total(confusion.matrix).cpu()


def predict_split(
    network: Network,
    dataset: SegmentationDataset,
    inference: Inference,
    postprocess: Postprocess | None,
    num_workers: int | None,
    device: torch.device,
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Yield this process's share of the images in order, each as a batch of one and its classes uint8 (1, H, W)."""
    batches = image_loader(dataset, num_workers, pin_memory=device.type == "cuda")
    for batch in track(batches, "evaluating", total=len(batches), disable=not shows_progress()):
        with torch.inference_mode():
            images = batch["image"].to(device)
            classes = classify(inference(network, images), images, postprocess)
        yield batch, classes


def shows_progress() -> bool:
    """Whether this process shows a progress bar: on a terminal, and for all devices together."""
    return sys.stderr.isatty() and distributed.rank() == 0
