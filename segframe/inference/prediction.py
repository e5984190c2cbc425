"""Predictions of image files, and the pictures that are written of them."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from segframe.data.files import IMAGE_SUFFIXES
from segframe.data.masks import read_image
from segframe.data.palettes import Palette
from segframe.errors import UserError
from segframe.segmenter import Segmenter
from segframe.visuals import colorize, overlay


def find_images(source: Path, output: Path) -> dict[Path, Path]:
    """The image files of a folder (and its sub-folders, but `output`), or the one file; each with its outputs' name."""
    if source.is_file():
        return {source: Path(source.stem)}
    if not source.is_dir():
        raise UserError(f"input={source}: there is no such file or folder")
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    paths = [path for path in paths if not path.resolve().is_relative_to(output.resolve())]
    if not paths:
        raise UserError(f"input={source}: there is no image in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")
    names = {path: path.relative_to(source).with_suffix("") for path in paths}
    taken = Counter(names.values())
    # a.jpg and a.png: both keep their suffix.
    return {path: path.relative_to(source) if taken[name] > 1 else name for path, name in names.items()}


def predict(segmenter: Segmenter, path: Path, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """The image, uint8 RGB (H, W, 3), and its classes, uint8 (H, W); UserError where the file cannot be read."""
    image = read_image(path)
    with torch.inference_mode():
        batch = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
        classes = segmenter.outputs(batch)["main"].classes()[0]
    return image, classes.cpu().numpy()


def write(folder: Path, name: Path, image: np.ndarray, classes: np.ndarray, palette: Palette, alpha: float) -> None:
    """Writes index/<name>.png, colour/<name>.png and overlay/<name>.png."""
    pictures = {
        "index": classes,
        "colour": colorize(classes, palette),
        "overlay": overlay(image, classes, palette, alpha),
    }
    for kind, picture in pictures.items():
        path = folder / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
