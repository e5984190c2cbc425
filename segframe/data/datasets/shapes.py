"""Shapes: a small generated dataset of textured, overlapping figures with a void border."""

import colorsys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segframe import IGNORE_INDEX
from segframe.data.base import SegmentationDataset
from segframe.data.file_listing import Sample
from segframe.data.label_map import voc_palette
from segframe.data.pixel_format import PixelFormat
from segframe.data.transforms import Transform
from segframe.errors import UserError, check_range

NUM_IMAGES = {"train": 600, "val": 100, "test": 100}
CACHE_BYTES = 1 << 26

Draw = Callable[[np.random.Generator, int], np.ndarray]
"""Returns a figure as 0/1 mask, uint8 (size, size)."""


class Shapes(SegmentationDataset):
    """Square images of 2 to 6 figures, one class per shape; an image is a function of (split, index, size) alone.

    Most figures have the hue and texture of their class. `line` is 2 to 3 pixels wide, `star` is in one image of ten.
    """

    classes = ("background", "circle", "square", "triangle", "ring", "cross", "line", "star")
    palette = voc_palette(len(classes))
    reads_files = False
    splits = tuple(NUM_IMAGES)
    source = "data.dataset.num_images needs at least 1 for this split"

    def __init__(
        self,
        root: str | Path | None = None,
        split: str = "train",
        transform: Transform | None = None,
        seed: int = 0,
        size: int = 96,
        num_images: Mapping[str, int] | None = None,
    ) -> None:
        check_range("data.dataset.size", size, 32, 4096)
        self.size = size
        self.num_images = NUM_IMAGES | dict(num_images or {})
        for name, number in self.num_images.items():
            check_range(f"data.dataset.num_images.{name}", number, 0, 1_000_000)
        self.generated: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        super().__init__(root or "", split, transform, seed)

    def find(self) -> list[Sample]:
        """Return one sample per image to be generated."""
        return [Sample(f"{self.split}_{index:04d}", Path(), Path()) for index in range(self.num_images[self.split])]

    @classmethod
    def mask_values(cls, classes: Sequence[str], settings: Mapping[str, Any]) -> list[int]:
        """Raise UserError: there are no masks of a release."""
        raise UserError("Shapes are generated, and no server expects masks of them")

    def read_mask(self, index: int) -> np.ndarray:
        """Return the mask as uint8 (size, size), void = 255."""
        return self.read(index)[1]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the image (size, size, C) and its mask: RGB, its grey, or RGB and mixtures of its colours."""
        if index not in self.generated:
            image, mask = generate(np.random.default_rng((self.splits.index(self.split), index)), self.size)
            pair = _to_format(image, self.pixels), mask
            if len(self) * 4 * self.size**2 > CACHE_BYTES:
                return pair
            self.generated[index] = pair
        image, mask = self.generated[index]
        return image.copy(), mask.copy()


def _to_format(image: np.ndarray, pixels: PixelFormat) -> np.ndarray:
    if pixels.channels < 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].repeat(pixels.channels, axis=2)
    bands = [255 - image[..., k % 3] // 2 - image[..., (k + 1) % 3] // 2 for k in range(3, pixels.channels)]
    image = np.dstack([image, *bands])
    return image if pixels.depth == np.uint8 else (image.astype(np.uint32) * pixels.max_value // 255).astype(np.uint16)


def generate(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image, uint8 (size, size, 3), and its mask, uint8 (size, size)."""
    hue = rng.random()
    ground = _colour(hue, 0.3 * rng.random(), rng.uniform(0.3, 0.9)), _colour(hue, 0.3, rng.uniform(0.3, 0.9))
    image = _texture(rng, size, int(rng.integers(NUM_BACKGROUND_TEXTURES)), ground)
    mask = np.zeros((size, size), np.uint8)
    figures = rng.integers(1, len(FIGURES), size=rng.integers(2, 7)).tolist()
    if rng.random() < 0.1:
        figures.append(len(FIGURES))
    for label in figures:
        kind = (label + 1) % len(TEXTURES) if rng.random() < 0.9 else int(rng.integers(len(TEXTURES)))
        figure = FIGURES[label - 1](rng, size)
        hue = (label + rng.normal(0, 0.1)) / len(FIGURES) if rng.random() < 0.98 else rng.random()
        bright, dark = rng.uniform(0.75, 1), rng.uniform(0.35, 0.55)
        colours = _colour(hue, rng.uniform(0.6, 1), bright), _colour(hue, rng.uniform(0.6, 1), dark)
        inside = figure.astype(bool)
        image[inside] = _texture(rng, size, kind, colours)[inside]
        mask[cv2.dilate(figure, np.ones((3, 3), np.uint8)).astype(bool)] = IGNORE_INDEX
        mask[inside] = label
    light = _ramp(rng, size) * rng.uniform(0.1, 0.4) + 0.8
    noise = rng.standard_normal((size, size, 3), np.float32) * rng.uniform(4, 12)
    return np.clip(image * light[..., None] + noise, 0, 255).astype(np.uint8), mask


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)


def _place(rng: np.random.Generator, size: int, points: np.ndarray) -> np.ndarray:
    # Points in the unit circle -> rotated, scaled and placed at random.
    angle, radius = rng.uniform(0, 2 * np.pi), size * rng.uniform(0.12, 0.24)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.round(points @ turn * radius + rng.uniform(0.12, 0.88, 2) * size).astype(np.int32)


def _polygon(points: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    return cv2.fillPoly(np.zeros((size, size), np.uint8), [_place(rng, size, points)], 1)


def _circular(hole: float, rng: np.random.Generator, size: int) -> np.ndarray:
    centre = rng.uniform(0.12, 0.88, 2) * size
    distance = np.hypot(*(np.mgrid[:size, :size] - centre[:, None, None])) / (size * rng.uniform(0.1, 0.2))
    return ((distance <= 1) & (distance >= hole)).astype(np.uint8)


def _line(rng: np.random.Generator, size: int) -> np.ndarray:
    points = np.round(rng.uniform(0.05, 0.95, (rng.integers(2, 5), 2)) * size).astype(np.int32)
    return cv2.polylines(np.zeros((size, size), np.uint8), [points], False, 1, thickness=int(rng.integers(2, 4)))


def _points_on_circles(radii: list[float]) -> np.ndarray:
    angles = np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array(radii)[:, None]


_BAR = 0.3
_CROSS = np.array(
    [
        *((_BAR, 1), (_BAR, _BAR), (1, _BAR), (1, -_BAR), (_BAR, -_BAR), (_BAR, -1)),
        *((-_BAR, -1), (-_BAR, -_BAR), (-1, -_BAR), (-1, _BAR), (-_BAR, _BAR), (-_BAR, 1)),
    ]
)
FIGURES: tuple[Draw, ...] = (
    partial(_circular, 0.0),
    partial(_polygon, _points_on_circles([1.0] * 4)),
    partial(_polygon, _points_on_circles([1.1] * 3)),
    partial(_circular, 0.6),
    partial(_polygon, _CROSS),
    _line,
    partial(_polygon, _points_on_circles([1.2, 0.45] * 5)),
)


def _ramp(rng: np.random.Generator, size: int) -> np.ndarray:
    # A plane rising from 0 to 1 in a random direction.
    angle = rng.uniform(0, 2 * np.pi)
    rows, cols = np.mgrid[:size, :size].astype(np.float32)
    plane = rows * np.cos(angle) + cols * np.sin(angle)
    return (plane - plane.min()) / np.ptp(plane)


def _plain(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.full((size, size), 0.5, np.float32)


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    return (_ramp(rng, size) * size / rng.uniform(4, 8) % 1 > 0.5).astype(np.float32)


def _checker(rng: np.random.Generator, size: int) -> np.ndarray:
    cell = rng.integers(3, 6)
    rows, cols = np.mgrid[:size, :size] // cell
    return ((rows + cols) % 2).astype(np.float32)


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    coarse = rng.random((size // 8, size // 8), np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _dots(rng: np.random.Generator, size: int) -> np.ndarray:
    rows, cols = np.mgrid[:size, :size] % 6 - 2.5
    return (rows**2 + cols**2 < 4).astype(np.float32)


def _speckle(rng: np.random.Generator, size: int) -> np.ndarray:
    return (rng.random((size, size), np.float32) > 0.5).astype(np.float32)


TEXTURES = (_plain, _ramp, _clouds, _stripes, _checker, _dots, _speckle)
NUM_BACKGROUND_TEXTURES = 3
"""The first textures, this many, are used for the background."""


def _texture(rng: np.random.Generator, size: int, kind: int, colours: Iterable[np.ndarray]) -> np.ndarray:
    first, second = colours
    return first + (second - first) * TEXTURES[kind](rng, size)[..., None]
