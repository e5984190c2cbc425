"""Input files of prediction: an image or a video, a folder of them, or a glob pattern."""

import glob
import os
from collections import Counter
from itertools import takewhile
from pathlib import Path

from segframe.data.file_listing import IMAGE_SUFFIXES, warn_of_unread
from segframe.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_inputs(source: Path, output: Path) -> dict[Path, Path]:
    """Return the one file, or the images and videos below a folder or of a pattern, with their outputs' names.

    Those in `output` are left out. Folders that match a pattern are read as folders.
    """
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    if source.is_file():
        if source.suffix.lower() not in suffixes:
            raise UserError(f"input={source}: no image and no video by its suffix ({', '.join(suffixes)})")
        return {source: Path(source.stem)}
    top, matches, none = source, [source], "there is no image and no video in this folder"
    if _is_pattern(str(source)) and not source.is_dir():
        top = Path(*takewhile(lambda part: not _is_pattern(part), source.parts))
        matches = [Path(match) for match in glob.iglob(str(source), recursive=True)]
        none = "no image and no video matches this pattern"
    elif not source.is_dir():
        raise UserError(f"input={source}: no such file or folder")
    if top.resolve().is_relative_to(output.resolve()):
        raise UserError(
            f"input={source} lies within output={output}, where the predictions are written; choose another output, "
            "which may lie within input"
        )
    files = {file for match in matches for file in ([match] if not match.is_dir() else match.rglob("*"))}
    paths = sorted(path for path in files if path.suffix.lower() in suffixes and not path.is_dir())
    warn_of_unread(files, source, suffixes)
    excluded = os.path.realpath(output)
    paths = [path for path in paths if not Path(os.path.realpath(path)).is_relative_to(excluded)]
    if not paths:
        raise UserError(f"input={source}: {none} ({', '.join(sorted(suffixes))})")
    return output_names(paths, top)


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def output_names(paths: list[Path], top: Path) -> dict[Path, Path]:
    """Return each path relative to `top`, without its suffix unless another file would get the same name."""
    names = {path: path.relative_to(top).with_suffix("") for path in paths}
    # a.jpg and a.png keep their suffixes; then so does a.jpg.png, which would be named a.jpg too.
    while shared := {name for name, count in Counter(names.values()).items() if count > 1}:
        names = {path: path.relative_to(top) if name in shared else name for path, name in names.items()}
    return names
