"""Search for annotations below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from segframe.data.layouts import MAX_DEPTH

SAMPLE_BYTES = 1 << 16
"""Bytes at both ends of a JSON file that are searched for the keys of COCO and labelme."""
SAMPLE_FILES = 3
"""Maximum number of JSON files of a folder whose format is examined."""


def find_annotations(top: Path) -> list[str]:
    """Return the paths of COCO files and folders of labelme files below a folder, those at the top first."""
    found = sorted(_walk(top), key=lambda path: (path.count("/"), path))
    # COCO's own folder also has person_keypoints_train2017.json, of the same images.
    instances = [path for path in found if PurePosixPath(path).name.startswith("instances")]
    return instances or found


def find_json(top: Path) -> list[str]:
    """Return the paths of all JSON files below a folder, those at the top first."""
    found = [(path / name).as_posix() for path, names in _json_files(top) for name in names]
    return sorted(found, key=lambda path: (path.count("/"), path))


def _json_files(top: Path) -> Iterator[tuple[Path, list[str]]]:
    for folder, inner, files in os.walk(top, followlinks=True):
        path = Path(folder).relative_to(top)
        inner[:] = sorted(name for name in inner if not name.startswith(".")) * (len(path.parts) < MAX_DEPTH)
        yield path, sorted(name for name in files if name.endswith(".json") and not name.startswith("."))


def _walk(top: Path) -> Iterator[str]:
    for path, names in _json_files(top):
        is_labelme = False
        for name in names[:SAMPLE_FILES] + [name for name in names[SAMPLE_FILES:] if "coco" in name or "inst" in name]:
            kind = sniff(top / path / name)
            if kind == "coco":
                yield (path / name).as_posix()
            is_labelme |= kind == "labelme"
        if is_labelme:
            yield path.as_posix()


def sniff(path: Path) -> str | None:
    """Return "coco" or "labelme" for such a JSON file, without reading all of it."""
    if not path.is_file():
        return None
    with path.open("rb") as opened:
        sample = opened.read(SAMPLE_BYTES)
        opened.seek(max(opened.tell(), path.stat().st_size - SAMPLE_BYTES))
        sample += opened.read()
    if all(word in sample for word in (b'"category_id"', b'"segmentation"', b'"image_id"')):
        return "coco"
    return "labelme" if all(word in sample for word in (b'"shapes"', b'"imagePath"')) else None
