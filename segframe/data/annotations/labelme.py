"""labelme's JSON files as masks, one for each image; AnyLabeling and X-AnyLabeling write them too."""

import base64
import binascii
import io
import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segframe.data.annotations.problems import (
    DEGENERATE,
    DRAWN,
    NO_ANNOTATION,
    NO_CLASS_OF,
    NO_IMAGE_OF,
    OUTSIDE,
    UNKNOWN_SHAPE,
)
from segframe.data.annotations.regions import MAX_COORDINATE, Region, check_size, paint, reaches_outside
from segframe.data.annotations.source import Annotations
from segframe.data.class_files import read_class_file
from segframe.data.file_listing import IMAGE_SUFFIXES, Files, Sample, check_file, list_files, report_problem
from segframe.data.image_io import read_header
from segframe.data.layouts import SPLIT, log_once, split_paths
from segframe.errors import UserError

MAX_BYTES = 1 << 31
"""Maximum size of a file, which may contain the image."""
LINE_WIDTH, POINT_RADIUS = 10, 5
"""Width of lines and radius of points in pixels, as in labelme's own export."""
LABEL_FILES = ("labels.txt", "../labels.txt")


class Labelme(Annotations):
    """The JSON files of a folder; the images are those with one, anywhere below the root.

    Polygons, rectangles, circles, lines and points are filled as labelme fills them; masks are taken as they are.
    """

    exists = staticmethod(os.path.isdir)

    @property
    def pattern(self) -> str:
        inner = f"{self.path}/{SPLIT}"
        return inner if SPLIT not in self.path and split_paths(self.root / inner) else self.path

    @cached_property
    def _json_files(self) -> Files:
        return list_files(self.place, (".json",), f"data.dataset.annotations={self.path} is the folder of JSON files")

    @cached_property
    def categories(self) -> list[str]:
        """The labels of labelme's labels.txt, or else all labels of all splits, sorted."""
        folders = split_paths(self.root / (self.pattern if self.by_split else self.path)).values()
        for path in (top / name for top in (*folders, self.root) for name in LABEL_FILES):
            if path.is_file() and path.resolve().is_relative_to(self.root.resolve()):
                return read_class_file(path).names
        labels: set[str] = set()
        for folder in folders:
            for path in list_files(folder, (".json",), "").values():
                with suppress(UserError):  # another program's file; one with an image is refused when it is read
                    labels.update(_label(shape) for shape in _read(path)["shapes"])
        log_once(f"classes are the labels found: {', '.join(sorted(labels))}; data.dataset.classes=[...] sets them")
        return sorted(labels)

    def check_names(self) -> None:
        """Nothing is checked: to know the labels, all files must be read."""

    @cached_property
    def files(self) -> tuple[Files, Files]:
        found = {}
        for name, path in self._json_files.items():
            image = self.image_files.find(name, path.parent)
            if image is None:
                image = self.image_files.find(_image_path(path), path.parent)
            if image:
                found[name] = image
        if not found:
            raise UserError(
                f"{self.place} holds {len(self._json_files)} JSON files, and no image of their names is below "
                f"{self.image_files.top}: set data.dataset.images to their folder"
            )
        return found, self._json_files

    def names(self) -> list[str]:
        """Return the names of the images that have annotations; others are reported."""
        images, annotations = self.files
        report_problem(NO_IMAGE_OF, (path for name, path in annotations.items() if name not in images))
        folders, used = {path.parent for path in images.values()}, {*images.values()}
        others = [
            path
            for folder in sorted(folders)
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in IMAGE_SUFFIXES and path not in used
        ]
        if others and not report_problem(NO_ANNOTATION, others):
            log_once(f"{len(others)} images have no annotations and are left out, as {others[0]}")
        return [*images]

    def read(self, sample: Sample) -> np.ndarray:
        """Return the mask of an image, uint8 (H, W), void = 255."""
        path = sample.mask
        content = _read(path)
        height, width = (content.get(name) for name in ("imageHeight", "imageWidth"))
        if not isinstance(height, int) or not isinstance(width, int):
            height, width = read_header(sample.image).upright_size
        size = check_size(str(path), height, width)
        return paint(size, self._regions(content["shapes"], size, path), self.unlabelled)

    def _regions(self, shapes: list[Any], size: tuple[int, int], path: Path) -> Iterator[Region]:
        for shape in shapes:
            label = _label(shape)
            value = self.value(label)
            if value is None:
                report_problem(NO_CLASS_OF, [f"{path}: {label}"])
            try:
                region = _fill(shape, size, self.unlabelled if value is None else value, path)
            except (ValueError, TypeError, KeyError, AttributeError, binascii.Error, OSError) as error:
                raise UserError(f"{path}: a shape of {label!r} cannot be read ({error}); draw it again") from None
            if region is None or not region.inside.any():
                report_problem(DEGENERATE, [path])
            else:
                yield region


def _read(path: Path) -> dict[str, Any]:
    check_file(path, "labelme file", MAX_BYTES)
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}; was it written completely?") from None
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) and "label" in shape for shape in shapes):
        raise UserError(f"{path} is no labelme file, it has no shapes with labels: move it to another folder")
    return content


def _image_path(path: Path) -> str:
    try:
        return str(_read(path).get("imagePath") or "")
    except UserError:  # another program's file
        return ""


def _label(shape: dict[str, Any]) -> str:
    return str(shape["label"]).strip()


def _fill(shape: dict[str, Any], size: tuple[int, int], value: int, path: Path) -> Region | None:
    """Return the pixels of a shape within the image; None if it has none."""
    kind = shape.get("shape_type") or "polygon"  # versions before 3.9 have polygons only
    points = np.array(shape["points"], np.float64).reshape(-1, 2)
    if not np.isfinite(points).all() or not len(points):
        return None
    points = points.clip(-MAX_COORDINATE, MAX_COORDINATE)
    reach: float = LINE_WIDTH if kind in ("line", "linestrip", "point") else 1
    if kind == "circle":
        reach += math.dist(points[0], points[-1])
    corners = points[:1] if kind == "circle" else points
    if reaches_outside(corners, size):
        report_problem(OUTSIDE, [path])
    # Only the rectangle around the shape is filled.
    left, top = np.floor(np.maximum(corners.min(axis=0) - reach, 0)).astype(int).tolist()
    limit = np.array(size[::-1])
    right, bottom = np.ceil(np.minimum(corners.max(axis=0) + reach + 1, limit)).astype(int).tolist()
    if right <= left or bottom <= top:
        return None
    if kind == "mask":
        return Region(value, top, left, _paste(shape["mask"], points, (top, left), (bottom - top, right - left)))
    canvas = Image.new("L", (right - left, bottom - top))
    if not _draw(ImageDraw.Draw(canvas), kind, [(x, y) for x, y in (points - (left, top)).tolist()], path):
        return None
    return Region(value, top, left, np.array(canvas) > 0)


def _draw(draw: ImageDraw.ImageDraw, kind: str, points: list[tuple[float, float]], path: Path) -> bool:
    # As labelme's shape_to_mask; X-AnyLabeling gives a rectangle four corners.
    if kind in ("line", "linestrip") and len(points) > 1:
        report_problem(DRAWN, [path])
        draw.line(points, fill=1, width=LINE_WIDTH)
    elif kind == "point":
        report_problem(DRAWN, [path])
        draw.ellipse(_around(points[0], POINT_RADIUS), outline=1, fill=1)
    elif kind == "circle" and len(points) == 2:
        draw.ellipse(_around(points[0], math.dist(*points)), outline=1, fill=1)
    elif kind == "rectangle" and len(points) in (2, 4):
        xs, ys = zip(*points, strict=True)
        draw.rectangle((min(xs), min(ys), max(xs), max(ys)), outline=1, fill=1)
    elif kind in ("polygon", "rotation", "oriented_rectangle", "quadrilateral"):
        if len(points) < 3:
            return False
        draw.polygon(points, outline=1, fill=1)
    elif kind not in ("line", "linestrip", "circle", "rectangle"):
        report_problem(UNKNOWN_SHAPE, [f"{path}: {kind}"])
        return False
    else:
        return False
    return True


def _around(centre: tuple[float, float], radius: float) -> tuple[float, float, float, float]:
    x, y = centre
    return x - radius, y - radius, x + radius, y + radius


def _paste(encoded: str, points: np.ndarray, origin: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return a shape's own mask, a PNG from its upper left point on, within a rectangle of the image."""
    inside = np.zeros(size, bool)
    with Image.open(io.BytesIO(base64.b64decode(encoded)), formats=["PNG"]) as opened:
        if opened.width * opened.height > 4 * (inside.size + opened.width + opened.height):
            raise ValueError("its mask is larger than its rectangle")
        mask = np.array(opened.convert("L")) > 0
    left, top = np.rint(points.min(axis=0)).astype(int).tolist()
    top, left = top - origin[0], left - origin[1]
    rows, columns = slice(max(top, 0), top + len(mask)), slice(max(left, 0), left + mask.shape[1])
    view = inside[rows, columns]
    view[:] = mask[rows.start - top :, columns.start - left :][: view.shape[0], : view.shape[1]]
    return inside
