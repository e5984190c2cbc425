"""Prediction of files: masks, overlays, heat maps and feature maps of images as PNG files, overlays of videos."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress

from segframe import distributed
from segframe.config.composition import chosen_options
from segframe.config.schema import PredictConfig
from segframe.config.validate import check_keys, did_you_mean
from segframe.data.image_io import read_image
from segframe.data.loader import batch_images
from segframe.data.pixel_format import PixelFormat, fit
from segframe.errors import TO_PREDICT, ImageError, UserError, translate_errors
from segframe.inference.base import Inference, Postprocess, classify
from segframe.inference.build import build_inference, build_postprocess
from segframe.inference.evaluate import shows_progress
from segframe.inference.inputs import find_inputs, is_video
from segframe.inference.network import Network
from segframe.inference.onnx_network import check_scores
from segframe.inference.open_network import open_configured
from segframe.inference.prediction_files import (
    OverlayStyle,
    Prediction,
    write_feature_maps,
    write_heatmaps,
    write_key,
    write_masks,
)
from segframe.inference.submission import Submission
from segframe.inference.video import draw_video
from segframe.models.segmenter import Segmenter
from segframe.visualization.overlays import save_png


def predict_images(config: DictConfig) -> None:
    """Predict images and videos one by one; those that cannot be predicted are skipped, and the exit code is then 1.

    With several devices each predicts its share; a video is one piece of work, as its frames are written in order.
    """
    check_keys(config, PredictConfig)
    output = Path(config.output)
    inputs = distributed.on_rank_zero(find_inputs, Path(config.input), output)  # before there are any in `output`
    postprocess = build_postprocess(config.postprocess)
    network, metadata, path = open_configured(config)
    if config.feature_maps and not isinstance(network, Segmenter):
        raise UserError(f"feature_maps=true: {path} is an exported file, which has none; give the checkpoint")
    trust = config.trust if chosen_options()["inference"] == "checkpoint" else None
    inference = build_inference(config.inference, metadata.config, trust)
    heatmap_classes = choose_classes(config.heatmaps, metadata.classes)
    check_scores(network, inference, {"postprocess": postprocess is not None, "heatmaps": bool(heatmap_classes)})
    submission = Submission(metadata, config.trust) if config.submission else None
    if heatmap_classes or config.feature_maps or submission:
        check_no_video(inputs)
    background = choose_background(config.background, metadata.classes)
    style = OverlayStyle(metadata.classes, metadata.palette, config.alpha, background, config.legend)
    pixels = PixelFormat.of_checkpoint(network.channels, metadata.config)
    if distributed.rank() == 0:
        write_key(output, metadata.classes, metadata.palette)

    def draw_frames(path: Path, name: Path, step: Callable[[int | None], None]) -> None:
        seen: set[int] = set()

        def draw(frame: np.ndarray) -> np.ndarray:
            image = convert(path, frame, pixels)
            return style.draw(image, predict(network, image, inference, postprocess).classes, seen)

        draw_video(path, output / "overlay" / f"{name}.mp4", draw, step)

    skipped = 0
    share = list(inputs.items())[distributed.rank() :: distributed.world()]
    with Progress(disable=not shows_progress(), console=Console(stderr=True)) as progress:
        for path, name in progress.track(share, description="predicting"):
            try:
                with translate_errors(TO_PREDICT, image=path):
                    if is_video(path):
                        with frames_progress(progress, path) as step:
                            draw_frames(path, name, step)
                        continue
                    image = read(path, pixels)
                    prediction = predict(network, image, inference, postprocess, bool(heatmap_classes))
            except ImageError as error:
                skipped += 1
                print(f"skipped: {error}", file=sys.stderr)
                continue
            write_masks(output, name, prediction, style)
            if submission is not None:
                save_png(output / "submission" / f"{name}.png", submission.encode(prediction.classes))
            write_heatmaps(output, name, prediction, heatmap_classes, metadata.classes)
            if config.feature_maps:
                assert isinstance(network, Segmenter)
                write_feature_maps(output, name, prediction.image, network, config.feature_channels)
    skipped = sum(distributed.gather(skipped))
    kind = "files" if any(map(is_video, inputs)) else "images"
    print(f"{len(inputs) - skipped} of {len(inputs)} {kind} predicted, in {output}; inference: {inference}")
    if skipped:
        sys.exit(1)


@contextmanager
def frames_progress(progress: Progress, path: Path) -> Iterator[Callable[[int | None], None]]:
    """Show the frames of a video in a line of their own; yields the function to call for each, with their number."""
    task = progress.add_task(path.name, total=None)
    try:
        yield lambda total: progress.update(task, advance=1, total=total)
    finally:
        progress.remove_task(task)


def check_no_video(inputs: Iterable[Path]) -> None:
    """Raise UserError if a video is among the inputs of heat maps, feature maps or submissions."""
    for path in filter(is_video, inputs):
        raise UserError(
            f"heatmaps, feature_maps and submission are of images, and {path} is a video; give input=... a pattern of "
            "the images, or extract frames: ffmpeg -i video.mp4 frames/%06d.png"
        )


def choose_background(name: str | None, classes: tuple[str, ...]) -> int | None:
    """Return the index of the class that `background` names; auto: that of the class named so, None without one."""
    if name == "auto":
        return next((k for k, known in enumerate(classes) if known.casefold() == "background"), None)
    if name is not None and name not in classes:
        raise UserError(f"background={name}: the checkpoint has no such class{did_you_mean(name, classes)}")
    return None if name is None else classes.index(name)


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


def convert(path: Path, frame: np.ndarray, pixels: PixelFormat) -> np.ndarray:
    """Return a video's frame (H, W, 3) as the network reads images; ImageError if it reads others."""
    try:
        return pixels.scaled(fit(path, frame, pixels))
    except UserError as error:
        raise ImageError(str(error)) from error


def predict(
    network: Network,
    image: np.ndarray,
    inference: Inference,
    postprocess: Postprocess | None,
    for_heatmaps: bool = False,
) -> Prediction:
    """Return the prediction for an image (H, W, C) in 0 ... 255, uint8 or float32.

    Scores `for_heatmaps` have no seams of windows: where the inference has some, the network runs again for them.
    """
    with torch.inference_mode():
        batch = batch_images([torch.from_numpy(image)]).to(network.device)
        scores = inference(network, batch)
        classes = classify(scores, batch, postprocess)[0]
        if for_heatmaps and (seamless := inference.without_seams()) is not inference:
            scores = seamless(network, batch)
    return Prediction(image, classes.cpu().numpy(), scores)
