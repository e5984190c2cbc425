"""Pictures of a report: per class the worst and best images, and the training images with the highest loss."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import nan
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segframe import IGNORE_INDEX
from segframe.config.instantiate import instantiate
from segframe.config.trust import check_trust
from segframe.data.base import SegmentationDataset
from segframe.data.image_batches import image_loader
from segframe.errors import UserError
from segframe.inference.banded_scores import classes_and_logits
from segframe.inference.evaluate import Evaluation
from segframe.inference.image_counts import ImageCounts
from segframe.visualization.html import indices_uri, photo_uri
from segframe.visualization.overlays import VOID, Color, as_rgb

SIDE = 320
"""Pixels of a picture's longer side, at most."""
MOST_EXAMPLES = 96
"""Images that a page shows for all classes together; about 25 KB each."""
SMALLEST_SHARE = 0.001
"""Minimum share of an image's labelled pixels for the image to be ranked for a class."""
NEUTRAL, RIGHT, MISSED, FALSE = range(4)
ERROR_COLORS: dict[int, Color] = {
    NEUTRAL: (196, 200, 206),
    RIGHT: (86, 138, 196),
    MISSED: (214, 39, 40),
    FALSE: (245, 170, 20),
    IGNORE_INDEX: (128, 128, 128),
}


class Example(NamedTuple):
    """An image with its panels (truth, prediction, errors) and a caption."""

    name: str
    caption: str
    panels: dict[str, str]
    """Data URIs of the pictures by title: image, truth, prediction, ..."""
    width: int
    height: int


class ClassExamples(NamedTuple):
    """The worst and the best images of a class."""

    name: str
    iou: float
    worst: list[Example]
    best: list[Example]


class LossResult(NamedTuple):
    """Losses of training images: how many images were measured, of how many, their mean loss, and the worst images.

    Images without a labelled pixel count in `images`, but have no loss.
    """

    images: int
    total: int
    mean: float
    highest: list[Example]


def shrink(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return class indices (H, W) with at most SIDE pixels on the longer side."""
    factor = SIDE / max(labels.shape)
    size = [max(1, round(side * factor)) for side in labels.shape]
    if factor >= 1:
        return labels
    return np.asarray(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))


def pack(labels: NDArray[np.uint8]) -> bytes:
    """Return shrunk class indices as a PNG in memory: a few KB an image, while a split is predicted."""
    return cv2.imencode(".png", shrink(labels))[1].tobytes()


def unpack(packed: bytes) -> NDArray[np.uint8]:
    """Return what `pack` packed."""
    return np.asarray(cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)


def class_examples(
    evaluation: Evaluation, counts: ImageCounts, predictions: list[bytes], ious: list[float], number: int
) -> list[ClassExamples]:
    """Return the worst and best images of the classes, lowest IoU first, as many as MOST_EXAMPLES allow."""
    dataset = evaluation.dataset
    order = [k for k in np.argsort(ious).tolist() if counts.truth[:, k].any()]
    found = []
    for k in order[: MOST_EXAMPLES // (2 * number) if number else 0]:
        iou, ranked = rank(counts, k)
        worst = ranked[:number]
        best = [index for index in reversed(ranked) if index not in worst][:number]

        def draw(index: int, k: int = k, iou: NDArray[np.float64] = iou) -> Example:
            share = counts.truth[index, k] / counts.truth[index].sum()
            text = f"IoU {iou[index]:.4f}, {100 * share:.1f} % of its labelled pixels"
            return draw_example(dataset[index], unpack(predictions[index]), dataset, text, k)

        found.append(ClassExamples(dataset.classes[k], ious[k], [draw(i) for i in worst], [draw(i) for i in best]))
    return found


def rank(counts: ImageCounts, k: int) -> tuple[NDArray[np.float64], list[int]]:
    """Return class k's IoU in each image, and the indices of the images with enough of its pixels, lowest IoU first."""
    correct, truth, predicted = (part[:, k] for part in counts[:3])
    iou = correct / np.maximum(truth + predicted - correct, 1)
    shown = np.flatnonzero(truth > 0)
    enough = shown[truth[shown] >= SMALLEST_SHARE * counts.truth[shown].sum(1)]
    chosen = enough if len(enough) else shown
    return iou, chosen[np.lexsort((-truth[chosen], iou[chosen]))].tolist()


def draw_example(
    item: dict[str, Any], prediction: NDArray[np.uint8], dataset: SegmentationDataset, caption: str, k: int | None
) -> Example:
    """Return an item of a dataset with its shrunk prediction; the errors are those of class `k`, or all."""
    errors = error_map(prediction, shrink(item["mask"].numpy()), k)
    return draw_panels(item, {"prediction": prediction}, dataset, caption, {"errors": (errors, ERROR_COLORS)})


def draw_panels(
    item: dict[str, Any],
    predictions: Mapping[str, NDArray[np.uint8]],
    dataset: SegmentationDataset,
    caption: str,
    maps: Mapping[str, tuple[NDArray[np.uint8], Mapping[int, Color]]],
) -> Example:
    """Return an item of a dataset with shrunk predictions, and maps of indices in colours of their own, by title."""
    truth = shrink(item["mask"].numpy())
    image = Image.fromarray(as_rgb(item["image"].permute(1, 2, 0).numpy()))
    image = image.resize((truth.shape[1], truth.shape[0]), Image.Resampling.BOX)
    colors = dict(enumerate(dataset.palette)) | {IGNORE_INDEX: VOID}
    panels = {"image": photo_uri(np.asarray(image)), "truth": indices_uri(truth, colors)}
    panels |= {title: indices_uri(labels, colors) for title, labels in predictions.items()}
    panels |= {title: indices_uri(indices, own) for title, (indices, own) in maps.items()}
    return Example(item["name"], caption, panels, image.width, image.height)


def error_map(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], k: int | None) -> NDArray[np.uint8]:
    """Return ERROR_COLORS' indices (H, W): for class `k` right, missed and false pixels; else all wrong as missed."""
    errors = np.full(truth.shape, NEUTRAL, np.uint8)
    if k is None:
        errors[prediction != truth] = MISSED
    else:
        errors[(truth == k) & (prediction == k)] = RIGHT
        errors[(truth == k) & (prediction != k)] = MISSED
        errors[(truth != k) & (prediction == k)] = FALSE
    errors[truth == IGNORE_INDEX] = IGNORE_INDEX
    return errors


def highest_losses(
    evaluation: Evaluation,
    dataset: SegmentationDataset,
    limit: int | None,
    shown: int,
    num_workers: int | None,
    trust: Collection[str],
) -> LossResult:
    """Return the images of a split without augmentation with the highest loss, that of the run's validations.

    `limit`: as many images, drawn at random, instead of all.
    """
    chosen = list(range(len(dataset)))
    if limit is not None and limit < len(dataset):
        chosen = np.sort(np.random.default_rng(0).choice(len(dataset), limit, replace=False)).tolist()
    results = list(image_losses(evaluation, dataset, chosen, num_workers, trust))
    losses = np.array([loss for loss, _, _ in results])
    labelled = np.count_nonzero(~np.isnan(losses))
    highest = np.argsort(-losses, kind="stable")[: min(shown, labelled)].tolist()  # NaN is last
    return LossResult(
        len(chosen),
        len(dataset),
        float(np.nanmean(losses)) if labelled else nan,
        [
            draw_example(
                dataset[chosen[k]],
                unpack(results[k][2]),
                dataset,
                f"loss {losses[k]:.3f}, {100 * results[k][1]:.1f} % wrong",
                None,
            )
            for k in highest
        ],
    )


def image_losses(
    evaluation: Evaluation,
    dataset: SegmentationDataset,
    indices: Sequence[int],
    num_workers: int | None,
    trust: Collection[str],
) -> Iterator[tuple[float, float, bytes]]:
    """Yield (loss, share of wrong pixels, packed prediction) of each image at `indices`; loss NaN if all is void."""
    config, device = evaluation.metadata.config, evaluation.network.device
    if not config.get("loss"):
        raise UserError("training_images: the checkpoint names no loss; set training_images=0")
    check_trust(config, trust, ["loss"])
    loss = instantiate(config["loss"], "loss").to(device)
    for batch in image_loader(dataset, num_workers, device.type == "cuda", indices):
        with torch.inference_mode():
            images, mask = batch["image"].to(device), batch["mask"].to(device)
            classes, logits = classes_and_logits(evaluation.inference(evaluation.network, images), images)
            counted = mask != IGNORE_INDEX
            wrong = (classes != mask) & counted
            share = int(wrong.sum()) / max(int(counted.sum()), 1)
            value = float(loss(logits, mask)) if counted.any() else nan
        yield value, share, pack(classes[0].cpu().numpy())
