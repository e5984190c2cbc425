"""Prediction of image files: masks, overlays, heat maps and feature maps as PNG files."""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.progress import track

from segframe import distributed
from segframe.config.schema import PredictConfig
from segframe.config.validate import check_keys, did_you_mean
from segframe.data.datamodule import batch_images
from segframe.data.file_listing import IMAGE_SUFFIXES
from segframe.data.image_io import read_image
from segframe.data.pixel_format import PixelFormat
from segframe.errors import TO_PREDICT, ImageError, UserError, check_range, translate_errors
from segframe.inference.base import Inference, Postprocess, classify
from segframe.inference.build import build_inference, build_postprocess, pick_device
from segframe.inference.evaluate import shows_progress
from segframe.inference.prediction_files import (
    Prediction,
    write_feature_maps,
    write_heatmaps,
    write_key,
    write_masks,
)
from segframe.inference.prepare import prepare
from segframe.models.from_checkpoint import restore
from segframe.models.segmenter import Segmenter


def predict_images(config: DictConfig) -> None:
    """Predict images one by one; those that cannot be predicted are skipped, and the exit code is then 1.

    With several devices each predicts its share.
    """
    check_keys(config, PredictConfig)
    check_range("alpha", config.alpha, 0, 1)
    check_range("feature_channels", config.feature_channels, 1)
    output = Path(config.output)
    images = distributed.on_rank_zero(find_images, Path(config.input), output)  # before there are any in `output`
    postprocess = build_postprocess(config.postprocess)
    segmenter, metadata, _ = restore(config.checkpoint, config.output_stride, trust=config.trust)
    trust = config.trust if HydraConfig.get().runtime.choices["inference"] == "checkpoint" else None
    inference = build_inference(config.inference, metadata.config, trust)
    heatmap_classes = choose_classes(config.heatmaps, metadata.classes)
    pixels = PixelFormat.of_checkpoint(segmenter.channels, metadata.config)
    device = pick_device(config.accelerator)
    prepare(segmenter, metadata.config, device, config.precision)
    if distributed.rank() == 0:
        write_key(output, metadata.classes, metadata.palette)

    skipped = 0
    share = list(images.items())[distributed.rank() :: distributed.world()]
    for path, name in track(share, "predicting", disable=not shows_progress()):
        try:
            with translate_errors(TO_PREDICT, image=path):
                prediction = predict(segmenter, read(path, pixels), inference, postprocess, device)
        except ImageError as error:
            skipped += 1
            print(f"skipped: {error}", file=sys.stderr)
            continue
        write_masks(output, name, prediction, metadata.palette, config.alpha)
        write_heatmaps(output, name, prediction, heatmap_classes, metadata.classes)
        if config.feature_maps:
            write_feature_maps(output, name, prediction.image, segmenter, config.feature_channels, device)
    skipped = sum(distributed.gather(skipped))
    print(f"{len(images) - skipped} of {len(images)} images predicted, in {output}; inference: {inference}")
    if skipped:
        sys.exit(1)


def find_images(source: Path, output: Path) -> dict[Path, Path]:
    """Return the one file or the images below a folder, except `output`, with their outputs' names."""
    if source.is_file():
        if source.suffix.lower() not in IMAGE_SUFFIXES:
            raise UserError(
                f"input={source}: no image by its suffix ({', '.join(IMAGE_SUFFIXES)}); give an image or a folder of "
                "images, such as the frames of a video: ffmpeg -i video.mp4 frames/%06d.png"
            )
        return {source: Path(source.stem)}
    if not source.is_dir():
        raise UserError(f"input={source}: no such file or folder")
    if source.resolve().is_relative_to(output.resolve()):
        raise UserError(
            f"input={source} lies within output={output}, where the predictions are written; choose another output, "
            "which may lie within input"
        )
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir())
    excluded = os.path.realpath(output)
    paths = [path for path in paths if not Path(os.path.realpath(path)).is_relative_to(excluded)]
    if not paths:
        raise UserError(f"input={source}: there is no image in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return output_names(paths, source)


def output_names(paths: list[Path], source: Path) -> dict[Path, Path]:
    """Return each path relative to `source`, without its suffix unless another image would get the same name."""
    names = {path: path.relative_to(source).with_suffix("") for path in paths}
    # a.jpg and a.png keep their suffixes; then so does a.jpg.png, which would be named a.jpg too.
    while shared := {name for name, count in Counter(names.values()).items() if count > 1}:
        names = {path: path.relative_to(source) if name in shared else name for path, name in names.items()}
    return names


def choose_classes(heatmaps: Any, classes: tuple[str, ...]) -> list[int]:
    """Return the indices of the classes that `heatmaps` names: a list of names, one name, or all."""
    if heatmaps == "all":
        return list(range(len(classes)))
    chosen = [heatmaps] if isinstance(heatmaps, str | int | float) else heatmaps or []
    names = [str(name) for name in chosen]  # a class may be named 5
    for name in names:
        if name not in classes:
            raise UserError(f"heatmaps={name}: the checkpoint has no such class{did_you_mean(name, classes)}")
    return [classes.index(name) for name in names]


def read(path: Path, pixels: PixelFormat) -> np.ndarray:
    """Read an image file as (H, W, C) in 0 ... 255, uint8 or float32; ImageError if that fails."""
    try:
        return pixels.scaled(read_image(path, pixels))
    except UserError as error:
        raise ImageError(str(error)) from error


def predict(
    segmenter: Segmenter, image: np.ndarray, inference: Inference, postprocess: Postprocess | None, device: torch.device
) -> Prediction:
    """Return the prediction for an image (H, W, C) in 0 ... 255, uint8 or float32."""
    with torch.inference_mode():
        batch = batch_images([torch.from_numpy(image)]).to(device)
        scores = inference(segmenter, batch)
        classes = classify(scores, batch, postprocess)[0]
    return Prediction(image, classes.cpu().numpy(), scores)
