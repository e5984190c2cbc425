"""COCO's instance annotations (Lin et al., 2014): one JSON file with the polygons or run lengths of many images."""

import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segframe.data.annotations import rle
from segframe.data.annotations.regions import MAX_COORDINATE
from segframe.data.file_listing import check_file
from segframe.errors import UserError

MAX_BYTES = 1 << 33
"""Maximum size of a file; COCO's largest has 0.45 GB."""

HUNDREDTHS, NUMBERS, RUNS, NOTHING = range(4)
"""Storage of a part: a polygon as uint16 of 0.01 pixels or as float64, a run-length encoding, or none of these."""


class _Image(NamedTuple):
    number: Any
    file_name: str
    height: int
    width: int


class _Annotation(NamedTuple):
    image: Any
    category: Any
    parts: list[tuple[int, bytes]]


class CocoFile:
    """Images, categories and annotations of a file, without Python objects per annotation.

    COCO's train2017 (118,287 images, 860,001 annotations) takes 0.15 GB, which forked workers share.
    """

    def __init__(self, path: Path) -> None:
        """UserError if the file cannot be read."""
        content = _load(path)
        try:
            categories = [(found["id"], str(found["name"])) for found in content["categories"]]
            images = content["images"]
            self.image_names = [image.file_name for image in images]
            ids = {image.number: k for k, image in enumerate(images)}
            sizes = [(image.height, image.width) for image in images]
            annotations = content["annotations"]
            used = {annotation.category for annotation in annotations}
            self.categories = _without_groups(sorted(categories), used, content["categories"])
            by_image: list[list[_Annotation]] = [[] for _ in images]
            self.num_without_image = 0
            for annotation in annotations:
                if (k := ids.get(annotation.image)) is None:
                    self.num_without_image += 1
                else:
                    by_image[k].append(annotation)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path} is no COCO file of instances ({type(error).__name__}: {error}): it needs images (id, "
                "file_name), categories (id, name) and annotations (image_id, category_id, segmentation)"
            ) from None
        if len(ids) < len(images):
            raise UserError(f"{path} gives an id to several images: give each an id of its own")
        annotations = [found for of_image in by_image for found in of_image]
        if annotations and not any(found.parts for found in annotations):
            raise UserError(
                f"{path}: its annotations are boxes or points without outlines; export it for instance segmentation, "
                "with polygons or masks"
            )
        self.sizes = np.array(sizes, np.int64).reshape(-1, 2)
        """Height and width of each image, 0 if they are not given."""
        self._store(annotations, [len(found) for found in by_image])

    def _store(self, annotations: list[_Annotation], counts: list[int]) -> None:
        # The parts of all annotations in the order of the images.
        position = {found: k for k, (found, _) in enumerate(self.categories)}
        parts = [part for annotation in annotations for part in annotation.parts]
        self.first_of_image = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.first_part = np.concatenate([[0], np.cumsum([len(found.parts) for found in annotations], dtype=np.int64)])
        self.category = np.array([position.get(found.category, -1) for found in annotations], np.int32)
        self.kind = np.array([kind for kind, _ in parts], np.uint8)
        self.start = np.concatenate([[0], np.cumsum([len(content) for _, content in parts], dtype=np.int64)])
        self.content = b"".join(content for _, content in parts)

    def annotations(self, image: int) -> Iterator[tuple[int, list[tuple[int, bytes]]]]:
        """Yield the position in `categories` (-1: none) and the parts, (kind, content), of each annotation."""
        for k in range(self.first_of_image[image], self.first_of_image[image + 1]):
            first, last = self.first_part[k], self.first_part[k + 1]
            borders = pairwise(self.start[first : last + 1].tolist())
            parts = zip(self.kind[first:last].tolist(), borders, strict=True)
            yield int(self.category[k]), [(kind, self.content[start:end]) for kind, (start, end) in parts]


@lru_cache(maxsize=4)
def open_coco(path: Path, stamp: tuple[int, int]) -> CocoFile:
    """Read a file; it is read once for all splits while its `stamp`, size and time of modification, is the same."""
    return CocoFile(path)


def points(kind: int, content: bytes) -> np.ndarray:
    """Return the points of a stored polygon, float64 (N, 2) of x, y."""
    if kind == HUNDREDTHS:
        return (np.frombuffer(content, np.uint16) / 100).reshape(-1, 2)
    return np.frombuffer(content, np.float64).reshape(-1, 2)


def _load(path: Path) -> dict[str, Any]:
    check_file(path, "COCO file", MAX_BYTES)
    try:
        content = json.loads(path.read_text("utf-8-sig"), object_hook=_compact)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}; was it written completely?") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no COCO file of instances: it holds no object")
    return content


def _compact(found: dict[str, Any]) -> Any:
    # Called for every object as soon as it is parsed: all numbers as Python objects would take six times the file.
    if "image_id" in found and "category_id" in found:
        return _Annotation(found["image_id"], found["category_id"], _parts(found.get("segmentation")))
    if "file_name" in found and "id" in found:
        height, width = (int(found.get(name) or 0) for name in ("height", "width"))
        return _Image(found["id"], str(found["file_name"]), height, width)
    return found


def _parts(segmentation: Any) -> list[tuple[int, bytes]]:
    if isinstance(segmentation, dict):
        return [_run_lengths(segmentation)]
    if not isinstance(segmentation, list) or not segmentation:
        return []
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    return [_polygon(polygon) for polygon in polygons]


def _polygon(polygon: Any) -> tuple[int, bytes]:
    try:
        numbers = np.array(polygon, np.float64).ravel()  # some write [[x, y], ...]
    except (ValueError, TypeError):
        return NOTHING, b""
    if len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
        return NOTHING, b""
    numbers = numbers.clip(-MAX_COORDINATE, MAX_COORDINATE)
    hundredths = np.rint(100 * numbers)
    if hundredths.min() >= 0 and hundredths.max() < 1 << 16 and (hundredths / 100 == numbers).all():
        return HUNDREDTHS, hundredths.astype(np.uint16).tobytes()
    return NUMBERS, numbers.tobytes()


def _run_lengths(segmentation: dict[str, Any]) -> tuple[int, bytes]:
    try:
        height, width = map(int, segmentation["size"])
        counts = segmentation["counts"]
        encoded = rle.compress(counts, height, width) if isinstance(counts, list) else counts.encode("ascii")
        return RUNS, np.array([height, width], np.int64).tobytes() + encoded
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return NOTHING, b""


def _without_groups(
    categories: list[tuple[Any, str]], used: set[Any], found: list[dict[str, Any]]
) -> list[tuple[Any, str]]:
    # Roboflow writes the name of the project as a category, of which the others are, and no annotation.
    groups = {category.get("supercategory") for category in found}
    tops = {category["id"] for category in found if category.get("supercategory") == "none"}
    return [(number, name) for number, name in categories if number in used or number not in tops or name not in groups]
