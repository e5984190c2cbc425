"""Predictions of image files, and the pictures that are written of them."""

import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from rich.progress import track
from torch import Tensor

from segframe.config.schema import PredictConfig
from segframe.config.validate import check_keys, did_you_mean
from segframe.data.file_listing import IMAGE_SUFFIXES
from segframe.data.image_io import read_image
from segframe.data.label_map import Palette
from segframe.errors import TO_PREDICT, ImageError, UserError, translate_errors
from segframe.files import write_text
from segframe.inference.base import Inference, Postprocess, Scores, autocast_dtype, classify
from segframe.inference.build import build_inference, pick_device
from segframe.models.from_checkpoint import restore
from segframe.models.segmenter import Segmenter
from segframe.visualization.heatmaps import feature_grid, heat_map
from segframe.visualization.overlays import colorize, legend, overlay, save_png

STAGES = ("c1", "c2", "c3", "c4", "c5")


def find_images(source: Path, output: Path) -> dict[Path, Path]:
    """The image files of a folder (and its sub-folders, but `output`), or the one file; each with its outputs' name.

    Also what is named as an image but no file: dangling links, pipes. Reading it with `read` says so.
    """
    if source.is_file():
        return {source: Path(source.stem)}
    if not source.is_dir():
        raise UserError(f"input={source}: there is no such file or folder")
    if source.resolve().is_relative_to(output.resolve()):
        raise UserError(
            f"input={source} lies within output={output}, whose pictures and classes.txt are the predictions': choose "
            "another output, which may lie within input"
        )
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir())
    kept_out = os.path.realpath(output)
    paths = [path for path in paths if not Path(os.path.realpath(path)).is_relative_to(kept_out)]
    if not paths:
        raise UserError(f"input={source}: there is no image in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return output_names(paths, source)


def read(path: Path) -> np.ndarray:
    """An image file as uint8 RGB (H, W, 3); UnfitImage where it cannot be read, so that the others go on."""
    if not path.is_file():
        kind = "a link to nothing" if path.is_symlink() else "no file, but a pipe or a device"
        raise ImageError(f"{path} is {kind}")
    try:
        return read_image(path)
    except UserError as error:
        raise ImageError(str(error)) from error


def output_names(paths: list[Path], source: Path) -> dict[Path, Path]:
    """Each path below `source` without its suffix, but for those that would then be named as another one."""
    names = {path: path.relative_to(source).with_suffix("") for path in paths}
    # a.jpg and a.png keep their suffix; so does then a.jpg.png, which would be a.jpg too.
    while shared := {name for name, count in Counter(names.values()).items() if count > 1}:
        names = {path: path.relative_to(source) if name in shared else name for path, name in names.items()}
    return names


class Prediction(NamedTuple):
    """One image and what the network says of it."""

    image: np.ndarray
    """uint8 RGB (H, W, 3)"""
    classes: np.ndarray
    """uint8 (H, W)"""
    scores: Scores
    """As the inference gave them, before any postprocess; one image."""


def predict(
    segmenter: Segmenter, image: np.ndarray, inference: Inference, postprocess: Postprocess | None, device: torch.device
) -> Prediction:
    """The prediction of an image, uint8 RGB (H, W, 3)."""
    with torch.inference_mode():
        batch = as_batch(image, device)
        scores = inference(segmenter, batch)
        classes = classify(scores, batch, postprocess)[0]
    return Prediction(image, classes.cpu().numpy(), scores)


def as_batch(image: np.ndarray, device: torch.device) -> Tensor:
    """An image uint8 (H, W, 3) as a batch (1, 3, H, W)."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(device)


def write(folder: Path, name: Path, prediction: Prediction, palette: Palette, alpha: float) -> None:
    """Writes index/<name>.png, colour/<name>.png and overlay/<name>.png."""
    image, classes = prediction.image, prediction.classes
    save_png(folder / "index" / f"{name}.png", classes)
    save_png(folder / "colour" / f"{name}.png", colorize(classes, palette))
    save_png(folder / "overlay" / f"{name}.png", overlay(image, classes, palette, alpha))


def write_key(folder: Path, classes: tuple[str, ...], palette: Palette) -> None:
    """Writes what the pictures' values and colours stand for: classes.txt, line k + 1 for value k, and legend.png."""
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))
    save_png(folder / "legend.png", legend(classes, palette, range(len(classes)), 640))


def choose_classes(heatmaps: Any, classes: tuple[str, ...]) -> list[int]:
    """The indices of the classes that `heatmaps` names: a list of names, one name, or all."""
    if heatmaps == "all":
        return list(range(len(classes)))
    several = isinstance(heatmaps, Sequence) and not isinstance(heatmaps, str)
    given = list(heatmaps) if several else [] if heatmaps is None else [heatmaps]
    if not all(isinstance(name, str | int | float) for name in given):
        raise UserError(f"heatmaps={heatmaps}: give a list of class names, one name, or all")
    names = [str(name) for name in given]  # a class may be called 5
    for name in names:
        if name not in classes:
            raise UserError(f"heatmaps={name}: the checkpoint knows no such class{did_you_mean(name, classes)}")
    return [classes.index(name) for name in names]


def class_folders(classes: tuple[str, ...]) -> list[str]:
    """A folder's name for each class; where several would have the same, or none, each with its index: `a_b (1)`."""
    # A checkpoint names its classes as it likes; letters take up to 4 of the 255 bytes of a name.
    names = [re.sub(r"[^\w +-]+", "_", name).strip()[:50] for name in classes]
    count = Counter(name.casefold() for name in names)
    return [name if name and count[name.casefold()] == 1 else f"{name} ({k})".strip() for k, name in enumerate(names)]


def write_heatmaps(
    folder: Path, name: Path, prediction: Prediction, chosen: list[int], classes: tuple[str, ...]
) -> None:
    """Writes heatmaps/<class>/<name>.png: the softmax scores of the chosen classes, cell by cell; see class_folders."""
    if not chosen:
        return
    with torch.inference_mode():
        scores = prediction.scores.values[0].float().softmax(0)[chosen].cpu().numpy()
    height, width = scores.shape[1:]
    folders = class_folders(classes)
    for index, score in zip(chosen, scores, strict=True):
        title = f"{classes[index]}: softmax score, {height} x {width} cells"
        picture = heat_map(prediction.image, score, title, prediction.scores.aligned_stride)
        save_png(folder / "heatmaps" / folders[index] / f"{name}.png", picture)


def write_feature_maps(
    folder: Path, name: Path, image: np.ndarray, segmenter: Segmenter, channels: int, device: torch.device
) -> None:
    """Writes features/<name>/c1.png ... c5.png: `channels` channels of each of the backbone's stages."""
    with torch.inference_mode():
        maps = segmenter.backbone(segmenter.normalize(as_batch(image, device)))
    for stage in (stage for stage in STAGES if stage in maps):
        features = maps[stage][0].float().cpu().numpy()
        count, height, width = features.shape
        title = (
            f"{stage}: {count} channels of {height} x {width} cells, stride {segmenter.backbone.features[stage].stride}"
            f"; the {min(channels, count)} that vary most, each on its own scale"
        )
        save_png(folder / "features" / name / f"{stage}.png", feature_grid(features, channels, title))


def predict_images(config: DictConfig) -> None:
    """Predict images one after the other; one that fails is reported and skipped, and the exit code is then 1."""
    check_keys(config, PredictConfig)
    if not 0 <= config.alpha <= 1:
        raise UserError(f"alpha must lie between 0 and 1, got {config.alpha}")
    if config.feature_channels < 1:
        raise UserError(f"feature_channels must be at least 1, got {config.feature_channels}")
    output = Path(config.output)
    images = find_images(Path(config.input), output)
    inference, postprocess = build_inference(config)
    restored = restore(config.checkpoint, config.output_stride)
    metadata = restored.metadata
    inference = inference.with_training_defaults(metadata.config)
    heated = choose_classes(config.heatmaps, metadata.classes)
    device = pick_device(config.accelerator)
    segmenter = restored.segmenter.to(device)
    segmenter.autocast_dtype = autocast_dtype(config.precision, metadata.config)
    write_key(output, metadata.classes, metadata.palette)

    failures = 0
    for path, name in track(images.items(), "predicting", disable=not sys.stderr.isatty()):
        try:
            with translate_errors(less=TO_PREDICT, image=path):
                image = read(path)
                prediction = predict(segmenter, image, inference, postprocess, device)
        except ImageError as error:
            failures += 1
            print(f"skipped: {error}", file=sys.stderr)
            continue
        write(output, name, prediction, metadata.palette, config.alpha)
        write_heatmaps(output, name, prediction, heated, metadata.classes)
        if config.feature_maps:
            write_feature_maps(output, name, image, segmenter, config.feature_channels, device)
    done = f"{len(images) - failures} of {len(images)} images predicted"
    print(f"{done}, in {config.output}; inference: {inference}")
    if failures:
        sys.exit(1)
