"""Predictions as PNG files: class indices, colours, overlays, heat maps and feature maps."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from segframe.data.label_map import Palette
from segframe.data.loader import batch_images
from segframe.files import write_text
from segframe.inference.base import Scores
from segframe.models.segmenter import Segmenter
from segframe.visualization.heatmaps import feature_grid, heat_map
from segframe.visualization.overlays import add_legend, colorize, legend, overlay, save_png

STAGES = ("c1", "c2", "c3", "c4", "c5")


class Prediction(NamedTuple):
    """An image with its predicted classes and scores."""

    image: np.ndarray
    """(H, W, C) in 0 ... 255, uint8 or float32."""
    classes: np.ndarray
    """uint8 (H, W)"""
    scores: Scores
    """Scores of a batch of this one image, before post-processing; seamless only if predicted for heat maps."""


def write_key(folder: Path, classes: tuple[str, ...], palette: Palette) -> None:
    """Write the meaning of values and colours: classes.txt, line k + 1 for value k, and legend.png."""
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))
    save_png(folder / "legend.png", legend(classes, palette, range(len(classes)), 640))


class OverlayStyle(NamedTuple):
    """Settings of overlays."""

    names: tuple[str, ...]
    palette: Palette
    alpha: float
    background: int | None
    """The class that is not tinted, nor in the legend."""
    legend: bool

    def draw(self, image: np.ndarray, classes: np.ndarray, seen: set[int]) -> np.ndarray:
        """Return the overlay of an image (H, W, C) and its classes (H, W); `seen` gets those that occur.

        Its legend names all that were seen: that of a video's frames grows, and does not flicker.
        """
        picture = overlay(image, classes, self.palette, self.alpha, self.background)
        if not self.legend:
            return picture
        seen.update({*np.unique(classes).tolist()} - {self.background})
        return add_legend(picture, self.names, self.palette, sorted(seen))


def write_masks(folder: Path, name: Path, prediction: Prediction, style: OverlayStyle) -> None:
    """Write index/<name>.png, colour/<name>.png and overlay/<name>.png."""
    image, classes = prediction.image, prediction.classes
    save_png(folder / "index" / f"{name}.png", classes)
    save_png(folder / "colour" / f"{name}.png", colorize(classes, style.palette))
    save_png(folder / "overlay" / f"{name}.png", style.draw(image, classes, set()))


def write_heatmaps(
    folder: Path, name: Path, prediction: Prediction, chosen: list[int], classes: tuple[str, ...]
) -> None:
    """Write heatmaps/<class>/<name>.png: the softmax scores of the chosen classes, one block of pixels per cell."""
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


def class_folders(classes: tuple[str, ...]) -> list[str]:
    """Return a folder name for each class, with the class index where names would be equal or empty: `a_b (1)`."""
    # Class names are arbitrary text; a letter takes up to 4 of the 255 bytes of a file name.
    names = [re.sub(r"[^\w +-]+", "_", name).strip()[:50] for name in classes]
    count = Counter(name.casefold() for name in names)
    return [name if name and count[name.casefold()] == 1 else f"{name} ({k})".strip() for k, name in enumerate(names)]


def write_feature_maps(folder: Path, name: Path, image: np.ndarray, segmenter: Segmenter, channels: int) -> None:
    """Write features/<name>/c1.png ... c5.png: `channels` channels of each of the backbone's stages."""
    with torch.inference_mode():
        maps = segmenter.backbone(segmenter.normalize(batch_images([torch.from_numpy(image)]).to(segmenter.device)))
    for stage in (stage for stage in STAGES if stage in maps):
        features = maps[stage][0].float().cpu().numpy()
        count, height, width = features.shape
        title = (
            f"{stage}: {count} channels of {height} x {width} cells, stride {segmenter.backbone.features[stage].stride}"
            f"; the {min(channels, count)} that vary most, each on its own scale"
        )
        save_png(folder / "features" / name / f"{stage}.png", feature_grid(features, channels, title))
