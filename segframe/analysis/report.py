"""report.html of a run: one page with its settings, curves, metrics with intervals, and images."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from omegaconf import DictConfig

from segframe.analysis.bootstrap import FEW_IMAGES, Interval, intervals
from segframe.analysis.boundaries import BoundaryErrors
from segframe.analysis.report_images import class_examples, highest_losses, pack
from segframe.analysis.run_records import Curves, read_command, read_curves, run_folder
from segframe.config.changed_settings import changed_settings
from segframe.config.schema import ReportConfig
from segframe.config.validate import check_keys
from segframe.errors import UserError
from segframe.files import as_named, write_text
from segframe.inference.boundary_metrics import describe_distance
from segframe.inference.build import build_dataset, describe_postprocess
from segframe.inference.evaluate import Evaluation, check_distances, open_evaluation, predict_split, stored_groups
from segframe.inference.image_counts import CLASS_METRICS, OVERALL, SplitCounts
from segframe.inference.metrics import describe_missing
from segframe.inference.onnx_network import check_scores
from segframe.visualization.html import line_chart, picture_uri, render
from segframe.visualization.overlays import NUMBERED_CLASSES, confusion_picture
from segframe.visualization.tables import COLUMNS

MOST_PAIRS = 12
"""The number of rows in the table of the most frequent confusions."""


def report_checkpoint(config: DictConfig) -> None:
    check_keys(config, ReportConfig)
    print(f"report: {as_named(make_report(config, stored_groups()))}")


def make_report(config: DictConfig, stored: Collection[str]) -> Path:
    """Write the page that a ReportConfig describes, and return its path; `stored`: see open_evaluation."""
    evaluation = open_evaluation(config, stored)
    _, metadata, path, split, dataset, *_ = evaluation
    training = None
    if config.training_images != 0:
        check_scores(evaluation.network, evaluation.inference, {"training_images (0: none)": True})
        trust = config.trust if "data" in stored else None
        training = build_dataset(config.data, config.data.train_split, metadata.classes, trust)
    boundaries = BoundaryErrors(len(dataset.classes), config.boundary_width)
    counts, predictions = measure_split(evaluation, config, boundaries)
    metrics, images = counts.metrics(split), counts.images
    found = intervals(images, dataset.classes, config.resamples)
    ious = [metrics[f"{split}/iou/{name}"] for name in dataset.classes]
    folder = run_folder(path)
    page = render(
        "report.html.j2",
        title=folder.name if folder else path.name,
        checkpoint=str(path),
        split=split,
        inference=str(evaluation.inference),
        postprocess=describe_postprocess(config.postprocess),
        images=len(dataset),
        few=len(dataset) < FEW_IMAGES,
        command=read_command(folder) if folder else "",
        settings=changed_settings(metadata.config),
        charts=draw_curves(read_curves(folder) if folder else {}),
        overall=[(label, metrics[f"{split}/{name}"], found[name]) for name, label in OVERALL.items()],
        missing=describe_missing(counts.matrix, dataset.classes, split),
        classes=class_rows(counts, metrics, found, split, dataset.palette),
        columns={"iou": "IoU", "recall": "accuracy", "dice": "Dice", **COLUMNS},
        confusion=confusion_rows(counts.matrix, dataset.classes),
        confusion_image=None
        if len(dataset.classes) <= NUMBERED_CLASSES
        else picture_uri(confusion_picture(counts.matrix, dataset.classes)),
        pairs=mistaken_pairs(counts.matrix, dataset.classes),
        width=config.boundary_width,
        boundary_distance=describe_distance(config.boundary_distance),
        boundary_tolerance=describe_distance(config.boundary_tolerance),
        boundaries=boundary_rows(boundaries, dataset.classes),
        examples=class_examples(evaluation, images, predictions, ious, config.images),
        training=highest_losses(
            evaluation, training, config.training_images, config.highest, config.data.num_workers, config.trust
        )
        if training
        else None,
        numbers=numbers(counts, boundaries, metrics, found, split, str(path)),
    )
    output = Path(config.output) if config.output else (as_named(folder) if folder else path.parent) / "report.html"
    if output.is_dir():
        raise UserError(f"output={output}: this is a folder; give a file, output={output / 'report.html'}")
    write_text(output, page)
    return output


def measure_split(
    evaluation: Evaluation, config: DictConfig, boundaries: BoundaryErrors | None = None
) -> tuple[SplitCounts, list[bytes]]:
    """Return the counts of the split's images, as evaluate does, and their predictions, packed by report_images.pack.

    `config`: MetricsConfig's settings. `boundaries`: counts the images too.
    """
    network, _, _, _, dataset, inference, postprocess = evaluation
    counts = SplitCounts(dataset.classes, *check_distances(config))
    predictions = []
    for image, classes in predict_split(network, dataset, inference, postprocess, config.data.num_workers):
        prediction, truth = classes.numpy(), image["mask"][0].numpy()
        counts.update(image["name"][0], prediction, truth)
        if boundaries is not None:
            boundaries.update(prediction, truth)
        predictions.append(pack(prediction))
    return counts, predictions


def draw_curves(curves: Curves) -> list[Markup]:
    rates: Curves = {}
    for name, points in curves.items():
        if name.startswith("lr/"):  # parts with equal rates share a line
            same = [known for known in rates if rates[known] == points]
            rates[", ".join([*same, name.removeprefix("lr/")])] = rates.pop(same[0]) if same else points
    charts: dict[str, Curves] = {
        "Loss": {name: curves[name] for name in ("train/loss", "val/loss") if name in curves},
        "Validation": {name: curves[name] for name in ("val/miou", "val/mean_accuracy") if name in curves},
        "Learning rate": rates,
    }
    return [line_chart(title, lines) for title, lines in charts.items() if lines]


def class_rows(
    counts: SplitCounts,
    metrics: dict[str, float],
    found: dict[str, Interval],
    split: str,
    palette: Collection[tuple[int, int, int]],
) -> list[dict[str, Any]]:
    truth, images = counts.matrix.sum(1), (counts.images.truth > 0).sum(0)
    return [
        {
            "name": name,
            "color": "#{:02x}{:02x}{:02x}".format(*color),
            "metrics": {metric: metrics[f"{split}/{metric}/{name}"] for metric in CLASS_METRICS},
            "intervals": {metric: found[f"{metric}/{name}"] for metric in CLASS_METRICS},
            "pixels": truth[k] / max(truth.sum(), 1),
            "images": int(images[k]),
        }
        for k, (name, color) in enumerate(zip(counts.classes, palette, strict=True))
    ]


def confusion_rows(matrix: NDArray[np.int64], classes: tuple[str, ...]) -> list[tuple[str, list[float]]]:
    """Return for each class of the truth the shares of its pixels by predicted class; NaN without pixels."""
    with np.errstate(invalid="ignore"):
        shares = matrix / matrix.sum(1, keepdims=True)
    return [(name, shares[k].tolist()) for k, name in enumerate(classes)]


def mistaken_pairs(matrix: NDArray[np.int64], classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the pairs of truth and prediction with the most wrong pixels."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=np.int64))
    total = max(int(wrong.sum()), 1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [(int(k) // len(matrix), int(k) % len(matrix)) for k in order]
    return [
        {
            "truth": classes[row],
            "prediction": classes[column],
            "pixels": int(wrong[row, column]),
            "of_truth": wrong[row, column] / matrix[row].sum(),
            "of_errors": wrong[row, column] / total,
        }
        for row, column in pairs
        if wrong[row, column]
    ]


def boundary_rows(errors: BoundaryErrors, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the shares of wrong pixels near boundaries and in interiors: of all classes, then of each."""
    pixels = np.column_stack([errors.pixels.sum(1), errors.pixels])
    wrong = np.column_stack([errors.wrong.sum(1), errors.wrong])
    with np.errstate(invalid="ignore"):
        near_pixels, near_wrong, shares = pixels[0] / pixels.sum(0), wrong[0] / wrong.sum(0), wrong / pixels
    return [
        {
            "name": name,
            "near_pixels": near_pixels[k],
            "near": shares[0, k],
            "interior": shares[1, k],
            "near_errors": near_wrong[k],
        }
        for k, name in enumerate(["all classes", *classes])
    ]


def numbers(
    counts: SplitCounts,
    boundaries: BoundaryErrors,
    metrics: dict[str, float],
    found: dict[str, Interval],
    split: str,
    path: str,
) -> dict[str, Any]:
    """Return the page's numbers with all digits, which it holds as JSON; the metrics are those of metrics.json."""
    bounds = {f"{split}/{name}": bounds for name, bounds in found.items()}
    return {
        "metrics": metrics,
        "intervals": bounds,
        "confusion_matrix": counts.matrix.tolist(),
        "boundaries": {
            "width": boundaries.width,
            "pixels": boundaries.pixels.tolist(),
            "wrong": boundaries.wrong.tolist(),
        },
        "images": len(counts.names),
        "checkpoint": path,
    }
