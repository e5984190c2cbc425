"""Evaluation of a checkpoint on a split of a dataset."""

import sys
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from rich.progress import track
from torch import Tensor

from segframe import distributed
from segframe.config.composition import chosen_options, output_folder
from segframe.config.schema import EvaluateConfig
from segframe.config.validate import check_keys
from segframe.data.base import SegmentationDataset
from segframe.data.image_batches import AtOnce, image_batches, join_tensors, one_by_one
from segframe.errors import UserError
from segframe.files import write_json
from segframe.inference.base import Inference, Postprocess, classify
from segframe.inference.boundary_metrics import check_distance
from segframe.inference.build import build_dataset, build_inference, build_postprocess, describe_postprocess
from segframe.inference.evaluation_result import EvaluationResult
from segframe.inference.image_counts import SplitCounts
from segframe.inference.metrics import describe_missing
from segframe.inference.network import Network
from segframe.inference.onnx_network import check_scores
from segframe.inference.open_network import open_configured
from segframe.models.ops.host_copy import HostCopy
from segframe.models.segmenter import Segmenter
from segframe.models.weights.checkpoint import CheckpointMetadata
from segframe.visualization.tables import console, print_table

T = TypeVar("T")


class Evaluation(NamedTuple):
    """A checkpoint's network and a split of a dataset, ready to run as evaluate does."""

    network: Network
    metadata: CheckpointMetadata
    path: Path
    split: str
    dataset: SegmentationDataset
    inference: Inference
    postprocess: Postprocess | None


def open_evaluation(config: DictConfig, stored: Collection[str]) -> Evaluation:
    """Return what evaluate.yaml's settings name; `stored`: of data and inference those that the checkpoint gives."""
    postprocess = build_postprocess(config.postprocess)
    network, metadata, path = open_configured(config)
    split = config.split or config.data.val_split
    trust = {group: config.trust if group in stored else None for group in ("data", "inference")}
    inference = build_inference(config.inference, metadata.config, trust["inference"])
    check_scores(network, inference, {"postprocess": postprocess is not None})
    dataset = build_dataset(config.data, split, metadata.classes, trust["data"])
    if (found := dataset.pixels.channels) != (needed := network.channels):
        raise UserError(
            f"data.channels={found}: the checkpoint's network reads {needed} channels; set data.channels={needed}"
        )
    return Evaluation(network, metadata, path, split, dataset, inference, postprocess)


def check_distances(config: DictConfig) -> tuple[float, float]:
    """Return the distances of the boundaries' metrics; UserError for wrong ones."""
    for name in ("boundary_distance", "boundary_tolerance"):
        check_distance(name, config[name])
    return config.boundary_distance, config.boundary_tolerance


def stored_groups() -> list[str]:
    """The config groups whose settings the program's command line takes from the checkpoint."""
    return [group for group, option in chosen_options().items() if option == "checkpoint"]


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
    """Evaluate a checkpoint and write metrics.json, and beside it the counts of each image, images.npz."""
    check_keys(config, EvaluateConfig)
    distances = check_distances(config)
    network, _, path, split, dataset, inference, postprocess = open_evaluation(config, stored_groups())
    choices = chosen_options()
    counts = evaluate(network, dataset, inference, postprocess, config.data.num_workers, distances)

    metrics, folder = counts.metrics(split), output_folder()
    missing = describe_missing(counts.matrix, dataset.classes, split)
    result = EvaluationResult(folder, metrics, counts, dataset.classes, split, path, missing, str(inference))
    if distributed.rank() > 0:
        return result
    settings = {
        **({"missing_classes": missing} if missing else {}),
        "split": split,
        "images": len(dataset),
        "checkpoint": str(path.absolute()),
        "inference": choices["inference"],
        "inference_settings": OmegaConf.to_container(config.inference, resolve=True) if config.inference else None,
        "postprocess": choices["postprocess"],
        "postprocess_in_words": describe_postprocess(config.postprocess),
        "output_stride": config.output_stride,
        "precision": config.precision,
        "inference_in_words": str(inference),
        "boundary_distance": config.boundary_distance,
        "boundary_tolerance": config.boundary_tolerance,
    }
    counts.write(folder / "images.npz")
    write_json(folder / "metrics.json", {**metrics, **settings})
    return result


def evaluate(
    network: Network,
    dataset: SegmentationDataset,
    inference: Inference,
    postprocess: Postprocess | None,
    num_workers: int | None,
    distances: tuple[float, float] = (0.02, 0.0075),
) -> SplitCounts:
    """Return the counts of all images at their original sizes.

    `network`: as open_network returns it. `distances`: see SplitCounts. With several devices each counts its share,
    and all get the whole.
    """
    counts = SplitCounts(dataset.classes, *distances)
    for image, classes in predict_split(network, dataset, inference, postprocess, num_workers):
        counts.update(image["name"][0], classes.numpy(), image["mask"][0].numpy())
    return counts.gather()


def predict_split(
    network: Network,
    dataset: SegmentationDataset,
    inference: Inference,
    postprocess: Postprocess | None,
    num_workers: int | None,
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Yield this process's share of the images in order, each as a batch of one on the CPU, and its classes.

    These are uint8 (H, W), on the CPU. A GPU works on the next batch while the caller uses the results of one.
    """
    device = network.device
    at_once: AtOnce = partial(inference.images_at_once, device=device)
    if postprocess is not None or not isinstance(network, Segmenter):
        at_once = one_by_one  # scores of full size, or all of them from an exported file
    loader = image_batches(dataset, num_workers, device.type == "cuda", at_once)

    def run(batch: list[dict[str, Any]]) -> HostCopy:
        with torch.inference_mode():
            images = join_tensors([image["image"] for image in batch], device)
            return HostCopy(classify(inference(network, images), images, postprocess))

    launched = one_behind((batch, run(batch)) for batch in loader)
    results = (result for batch, classes in launched for result in zip(batch, classes.wait(), strict=True))
    shown = track(results, "evaluating", total=len(loader), disable=not shows_progress())
    finished: dict[int, tuple[dict[str, Any], Tensor]] = {}
    order = iter(loader.indices)
    index = next(order, None)
    for image, classes in shown:
        finished[image["index"][0]] = image, classes
        while index in finished:
            yield finished.pop(index)
            index = next(order, None)


def one_behind(items: Iterable[T]) -> Iterator[T]:
    """Yield the items one step late: item k after item k + 1 has been computed, so that a GPU always has work."""
    last: list[T] = []
    for item in items:
        yield from last
        last = [item]
    yield from last


def shows_progress() -> bool:
    """Whether this process shows a progress bar: on a terminal, and for all devices together."""
    return sys.stderr.isatty() and distributed.rank() == 0
