"""A run's counts on a split, image by image: from a folder of evaluate's results, or measured now."""

import json
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig, OmegaConf

from segframe.analysis.report import measure_split
from segframe.analysis.run_records import run_folder
from segframe.data.base import SegmentationDataset
from segframe.errors import UserError
from segframe.inference.build import describe_postprocess
from segframe.inference.evaluate import open_evaluation
from segframe.inference.image_counts import ImageCounts
from segframe.inference.open_network import read_metadata


class MeasuredRun(NamedTuple):
    """A network's counts on the images of a split."""

    name: str
    config: dict[str, Any]
    """The run's config; empty where its checkpoint is not there any more."""
    classes: tuple[str, ...]
    images: list[str]
    """The names of the images."""
    counts: ImageCounts
    settings: dict[str, Any]
    """The settings of the evaluation: checkpoint, split, inference, distances."""
    dataset: SegmentationDataset | None = None
    predictions: Sequence[bytes] = ()
    """The predicted classes of each image, compressed by report_images.pack; empty for results of evaluate."""

    @property
    def split(self) -> str:
        return str(self.settings["split"])

    @property
    def counted_classes(self) -> int:
        """The number of classes in the mean IoU: those in the truth or in the predictions."""
        return int((self.counts.truth + self.counts.predicted).any(0).sum())


def read_evaluation(folder: Path, asked: Mapping[str, Any]) -> MeasuredRun | None:
    """Return the results that evaluate left in a folder; None if it left none there.

    `asked`: the settings that they must match, by their names in metrics.json; None matches any value.
    """
    if not (folder / "images.npz").is_file():
        return None
    try:
        settings = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        with np.load(folder / "images.npz", allow_pickle=False) as file:
            counts = ImageCounts(*(file[name] for name in ImageCounts._fields))
            images, classes = file["names"].tolist(), tuple(file["classes"].tolist())
        path = Path(settings["checkpoint"])
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder}: metrics.json or images.npz is damaged ({error}); run evaluate again") from error
    for name, value in asked.items():
        if value is not None and value != settings.get(name):
            has = f"{folder} holds results of {name}={settings.get(name)}"
            raise UserError(f"{name}={value}: {has}; give the run itself, or evaluate it anew")
    config = read_metadata(path).config if path.is_file() else {}
    return MeasuredRun(run_name(path, folder), config, classes, images, counts, settings)


def evaluate_run(path: Path, config: DictConfig, stored: Collection[str]) -> MeasuredRun:
    """Predict the split's images with the network of a run's folder or a checkpoint; `config`: a CompareConfig.

    `stored`: see open_evaluation; the inference is then each run's own, the data those of the first.
    """
    own = OmegaConf.merge(config, {"checkpoint": str(path)})
    assert isinstance(own, DictConfig)
    if "inference" in stored:
        own.inference = read_metadata(path).config.get("inference")
    evaluation = open_evaluation(own, stored)
    counts, predictions = measure_split(evaluation, own)
    settings = {
        "split": evaluation.split,
        "checkpoint": str(evaluation.path.absolute()),
        "inference_in_words": str(evaluation.inference),
        "postprocess_in_words": describe_postprocess(config.postprocess),
        "output_stride": config.output_stride,
        "precision": config.precision,
        "boundary_distance": config.boundary_distance,
        "boundary_tolerance": config.boundary_tolerance,
    }
    return MeasuredRun(
        run_name(evaluation.path, path),
        evaluation.metadata.config,
        counts.classes,
        counts.names,
        counts.images,
        settings,
        evaluation.dataset,
        predictions,
    )


def run_name(path: Path, given: Path) -> str:
    folder = run_folder(path)
    return folder.name if folder else given.stem


def check_same_images(runs: Sequence[MeasuredRun]) -> None:
    """UserError where runs were measured on other images, masks or classes than the first."""
    first = runs[0]
    for run in runs[1:]:
        pair = f"runs: {run.name} and {first.name}"
        if run.classes != first.classes:
            raise UserError(f"{pair} have other classes; only runs on the same classes can be compared")
        if run.images != first.images or not np.array_equal(run.counts.truth, first.counts.truth):
            raise UserError(f"{pair} were measured on other images or masks; evaluate one of them anew")
