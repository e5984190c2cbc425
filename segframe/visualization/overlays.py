"""Pictures, uint8 (H, W, 3), of masks, predictions and confusion matrices."""

from collections.abc import Iterable, Sequence
from functools import cache
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segframe import IGNORE_INDEX
from segframe.files import atomic_write

Picture = NDArray[np.uint8]
Color = tuple[int, int, int]

VOID: Color = (224, 224, 224)
INK: Color = (32, 32, 32)
PAPER: Color = (255, 255, 255)
LEGEND_GAP = 8
NUMBERED_CLASSES = 25
"""Maximum number of classes for which the cells of a confusion matrix hold numbers."""


def save_png(path: Path, picture: np.ndarray | Image.Image) -> None:
    """Write a picture or a mask, creating its folder."""
    with atomic_write(path) as file:
        (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, "PNG")


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of all pictures; `size` in pixels."""
    return ImageFont.load_default(size)


def _text_width(text: str, size: int) -> int:
    return ceil(font(size).getlength(text))


def canvas(height: int, width: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return an empty picture and its drawing interface."""
    image = Image.new("RGB", (width, height), PAPER)
    return image, ImageDraw.Draw(image)


def colorize(classes: NDArray[np.uint8], palette: Sequence[Color]) -> Picture:
    """Return the colours (H, W, 3) of class indices (H, W); void and unknown indices are light grey."""
    table = np.full((256, 3), VOID, dtype=np.uint8)
    table[: len(palette)] = palette
    return table[classes]


def as_rgb(image: np.ndarray) -> Picture:
    """Return an image (H, W, C), uint8 or float 0 ... 255, as a picture: its first three channels, or one as grey."""
    image = image[..., :3] if image.shape[2] > 2 else image[..., :1].repeat(3, axis=2)
    return np.ascontiguousarray(image if image.dtype == np.uint8 else image.clip(0, 255).round().astype(np.uint8))


def overlay(
    image: np.ndarray,
    classes: NDArray[np.uint8],
    palette: Sequence[Color],
    alpha: float = 0.5,
    untinted: int | None = None,
) -> Picture:
    """Return the image (H, W, C) blended with the colours of its classes (H, W); `alpha` is the colours' opacity.

    Pixels of the class `untinted` stay as they are.
    """
    image = as_rgb(image)
    tinted = blend(image, colorize(classes, palette), alpha)
    return tinted if untinted is None else np.where((classes == untinted)[..., None], image, tinted)


def blend(below: Picture, above: Picture, alpha: float) -> Picture:
    """Return the mean of two pictures; `alpha` is the weight of the second."""
    return ((1 - alpha) * below.astype(np.float32) + alpha * above + 0.5).astype(np.uint8)


def color_ramp(values: NDArray[np.floating], positions: Sequence[float], stops: Sequence[Color]) -> Picture:
    """Map values (...) to colours (..., 3), interpolated between the colours `stops` at `positions`."""
    return np.stack([np.interp(values, positions, channel) for channel in np.array(stops).T], -1).astype(np.uint8)


def legend(
    names: Sequence[str], palette: Sequence[Color], present: Iterable[int], width: int, size: int = 14
) -> Picture:
    """Draw a strip `width` pixels wide with the colour and name of each class index in `present` (255: void)."""
    entries = [("void", VOID) if i == IGNORE_INDEX else (names[i], palette[i]) for i in present]
    line, swatch, gap = size + 8, size, LEGEND_GAP
    column = _legend_column([name for name, _ in entries], size)
    columns = max(1, (width - gap) // column)
    image, draw = canvas(ceil(len(entries) / columns) * line + gap, width)
    for k, (name, color) in enumerate(entries):
        x, y = gap + k % columns * column, gap // 2 + k // columns * line
        middle = y + line // 2
        box = (x, middle - swatch // 2, x + swatch, middle + swatch // 2)
        draw.rectangle(box, fill=tuple(color), outline=INK)
        draw.text((x + swatch + gap, middle), name, fill=INK, font=font(size), anchor="lm")
    return np.asarray(image)


def _legend_column(names: Sequence[str], size: int) -> int:
    return max((_text_width(name, size) for name in names), default=0) + size + 3 * LEGEND_GAP


def add_legend(picture: Picture, names: Sequence[str], palette: Sequence[Color], present: Sequence[int]) -> Picture:
    """Return a picture with the legend of the classes `present` over its lower left corner, as many as find room."""
    if not present:
        return picture
    height, width = picture.shape[:2]
    size = max(9, height // 36)
    columns = ceil(len(present) / max(1, (height - LEGEND_GAP) // (size + 8)))
    needed = columns * _legend_column([names[k] for k in present], size) + LEGEND_GAP
    panel = legend(names, palette, present, min(width, needed), size)[:height]
    picture = picture.copy()
    picture[height - len(panel) :, : panel.shape[1]] = panel
    return picture


def comparison(
    image: np.ndarray,
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    names: Sequence[str],
    palette: Sequence[Color],
) -> Picture:
    """Draw image (H, W, C), truth (H, W) and prediction (H, W) side by side, with a legend of the classes present."""
    present = np.union1d(truth, prediction)
    image, truth, prediction = (fit_height(array) for array in (as_rgb(image), truth, prediction))
    panels = {
        "image": image,
        "truth": overlay(image, truth, palette),
        "prediction": overlay(image, prediction, palette),
    }
    height, width = truth.shape
    # Readable in TensorBoard, which shows it about 350 pixels wide.
    size, gap = max(16, width // 16), 6
    top = size + 10
    picture, draw = canvas(top + height, 3 * width + 2 * gap)
    for k, (title, panel) in enumerate(panels.items()):
        draw.text((k * (width + gap) + width // 2, top // 2), title, fill=INK, font=font(size), anchor="mm")
        picture.paste(Image.fromarray(panel), (k * (width + gap), top))
    return np.vstack([np.asarray(picture), legend(names, palette, present.tolist(), picture.width, size)])


def fit_height(array: NDArray[np.uint8], smallest: int = 256, largest: int = 512) -> NDArray[np.uint8]:
    """Enlarge small pictures, so that titles fit, and shrink large ones, which would make event files huge."""
    height, width = array.shape[:2]
    if height < smallest:
        factor = ceil(smallest / height)
        return array.repeat(factor, axis=0).repeat(factor, axis=1)
    if height > largest:
        filter_ = Image.Resampling.BOX if array.ndim == 3 else Image.Resampling.NEAREST
        return np.asarray(Image.fromarray(array).resize((round(width * largest / height), largest), filter_))
    return array


def confusion_picture(matrix: NDArray[np.int64], names: Sequence[str]) -> Picture:
    """Draw a confusion matrix (C, C), rows = truth, as percent of each row's pixels; rows without pixels are grey."""
    count = len(names)
    numbered = count <= NUMBERED_CLASSES
    cell, size = (max(40, 240 // count), 14) if numbered else (12, 10)
    pixels = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(pixels, 1)
    # White to dark blue, steep near 0, where most confusions are.
    blues = color_ramp(shares, [0, 0.1, 0.5, 1], ((250, 252, 255), (189, 215, 238), (91, 155, 213), (8, 48, 107)))
    colors = np.where(pixels[..., None] > 0, blues, np.uint8(VOID[0]))
    grid = colors.repeat(cell, axis=0).repeat(cell, axis=1)

    grid[::cell] = grid[:, ::cell] = PAPER
    title, margin = "rows: truth, columns: prediction, % of the truth's pixels", 8
    label = max(_text_width(name, size) for name in names) + 2 * margin
    top = 28
    side = count * cell
    width = max(label + side + margin, _text_width(title, 14) + 2 * margin)
    image, draw = canvas(top + label + side + margin, width)
    image.paste(Image.fromarray(grid), (label, top + label))
    draw.text((margin, top // 2), title, fill=INK, font=font(14), anchor="lm")

    labels, draw_labels = canvas(side, label)
    for k, name in enumerate(names):
        middle = k * cell + cell // 2
        draw.text((label - margin, top + label + middle), name, fill=INK, font=font(size), anchor="rm")
        draw_labels.text((margin, middle), name, fill=INK, font=font(size), anchor="lm")
    # Column labels: drawn horizontally, then rotated to read upwards.
    image.paste(labels.transpose(Image.Transpose.ROTATE_90), (label, top))
    if numbered:
        for row, column in np.argwhere(shares >= 0.005):
            share = shares[row, column]
            centre = (label + column * cell + cell // 2, top + label + row * cell + cell // 2)
            color = PAPER if share > 0.5 else INK
            draw.text(centre, f"{100 * share:.0f}", fill=color, font=font(size), anchor="mm")
    return np.asarray(image)
